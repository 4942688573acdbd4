//! The token endpoint: parse, authenticate, grant, issue (distribution token and OAuth2 specs).
//!
//! What is asked for beyond the policy is left out, never an error; unknown scopes are ignored.
//! A refresh token is never given: clients that were given one would use nothing else.

mod request;
mod settings;

use std::sync::Arc;

use serde::Serialize;

pub use request::{TokenParameters, TokenRequestError};
pub use settings::*;

use crate::auth::credentials::Credentials;
use crate::auth::subject::Subject;
use crate::auth::token::Validity;
use crate::identity::{PasswordChecks, Verdict};
use crate::random::{token_id, unix_now};
use crate::registry::{ResourceAccess, parse_scopes};
use crate::snapshot::{AuthenticatedClient, Snapshot};
use crate::telemetry::Metrics;

/// The paths of the token endpoint: Harbor's, the usual one, and distribution's `autoredirect`.
pub const TOKEN_PATHS: [&str; 3] = ["/service/token", "/token", "/auth/token"];

/// Answers token requests.
#[derive(Debug)]
pub struct TokenService {
    settings: TokenSettings,
    checks: Arc<PasswordChecks>,
    metrics: Arc<Metrics>,
}

/// A token as it is answered.
#[derive(Debug, Serialize)]
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
    pub fn new(settings: TokenSettings, checks: Arc<PasswordChecks>, metrics: Arc<Metrics>) -> Self {
        Self { settings, checks, metrics }
    }

    /// What can be set.
    #[must_use]
    pub fn settings(&self) -> &TokenSettings {
        &self.settings
    }

    /// The checks that also Basic on `/v2/` goes through.
    #[must_use]
    pub fn checks(&self) -> &PasswordChecks {
        &self.checks
    }

    /// Authenticates the client, grants what the policy allows of what it asks, and issues.
    ///
    /// # Errors
    /// [`TokenRequestError`], each with its own status and words.
    pub async fn issue(
        &self,
        snapshot: &Snapshot,
        parameters: TokenParameters,
        source: std::net::IpAddr,
    ) -> Result<IssuedToken, TokenRequestError> {
        if parameters.service.as_ref().is_some_and(|service| *service != self.settings.service) {
            return Err(TokenRequestError::UnknownService(self.settings.service.clone()));
        }
        let scopes = parameters.scopes.iter().map(String::as_str);
        let wanted = parse_scopes(scopes, self.settings.scopes_max)
            .ok_or(TokenRequestError::TooManyScopes(self.settings.scopes_max))?;
        let subject = self.authenticate(snapshot, &parameters).await?;
        let groups = snapshot.identity.groups_of(&subject).unwrap_or_else(|| Arc::from([]));
        let client = AuthenticatedClient { subject, groups, source, token: None };
        let granted = snapshot.policy.grant(client.as_policy_client(), &wanted);
        self.mint(snapshot, client.subject, &granted, parameters.by_post)
    }

    async fn authenticate(
        &self,
        snapshot: &Snapshot,
        parameters: &TokenParameters,
    ) -> Result<Subject, TokenRequestError> {
        let (user, password) = match &parameters.credentials {
            Credentials::Basic { user, password } => (user, password),
            // Without scope it is a login, and a login without a password has failed.
            Credentials::None if parameters.scopes.iter().all(|scope| scope.trim().is_empty()) => {
                return Err(TokenRequestError::NoCredentials);
            }
            Credentials::None => return Ok(Subject::anonymous()),
            Credentials::Bearer(_) => {
                return Err(TokenRequestError::Malformed(
                    "a bearer token cannot be exchanged for another; send user and password",
                ));
            }
        };
        if parameters.account.as_ref().is_some_and(|account| account != user) {
            return Err(TokenRequestError::Malformed("`account` is not the user of the credentials"));
        }
        match snapshot.identity.check(&self.checks, user, password).await {
            Verdict::Known(subject) => Ok(subject),
            Verdict::Wrong => Err(TokenRequestError::WrongPassword),
            Verdict::Unavailable => Err(TokenRequestError::Unavailable),
        }
    }

    fn mint(
        &self,
        snapshot: &Snapshot,
        subject: Subject,
        granted: &[ResourceAccess],
        by_post: bool,
    ) -> Result<IssuedToken, TokenRequestError> {
        let now = unix_now();
        let lifetime = self.settings.lifetime.as_secs();
        let expires_at = now.saturating_add(lifetime).saturating_add(self.settings.expiry_margin.as_secs());
        let jti = token_id();
        let validity = Validity { issued_at: now, expires_at, jti: jti.clone() };
        let token = snapshot.tokens.mint(&subject, granted, validity)?;
        if token.len() > self.settings.token_bytes_max {
            return Err(TokenRequestError::TooLarge(self.settings.token_bytes_max));
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
