//! The way from core to the registry behind it: a request goes on with the node's own credential and unchanged otherwise.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, DATE, HOST};
use http::{HeaderMap, HeaderValue, Method, Request};
use http_body_util::BodyExt as _;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::answer::{self, Answer, Body};

/// Reads what a client still sends after its answer was made, as nginx does, so that the connection can be used again.
#[derive(Debug, Clone, Default)]
pub(super) struct Drains(Arc<Mutex<JoinSet<()>>>);

impl Drains {
    fn drain(&self, mut body: Incoming) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move { while let Some(Ok(_)) = body.frame().await {} });
    }

    pub(super) fn abort(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }
}

/// The body of a client's request. What nobody reads of it is drained when it is dropped.
#[derive(Debug)]
pub(super) struct ClientBody {
    first: Option<Frame<Bytes>>,
    rest: Option<Incoming>,
    drains: Drains,
}

impl ClientBody {
    pub(super) fn new(body: Incoming, drains: Drains) -> Self {
        Self { first: None, rest: Some(body), drains }
    }

    /// Asks for the body before anybody needs it: this is what sends `100 Continue`.
    pub(super) async fn invite(&mut self) {
        let Some(rest) = &mut self.rest else { return };
        let polled = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *rest).poll_frame(cx))).await;
        if let Poll::Ready(Some(Ok(frame))) = polled {
            self.first = Some(frame);
        }
        // The connection's own task writes it.
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
    }

    /// The whole body, or nothing where it breaks off or is longer than `limit`.
    pub(super) async fn read(self, limit: usize) -> Option<Bytes> {
        http_body_util::Limited::new(self, limit)
            .collect()
            .await
            .ok()
            .map(http_body_util::Collected::to_bytes)
    }
}

impl HttpBody for ClientBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        match &mut self.rest {
            Some(rest) => Pin::new(rest).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.first, &self.rest) {
            (None, Some(rest)) => rest.size_hint(),
            _ => SizeHint::default(),
        }
    }
}

impl Drop for ClientBody {
    fn drop(&mut self) {
        if let Some(rest) = self.rest.take().filter(|rest| !rest.is_end_stream()) {
            self.drains.drain(rest);
        }
    }
}

/// The registry of a node.
#[derive(Debug, Clone)]
pub(super) struct Behind {
    pub(super) address: SocketAddr,
    /// What core shows it; without one the client's own goes on, as in Harbor 1.
    pub(super) authorization: Option<String>,
}

impl Behind {
    /// Sends a request on and returns the answer as it comes, or nothing where the registry does not answer.
    pub(super) async fn forward<B>(
        &self,
        (method, target): (Method, &str),
        mut headers: HeaderMap,
        body: B,
    ) -> Option<Answer>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, HeaderValue::from_str(authorization).expect("a header"));
        }
        for name in [CONNECTION, COOKIE, http::header::EXPECT] {
            headers.remove(name);
        }
        if !headers.contains_key(HOST) {
            headers.insert(HOST, HeaderValue::from_str(&self.address.to_string()).expect("a header"));
        }
        let mut request = Request::builder().method(method).uri(target).body(Box::pin(body)).ok()?;
        *request.headers_mut() = headers;
        let socket = TcpStream::connect(self.address).await.ok()?;
        let (mut sender, driver) = handshake(TokioIo::new(socket)).await.ok()?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { drop(driver.await) });
        let (mut head, body) = sender.send_request(request).await.ok()?.into_parts();
        head.headers.remove(DATE);
        head.headers.remove(CONNECTION);
        // The connection lives as long as somebody reads from it.
        let body = body.map_err(move |error| {
            let _connection = (&tasks, &sender);
            io::Error::other(error)
        });
        Some(Answer::from_parts(head, body.boxed_unsync()))
    }

    /// As [`Self::forward`], with core's answer where there is none: 502 and nothing else.
    pub(super) async fn forward_or_502(
        &self,
        target: (Method, &str),
        headers: HeaderMap,
        body: impl HttpBody<Data = Bytes, Error = hyper::Error> + Send + 'static,
    ) -> Answer {
        self.forward(target, headers, body).await.unwrap_or_else(|| answer::empty(502))
    }

    /// A request of core's own, with a body that it has.
    pub(super) async fn send_bytes(
        &self,
        target: (Method, &str),
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Answer {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        headers.remove(http::header::TRANSFER_ENCODING);
        let body: Body = answer::whole(body);
        self.forward(target, headers, body).await.unwrap_or_else(|| answer::empty(502))
    }
}
