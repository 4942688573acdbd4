//! An answer that its member's connection can be taken back from, for a client that waits: what is missing is asked
//! for again when the reader comes for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::random::monotonic_ms;

/// An answer from which the reader has not taken anything for so long is taken back first, in milliseconds.
const UNREAD_FOR_MS: u64 = 1000;
/// An answer that cannot go on is ended when its client has read nothing for so long, in milliseconds.
const UNREAD_TO_THE_END_MS: u64 = 10_000;
/// An answer that is read is served for so long before it is taken back, in milliseconds: each turn gets on by that.
const SERVED_FOR_MS: u64 = 5000;

/// What is gained by taking an answer back. An answer that is not read comes before one that is, however long either lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Gain {
    /// It was served for so long, in milliseconds.
    Served(u64),
    /// Its client has read nothing for so long, in milliseconds.
    Unread(u64),
}

/// What can be taken back.
pub(super) trait TakeBack: Send + Sync + std::fmt::Debug {
    /// What is gained by taking it back, `None` where it is not to be taken yet. `since_ms` is when it began.
    fn gain(&self, since_ms: u64, now_ms: u64) -> Option<Gain>;

    /// Takes it back. Returns whether it was still there.
    fn take_back(&self) -> bool;
}

/// What becomes of an answer whose connection is taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakenBack {
    /// It goes on in its turn.
    GoesOn,
    /// It ends. Only an answer that is not read for long is taken so.
    Ends,
}

/// A value that holds a connection, in a place from which it can be taken.
pub struct Reclaimable<T> {
    place: Mutex<Place<T>>,
    /// Since when the reader has not come for more, by [`monotonic_ms`]; 0 while the member is waited for.
    unread_since_ms: AtomicU64,
    taken: TakenBack,
}

struct Place<T> {
    value: Option<T>,
    /// The reader, while it waits for the value.
    reader: Option<Waker>,
}

impl<T> std::fmt::Debug for Reclaimable<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reclaimable(unread since {})", self.unread_since_ms.load(Ordering::Relaxed))
    }
}

impl<T> Reclaimable<T> {
    /// A value that can be taken back. Nothing of it was read yet.
    #[must_use]
    pub fn new(value: T, taken: TakenBack) -> Arc<Self> {
        let place = Mutex::new(Place { value: Some(value), reader: None });
        Arc::new(Self { place, unread_since_ms: AtomicU64::new(monotonic_ms()), taken })
    }

    fn lock(&self) -> MutexGuard<'_, Place<T>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the value; `None` when it was taken back.
    pub fn with<R>(&self, look: impl FnOnce(&mut Option<T>) -> R) -> R {
        look(&mut self.lock().value)
    }

    /// Polls the value for its reader, which is woken when it is taken back meanwhile.
    pub fn poll<R>(
        &self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>, &mut Option<T>) -> Poll<R>,
    ) -> Poll<R> {
        self.unread_since_ms.store(0, Ordering::Relaxed);
        let mut place = self.lock();
        let polled = poll(cx, &mut place.value);
        if polled.is_ready() {
            self.unread_since_ms.store(monotonic_ms(), Ordering::Relaxed);
        } else if place.reader.as_ref().is_none_or(|reader| !reader.will_wake(cx.waker())) {
            place.reader = Some(cx.waker().clone());
        }
        polled
    }
}

impl<T: Send> TakeBack for Reclaimable<T> {
    fn gain(&self, since_ms: u64, now_ms: u64) -> Option<Gain> {
        gain(self.taken, self.unread_since_ms.load(Ordering::Relaxed), since_ms, now_ms)
    }

    fn take_back(&self) -> bool {
        let mut place = self.lock();
        let (taken, reader) = (place.value.take(), place.reader.take());
        drop(place);
        let was_there = taken.is_some();
        // Dropped outside the lock: it gives its connection back, and that looks at other answers.
        drop(taken);
        if let Some(reader) = reader {
            reader.wake();
        }
        was_there
    }
}

fn gain(taken: TakenBack, unread_since_ms: u64, since_ms: u64, now_ms: u64) -> Option<Gain> {
    let unread_max = match taken {
        TakenBack::GoesOn => UNREAD_FOR_MS,
        TakenBack::Ends => UNREAD_TO_THE_END_MS,
    };
    let unread = (unread_since_ms > 0).then(|| now_ms.saturating_sub(unread_since_ms));
    if let Some(unread) = unread.filter(|unread| *unread >= unread_max) {
        return Some(Gain::Unread(unread));
    }
    let served = now_ms.saturating_sub(since_ms);
    (taken == TakenBack::GoesOn && served >= SERVED_FOR_MS).then_some(Gain::Served(served))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_reads_is_taken_back_first_and_each_turn_gets_on() {
        use TakenBack::{Ends, GoesOn};
        let now = 100_000;
        for (what, taken, unread_since, since, expected) in [
            ("just begun", GoesOn, 0, now - 100, None),
            ("read, and not for long", GoesOn, 0, now - 4_999, None),
            ("given something just now", GoesOn, now - 999, now - 4_999, None),
            ("unread", GoesOn, now - 1_000, now - 1_000, Some(Gain::Unread(1_000))),
            ("read for long", GoesOn, now - 10, now - 5_000, Some(Gain::Served(5_000))),
            ("the member is slow", GoesOn, 0, now - 60_000, Some(Gain::Served(60_000))),
            ("unread for a moment, and could not go on", Ends, now - 9_999, now - 60_000, None),
            ("unread for long", Ends, now - 10_000, now - 10_000, Some(Gain::Unread(10_000))),
            ("read, and could not go on", Ends, 0, now - 60_000, None),
        ] {
            assert_eq!(gain(taken, unread_since, since, now), expected, "{what}");
        }
        assert!(Gain::Unread(1) > Gain::Served(u64::MAX), "what nobody reads comes first");
    }

    #[test]
    fn it_is_taken_back_once_and_its_reader_hears_of_it() {
        use std::sync::atomic::AtomicUsize;
        use std::task::Wake;

        struct Woken(AtomicUsize);
        impl Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let woken = Arc::new(Woken(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&woken));
        let reclaimable = Reclaimable::new(1, TakenBack::GoesOn);
        let polled = reclaimable.poll(&mut Context::from_waker(&waker), |_, value| {
            assert_eq!(*value, Some(1));
            Poll::<()>::Pending
        });
        assert!(polled.is_pending());
        assert!(reclaimable.take_back() && !reclaimable.take_back());
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
        assert!(reclaimable.with(|value| value.is_none()));
    }
}
