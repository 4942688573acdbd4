//! The pools and their members, built from the settings; on a reload, from those that run.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;
use http::HeaderValue;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio_util::task::TaskTracker;

use super::connection::{Connections, Target};
use super::credential::{Credential, MemberKeys};
use super::drain::leave_out_draining;
use super::ejections::Ejections;
use super::harbor::HarborNode;
use super::likeness::Likeness;
use super::member::{Member, MemberState, hash_of};
use super::memory::PoolMemory;
use super::name::{MemberName, PoolName};
use super::quarantine::Quarantine;
use super::settings::{
    CredentialSettings, MemberAddress, MemberKeySource, MemberKind, MemberSettings, PoolSettings, Storage,
    UpstreamLimits,
};
use super::tls::{self, MemberTlsError};
use crate::auth::keys::{KeyError, Ring, SigningKey};
use crate::balance::{Choice, Seen, key_hash, order, rendezvous};
use crate::random::{monotonic_ms, seed};
use crate::registry::{Digest, RepositoryName};
use crate::telemetry::{Metrics, PoolMetrics};

/// Members that serve the same content.
pub struct Pool {
    /// Its name.
    pub name: PoolName,
    /// How its members share their content.
    pub storage: Storage,
    /// Whether the web pages and the API of its Harbor nodes are served too.
    pub portal: bool,
    /// Its bounds.
    pub limits: UpstreamLimits,
    /// Its members, in file order.
    pub members: Vec<Arc<Member>>,
    /// Whether any of its members is a Harbor node.
    pub has_nodes: bool,
    /// Whether there are plain registries beside Harbor nodes.
    pub is_mixed: bool,
    /// Whether any of its members needs the clients' own passwords.
    pub needs_passwords: bool,
    /// Its metric handles.
    pub metrics: PoolMetrics,
    /// What it remembers, also beyond a reload.
    pub memory: Arc<PoolMemory>,
    /// The members before the list was changed.
    previous: Vec<MemberName>,
}

/// What the order of members depends on for one request.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// What decides between members that serve.
    pub choice: Choice,
    /// Whether it changes nothing.
    pub reads: bool,
    /// The content that is asked for, and who is known to have it broken.
    pub content: Option<(&'a Quarantine, &'a Digest)>,
}

/// Every pool, in the order of the configuration.
pub struct Pools {
    pools: Vec<Arc<Pool>>,
    by_member: HashMap<String, (usize, Arc<Member>)>,
    retired: Vec<Retired>,
}

/// A member that was taken out of the configuration. Its upload sessions still go on there.
struct Retired {
    /// By then every pin that names it has ended, seconds since the epoch.
    until: u64,
    pool: Arc<Pool>,
    member: Arc<Member>,
}

/// A member and where it is.
pub struct Placed<'a> {
    /// The pool it is in, or was.
    pub pool: &'a Arc<Pool>,
    /// The member.
    pub member: &'a Arc<Member>,
    /// Whether it was taken out of the configuration.
    pub retired: bool,
}

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

impl Request<'_> {
    /// Something that any member may do and that changes something.
    #[must_use]
    pub fn change() -> Self {
        Self { choice: Choice::Cheapest, reads: false, content: None }
    }
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
        (now, until): (u64, u64),
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
                let running = before.member(member.name.as_str()).map(|placed| placed.member);
                build_member((pool, member), shared, running)
                    .map_err(|problem| BuildError { member: member.name.clone(), problem })
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
            || Arc::new(PoolMemory::new(settings, shared)),
            |pool| pool.memory.carried_over(settings, shared),
        )
    }

    /// The pool at a position of the configuration.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&Arc<Pool>> {
        self.pools.get(index)
    }

    /// Every pool.
    #[must_use]
    pub fn all(&self) -> &[Arc<Pool>] {
        &self.pools
    }

    /// Every member of every pool.
    pub fn members(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.pools.iter().flat_map(|pool| &pool.members)
    }

    /// A member by its name, also one that was taken out.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<Placed<'_>> {
        if let Some((pool, member)) = self.by_member.get(name) {
            return Some(Placed { pool: self.pools.get(*pool)?, member, retired: false });
        }
        let retired = self.retired.iter().find(|retired| retired.member.name.as_str() == name)?;
        Some(Placed { pool: &retired.pool, member: &retired.member, retired: true })
    }

    /// The members that were taken out and may still have upload sessions.
    pub fn retired(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.retired.iter().map(|retired| &retired.member)
    }

    /// Whether any member needs the clients' own passwords.
    #[must_use]
    pub fn need_passwords(&self) -> bool {
        self.pools.iter().any(|pool| pool.needs_passwords)
    }
}

