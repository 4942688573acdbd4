//! What a client sent to prove who it is (RFC 9110 11.6.2, RFC 7617, RFC 6750 2.1).

use data_encoding::BASE64;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use secrecy::{ExposeSecret as _, SecretString};

/// Longest account name in bytes.
const USER_BYTES_MAX: usize = 255;

/// Longest `Authorization` value in bytes.
const AUTHORIZATION_BYTES_MAX: usize = 16 * 1024;

/// The credentials of a request.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// None.
    None,
    /// User and password.
    Basic {
        /// The account name as it was sent.
        user: String,
        /// The password.
        password: SecretString,
    },
    /// A bearer token.
    Bearer(SecretString),
}

/// A client's name and password.
#[derive(Clone, Copy)]
pub struct LoginPair<'a> {
    /// The account name as it was sent.
    pub user: &'a str,
    /// The password.
    pub password: &'a SecretString,
}

/// Why the credentials cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// More than one `Authorization` header.
    #[error("more than one Authorization header")]
    Several,
    /// Neither Basic nor Bearer, or broken.
    #[error("the Authorization header is neither Basic nor Bearer, or cannot be decoded")]
    Malformed,
}

impl Credentials {
    /// Reads the `Authorization` header.
    ///
    /// # Errors
    /// [`CredentialsError`] when there are several or it cannot be decoded.
    pub fn from_headers(headers: &HeaderMap) -> Result<Self, CredentialsError> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = values.next() else { return Ok(Self::None) };
        if values.next().is_some() {
            return Err(CredentialsError::Several);
        }
        let value = str::from_utf8(value.as_bytes()).map_err(|_| CredentialsError::Malformed)?;
        if value.len() > AUTHORIZATION_BYTES_MAX {
            return Err(CredentialsError::Malformed);
        }
        let (scheme, rest) = value.split_once(' ').ok_or(CredentialsError::Malformed)?;
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") && !rest.is_empty() {
            return Ok(Self::Bearer(SecretString::from(rest)));
        }
        if scheme.eq_ignore_ascii_case("basic") {
            return parse_basic(rest).ok_or(CredentialsError::Malformed);
        }
        Err(CredentialsError::Malformed)
    }
}

/// Whether an account can have this name and this password at all: both are there, neither holds a
/// control character (RFC 7617 2) or what is no UTF-8. No provider needs to be asked about any other: it
/// is wrong. An empty password is none: a directory takes it for a client that does not log in.
#[must_use]
pub fn can_be_an_account(user: &str, password: &SecretString) -> bool {
    let is_text = |text: &str| {
        !text.is_empty() && !text.chars().any(|c| c.is_control() || c == char::REPLACEMENT_CHARACTER)
    };
    user.len() <= USER_BYTES_MAX && !user.contains(':') && is_text(user) && is_text(password.expose_secret())
}

fn parse_basic(encoded: &str) -> Option<Credentials> {
    let decoded = BASE64.decode(encoded.as_bytes()).ok()?;
    // What is no UTF-8 is marked, and is no user's name or password.
    let text = String::from_utf8_lossy(&decoded);
    let (user, password) = text.split_once(':')?;
    // Registry clients send an empty pair for "anonymous".
    if user.is_empty() && password.is_empty() {
        return Some(Credentials::None);
    }
    Some(Credentials::Basic { user: user.to_owned(), password: SecretString::from(password) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&str]) -> Result<String, CredentialsError> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, value.parse().expect("a header value"));
        }
        Credentials::from_headers(&headers).map(|credentials| match credentials {
            Credentials::None => "none".to_owned(),
            Credentials::Basic { user, password } => format!("{user} {}", password.expose_secret()),
            Credentials::Bearer(token) => token.expose_secret().to_owned(),
        })
    }

    #[test]
    fn one_header_of_a_known_scheme_is_read() {
        for (values, expected) in [
            (&[][..], Ok("none")),
            (&["Basic YTpiOmM="][..], Ok("a b:c")),
            (&["basic YTo="][..], Ok("a ")),
            (&["Basic Og=="][..], Ok("none")),
            (&["BEARER x.y.z"][..], Ok("x.y.z")),
            (&["Basic YTpi", "Bearer x"][..], Err(CredentialsError::Several)),
            (&["Basic !!"][..], Err(CredentialsError::Malformed)),
            (&["Basic YQ=="][..], Err(CredentialsError::Malformed)),
            (&["Bearer "][..], Err(CredentialsError::Malformed)),
            (&["Digest x"][..], Err(CredentialsError::Malformed)),
            (&["Basic"][..], Err(CredentialsError::Malformed)),
        ] {
            assert_eq!(read(values), expected.map(str::to_owned), "{values:?}");
        }
    }

    #[test]
    fn what_no_account_can_have_is_told_apart_from_what_is_wrong() {
        let long = "a".repeat(256);
        for (user, password, expected) in [
            ("alice", "secret", true),
            ("robot$team+ci", "p:w with spaces", true),
            ("ÄÖÜ", "pässword", true),
            (&long[1..], "x", true),
            (&long, "x", false),
            ("", "x", false),
            ("alice", "", false),
            ("a:b", "x", false),
            ("al\0ice", "x", false),
            ("alice\r\n", "x", false),
            ("alice", "pass\0word", false),
            ("alice", "pass\u{7f}", false),
            ("al\u{fffd}ce", "x", false),
            ("alice", "p\u{fffd}", false),
        ] {
            assert_eq!(
                can_be_an_account(user, &SecretString::from(password)),
                expected,
                "{user:?} {password:?}"
            );
        }
        assert_eq!(read(&["Basic YfxpY2U6cPw="]).as_deref(), Ok("a\u{fffd}ice p\u{fffd}"), "Latin-1");
    }

    #[test]
    fn no_debug_text_shows_a_password_or_a_token() {
        for header in ["Basic YWxpY2U6aHVudGVyMg==", "Bearer hunter2.hunter2.hunter2"] {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, header.parse().expect("a value"));
            let text = format!("{:?}", Credentials::from_headers(&headers).expect("credentials"));
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
}
