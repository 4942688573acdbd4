//! The token endpoint: parse, authenticate, grant, issue (distribution token and OAuth2 specs).
//!
//! What is asked for beyond the policy is left out, never an error; unknown scopes are ignored.
//! A refresh token is never given: clients that were given one would use nothing else.

mod request;
mod settings;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use secrecy::SecretString;
use serde::Serialize;

pub use request::{TokenParameters, TokenRequestError};
pub use settings::*;

use crate::auth::credentials::{Credentials, LoginPair, can_be_an_account};
use crate::auth::keys::KeyError;
use crate::auth::subject::Subject;
use crate::auth::token::{TokenAccess, Validity};
use crate::harbor::{Answer, HarborIdentity};
use crate::identity::{PasswordChecks, Verdict};
use crate::random::{nonce, token_id, unix_now};
use crate::registry::{Resource, ResourceAccess, parse_scopes};
use crate::snapshot::{AuthenticatedClient, Decider, Grant, Snapshot};
use crate::telemetry::Metrics;
use crate::upstream::Topology;
use crate::upstream::harbor::ClientSecret;

/// The paths of the token endpoint: Harbor's, the usual one, and distribution's `autoredirect`.
pub const TOKEN_PATHS: [&str; 3] = ["/service/token", "/token", "/auth/token"];

/// Largest body of a token request in bytes: a form with a name, a password and a list of scopes.
pub const REQUEST_BYTES_MAX: usize = 16 * 1024;
/// Resources in one token request. docker asks for one, and for as many more as it tries cross-repository mounts.
const SCOPES_MAX: usize = 64;
/// Largest token in bytes. Registries and proxies take header lines of 8 KiB; half of it leaves room for what they add.
const TOKEN_BYTES_MAX: usize = 4 * 1024;

/// Answers token requests.
pub struct TokenService {
    settings: TokenSettings,
    logins: Logins,
    metrics: Arc<Metrics>,
}

/// Where clients are checked, and who decides what they may do.
pub struct Logins {
    /// Password checks against the file.
    pub checks: Arc<PasswordChecks>,
    /// Harbor nodes, where they are a provider.
    pub harbor: Option<Arc<HarborIdentity>>,
    /// Whether a member needs the clients' own passwords.
    pub members_need_passwords: AtomicBool,
}

/// Under which host name a client asks, and what pools and routes there are.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The host name.
    pub host: &'a str,
    /// Pools and routes.
    pub topology: &'a Topology,
}

/// A client whose password is right.
#[derive(Debug)]
pub struct Login {
    /// Who it is.
    pub subject: Subject,
    /// What its password allows at most.
    pub grant: Grant,
    /// Its `name:password`, where members need it.
    pub pair: Option<SecretString>,
}

impl Logins {
    /// Checks a name and password; a Harbor node is asked for `wanted` at once.
    pub async fn check(
        &self,
        snapshot: &Snapshot,
        pair: LoginPair<'_>,
        wanted: &[ResourceAccess],
        source: IpAddr,
    ) -> Result<Login, LoginError> {
        let LoginPair { user, password } = pair;
        if !can_be_an_account(user, password) {
            return Err(LoginError::Wrong);
        }
        match snapshot.identity.check(&self.checks, user, password).await {
            Verdict::Known(subject) => return Ok(Login { subject, grant: Grant::Policy, pair: None }),
            Verdict::Wrong => return Err(LoginError::Wrong),
            Verdict::Unavailable => return Err(LoginError::Unavailable),
            Verdict::AskHarbor => {}
        }
        let harbor = self.harbor.as_ref().ok_or(LoginError::Unavailable)?;
        match harbor.check(pair, wanted, source).await {
            Answer::Known(subject, access) => {
                let needed = self.members_need_passwords.load(Ordering::Relaxed);
                let pair = needed.then(|| ClientSecret::new(user, password).pair().clone());
                Ok(Login { subject, grant: Grant::Harbor(access), pair })
            }
            Answer::Wrong => Err(LoginError::Wrong),
            Answer::Unavailable => Err(LoginError::Unavailable),
        }
    }

    /// Other members are in force; `need_passwords` says whether any needs the clients' own.
    pub fn note_members(&self, need_passwords: bool) {
        self.members_need_passwords.store(need_passwords, Ordering::Relaxed);
    }

    /// Who decides what a subject may do to a resource.
    #[must_use]
    pub fn decider(&self, place: Place<'_>, subject: &Subject, resource: &Resource) -> Decider {
        let Some(harbor) = &self.harbor else { return Decider::Policy };
        let pool = place.topology.pool_of_resource(place.host, resource);
        if harbor.decides(subject, pool.map(Arc::as_ref)) { Decider::Harbor } else { Decider::Policy }
    }
}

/// Why a client is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginError {
    /// The name is unknown or the password wrong.
    Wrong,
    /// It cannot be said now.
    Unavailable,
}

/// A token as it is answered. It has no `Debug`, which would show the token.
#[derive(Serialize)]
pub struct IssuedToken {
    token: String,
    access_token: String,
    expires_in: u64,
    issued_at: String,
    /// The OAuth2 spec asks for it in answers to POST.
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    #[serde(skip)]
    subject: Subject,
    #[serde(skip)]
    jti: String,
    #[serde(skip)]
    granted: String,
}

impl IssuedToken {
    /// Whose it is.
    #[must_use]
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Its unique name.
    #[must_use]
    pub fn jti(&self) -> &str {
        &self.jti
    }

    /// The granted scopes, for the audit log.
    #[must_use]
    pub fn granted(&self) -> &str {
        &self.granted
    }
}

