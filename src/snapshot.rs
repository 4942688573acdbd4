//! What a reload replaces as a whole: identities, policy, and the keys of tokens and pins.
//!
//! A request loads one snapshot and uses it to its end; members, listeners and their state are
//! not in it and outlive every reload.

use std::net::IpAddr;
use std::sync::Arc;

use moka::sync::Cache;

use crate::auth::keys::Ring;
use crate::auth::policy::{Client, Policy};
use crate::auth::seal::SealKey;
use crate::auth::subject::Subject;
use crate::auth::token::{ClientTokens, TokenError, VerifiedToken};
use crate::identity::Identity;
use crate::key_store::Revocations;
use crate::registry::{Actions, Resource, ResourceAccess};

/// Identities, policy and keys of one generation.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts reloads, from 1.
    pub generation: u64,
    /// Who is known.
    pub identity: Identity,
    /// Who may do what.
    pub policy: Policy,
    /// Client tokens and their keys.
    pub tokens: ClientTokens,
    /// Keys of upload pins.
    pub seals: Ring<SealKey>,
    /// Whose earlier tokens have ended.
    pub revocations: Revocations,
    verified: Cache<String, Arc<VerifiedToken>>,
}

/// An authenticated client and what its credentials allow at most.
#[derive(Debug, Clone)]
pub struct AuthenticatedClient {
    /// Who it is.
    pub subject: Subject,
    /// The groups its provider names now.
    pub groups: Arc<[String]>,
    /// Where it comes from.
    pub source: IpAddr,
    /// The token it showed; `None` for a password, which allows whatever the policy does.
    pub token: Option<Arc<VerifiedToken>>,
}

impl Snapshot {
    /// A snapshot of the first generation that remembers at most `entries_max` verified tokens.
    #[must_use]
    pub fn new(
        identity: Identity,
        policy: Policy,
        (tokens, seals): (ClientTokens, Ring<SealKey>),
        entries_max: u64,
    ) -> Self {
        let (generation, revocations) = (1, Revocations::new());
        Self { generation, identity, policy, tokens, seals, revocations, verified: Cache::new(entries_max) }
    }

    /// Whether the token was issued before its subject's tokens were revoked.
    #[must_use]
    pub fn is_revoked(&self, token: &VerifiedToken) -> bool {
        // Without revocations, which is nearly always, nothing is built.
        !self.revocations.is_empty()
            && self
                .revocations
                .get(&token.subject.to_string())
                .is_some_and(|before| token.issued_at <= *before)
    }

    /// Checks a token, all but its end; what was verified once is remembered.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn verify(&self, token: &str, now: u64) -> Result<Arc<VerifiedToken>, TokenError> {
        if let Some(known) = self.verified.get(token) {
            return Ok(known);
        }
        let verified = Arc::new(self.tokens.verify(token, now)?);
        self.verified.insert(token.to_owned(), Arc::clone(&verified));
        Ok(verified)
    }

    /// What the client may do to a resource now: its token's access and the policy in force.
    #[must_use]
    pub fn permitted(&self, client: &AuthenticatedClient, resource: &Resource) -> Actions {
        let by_policy = self.policy.permitted(client.as_policy_client(), resource);
        match &client.token {
            None => by_policy,
            Some(token) => {
                let entries = token.access.iter().filter(|access| access.resource == *resource);
                let by_token = entries.fold(Actions::NONE, |all, access| all.union(access.actions));
                by_policy.intersection(by_token)
            }
        }
    }

    /// Whether the client may do all of `wanted` now.
    #[must_use]
    pub fn permits(&self, client: &AuthenticatedClient, wanted: &ResourceAccess) -> bool {
        self.permitted(client, &wanted.resource).covers(wanted.actions)
    }
}

impl AuthenticatedClient {
    /// The client in the words of the policy.
    #[must_use]
    pub fn as_policy_client(&self) -> Client<'_> {
        Client { subject: &self.subject, groups: &self.groups, source: self.source }
    }
}
