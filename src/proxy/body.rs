//! Answers' bodies on their way to the client.
//!
//! hyper's h1 server stops polling a body once `Content-Length` bytes were written, so the end of
//! a member's body is found by counting; waiting for the final `None` would lose the connection.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::context::{BodyEnd, RequestContext};
use super::resume::ContentBody;
use super::window::SharedReader;
use crate::upstream::{BodyError, BodyProgress, IdleTimer, InFlight, Lease, Reclaimable, TakenBack};

/// The body of an answer.
pub struct ResponseBody {
    source: Source,
    observer: Option<Observer>,
}

enum Source {
    Empty,
    Full(Option<Bytes>),
    /// Verified content.
    Held(Option<Bytes>),
    Member(Box<MemberBody>),
    Content(Box<ContentBody>),
    Shared(Box<SharedReader>),
}

/// Says how the answer ended.
struct Observer {
    context: Box<RequestContext>,
    status: u16,
    bytes: u64,
    /// Bytes that the answer has in all, where that is known.
    expected: Option<u64>,
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
pub struct Hold {
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
    #[must_use]
    pub fn new(incoming: Incoming, idle: Duration, hold: Hold) -> Self {
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
    pub(super) fn allow_reclaim(&mut self, taken: TakenBack) {
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

    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
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

impl ResponseBody {
    /// No body.
    #[must_use]
    pub fn empty() -> Self {
        Self { source: Source::Empty, observer: None }
    }

    /// A body that is there already.
    #[must_use]
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self { source: Source::Full(Some(bytes.into())), observer: None }
    }

    /// Content that is there already.
    #[must_use]
    pub fn held(bytes: Bytes) -> Self {
        Self { source: Source::Held(Some(bytes)), observer: None }
    }

    /// Content that streams, from another member where one fails.
    pub(super) fn content(body: ContentBody) -> Self {
        Self { source: Source::Content(Box::new(body)), observer: None }
    }

    /// Content that several read together.
    pub(super) fn shared(reader: SharedReader) -> Self {
        Self { source: Source::Shared(Box::new(reader)), observer: None }
    }

    /// A body that streams from a member.
    #[must_use]
    pub fn member(body: MemberBody) -> Self {
        Self { source: Source::Member(Box::new(body)), observer: None }
    }

    /// The length of a body that is there already; `None` where it streams or there is none.
    #[must_use]
    pub fn own_length(&self) -> Option<usize> {
        match &self.source {
            Source::Full(bytes) => bytes.as_ref().map(Bytes::len),
            Source::Empty | Source::Held(_) | Source::Member(_) | Source::Content(_) | Source::Shared(_) => {
                None
            }
        }
    }

    /// The same body, which says how it ended.
    #[must_use]
    pub fn observed(mut self, context: Box<RequestContext>, status: u16) -> Self {
        let head_only = context.method == http::Method::HEAD || status == 204 || status == 304;
        let expected = if head_only { Some(0) } else { self.size_hint().exact() };
        self.observer = Some(Observer { context, status, bytes: 0, expected });
        self
    }
}

impl Observer {
    fn is_complete(&self) -> bool {
        self.expected == Some(self.bytes)
    }

    fn finish(self, end: BodyEnd) {
        self.context.finish(self.status, self.bytes, end);
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match &mut self.source {
            Source::Empty => Poll::Ready(None),
            Source::Full(bytes) | Source::Held(bytes) => Poll::Ready(
                bytes.take().filter(|bytes| !bytes.is_empty()).map(|bytes| Ok(Frame::data(bytes))),
            ),
            Source::Member(body) => body.poll_frame(cx),
            Source::Content(body) => data_frame(body.poll_data(cx)),
            Source::Shared(reader) => data_frame(reader.poll_data(cx)),
        };
        match &frame {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(observer), Some(data)) = (&mut self.observer, frame.data_ref()) {
                    observer.bytes += data.len() as u64;
                }
            }
            Poll::Ready(None) => {
                if let Some(observer) = self.observer.take() {
                    observer.finish(BodyEnd::Done);
                }
            }
            Poll::Ready(Some(Err(error))) => {
                let end = match error {
                    BodyError::Corrupt => BodyEnd::Corrupt,
                    BodyError::Reclaimed => BodyEnd::Reclaimed,
                    BodyError::Http(_) | BodyError::Idle | BodyError::Slow | BodyError::Short => {
                        BodyEnd::MemberClosed
                    }
                };
                if let Some(observer) = self.observer.take() {
                    observer.finish(end);
                }
            }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Empty => true,
            Source::Full(bytes) | Source::Held(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Source::Member(body) => body.is_end_stream(),
            Source::Content(body) => body.has_ended(),
            Source::Shared(reader) => reader.remaining() == Some(0),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::Full(bytes) | Source::Held(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64)
            }
            Source::Member(body) => body.size_hint(),
            Source::Content(body) => body.remaining().map_or_else(SizeHint::default, SizeHint::with_exact),
            Source::Shared(reader) => reader.remaining().map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

fn data_frame(data: Poll<Option<Result<Bytes, BodyError>>>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    data.map(|data| data.map(|data| data.map(Frame::data)))
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if let Some(observer) = self.observer.take() {
            let end = if observer.is_complete() { BodyEnd::Done } else { BodyEnd::ClientClosed };
            observer.finish(end);
        }
    }
}
