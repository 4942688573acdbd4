//! The right to have a request at a member: exact in number over all workers, fair between clients.
//!
//! While there is room a permit is one atomic step. When requests wait, the next turn is that of a client that holds
//! less than its share ([`crate::balance::fair`]). The requests under way are listed by worker, and looked through
//! only while a request waits.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::reclaim::{Gain, TakeBack};
use super::settings::UpstreamLimits;
use crate::balance::blame::ClientKey;
use crate::balance::fair::{Holdings, gives_way, next_turn, share_of};
use crate::random::monotonic_ms;

/// Bits of each number in [`Counts`].
const BITS: u32 = 16;
const MASK: u64 = (1 << BITS) - 1;
/// No number is larger, whatever is configured.
const MOST: usize = MASK as usize / 2;
/// How often a request that waits looks whether a connection can be taken back for it.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What a connection is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Everything but uploads.
    Pull,
    /// Upload sessions and manifests on their way in.
    Upload,
}

impl Work {
    const BOTH: [Self; 2] = [Self::Pull, Self::Upload];

    fn other(self) -> Self {
        match self {
            Self::Pull => Self::Upload,
            Self::Upload => Self::Pull,
        }
    }
}

/// Why there is no permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoPermit {
    /// Too many requests wait.
    Full,
    /// It was not this request's turn in time.
    Timeout,
}

/// How many of each there may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Requests at the member.
    pub all: usize,
    /// Of these, by work.
    pub of_work: [usize; 2],
    /// Requests that wait.
    pub waiting: usize,
    /// What one client holds at most while others wait, of a hundred.
    pub client_share_percent: u32,
}

/// Requests at the member and those that wait, each by work, in one word.
#[derive(Debug, Clone, Copy)]
struct Counts(u64);

impl Counts {
    /// One request of this work at the member.
    fn active(work: Work) -> u64 {
        1 << (BITS * work as u32)
    }

    /// One request of this work that waits.
    fn waits(work: Work) -> u64 {
        Self::active(work) << (2 * BITS)
    }

    fn of(self, work: Work) -> usize {
        (self.0 >> (BITS * work as u32) & MASK) as usize
    }

    fn waiting(self, work: Work) -> usize {
        (self.0 >> (BITS * (work as u32 + 2)) & MASK) as usize
    }

    fn all_waiting(self) -> usize {
        Work::BOTH.into_iter().map(|work| self.waiting(work)).sum()
    }

    fn has_room(self, work: Work, bounds: &Bounds) -> bool {
        let all: usize = Work::BOTH.into_iter().map(|work| self.of(work)).sum();
        all < bounds.all && self.of(work) < bounds.of_work[work as usize]
    }

    /// Whether a request may go past the queue: none of its work waits, and none of the other waits for what it takes.
    fn may_pass(self, work: Work, bounds: &Bounds) -> bool {
        let other = work.other();
        let other_waits = self.waiting(other) > 0 && self.of(other) < bounds.of_work[other as usize];
        self.waiting(work) == 0 && !other_waits && self.has_room(work, bounds)
    }
}

/// The permits of one member.
#[derive(Debug)]
pub(super) struct Permits {
    /// Changed with acquire and release: a permit that is given back sees the queue of every request that was counted as
    /// waiting before, and a request that gets one sees what its last holder left.
    counts: AtomicU64,
    bounds: ArcSwap<Bounds>,
    queue: Mutex<Queue>,
    /// The requests under way, by worker.
    active: Box<[Mutex<Active>]>,
}

#[derive(Debug, Default)]
struct Queue {
    next_id: u64,
    waiting: VecDeque<Waiter>,
}

/// A request that waits.
#[derive(Debug)]
struct Waiter {
    id: u64,
    work: Work,
    client: ClientKey,
    worker: usize,
    turn: oneshot::Sender<Turn>,
}

/// What a request that waits is told.
#[derive(Debug)]
enum Turn {
    /// It has its permit, with this entry in the list of its worker.
    Granted(usize),
    /// It gave way to a client that has fewer requests in the full queue.
    GaveWay,
}

