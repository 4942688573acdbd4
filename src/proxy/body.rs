//! The bodies of answers on their way to the client, and how they ended.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::{Method, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use super::record::{AnswerEnd, BodyEnd, RequestRecord};
use crate::attempt::MemberBody;
use crate::content::{ContentBody, SharedReader};
use crate::forwarding::response::REQUEST_ID;
use crate::upstream::{BodyError, BodyProgress};

/// An answer that fails waits so long before the failure shows: hyper throws away what was not written yet of an h2
/// stream that is reset, and of an h1 connection that is closed, the head included.
const FAILURE_WAITS: Duration = Duration::from_millis(10);

/// The body of an answer.
pub struct ResponseBody {
    source: Source,
    observer: Option<Observer>,
    /// How it has failed, once that may show.
    failing: Option<Failing>,
}

/// A failure that what was sent before it goes ahead of.
struct Failing {
    error: BodyError,
    shows_at: Pin<Box<Sleep>>,
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
    record: Box<RequestRecord>,
    status: u16,
    /// How much of the request's body was read.
    request_body: Arc<BodyProgress>,
    bytes: u64,
    /// Bytes that the answer has in all, where that is known.
    expected: Option<u64>,
}

impl ResponseBody {
    /// No body.
    #[must_use]
    pub fn empty() -> Self {
        Self { source: Source::Empty, observer: None, failing: None }
    }

    /// A body that is there already.
    #[must_use]
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self { source: Source::Full(Some(bytes.into())), observer: None, failing: None }
    }

    /// Content that is there already.
    #[must_use]
    pub fn held(bytes: Bytes) -> Self {
        Self { source: Source::Held(Some(bytes)), observer: None, failing: None }
    }

    /// Content that streams, from another member where one fails.
    pub(super) fn content(body: ContentBody) -> Self {
        Self { source: Source::Content(Box::new(body)), observer: None, failing: None }
    }

    /// Content that several read together.
    pub(super) fn shared(reader: SharedReader) -> Self {
        Self { source: Source::Shared(Box::new(reader)), observer: None, failing: None }
    }

    /// A body that streams from a member.
    #[must_use]
    pub fn member(body: Box<MemberBody>) -> Self {
        Self { source: Source::Member(body), observer: None, failing: None }
    }

    /// The answer as it goes to the client, with the request's id; the record says how it ended.
    pub(super) fn observe(
        mut response: Response<Self>,
        record: Box<RequestRecord>,
        request_body: Arc<BodyProgress>,
    ) -> Response<Self> {
        if let Ok(id) = HeaderValue::from_str(&record.id) {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        let status = response.status();
        let is_head = record.client.method == Method::HEAD;
        if is_head {
            response = without_own_body(response);
        }
        response.map(|mut body| {
            let head_only = is_head || [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status);
            let expected = if head_only { Some(0) } else { body.size_hint().exact() };
            let status = status.as_u16();
            body.observer = Some(Observer { record, status, request_body, bytes: 0, expected });
            body
        })
    }

    /// The length of a body that is there already; `None` where it streams or there is none.
    fn own_length(&self) -> Option<usize> {
        match &self.source {
            Source::Full(bytes) => bytes.as_ref().map(Bytes::len),
            Source::Empty | Source::Held(_) | Source::Member(_) | Source::Content(_) | Source::Shared(_) => {
                None
            }
        }
    }
}

/// The answer to a HEAD says how long the body would be and sends none; over h2 a body would be
/// an error (RFC 9110 9.3.2). A member's answer has none already.
fn without_own_body(response: Response<ResponseBody>) -> Response<ResponseBody> {
    let (mut head, body) = response.into_parts();
    let Some(length) = body.own_length() else { return Response::from_parts(head, body) };
    head.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    Response::from_parts(head, ResponseBody::empty())
}

impl Source {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) | Self::Held(bytes) => Poll::Ready(
                bytes.take().filter(|bytes| !bytes.is_empty()).map(|bytes| Ok(Frame::data(bytes))),
            ),
            Self::Member(body) => body.poll_frame(cx),
            Self::Content(body) => data_frame(body.poll_data(cx)),
            Self::Shared(reader) => data_frame(reader.poll_data(cx)),
        }
    }
}

impl Observer {
    fn is_complete(&self) -> bool {
        self.expected == Some(self.bytes)
    }

    fn finish(self, end: BodyEnd) {
        let (bytes_in, bytes_out) = (self.request_body.bytes(), self.bytes);
        self.record.finish(AnswerEnd { status: self.status, bytes_in, bytes_out, body: end });
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match &mut self.failing {
            Some(failing) => {
                std::task::ready!(failing.shows_at.as_mut().poll(cx));
                let error = self.failing.take().map_or(BodyError::Short, |failing| failing.error);
                Poll::Ready(Some(Err(error)))
            }
            None => match self.source.poll_frame(cx) {
                Poll::Ready(Some(Err(error))) => {
                    let mut shows_at = Box::pin(tokio::time::sleep(FAILURE_WAITS));
                    // It has just begun.
                    let _ = shows_at.as_mut().poll(cx);
                    self.failing = Some(Failing { error, shows_at });
                    return Poll::Pending;
                }
                frame => frame,
            },
        };
        let Some(observer) = &mut self.observer else { return frame };
        let end = match &frame {
            Poll::Pending => return frame,
            Poll::Ready(Some(Ok(frame))) => {
                observer.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                None
            }
            Poll::Ready(None) => Some(BodyEnd::Done),
            Poll::Ready(Some(Err(error))) => Some(end_by(error)),
        };
        if let (Some(end), Some(observer)) = (end, self.observer.take_if(|_| end.is_some())) {
            observer.finish(end);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.failing.is_none()
            && match &self.source {
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

/// How an answer ends whose body fails so.
fn end_by(error: &BodyError) -> BodyEnd {
    match error {
        BodyError::Corrupt => BodyEnd::Corrupt,
        BodyError::Reclaimed => BodyEnd::Reclaimed,
        BodyError::Http(_) | BodyError::Idle | BodyError::Slow | BodyError::Short => BodyEnd::MemberClosed,
    }
}

fn data_frame(data: Poll<Option<Result<Bytes, BodyError>>>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    data.map(|data| data.map(|data| data.map(Frame::data)))
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if let Some(observer) = self.observer.take() {
            let end = match &self.failing {
                Some(failing) => end_by(&failing.error),
                None if observer.is_complete() => BodyEnd::Done,
                None => BodyEnd::ClientClosed,
            };
            observer.finish(end);
        }
    }
}
