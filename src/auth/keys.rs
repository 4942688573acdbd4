//! Signing keys: algorithms, key ids, and which key of a ring may do what at a given time. Pure.
//!
//! A key's state is never stored: it follows from the ring and the time, so that replicas which
//! share a ring agree without talking. The newest key whose `activate_at` has passed is *active*,
//! later ones are *pending* (published, they verify), earlier ones *retired* (they verify until
//! the ring's retention after their successor took over).

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use data_encoding::{BASE32_NOPAD, BASE64};
use jsonwebtoken::jwk::{Jwk, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{DecodingKey, EncodingKey};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

/// Bytes of the SPKI hash that a libtrust fingerprint keeps.
const LIBTRUST_HASH_BYTES: usize = 30;

/// What a key signs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// RSA PKCS#1 v1.5 with SHA-256.
    #[serde(rename = "RS256")]
    Rs256,
}

impl Algorithm {
    /// The name in JOSE headers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        }
    }

    /// The same in the words of the JWT library.
    #[must_use]
    pub fn jose(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::Es256 => jsonwebtoken::Algorithm::ES256,
            Self::Rs256 => jsonwebtoken::Algorithm::RS256,
        }
    }
}

/// How the `kid` of a member's tokens is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KidStyle {
    /// The libtrust fingerprint that docker-registry 2.x expects.
    Libtrust,
    /// The RFC 7638 thumbprint that docker-registry 3.x expects.
    Thumbprint,
}

/// Why a key cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not a PEM private key.
    #[error("not an unencrypted PEM private key (PKCS#8, PKCS#1 or SEC1)")]
    Pem,
    /// Neither RSA of at least 2048 bits nor EC P-256.
    #[error("only RSA keys of at least 2048 bits and EC P-256 keys can sign tokens")]
    Unsupported,
    /// The cryptographic library refused.
    #[error("the key could not be made or read")]
    Crypto,
}

enum Pair {
    Ec(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

/// A private key that signs tokens, parsed once, with its public forms.
pub struct SigningKey {
    pair: Pair,
    algorithm: Algorithm,
    thumbprint: Arc<str>,
    libtrust_id: String,
    jwk: Jwk,
    decoding: DecodingKey,
    certificate: Option<String>,
}

impl SigningKey {
    /// Makes a key and returns its PKCS#8 PEM.
    ///
    /// # Errors
    /// [`KeyError::Crypto`] when the system gives no randomness.
    pub fn generate_pem(algorithm: Algorithm) -> Result<String, KeyError> {
        let der = match algorithm {
            Algorithm::Es256 => {
                EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
                    .map_err(|_| KeyError::Crypto)?
                    .as_ref()
                    .to_vec()
            }
            Algorithm::Rs256 => {
                let pair =
                    RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).map_err(|_| KeyError::Crypto)?;
                AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).map_err(|_| KeyError::Crypto)?.as_ref().to_vec()
            }
        };
        Ok(pem("PRIVATE KEY", &der))
    }

