//! Identities, policy and keys: built whole at start, section by section for a reload.

use crate::admin::RefusedSection;
use crate::auth::keys::{Ring, SigningKey};
use crate::auth::token::ClientTokens;
use crate::config::Config;
use crate::identity::{Identity, IdentityError};
use crate::key_store::{self, KeyStoreError, Keys, Retention, Revocations};
use crate::random::unix_now;
use crate::snapshot::Snapshot;

/// Why there is no state to start with.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file of a provider is broken.
    #[error("{0}")]
    Identity(#[from] IdentityError),
    /// A key file is broken, or there is none.
    #[error("{0}")]
    Keys(#[from] KeyStoreError),
}

/// What a reload brings into force beside the members.
pub(super) struct State {
    pub(super) snapshot: Snapshot,
    /// `None` where the keys stay as they are.
    pub(super) member_ring: Option<Ring<SigningKey>>,
    /// Whether users were removed who were there before.
    pub(super) removals_grew: bool,
}

/// Builds identities, policy and keys from a configuration.
///
/// # Errors
/// [`StateError`], naming the file.
pub fn build_state(config: &Config, generation: u64) -> Result<(Snapshot, Ring<SigningKey>), StateError> {
    let identity = Identity::build(&config.identity.providers)?;
    let keys = load_keys(config)?;
    let mut snapshot = Snapshot::new(
        identity,
        config.policy.clone(),
        client_tokens(config, keys.client),
        keys.seal,
        config.tokens.cache_entries_max,
    );
    snapshot.generation = generation;
    snapshot.revocations = key_store::revocations(&config.tokens.keys)?;
    snapshot.removals = key_store::removals(&config.tokens.keys)?;
    Ok((snapshot, keys.member))
}

/// The next generation. What cannot be built is added to `refused` and stays as it was `before`.
pub(super) fn rebuild_state(config: &Config, before: &Snapshot, refused: &mut Vec<RefusedSection>) -> State {
    let (identity, errors) = before.identity.rebuild(&config.identity.providers);
    // What the configuration has found out about the same files says more.
    if !refused.iter().any(|refused| refused.section == "identity") {
        refused.extend(errors.iter().map(|error| RefusedSection::new("identity", error)));
    }
    let keys = load_keys(config).and_then(|keys| complete(keys, before, config));
    let keys = keys.map_err(|error| refused.push(RefusedSection::new("keys", &error))).ok();
    let (tokens, seals, member_ring) = match keys {
        Some(keys) => (client_tokens(config, keys.client), keys.seal, Some(keys.member)),
        None => (before.tokens.clone(), before.seals.clone(), None),
    };
    let revocations = key_store::revocations(&config.tokens.keys);
    let revocations = revocations.unwrap_or_else(|error| {
        refused.push(RefusedSection::new("revocations", &error));
        before.revocations.clone()
    });
    let (removals, removals_grew) = removals(&identity, before, retention(config).client);
    let entries_max = config.tokens.cache_entries_max;
    let mut snapshot = Snapshot::new(identity, config.policy.clone(), tokens, seals, entries_max);
    snapshot.generation = before.generation + 1;
    snapshot.revocations = revocations;
    snapshot.removals = removals;
    State { snapshot, member_ring, removals_grew }
}

/// How long old keys are of use with these settings.
#[must_use]
pub fn retention(config: &Config) -> Retention {
    let grace = config.uploads.grace.as_secs();
    let token = config.tokens.lifetime.as_secs().saturating_add(config.tokens.expiry_margin.as_secs());
    // Passwords are sealed for as long as their token counts, pins for the grace.
    let both = token.saturating_add(grace);
    Retention { client: both, seal: both }
}

fn load_keys(config: &Config) -> Result<Keys, KeyStoreError> {
    key_store::load(&config.tokens.keys, &config.uploads.seal_keys, retention(config))
}

fn client_tokens(config: &Config, ring: Ring<SigningKey>) -> ClientTokens {
    ClientTokens::new(ring, config.tokens.issuer.clone(), config.tokens.service.clone())
}

/// A directory that has gone, such as one that is not mounted now, is no reason to have no keys.
fn complete(keys: Keys, before: &Snapshot, config: &Config) -> Result<Keys, KeyStoreError> {
    let (directory, seals) = (&config.tokens.keys, &config.uploads.seal_keys);
    let lost = |now: usize, before: usize| now == 0 && before > 0;
    if lost(keys.client.entries().len(), before.tokens.ring().entries().len()) {
        return Err(KeyStoreError::KeysGone {
            purpose: "client",
            directory: directory.display().to_string(),
        });
    }
    if lost(keys.seal.entries().len(), before.seals.entries().len()) {
        return Err(KeyStoreError::KeysGone { purpose: "seal", directory: seals.display().to_string() });
    }
    Ok(keys)
}

/// The users who were there and are not any more, as long as a token of theirs can be about; and
/// whether there are more of them than before.
fn removals(identity: &Identity, before: &Snapshot, retention: u64) -> (Revocations, bool) {
    let now = unix_now();
    let mut removals = before.removals.clone();
    removals.retain(|_, at| at.saturating_add(retention) > now);
    let mut grew = false;
    for subject in identity.gone_since(&before.identity) {
        removals.insert(subject.to_string(), now);
        grew = true;
    }
    (removals, grew)
}
