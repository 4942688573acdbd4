//! A member's answer: its head, and a body that gives the connection back when it has ended.
//!
//! hyper's h1 server stops polling a body once `Content-Length` bytes were written, so the end of
//! a member's body is found by counting; waiting for the final `None` would lose the connection.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::response;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::upstream::{BodyError, BodyProgress, IdleTimer, InFlight, Lease, Member, Reclaimable, TakenBack};

/// A member's answer, its body still to come.
pub struct Answer {
    /// Which member.
    pub member: Arc<Member>,
    /// Its head.
    pub head: response::Parts,
    /// Its body.
    pub body: MemberBody,
    /// How far the request's own body is, where it streams.
    pub progress: Option<Arc<BodyProgress>>,
    /// When what happened.
    pub times: Times,
}

/// When what happened.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// How long the request waited for its turn.
    pub queued: Duration,
    /// It had a connection.
    pub connected: Instant,
    /// The answer began.
    pub first_byte: Instant,
}

/// A body that streams from a member. It holds the connection until it has ended.
pub struct MemberBody {
    stream: Stream,
    remaining: Option<u64>,
    /// Read from it and not wanted yet.
    put_back: Option<Bytes>,
    idle: IdleTimer,
    failed: bool,
}

/// Where a member's answer comes from.
enum Stream {
    Own(Option<Open>),
    /// Its connection can be taken back for a client that waits.
    Reclaimable(Arc<Reclaimable<Open>>),
}

/// An answer that is still coming.
struct Open {
    incoming: Incoming,
    hold: Option<Hold>,
}

/// What is given back when a member's answer has ended.
pub(super) struct Hold {
    /// The connection.
    pub lease: Lease,
    /// Counts the request.
    pub in_flight: InFlight,
    /// How far the request's body is; a connection that is still being written to is not reused.
    pub progress: Option<Arc<BodyProgress>>,
    /// Whether the answer says that the member is well.
    pub is_good: bool,
}

impl Hold {
    fn give_back(self) {
        let Self { lease, in_flight, progress, is_good } = self;
        if is_good {
            in_flight.member().succeeded();
        }
        drop(in_flight);
        if progress.is_none_or(|progress| progress.has_ended()) {
            lease.give_back();
        }
    }
}

impl Open {
    fn end(&mut self) {
        if let Some(hold) = self.hold.take() {
            hold.give_back();
        }
    }
}

impl MemberBody {
    /// Streams `incoming`, ending it when the member stalls for `idle`.
    pub(super) fn new(incoming: Incoming, idle: Duration, hold: Hold) -> Self {
        let remaining = incoming.size_hint().exact();
        let mut open = Open { incoming, hold: Some(hold) };
        if open.incoming.is_end_stream() || remaining == Some(0) {
            open.end();
        }
        let (stream, idle) = (Stream::Own(Some(open)), IdleTimer::new(idle));
        Self { stream, remaining, put_back: None, idle, failed: false }
    }

    /// From now on the connection can be taken back for a client that waits. The next read then ends with
    /// [`BodyError::Reclaimed`].
    pub fn allow_reclaim(&mut self, taken: TakenBack) {
        let Stream::Own(open) = &mut self.stream else { return };
        let Some(open) = open.take_if(|open| open.hold.is_some()) else { return };
        let place = Reclaimable::new(open, taken);
        place.with(|open| {
            if let Some(hold) = open.as_ref().and_then(|open| open.hold.as_ref()) {
                hold.lease.allow_reclaim(&place);
            }
        });
        self.stream = Stream::Reclaimable(place);
    }

    /// Bytes that are still to come, where the member said how many.
    #[must_use]
    pub fn remaining(&self) -> Option<u64> {
        let kept = self.put_back.as_ref().map_or(0, |kept| kept.len() as u64);
        self.remaining.map(|remaining| remaining + kept)
    }

    /// Whether it came to grief.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// The next read begins with this.
    pub fn put_back(&mut self, data: Bytes) {
        self.put_back = Some(data);
    }

    /// The next frame.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(data) = self.put_back.take() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let Self { stream, remaining, idle, failed, .. } = self;
        let mut poll = |cx: &mut Context<'_>, open: &mut Option<Open>| {
            let Some(Open { incoming, .. }) = open else {
                return Poll::Ready(Some(Err(BodyError::Reclaimed)));
            };
            let frame = match Pin::new(incoming).poll_frame(cx) {
                Poll::Pending => {
                    std::task::ready!(idle.poll_idle(cx));
                    Some(Err(BodyError::Idle))
                }
                Poll::Ready(frame) => frame.map(|frame| frame.map_err(BodyError::from)),
            };
            idle.progressed();
            let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()).map_or(0, Bytes::len);
            *remaining = remaining.map(|remaining| remaining.saturating_sub(data as u64));
            if let Some(Open { hold: Some(hold), .. }) = open {
                hold.in_flight.bytes_came(data);
            }
            let ended = frame.is_none() || *remaining == Some(0);
            match open {
                Some(Open { hold, .. }) if matches!(frame, Some(Err(_))) => *hold = None,
                Some(open) if ended => open.end(),
                Some(_) | None => {}
            }
            Poll::Ready(frame)
        };
        let polled = match stream {
            Stream::Own(open) => poll(cx, open),
            Stream::Reclaimable(place) => place.poll(cx, poll),
        };
        if matches!(polled, Poll::Ready(Some(Err(_)))) {
            *failed = true;
        }
        polled
    }
}

impl Body for MemberBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Self::poll_frame(self.get_mut(), cx)
    }

    fn is_end_stream(&self) -> bool {
        let has_ended =
            |open: &mut Option<Open>| open.as_ref().is_some_and(|open| open.incoming.is_end_stream());
        self.put_back.is_none()
            && match &self.stream {
                Stream::Own(open) => open.as_ref().is_some_and(|open| open.incoming.is_end_stream()),
                Stream::Reclaimable(place) => place.with(has_ended),
            }
    }

    fn size_hint(&self) -> SizeHint {
        self.remaining().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