#[derive(Debug, Default)]
struct Active {
    entries: Vec<Option<Entry>>,
    free: Vec<usize>,
}

#[derive(Debug)]
struct Entry {
    work: Work,
    client: ClientKey,
    since_ms: u64,
    /// Weak: what can be taken back holds the permit, whose end removes this entry.
    reclaim: Option<Weak<dyn TakeBack>>,
}

/// The right of one request.
#[derive(Debug)]
pub(super) struct Permit {
    of: Arc<Permits>,
    work: Work,
    worker: usize,
    entry: usize,
}

/// A request in the queue; dropped, it leaves nothing behind.
struct Queued<'a> {
    permits: &'a Permits,
    id: u64,
    work: Work,
    worker: usize,
    turn: oneshot::Receiver<Turn>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bounds {
    pub(super) fn of(limits: &UpstreamLimits) -> Self {
        Self {
            all: limits.connections_max.min(MOST),
            of_work: [limits.pulls_max.min(MOST), limits.uploads_max.min(MOST)],
            waiting: limits.queue_max.min(MOST),
            client_share_percent: limits.client_share_percent,
        }
    }

    fn share(&self, work: Work) -> usize {
        share_of(self.of_work[work as usize].min(self.all), self.client_share_percent)
    }
}

impl Permits {
    pub(super) fn new(bounds: Bounds, workers: usize) -> Arc<Self> {
        Arc::new(Self {
            counts: AtomicU64::new(0),
            bounds: ArcSwap::from_pointee(bounds),
            queue: Mutex::default(),
            active: (0..workers.max(1)).map(|_| Mutex::default()).collect(),
        })
    }

    /// Requests that wait.
    pub(super) fn waiting(&self) -> usize {
        Counts(self.counts.load(Ordering::Acquire)).all_waiting()
    }

    /// Takes other bounds. What is out beyond them is not taken back, and nothing begins in its place.
    pub(super) fn set_bounds(&self, bounds: Bounds) {
        self.bounds.store(Arc::new(bounds));
        self.hand_on(&mut lock(&self.queue));
    }

    /// A permit, at once where there is room and no request waits for it, else in turn.
    ///
    /// # Errors
    /// [`NoPermit`] when the queue is full, or when the turn does not come until `deadline`.
    pub(super) async fn acquire(
        self: &Arc<Self>,
        work: Work,
        client: ClientKey,
        worker: usize,
        deadline: Instant,
    ) -> Result<Permit, NoPermit> {
        let worker = worker % self.active.len();
        if self.take(work) {
            let entry = self.enter(work, client, worker);
            return Ok(self.permit(work, worker, entry));
        }
        // Apart, so that a request that need not wait carries none of it along.
        let queued = self.queue_up(work, client, worker)?;
        Box::pin(self.wait(queued, client, deadline)).await
    }

    async fn wait(
        self: &Arc<Self>,
        mut queued: Queued<'_>,
        client: ClientKey,
        deadline: Instant,
    ) -> Result<Permit, NoPermit> {
        loop {
            let turn = match queued.turn.try_recv() {
                Ok(turn) => turn,
                Err(_) => {
                    self.reclaim_for(queued.work, client);
                    let look = deadline.min(Instant::now() + LOOK_EVERY);
                    match timeout_at(look, &mut queued.turn).await {
                        Ok(Ok(turn)) => turn,
                        Err(_) if look < deadline => continue,
                        // The queue lives as long as its permits, and tells each request that waits.
                        Ok(Err(_)) | Err(_) => return Err(NoPermit::Timeout),
                    }
                }
            };
            return match turn {
                Turn::Granted(entry) => Ok(self.permit(queued.work, queued.worker, entry)),
                Turn::GaveWay => Err(NoPermit::Full),
            };
        }
    }

