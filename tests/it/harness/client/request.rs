//! Requests that tests make by hand.

use bytes::Bytes;
use futures_util::stream;
use http::request::Builder;
use http::{HeaderName, HeaderValue, Method, Request};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use tokio::sync::mpsc;

/// A request body that may be streamed and may fail.
pub(crate) type TestBody = BoxBody<Bytes, std::io::Error>;

/// A body that is known and whole.
pub(crate) fn whole(bytes: impl Into<Bytes>) -> TestBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// A body of unknown length that goes on when the test says so.
pub(crate) fn chunked() -> (mpsc::Sender<Bytes>, TestBody) {
    let (chunks, inbox) = mpsc::channel(1);
    let next = |mut inbox: mpsc::Receiver<Bytes>| async move {
        let chunk = inbox.recv().await?;
        Some((Ok::<_, std::io::Error>(Frame::data(chunk)), inbox))
    };
    (chunks, StreamBody::new(stream::unfold(inbox, next)).boxed())
}

/// A request to be finished; what is no header or no target panics where the body is given.
#[derive(Debug)]
pub(crate) struct RequestBuilder(Builder);

impl RequestBuilder {
    pub(super) fn new(method: Method, target: &str) -> Self {
        Self(Request::builder().method(method).uri(target))
    }

    pub(crate) fn header<K, V>(self, name: K, value: V) -> Self
    where
        HeaderName: TryFrom<K, Error: Into<http::Error>>,
        HeaderValue: TryFrom<V, Error: Into<http::Error>>,
    {
        Self(self.0.header(name, value))
    }

    #[track_caller]
    pub(crate) fn body<B>(self, body: B) -> Request<B> {
        match self.0.body(body) {
            Ok(request) => request,
            Err(error) => panic!("not a request: {error}"),
        }
    }

    /// Without a body.
    #[track_caller]
    pub(crate) fn empty(self) -> Request<TestBody> {
        self.body(whole(""))
    }
}
