//! Request bodies on their way to a member.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

use super::reclaim::{Gain, TakeBack};
use crate::pace::{LeastRate, Pace};
use crate::random::monotonic_ms;
use crate::registry::ContentHash;

/// While others wait, a body of a client that holds more than its share is not ended before this, in milliseconds, ...
const SLOW_AFTER_MS: u64 = 10_000;
/// ... and not if it is as fast as a line of 64 kbit/s, in bytes per second.
const SLOW_BYTES_PER_SECOND: u64 = 8000;

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Http(#[from] hyper::Error),
    /// No byte moved within the idle deadline.
    #[error("no byte moved for too long")]
    Idle,
    /// It moved, but at less than the least rate.
    #[error("it moved at less than the least rate, `limits.body_rate_min`")]
    Slow,
    /// The member ended it before its announced length.
    #[error("the member ended the body early")]
    Short,
    /// The member's connection was given to a client that waited.
    #[error("the connection was given to a client that waited")]
    Reclaimed,
    /// The bytes are not what their digest says. The client must not take them for whole.
    #[error("the content is not what its digest says")]
    Corrupt,
}

impl BodyError {
    /// Whether the client's connection must be reset rather than closed: after a clean close some
    /// clients ask for the rest, again and again, and there is none.
    #[must_use]
    pub fn resets_connection(&self) -> bool {
        matches!(self, Self::Corrupt)
    }
}

/// How far a request's body has come; shared by the body and what watches it.
#[derive(Debug, Default)]
pub struct BodyProgress {
    polled: AtomicBool,
    ended: AtomicBool,
    /// Whether it came to grief on the client's side.
    broken: AtomicBool,
    bytes: AtomicU64,
    end: Notify,
    /// When the first byte was asked for, by [`monotonic_ms`].
    began_ms: AtomicU64,
    /// It is to end: it is slow, and others wait for the connection.
    cut: AtomicBool,
    /// The body, while it waits for the client.
    waiting: Mutex<Option<Waker>>,
    /// Hashes of the bytes that went by.
    hashes: Mutex<Vec<ContentHash>>,
}

impl BodyProgress {
    /// Whether a first byte was asked for. Before that the request can be sent elsewhere.
    #[must_use]
    pub fn was_polled(&self) -> bool {
        self.polled.load(Ordering::Relaxed)
    }

    /// Whether the whole body was read.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Waits until the whole body was read. For one waiter.
    pub async fn ended(&self) {
        while !self.has_ended() {
            self.end.notified().await;
        }
    }

    /// Whether the client broke off or stalled.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Counts bytes that were read apart.
    pub fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// From now on the bytes go into these hashes too.
    pub fn set_hashes(&self, hashes: Vec<ContentHash>) {
        *self.hashes.lock().unwrap_or_else(PoisonError::into_inner) = hashes;
    }

    /// The hashes, with every byte that went by.
    #[must_use]
    pub fn take_hashes(&self) -> Vec<ContentHash> {
        std::mem::take(&mut *self.hashes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether it is to end now; else its reader is woken when it is.
    fn is_cut(&self, cx: &Context<'_>) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            *waiting = Some(cx.waker().clone());
        }
        self.cut.load(Ordering::Relaxed)
    }

    fn hash(&self, data: &[u8]) {
        for hash in self.hashes.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
            hash.update(data);
        }
    }

    fn set_ended(&self) {
        // What is known of the body by then, that it broke off and how many bytes it had, is seen with its end.
        self.ended.store(true, Ordering::Release);
        self.end.notify_one();
    }

    /// Bytes so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl TakeBack for BodyProgress {
    fn gain(&self, _since_ms: u64, now_ms: u64) -> Option<Gain> {
        let began_ms = self.began_ms.load(Ordering::Relaxed);
        let lasted_ms = now_ms.saturating_sub(began_ms);
        let is_slow = began_ms > 0 && !self.has_ended() && is_slow(self.bytes(), lasted_ms);
        is_slow.then_some(Gain::Served(lasted_ms))
    }

    fn take_back(&self) -> bool {
        let was_cut = self.cut.swap(true, Ordering::Relaxed);
        if let Some(body) = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take() {
            body.wake();
        }
        !was_cut
    }
}

/// Whether a body is too slow to keep its connection from others that wait, for a client that holds more than its share.
fn is_slow(bytes: u64, lasted_ms: u64) -> bool {
    lasted_ms >= SLOW_AFTER_MS && bytes.saturating_mul(1000) / lasted_ms < SLOW_BYTES_PER_SECOND
}