    /// Takes one without waiting.
    fn take(&self, work: Work) -> bool {
        let bounds = self.bounds.load();
        let more =
            |counts: u64| Counts(counts).may_pass(work, &bounds).then(|| counts + Counts::active(work));
        self.counts.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    fn permit(self: &Arc<Self>, work: Work, worker: usize, entry: usize) -> Permit {
        Permit { of: Arc::clone(self), work, worker, entry }
    }

    /// Lists a request that has its permit.
    fn enter(&self, work: Work, client: ClientKey, worker: usize) -> usize {
        let entry = Some(Entry { work, client, since_ms: monotonic_ms(), reclaim: None });
        let mut active = lock(&self.active[worker]);
        match active.free.pop() {
            Some(at) => {
                active.entries[at] = entry;
                at
            }
            None => {
                active.entries.push(entry);
                active.entries.len() - 1
            }
        }
    }

    /// Takes a request off the list.
    fn leave(&self, worker: usize, entry: usize) {
        let mut active = lock(&self.active[worker]);
        let entered = active.entries.get_mut(entry).and_then(Option::take);
        active.free.push(entry);
        drop(active);
        drop(entered);
    }

    fn queue_up(&self, work: Work, client: ClientKey, worker: usize) -> Result<Queued<'_>, NoPermit> {
        let (sender, turn) = oneshot::channel();
        let mut queue = lock(&self.queue);
        let id = queue.next_id;
        queue.next_id += 1;
        queue.waiting.push_back(Waiter { id, work, client, worker, turn: sender });
        // From here on no request of this work passes the queue, and a permit that is given back is handed on.
        self.counts.fetch_add(Counts::waits(work), Ordering::AcqRel);
        self.hand_on(&mut queue);
        let still_waits = queue.waiting.back().is_some_and(|last| last.id == id);
        if still_waits && queue.waiting.len() > self.bounds.load().waiting {
            let mut clients: Vec<ClientKey> = queue.waiting.iter().map(|waiter| waiter.client).collect();
            clients.pop();
            let out = gives_way(&clients, client).unwrap_or(clients.len());
            let Some(out) = queue.waiting.remove(out) else { return Err(NoPermit::Full) };
            self.counts.fetch_sub(Counts::waits(out.work), Ordering::AcqRel);
            if out.id == id {
                return Err(NoPermit::Full);
            }
            // One that has gone meanwhile needs no word.
            drop(out.turn.send(Turn::GaveWay));
        }
        drop(queue);
        Ok(Queued { permits: self, id, work, worker, turn })
    }

    /// Gives what there is room for to those whose turn it is.
    fn hand_on(&self, queue: &mut Queue) {
        let bounds = self.bounds.load();
        loop {
            let counts = Counts(self.counts.load(Ordering::Acquire));
            let with_room = Work::BOTH
                .into_iter()
                .filter(|work| counts.waiting(*work) > 0 && counts.has_room(*work, &bounds));
            // Of the two kinds of work the request that came first.
            let next = with_room.filter_map(|work| self.next_of(queue, work, bounds.share(work))).min();
            let Some(waiter) = next.and_then(|at| queue.waiting.remove(at)) else { return };
            let Waiter { work, client, worker, turn, .. } = waiter;
            self.counts.fetch_add(Counts::active(work), Ordering::AcqRel);
            self.counts.fetch_sub(Counts::waits(work), Ordering::AcqRel);
            let entry = self.enter(work, client, worker);
            if turn.send(Turn::Granted(entry)).is_err() {
                self.leave(worker, entry);
                self.counts.fetch_sub(Counts::active(work), Ordering::AcqRel);
            }
        }
    }

    fn next_of(&self, queue: &Queue, work: Work, share: usize) -> Option<usize> {
        let places: Vec<usize> = queue
            .waiting
            .iter()
            .enumerate()
            .filter(|(_, waiter)| waiter.work == work)
            .map(|(at, _)| at)
            .collect();
        let clients = places.iter().map(|at| queue.waiting[*at].client);
        next_turn(clients, share, &self.held(work)).map(|at| places[at])
    }

