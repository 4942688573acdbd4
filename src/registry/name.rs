//! Repository names, tags, digests and upload ids, each checked against its grammar once.
//!
//! Grammar: distribution-spec 1.1 "Pulling manifests" (`<name>`, `<reference>`) and image-spec
//! "Digests". Upper-case `host:port/` first components, which docker-registry's own expression
//! admits, are refused: two spellings of one repository would be two policies.

use std::fmt;
use std::sync::Arc;

/// Longest repository name in bytes, as docker-registry and clients limit it.
const REPOSITORY_NAME_BYTES_MAX: usize = 255;
/// Longest tag in bytes (distribution-spec 1.1).
const TAG_BYTES_MAX: usize = 128;
/// Longest digest in bytes; sha512 needs 135.
const DIGEST_BYTES_MAX: usize = 256;
/// Longest upload id in bytes; stock registries use a 36-byte UUID.
const UPLOAD_ID_BYTES_MAX: usize = 256;

/// Why a name, tag, digest or upload id was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a repository name.
    #[error("not a repository name")]
    Repository,
    /// Neither a tag nor a digest.
    #[error("not a tag")]
    Tag,
    /// Not a digest, or of the wrong length for its algorithm.
    #[error("not a digest")]
    Digest,
    /// Not an upload id.
    #[error("not an upload id")]
    UploadId,
}

macro_rules! checked_string {
    ($(#[$doc:meta])* $name:ident, $check:ident, $error:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text as it stands in a path.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<&str> for $name {
            type Error = NameError;

            fn try_from(text: &str) -> Result<Self, NameError> {
                if $check(text) { Ok(Self(Arc::from(text))) } else { Err($error) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

checked_string!(
    /// A repository name: lower-case path components, at most 255 bytes.
    RepositoryName, is_repository_name, NameError::Repository
);

impl RepositoryName {
    /// The first component where there are more: what Harbor calls the project.
    #[must_use]
    pub fn project(&self) -> Option<&str> {
        self.0.split_once('/').map(|(project, _)| project)
    }
}
checked_string!(
    /// A tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
    Tag, is_tag, NameError::Tag
);
checked_string!(
    /// A digest, `algorithm:encoded`, of the algorithms that stock registries know: sha256, sha384 and sha512 in
    /// lower-case hex of the right length. docker-registry 2.x takes any other for a tag, and answers 500.
    Digest, is_digest, NameError::Digest
);
checked_string!(
    /// The member's own name of an upload session, one path segment.
    UploadId, is_upload_id, NameError::UploadId
);

impl Digest {
    /// The part before the colon.
    #[must_use]
    pub fn algorithm(&self) -> &str {
        self.0.split_once(':').map_or("", |(algorithm, _)| algorithm)
    }
}

/// What a manifest is addressed by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reference {
    /// A name that can move.
    Tag(Tag),
    /// Content.
    Digest(Digest),
}

impl Reference {
    /// The text as it stands in a path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Tag(tag) => tag.as_str(),
            Self::Digest(digest) => digest.as_str(),
        }
    }
}

impl TryFrom<&str> for Reference {
    type Error = NameError;

    fn try_from(text: &str) -> Result<Self, NameError> {
        if text.contains(':') {
            Digest::try_from(text).map(Self::Digest)
        } else {
            Tag::try_from(text).map(Self::Tag)
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn is_lower_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn is_repository_name(text: &str) -> bool {
    text.len() <= REPOSITORY_NAME_BYTES_MAX && text.split('/').all(is_path_component)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(text: &str) -> bool {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !is_lower_alphanumeric(*first) || !is_lower_alphanumeric(*last) {
        return false;
    }
    let mut at = 0;
    while at < bytes.len() {
        if is_lower_alphanumeric(bytes[at]) {
            at += 1;
            continue;
        }
        let run = bytes[at..].iter().take_while(|byte| !is_lower_alphanumeric(**byte)).count();
        let separator = &bytes[at..at + run];
        let dashes = separator.iter().all(|byte| *byte == b'-');
        if !(separator == b"." || separator == b"_" || separator == b"__" || dashes) {
            return false;
        }
        at += run;
    }
    true
}

fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= TAG_BYTES_MAX
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

fn is_digest(text: &str) -> bool {
    let Some((algorithm, encoded)) = text.split_once(':') else { return false };
    if text.len() > DIGEST_BYTES_MAX {
        return false;
    }
    let hex = |length: usize| {
        encoded.len() == length && encoded.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'))
    };
    match algorithm {
        "sha256" => hex(64),
        "sha384" => hex(96),
        "sha512" => hex(128),
        _ => false,
    }
}

fn is_upload_id(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= UPLOAD_ID_BYTES_MAX
        && text != "."
        && text != ".."
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repository_names_follow_the_grammar() {
        let long = "a".repeat(256);
        for (text, expected) in [
            ("a", true),
            ("a/b", true),
            ("library/alpine", true),
            ("a__b", true),
            ("a---b", true),
            ("a.b/c_d", true),
            ("0", true),
            (&long[..255], true),
            (&long, false),
            ("", false),
            ("/a", false),
            ("a/", false),
            ("a//b", false),
            ("A/b", false),
            ("a___b", false),
            ("a..b", false),
            ("-a", false),
            ("a-", false),
            ("a._b", false),
            ("host:5000/a", false),
            ("a b", false),
            ("a\u{e9}", false),
            ("..", false),
            ("a/../b", false),
        ] {
            assert_eq!(RepositoryName::try_from(text).is_ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn tags_and_digests_follow_the_grammar() {
        for (text, expected) in [
            ("latest", true),
            ("_x", true),
            ("1.0-rc_1", true),
            ("", false),
            (".a", false),
            ("-a", false),
            ("a/b", false),
            (&"t".repeat(128)[..], true),
            (&"t".repeat(129)[..], false),
        ] {
            assert_eq!(Tag::try_from(text).is_ok(), expected, "{text:?}");
        }
        let hex = "0123456789abcdef".repeat(4);
        for (text, expected) in [
            (format!("sha256:{hex}"), true),
            (format!("sha256:{}", hex.to_uppercase()), false),
            (format!("sha256:{}", &hex[1..]), false),
            (format!("sha512:{hex}{hex}"), true),
            (format!("blake3:{hex}"), false),
            (format!("md5:{}", &hex[..32]), false),
            (format!("Blake:{hex}"), false),
            ("sha256:".to_owned(), false),
            (hex.clone(), false),
            ("md5:../../../../../../../../../../../../../".to_owned(), false),
        ] {
            assert_eq!(Digest::try_from(text.as_str()).is_ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn upload_ids_are_one_safe_segment() {
        for (text, expected) in
            [("b2f0-1", true), ("a=b_c.d", true), ("", false), ("..", false), ("a/b", false), ("a%b", false)]
        {
            assert_eq!(UploadId::try_from(text).is_ok(), expected, "{text:?}");
        }
    }
}