/// A deadline that starts anew whenever bytes move, armed only while nothing moves.
#[derive(Debug)]
pub struct IdleTimer {
    limit: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    armed: bool,
}

impl IdleTimer {
    /// A timer that fires after `limit` without progress.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self { limit, sleep: None, armed: false }
    }

    /// Bytes moved.
    pub fn progressed(&mut self) {
        self.armed = false;
    }

    /// Nothing moves; ready when that has lasted too long.
    pub fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = tokio::time::Instant::now() + self.limit;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if !self.armed {
            sleep.as_mut().reset(deadline);
            self.armed = true;
        }
        sleep.as_mut().poll(cx)
    }
}

/// A body for a member: none, one that is all here, or the client's own, streamed.
#[derive(Debug)]
pub enum RequestBody {
    /// No body.
    Empty,
    /// All of it, to be sent as often as it takes; `None` when it was handed over.
    Whole(Option<Bytes>),
    /// The client's body, as it comes.
    Stream {
        /// What has come of it already.
        first: Option<Bytes>,
        /// Where the rest comes from.
        incoming: Incoming,
        /// How far it is.
        progress: Arc<BodyProgress>,
        /// Bytes still to come, where the client said how many.
        remaining: Option<u64>,
        /// Ends it when the client stalls.
        idle: IdleTimer,
        /// Ends it when the client sends too slowly, with the time from which it is told.
        pace: (Pace, Instant),
    },
}

impl RequestBody {
    /// The same body once more; `None` where its bytes exist only once.
    #[must_use]
    pub fn again(&self) -> Option<Self> {
        match self {
            Self::Empty => Some(Self::Empty),
            Self::Whole(bytes) => Some(Self::Whole(bytes.clone())),
            Self::Stream { .. } => None,
        }
    }

    /// Streams the client's body, of which `first` has come. It ends when no byte moves for the window of `least`, or
    /// too few do.
    #[must_use]
    pub fn stream(first: Bytes, incoming: Incoming, progress: Arc<BodyProgress>, least: LeastRate) -> Self {
        let here = first.len() as u64;
        let remaining = incoming.size_hint().exact().map(|rest| rest.saturating_add(here));
        let (idle, pace) = (IdleTimer::new(least.window), (Pace::new(least), Instant::now()));
        Self::Stream { first: Some(first), incoming, progress, remaining, idle, pace }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let (first, incoming, progress, remaining, (idle, pace)) = match self.get_mut() {
            Self::Empty => return Poll::Ready(None),
            Self::Whole(bytes) => return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream { first, incoming, progress, remaining, idle, pace } => {
                (first, incoming, progress, remaining, (idle, pace))
            }
        };
        if !progress.polled.swap(true, Ordering::Relaxed) {
            progress.began_ms.store(monotonic_ms(), Ordering::Relaxed);
        }
        let next = match first.take() {
            Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
            None => Pin::new(&mut *incoming).poll_frame(cx),
        };
        match next {
            Poll::Pending => {
                pace.0.waits(pace.1.elapsed());
                if progress.is_cut(cx) {
                    progress.broken.store(true, Ordering::Relaxed);
                    return Poll::Ready(Some(Err(BodyError::Slow)));
                }
                std::task::ready!(idle.poll_idle(cx));
                progress.broken.store(true, Ordering::Relaxed);
                Poll::Ready(Some(Err(BodyError::Idle)))
            }
            Poll::Ready(None) => {
                progress.set_ended();
                Poll::Ready(None)
            }
            Poll::Ready(Some(frame)) => {
                idle.progressed();
                if frame.is_err() {
                    progress.broken.store(true, Ordering::Relaxed);
                }
                if let Ok(Some(data)) = frame.as_ref().map(Frame::data_ref) {
                    if pace.0.moved(data.len() as u64, pace.1.elapsed()) {
                        progress.broken.store(true, Ordering::Relaxed);
                        return Poll::Ready(Some(Err(BodyError::Slow)));
                    }
                    progress.hash(data);
                    progress.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
                    *remaining = remaining.map(|remaining| remaining.saturating_sub(data.len() as u64));
                }
                // After the announced length it is not polled again, whether or not the end was seen.
                if incoming.is_end_stream() || *remaining == Some(0) {
                    progress.set_ended();
                }
                Poll::Ready(Some(frame.map_err(BodyError::from)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Self::Stream { first, incoming, .. } => first.is_none() && incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Stream { remaining: Some(remaining), .. } => SizeHint::with_exact(*remaining),
            Self::Stream { .. } => SizeHint::default(),
        }
    }
}
