//! What a downstream connection is doing, and when it has done nothing for too long.
//!
//! hyper's own head deadline also runs while a kept-alive connection rests between requests, and
//! nothing in it notices a client that stops reading an answer. So the stream under hyper and the
//! requests above it note what happens here, and the connection's task looks at it now and then.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;

/// How long a connection may be in each state.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// From the first byte of a request's head to its last.
    pub(super) head: Duration,
    /// Without a request.
    pub(super) idle: Duration,
    /// With an answer that the client does not read.
    pub(super) blocked: Duration,
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
    idle_since: AtomicU64,
    head_since: AtomicU64,
    blocked_since: AtomicU64,
    /// The connection is to be reset, not closed.
    reset: AtomicBool,
    /// Told when a request begins.
    begun: Notify,
    /// On h2 bytes that come between requests are frames of the connection, not a head.
    frames: AtomicBool,
    /// For each request: since when the client has not asked for more of its answer.
    unread: Mutex<Vec<Arc<AtomicU64>>>,
}

impl Activity {
    /// A connection that was just opened.
    #[must_use]
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            opened: Instant::now(),
            requests: AtomicUsize::new(0),
            idle_since: AtomicU64::new(1),
            head_since: AtomicU64::new(0),
            blocked_since: AtomicU64::new(0),
            reset: AtomicBool::new(false),
            begun: Notify::new(),
            frames: AtomicBool::new(false),
            unread: Mutex::new(Vec::new()),
        })
    }

    /// A request's head has come; the request lasts until the guard is dropped.
    #[must_use]
    pub(super) fn begin_request(self: &Arc<Self>) -> RequestGuard {
        self.requests.fetch_add(1, Ordering::AcqRel);
        self.head_since.store(0, Ordering::Release);
        let unread = Arc::new(AtomicU64::new(0));
        self.marks().push(Arc::clone(&unread));
        self.begun.notify_one();
        RequestGuard { activity: Arc::clone(self), unread }
    }

    /// The connection speaks h2.
    pub(super) fn expect_frames(&self) {
        self.frames.store(true, Ordering::Release);
        self.head_since.store(0, Ordering::Release);
    }

    fn marks(&self) -> MutexGuard<'_, Vec<Arc<AtomicU64>>> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a request is being served.
    #[must_use]
    pub(super) fn is_busy(&self) -> bool {
        self.requests.load(Ordering::Acquire) > 0
    }

    /// Whether a request's head has begun to come.
    #[must_use]
    pub(super) fn is_in_head(&self) -> bool {
        self.head_since.load(Ordering::Acquire) != 0
    }

    /// Waits until a request begins.
    pub(super) fn began(&self) -> Notified<'_> {
        self.begun.notified()
    }

    /// What to do with the connection now.
    #[must_use]
    pub(super) fn judge(&self, patience: Patience) -> Judgement {
        let now = self.now();
        let since = |mark: &AtomicU64| match mark.load(Ordering::Acquire) {
            0 => None,
            mark => Some(Duration::from_millis(now.saturating_sub(mark))),
        };
        // Often enough that no deadline is missed by much.
        let mut wait = patience.head.min(patience.blocked).min(patience.idle) / 4;
        // A client of h2 can stop reading one answer while the connection itself moves.
        let unread = self.marks().iter().any(|mark| since(mark).is_some_and(|time| time >= patience.blocked));
        if unread || since(&self.blocked_since).is_some_and(|blocked| blocked >= patience.blocked) {
            return Judgement::Abort;
        }
        if !self.is_busy() {
            if since(&self.head_since).is_some_and(|head| head >= patience.head) {
                return Judgement::Abort;
            }
            match since(&self.idle_since) {
                Some(idle) if idle >= patience.idle => return Judgement::CloseIdle,
                Some(idle) => wait = wait.min(patience.idle.saturating_sub(idle)),
                None => {}
            }
        }
        Judgement::Wait(wait.max(Duration::from_millis(10)))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn bytes_came(&self) {
        if !self.frames.load(Ordering::Acquire)
            && !self.is_busy()
            && self.head_since.load(Ordering::Acquire) == 0
        {
            self.head_since.store(self.now(), Ordering::Release);
        }
    }

    fn write_blocked(&self) {
        if self.blocked_since.load(Ordering::Acquire) == 0 {
            self.blocked_since.store(self.now(), Ordering::Release);
        }
    }

    fn write_moved(&self) {
        if self.blocked_since.load(Ordering::Acquire) != 0 {
            self.blocked_since.store(0, Ordering::Release);
        }
    }
}

/// A request lasts while this lives.
#[derive(Debug)]
pub(super) struct RequestGuard {
    activity: Arc<Activity>,
    unread: Arc<AtomicU64>,
}

