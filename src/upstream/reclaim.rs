//! An answer that its member's connection can be taken back from, for a client that waits: what is missing is asked
//! for again when the reader comes for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::random::monotonic_ms;

/// An answer from which the reader has not taken anything for so long is taken back first, in milliseconds.
const UNREAD_FOR_MS: u64 = 1000;
/// An answer that is read is served for so long before it is taken back, in milliseconds: each turn gets on by that.
const SERVED_FOR_MS: u64 = 5000;

/// What can be taken back.
pub(super) trait TakeBack: Send + Sync + std::fmt::Debug {
    /// How much is gained by taking it back, `None` where it is not to be taken yet. `since_ms` is when it began.
    fn gain(&self, since_ms: u64, now_ms: u64) -> Option<u64>;

    /// Takes it back. Returns whether it was still there.
    fn take_back(&self) -> bool;
}

/// A value that holds a connection, in a place from which it can be taken.
pub struct Reclaimable<T> {
    value: Mutex<Option<T>>,
    /// Since when the reader has not come for more, by [`monotonic_ms`]; 0 while the member is waited for.
    unread_since_ms: AtomicU64,
}

impl<T> std::fmt::Debug for Reclaimable<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reclaimable(unread since {})", self.unread_since_ms.load(Ordering::Relaxed))
    }
}

impl<T> Reclaimable<T> {
    /// A value that can be taken back. Nothing of it was read yet.
    #[must_use]
    pub fn new(value: T) -> Arc<Self> {
        Arc::new(Self { value: Mutex::new(Some(value)), unread_since_ms: AtomicU64::new(monotonic_ms()) })
    }

    /// Looks at the value; `None` when it was taken back.
    pub fn with<R>(&self, look: impl FnOnce(&mut Option<T>) -> R) -> R {
        look(&mut self.value.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The reader comes for more.
    pub fn is_read(&self) {
        self.unread_since_ms.store(0, Ordering::Relaxed);
    }

    /// The reader was given something, and it is its turn.
    pub fn was_given(&self) {
        self.unread_since_ms.store(monotonic_ms(), Ordering::Relaxed);
    }
}

impl<T: Send> TakeBack for Reclaimable<T> {
    fn gain(&self, since_ms: u64, now_ms: u64) -> Option<u64> {
        gain(self.unread_since_ms.load(Ordering::Relaxed), since_ms, now_ms)
    }

    fn take_back(&self) -> bool {
        // Dropped outside the lock: it gives its connection back, and that looks at other answers.
        let taken = self.with(Option::take);
        taken.is_some()
    }
}

/// What nobody reads comes before what is read, however long either lasts.
fn gain(unread_since_ms: u64, since_ms: u64, now_ms: u64) -> Option<u64> {
    const UNREAD: u64 = 1 << 62;
    let unread = (unread_since_ms > 0).then(|| now_ms.saturating_sub(unread_since_ms));
    if let Some(unread) = unread.filter(|unread| *unread >= UNREAD_FOR_MS) {
        return Some(UNREAD.saturating_add(unread));
    }
    Some(now_ms.saturating_sub(since_ms)).filter(|served| *served >= SERVED_FOR_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_reads_is_taken_back_first_and_each_turn_gets_on() {
        let now = 100_000;
        for (what, unread_since, since, expected) in [
            ("just begun", 0, now - 100, None),
            ("read, and not for long", 0, now - 4_999, None),
            ("given something just now", now - 999, now - 4_999, None),
            ("unread", now - 1_000, now - 1_000, Some(true)),
            ("read for long", now - 10, now - 5_000, Some(false)),
            ("the member is slow", 0, now - 60_000, Some(false)),
        ] {
            let gain = gain(unread_since, since, now);
            assert_eq!(gain.map(|gain| gain >= 1 << 62), expected, "{what}");
        }
    }

    #[test]
    fn it_is_taken_back_once() {
        let reclaimable = Reclaimable::new(1);
        assert!(reclaimable.with(|value| value.is_some()));
        assert!(reclaimable.take_back() && !reclaimable.take_back());
        assert!(reclaimable.with(|value| value.is_none()));
    }
}