    /// Reads a PEM private key, and the DER certificate that goes into `x5c`.
    ///
    /// # Errors
    /// [`KeyError`] when the key is of no kind that registries accept.
    pub fn from_pem(private_key: &[u8], certificate_der: Option<&[u8]>) -> Result<Self, KeyError> {
        let der = PrivateKeyDer::from_pem_slice(private_key).map_err(|_| KeyError::Pem)?;
        let pair = parse_pair(&der)?;
        let (algorithm, spki, encoding) = match &pair {
            Pair::Ec(ec) => {
                let pkcs8 = ec.to_pkcs8v1().map_err(|_| KeyError::Crypto)?;
                let spki =
                    AsDer::<PublicKeyX509Der<'_>>::as_der(ec.public_key()).map_err(|_| KeyError::Crypto)?;
                (Algorithm::Es256, spki.as_ref().to_vec(), EncodingKey::from_ec_der(pkcs8.as_ref()))
            }
            Pair::Rsa(rsa) => {
                let spki =
                    AsDer::<PublicKeyX509Der<'_>>::as_der(rsa.public_key()).map_err(|_| KeyError::Crypto)?;
                let pkcs8 = AsDer::<Pkcs8V1Der<'_>>::as_der(rsa).map_err(|_| KeyError::Crypto)?;
                let encoding = EncodingKey::from_rsa_pem(pem("PRIVATE KEY", pkcs8.as_ref()).as_bytes())
                    .map_err(|_| KeyError::Crypto)?;
                (Algorithm::Rs256, spki.as_ref().to_vec(), encoding)
            }
        };
        let mut jwk = Jwk::from_encoding_key(&encoding, algorithm.jose()).map_err(|_| KeyError::Crypto)?;
        let thumbprint = jwk.thumbprint(ThumbprintHash::SHA256).map_err(|_| KeyError::Crypto)?;
        jwk.common.key_id = Some(thumbprint.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        let decoding = DecodingKey::from_jwk(&jwk).map_err(|_| KeyError::Crypto)?;
        let libtrust_id = libtrust_fingerprint(&spki);
        let certificate = certificate_der.map(|der| BASE64.encode(der));
        let thumbprint = Arc::from(thumbprint);
        Ok(Self { pair, algorithm, thumbprint, libtrust_id, jwk, decoding, certificate })
    }

    /// What the key signs with.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The RFC 7638 SHA-256 thumbprint, base64url.
    #[must_use]
    pub fn thumbprint(&self) -> &str {
        &self.thumbprint
    }

    /// The thumbprint, shared.
    #[must_use]
    pub fn thumbprint_shared(&self) -> Arc<str> {
        Arc::clone(&self.thumbprint)
    }

    /// The `kid` in the given style.
    #[must_use]
    pub fn kid(&self, style: KidStyle) -> &str {
        match style {
            KidStyle::Libtrust => &self.libtrust_id,
            KidStyle::Thumbprint => &self.thumbprint,
        }
    }

    /// The public key for a JWKS, `kid` being the thumbprint.
    #[must_use]
    pub fn jwk(&self) -> &Jwk {
        &self.jwk
    }

    /// The public key for checking signatures.
    #[must_use]
    pub fn decoding(&self) -> &DecodingKey {
        &self.decoding
    }

    /// The certificate as it stands in `x5c`: base64 of the DER.
    #[must_use]
    pub fn certificate(&self) -> Option<&str> {
        self.certificate.as_deref()
    }

    /// Signs a JWS signing input.
    ///
    /// # Errors
    /// [`KeyError::Crypto`] when the cryptographic library fails.
    pub fn sign(&self, input: &[u8]) -> Result<Vec<u8>, KeyError> {
        match &self.pair {
            Pair::Ec(ec) => {
                let signature = ec.sign(&SystemRandom::new(), input).map_err(|_| KeyError::Crypto)?;
                Ok(signature.as_ref().to_vec())
            }
            Pair::Rsa(rsa) => {
                let mut signature = vec![0; rsa.public_modulus_len()];
                rsa.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), input, &mut signature)
                    .map_err(|_| KeyError::Crypto)?;
                Ok(signature)
            }
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({} {})", self.algorithm.as_str(), self.thumbprint)
    }
}

fn parse_pair(der: &PrivateKeyDer<'_>) -> Result<Pair, KeyError> {
    let ec = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let (ec, rsa) = match der {
        PrivateKeyDer::Pkcs8(der) => {
            let der = der.secret_pkcs8_der();
            (EcdsaKeyPair::from_pkcs8(ec, der).ok(), RsaKeyPair::from_pkcs8(der).ok())
        }
        PrivateKeyDer::Pkcs1(der) => (None, RsaKeyPair::from_der(der.secret_pkcs1_der()).ok()),
        PrivateKeyDer::Sec1(der) => {
            (EcdsaKeyPair::from_private_key_der(ec, der.secret_sec1_der()).ok(), None)
        }
        _ => (None, None),
    };
    match (ec, rsa) {
        (Some(ec), _) => Ok(Pair::Ec(ec)),
        (None, Some(rsa)) if rsa.public_modulus_len() >= 256 => Ok(Pair::Rsa(rsa)),
        _ => Err(KeyError::Unsupported),
    }
}

/// The libtrust key id: the first 30 bytes of the SPKI's SHA-256, base32, in groups of four.
fn libtrust_fingerprint(spki: &[u8]) -> String {
    let hash = digest::digest(&digest::SHA256, spki);
    let text = BASE32_NOPAD.encode(&hash.as_ref()[..LIBTRUST_HASH_BYTES]);
    let groups: Vec<&str> = (0..text.len()).step_by(4).map(|at| &text[at..at + 4]).collect();
    groups.join(":")
}

/// PEM text of a DER block.
#[must_use]
pub fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for at in (0..text.len()).step_by(64) {
        out.push_str(&text[at..text.len().min(at + 64)]);
        out.push('\n');
    }
    out.push_str("-----END ");
    out.push_str(label);
    out.push_str("-----\n");
    out
}

/// What a key may do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyState {
    /// Published and verifies; does not sign yet.
    Pending,
    /// Signs.
    Active,
    /// Verifies only.
    Retired,
    /// Of no use any more.
    Expired,
}

impl KeyState {
    /// The word for people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Retired => "retired",
            Self::Expired => "expired",
        }
    }
}

/// A key and when it may begin to sign, in seconds since the epoch.
#[derive(Debug)]
pub struct RingEntry<K> {
    /// The key.
    pub key: Arc<K>,
    /// When it may begin to sign.
    pub activate_at: u64,
}

impl<K> Clone for RingEntry<K> {
    fn clone(&self) -> Self {
        Self { key: Arc::clone(&self.key), activate_at: self.activate_at }
    }
}

