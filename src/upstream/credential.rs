//! How the gateway authenticates itself to one member.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use data_encoding::BASE64;
use http::HeaderValue;
use moka::sync::Cache;
use secrecy::ExposeSecret;

use super::settings::CredentialSettings;
use crate::auth::keys::{KeyError, Ring, SigningKey};
use crate::auth::subject::Subject;
use crate::auth::token::{MemberTokens, Validity};
use crate::registry::ResourceAccess;

/// The access that one request needs at a member: its own, and a mount's source.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct MemberAccess {
    /// What the request does.
    pub target: Option<ResourceAccess>,
    /// What a mount reads.
    pub source: Option<ResourceAccess>,
}

/// The credential of one member.
#[derive(Debug)]
pub enum Credential {
    /// None: a trusted network.
    None,
    /// A service account, as a ready header.
    Basic(HeaderValue),
    /// Tokens that we mint.
    Token(Box<TokenCredential>),
}

/// Where a member's signing key comes from.
#[derive(Debug)]
pub enum MemberKeys {
    /// Tidegate's own member keys.
    Ring(Arc<ArcSwap<Ring<SigningKey>>>),
    /// The key that the operator gave.
    Fixed(Arc<SigningKey>),
}

/// Mints tokens for one member and remembers them.
#[derive(Debug)]
pub struct TokenCredential {
    tokens: MemberTokens,
    lifetime: Duration,
    keys: MemberKeys,
    /// The key that the member was last seen to accept.
    proven: ArcSwapOption<SigningKey>,
    cache: Cache<CacheKey, HeaderValue>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct CacheKey {
    subject: Subject,
    access: MemberAccess,
    key: Arc<str>,
}

impl Credential {
    /// Builds the credential of a member. `keys` is given for [`CredentialSettings::Token`].
    ///
    /// # Errors
    /// [`KeyError`] when a token credential comes without keys.
    pub fn build(
        settings: &CredentialSettings,
        keys: Option<MemberKeys>,
        entries_max: u64,
    ) -> Result<Self, KeyError> {
        match settings {
            CredentialSettings::None => Ok(Self::None),
            CredentialSettings::Basic { user, password } => {
                let pair = BASE64.encode(format!("{user}:{}", password.expose_secret()).as_bytes());
                let mut value =
                    HeaderValue::try_from(format!("Basic {pair}")).map_err(|_| KeyError::Unsupported)?;
                value.set_sensitive(true);
                Ok(Self::Basic(value))
            }
            CredentialSettings::Token(token) => {
                let tokens = MemberTokens {
                    issuer: token.issuer.clone(),
                    audience: token.audience.clone(),
                    kid: token.kid,
                    x5c: token.x5c,
                };
                let cache =
                    Cache::builder().max_capacity(entries_max).time_to_live(token.lifetime / 2).build();
                Ok(Self::Token(Box::new(TokenCredential {
                    tokens,
                    lifetime: token.lifetime,
                    keys: keys.ok_or(KeyError::Unsupported)?,
                    proven: ArcSwapOption::empty(),
                    cache,
                })))
            }
        }
    }

    /// Whether there is one at all.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// Whether the member's right to judge is our own token, so that a refusal is about the target.
    #[must_use]
    pub fn is_token(&self) -> bool {
        matches!(self, Self::Token(_))
    }

    /// The `Authorization` of a request at `now` (seconds since the epoch).
    ///
    /// # Errors
    /// [`KeyError`] when a token cannot be minted.
    pub fn authorization(
        &self,
        subject: &Subject,
        access: &MemberAccess,
        now: u64,
    ) -> Result<Option<HeaderValue>, KeyError> {
        match self {
            Self::None => Ok(None),
            Self::Basic(value) => Ok(Some(value.clone())),
            Self::Token(token) => token.authorization(subject, access, now).map(Some),
        }
    }

    /// Forgets the token that was minted for this subject and access, so that the next one is new.
    pub fn renew(&self, subject: &Subject, access: &MemberAccess, now: u64) {
        if let Self::Token(token) = self
            && let Some(key) = token.signing_key(now)
        {
            token.cache.invalidate(&CacheKey::new(&key, subject, access));
        }
    }
}

impl CacheKey {
    fn new(key: &SigningKey, subject: &Subject, access: &MemberAccess) -> Self {
        Self { subject: subject.clone(), access: access.clone(), key: key.thumbprint_shared() }
    }
}

impl TokenCredential {
    /// The key that should sign now, where the member has not been seen to accept it yet.
    #[must_use]
    pub fn unproven_key(&self, now: u64) -> Option<Arc<SigningKey>> {
        let wanted = self.wanted_key(now)?;
        let proven = self.proven.load();
        let same = proven.as_ref().is_some_and(|proven| proven.thumbprint() == wanted.thumbprint());
        (!same).then_some(wanted)
    }

    /// Other keys that the member may still trust, newest first.
    #[must_use]
    pub fn older_keys(&self, now: u64) -> Vec<Arc<SigningKey>> {
        match &self.keys {
            MemberKeys::Fixed(_) => Vec::new(),
            MemberKeys::Ring(ring) => {
                let ring = ring.load();
                let mut keys: Vec<_> = ring.verifying(now).cloned().collect();
                keys.reverse();
                keys
            }
        }
    }

    /// The member accepted a token under `key`.
    pub fn set_proven(&self, key: Arc<SigningKey>) {
        self.proven.store(Some(key));
    }

    /// The `Authorization` of a probe under `key`.
    ///
    /// # Errors
    /// [`KeyError`] when it cannot be minted.
    pub fn probe_authorization(
        &self,
        key: &SigningKey,
        access: &MemberAccess,
        now: u64,
    ) -> Result<HeaderValue, KeyError> {
        let subject = Subject::new("tidegate", "probe").map_err(|_| KeyError::Unsupported)?;
        self.mint(key, &subject, access, now)
    }

    /// The key that signs for this member now: the one that it accepts.
    #[must_use]
    pub fn signing_key(&self, now: u64) -> Option<Arc<SigningKey>> {
        self.proven.load_full().or_else(|| self.wanted_key(now))
    }

    fn wanted_key(&self, now: u64) -> Option<Arc<SigningKey>> {
        match &self.keys {
            MemberKeys::Fixed(key) => Some(Arc::clone(key)),
            MemberKeys::Ring(ring) => ring.load().active(now).cloned(),
        }
    }

    fn authorization(
        &self,
        subject: &Subject,
        access: &MemberAccess,
        now: u64,
    ) -> Result<HeaderValue, KeyError> {
        let key = self.signing_key(now).ok_or(KeyError::Unsupported)?;
        let cache_key = CacheKey::new(&key, subject, access);
        if let Some(value) = self.cache.get(&cache_key) {
            return Ok(value);
        }
        let value = self.mint(&key, subject, access, now)?;
        self.cache.insert(cache_key, value.clone());
        Ok(value)
    }

    fn mint(
        &self,
        key: &SigningKey,
        subject: &Subject,
        access: &MemberAccess,
        now: u64,
    ) -> Result<HeaderValue, KeyError> {
        let access: Vec<ResourceAccess> = access.target.iter().chain(&access.source).cloned().collect();
        let expires_at = now.saturating_add(self.lifetime.as_secs());
        let validity = Validity { issued_at: now, expires_at, jti: crate::random::token_id() };
        let token = self.tokens.mint(key, subject, &access, validity)?;
        let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| KeyError::Crypto)?;
        value.set_sensitive(true);
        Ok(value)
    }
}
