//! Who sends a request, and whether it may go on.

use http::Method;

use super::context::RequestContext;
use super::error::GatewayError;
use super::plan::share_a_home;
use super::{Downstream, Gateway};
use crate::auth::challenge::ChallengeReason;
use crate::auth::credentials::Credentials;
use crate::auth::subject::Subject;
use crate::auth::token::TokenError;
use crate::random::unix_now;
use crate::registry::{Action, Actions, RegistryRequest, Resource, ResourceAccess};
use crate::snapshot::{AuthenticatedClient, Grant, Snapshot};
use crate::token_service::{Login, LoginError, TOKEN_PATHS};

/// Of so many requests under a foreign key one is logged; all are counted.
const FOREIGN_KEY_LOG_EVERY: u64 = 100;

impl Gateway {
    /// Who sends this. Without credentials the answer is a challenge, also where anonymous may
    /// pull: clients learn only there where to get a token.
    pub(super) async fn authenticate(
        &self,
        state: &Snapshot,
        down: &Downstream,
        target: &RegistryRequest,
        ctx: &mut RequestContext,
    ) -> Result<AuthenticatedClient, GatewayError> {
        let refused = |reason| self.unauthorized(down, reason, target.challenge_access());
        let source = ctx.connection.peer.ip();
        let (subject, grant, pair) = match Credentials::from_headers(&down.head.headers)? {
            Credentials::None => return Err(refused(ChallengeReason::NoCredentials)),
            Credentials::Basic { user, password } => {
                let mut wanted = target.challenge_access();
                if down.head.method == Method::HEAD {
                    // Who looks before a push is told apart from who reads.
                    for access in &mut wanted {
                        access.actions = access.actions.union(Actions::PULL_PUSH);
                    }
                }
                match self.tokens.logins().check(state, (&user, &password), &wanted, source).await {
                    Ok(Login { subject, grant, pair }) => (subject, grant, pair),
                    Err(LoginError::Wrong) => return Err(refused(ChallengeReason::InvalidToken)),
                    Err(LoginError::Unavailable) => return Err(GatewayError::IdentityUnavailable),
                }
            }
            Credentials::Bearer(token) => {
                let now = unix_now();
                let verified = state.verify(&token, now).map_err(|error| {
                    self.note_token_error(&error);
                    refused(ChallengeReason::InvalidToken)
                })?;
                if state.is_revoked(&verified) {
                    return Err(refused(ChallengeReason::InvalidToken));
                }
                if verified.expires_at <= now {
                    if !self.is_in_upload(state, target, &verified.subject, now) {
                        return Err(refused(ChallengeReason::InvalidToken));
                    }
                    self.metrics.upload_grace.inc();
                }
                ctx.jti = Some(verified.jti.clone());
                (verified.subject.clone(), Grant::Token(verified), None)
            }
        };
        ctx.subject = Some(subject.clone());
        // Removed since: refused at the very next request.
        let groups =
            state.identity.groups_of(&subject).ok_or_else(|| refused(ChallengeReason::InvalidToken))?;
        Ok(AuthenticatedClient { subject, groups, source, grant, pair })
    }

    /// An open upload session of the same subject outlives its bearer; nothing else does.
    fn is_in_upload(&self, state: &Snapshot, target: &RegistryRequest, subject: &Subject, now: u64) -> bool {
        self.open_pin(state, target, now)
            .is_some_and(|pin| pin.is_ok_and(|pin| pin.check_subject(subject).is_ok()))
    }

    /// Whether the client may do this now. A mount whose source it may not read becomes a plain
    /// upload start: every client copes with that, few with a refusal.
    pub(super) fn authorize(
        &self,
        state: &Snapshot,
        down: &Downstream,
        client: &AuthenticatedClient,
        target: RegistryRequest,
    ) -> Result<RegistryRequest, GatewayError> {
        let decider =
            |resource: &Resource| self.tokens.logins().decider(down.place(), &client.subject, resource);
        if let Some(required) = target.required_access()
            && !state.permits(client, &required, decider(&required.resource))
        {
            return Err(self.unauthorized(
                down,
                ChallengeReason::InsufficientScope,
                target.challenge_access(),
            ));
        }
        let RegistryRequest::UploadStart { repository, mount: Some(mount), .. } = &target else {
            return Ok(target);
        };
        let readable = mount.from.as_ref().is_some_and(|from| {
            let pool_of = |name| down.topology.routes.pool_of(down.authority.name(), name);
            let resource = Resource::Repository(from.clone());
            let permitted = state.permitted(client, &resource, decider(&resource));
            permitted.contains(Action::Pull)
                && pool_of(from) == pool_of(repository)
                && share_a_home(down, pool_of(from), (from, repository))
        });
        Ok(if readable { target } else { target.without_mount() })
    }

    pub(super) fn unauthorized(
        &self,
        down: &Downstream,
        reason: ChallengeReason,
        wanted: Vec<ResourceAccess>,
    ) -> GatewayError {
        let scheme = if down.https { "https" } else { "http" };
        let realm = format!("{scheme}://{}{}", down.authority.text, TOKEN_PATHS[0]);
        GatewayError::Unauthorized { reason, wanted, realm, service: self.tokens.settings().service.clone() }
    }

    fn note_token_error(&self, error: &TokenError) {
        let TokenError::ForeignKey { kid } = error else { return };
        self.metrics.foreign_keys.inc();
        if self.metrics.foreign_keys.get() % FOREIGN_KEY_LOG_EVERY == 1 {
            tracing::error!(
                kid = kid.as_str(),
                "another replica has other keys: a token of our issuer names a key that is not in our key ring; give every replica the same key files"
            );
        }
    }
}
