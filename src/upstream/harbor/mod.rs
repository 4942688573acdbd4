//! A Harbor node: its account, its token service, its locks, its health.
//!
//! What is relied on was measured on nodes of Harbor 2.9: the `sub` of an answered token is the
//! only proof of a password; a refused password takes 1.5 s and locks its name on that node for as
//! long; a node without its database refuses everybody.

mod gate;
mod health;
mod login;
mod serve;
mod token;

use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::hmac;
use data_encoding::BASE64;
use http::HeaderValue;
use http::header::{HeaderMap, SET_COOKIE};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::Instant;

pub use gate::PasswordTurn;
pub use login::Login;
pub use token::{NodeToken, TokenAnswer};

use super::credential::{Authorization, CredentialError, MemberAccess};
use super::member::Member;
use super::question::{Question, Reply, ask};
use super::settings::{AccountSettings, HarborSettings, HarborVersion};
use crate::forwarding::readable::text;
use crate::registry::ResourceAccess;
use gate::NameGates;
use serve::Exchanged;

/// Name of the cookie of Harbor's sessions.
pub const SESSION_COOKIE: &str = "sid";

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

/// What is known of a Harbor node at run time.
#[derive(Debug)]
pub struct HarborNode {
    version: HarborVersion,
    account: HeaderValue,
    catalog_account: HeaderValue,
    names: NameGates,
    /// The session of our own questions: without one, each would leave a new one in the node's
    /// redis for an hour.
    session: Mutex<Option<HeaderValue>>,
    exchanged: Exchanged,
}

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

impl HarborNode {
    /// A node with these settings; `None` when an account cannot stand in a header.
    #[must_use]
    pub fn new(settings: &HarborSettings, entries_max: u64) -> Option<Self> {
        Some(Self {
            version: settings.version,
            account: basic(&settings.account)?,
            catalog_account: basic(&settings.catalog_account)?,
            names: NameGates::default(),
            session: Mutex::new(None),
            exchanged: Exchanged::new(entries_max),
        })
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> HarborVersion {
        self.version
    }

    /// The account that lists all repositories: by password, or where the registry of Harbor 1.x
    /// takes none, by a token.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub(super) async fn catalog_authorization(
        &self,
        member: &Member,
        access: &MemberAccess,
        deadline: Instant,
    ) -> Result<Authorization<'_>, CredentialError> {
        let account = self.catalog_account.clone();
        if self.version == HarborVersion::Two {
            return Ok(account.into());
        }
        let wanted: Vec<ResourceAccess> = access.entries().cloned().collect();
        let asked = Box::pin(self.token_of(account, member, &wanted, deadline)).await;
        asked.map_err(CredentialError::Member)?.map(Into::into).ok_or(CredentialError::NotGranted)
    }

    /// The right to send a password to the node that is known to be right: no other of that name
    /// is tried there meanwhile, and so none locks it.
    pub async fn password_turn(&self, secret: &ClientSecret) -> PasswordTurn<'_> {
        self.names.turn(secret).await
    }

    /// The right to try a password there that may be wrong, if nobody uses the name there now.
    #[must_use]
    pub fn try_password_turn(&self, secret: &ClientSecret) -> Option<PasswordTurn<'_>> {
        self.names.try_turn(secret)
    }

    /// A question of our own, in our own session. Only for GET: a session makes the node ask for
    /// a CSRF token on writes.
    pub(super) async fn ask(
        &self,
        member: &Member,
        target: &str,
        authorization: Option<HeaderValue>,
        deadline: Instant,
    ) -> Result<Reply, String> {
        let cookie = self.session.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let question = Question { cookie, ..Question::get(target, authorization) };
        let reply = ask(member, question, deadline).await?;
        if let Some(session) = session_of(&reply.headers) {
            *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
        }
        Ok(reply)
    }

    /// The account of the probes, as `Authorization`.
    pub(super) fn account(&self) -> &HeaderValue {
        &self.account
    }

    /// A token of the account of the probes; `None` when it is refused.
    ///
    /// # Errors
    /// Why there was no usable answer, in words.
    pub(super) async fn account_token(
        &self,
        member: &Member,
        wanted: &[ResourceAccess],
        deadline: Instant,
    ) -> Result<Option<HeaderValue>, String> {
        self.token_of(self.account.clone(), member, wanted, deadline).await
    }

    /// A token of one of our accounts; `None` when it is refused.
    async fn token_of(
        &self,
        account: HeaderValue,
        member: &Member,
        wanted: &[ResourceAccess],
        deadline: Instant,
    ) -> Result<Option<HeaderValue>, String> {
        let (answer, _) = self.request_token(member, Some(account), wanted, deadline).await?;
        Ok(match answer {
            TokenAnswer::Token(token) => token.subject.is_some().then_some(token.authorization),
            TokenAnswer::Refused => None,
        })
    }

    /// The components that the node needs and calls unhealthy; `None` when it does not say in time.
    pub(super) async fn unhealthy(&self, member: &Member, deadline: Instant) -> Option<Vec<&'static str>> {
        let target = format!("{}/health", self.api());
        let reply = self.ask(member, &target, None, deadline).await.ok()?;
        health::unhealthy(&reply.body)
    }

    fn api(&self) -> &'static str {
        match self.version {
            HarborVersion::One => "/api",
            HarborVersion::Two => "/api/v2.0",
        }
    }
}

/// The session that an answer starts, as `Cookie`.
fn session_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let cookies = headers.get_all(SET_COOKIE).iter().map(text);
    let pair = cookies.filter_map(|cookie| cookie.split(';').next()).find(|pair| {
        pair.split_once('=').is_some_and(|(name, value)| name == SESSION_COOKIE && !value.is_empty())
    })?;
    let mut value = HeaderValue::try_from(pair).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Harbor refuses a password after this long, and the name is locked for as long.
pub const LOCK: Duration = Duration::from_millis(1500);
