//! The retry budget of a pool: retries may be a share of the requests, and some a second besides,
//! so that a pool that is down is not asked many times over by every client.

/// Thousandths in a retry.
const MILLI: u32 = 1000;
/// For so many seconds the budget of a quiet pool is saved up.
const SAVED_SECONDS: u32 = 10;
/// The time is counted in steps of so many milliseconds, so that it fits a word for 13 years.
const STEP_MS: u64 = 100;

/// What a pool may spend on retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryRules {
    /// Retries per hundred requests.
    pub percent: u32,
    /// Retries per second besides.
    pub per_second: u32,
}

/// What is left of a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryBudget {
    /// In thousandths of a retry.
    left: u32,
    /// Until when the time's share is counted in, in steps of the caller's clock.
    counted: u32,
}

impl RetryBudget {
    /// A full budget.
    #[must_use]
    pub fn full(rules: RetryRules, now_ms: u64) -> Self {
        Self { left: rules.most(), counted: step(now_ms) }
    }

    /// From its word, as [`RetryBudget::to_bits`] gave it.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "the two halves of the word")]
        let (left, counted) = ((bits >> 32) as u32, bits as u32);
        Self { left, counted }
    }

    /// As one word, for an atomic.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        u64::from(self.left) << 32 | u64::from(self.counted)
    }

    /// The budget now: the time's share since it was last counted comes on top.
    #[must_use]
    pub fn at(self, rules: RetryRules, now_ms: u64) -> Self {
        let now = step(now_ms);
        let earned = now.saturating_sub(self.counted).saturating_mul(rules.of_a_step());
        Self { left: self.left.saturating_add(earned).min(rules.most()), counted: self.counted.max(now) }
    }

    /// The budget after one more request.
    #[must_use]
    pub fn with_request(self, rules: RetryRules) -> Self {
        let earned = rules.percent.saturating_mul(MILLI / 100);
        Self { left: self.left.saturating_add(earned).min(rules.most()), ..self }
    }

    /// The budget after a retry; `None` where there is nothing left for one.
    #[must_use]
    pub fn with_retry(self) -> Option<Self> {
        self.left.checked_sub(MILLI).map(|left| Self { left, ..self })
    }

    /// Whole retries that are left.
    #[must_use]
    pub fn left(self) -> u32 {
        self.left / MILLI
    }
}

impl RetryRules {
    /// A budget is never larger than this, in thousandths.
    fn most(self) -> u32 {
        self.per_second.saturating_mul(SAVED_SECONDS).saturating_add(self.percent).saturating_mul(MILLI)
    }

    /// What one step of time earns, in thousandths.
    fn of_a_step(self) -> u32 {
        self.per_second.saturating_mul(MILLI / 10)
    }
}

fn step(now_ms: u64) -> u32 {
    u32::try_from(now_ms / STEP_MS).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: RetryRules = RetryRules { percent: 20, per_second: 10 };

    fn spend_all(mut budget: RetryBudget) -> (RetryBudget, u64) {
        let mut spent = 0;
        while let Some(next) = budget.with_retry() {
            budget = next;
            spent += 1;
        }
        (budget, spent)
    }

    #[test]
    fn retries_are_a_share_of_the_requests_and_some_a_second() {
        let (empty, saved) = spend_all(RetryBudget::full(RULES, 0));
        assert_eq!(saved, 120);
        let (_, of_a_second) = spend_all(empty.at(RULES, 1000));
        assert_eq!(of_a_second, 10);
        let after_requests = (0..50).fold(empty, |budget, _| budget.with_request(RULES));
        assert_eq!(spend_all(after_requests).1, 10);
        assert_eq!(spend_all(empty.at(RULES, 1_000_000)).1, 120, "no more than is saved up");
    }

    #[test]
    fn a_clock_that_lags_gives_nothing_twice() {
        let (empty, _) = spend_all(RetryBudget::full(RULES, 0));
        let later = empty.at(RULES, 2000);
        assert_eq!(later.at(RULES, 1000), later);
        assert_eq!(later.at(RULES, 2000).left(), 20);
        assert_eq!(RetryBudget::from_bits(later.to_bits()), later);
    }

    #[test]
    fn with_nothing_allowed_there_is_no_retry() {
        let none = RetryRules { percent: 0, per_second: 0 };
        assert_eq!(RetryBudget::full(none, 0).at(none, 99_999).with_request(none).with_retry(), None);
    }
}
