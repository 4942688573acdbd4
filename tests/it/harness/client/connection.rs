//! Connections that stay open between requests, or while a body is half sent or half read.

use anyhow::{Context as _, ensure};
use http::header::HOST;
use http::{Method, Request};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;

use super::{Answer, TestBody, TestClient, sure};
use crate::harness::Result;
use crate::harness::wait::HANG;

/// Method and target, for messages.
pub(super) fn name_of<B>(request: &Request<B>) -> String {
    format!("{} {}", request.method(), request.uri())
}

/// One open HTTP/1.1 connection. Dropping it closes it, in the middle of a body too.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: SendRequest<TestBody>,
    _driver: JoinSet<()>,
}

impl Connection {
    pub(super) async fn over(
        io: impl hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
    ) -> Result<Self> {
        let (sender, driver) = handshake(io).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // A connection that ends with an error also fails the request on it, which the test sees.
            let _ = driver.await;
        });
        Ok(Self { sender, _driver: tasks })
    }

    /// Sends a request and returns the head of its answer; the body is the caller's to read.
    #[track_caller]
    pub(crate) fn send_head(
        &mut self,
        request: Request<TestBody>,
    ) -> impl Future<Output = http::Response<Incoming>> {
        sure(self.try_send_head(request))
    }

    /// As [`Self::send_head`], for tests that expect no answer.
    pub(crate) async fn try_send_head(
        &mut self,
        request: Request<TestBody>,
    ) -> Result<http::Response<Incoming>> {
        let what = name_of(&request);
        self.sender.ready().await.with_context(|| what.clone())?;
        self.sender.send_request(request).await.context(what)
    }

    /// Sends a request and reads its answer to the end.
    #[track_caller]
    pub(crate) fn send(&mut self, request: Request<TestBody>) -> impl Future<Output = Answer> {
        sure(self.try_send(request))
    }

    /// As [`Self::send`], for tests that expect no answer.
    pub(crate) async fn try_send(&mut self, request: Request<TestBody>) -> Result<Answer> {
        let what = name_of(&request);
        let (head, body) = self.try_send_head(request).await?.into_parts();
        let body = body.collect().await.with_context(|| format!("{what}: the body broke off"))?.to_bytes();
        Ok(Answer { request: what, status: head.status, headers: head.headers, body })
    }
}

/// A handle that sends requests on an open HTTP/2 connection, side by side.
#[derive(Debug, Clone)]
pub(crate) struct H2Sender {
    sender: http2::SendRequest<TestBody>,
    authority: String,
}

/// An HTTP/2 connection; dropping it closes it.
#[derive(Debug)]
pub(crate) struct H2Connection {
    sender: H2Sender,
    _driver: JoinSet<()>,
}

impl H2Connection {
    /// One whose streams have windows of this size, driven for as long as it lives.
    pub(super) async fn over(
        io: TokioIo<TlsStream<TcpStream>>,
        authority: String,
        window: u32,
    ) -> Result<Self> {
        let (sender, driver) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(window)
            .initial_connection_window_size(1 << 24)
            .handshake(io)
            .await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // A connection that ends with an error also fails the requests on it, which the test sees.
            let _ = driver.await;
        });
        Ok(Self { sender: H2Sender { sender, authority }, _driver: tasks })
    }

    /// Sends a request, made by [`TestClient::request`], and returns the head of its answer.
    #[track_caller]
    pub(crate) fn send_head(
        &self,
        request: Request<TestBody>,
    ) -> impl Future<Output = http::Response<Incoming>> + use<> {
        self.sender().send_head(request)
    }

    /// A handle that sends requests on it.
    pub(crate) fn sender(&self) -> H2Sender {
        self.sender.clone()
    }
}

impl H2Sender {
    /// Sends a request, made by [`TestClient::request`], and returns the head of its answer.
    #[track_caller]
    pub(crate) fn send_head(
        self,
        request: Request<TestBody>,
    ) -> impl Future<Output = http::Response<Incoming>> + use<> {
        sure(self.try_send_head(request))
    }

    /// As [`Self::send_head`], for tests that expect no answer.
    pub(crate) async fn try_send_head(
        mut self,
        request: Request<TestBody>,
    ) -> Result<http::Response<Incoming>> {
        let what = name_of(&request);
        let (mut head, body) = request.into_parts();
        head.headers.remove(HOST);
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
        head.uri = format!("https://{}{target}", self.authority).parse()?;
        self.sender.ready().await.with_context(|| what.clone())?;
        self.sender.send_request(Request::from_parts(head, body)).await.context(what)
    }
}

/// A request whose head has gone and whose body waits for the test. The gateway has asked for the body: what it does before that is done.
#[derive(Debug)]
pub(crate) struct Hanging {
    socket: TlsStream<TcpStream>,
}

impl TestClient {
    /// The head of a request as it is sent, with this client's host and credential and these further lines.
    pub(crate) fn raw_head(&self, method: &Method, target: &str, headers: &str) -> String {
        let credential = self.authorization.as_ref();
        let credential = credential.map(|value| format!("authorization: {value}\r\n")).unwrap_or_default();
        format!("{method} {target} HTTP/1.1\r\nhost: {}\r\n{credential}{headers}\r\n", self.authority)
    }

    /// Sends the head of a request with `Expect: 100-continue`, and waits until its body is asked for.
    #[track_caller]
    pub(crate) fn hang(&self, method: Method, target: &str, headers: &str) -> impl Future<Output = Hanging> {
        sure(self.try_hang(method, target, headers))
    }

    async fn try_hang(&self, method: Method, target: &str, headers: &str) -> Result<Hanging> {
        let mut socket = self.try_raw_tls().await?;
        let headers = format!("{headers}expect: 100-continue\r\nconnection: close\r\n");
        let head = self.raw_head(&method, target, &headers);
        socket.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(tokio::time::timeout(HANG, socket.read_u8()).await.context("no 100 Continue")??);
        }
        ensure!(answer.starts_with(b"HTTP/1.1 100 "), "{}", String::from_utf8_lossy(&answer));
        Ok(Hanging { socket })
    }
}

impl Hanging {
    /// Sends bytes of the body.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.expect("the connection takes the body");
    }

    /// The status of the answer.
    #[track_caller]
    pub(crate) fn status(self) -> impl Future<Output = u16> {
        sure(self.try_status())
    }

    async fn try_status(mut self) -> Result<u16> {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            line.push(tokio::time::timeout(HANG, self.socket.read_u8()).await.context("no answer")??);
        }
        let line = String::from_utf8(line)?;
        line.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status line")
    }
}
