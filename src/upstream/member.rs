//! One member at run time: its connections, credential, load and health.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderValue;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::connection::Connections;
use super::credential::Credential;
use super::harbor::HarborNode;
use super::likeness::Likeness;
use super::name::{MemberName, PoolName};
use super::settings::{HealthSettings, MemberAddress};
use crate::balance::health::{Health, Observation, Status, Thresholds};
use crate::telemetry::{GaugeGuard, MemberMetrics, MemberStatus, ProbeResult};

/// One member at run time.
pub struct Member {
    /// Its name.
    pub name: MemberName,
    /// The pool it is in.
    pub pool: PoolName,
    /// Where it is.
    pub address: MemberAddress,
    /// The `Host` that it is asked with.
    pub host: HeaderValue,
    /// Its share of the work.
    pub weight: u32,
    /// The connections to it.
    pub connections: Arc<Connections>,
    /// How we authenticate ourselves.
    pub credential: Credential,
    /// What is known of it where it is a Harbor node.
    pub harbor: Option<HarborNode>,
    /// Its metric handles.
    pub metrics: MemberMetrics,
    /// How it is probed.
    pub probe: HealthSettings,
    /// What it was made from.
    pub(super) likeness: Likeness,
    /// What changes while it is in use.
    pub state: Arc<MemberState>,
}

/// What changes of a member while it is in use.
#[derive(Debug)]
pub struct MemberState {
    /// Asks the prober for a probe at once.
    pub(super) probe_now: Notify,
    /// When the last control was made, and whether it passed.
    pub(super) control: tokio::sync::Mutex<Option<(Instant, bool)>>,
    status: AtomicU8,
    health: Mutex<(Health, Option<String>)>,
    in_flight: AtomicUsize,
    /// Upload sessions that were begun there and have not ended, as far as this process knows.
    pub(super) open_uploads: AtomicUsize,
    /// Whether it gets no new work.
    pub(super) draining: AtomicBool,
    missing_credential: AtomicBool,
}

impl MemberState {
    /// A member that was not probed yet.
    #[must_use]
    pub fn starting(metrics: &MemberMetrics) -> Self {
        metrics.set_state(MemberStatus::Starting);
        Self {
            probe_now: Notify::new(),
            control: tokio::sync::Mutex::new(None),
            status: AtomicU8::new(Status::Starting as u8),
            health: Mutex::new((Health::default(), None)),
            in_flight: AtomicUsize::new(0),
            open_uploads: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            missing_credential: AtomicBool::new(false),
        }
    }
}

/// Counts a request at a member while it lives.
pub struct InFlight {
    member: Arc<Member>,
    _gauge: GaugeGuard,
}

impl InFlight {
    /// Counts one more request at `member`.
    #[must_use]
    pub fn new(member: &Arc<Member>) -> Self {
        member.state.in_flight.fetch_add(1, Ordering::AcqRel);
        Self { member: Arc::clone(member), _gauge: GaugeGuard::new(&member.metrics.in_flight) }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.member.state.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Member {
    /// Where it stands.
    #[must_use]
    pub fn status(&self) -> Status {
        const ALL: [Status; 4] =
            [Status::Starting, Status::Healthy, Status::Unhealthy, Status::CredentialFault];
        ALL[usize::from(self.state.status.load(Ordering::Acquire)) % ALL.len()]
    }

    /// Requests at the member now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.state.in_flight.load(Ordering::Acquire)
    }

    /// Says in the metrics how it stands.
    pub(super) fn publish_state(&self) {
        // Under the lock, as where it changes.
        let health = self.state.health.lock().unwrap_or_else(PoisonError::into_inner);
        self.metrics.set_state(label(self.status()));
        self.metrics.draining.set(i64::from(self.is_draining()));
        drop(health);
    }

    /// What was last wrong with it.
    #[must_use]
    pub fn last_problem(&self) -> Option<String> {
        self.state.health.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    /// Whether the next probe should come soon.
    #[must_use]
    pub fn is_unsettled(&self) -> bool {
        self.state.health.lock().unwrap_or_else(PoisonError::into_inner).0.is_unsettled()
    }

    /// Takes in what a probe or a connect showed, and says so where the state changes.
    pub fn observe(&self, seen: Observation, problem: Option<&str>) {
        let thresholds = Thresholds { rise: self.probe.rise, fall: self.probe.fall };
        let mut health = self.state.health.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = health.0.observe(seen, thresholds);
        if seen != Observation::Good {
            health.1 = problem.map(str::to_owned);
        }
        let Some(status) = changed else { return };
        if status == Status::Healthy {
            health.1 = None;
        }
        self.state.status.store(status as u8, Ordering::Release);
        // Before anybody else can change the state, or the metric might keep an older one.
        self.metrics.set_state(label(status));
        drop(health);
        let (member, pool) = (self.name.as_str(), self.pool.as_str());
        if status.serves() {
            tracing::info!(member, pool, "member is healthy");
        } else {
            self.connections.close_idle();
            let reason = problem.unwrap_or("unknown");
            tracing::warn!(member, pool, state = label(status).as_str(), reason, "member is out");
        }
    }

    /// A connect for a client's request failed: that counts like a failed probe, and the prober
    /// looks at once.
    pub fn connect_failed(&self, problem: &str) {
        self.observe(Observation::Bad, Some(problem));
        self.ask_for_probe();
    }

    /// The member refused a request although no credential is configured for it. Said once.
    pub fn warn_of_missing_credential(&self) {
        if !self.state.missing_credential.swap(true, Ordering::AcqRel) {
            let (member, pool) = (self.name.as_str(), self.pool.as_str());
            tracing::warn!(
                member,
                pool,
                "member answers 401 and no credential is configured for it; set `credential`, or open the member"
            );
        }
    }

    /// Something looks wrong; whether it is, a probe says.
    pub fn ask_for_probe(&self) {
        self.state.probe_now.notify_one();
    }

    pub(super) fn count_probe(&self, seen: Observation) {
        self.metrics.count_probe(match seen {
            Observation::Good => ProbeResult::Healthy,
            Observation::Bad => ProbeResult::Failed,
            Observation::CredentialRefused => ProbeResult::CredentialFault,
        });
    }
}

/// The metric's word for a status.
#[must_use]
pub fn label(status: Status) -> MemberStatus {
    match status {
        Status::Starting => MemberStatus::Starting,
        Status::Healthy => MemberStatus::Healthy,
        Status::Unhealthy => MemberStatus::Unhealthy,
        Status::CredentialFault => MemberStatus::CredentialFault,
    }
}
