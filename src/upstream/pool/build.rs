//! Building the pools from the settings; on a reload, from those that run.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;
use http::HeaderValue;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio_util::task::TaskTracker;

use super::Pool;
use super::ejections::Ejections;
use super::memory::PoolMemory;
use super::pools::{Pools, Retired};
use crate::auth::keys::{KeyError, Ring, SigningKey};
use crate::telemetry::Metrics;
use crate::upstream::connection::{ConnectTarget, Connections};
use crate::upstream::credential::{Credential, MemberKeys};
use crate::upstream::door::Door;
use crate::upstream::harbor::HarborNode;
use crate::upstream::member::{Likeness, Member, MemberState, hash_of};
use crate::upstream::name::MemberName;
use crate::upstream::settings::{
    CredentialSettings, MemberAddress, MemberKeySource, MemberKind, MemberSettings, PoolSettings, Storage,
};
use crate::upstream::tls::{self, MemberTlsError};

/// Why a member cannot be built.
#[derive(Debug, thiserror::Error)]
#[error("member {member}: {problem}")]
pub struct BuildError {
    member: MemberName,
    #[source]
    problem: BuildProblem,
}

#[derive(Debug, thiserror::Error)]
enum BuildProblem {
    #[error("{0}")]
    Tls(#[from] MemberTlsError),
    #[error("credential: {0}")]
    Key(#[from] KeyError),
    #[error("credential: {0}: {1}")]
    KeyFile(String, std::io::Error),
    #[error("credential: {0}: not a PEM certificate")]
    Certificate(String),
    #[error("the host cannot stand in a Host header")]
    Host,
    #[error("harbor: an account cannot stand in a header")]
    Account,
}

/// What all members share.
pub struct Shared {
    /// Tidegate's own member keys.
    pub member_ring: Arc<ArcSwap<Ring<SigningKey>>>,
    /// Where metrics go.
    pub metrics: Arc<Metrics>,
    /// Owns the tasks that drive connections.
    pub drivers: TaskTracker,
    /// How many workers there are.
    pub workers: usize,
    /// How many minted tokens each member remembers.
    pub cache_entries_max: u64,
    /// The members that requests have taken out.
    pub ejections: Arc<Ejections>,
}

impl Pools {
    /// Builds every member.
    ///
    /// # Errors
    /// [`BuildError`] when a key, certificate or host is unusable.
    pub fn build(settings: &[PoolSettings], shared: &Shared) -> Result<Self, BuildError> {
        Self::build_from(
            &Self { pools: Vec::new(), by_member: HashMap::new(), retired: Vec::new() },
            settings,
            shared,
        )
    }

    /// Builds the pools anew. A member whose settings are equal is the same one; one that changed
    /// goes on with what its change leaves as it is; one that is gone can still be reached by its
    /// upload sessions until `until`, when their pins have ended.
    ///
    /// # Errors
    /// [`BuildError`] when a key, certificate or host is unusable.
    pub fn rebuild(
        &self,
        settings: &[PoolSettings],
        shared: &Shared,
        now: u64,
        until: u64,
    ) -> Result<Self, BuildError> {
        let built = Self::build_from(self, settings, shared);
        let mut pools = built.inspect_err(|_| {
            // A new state of a member may have said that it is starting.
            self.members().for_each(|member| member.publish_state());
        })?;
        let running =
            self.pools.iter().flat_map(|pool| pool.members.iter().map(move |member| (pool, member)));
        let gone = running.map(|(pool, member)| (until, pool, member));
        let earlier = self.retired.iter().map(|retired| (retired.until, &retired.pool, &retired.member));
        for (until, pool, member) in gone.chain(earlier) {
            if until > now && pools.member(member.name.as_str()).is_none() {
                let (pool, member) = (Arc::clone(pool), Arc::clone(member));
                pools.retired.push(Retired { until, pool, member });
            }
        }
        Ok(pools)
    }

    fn build_from(before: &Self, settings: &[PoolSettings], shared: &Shared) -> Result<Self, BuildError> {
        let mut pools = Vec::new();
        let mut by_member = HashMap::new();
        for (at, pool) in settings.iter().enumerate() {
            let build = |member: &MemberSettings| {
                let placed = before.member(member.name.as_str());
                let was_retired = placed.as_ref().is_some_and(|placed| placed.retired);
                let running = placed.map(|placed| placed.member);
                let built = build_member(pool, member, shared, running);
                if let (true, Ok(member)) = (was_retired, &built) {
                    // Nothing is known of it since it was taken out.
                    member.state.restart(&member.metrics);
                }
                built.map_err(|problem| BuildError { member: member.name.clone(), problem })
            };
            let members = pool.members.iter().map(build).collect::<Result<Vec<_>, _>>()?;
            by_member.extend(
                members.iter().map(|member| (member.name.as_str().to_owned(), (at, Arc::clone(member)))),
            );
            let by_password =
                |member: &Arc<Member>| matches!(member.credential, Credential::Exchange | Credential::Relay);
            pools.push(Arc::new(Pool {
                has_nodes: members.iter().any(|member| member.harbor.is_some()),
                is_mixed: {
                    let nodes = members.iter().filter(|member| member.harbor.is_some()).count();
                    nodes > 0 && nodes < members.len()
                },
                needs_passwords: members.iter().any(by_password),
                metrics: shared.metrics.pool(pool.name.as_str()),
                memory: before.memory_for(pool, shared),
                previous: pool.previous_members.clone(),
                name: pool.name.clone(),
                storage: pool.storage,
                portal: pool.portal,
                limits: pool.limits.clone(),
                members,
            }));
        }
        Ok(Self { pools, by_member, retired: Vec::new() })
    }

    /// What the pool of this name remembers, or nothing yet.
    fn memory_for(&self, settings: &PoolSettings, shared: &Shared) -> Arc<PoolMemory> {
        let running = self.pools.iter().find(|pool| pool.name == settings.name);
        running.map_or_else(
            || Arc::new(PoolMemory::new(settings, shared.cache_entries_max, &shared.ejections)),
            |pool| pool.memory.carried_over(settings, shared.cache_entries_max),
        )
    }
}

fn build_member(
    pool: &PoolSettings,
    settings: &MemberSettings,
    shared: &Shared,
    running: Option<&Arc<Member>>,
) -> Result<Arc<Member>, BuildProblem> {
    let likeness = Likeness::of(pool, settings);
    if let Some(running) = running.filter(|running| running.likeness == likeness) {
        return Ok(Arc::clone(running));
    }
    let metrics = shared.metrics.member(pool.name.as_str(), settings.name.as_str());
    let door = Door {
        address: settings.address.clone(),
        tls: tls::build(&settings.address, &settings.tls)?,
        host: HeaderValue::try_from(authority(&settings.address)).map_err(|_| BuildProblem::Host)?,
    };
    let (member, address, tls) = (settings.name.clone(), door.address.clone(), door.tls.clone());
    let target = ConnectTarget { member, address, tls };
    let same_reach = running.filter(|running| running.likeness.reach == likeness.reach);
    let connections = same_reach.map(|running| Arc::clone(&running.connections)).unwrap_or_else(|| {
        Connections::new(
            target,
            pool.limits.clone(),
            shared.workers,
            shared.drivers.clone(),
            metrics.connections.clone(),
        )
    });
    let same_health = same_reach.filter(|running| running.likeness.credential == likeness.credential);
    let state = same_health.map(|running| Arc::clone(&running.state)).unwrap_or_else(|| {
        let state = MemberState::starting(&metrics);
        let draining = running.is_some_and(|running| running.is_draining());
        state.draining.store(draining, Ordering::Relaxed);
        state.returns.store(running.map_or(0, |running| running.returns()), Ordering::Relaxed);
        Arc::new(state)
    });
    let keys = match &settings.credential {
        CredentialSettings::Token(token) => Some(member_keys(&token.key, shared)?),
        CredentialSettings::None
        | CredentialSettings::Basic(_)
        | CredentialSettings::Exchange
        | CredentialSettings::Relay => None,
    };
    let harbor = match &settings.kind {
        MemberKind::Registry => None,
        MemberKind::Harbor(harbor) => {
            let node = HarborNode::new(harbor, shared.cache_entries_max);
            Some(node.ok_or(BuildProblem::Account)?)
        }
    };
    Ok(Arc::new(Member {
        name: settings.name.clone(),
        pool: pool.name.clone(),
        door,
        weight: settings.weight,
        tier: settings.tier,
        hash: hash_of(&settings.name),
        write_failover: pool.write_failover.filter(|_| pool.storage == Storage::Replicated),
        connections,
        credential: Credential::build(
            &settings.credential,
            keys,
            shared.cache_entries_max,
            harbor.is_some(),
        )?,
        harbor,
        likeness,
        state,
        metrics,
        probe: pool.health.clone(),
    }))
}

fn member_keys(source: &MemberKeySource, shared: &Shared) -> Result<MemberKeys, BuildProblem> {
    let (key, certificate) = match source {
        MemberKeySource::Ring => return Ok(MemberKeys::Ring(Arc::clone(&shared.member_ring))),
        MemberKeySource::File { key, certificate } => (key, certificate),
    };
    let read = |path: &Path| {
        std::fs::read(path).map_err(|error| BuildProblem::KeyFile(path.display().to_string(), error))
    };
    let pem = read(key)?;
    let certificate = match certificate {
        None => None,
        Some(path) => Some(
            CertificateDer::from_pem_slice(&read(path)?)
                .map_err(|_| BuildProblem::Certificate(path.display().to_string()))?,
        ),
    };
    let key = SigningKey::from_pem(&pem, certificate.as_deref())?;
    Ok(MemberKeys::Fixed(Arc::new(key)))
}

/// `host[:port]`, the port left out where it is the scheme's own.
fn authority(address: &MemberAddress) -> String {
    let host = if address.host.contains(':') { format!("[{}]", address.host) } else { address.host.clone() };
    match (address.https, address.port) {
        (true, 443) | (false, 80) => host,
        (_, port) => format!("{host}:{port}"),
    }
}
