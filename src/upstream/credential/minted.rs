//! Tokens that the gateway mints for one member, and the keys that the member is known to accept.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use http::HeaderValue;
use moka::future::Cache;

use super::asking::{Asking, MemberAccess};
use crate::auth::keys::{Algorithm, KeyError, Ring, SigningKey};
use crate::auth::subject::Subject;
use crate::auth::token::{MemberTokens, Validity};
use crate::registry::ResourceAccess;
use crate::upstream::settings::MemberTokenSettings;

/// Harbor from 2.15 refuses a token made more than 60 s before the project that it is for. A token
/// is dated back by this much, for nodes whose clock is behind, ...
const HARBOR_BACKDATE: u64 = 30;
/// ... and a request whose body can be sent only once gets none older than this, so that together
/// they stay below 60 s. Any other request is simply repeated with a new token.
const HARBOR_SURE_AGE: u64 = 20;

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
    /// Whether the member is a Harbor node.
    for_harbor: bool,
    cache: Cache<CacheKey, Minted>,
}

#[derive(Debug, Clone)]
struct Minted {
    header: HeaderValue,
    at: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct CacheKey {
    subject: Subject,
    access: MemberAccess,
    key: Arc<str>,
}

impl TokenCredential {
    pub(super) fn new(
        settings: &MemberTokenSettings,
        keys: MemberKeys,
        entries_max: u64,
        for_harbor: bool,
    ) -> Self {
        let tokens = MemberTokens {
            issuer: settings.issuer.clone(),
            audience: settings.audience.clone(),
            kid: settings.kid,
            x5c: settings.x5c,
        };
        let cache = Cache::builder().max_capacity(entries_max).time_to_live(settings.lifetime / 2).build();
        let proven = ArcSwapOption::empty();
        Self { tokens, lifetime: settings.lifetime, keys, proven, for_harbor, cache }
    }

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

    /// The same as [`Self::probe_authorization`], signed where it is called: for commands.
    ///
    /// # Errors
    /// [`KeyError`] when it cannot be minted.
    pub fn authorization_here(
        &self,
        key: &SigningKey,
        access: &MemberAccess,
        now: u64,
    ) -> Result<HeaderValue, KeyError> {
        bearer(&self.unsigned(&probe_subject()?, access, now).sign(key)?)
    }

    /// The `Authorization` of a probe under `key`, signed off the worker where that takes long.
    ///
    /// # Errors
    /// [`KeyError`] when it cannot be minted.
    pub async fn probe_authorization(
        &self,
        key: &Arc<SigningKey>,
        access: &MemberAccess,
        now: u64,
    ) -> Result<HeaderValue, KeyError> {
        bearer(&self.unsigned(&probe_subject()?, access, now).sign_apart(Arc::clone(key)).await?)
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

    fn cache_key(&self, asking: Asking<'_>, key: &SigningKey) -> CacheKey {
        let access = if self.for_harbor { asking.access.project_wide() } else { asking.access.clone() };
        CacheKey { subject: asking.subject.clone(), access, key: key.thumbprint_shared() }
    }

    /// The token for a request, from memory where there is one that will do.
    pub(in crate::upstream) async fn authorization(
        &self,
        asking: Asking<'_>,
        now: u64,
    ) -> Result<HeaderValue, KeyError> {
        let key = self.signing_key(now).ok_or(KeyError::Unsupported)?;
        let cache_key = self.cache_key(asking, &key);
        if let Some(known) = self.cache.get(&cache_key).await {
            let age = now.saturating_sub(known.at);
            if !(self.for_harbor && asking.streams && age > HARBOR_SURE_AGE) {
                return Ok(known.header);
            }
            self.cache.invalidate(&cache_key).await;
        }
        // Only once for all requests that need the same token.
        let access = cache_key.access.clone();
        let minted = Box::pin(self.cache.try_get_with(cache_key, async {
            let request = self.unsigned(asking.subject, &access, now);
            let token = request.sign_apart(key).await?;
            Ok(Minted { header: bearer(&token)?, at: now })
        }));
        minted.await.map(|minted| minted.header).map_err(|error| *error)
    }

    /// Forgets the token for a request.
    pub(in crate::upstream) async fn forget(&self, asking: Asking<'_>, now: u64) {
        if let Some(key) = self.signing_key(now) {
            self.cache.invalidate(&self.cache_key(asking, &key)).await;
        }
    }

    /// A token before it is signed.
    fn unsigned(&self, subject: &Subject, access: &MemberAccess, now: u64) -> Unsigned {
        let issued_at = if self.for_harbor { now.saturating_sub(HARBOR_BACKDATE) } else { now };
        let expires_at = now.saturating_add(self.lifetime.as_secs());
        Unsigned {
            tokens: self.tokens.clone(),
            subject: subject.clone(),
            access: access.entries().cloned().collect(),
            validity: Validity { issued_at, expires_at, jti: crate::random::token_id() },
        }
    }
}

struct Unsigned {
    tokens: MemberTokens,
    subject: Subject,
    access: Vec<ResourceAccess>,
    validity: Validity,
}

impl Unsigned {
    /// RSA takes milliseconds, which a worker does not have.
    async fn sign_apart(self, key: Arc<SigningKey>) -> Result<String, KeyError> {
        match key.algorithm() {
            Algorithm::Es256 => self.sign(&key),
            Algorithm::Rs256 => {
                let signed = tokio::task::spawn_blocking(move || self.sign(&key)).await;
                signed.map_err(|_| KeyError::Crypto).and_then(std::convert::identity)
            }
        }
    }

    fn sign(self, key: &SigningKey) -> Result<String, KeyError> {
        self.tokens.mint(key, &self.subject, &self.access, self.validity)
    }
}

/// In whose name our own questions are asked.
pub(in crate::upstream) fn probe_subject() -> Result<Subject, KeyError> {
    Subject::new("tidegate", "probe").map_err(|_| KeyError::Unsupported)
}

fn bearer(token: &str) -> Result<HeaderValue, KeyError> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| KeyError::Crypto)?;
    value.set_sensitive(true);
    Ok(value)
}
