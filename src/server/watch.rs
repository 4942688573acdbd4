//! What a downstream connection is doing, and when it has done nothing, or too little, for too long.
//!
//! hyper's own head deadline also runs while a kept-alive connection rests between requests, h2 has none at all, its
//! shutdown in good order waits for the client, and nothing in it notices a client that stops reading an answer. So
//! the stream under hyper and the requests above it note what happens here, and the connection's task looks at it now
//! and then.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::answers::{Answers, Line, Mark};
use crate::pace::LeastRate;

/// How long a connection may be in each state.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// From the opening to the end of the first request's head, from the first byte of a later head to its last, and
    /// from a close in good order to the end.
    pub(super) head: Duration,
    /// Without a request.
    pub(super) idle: Duration,
    /// How fast answers are read at least.
    pub(super) reading: LeastRate,
}

/// What to do with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    /// Look again after this time.
    Wait(Duration),
    /// Close it in good order: it rests.
    CloseIdle,
    /// Drop it: the client stalls.
    Abort,
}

/// What a connection is doing. Times are milliseconds since it was opened; 0 means "not".
#[derive(Debug)]
pub(super) struct Activity {
    opened: Instant,
    requests: AtomicUsize,
    /// Bytes of their heads.
    heads_bytes: AtomicUsize,
    /// Whether a whole head has come.
    served: AtomicBool,
    idle_since: AtomicU64,
    head_since: AtomicU64,
    /// Since when it is closed in good order.
    closing_since: AtomicU64,
    blocked_since: AtomicU64,
    /// When the socket last took no more.
    blocked_at: AtomicU64,
    /// Bytes that the socket took.
    written: AtomicU64,
    /// The connection is to be reset, not closed.
    reset: AtomicBool,
    /// Told when a request begins.
    begun: Notify,
    /// On h2 bytes that come between requests are frames of the connection, not a head.
    frames: AtomicBool,
    answers: Mutex<Answers>,
}