impl RequestGuard {
    /// The answer's body was asked for more; `given` says whether it had any. From then on it is
    /// the client's turn.
    pub(super) fn note_body(&self, given: bool) {
        self.unread.store(if given { self.activity.now() } else { 0 }, Ordering::Release);
    }

    /// The client must not take what it has for whole: its connection ends with a reset. On h2 the
    /// stream does, and the connection goes on.
    pub(super) fn reset_connection(&self) {
        if !self.activity.frames.load(Ordering::Acquire) {
            self.activity.reset.store(true, Ordering::Release);
        }
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.activity.marks().retain(|mark| !Arc::ptr_eq(mark, &self.unread));
        self.activity.idle_since.store(self.activity.now(), Ordering::Release);
        self.activity.requests.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A stream with a TCP socket below it.
pub(super) trait Socket {
    /// The socket.
    fn socket(&self) -> &TcpStream;
}

impl Socket for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Socket for TlsStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// A stream that notes what happens on it.
#[derive(Debug)]
pub(super) struct Watched<S: Socket> {
    stream: S,
    activity: Arc<Activity>,
}

impl<S: Socket> Watched<S> {
    /// Watches a stream.
    #[must_use]
    pub(super) fn new(stream: S, activity: Arc<Activity>) -> Self {
        Self { stream, activity }
    }

    fn note_write(&self, wrote: &Poll<io::Result<usize>>) {
        match wrote {
            Poll::Pending => self.activity.write_blocked(),
            Poll::Ready(_) => self.activity.write_moved(),
        }
    }
}

impl<S: Socket + AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.activity.bytes_came();
        }
        read
    }
}

impl<S: Socket + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note_write(&wrote);
        wrote
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note_write(&wrote);
        wrote
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        match &flushed {
            Poll::Pending => self.activity.write_blocked(),
            Poll::Ready(_) => self.activity.write_moved(),
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: Socket> Drop for Watched<S> {
    fn drop(&mut self) {
        if self.activity.reset.load(Ordering::Acquire) {
            // Closing then sends RST at once (SO_LINGER with no time). A socket that takes no
            // options is gone already.
            drop(SockRef::from(self.stream.socket()).set_linger(Some(Duration::ZERO)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        head: Duration::from_secs(10),
        idle: Duration::from_secs(60),
        blocked: Duration::from_secs(30),
    };

    #[tokio::test(start_paused = true)]
    async fn resting_connections_are_closed_and_stalling_ones_aborted() {
        let activity = Activity::new();
        let after = |seconds| tokio::time::advance(Duration::from_secs(seconds));
        after(59).await;
        assert!(matches!(activity.judge(PATIENCE), Judgement::Wait(_)));
        after(1).await;
        assert_eq!(activity.judge(PATIENCE), Judgement::CloseIdle);
        activity.bytes_came();
        let request = activity.begin_request();
        after(1000).await;
        assert!(matches!(activity.judge(PATIENCE), Judgement::Wait(_)), "a request may take its time");
        activity.write_blocked();
        after(29).await;
        activity.write_moved();
        activity.write_blocked();
        after(29).await;
        assert!(matches!(activity.judge(PATIENCE), Judgement::Wait(_)));
        after(1).await;
        assert_eq!(activity.judge(PATIENCE), Judgement::Abort);
        activity.write_moved();
        drop(request);
        activity.bytes_came();
        after(9).await;
        activity.bytes_came();
        assert!(matches!(activity.judge(PATIENCE), Judgement::Wait(_)));
        after(1).await;
        assert_eq!(activity.judge(PATIENCE), Judgement::Abort, "a head may not drip");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_read_ends_the_connection_although_others_move() {
        let activity = Activity::new();
        activity.expect_frames();
        let after = |seconds| tokio::time::advance(Duration::from_secs(seconds));
        let (read, unread) = (activity.begin_request(), activity.begin_request());
        unread.note_body(true);
        after(29).await;
        read.note_body(true);
        assert!(matches!(activity.judge(PATIENCE), Judgement::Wait(_)));
        after(1).await;
        assert_eq!(activity.judge(PATIENCE), Judgement::Abort);
        unread.note_body(false);
        assert!(
            matches!(activity.judge(PATIENCE), Judgement::Wait(_)),
            "the member's turn is not the client's"
        );
        drop((read, unread));
        activity.bytes_came();
        after(20).await;
        assert!(
            matches!(activity.judge(PATIENCE), Judgement::Wait(_)),
            "frames between requests are no head"
        );
        after(40).await;
        assert_eq!(activity.judge(PATIENCE), Judgement::CloseIdle);
    }
}
