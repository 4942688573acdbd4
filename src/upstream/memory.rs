//! What a pool remembers beyond one request, and beyond a reload: its retry budget, where it was
//! written to, and what others took for homes that were out.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moka::sync::Cache;

use super::member::Member;
use super::name::MemberName;
use super::pool::Pool;
use super::settings::PoolSettings;
use super::stand_in::StandIns;
use crate::balance::budget::RetryBudget;
use crate::balance::health::Status;
use crate::random::monotonic_ms;
use crate::registry::RepositoryName;

/// The memory of one pool.
pub struct PoolMemory {
    /// [`RetryBudget`] of all its requests.
    budget: AtomicU64,
    /// Ejections are decided one after the other, so that the cap holds.
    ejecting: Mutex<()>,
    /// Where repositories were written to lately.
    written: Cache<RepositoryName, MemberName>,
    read_your_writes: Duration,
    /// What was written while homes were out.
    pub stand_ins: Arc<StandIns>,
}

impl PoolMemory {
    pub(super) fn new(settings: &PoolSettings, entries_max: u64) -> Self {
        Self {
            budget: AtomicU64::new(RetryBudget::full(settings.limits.retry, monotonic_ms()).to_bits()),
            ejecting: Mutex::new(()),
            written: Cache::builder()
                .max_capacity(entries_max)
                .time_to_live(settings.read_your_writes)
                .build(),
            read_your_writes: settings.read_your_writes,
            stand_ins: Arc::new(StandIns::new(entries_max)),
        }
    }

    /// The memory of the same pool under other settings. What others took for its homes is never
    /// forgotten by a reload.
    pub(super) fn carried_over(self: &Arc<Self>, settings: &PoolSettings, entries_max: u64) -> Arc<Self> {
        if self.read_your_writes == settings.read_your_writes {
            return Arc::clone(self);
        }
        Arc::new(Self { stand_ins: Arc::clone(&self.stand_ins), ..Self::new(settings, entries_max) })
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.ejecting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    /// A request failed by a member's fault; after several in a row the member is ejected, unless
    /// too many of the pool are.
    pub fn member_failed(&self, member: &Member, problem: &str) {
        if member.failed() < member.probe.ejection.failures || !member.status().serves() {
            return;
        }
        let _one_at_a_time = self.memory.lock();
        let ejected = self.members.iter().filter(|member| member.status() == Status::Ejected).count();
        let allowed = member.probe.ejection.allow(self.members.len(), ejected);
        member.eject(problem, allowed);
        member.ask_for_probe();
    }

    /// One more request, which earns its share of a retry.
    pub fn count_request(&self) {
        let bits = self.memory.budget.load(Ordering::Relaxed);
        let earned = RetryBudget::from_bits(bits).with_request(self.limits.retry).to_bits();
        if earned != bits {
            // A share that is lost to another request at the same moment is no loss.
            let _ =
                self.memory.budget.compare_exchange_weak(bits, earned, Ordering::AcqRel, Ordering::Relaxed);
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
        let spent = self.memory.budget.fetch_update(Ordering::AcqRel, Ordering::Acquire, spend).is_ok();
        if spent { &self.metrics.retries } else { &self.metrics.retries_refused }.inc();
        self.metrics.budget_left.set(i64::from(self.retries_left()));
        spent
    }

    /// Whole retries that the budget allows now.
    #[must_use]
    pub fn retries_left(&self) -> u32 {
        let budget = RetryBudget::from_bits(self.memory.budget.load(Ordering::Acquire));
        budget.at(self.limits.retry, monotonic_ms()).left()
    }

    /// A repository was written to at a member.
    pub fn wrote(&self, repository: &RepositoryName, member: &Member) {
        self.memory.written.insert(repository.clone(), member.name.clone());
    }

    /// The member where a repository was written to lately.
    #[must_use]
    pub fn last_written_at(&self, repository: &RepositoryName) -> Option<MemberName> {
        self.memory.written.get(repository)
    }
}