/// Keys of one use, oldest first.
#[derive(Debug)]
pub struct Ring<K> {
    entries: Vec<RingEntry<K>>,
    /// Seconds that a key verifies after its successor took over.
    retention: u64,
}

impl<K> Clone for Ring<K> {
    fn clone(&self) -> Self {
        Self { entries: self.entries.clone(), retention: self.retention }
    }
}

impl<K> Ring<K> {
    /// A ring of these keys.
    #[must_use]
    pub fn new(mut entries: Vec<RingEntry<K>>, retention: u64) -> Self {
        entries.sort_by_key(|entry| entry.activate_at);
        Self { entries, retention }
    }

    /// The keys, oldest first.
    #[must_use]
    pub fn entries(&self) -> &[RingEntry<K>] {
        &self.entries
    }

    /// The key that signs at `now`: the newest whose time has come, or, where none has, the oldest.
    #[must_use]
    pub fn active(&self, now: u64) -> Option<&Arc<K>> {
        self.active_index(now).map(|at| &self.entries[at].key)
    }

    /// The state of the key at `index`.
    #[must_use]
    pub fn state(&self, index: usize, now: u64) -> KeyState {
        let active = self.active_index(now).unwrap_or(0);
        match index.cmp(&active) {
            std::cmp::Ordering::Greater => KeyState::Pending,
            std::cmp::Ordering::Equal => KeyState::Active,
            std::cmp::Ordering::Less => {
                let successor = self.entries[index + 1].activate_at;
                if now < successor.saturating_add(self.retention) {
                    KeyState::Retired
                } else {
                    KeyState::Expired
                }
            }
        }
    }

    /// The keys that verify at `now`.
    pub fn verifying(&self, now: u64) -> impl Iterator<Item = &Arc<K>> {
        let usable = move |index: &usize| self.state(*index, now) != KeyState::Expired;
        (0..self.entries.len()).filter(usable).map(|index| &self.entries[index].key)
    }

    fn active_index(&self, now: u64) -> Option<usize> {
        let started = self.entries.partition_point(|entry| entry.activate_at <= now);
        (!self.entries.is_empty()).then(|| started.saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64URL_NOPAD;

    use super::*;

    #[test]
    fn states_follow_from_the_ring_and_the_time() {
        let entries = [(0, "a"), (100, "b"), (200, "c")]
            .map(|(activate_at, name)| RingEntry { key: Arc::new(name), activate_at });
        let ring = Ring::new(entries.to_vec(), 50);
        for (now, states, verifying) in [
            (10, ["active", "pending", "pending"], "abc"),
            (100, ["retired", "active", "pending"], "abc"),
            (149, ["retired", "active", "pending"], "abc"),
            (150, ["expired", "active", "pending"], "bc"),
            (220, ["expired", "retired", "active"], "bc"),
            (250, ["expired", "expired", "active"], "c"),
        ] {
            let seen: Vec<_> = (0..3).map(|index| ring.state(index, now).as_str()).collect();
            assert_eq!(seen, states, "at {now}");
            let names: String = ring.verifying(now).map(|key| **key).collect();
            assert_eq!(names, verifying, "at {now}");
        }
    }

    #[test]
    fn a_ring_whose_keys_are_all_pending_signs_with_the_oldest() {
        let entries = vec![RingEntry { key: Arc::new("a"), activate_at: 100 }];
        assert_eq!(Ring::new(entries, 1).active(5).map(|key| **key), Some("a"));
        assert!(Ring::<&str>::new(Vec::new(), 1).active(5).is_none());
    }

    #[test]
    fn generated_keys_are_read_back_and_what_they_sign_verifies() {
        for algorithm in [Algorithm::Es256, Algorithm::Rs256] {
            let text = SigningKey::generate_pem(algorithm).expect("a key");
            let key = SigningKey::from_pem(text.as_bytes(), None).expect("readable");
            assert_eq!(key.algorithm(), algorithm);
            let again = SigningKey::from_pem(text.as_bytes(), None).expect("readable");
            assert_eq!(key.thumbprint(), again.thumbprint());
            let parts: Vec<_> = key.kid(KidStyle::Libtrust).split(':').map(str::len).collect();
            assert_eq!(parts, vec![4; 12]);
            let input = b"e30.e30";
            let signature = BASE64URL_NOPAD.encode(&key.sign(input).expect("signs"));
            let valid = jsonwebtoken::crypto::verify(&signature, input, key.decoding(), algorithm.jose());
            assert!(valid.expect("checked"), "{algorithm:?}");
        }
    }

    #[test]
    fn keys_that_registries_refuse_are_refused() {
        assert!(matches!(SigningKey::from_pem(b"nonsense", None), Err(KeyError::Pem)));
        let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("a key");
        let refused = SigningKey::from_pem(p384.serialize_pem().as_bytes(), None);
        assert!(matches!(refused, Err(KeyError::Unsupported)));
    }
}
