//! How many requests a pool may make again, and where its repositories were written to lately.

use std::sync::atomic::Ordering;

use super::Pool;
use crate::balance::budget::RetryBudget;
use crate::random::monotonic_ms;
use crate::registry::RepositoryName;
use crate::upstream::member::Member;
use crate::upstream::name::MemberName;

impl Pool {
    /// One more request, which earns its share of a retry.
    pub fn count_request(&self) {
        let bits = self.memory.budget.load(Ordering::Relaxed);
        let earned = RetryBudget::from_bits(bits).with_request(self.limits.retry).to_bits();
        if earned != bits {
            // A share that is lost to another request at the same moment is no loss.
            let _ =
                self.memory.budget.compare_exchange_weak(bits, earned, Ordering::Relaxed, Ordering::Relaxed);
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
        let spent = self.memory.budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).is_ok();
        if spent { &self.metrics.retries } else { &self.metrics.retries_refused }.inc();
        self.metrics.budget_left.set(i64::from(self.retries_left()));
        spent
    }

    /// Whole retries that the budget allows now.
    #[must_use]
    pub fn retries_left(&self) -> u32 {
        let budget = RetryBudget::from_bits(self.memory.budget.load(Ordering::Relaxed));
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
