//! Whose request it is, and whether it may go on.

use std::sync::Arc;

use http::Method;

use super::arrival::Arrival;
use super::error::GatewayError;
use super::pins::Pins;
use super::record::RequestRecord;
use crate::auth::challenge::ChallengeReason;
use crate::auth::credentials::{Credentials, LoginPair};
use crate::auth::subject::Subject;
use crate::auth::token::TokenError;
use crate::balance::blame::ClientKey;
use crate::random::unix_now;
use crate::registry::{Action, Actions, RegistryRequest, Resource};
use crate::secret::ExposeSecret as _;
use crate::snapshot::{AuthenticatedClient, Grant};
use crate::telemetry::Metrics;
use crate::token_service::{Login, LoginError, TokenService};

/// Of so many requests under a foreign key one is logged; all are counted.
const FOREIGN_KEY_LOG_EVERY: u64 = 100;

/// Decides whose request it is, and whether it may go on.
pub(super) struct Admission {
    pub tokens: Arc<TokenService>,
    pub pins: Pins,
    pub metrics: Arc<Metrics>,
}

/// A request that may go to a member, in the name of an authenticated client.
pub(super) struct Admitted<'a> {
    pub arrival: &'a Arrival,
    pub client: AuthenticatedClient,
    /// Whose request it is, for shares and for blame.
    pub key: ClientKey,
}

impl Admission {
    /// The client that sends this. Without credentials the answer is a challenge, also where anonymous may
    /// pull: clients learn only there where to get a token.
    pub(super) async fn authenticate(
        &self,
        arrival: &Arrival,
        target: &RegistryRequest,
        record: &mut RequestRecord,
    ) -> Result<AuthenticatedClient, GatewayError> {
        let refused = |reason| GatewayError::unauthorized(reason, target.challenge_access());
        let (state, source) = (&*arrival.state, arrival.connection.peer.ip());
        let (subject, grant, pair) = match Credentials::from_headers(&arrival.head.headers)? {
            Credentials::None => return Err(refused(ChallengeReason::NoCredentials)),
            Credentials::Basic { user, password } => {
                let mut wanted = target.challenge_access();
                if arrival.head.method == Method::HEAD {
                    // A look before a push is told apart from a read.
                    for access in &mut wanted {
                        access.actions = access.actions.union(Actions::PULL_PUSH);
                    }
                }
                let pair = LoginPair { user: &user, password: &password };
                match self.tokens.logins().check(state, pair, &wanted, source).await {
                    Ok(Login { subject, grant, pair }) => (subject, grant, pair),
                    Err(LoginError::Wrong) => return Err(refused(ChallengeReason::InvalidToken)),
                    Err(LoginError::Unavailable) => return Err(GatewayError::IdentityUnavailable),
                }
            }
            Credentials::Bearer(token) => {
                let now = unix_now();
                let verified = state.verify(token.expose_secret(), now).map_err(|error| {
                    self.note_token_error(&error);
                    refused(ChallengeReason::InvalidToken)
                })?;
                if state.is_revoked(&verified) {
                    return Err(refused(ChallengeReason::InvalidToken));
                }
                if verified.expires_at <= now {
                    if !self.is_in_upload(arrival, target, &verified.subject) {
                        return Err(refused(ChallengeReason::InvalidToken));
                    }
                    self.metrics.upload_grace.inc();
                }
                record.jti = Some(verified.jti.clone());
                (verified.subject.clone(), Grant::Token(verified), None)
            }
        };
        record.subject = Some(subject.clone());
        // Removed since: refused at the very next request.
        let groups =
            state.identity.groups_of(&subject).ok_or_else(|| refused(ChallengeReason::InvalidToken))?;
        Ok(AuthenticatedClient { subject, groups, source, grant, pair })
    }

    /// An open upload session of the same subject outlives its bearer; nothing else does.
    fn is_in_upload(&self, arrival: &Arrival, target: &RegistryRequest, subject: &Subject) -> bool {
        let pin = self.pins.open(&arrival.state, target);
        pin.is_some_and(|pin| pin.is_ok_and(|pin| pin.check_subject(subject).is_ok()))
    }

    /// Whether the client may do this now. A mount whose source it may not read becomes a plain
    /// upload start: every client copes with that, few with a refusal.
    pub(super) fn authorize(
        &self,
        arrival: &Arrival,
        client: &AuthenticatedClient,
        target: RegistryRequest,
    ) -> Result<RegistryRequest, GatewayError> {
        let (state, topology) = (&arrival.state, &arrival.topology);
        let decider =
            |resource: &Resource| self.tokens.logins().decider(arrival.place(), &client.subject, resource);
        if let Some(required) = target.required_access()
            && !state.permits(client, &required, decider(&required.resource))
        {
            let reason = ChallengeReason::InsufficientScope;
            return Err(GatewayError::unauthorized(reason, target.challenge_access()));
        }
        let RegistryRequest::UploadStart { repository, mount: Some(mount), .. } = &target else {
            return Ok(target);
        };
        let readable = mount.from.as_ref().is_some_and(|from| {
            let pool_of = |name| topology.routes.pool_of(arrival.authority.name(), name);
            let resource = Resource::Repository(from.clone());
            let permitted = state.permitted(client, &resource, decider(&resource));
            let pool = pool_of(from).filter(|pool| Some(*pool) == pool_of(repository));
            let pool = pool.and_then(|pool| topology.pools.get(pool));
            permitted.contains(Action::Pull) && pool.is_some_and(|pool| pool.have_one_home(from, repository))
        });
        Ok(if readable { target } else { target.without_mount() })
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
