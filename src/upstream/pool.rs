//! The pools and their members, built once from the settings.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use http::HeaderValue;
use moka::sync::Cache;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio_util::task::TaskTracker;

use super::connection::{Connections, Target};
use super::credential::{Credential, MemberKeys};
use super::harbor::HarborNode;
use super::member::{Member, MemberState, hash_of};
use super::name::{MemberName, PoolName};
use super::quarantine::Quarantine;
use super::settings::{
    CredentialSettings, MemberAddress, MemberKeySource, MemberKind, MemberSettings, PoolSettings, Storage,
    UpstreamLimits,
};
use super::stand_in::StandIns;
use super::tls::{self, MemberTlsError};
use crate::auth::keys::{KeyError, Ring, SigningKey};
use crate::balance::budget::RetryBudget;
use crate::balance::health::Status;
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
    /// [`RetryBudget`] of all its requests.
    budget: AtomicU64,
    /// Ejections are decided one after the other, so that the cap holds.
    ejecting: Mutex<()>,
    /// Where repositories were written to lately.
    written: Cache<RepositoryName, MemberName>,
    /// The members before the list was changed.
    previous: Vec<MemberName>,
    /// What was written while homes were out.
    pub stand_ins: StandIns,
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
}

impl Request<'_> {
    /// Something that any member may do and that changes something.
    #[must_use]
    pub fn change() -> Self {
        Self { choice: Choice::Cheapest, reads: false, content: None }
    }

    /// Something that any member may be asked.
    #[must_use]
    pub fn read() -> Self {
        Self { choice: Choice::Cheapest, reads: true, content: None }
    }
}

impl Pools {
    /// Builds every member.
    ///
    /// # Errors
    /// [`BuildError`] when a key, certificate or host is unusable.
    pub fn build(settings: &[PoolSettings], shared: &Shared) -> Result<Self, BuildError> {
        let mut pools = Vec::new();
        let mut by_member = HashMap::new();
        for (at, pool) in settings.iter().enumerate() {
            let build = |member: &MemberSettings| {
                build_member(pool, member, shared)
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
                budget: AtomicU64::new(RetryBudget::full(pool.limits.retry, monotonic_ms()).to_bits()),
                ejecting: Mutex::new(()),
                written: Cache::builder()
                    .max_capacity(shared.cache_entries_max)
                    .time_to_live(pool.read_your_writes)
                    .build(),
                previous: pool.previous_members.clone(),
                stand_ins: StandIns::new(shared.cache_entries_max),
                name: pool.name.clone(),
                storage: pool.storage,
                portal: pool.portal,
                limits: pool.limits.clone(),
                members,
            }));
        }
        Ok(Self { pools, by_member })
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

    /// A member by its name, with its pool's position.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<(usize, &Arc<Member>)> {
        self.by_member.get(name).map(|(pool, member)| (*pool, member))
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
        order.into_iter().map(|index| Arc::clone(&self.members[index])).collect()
    }

    /// The choice that keeps what belongs to one key at one member, as far as its load allows.
    #[must_use]
    pub fn choice_by(&self, key: &str) -> Choice {
        Choice::Key(key_hash(key))
    }

    /// A request failed by a member's fault; after several in a row the member is ejected, unless
    /// too many of the pool are.
    pub fn member_failed(&self, member: &Member, problem: &str) {
        if member.failed() < member.probe.ejection.failures || !member.status().serves() {
            return;
        }
        let _one_at_a_time = self.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
        let ejected = self.members.iter().filter(|member| member.status() == Status::Ejected).count();
        let allowed = member.probe.ejection.allow(self.members.len(), ejected);
        member.eject(problem, allowed);
        member.ask_for_probe();
    }

    /// One more request, which earns its share of a retry.
    pub fn count_request(&self) {
        let bits = self.budget.load(Ordering::Relaxed);
        let earned = RetryBudget::from_bits(bits).with_request(self.limits.retry).to_bits();
        if earned != bits {
            // A share that is lost to another request at the same moment is no loss.
            let _ = self.budget.compare_exchange_weak(bits, earned, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// Whether a request may be made again; if so, that is counted.
    #[must_use]
    pub fn may_retry(&self) -> bool {
        let rules = self.limits.retry;
        let now_ms = monotonic_ms();
        let spend = |bits| {
            let spent = RetryBudget::from_bits(bits).at(rules, now_ms).with_retry();
            spent.map(RetryBudget::to_bits)
        };
        let spent = self.budget.fetch_update(Ordering::AcqRel, Ordering::Acquire, spend).is_ok();
        if spent { &self.metrics.retries } else { &self.metrics.retries_refused }.inc();
        self.metrics.budget_left.set(i64::from(self.retries_left()));
        spent
    }

    /// Whole retries that the budget allows now.
    #[must_use]
    pub fn retries_left(&self) -> u32 {
        let budget = RetryBudget::from_bits(self.budget.load(Ordering::Acquire));
        budget.at(self.limits.retry, monotonic_ms()).left()
    }

    /// A repository was written to at a member.
    pub fn wrote(&self, repository: &RepositoryName, member: &Member) {
        self.written.insert(repository.clone(), member.name.clone());
    }

    /// The member where a repository was written to lately.
    #[must_use]
    pub fn last_written_at(&self, repository: &RepositoryName) -> Option<MemberName> {
        self.written.get(repository)
    }

    /// What decides on the home of a repository: its project in Harbor, else its whole name.
    #[must_use]
    pub fn home_key<'a>(&self, repository: &'a RepositoryName) -> &'a str {
        repository.project().filter(|_| self.has_nodes).unwrap_or_else(|| repository.as_str())
    }

    /// The members that serve, the home of a key first, in an order of the key's own.
    #[must_use]
    pub fn candidates_from_home(&self, project: &str) -> Vec<Arc<Member>> {
        let serving = self.in_home_order(project).into_iter().filter(|member| member.status().serves());
        serving.cloned().collect()
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

    /// The members of a key other than its home that serve, in its order: the first stands in.
    #[must_use]
    pub fn others_from_home(&self, project: &str) -> Vec<Arc<Member>> {
        let others = self.in_home_order(project).into_iter().skip(1);
        others.filter(|member| member.status().serves()).cloned().collect()
    }

    fn in_home_order(&self, project: &str) -> Vec<&Arc<Member>> {
        let mut members: Vec<&Arc<Member>> = self.members.iter().collect();
        // A plain registry beside Harbor nodes is nobody's home: Harbor would not know what it took.
        let wanted = |member: &&Arc<Member>| std::cmp::Reverse(rendezvous(project, member.name.as_str()));
        members.sort_by_cached_key(|member| (self.has_nodes && member.harbor.is_none(), wanted(member)));
        members
    }

    /// Whether any member serves.
    #[must_use]
    pub fn can_serve(&self) -> bool {
        self.members.iter().any(|member| member.status().serves())
    }
}

fn build_member(
    pool: &PoolSettings,
    settings: &MemberSettings,
    shared: &Shared,
) -> Result<Arc<Member>, BuildProblem> {
    let metrics = shared.metrics.member(pool.name.as_str(), settings.name.as_str());
    let target = Target {
        member: settings.name.clone(),
        address: settings.address.clone(),
        tls: tls::build(&settings.address, &settings.tls)?,
    };
    let connections = Connections::new(
        target,
        pool.limits.clone(),
        shared.workers,
        shared.drivers.clone(),
        metrics.connections.clone(),
    );
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
        state: MemberState::starting(&metrics),
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
