//! What a pool remembers beyond one request, and beyond a reload: its retry budget, where it was
//! written to, and what others took for homes that were out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use moka::sync::Cache;

use super::ejections::Ejections;
use super::member::Member;
use super::name::MemberName;
use super::pool::{Pool, Shared};
use super::settings::PoolSettings;
use super::stand_in::StandIns;
use crate::balance::budget::RetryBudget;
use crate::random::monotonic_ms;
use crate::registry::RepositoryName;

/// The memory of one pool.
pub struct PoolMemory {
    /// [`RetryBudget`] of all its requests.
    budget: AtomicU64,
    /// Whether it was said that every node refuses the account of the probes.
    pub(super) account_alarm: AtomicBool,
    /// Those of all pools.
    pub(super) ejections: Arc<Ejections>,
    /// Where repositories were written to lately.
    written: Cache<RepositoryName, MemberName>,
    read_your_writes: Duration,
    /// What was written while homes were out.
    pub stand_ins: Arc<StandIns>,
}

impl PoolMemory {
    pub(super) fn new(settings: &PoolSettings, shared: &Shared) -> Self {
        let entries_max = shared.cache_entries_max;
        Self {
            budget: AtomicU64::new(RetryBudget::full(settings.limits.retry, monotonic_ms()).to_bits()),
            account_alarm: AtomicBool::new(false),
            ejections: Arc::clone(&shared.ejections),
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
    pub(super) fn carried_over(self: &Arc<Self>, settings: &PoolSettings, shared: &Shared) -> Arc<Self> {
        if self.read_your_writes == settings.read_your_writes {
            return Arc::clone(self);
        }
        let account_alarm = AtomicBool::new(self.account_alarm.load(Ordering::Acquire));
        Arc::new(Self {
            account_alarm,
            stand_ins: Arc::clone(&self.stand_ins),
            ..Self::new(settings, shared)
        })
    }
}

impl Pool {
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
