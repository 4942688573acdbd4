//! Rights to have a request at a member: exact in number, also after the number was changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// So many rights, handed out in order of arrival.
#[derive(Debug)]
pub(super) struct Permits {
    semaphore: Arc<Semaphore>,
    /// Permits that are out and too many since the number was lowered.
    debt: AtomicUsize,
}

/// One right. It ends with its request where the number was lowered.
#[derive(Debug)]
pub(super) struct Permit {
    permit: Option<OwnedSemaphorePermit>,
    of: Arc<Permits>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take()
            && self.of.owes()
        {
            permit.forget();
        }
    }
}

impl Permits {
    pub(super) fn new(most: usize) -> Arc<Self> {
        let semaphore = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
        Arc::new(Self { semaphore, debt: AtomicUsize::new(0) })
    }

    /// One, if there is any left and nobody waits for it.
    pub(super) fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        let permit = Arc::clone(&self.semaphore).try_acquire_owned().ok()?;
        Some(Permit { permit: Some(permit), of: Arc::clone(self) })
    }

    /// Waits for one.
    pub(super) async fn acquire(self: &Arc<Self>) -> Result<Permit, AcquireError> {
        let permit = Arc::clone(&self.semaphore).acquire_owned().await?;
        Ok(Permit { permit: Some(permit), of: Arc::clone(self) })
    }

    /// From now on there are `now`, not `before`. What is out beyond that is not taken back, and
    /// nothing begins in its place.
    pub(super) fn change(&self, before: usize, now: usize) {
        let (before, now) = (before.min(Semaphore::MAX_PERMITS), now.min(Semaphore::MAX_PERMITS));
        if now > before {
            let more = now - before;
            let pay = |debt: usize| Some(debt.saturating_sub(more));
            let debt = self.debt.fetch_update(Ordering::AcqRel, Ordering::Acquire, pay).unwrap_or(0);
            self.semaphore.add_permits(more.saturating_sub(debt));
        } else if now < before {
            // First, so that a permit that comes back meanwhile is counted once.
            self.debt.fetch_add(before - now, Ordering::AcqRel);
            while self.debt.load(Ordering::Acquire) > 0 && self.semaphore.forget_permits(1) == 1 {
                if !self.owes() {
                    self.semaphore.add_permits(1);
                }
            }
        }
    }

    /// Pays one permit of the debt, if there is any.
    fn owes(&self) -> bool {
        let pay = |debt: usize| debt.checked_sub(1);
        self.debt.fetch_update(Ordering::AcqRel, Ordering::Acquire, pay).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_exact_after_every_change() {
        let permits = Permits::new(2);
        let out: Vec<_> = (0..2).map(|_| permits.try_acquire().expect("there are two")).collect();
        assert!(permits.try_acquire().is_none());
        permits.change(2, 1);
        let [first, second] = <[Permit; 2]>::try_from(out).expect("two");
        drop(first);
        assert!(permits.try_acquire().is_none(), "one is out, and there is one");
        drop(second);
        let one = permits.try_acquire().expect("there is one");
        assert!(permits.try_acquire().is_none());
        permits.change(1, 3);
        let more: Vec<_> = std::iter::from_fn(|| permits.try_acquire()).collect();
        assert_eq!(more.len(), 2);
        drop((one, more));
        permits.change(3, 1);
        assert!(permits.try_acquire().is_some());
        assert_eq!(std::iter::from_fn(|| permits.try_acquire()).take(5).count(), 5, "each is given back");
    }
}
