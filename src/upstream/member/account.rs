//! What probes of a Harbor node have shown of the account that they use.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Member;
use crate::random::monotonic_ms;

impl Member {
    /// A probe saw the account of the probes taken.
    pub(in crate::upstream) fn account_was_taken(&self) {
        self.state.account_taken.store(true, Ordering::Relaxed);
        if self.state.account_refused_since_ms.swap(0, Ordering::Relaxed) != 0 {
            self.forget_problem();
        }
    }

    /// A probe was refused, the account or something else.
    pub(in crate::upstream) fn account_is_in_doubt(&self) {
        self.state.account_taken.store(false, Ordering::Relaxed);
    }

    pub(in crate::upstream) fn account_was_refused(&self) {
        self.account_is_in_doubt();
        let since = &self.state.account_refused_since_ms;
        if since.load(Ordering::Relaxed) == 0 {
            since.store(monotonic_ms(), Ordering::Relaxed);
        }
    }

    /// Whether the account of the probes is refused there while nothing else is, as far as is known.
    #[must_use]
    pub fn is_account_refused(&self) -> bool {
        self.account_refused_for().is_some()
    }

    /// For how long nothing but the account of the probes has been refused there; `None` where it is not.
    #[must_use]
    pub(in crate::upstream) fn account_refused_for(&self) -> Option<Duration> {
        match self.state.account_refused_since_ms.load(Ordering::Relaxed) {
            0 => None,
            since => Some(Duration::from_millis(monotonic_ms().saturating_sub(since))),
        }
    }
}
