//! How the gateway authenticates itself to one member.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use http::HeaderValue;
use moka::future::Cache;
use tokio::time::Instant;

use super::harbor::{ClientSecret, PasswordTurn, basic};
use super::member::Member;
use super::settings::CredentialSettings;
use crate::auth::keys::{Algorithm, KeyError, Ring, SigningKey};
use crate::auth::subject::Subject;
use crate::auth::token::{MemberTokens, Validity};
use crate::random::unix_now;
use crate::registry::{Resource, ResourceAccess};

/// Harbor from 2.15 refuses a token made more than 60 s before the project that it is for. A token
/// is dated back by this much, for nodes whose clock is behind, ...
const HARBOR_BACKDATE: u64 = 30;
/// ... and a request whose body can be sent only once gets none older than this, so that together
/// they stay below 60 s. Any other request is simply repeated with a new token.
const HARBOR_SURE_AGE: u64 = 20;

/// The access that one request needs at a member: its own, and a mount's source.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct MemberAccess {
    /// What the request does.
    pub target: Option<ResourceAccess>,
    /// What a mount reads.
    pub source: Option<ResourceAccess>,
}

impl MemberAccess {
    /// Everything at once.
    pub fn entries(&self) -> impl Iterator<Item = &ResourceAccess> {
        self.target.iter().chain(&self.source)
    }

    /// As Harbor reads it: by project alone, and of two entries of one project only the later one.
    /// So each entry gets the actions of all entries of its project.
    fn project_wide(&self) -> Self {
        let (Some(target), Some(source)) = (&self.target, &self.source) else { return self.clone() };
        if target.project().is_none() || target.project() != source.project() {
            return self.clone();
        }
        let actions = target.actions.union(source.actions);
        let with =
            |access: &ResourceAccess| Some(ResourceAccess { resource: access.resource.clone(), actions });
        Self { target: with(target), source: with(source) }
    }
}

/// A request that a credential is needed for.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// In whose name.
    pub subject: &'a Subject,
    /// The client's own name and password, where it is known.
    pub secret: Option<&'a ClientSecret>,
    /// What the request needs.
    pub access: &'a MemberAccess,
    /// Whether it has a body that can be sent only once, so that the credential has to be sure.
    pub streams: bool,
}

/// A member's credential for one request. While it lives no guess of the client's name is made at
/// the member; it is dropped when the member has judged it.
#[derive(Debug, Default)]
pub struct Authorization<'a> {
    /// The header; `None` for members without credential.
    pub header: Option<HeaderValue>,
    _turn: Option<PasswordTurn<'a>>,
}

/// Why there is no credential for a request.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CredentialError {
    /// It cannot be signed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The member needs the client's password, and the client is known without one.
    #[error("the member needs the client's own password, and {0} is not an account of Harbor")]
    NoPassword(Subject),
    /// The member takes the client's password no longer.
    #[error("the member takes the client's password no longer")]
    WrongPassword,
    /// The member does not grant this access to the client.
    #[error("the member does not grant this access to the client")]
    NotGranted,
    /// The member is well, and cannot judge the client's password now.
    #[error("the member cannot judge the client's password now: {0}")]
    NotNow(String),
    /// The member fails.
    #[error("the member gives no credential: {0}")]
    Member(String),
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
    /// Tokens that the Harbor node gives for the client's password.
    Exchange,
    /// The client's own password.
    Relay,
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