impl Pool {
    /// The members to try, in this order.
    #[must_use]
    pub fn candidates(&self, request: Request<'_>) -> Vec<Arc<Member>> {
        let now_ms = monotonic_ms();
        let broken = |member: &Member| {
            request.content.is_some_and(|(quarantine, digest)| quarantine.holds(&member.name, digest))
        };
        let see = |(index, member): (usize, &Arc<Member>)| Seen {
            index,
            hash: member.hash,
            weight: member.weight_now(now_ms),
            tier: member.tier,
            standing: member.standing(),
            load: member.load(),
            latency: member.latency(now_ms),
            quarantined: broken(member),
        };
        let seen: Vec<Seen> = self.members.iter().enumerate().map(see).collect();
        let panic_percent = self.members.first().map_or(0, |member| member.probe.panic_percent);
        let order = order(&seen, request.choice, request.reads, panic_percent, seed());
        let mut candidates = order.into_iter().map(|index| Arc::clone(&self.members[index])).collect();
        leave_out_draining(&mut candidates);
        candidates
    }

    /// The choice that keeps what belongs to one key at one member, as far as its load allows.
    #[must_use]
    pub fn choice_by(&self, key: &str) -> Choice {
        Choice::Key(key_hash(key))
    }

    /// What decides on the home of a repository: its project in Harbor, else its whole name.
    #[must_use]
    pub fn home_key<'a>(&self, repository: &'a RepositoryName) -> &'a str {
        repository.project().filter(|_| self.has_nodes).unwrap_or_else(|| repository.as_str())
    }

    /// The members that serve, the home of a key first, in an order of the key's own; then those that are the last
    /// choice.
    #[must_use]
    pub fn candidates_from_home(&self, project: &str) -> Vec<Arc<Member>> {
        usable(self.in_home_order(project))
    }

    /// The home of a key, whether it serves or not: the member that writes and reads by tag go to
    /// where members do not share their content.
    #[must_use]
    pub fn home(&self, project: &str) -> Option<&Arc<Member>> {
        self.in_home_order(project).first().copied()
    }

    /// The member that was the home of a key before the list of members was changed, if it is still
    /// here and not the home now.
    #[must_use]
    pub fn previous_home(&self, project: &str) -> Option<&Arc<Member>> {
        let before = self.previous.iter().max_by_key(|name| rendezvous(project, name.as_str()))?;
        let member = self.members.iter().find(|member| member.name == *before)?;
        self.home(project).is_some_and(|home| home.name != member.name).then_some(member)
    }

    /// The members of a key other than its home that serve, in its order, then those that are the last choice: the
    /// first stands in.
    #[must_use]
    pub fn others_from_home(&self, project: &str) -> Vec<Arc<Member>> {
        let mut others = self.in_home_order(project);
        others.drain(..others.len().min(1));
        usable(others)
    }

    fn in_home_order(&self, project: &str) -> Vec<&Arc<Member>> {
        let mut members: Vec<&Arc<Member>> = self.members.iter().collect();
        // A plain registry beside Harbor nodes is nobody's home: Harbor would not know what it took.
        let wanted = |member: &&Arc<Member>| std::cmp::Reverse(rendezvous(project, member.name.as_str()));
        members.sort_by_cached_key(|member| (self.has_nodes && member.harbor.is_none(), wanted(member)));
        members
    }

    /// Whether any member can be asked.
    #[must_use]
    pub fn can_serve(&self) -> bool {
        self.members.iter().any(|member| member.is_usable())
    }
}

/// Those that serve, in their order, then those that are the last choice.
fn usable(mut members: Vec<&Arc<Member>>) -> Vec<Arc<Member>> {
    members.retain(|member| member.is_usable());
    members.sort_by_key(|member| !member.status().serves());
    members.into_iter().cloned().collect()
}

fn build_member(
    (pool, settings): (&PoolSettings, &MemberSettings),
    shared: &Shared,
    running: Option<&Arc<Member>>,
) -> Result<Arc<Member>, BuildProblem> {
    let likeness = Likeness::of(pool, settings);
    if let Some(running) = running.filter(|running| running.likeness == likeness) {
        return Ok(Arc::clone(running));
    }
    let metrics = shared.metrics.member(pool.name.as_str(), settings.name.as_str());
    let target = Target {
        member: settings.name.clone(),
        address: settings.address.clone(),
        tls: tls::build(&settings.address, &settings.tls)?,
    };
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
        state.draining.store(draining, Ordering::Release);
        state.returns.store(running.map_or(0, |running| running.returns()), Ordering::Release);
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
        address: settings.address.clone(),
        host: HeaderValue::try_from(authority(&settings.address)).map_err(|_| BuildProblem::Host)?,
        weight: settings.weight,
        tier: settings.tier,
        hash: hash_of(&settings.name),
        write_failover: pool.write_failover.filter(|_| pool.storage == Storage::Replicated),
        connections,
        credential: Credential::build(
            &settings.credential,
            keys,
            (shared.cache_entries_max, harbor.is_some()),
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
