//! One member at run time: its connections, credential, load and health.

mod account;
mod authorization;
mod draining;
mod likeness;
mod own;

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

pub use draining::{OpenUpload, leave_out_draining};
pub(super) use likeness::Likeness;

use super::connection::Connections;
use super::credential::Credential;
use super::door::Door;
use super::harbor::HarborNode;
use super::name::{MemberName, PoolName};
use super::settings::HealthSettings;
use crate::balance::blame::{ClientKey, Failures};
use crate::balance::health::{Health, Observation, Status, Thresholds, slow_start};
use crate::balance::{PeakEwma, Standing, Tier, key_hash};
use crate::random::monotonic_ms;
use crate::telemetry::{GaugeGuard, MemberMetrics, MemberStatus, ProbeResult};

/// One member at run time.
pub struct Member {
    /// Its name.
    pub name: MemberName,
    /// The pool it is in.
    pub pool: PoolName,
    /// Where it is, and how it is asked questions of our own.
    pub door: Door,
    /// Its share of the work.
    pub weight: u32,
    /// Whether it is always used, or only when no other member answers.
    pub tier: Tier,
    /// [`key_hash`] of its name.
    pub hash: u64,
    /// After so long another member takes the writes of which it is the home.
    pub write_failover: Option<Duration>,
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
    /// Whether requests have ejected it and its last probe was good.
    ejected_and_well: AtomicBool,
    health: Mutex<(Health, Option<String>)>,
    /// When it came back from being out, by [`monotonic_ms`]; 0 where it never was.
    back_since_ms: AtomicU64,
    /// Since when it is out, by [`monotonic_ms`]; 0 while it serves.
    out_since_ms: AtomicU64,
    /// Counts how often it came back after others may have taken writes in its place.
    pub(super) returns: AtomicU64,
    in_flight: AtomicUsize,
    /// Bytes of answers that are still to come.
    bytes_in_flight: AtomicU64,
    /// [`PeakEwma`] of the time to the first byte.
    latency: AtomicU64,
    /// Whether `failures` holds any: it is asked with every answer.
    has_failures: AtomicBool,
    /// Requests in a row that failed.
    failures: Mutex<Failures>,
    /// Upload sessions that were begun there and have not ended, as far as this process knows.
    pub(super) open_uploads: AtomicUsize,
    /// Whether it gets no new work.
    pub(super) draining: AtomicBool,
    missing_credential: AtomicBool,
    /// Since when nothing but the account of the probes is refused, by [`monotonic_ms`]; 0 where it is not.
    pub(super) account_refused_since_ms: AtomicU64,
    /// Whether the last probe that came so far saw that account taken.
    pub(super) account_taken: AtomicBool,
}

/// So many bytes under way weigh as much as one more request.
const BYTES_OF_A_REQUEST: f64 = 8.0 * 1024.0 * 1024.0;
/// A failure counts as an answer that took so long, in seconds: a member that fails fast must not look
/// quick.
const FAILURE_COUNTS_AS: f64 = 1.0;

impl MemberState {
    /// A member that was not probed yet.
    #[must_use]
    pub fn starting(metrics: &MemberMetrics) -> Self {
        metrics.set_state(MemberStatus::Starting);
        Self {
            probe_now: Notify::new(),
            control: tokio::sync::Mutex::new(None),
            status: AtomicU8::new(Status::Starting as u8),
            ejected_and_well: AtomicBool::new(false),
            health: Mutex::new((Health::default(), None)),
            back_since_ms: AtomicU64::new(0),
            out_since_ms: AtomicU64::new(0),
            returns: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            bytes_in_flight: AtomicU64::new(0),
            latency: AtomicU64::new(PeakEwma::default().to_bits()),
            has_failures: AtomicBool::new(false),
            failures: Mutex::default(),
            open_uploads: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            missing_credential: AtomicBool::new(false),
            account_refused_since_ms: AtomicU64::new(0),
            account_taken: AtomicBool::new(false),
        }
    }
}

impl MemberState {
    /// What is known of the member's health is out of date: it starts anew. What runs there, and its drain, stay.
    pub(super) fn restart(&self, metrics: &MemberMetrics) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        *health = (Health::default(), None);
        self.ejected_and_well.store(false, Ordering::Relaxed);
        self.back_since_ms.store(0, Ordering::Relaxed);
        self.out_since_ms.store(0, Ordering::Relaxed);
        self.status.store(Status::Starting as u8, Ordering::Relaxed);
        metrics.set_state(MemberStatus::Starting);
    }

    /// Where the member stands.
    #[must_use]
    pub(super) fn status(&self) -> Status {
        // With it comes what was counted before it was stored; see `publish`.
        let number = usize::from(self.status.load(Ordering::Acquire));
        Status::ALL.get(number).copied().unwrap_or(Status::Unhealthy)
    }
}

/// Counts a request at a member, and the bytes that it still has to send, while it lives.
pub struct InFlight {
    member: Arc<Member>,
    bytes: u64,
    _gauge: GaugeGuard,
}

