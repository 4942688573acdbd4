//! Request bodies on their way to a member.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::Notify;
use tokio::time::Sleep;

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Http(#[from] hyper::Error),
    /// No byte moved within the idle deadline.
    #[error("no byte moved for too long")]
    Idle,
}

/// How far a request's body has come; shared by the body and the one who watches it.
#[derive(Debug, Default)]
pub struct BodyProgress {
    polled: AtomicBool,
    ended: AtomicBool,
    bytes: AtomicU64,
    end: Notify,
}

impl BodyProgress {
    /// Whether anybody asked for a first byte. Before that the request can be sent elsewhere.
    #[must_use]
    pub fn was_polled(&self) -> bool {
        self.polled.load(Ordering::Acquire)
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

    fn set_ended(&self) {
        self.ended.store(true, Ordering::Release);
        self.end.notify_one();
    }

    /// Bytes so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }
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

/// A body for a member: none, or the client's own, streamed.
#[derive(Debug)]
pub enum RequestBody {
    /// No body.
    Empty,
    /// The client's body, as it comes.
    Stream {
        /// Where it comes from.
        incoming: Incoming,
        /// How far it is.
        progress: Arc<BodyProgress>,
        /// Bytes still to come, where the client said how many.
        remaining: Option<u64>,
        /// Ends it when the client stalls.
        idle: IdleTimer,
    },
}

impl RequestBody {
    /// Streams the client's body.
    #[must_use]
    pub fn stream(incoming: Incoming, progress: Arc<BodyProgress>, idle: Duration) -> Self {
        if incoming.is_end_stream() {
            progress.set_ended();
        }
        let remaining = incoming.size_hint().exact();
        Self::Stream { incoming, progress, remaining, idle: IdleTimer::new(idle) }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self::Stream { incoming, progress, remaining, idle } = self.get_mut() else {
            return Poll::Ready(None);
        };
        progress.polled.store(true, Ordering::Release);
        match Pin::new(&mut *incoming).poll_frame(cx) {
            Poll::Pending => match idle.poll_idle(cx) {
                Poll::Ready(()) => Poll::Ready(Some(Err(BodyError::Idle))),
                Poll::Pending => Poll::Pending,
            },
            Poll::Ready(None) => {
                progress.set_ended();
                Poll::Ready(None)
            }
            Poll::Ready(Some(frame)) => {
                idle.progressed();
                if let Ok(Some(data)) = frame.as_ref().map(Frame::data_ref) {
                    progress.bytes.fetch_add(data.len() as u64, Ordering::AcqRel);
                    *remaining = remaining.map(|remaining| remaining.saturating_sub(data.len() as u64));
                }
                // After the announced length nobody polls again, whether or not the end was seen.
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
            Self::Stream { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream { incoming, .. } => incoming.size_hint(),
        }
    }
}