impl Credential {
    /// Builds the credential of a member. `keys` is given for [`CredentialSettings::Token`].
    ///
    /// # Errors
    /// [`KeyError`] when a token credential comes without keys.
    pub fn build(
        settings: &CredentialSettings,
        keys: Option<MemberKeys>,
        (entries_max, for_harbor): (u64, bool),
    ) -> Result<Self, KeyError> {
        match settings {
            CredentialSettings::None => Ok(Self::None),
            CredentialSettings::Exchange => Ok(Self::Exchange),
            CredentialSettings::Relay => Ok(Self::Relay),
            CredentialSettings::Basic(account) => {
                Ok(Self::Basic(basic(account).ok_or(KeyError::Unsupported)?))
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
                    for_harbor,
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

    /// Whether the credential says what it is for, so that a refusal of a good one is about the
    /// target.
    #[must_use]
    pub fn names_target(&self) -> bool {
        matches!(self, Self::Token(_) | Self::Exchange)
    }
}

impl Member {
    /// The credential of a request.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub async fn authorization(
        &self,
        asking: Asking<'_>,
        deadline: Instant,
    ) -> Result<Authorization<'_>, CredentialError> {
        let catalog =
            asking.access.target.as_ref().is_some_and(|access| access.resource == Resource::Catalog);
        match (&self.credential, &self.harbor) {
            (_, Some(node)) if catalog => node.catalog_authorization(self, asking.access, deadline).await,
            (Credential::None, _) => Ok(Authorization::default()),
            (Credential::Basic(value), _) => Ok(value.clone().into()),
            (Credential::Token(token), _) => Ok(token.authorization(asking, unix_now()).await?.into()),
            (Credential::Exchange, Some(node)) => Ok(node.exchanged(self, asking, deadline).await?.into()),
            (Credential::Relay, Some(node)) => node.relayed(self, asking, deadline).await,
            (Credential::Exchange | Credential::Relay, None) => {
                Err(CredentialError::Member("it is no Harbor node".to_owned()))
            }
        }
    }

    /// Forgets the token for this subject and access, so that the next one is new.
    pub async fn renew(&self, asking: Asking<'_>) {
        match (&self.credential, &self.harbor) {
            (Credential::Token(token), _) => token.forget(asking, unix_now()).await,
            (Credential::Exchange | Credential::Relay, Some(node)) => node.forget(asking).await,
            _ => {}
        }
    }

    /// The credential of a question of our own that reads `access`.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub(super) async fn own_authorization(
        &self,
        access: &ResourceAccess,
        deadline: Instant,
    ) -> Result<Option<HeaderValue>, String> {
        if let (Credential::Exchange | Credential::Relay, Some(node)) = (&self.credential, &self.harbor) {
            return node.account_token(self, std::slice::from_ref(access), deadline).await;
        }
        match &self.credential {
            Credential::Basic(value) => Ok(Some(value.clone())),
            Credential::Token(token) => {
                let subject = probe_subject().map_err(|error| error.to_string())?;
                let access = MemberAccess { target: Some(access.clone()), source: None };
                let asking = Asking { subject: &subject, secret: None, access: &access, streams: false };
                token.authorization(asking, unix_now()).await.map(Some).map_err(|error| error.to_string())
            }
            Credential::None | Credential::Exchange | Credential::Relay => Ok(None),
        }
    }
}

impl From<HeaderValue> for Authorization<'_> {
    fn from(header: HeaderValue) -> Self {
        Self { header: Some(header), _turn: None }
    }
}

impl<'a> Authorization<'a> {
    /// No header of ours, in the turn of a client's own password.
    #[must_use]
    pub fn of_turn(turn: PasswordTurn<'a>) -> Self {
        Self { header: None, _turn: Some(turn) }
    }

    /// A client's own password, sent in the turn of its name.
    #[must_use]
    pub fn in_turn(header: HeaderValue, turn: PasswordTurn<'a>) -> Self {
        Self { header: Some(header), _turn: Some(turn) }
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

    async fn authorization(&self, asking: Asking<'_>, now: u64) -> Result<HeaderValue, KeyError> {
        let key = self.signing_key(now).ok_or(KeyError::Unsupported)?;
        let cache_key = self.cache_key(asking, &key);
        if let Some(known) = self.cache.get(&cache_key).await {
            let age = now.saturating_sub(known.at);
            if !(self.for_harbor && asking.streams && age > HARBOR_SURE_AGE) {
                return Ok(known.header);
            }
            self.cache.invalidate(&cache_key).await;
        }
        // Only once for all who need the same token.
        let access = cache_key.access.clone();
        let minted = Box::pin(self.cache.try_get_with(cache_key, async {
            let request = self.unsigned(asking.subject, &access, now);
            let token = request.sign_apart(key).await?;
            Ok(Minted { header: bearer(&token)?, at: now })
        }));
        minted.await.map(|minted| minted.header).map_err(|error| *error)
    }

    async fn forget(&self, asking: Asking<'_>, now: u64) {
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
fn probe_subject() -> Result<Subject, KeyError> {
    Subject::new("tidegate", "probe").map_err(|_| KeyError::Unsupported)
}

fn bearer(token: &str) -> Result<HeaderValue, KeyError> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| KeyError::Crypto)?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Actions, RepositoryName};

    #[test]
    fn entries_of_one_harbor_project_get_the_actions_of_all_of_them() {
        let access = |name: &str, actions| {
            let name = RepositoryName::try_from(name).expect("a name");
            Some(ResourceAccess::repository(name, actions))
        };
        let (push, pull) = (Actions::PULL_PUSH, Actions::PULL);
        for (target, source, together) in [
            (access("team/app", push), access("team/base", pull), true),
            (access("team/app", push), access("other/base", pull), false),
            (access("app", push), access("base", pull), false),
            (access("team/app", push), None, false),
        ] {
            let given = MemberAccess { target: target.clone(), source: source.clone() };
            let wide = given.project_wide();
            let expected = if together {
                let source = source.map(|source| ResourceAccess { actions: push, ..source });
                MemberAccess { target, source }
            } else {
                given
            };
            assert_eq!(wide, expected);
        }
    }
}