    /// What every client holds of this work.
    fn held(&self, work: Work) -> Holdings {
        let mut held = Holdings::default();
        for active in &self.active {
            let active = lock(active);
            let entries = active.entries.iter().flatten().filter(|entry| entry.work == work);
            entries.for_each(|entry| held.add(entry.client));
        }
        held
    }

    /// Takes one permit back for a client that waits: from a client that holds more than its share, or from answers
    /// of its own that is not read. A client that has its share takes from others only what is not read.
    fn reclaim_for(&self, work: Work, client: ClientKey) {
        let share = self.bounds.load().share(work);
        let held = self.held(work);
        let lacks_share = held.of(client) < share;
        let now_ms = monotonic_ms();
        let mut found = Vec::new();
        for active in &self.active {
            let active = lock(active);
            let entries = active.entries.iter().flatten().filter(|entry| entry.work == work);
            found.extend(entries.filter_map(|entry| {
                let is_over = held.of(entry.client) > share;
                let may_take = is_over || entry.client == client;
                may_take.then_some((entry.reclaim.clone()?, entry.since_ms, is_over && lacks_share))
            }));
        }
        let gain = |(reclaim, since_ms, also_read): (Weak<dyn TakeBack>, u64, bool)| {
            let reclaim = reclaim.upgrade()?;
            let gain = reclaim.gain(since_ms, now_ms)?;
            (also_read || matches!(gain, Gain::Unread(_))).then_some((gain, reclaim))
        };
        let mut reclaimable: Vec<(Gain, Arc<dyn TakeBack>)> = found.into_iter().filter_map(gain).collect();
        reclaimable.sort_by_key(|(gain, _)| std::cmp::Reverse(*gain));
        // Lets go of the first that is still there; one at a time, since each request that waits looks for itself.
        let _ = reclaimable.iter().any(|(_, reclaim)| reclaim.take_back());
    }

    fn give_back(&self, work: Work) {
        let before = Counts(self.counts.fetch_sub(Counts::active(work), Ordering::AcqRel));
        if before.all_waiting() > 0 {
            self.hand_on(&mut lock(&self.queue));
        }
    }
}

