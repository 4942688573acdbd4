//! Turns of passwords that are not proven yet: one at a time for each name and source, with a
//! pause after a wrong one, so that a guesser multiplies nothing and keeps out only itself.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::{Mutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::identity::HarborProviderSettings;

/// How long a name and source that are not in use are remembered.
const IDLE: Duration = Duration::from_mins(1);

/// Unknown passwords of one name and source that may wait; more are answered 503. Clients log in once and then have a token:
/// a few of one account at once are a build farm behind one address, more are a guesser.
const WAITING_MAX: usize = 4;

/// Everybody's turns.
pub(super) struct Turns {
    entries: Cache<(String, IpAddr), Arc<Entry>>,
    /// How many unproven passwords of one source are tried at once, over all names.
    sources: Cache<IpAddr, Arc<Semaphore>>,
    per_source_max: usize,
    pause: Duration,
}

#[derive(Debug, Default)]
struct Entry {
    waiting: AtomicUsize,
    /// When the next may be tried.
    next: Arc<Mutex<Option<Instant>>>,
}

/// The right to try one password that is not proven yet. The next one waits when this ends, unless it is said that the
/// password was not found wrong: a guesser gains nothing by hanging up, or by an answer that comes too late.
#[derive(Debug)]
pub struct Turn {
    next: OwnedMutexGuard<Option<Instant>>,
    /// `None` when the next one need not wait.
    pause: Option<Duration>,
    _waiting: Waiting,
    _source: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Waiting(Arc<Entry>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Turns {
    pub(super) fn new(entries_max: u64, settings: &HarborProviderSettings) -> Self {
        let pause = settings.wrong_pause;
        let idle = IDLE.max(pause.saturating_mul(2));
        Self {
            entries: Cache::builder().max_capacity(entries_max).time_to_idle(idle).build(),
            sources: Cache::builder().max_capacity(entries_max).time_to_idle(idle).build(),
            per_source_max: settings.per_source_max.clamp(1, Semaphore::MAX_PERMITS),
            pause,
        }
    }

    /// Waits for the turn; `None` when too many wait already, or it does not come in time.
    pub(super) async fn take(&self, name: &str, source: IpAddr, deadline: Instant) -> Option<Turn> {
        let source = network_of(source);
        let entry = self.entries.get_with((name.to_lowercase(), source), Arc::default);
        let ahead = entry.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting(Arc::clone(&entry));
        if ahead > WAITING_MAX {
            return None;
        }
        let next = timeout_at(deadline, Arc::clone(&entry.next).lock_owned()).await.ok()?;
        if let Some(next) = *next {
            if next >= deadline {
                return None;
            }
            sleep_until(next).await;
        }
        let many = self.sources.get_with(source, || Arc::new(Semaphore::new(self.per_source_max)));
        let permit = timeout_at(deadline, many.acquire_owned()).await.ok()?.ok()?;
        Some(Turn { next, pause: Some(self.pause), _waiting: waiting, _source: permit })
    }
}

/// A client with one address of an IPv6 network has all of its /64.
fn network_of(source: IpAddr) -> IpAddr {
    match source {
        IpAddr::V4(_) => source,
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(address) => IpAddr::V4(address),
            None => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
        },
    }
}

impl Turn {
    /// Ends the turn of a password that no node found wrong or may still be judging: the next one need not wait.
    pub fn was_not_wrong(mut self) {
        self.pause = None;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(pause) = self.pause {
            *self.next = Some(Instant::now() + pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn settings(seconds: u64, per_source_max: usize) -> HarborProviderSettings {
        let second = Duration::from_secs(1);
        HarborProviderSettings {
            pool: 0,
            timeout: second * 10,
            try_timeout: second * 5,
            wrong_pause: second * u32::try_from(seconds).expect("small"),
            per_source_max,
            foreign_accounts: false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_source_tries_few_names_at_once_and_an_ipv6_network_is_one_source() {
        let turns = Turns::new(100, &settings(3, 2));
        let at = |text: &str| text.parse::<IpAddr>().expect("an address");
        let soon = || Instant::now() + Duration::from_secs(1);
        let first = turns.take("a", at("2001:db8::1"), soon()).await;
        let second = turns.take("b", at("2001:db8::2"), soon()).await;
        assert!(first.is_some() && second.is_some());
        assert!(turns.take("c", at("2001:db8::3"), soon()).await.is_none(), "two at once");
        assert!(turns.take("c", at("2001:db8:1::3"), soon()).await.is_some(), "another network");
        drop(first);
        assert!(turns.take("c", at("2001:db8::3"), soon()).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn wrong_passwords_of_one_name_and_source_come_slowly_and_hinder_nobody_else() {
        let turns = Turns::new(100, &settings(3, 8));
        let (here, there) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from([10, 0, 0, 1]));
        let soon = || Instant::now() + Duration::from_secs(10);
        let started = Instant::now();
        let turn = turns.take("ci", here, soon()).await.expect("the first");
        let second = turns.take("CI", here, soon());
        tokio::pin!(second);
        assert!(futures_util::poll!(&mut second).is_pending(), "one at a time");
        let mut waiting: Vec<_> =
            (1..WAITING_MAX).map(|_| Box::pin(turns.take("ci", here, soon()))).collect();
        for turn in &mut waiting {
            assert!(futures_util::poll!(turn).is_pending(), "a few may wait");
        }
        assert!(turns.take("ci", here, soon()).await.is_none(), "and no more");
        drop(waiting);
        assert!(turns.take("ci", there, soon()).await.is_some(), "another source does not wait");
        assert!(turns.take("bob", here, soon()).await.is_some(), "nor does another name");
        drop(turn);
        let second = second.await.expect("its turn has come");
        assert_eq!(started.elapsed().as_secs(), 3);
        second.was_not_wrong();
        // A right one leaves no pause behind.
        assert!(turns.take("ci", here, soon()).await.is_some());
        assert_eq!(started.elapsed().as_secs(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_cannot_come_in_time_is_not_waited_for() {
        let turns = Turns::new(100, &settings(30, 8));
        let here = IpAddr::from(Ipv4Addr::LOCALHOST);
        let soon = || Instant::now() + Duration::from_secs(10);
        drop(turns.take("ci", here, soon()).await.expect("the first"));
        let started = Instant::now();
        assert!(turns.take("ci", here, soon()).await.is_none());
        assert_eq!(started.elapsed().as_secs(), 0);
    }
}
