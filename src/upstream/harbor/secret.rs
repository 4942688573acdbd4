//! A client's own name and password, as a Harbor node gets them.

use std::sync::LazyLock;

use aws_lc_rs::hmac;
use data_encoding::BASE64;
use http::HeaderValue;
use secrecy::{ExposeSecret as _, SecretString};

use crate::upstream::settings::AccountSettings;

/// A client's own name and password, as it sent them.
#[derive(Debug, Clone)]
pub struct ClientSecret {
    pair: SecretString,
    /// Tells pairs apart without showing them.
    fingerprint: Fingerprint,
}

/// A keyed hash of a name and password; the key lives as long as the process.
pub type Fingerprint = [u8; 32];

static FINGERPRINT_KEY: LazyLock<hmac::Key> =
    LazyLock::new(|| hmac::Key::new(hmac::HMAC_SHA256, &rand::random::<[u8; 32]>()));

impl ClientSecret {
    /// Of a name and password; a name cannot hold a colon (RFC 7617 2).
    #[must_use]
    pub fn new(name: &str, password: &SecretString) -> Self {
        Self::of(format!("{name}:{}", password.expose_secret()))
    }

    /// From `name:password`.
    #[must_use]
    pub fn from_pair(pair: String) -> Option<Self> {
        pair.contains(':').then(|| Self::of(pair))
    }

    fn of(pair: String) -> Self {
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(hmac::sign(&FINGERPRINT_KEY, pair.as_bytes()).as_ref());
        Self { pair: SecretString::from(pair), fingerprint }
    }

    /// Equal for equal pairs, and says nothing else about them.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// `name:password`.
    #[must_use]
    pub fn pair(&self) -> &SecretString {
        &self.pair
    }

    /// The name as the client wrote it.
    #[must_use]
    pub fn name(&self) -> &str {
        self.pair.expose_secret().split_once(':').map_or("", |(name, _)| name)
    }

    /// As `Authorization`; `None` when no header can hold it.
    #[must_use]
    pub fn basic(&self) -> Option<HeaderValue> {
        let pair = BASE64.encode(self.pair.expose_secret().as_bytes());
        let mut value = HeaderValue::try_from(format!("Basic {pair}")).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

/// An account as `Authorization`; `None` when no header can hold it.
#[must_use]
pub fn basic(account: &AccountSettings) -> Option<HeaderValue> {
    ClientSecret::new(&account.user, &account.password).basic()
}