impl Permit {
    /// What is under way can be taken back for a client that waits.
    pub(super) fn allow_reclaim(&self, reclaim: Weak<dyn TakeBack>) {
        let mut active = lock(&self.of.active[self.worker]);
        if let Some(Some(entry)) = active.entries.get_mut(self.entry) {
            entry.reclaim = Some(reclaim);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.of.leave(self.worker, self.entry);
        self.of.give_back(self.work);
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        let mut queue = lock(&self.permits.queue);
        if let Some(at) = queue.waiting.iter().position(|waiter| waiter.id == self.id) {
            queue.waiting.remove(at);
            self.permits.counts.fetch_sub(Counts::waits(self.work), Ordering::AcqRel);
            return;
        }
        drop(queue);
        // Its turn came while it gave up. Where it was taken, nothing is left to receive.
        if let Ok(Turn::Granted(entry)) = self.turn.try_recv() {
            self.permits.leave(self.worker, entry);
            self.permits.give_back(self.work);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(all: usize, waiting: usize) -> Bounds {
        Bounds { all, of_work: [all, all], waiting, client_share_percent: 25 }
    }

    fn client(network: u64) -> ClientKey {
        ClientKey { network, subject: None }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    async fn get(permits: &Arc<Permits>, network: u64) -> Result<Permit, NoPermit> {
        permits.acquire(Work::Pull, client(network), 0, soon()).await
    }

    /// A request that waits from now on.
    async fn waits(
        permits: &Arc<Permits>,
        network: u64,
    ) -> tokio::task::JoinHandle<Result<Permit, NoPermit>> {
        let before = permits.waiting();
        let (waiting, permits) = (Arc::clone(permits), Arc::clone(permits));
        #[expect(clippy::disallowed_methods, reason = "the test waits for it")]
        let task = tokio::spawn(async move { get(&waiting, network).await });
        while permits.waiting() == before {
            tokio::task::yield_now().await;
        }
        task
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_is_exact_after_every_change() {
        let permits = Permits::new(bounds(2, 0), 2);
        let first = get(&permits, 1).await.expect("there are two");
        let second = get(&permits, 1).await.expect("there are two");
        assert_eq!(get(&permits, 1).await.err(), Some(NoPermit::Full));
        permits.set_bounds(bounds(1, 0));
        drop(first);
        assert!(get(&permits, 1).await.is_err(), "one is out, and there is one");
        drop(second);
        let one = get(&permits, 1).await.expect("there is one");
        assert!(get(&permits, 1).await.is_err());
        permits.set_bounds(bounds(3, 0));
        let (second, third) =
            (get(&permits, 1).await.expect("three"), get(&permits, 1).await.expect("three"));
        assert!(get(&permits, 1).await.is_err());
        drop((one, second, third));
        assert_eq!(permits.counts.load(Ordering::SeqCst), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn each_kind_of_work_has_its_own_bound() {
        let by_work = Bounds { of_work: [1, 2], ..bounds(2, 0) };
        let permits = Permits::new(by_work, 1);
        let pull = get(&permits, 1).await.expect("room");
        assert!(get(&permits, 1).await.is_err());
        let upload = permits.acquire(Work::Upload, client(1), 0, soon()).await.expect("room");
        assert!(permits.acquire(Work::Upload, client(1), 0, soon()).await.is_err(), "two in all");
        drop(pull);
        let second = permits.acquire(Work::Upload, client(1), 0, soon()).await.expect("room");
        drop((upload, second));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_of_pulls_is_not_in_the_way_of_uploads() {
        let permits = Permits::new(Bounds { of_work: [1, 2], ..bounds(3, 1) }, 1);
        let pull = get(&permits, 1).await.expect("room");
        let waiting = waits(&permits, 2).await;
        assert_eq!(get(&permits, 3).await.err(), Some(NoPermit::Full));
        let upload = permits.acquire(Work::Upload, client(4), 0, soon()).await.expect("uploads have room");
        let second = permits.acquire(Work::Upload, client(4), 0, soon()).await.expect("uploads have room");
        assert_eq!(permits.waiting(), 1);
        drop(pull);
        drop((waiting.await.expect("no panic").expect("its turn"), upload, second));
        assert_eq!(permits.counts.load(Ordering::SeqCst), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_at_its_share_waits_behind_others_and_alone_has_everything() {
        let permits = Permits::new(bounds(4, 100), 2);
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(get(&permits, 1).await.expect("nobody waits"));
        }
        let greedy = waits(&permits, 1).await;
        let other = waits(&permits, 2).await;
        held.pop();
        let granted = other.await.expect("no panic").expect("its turn");
        assert!(!greedy.is_finished());
        drop(granted);
        drop(greedy.await.expect("no panic").expect("nobody else waits"));
        drop(held);
        assert_eq!(permits.counts.load(Ordering::SeqCst), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_of_one_client_has_room_for_another() {
        let permits = Permits::new(bounds(1, 2), 1);
        let held = get(&permits, 1).await.expect("room");
        let (first, second) = (waits(&permits, 1).await, waits(&permits, 1).await);
        assert_eq!(get(&permits, 1).await.err(), Some(NoPermit::Full));
        let (waiting, of_other) = (Arc::clone(&permits), Arc::clone(&permits));
        #[expect(clippy::disallowed_methods, reason = "the test waits for it")]
        let other = tokio::spawn(async move { get(&waiting, 2).await });
        assert_eq!(second.await.expect("no panic").err(), Some(NoPermit::Full), "the last one gives way");
        assert_eq!(of_other.waiting(), 2);
        drop(held);
        drop(first.await.expect("no panic").expect("its turn"));
        drop(other.await.expect("no panic").expect("its turn"));
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_or_comes_too_late_leaves_nothing_behind() {
        let permits = Permits::new(bounds(1, 10), 1);
        let held = get(&permits, 1).await.expect("room");
        assert_eq!(get(&permits, 2).await.err(), Some(NoPermit::Timeout));
        let given_up = waits(&permits, 3).await;
        given_up.abort();
        assert!(given_up.await.expect_err("aborted").is_cancelled());
        assert_eq!(permits.waiting(), 0);
        // Given up after the turn came, before it was seen.
        let too_late = waits(&permits, 4).await;
        drop(held);
        too_late.abort();
        drop(too_late.await);
        drop(get(&permits, 5).await.expect("it is free again"));
        assert_eq!(permits.counts.load(Ordering::SeqCst), 0);
    }

    /// An answer that may be taken back at any time.
    #[derive(Debug)]
    struct Answer {
        permit: Mutex<Option<Permit>>,
        gain: Gain,
    }

    impl Answer {
        fn is_there(&self) -> bool {
            lock(&self.permit).is_some()
        }
    }

    impl TakeBack for Answer {
        fn gain(&self, _: u64, _: u64) -> Option<Gain> {
            Some(self.gain)
        }

        fn take_back(&self) -> bool {
            let permit = lock(&self.permit).take();
            permit.is_some()
        }
    }

    /// An answer to a client, under way.
    async fn answer(permits: &Arc<Permits>, network: u64, gain: Gain) -> Arc<Answer> {
        let permit = get(permits, network).await.expect("room");
        let answer = Arc::new(Answer { permit: Mutex::default(), gain });
        permit.allow_reclaim(Arc::downgrade(&answer) as Weak<dyn TakeBack>);
        *lock(&answer.permit) = Some(permit);
        answer
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_client_holds_beyond_its_share_is_taken_back_for_one_that_waits() {
        let permits = Permits::new(bounds(4, 10), 2);
        let mut answers = Vec::new();
        for _ in 0..4 {
            answers.push(answer(&permits, 1, Gain::Served(1)).await);
        }
        let left = || answers.iter().filter(|answer| answer.is_there()).count();
        let granted = get(&permits, 2).await.expect("one is taken back");
        assert_eq!(left(), 3);
        assert_eq!(get(&permits, 1).await.err(), Some(NoPermit::Timeout), "not for a client at its share");
        assert_eq!(left(), 3);
        let more = [get(&permits, 3).await, get(&permits, 4).await].map(|permit| permit.expect("taken back"));
        assert_eq!(left(), 1);
        assert_eq!(get(&permits, 5).await.err(), Some(NoPermit::Timeout), "nobody holds more than its share");
        drop((granted, more, answers));
        assert_eq!(permits.counts.load(Ordering::SeqCst), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_reads_is_taken_back_for_its_own_client_and_beyond_a_share_for_any() {
        // A share is one of four.
        let permits = Permits::new(bounds(4, 10), 1);
        let (read, unread) =
            (answer(&permits, 1, Gain::Served(1)).await, answer(&permits, 1, Gain::Unread(1)).await);
        let others = [answer(&permits, 2, Gain::Unread(2)).await, answer(&permits, 3, Gain::Unread(2)).await];
        let own = get(&permits, 1).await.expect("its own unread answer is taken back");
        assert!(read.is_there() && !unread.is_there());
        assert!(others.iter().all(|other| other.is_there()), "others have no more than their share");
        assert_eq!(get(&permits, 1).await.err(), Some(NoPermit::Timeout), "what is read stays");
        drop((own, read));
        let beyond = [answer(&permits, 4, Gain::Unread(1)).await, answer(&permits, 4, Gain::Unread(1)).await];
        let at_its_share = get(&permits, 2).await.expect("an unread answer is taken back");
        assert!(!others[0].is_there(), "the one that is unread for longest, its own");
        drop(at_its_share);
        let own = get(&permits, 5).await.expect("there is room");
        let at_its_share = get(&permits, 5).await.expect("an unread answer beyond a share is taken back");
        assert_eq!(beyond.iter().filter(|answer| answer.is_there()).count(), 1);
        drop((own, at_its_share, beyond, others));
        assert_eq!(permits.counts.load(Ordering::SeqCst), 0);
    }
}
