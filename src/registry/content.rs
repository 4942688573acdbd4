//! Whether bytes are what a digest says (image-spec "Digests"), computed as they go by.

use aws_lc_rs::digest::{Algorithm, Context, SHA256, SHA384, SHA512};
use data_encoding::HEXLOWER;

use super::name::Digest;

/// A digest of bytes that are still coming.
#[derive(Clone)]
pub struct ContentHash {
    algorithm: &'static str,
    context: Context,
    bytes: u64,
}

impl std::fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ContentHash({} of {} bytes)", self.algorithm, self.bytes)
    }
}

impl ContentHash {
    /// A hash with the algorithm of `digest`; `None` where that is not known here.
    #[must_use]
    pub fn like(digest: &Digest) -> Option<Self> {
        let (algorithm, kind): (_, &'static Algorithm) = match digest.algorithm() {
            "sha256" => ("sha256", &SHA256),
            "sha384" => ("sha384", &SHA384),
            "sha512" => ("sha512", &SHA512),
            _ => return None,
        };
        Some(Self { algorithm, context: Context::new(kind), bytes: 0 })
    }

    /// A hash with the algorithm that all registries know.
    #[must_use]
    pub fn sha256() -> Self {
        Self { algorithm: "sha256", context: Context::new(&SHA256), bytes: 0 }
    }

    /// Takes in the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// How many bytes have been taken in.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether it is computed as `digest` says.
    #[must_use]
    pub fn is_like(&self, digest: &Digest) -> bool {
        digest.algorithm() == self.algorithm
    }

    /// Whether the bytes so far are all that `digest` stands for.
    #[must_use]
    pub fn is(&self, digest: &Digest) -> bool {
        let Some((algorithm, encoded)) = digest.as_str().split_once(':') else { return false };
        algorithm == self.algorithm && HEXLOWER.encode(self.context.clone().finish().as_ref()) == encoded
    }

    /// The digest of the bytes so far, as it is written.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}:{}", self.algorithm, HEXLOWER.encode(self.context.clone().finish().as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_what_their_digest_says_and_nothing_else_is() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let digest = Digest::try_from(format!("sha256:{abc}").as_str()).expect("a digest");
        let mut hash = ContentHash::like(&digest).expect("a known algorithm");
        hash.update(b"a");
        assert!(!hash.is(&digest));
        hash.update(b"bc");
        assert!(hash.is(&digest) && hash.bytes() == 3 && hash.text() == digest.as_str());
        hash.update(b"d");
        assert!(!hash.is(&digest));
        let long = Digest::try_from(format!("sha512:{}", "0".repeat(128)).as_str()).expect("a digest");
        assert!(!hash.is_like(&long) && !hash.is(&long));
        assert!(ContentHash::like(&long).is_some());
    }
}