impl Activity {
    /// A connection that was just opened.
    #[must_use]
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            opened: Instant::now(),
            requests: AtomicUsize::new(0),
            heads_bytes: AtomicUsize::new(0),
            served: AtomicBool::new(false),
            idle_since: AtomicU64::new(1),
            head_since: AtomicU64::new(0),
            closing_since: AtomicU64::new(0),
            blocked_since: AtomicU64::new(0),
            blocked_at: AtomicU64::new(0),
            written: AtomicU64::new(0),
            reset: AtomicBool::new(false),
            begun: Notify::new(),
            frames: AtomicBool::new(false),
            answers: Mutex::default(),
        })
    }

    /// A request's head has come; the request lasts until the guard is dropped.
    #[must_use]
    pub(super) fn begin_request(self: &Arc<Self>, head_bytes: usize) -> RequestGuard {
        self.heads_bytes.fetch_add(head_bytes, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.served.store(true, Ordering::Relaxed);
        self.head_since.store(0, Ordering::Relaxed);
        let mark = self.answers().begin(self.written.load(Ordering::Relaxed));
        self.begun.notify_one();
        RequestGuard { activity: Arc::clone(self), mark, head_bytes }
    }

    /// The task of the request that began last. On h2 each has one of its own.
    pub(super) fn set_task(&self, task: AbortHandle) {
        self.answers().set_task(task);
    }

    /// The connection speaks h2.
    pub(super) fn expect_frames(&self) {
        self.frames.store(true, Ordering::Relaxed);
        self.head_since.store(0, Ordering::Relaxed);
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that the socket took.
    #[must_use]
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Bytes of the heads of the requests that are being served.
    #[must_use]
    pub(super) fn heads_bytes(&self) -> usize {
        self.heads_bytes.load(Ordering::Relaxed)
    }

    /// Whether a request is being served.
    #[must_use]
    pub(super) fn is_busy(&self) -> bool {
        self.requests.load(Ordering::Relaxed) > 0
    }

    /// Whether a request's head has begun to come.
    #[must_use]
    pub(super) fn is_in_head(&self) -> bool {
        self.head_since.load(Ordering::Relaxed) != 0
    }

    /// Waits until a request begins.
    pub(super) fn began(&self) -> Notified<'_> {
        self.begun.notified()
    }

    /// The connection is closed in good order from now on, unless it is already.
    pub(super) fn closes(&self) {
        let now = self.now();
        // The first call has set it.
        let _ = self.closing_since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether the connection is to be reset.
    pub(super) fn is_to_be_reset(&self) -> bool {
        self.reset.load(Ordering::Relaxed)
    }

    /// What to do with the connection now. An answer of h2 that the client does not read, or too slowly, ends here.
    #[must_use]
    pub(super) fn judge(&self, patience: Patience) -> Judgement {
        let now = self.now();
        let since = |mark: &AtomicU64| match mark.load(Ordering::Relaxed) {
            0 => None,
            mark => Some(Duration::from_millis(now.saturating_sub(mark))),
        };
        let blocked = since(&self.blocked_since);
        if blocked.is_some_and(|blocked| blocked >= patience.reading.window)
            || self.reads_too_slowly(now, patience.reading)
        {
            return Judgement::Abort;
        }
        // Often enough that no deadline is missed by much.
        let mut wait = patience.head.min(patience.reading.window).min(patience.idle) / 4;
        if !self.is_busy() {
            let idle = since(&self.idle_since).unwrap_or_default();
            if let Some(closing) = since(&self.closing_since) {
                // What the client still reads of the last answer is not cut.
                let stands = blocked.is_none_or(|blocked| blocked >= patience.head);
                if closing.min(idle) >= patience.head && stands {
                    return Judgement::Abort;
                }
                return Judgement::Wait(at_least(wait));
            }
            let head = since(&self.head_since);
            let head =
                if self.served.load(Ordering::Relaxed) { head } else { Some(Duration::from_millis(now)) };
            if head.is_some_and(|head| head >= patience.head) {
                return Judgement::Abort;
            }
            if blocked.is_none() && idle >= patience.idle {
                return Judgement::CloseIdle;
            }
            wait = wait.min(patience.idle.saturating_sub(idle));
        }
        Judgement::Wait(at_least(wait))
    }

    /// Whether the client takes too little of what the connection has for it.
    fn reads_too_slowly(&self, now: u64, least: LeastRate) -> bool {
        let blocked_at = self.blocked_at.load(Ordering::Relaxed);
        let is_blocked = self.blocked_since.load(Ordering::Relaxed) != 0;
        let recently = Duration::from_millis(now.saturating_sub(blocked_at)) < least.window;
        let line = Line {
            now: Duration::from_millis(now),
            written: self.written.load(Ordering::Relaxed),
            is_blocked,
            was_blocked: is_blocked || (blocked_at != 0 && recently),
        };
        let mut answers = self.answers();
        if answers.line_is_too_slow(line, least) {
            return true;
        }
        if self.frames.load(Ordering::Relaxed) {
            answers.end_unread(line, least);
        }
        false
    }

    fn now(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// The client sent something.
    pub(super) fn bytes_came(&self) {
        if !self.frames.load(Ordering::Relaxed)
            && !self.is_busy()
            && self.head_since.load(Ordering::Relaxed) == 0
        {
            self.head_since.store(self.now(), Ordering::Relaxed);
        }
    }

    /// The socket takes no more.
    pub(super) fn write_blocked(&self) {
        if self.blocked_since.load(Ordering::Relaxed) == 0 {
            let now = self.now();
            self.blocked_since.store(now, Ordering::Relaxed);
            self.blocked_at.store(now, Ordering::Relaxed);
        }
    }

    /// The socket took so many bytes, or has nothing more to take.
    pub(super) fn write_moved(&self, bytes: usize) {
        // Only the connection's own task writes.
        let written = self.written.load(Ordering::Relaxed);
        self.written.store(written.wrapping_add(bytes as u64), Ordering::Relaxed);
        if self.blocked_since.load(Ordering::Relaxed) != 0 {
            self.blocked_since.store(0, Ordering::Relaxed);
            self.blocked_at.store(self.now(), Ordering::Relaxed);
        }
    }
}

/// No connection is looked at more often than this.
fn at_least(wait: Duration) -> Duration {
    wait.max(Duration::from_millis(10))
}

/// A request lasts while this lives.
#[derive(Debug)]
pub(super) struct RequestGuard {
    activity: Arc<Activity>,
    mark: Arc<Mark>,
    head_bytes: usize,
}

impl RequestGuard {
    /// The answer's body gave so many bytes; `None` where it has none yet. After some it is the client's turn.
    pub(super) fn note_body(&self, given: Option<usize>) {
        match given {
            Some(bytes) => self.mark.gave(bytes as u64, self.activity.now()),
            None => self.mark.waits_for_member(),
        }
    }

    /// The client must not take what it has for whole: its connection ends with a reset. On h2 the
    /// stream does, and the connection goes on.
    pub(super) fn reset_connection(&self) {
        if !self.activity.frames.load(Ordering::Relaxed) {
            self.activity.reset.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.activity.answers().end(&self.mark);
        self.activity.heads_bytes.fetch_sub(self.head_bytes, Ordering::Relaxed);
        self.activity.idle_since.store(self.activity.now(), Ordering::Relaxed);
        self.activity.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;
    const PATIENCE: Patience = Patience {
        head: Duration::from_secs(10),
        idle: Duration::from_secs(60),
        reading: LeastRate { bytes_per_second: 1024, window: Duration::from_secs(30) },
    };

    async fn after(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    fn waits(activity: &Activity) -> bool {
        matches!(activity.judge(PATIENCE), Judgement::Wait(_))
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_request_has_a_deadline_from_the_opening_on() {
        for speaks_h2 in [false, true] {
            let activity = Activity::new();
            if speaks_h2 {
                activity.expect_frames();
            }
            after(9).await;
            // Neither a byte of a head nor a frame puts it off.
            activity.bytes_came();
            assert!(waits(&activity));
            after(1).await;
            assert_eq!(activity.judge(PATIENCE), Judgement::Abort);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn resting_connections_are_closed_and_stalling_ones_aborted() {
        let activity = Activity::new();
        activity.bytes_came();
        let request = activity.begin_request(0);
        after(1000).await;
        assert!(waits(&activity), "a request may take its time");
        activity.write_blocked();
        after(29).await;
        activity.write_moved(64 * KIB);
        activity.write_blocked();
        after(29).await;
        assert!(waits(&activity));
        after(1).await;
        assert_eq!(activity.judge(PATIENCE), Judgement::Abort);
        activity.write_moved(1);
        drop(request);
        activity.bytes_came();
        after(9).await;
        activity.bytes_came();
        assert!(waits(&activity));
        after(1).await;
        assert_eq!(activity.judge(PATIENCE), Judgement::Abort, "a head may not drip");
    }

    #[tokio::test(start_paused = true)]
    async fn a_close_in_order_without_effect_is_an_abort() {
        let activity = Activity::new();
        activity.expect_frames();
        drop(activity.begin_request(0));
        after(59).await;
        assert!(waits(&activity));
        after(1).await;
        assert_eq!(activity.judge(PATIENCE), Judgement::CloseIdle);
        activity.closes();
        after(9).await;
        activity.closes();
        assert!(waits(&activity), "it is closed once");
        let request = activity.begin_request(0);
        after(100).await;
        assert!(waits(&activity), "a request that came before the close is served");
        drop(request);
        // The rest of the answer is on its way to a slow client.
        for _ in 0..3 {
            activity.write_blocked();
            after(9).await;
            assert!(waits(&activity));
            activity.write_moved(64 * KIB);
        }
        after(1).await;
        assert_eq!(activity.judge(PATIENCE), Judgement::Abort);
    }

    /// Lets `seconds` pass, with a look every fifth of them, as the connection's task does.
    async fn looked_at(activity: &Activity, seconds: u64, mut each: impl FnMut()) -> Judgement {
        for _ in 0..seconds / 5 {
            each();
            after(5).await;
            match activity.judge(PATIENCE) {
                Judgement::Wait(_) => {}
                judgement => return judgement,
            }
        }
        Judgement::Wait(Duration::ZERO)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_a_byte_now_and_then_is_too_slow() {
        for (bytes, expected) in [(1, Judgement::Abort), (8 * KIB, Judgement::Wait(Duration::ZERO))] {
            let activity = Activity::new();
            let _request = activity.begin_request(0);
            activity.write_blocked();
            let judged = looked_at(&activity, 600, || {
                activity.write_moved(bytes);
                activity.write_blocked();
            });
            assert_eq!(judged.await, expected, "{bytes} bytes every five seconds");
        }
    }

    fn task() -> tokio::task::JoinHandle<()> {
        tokio_util::task::TaskTracker::new().spawn(std::future::pending())
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_is_not_read_ends_and_its_connection_goes_on() {
        let activity = Activity::new();
        activity.expect_frames();
        let (reads, unread, slow) = (activity.begin_request(0), task(), task());
        let unread_request = activity.begin_request(0);
        activity.set_task(unread.abort_handle());
        let slow_request = activity.begin_request(0);
        activity.set_task(slow.abort_handle());
        unread_request.note_body(Some(16 * KIB));
        let judged = looked_at(&activity, 120, || {
            reads.note_body(Some(64 * KIB));
            activity.write_moved(64 * KIB);
            slow_request.note_body(Some(1));
        });
        assert_eq!(judged.await, Judgement::Wait(Duration::ZERO));
        assert!(unread.await.expect_err("ended").is_cancelled());
        assert!(slow.await.expect_err("ended").is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn the_turn_of_a_member_is_not_the_turn_of_the_client() {
        let activity = Activity::new();
        activity.expect_frames();
        let (request, task) = (activity.begin_request(0), task());
        activity.set_task(task.abort_handle());
        request.note_body(Some(KIB));
        request.note_body(None);
        assert_eq!(looked_at(&activity, 600, || ()).await, Judgement::Wait(Duration::ZERO));
        assert!(!task.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn streams_that_share_a_slow_line_are_counted_together() {
        let activity = Activity::new();
        activity.expect_frames();
        let requests: Vec<_> = (0..20)
            .map(|_| {
                let (request, task) = (activity.begin_request(0), task());
                activity.set_task(task.abort_handle());
                request.note_body(Some(64 * KIB));
                (request, task)
            })
            .collect();
        // 8 KiB/s: a stream asks for more of its answer every 160 s.
        let mut next = 0;
        let judged = looked_at(&activity, 1600, || {
            activity.write_moved(40 * KIB);
            activity.write_blocked();
            if next % 2 == 0 {
                requests[next / 2 % 20].0.note_body(Some(64 * KIB));
            }
            next += 1;
        });
        assert_eq!(judged.await, Judgement::Wait(Duration::ZERO));
        assert!(requests.iter().all(|(_, task)| !task.is_finished()));
    }
}
