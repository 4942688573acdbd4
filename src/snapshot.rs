//! What a reload replaces as a whole: identities, policy, and the keys of tokens and pins.
//!
//! A request loads one snapshot and uses it to its end; members, listeners and their state are
//! not in it and outlive every reload.

use std::net::IpAddr;
use std::sync::Arc;

use moka::sync::Cache;

use crate::auth::keys::Ring;
use crate::auth::policy::{Client, Policy};
use crate::auth::seal::{self, Purpose, SealKey};
use crate::auth::subject::Subject;
use crate::auth::token::{ClientTokens, TokenError, VerifiedToken};
use crate::identity::Identity;
use crate::key_store::Revocations;
use crate::pin::NONCE_BYTES;
use crate::registry::{Actions, Resource, ResourceAccess};
use crate::secret::{ExposeSecret as _, SecretString};

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
    /// The subjects whose earlier tokens an operator has ended.
    pub revocations: Revocations,
    /// Whose earlier tokens have ended because the user was removed, even if it is there again.
    pub removals: Revocations,
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
    /// What its credentials allow at most.
    pub grant: Grant,
    /// Its own `name:password`, where it sent them with this request.
    pub pair: Option<SecretString>,
}

/// What credentials allow at most.
#[derive(Debug, Clone)]
pub enum Grant {
    /// A password that the file knows: whatever the policy allows.
    Policy,
    /// The access of a token.
    Token(Arc<VerifiedToken>),
    /// What a Harbor node granted just now.
    Harbor(Vec<ResourceAccess>),
}

/// Who decides what a client may do to a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decider {
    /// The policy: what no rule allows is denied.
    Policy,
    /// Harbor, when the credentials were checked; a rule of the policy can only take away.
    Harbor,
}

impl Snapshot {
    /// A snapshot of the first generation that remembers at most `entries_max` verified tokens.
    #[must_use]
    pub fn new(
        identity: Identity,
        policy: Policy,
        tokens: ClientTokens,
        seals: Ring<SealKey>,
        entries_max: u64,
    ) -> Self {
        let (revocations, removals) = (Revocations::new(), Revocations::new());
        let verified = Cache::new(entries_max);
        Self { generation: 1, identity, policy, tokens, seals, revocations, removals, verified }
    }

    /// Whether the token was issued before its subject's tokens were revoked, or before the user
    /// was removed.
    #[must_use]
    pub fn is_revoked(&self, token: &VerifiedToken) -> bool {
        // Without either, which is nearly always, nothing is built.
        if self.revocations.is_empty() && self.removals.is_empty() {
            return false;
        }
        let subject = token.subject.to_string();
        let ended_at = |ends: &Revocations| ends.get(&subject).is_some_and(|at| token.issued_at <= *at);
        ended_at(&self.revocations) || ended_at(&self.removals)
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
    pub fn permitted(&self, client: &AuthenticatedClient, resource: &Resource, decider: Decider) -> Actions {
        let by_policy = match decider {
            Decider::Policy => self.policy.permitted(client.as_policy_client(), resource),
            Decider::Harbor => self.policy.narrowed(client.as_policy_client(), resource),
        };
        let access = match &client.grant {
            Grant::Policy if decider == Decider::Policy => return by_policy,
            // A subject that Harbor was not asked about has nothing of Harbor's.
            Grant::Policy => return Actions::NONE,
            Grant::Token(token) if decider == Decider::Policy => &token.access.by_policy,
            Grant::Token(token) => &token.access.by_harbor,
            // Harbor's word counts for what Harbor decides, and for nothing else.
            Grant::Harbor(_) if decider == Decider::Policy => return by_policy,
            Grant::Harbor(access) => access,
        };
        let entries = access.iter().filter(|access| access.resource == *resource);
        by_policy.intersection(entries.fold(Actions::NONE, |all, access| all.union(access.actions)))
    }

    /// Whether the client may do all of `wanted` now.
    #[must_use]
    pub fn permits(&self, client: &AuthenticatedClient, wanted: &ResourceAccess, decider: Decider) -> bool {
        self.permitted(client, &wanted.resource, decider).covers(wanted.actions)
    }

    /// A client's `name:password`, sealed into the token `jti`. `None` only without a seal key.
    #[must_use]
    pub fn seal_pair(
        &self,
        pair: &SecretString,
        jti: &str,
        now: u64,
        nonce: [u8; NONCE_BYTES],
    ) -> Option<String> {
        let (context, text) = ([jti.as_bytes()], pair.expose_secret().as_bytes());
        seal::seal(&self.seals, Purpose::ClientPassword, &context, text, now, nonce)
    }

    /// The client's `name:password`, from the request or from its token.
    #[must_use]
    pub fn pair_of(&self, client: &AuthenticatedClient, now: u64) -> Option<SecretString> {
        if let Some(pair) = &client.pair {
            return Some(pair.clone());
        }
        let Grant::Token(token) = &client.grant else { return None };
        let sealed = token.sealed_secret.as_deref()?;
        let context = [token.jti.as_bytes()];
        let pair = seal::open(&self.seals, Purpose::ClientPassword, &context, sealed, now).ok()?;
        String::from_utf8(pair).ok().map(SecretString::from)
    }
}

impl AuthenticatedClient {
    /// The client in the words of the policy.
    #[must_use]
    pub fn as_policy_client(&self) -> Client<'_> {
        Client { subject: &self.subject, groups: &self.groups, source: self.source }
    }
}
