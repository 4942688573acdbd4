//! Sealing: AES-256-GCM under per-purpose keys (HKDF-SHA256), key id in front, random nonce.
//!
//! Text form: base64url of `key id (8) | nonce (12) | ciphertext and tag`. The additional data
//! starts with the purpose, so that nothing sealed for one purpose opens for another.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{digest, hkdf};
use data_encoding::BASE64URL_NOPAD;

use super::keys::Ring;

/// Bytes of a sealing secret.
pub const SECRET_BYTES: usize = 32;
/// Bytes of a key id.
const KEY_ID_BYTES: usize = 8;

/// What is sealed. Each purpose has a key of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The pin of an upload session.
    UploadPin,
    /// A client's own name and password, inside its token.
    ClientPassword,
    /// The member that a browser stays with.
    Affinity,
}

impl Purpose {
    fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::UploadPin => b"tidegate upload pin v1",
            Self::ClientPassword => b"tidegate client password v1",
            Self::Affinity => b"tidegate affinity v1",
        }
    }
}

/// The text was not sealed by a key of the ring for this purpose and additional data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the seal is broken or of another key")]
pub struct BrokenSeal;

/// A sealing key.
pub struct SealKey {
    id: [u8; KEY_ID_BYTES],
    upload_pin: LessSafeKey,
    client_password: LessSafeKey,
    affinity: LessSafeKey,
}

impl SealKey {
    /// A key from its secret; the id follows from the secret.
    #[must_use]
    pub fn new(secret: &[u8; SECRET_BYTES]) -> Self {
        let hash = digest::digest(&digest::SHA256, &[b"tidegate seal id".as_slice(), secret].concat());
        let mut id = [0; KEY_ID_BYTES];
        id.copy_from_slice(&hash.as_ref()[..KEY_ID_BYTES]);
        Self {
            id,
            upload_pin: derive(secret, Purpose::UploadPin),
            client_password: derive(secret, Purpose::ClientPassword),
            affinity: derive(secret, Purpose::Affinity),
        }
    }

    /// The id, for people.
    #[must_use]
    pub fn id(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.id)
    }

    fn of(&self, purpose: Purpose) -> &LessSafeKey {
        match purpose {
            Purpose::UploadPin => &self.upload_pin,
            Purpose::ClientPassword => &self.client_password,
            Purpose::Affinity => &self.affinity,
        }
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealKey({})", self.id())
    }
}

fn derive(secret: &[u8; SECRET_BYTES], purpose: Purpose) -> LessSafeKey {
    let info = [purpose.as_bytes()];
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, b"tidegate").extract(secret);
    let okm = prk.expand(&info, &AES_256_GCM).expect("a 32-byte output is within HKDF's limit");
    LessSafeKey::new(UnboundKey::from(okm))
}

/// Seals `plaintext` under the active key.
#[must_use]
pub fn seal(
    ring: &Ring<SealKey>,
    purpose: Purpose,
    context: &[&[u8]],
    plaintext: &[u8],
    now: u64,
    nonce: [u8; NONCE_LEN],
) -> Option<String> {
    let key: &Arc<SealKey> = ring.active(now)?;
    let mut body = plaintext.to_vec();
    let aad = Aad::from(additional_data(purpose, context));
    key.of(purpose).seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut body).ok()?;
    Some(BASE64URL_NOPAD.encode(&[key.id.as_slice(), &nonce, &body].concat()))
}

/// Opens a sealed text.
///
/// # Errors
/// [`BrokenSeal`], whatever the reason: a caller who guesses learns nothing.
pub fn open(
    ring: &Ring<SealKey>,
    purpose: Purpose,
    context: &[&[u8]],
    sealed: &str,
    now: u64,
) -> Result<Vec<u8>, BrokenSeal> {
    let bytes = BASE64URL_NOPAD.decode(sealed.as_bytes()).map_err(|_| BrokenSeal)?;
    let (id, rest) = bytes.split_at_checked(KEY_ID_BYTES).ok_or(BrokenSeal)?;
    let (nonce, body) = rest.split_at_checked(NONCE_LEN).ok_or(BrokenSeal)?;
    let key = ring.verifying(now).find(|key| key.id == id).ok_or(BrokenSeal)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| BrokenSeal)?;
    let mut body = body.to_vec();
    let aad = Aad::from(additional_data(purpose, context));
    let length = key.of(purpose).open_in_place(nonce, aad, &mut body).map_err(|_| BrokenSeal)?.len();
    body.truncate(length);
    Ok(body)
}

/// Purpose and context, each with its length in front, so that no two contexts read the same.
fn additional_data(purpose: Purpose, context: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    for part in std::iter::once(purpose.as_bytes()).chain(context.iter().copied()) {
        out.extend_from_slice(&(part.len() as u64).to_be_bytes());
        out.extend_from_slice(part);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::keys::RingEntry;

    fn ring(secrets: &[u8]) -> Ring<SealKey> {
        let entry = |(at, byte): (usize, &u8)| RingEntry {
            key: Arc::new(SealKey::new(&[*byte; SECRET_BYTES])),
            activate_at: at as u64 * 100,
        };
        Ring::new(secrets.iter().enumerate().map(entry).collect(), 1000)
    }

    #[test]
    fn a_seal_opens_only_with_its_key_and_context_and_unchanged() {
        let one = ring(&[1]);
        let context: &[&[u8]] = &[b"hub", b"a/b"];
        let sealed = seal(&one, Purpose::UploadPin, context, b"text", 0, [7; 12]).expect("a key");
        assert_eq!(open(&one, Purpose::UploadPin, context, &sealed, 0).as_deref(), Ok(b"text".as_slice()));
        assert_eq!(open(&one, Purpose::UploadPin, &[b"hub", b"a/c"], &sealed, 0), Err(BrokenSeal));
        assert_eq!(open(&one, Purpose::UploadPin, &[b"huba", b"/b"], &sealed, 0), Err(BrokenSeal));
        assert_eq!(open(&ring(&[2]), Purpose::UploadPin, context, &sealed, 0), Err(BrokenSeal));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).expect("ASCII");
            assert_eq!(open(&one, Purpose::UploadPin, context, &changed, 0), Err(BrokenSeal), "byte {at}");
        }
        for junk in ["", "A", "AAAA", "!!", &sealed[..20]] {
            assert_eq!(open(&one, Purpose::UploadPin, context, junk, 0), Err(BrokenSeal), "{junk:?}");
        }
    }

    #[test]
    fn older_keys_open_until_their_retention_ends() {
        let sealed = seal(&ring(&[1]), Purpose::UploadPin, &[], b"x", 0, [0; 12]).expect("a key");
        let rotated = ring(&[1, 2]);
        assert!(open(&rotated, Purpose::UploadPin, &[], &sealed, 1099).is_ok());
        assert!(open(&rotated, Purpose::UploadPin, &[], &sealed, 1100).is_err());
    }
}