impl TokenService {
    /// A service with these settings.
    #[must_use]
    pub fn new(settings: TokenSettings, logins: Logins, metrics: Arc<Metrics>) -> Self {
        Self { settings, logins, metrics }
    }

    /// What can be set.
    #[must_use]
    pub fn settings(&self) -> &TokenSettings {
        &self.settings
    }

    /// Where it counts.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The checks that also Basic on `/v2/` goes through.
    #[must_use]
    pub fn logins(&self) -> &Logins {
        &self.logins
    }

    /// Authenticates the client, grants what the policy allows of what it asks, and issues.
    ///
    /// # Errors
    /// [`TokenRequestError`], each with its own status and words.
    pub async fn issue(
        &self,
        snapshot: &Snapshot,
        parameters: TokenParameters,
        place: Place<'_>,
        source: IpAddr,
    ) -> Result<IssuedToken, TokenRequestError> {
        if parameters.service.as_ref().is_some_and(|service| *service != self.settings.service) {
            return Err(TokenRequestError::UnknownService(self.settings.service.clone()));
        }
        let scopes = parameters.scopes.iter().map(String::as_str);
        let wanted = parse_scopes(scopes, SCOPES_MAX).ok_or(TokenRequestError::TooManyScopes(SCOPES_MAX))?;
        let Login { subject, grant, pair } =
            self.authenticate(snapshot, &parameters, &wanted, place, source).await?;
        let groups = snapshot.identity.groups_of(&subject).unwrap_or_else(|| Arc::from([]));
        let client = AuthenticatedClient { subject, groups, source, grant, pair };
        let mut granted = TokenAccess::default();
        for access in &wanted {
            let decider = self.logins.decider(place, &client.subject, &access.resource);
            let actions = access.actions.intersection(snapshot.permitted(&client, &access.resource, decider));
            let by = match decider {
                Decider::Policy => &mut granted.by_policy,
                Decider::Harbor => &mut granted.by_harbor,
            };
            if !actions.is_empty() {
                by.push(ResourceAccess { resource: access.resource.clone(), actions });
            }
        }
        self.mint(snapshot, client, &granted, parameters.by_post)
    }

    async fn authenticate(
        &self,
        snapshot: &Snapshot,
        parameters: &TokenParameters,
        wanted: &[ResourceAccess],
        place: Place<'_>,
        source: IpAddr,
    ) -> Result<Login, TokenRequestError> {
        let pair = match &parameters.credentials {
            Credentials::Basic { user, password } => LoginPair { user, password },
            // Without scope it is a login, and a login without a password has failed.
            Credentials::None if parameters.scopes.iter().all(|scope| scope.trim().is_empty()) => {
                return Err(TokenRequestError::NoCredentials);
            }
            Credentials::None => return self.anonymous(wanted, place).await,
            Credentials::Bearer(_) => {
                return Err(TokenRequestError::Malformed(
                    "a bearer token cannot be exchanged for another; send user and password",
                ));
            }
        };
        if parameters.account.as_ref().is_some_and(|account| account != pair.user) {
            return Err(TokenRequestError::Malformed("`account` is not the user of the credentials"));
        }
        let login = self.logins.check(snapshot, pair, wanted, source).await;
        login.map_err(|error| match error {
            LoginError::Wrong => TokenRequestError::WrongPassword,
            LoginError::Unavailable => TokenRequestError::Unavailable,
        })
    }

    /// A client without credentials: Harbor nodes say what is public in their pool.
    async fn anonymous(
        &self,
        wanted: &[ResourceAccess],
        place: Place<'_>,
    ) -> Result<Login, TokenRequestError> {
        let subject = Subject::anonymous();
        let decided = |access: &&ResourceAccess| {
            self.logins.decider(place, &subject, &access.resource) == Decider::Harbor
        };
        let asked: Vec<ResourceAccess> = wanted.iter().filter(decided).cloned().collect();
        let grant = match &self.logins.harbor {
            Some(harbor) if !asked.is_empty() => {
                Grant::Harbor(harbor.anonymous(&asked).await.ok_or(TokenRequestError::Unavailable)?)
            }
            Some(_) | None => Grant::Policy,
        };
        Ok(Login { subject, grant, pair: None })
    }

    fn mint(
        &self,
        snapshot: &Snapshot,
        client: AuthenticatedClient,
        granted: &TokenAccess,
        by_post: bool,
    ) -> Result<IssuedToken, TokenRequestError> {
        let now = unix_now();
        let lifetime = self.settings.lifetime.as_secs();
        let expires_at = now.saturating_add(lifetime).saturating_add(self.settings.expiry_margin.as_secs());
        let jti = token_id();
        let validity = Validity { issued_at: now, expires_at, jti: jti.clone() };
        let seal = |pair| snapshot.seal_pair(pair, &jti, now, nonce()).ok_or(KeyError::Unsupported);
        let sealed = client.pair.as_ref().map(seal).transpose()?;
        let subject = client.subject;
        let token = snapshot.tokens.mint(&subject, granted, validity, sealed)?;
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenRequestError::TooLarge(TOKEN_BYTES_MAX));
        }
        let issued_at = i64::try_from(now).ok().and_then(|now| jiff::Timestamp::from_second(now).ok());
        let scopes: Vec<String> = granted.iter().map(ToString::to_string).collect();
        let granted = scopes.join(" ");
        self.metrics.tokens_issued.inc();
        Ok(IssuedToken {
            access_token: token.clone(),
            token,
            expires_in: lifetime,
            issued_at: issued_at.unwrap_or_default().to_string(),
            scope: by_post.then(|| granted.clone()),
            subject,
            jti,
            granted,
        })
    }
}