impl InFlight {
    /// Counts one more request at `member`.
    #[must_use]
    pub fn new(member: &Arc<Member>) -> Self {
        member.state.in_flight.fetch_add(1, Ordering::Relaxed);
        Self { member: Arc::clone(member), bytes: 0, _gauge: GaugeGuard::new(&member.metrics.in_flight) }
    }

    /// The answer's body will have so many bytes.
    pub fn expect_bytes(&mut self, bytes: u64) {
        self.bytes = bytes;
        self.member.state.bytes_in_flight.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many of them have come.
    pub fn bytes_came(&mut self, bytes: usize) {
        let bytes = self.bytes.min(bytes as u64);
        self.bytes -= bytes;
        self.member.state.bytes_in_flight.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The member that the request is at.
    #[must_use]
    pub fn member(&self) -> &Arc<Member> {
        &self.member
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.member.state.bytes_in_flight.fetch_sub(self.bytes, Ordering::Relaxed);
        self.member.state.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Member {
    /// Where it stands.
    #[must_use]
    pub fn status(&self) -> Status {
        self.state.status()
    }

    /// Whether it may get work.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match self.status() {
            Status::Starting | Status::Healthy => Standing::Serves,
            Status::Ejected if self.is_last_choice() => Standing::LastChoice,
            Status::Unhealthy | Status::Ejected => Standing::Out,
            Status::CredentialFault => Standing::Never,
        }
    }

    /// Whether requests have ejected it although its probes are good: it is asked last, before a request is refused.
    #[must_use]
    pub fn is_last_choice(&self) -> bool {
        self.state.ejected_and_well.load(Ordering::Relaxed)
    }

    /// Whether it serves, or is the last choice.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.status().serves() || self.is_last_choice()
    }

    /// Its weight now: less than its own while it starts slowly.
    #[must_use]
    pub fn weight_now(&self, now_ms: u64) -> f64 {
        let weight = f64::from(self.weight.max(1));
        match self.state.back_since_ms.load(Ordering::Relaxed) {
            0 => weight,
            back => weight * slow_start(now_ms.saturating_sub(back), ms(self.probe.slow_start)),
        }
    }

    /// What is under way there, bytes in units of a request.
    #[must_use]
    pub fn load(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a comparison of loads needs no 53 bits")]
        let (requests, bytes) =
            (self.in_flight() as f64, self.state.bytes_in_flight.load(Ordering::Relaxed) as f64);
        requests + bytes / BYTES_OF_A_REQUEST
    }

    /// Its time to the first byte, in seconds, peaks counted.
    #[must_use]
    pub fn latency(&self, now_ms: u64) -> f64 {
        PeakEwma::from_bits(self.state.latency.load(Ordering::Relaxed)).seconds(word(now_ms))
    }

    /// The same in whole milliseconds, now.
    #[must_use]
    pub fn latency_ms(&self) -> u64 {
        u64::try_from(Duration::from_secs_f64(self.latency(monotonic_ms())).as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether it is used only when no other member answers.
    #[must_use]
    pub fn is_backup(&self) -> bool {
        self.tier == Tier::Backup
    }

    /// An answer began, after this time where that says how quick the member is.
    pub fn answered(&self, took: Option<Duration>) {
        if let Some(took) = took {
            self.metrics.observe_first_byte(took);
            self.sample(took.as_secs_f64());
        }
    }

    /// An answer has ended well.
    pub fn succeeded(&self) {
        // Nearly always nothing has failed, and nothing is written.
        if self.state.has_failures.load(Ordering::Relaxed) {
            self.forget_failures();
        }
    }

    fn forget_failures(&self) {
        let mut failures = self.state.failures.lock().unwrap_or_else(PoisonError::into_inner);
        *failures = Failures::default();
        self.state.has_failures.store(false, Ordering::Relaxed);
    }

    /// A request of a client failed by the member's fault. Returns those that have in a row, if they are enough to
    /// eject it.
    pub(super) fn failed(&self, client: Option<ClientKey>) -> Option<Failures> {
        self.sample(FAILURE_COUNTS_AS);
        let mut failures = self.state.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.add(client);
        self.state.has_failures.store(true, Ordering::Relaxed);
        (failures.number() >= self.probe.ejection.failures).then(|| failures.clone())
    }

    fn sample(&self, seconds: f64) {
        let now = word(monotonic_ms());
        // One of two samples at the same moment may be lost; the next makes up for it.
        let before = self.state.latency.load(Ordering::Relaxed);
        let after = PeakEwma::from_bits(before).with_sample(seconds, now);
        self.state.latency.store(after.to_bits(), Ordering::Relaxed);
    }

    /// Ejects it after failed requests, if `allowed`. Returns whether it was.
    pub(super) fn eject(&self, problem: &str, allowed: bool) -> bool {
        let mut health = self.state.health.lock().unwrap_or_else(PoisonError::into_inner);
        let ejected = health.0.eject(self.probe.ejection, allowed, monotonic_ms());
        let Some(status) = ejected else { return false };
        self.state.ejected_and_well.store(health.0.is_ejected_and_well(), Ordering::Relaxed);
        self.forget_failures();
        health.1 = Some(problem.to_owned());
        self.metrics.count_ejection();
        self.publish(health, status, problem);
        true
    }

    /// For how long it has been out; `None` while it serves.
    #[must_use]
    pub fn has_been_out(&self) -> Option<Duration> {
        match self.state.out_since_ms.load(Ordering::Relaxed) {
            0 => None,
            since => Some(Duration::from_millis(monotonic_ms().saturating_sub(since))),
        }
    }

    /// How often it came back after others may have taken writes in its place: while this is not 0,
    /// what it says of tags has to be compared with theirs.
    #[must_use]
    pub fn returns(&self) -> u64 {
        self.state.returns.load(Ordering::Relaxed)
    }

    /// It came back before this process began.
    pub fn has_returned(&self) {
        self.state.returns.fetch_max(1, Ordering::Relaxed);
    }

    /// For how long it will be out, where that is known.
    #[must_use]
    pub fn out_for(&self) -> Option<Duration> {
        let health = self.state.health.lock().unwrap_or_else(PoisonError::into_inner).0;
        health.ejected_until_ms().map(|until| Duration::from_millis(until.saturating_sub(monotonic_ms())))
    }

    /// Requests at the member now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.state.in_flight.load(Ordering::Relaxed)
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
        let changed = health.0.observe(seen, thresholds, monotonic_ms());
        self.state.ejected_and_well.store(health.0.is_ejected_and_well(), Ordering::Relaxed);
        if seen != Observation::Good {
            health.1 = problem.map(str::to_owned);
        }
        let Some(status) = changed else { return };
        if status == Status::Healthy {
            health.1 = None;
        }
        self.publish(health, status, problem.unwrap_or("unknown"));
    }

    /// It is well, and the account of its probes is refused everywhere: that says nothing about it.
    pub(super) fn serves_without_account(&self, problem: &str) {
        let mut health = self.state.health.lock().unwrap_or_else(PoisonError::into_inner);
        let rise = if health.0.status() == Status::CredentialFault { 1 } else { self.probe.rise };
        let thresholds = Thresholds { rise, fall: self.probe.fall };
        let changed = health.0.observe(Observation::Good, thresholds, monotonic_ms());
        self.state.ejected_and_well.store(health.0.is_ejected_and_well(), Ordering::Relaxed);
        health.1 = Some(format!("serves, although {problem}"));
        if let Some(status) = changed {
            self.publish(health, status, problem);
        }
    }

    pub(super) fn forget_problem(&self) {
        self.state.health.lock().unwrap_or_else(PoisonError::into_inner).1 = None;
    }

    fn publish(&self, health: MutexGuard<'_, (Health, Option<String>)>, status: Status, reason: &str) {
        self.state.back_since_ms.store(health.0.back_since_ms().unwrap_or(0), Ordering::Relaxed);
        self.state.out_since_ms.store(health.0.out_since_ms().unwrap_or(0), Ordering::Relaxed);
        let was_out = health.0.back_since_ms().is_some();
        if status == Status::Healthy && was_out && self.write_failover.is_some() {
            // Before it serves again, so that no request takes its word unasked. However short we saw it
            // out: another gateway may have seen more of it, and have let others take its writes.
            self.state.returns.fetch_add(1, Ordering::Relaxed);
        }
        // A request that sees it serve sees the return that was counted before it.
        self.state.status.store(status as u8, Ordering::Release);
        // Before the state can change again, or the metric might keep an older one.
        self.metrics.set_state(label(status));
        drop(health);
        let (member, pool) = (self.name.as_str(), self.pool.as_str());
        if status.serves() {
            tracing::info!(member, pool, "member is healthy");
            return;
        }
        self.connections.close_idle();
        let out_for = self.out_for().map(|time| format!("{time:?}"));
        tracing::warn!(member, pool, state = label(status).as_str(), reason, out_for, "member is out");
    }

    /// A connect for a client's request failed: that counts like a failed probe, and the prober
    /// looks at once.
    pub fn connect_failed(&self, problem: &str) {
        self.observe(Observation::Bad, Some(problem));
        self.ask_for_probe();
    }

    /// The member refused a request although no credential is configured for it. Said once.
    pub fn warn_of_missing_credential(&self) {
        if !self.state.missing_credential.swap(true, Ordering::Relaxed) {
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
        Status::Ejected => MemberStatus::Ejected,
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds as [`PeakEwma`] counts them, which wrap around.
fn word(ms: u64) -> u32 {
    (ms % (1 << 32)) as u32
}

/// The hash of a member's name.
pub(super) fn hash_of(name: &MemberName) -> u64 {
    key_hash(name.as_str())
}
