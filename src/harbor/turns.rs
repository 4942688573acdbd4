//! Turns of passwords that nobody has proven yet: one at a time for each name and source, with a
//! pause after a wrong one, so that a guesser multiplies nothing and keeps out only itself.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::{Instant, sleep_until, timeout_at};

/// How long a name and source that nobody uses are remembered.
const IDLE: Duration = Duration::from_mins(1);

/// Everybody's turns.
pub(super) struct Turns {
    entries: Cache<(String, IpAddr), Arc<Entry>>,
    waiting_max: usize,
    pause: Duration,
}

#[derive(Debug, Default)]
struct Entry {
    waiting: AtomicUsize,
    /// When the next may be tried.
    next: Arc<Mutex<Option<Instant>>>,
}

/// The right to try one password.
#[derive(Debug)]
pub(super) struct Turn {
    next: OwnedMutexGuard<Option<Instant>>,
    pause: Duration,
    _waiting: Waiting,
}

#[derive(Debug)]
struct Waiting(Arc<Entry>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Turns {
    pub(super) fn new(entries_max: u64, waiting_max: usize, pause: Duration) -> Self {
        let entries = Cache::builder().max_capacity(entries_max).time_to_idle(IDLE.max(pause * 2)).build();
        Self { entries, waiting_max, pause }
    }

    /// Waits for the turn; `None` when too many wait already, or it does not come in time.
    pub(super) async fn take(&self, name: &str, source: IpAddr, deadline: Instant) -> Option<Turn> {
        let entry = self.entries.get_with((name.to_lowercase(), source), Arc::default);
        let ahead = entry.waiting.fetch_add(1, Ordering::AcqRel);
        let waiting = Waiting(Arc::clone(&entry));
        if ahead > self.waiting_max {
            return None;
        }
        let next = timeout_at(deadline, Arc::clone(&entry.next).lock_owned()).await.ok()?;
        if let Some(next) = *next {
            if next >= deadline {
                return None;
            }
            sleep_until(next).await;
        }
        Some(Turn { next, pause: self.pause, _waiting: waiting })
    }
}

impl Turn {
    /// The password was wrong: the next one waits.
    pub(super) fn was_wrong(&mut self) {
        *self.next = Some(Instant::now() + self.pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[tokio::test(start_paused = true)]
    async fn wrong_passwords_of_one_name_and_source_come_slowly_and_hinder_nobody_else() {
        let turns = Turns::new(100, 1, Duration::from_secs(3));
        let (here, there) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from([10, 0, 0, 1]));
        let soon = || Instant::now() + Duration::from_secs(10);
        let started = Instant::now();
        let mut turn = turns.take("ci", here, soon()).await.expect("the first");
        let second = turns.take("CI", here, soon());
        tokio::pin!(second);
        assert!(futures_util::poll!(&mut second).is_pending(), "one at a time");
        assert!(turns.take("ci", here, soon()).await.is_none(), "one may wait, no more");
        assert!(turns.take("ci", there, soon()).await.is_some(), "another source does not wait");
        assert!(turns.take("bob", here, soon()).await.is_some(), "nor does another name");
        turn.was_wrong();
        drop(turn);
        let second = second.await.expect("its turn has come");
        assert_eq!(started.elapsed().as_secs(), 3);
        drop(second);
        // A right one leaves no pause behind.
        assert!(turns.take("ci", here, soon()).await.is_some());
        assert_eq!(started.elapsed().as_secs(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_cannot_come_in_time_is_not_waited_for() {
        let turns = Turns::new(100, 4, Duration::from_secs(30));
        let here = IpAddr::from(Ipv4Addr::LOCALHOST);
        let soon = || Instant::now() + Duration::from_secs(10);
        turns.take("ci", here, soon()).await.expect("the first").was_wrong();
        let started = Instant::now();
        assert!(turns.take("ci", here, soon()).await.is_none());
        assert_eq!(started.elapsed().as_secs(), 0);
    }
}
