//! A small HTTP client for what no real client does on purpose: exact requests, broken bodies, raw bytes. One request is one
//! connection unless a test opens a [`Connection`] itself; certificates are checked against the test's authority.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, ensure};
use bytes::Bytes;
use data_encoding::BASE64;
use futures_util::stream;
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Result;
use super::wait::HANG;

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

/// An answer read to its end.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The path and query of its `Location`.
    pub(crate) fn location(&self) -> String {
        self.header("location").expect("a Location").to_owned()
    }

    pub(crate) fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The code of the first OCI error in the body.
    pub(crate) fn error_code(&self) -> Option<String> {
        Some(self.json().ok()?.pointer("/errors/0/code")?.as_str()?.to_owned())
    }

    pub(crate) fn expect(self, status: u16) -> Result<Self> {
        ensure!(
            self.status == status,
            "wanted {status}, got {} {:?} {}",
            self.status,
            self.headers,
            self.text()
        );
        Ok(self)
    }
}

/// Where to connect, what to call it, and what to send with every request.
#[derive(Debug, Clone)]
pub(crate) struct TestClient {
    address: SocketAddr,
    authority: String,
    tls: Option<Arc<rustls::ClientConfig>>,
    authorization: Option<String>,
    /// Where its connections come from; loopback has many addresses.
    source: Option<IpAddr>,
    /// Whether its sockets take little at a time, so that the kernel holds little of what it does not read.
    small_buffers: bool,
}

impl TestClient {
    /// A client for `https://ADDRESS` that trusts the certificates of `authority_file` alone.
    pub(crate) fn tls(address: SocketAddr, authority_file: &Path) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        for cert in CertificateDer::pem_file_iter(authority_file).expect("an authority file") {
            roots.add(cert.expect("a PEM certificate")).expect("a usable authority");
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider supports TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { tls: Some(Arc::new(config)), ..Self::plain(address) }
    }

    pub(crate) fn plain(address: SocketAddr) -> Self {
        Self {
            address,
            authority: address.to_string(),
            tls: None,
            authorization: None,
            source: None,
            small_buffers: false,
        }
    }

    /// Connects from this address of loopback.
    pub(crate) fn at_source(mut self, source: [u8; 4]) -> Self {
        self.source = Some(IpAddr::from(source));
        self
    }

    /// Takes little at a time: a receive buffer of 4 KiB and segments of an Ethernet.
    pub(crate) fn with_small_buffers(mut self) -> Self {
        self.small_buffers = true;
        self
    }

    /// Sends this `Host`, with or without a port, instead of the address.
    pub(crate) fn with_host(mut self, authority: &str) -> Self {
        authority.clone_into(&mut self.authority);
        self
    }

    pub(crate) fn with_basic(mut self, user: &str, password: &str) -> Self {
        self.authorization = Some(basic(user, password));
        self
    }

    pub(crate) fn with_bearer(mut self, token: &str) -> Self {
        self.authorization = Some(format!("Bearer {token}"));
        self
    }

    pub(crate) fn without_credentials(mut self) -> Self {
        self.authorization = None;
        self
    }

    /// The `Host` of its requests.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// The `Authorization` of its requests.
    pub(crate) fn authorization(&self) -> Option<&str> {
        self.authorization.as_deref()
    }

    /// A request for `target` with this client's host and credential, for the caller to finish.
    pub(crate) fn request(&self, method: Method, target: &str) -> http::request::Builder {
        let builder = Request::builder().method(method).uri(target).header(HOST, &self.authority);
        match &self.authorization {
            Some(value) => builder.header(AUTHORIZATION, value),
            None => builder,
        }
    }

    pub(crate) async fn get(&self, target: &str) -> Result<Answer> {
        self.send(self.request(Method::GET, target).body(whole(""))?).await
    }

    pub(crate) async fn head(&self, target: &str) -> Result<Answer> {
        self.send(self.request(Method::HEAD, target).body(whole(""))?).await
    }

    pub(crate) async fn delete(&self, target: &str) -> Result<Answer> {
        self.send(self.request(Method::DELETE, target).body(whole(""))?).await
    }

    pub(crate) async fn post(&self, target: &str, body: impl Into<Bytes>) -> Result<Answer> {
        self.send(self.request(Method::POST, target).body(whole(body))?).await
    }

    pub(crate) async fn patch(&self, target: &str, body: impl Into<Bytes>) -> Result<Answer> {
        let request = self.request(Method::PATCH, target).header("content-type", "application/octet-stream");
        self.send(request.body(whole(body))?).await
    }

    pub(crate) async fn put(
        &self,
        target: &str,
        content_type: &str,
        body: impl Into<Bytes>,
    ) -> Result<Answer> {
        let request = self.request(Method::PUT, target).header("content-type", content_type);
        self.send(request.body(whole(body))?).await
    }

    /// Sends one request on a connection of its own and reads the answer to its end.
    pub(crate) async fn send(&self, request: Request<TestBody>) -> Result<Answer> {
        let what = format!("{} {}", request.method(), request.uri());
        let work = async {
            let mut connection = self.connect().await?;
            connection.send(request).await
        };
        tokio::time::timeout(HANG, work)
            .await
            .with_context(|| format!("{what} took longer than {HANG:?}"))?
            .context(what)
    }

    /// Opens a connection that stays open between requests, or while a body is half read.
    pub(crate) async fn connect(&self) -> Result<Connection> {
        if self.tls.is_some() {
            Connection::over(TokioIo::new(self.raw_tls().await?)).await
        } else {
            Connection::over(TokioIo::new(self.raw_tcp().await?)).await
        }
    }

    /// The bare socket, for bytes that are not HTTP, or not TLS.
    pub(crate) async fn raw_tcp(&self) -> Result<TcpStream> {
        let socket = if self.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if self.small_buffers {
            socket.set_recv_buffer_size(4096)?;
            socket2::SockRef::from(&socket).set_tcp_mss(1460)?;
        }
        if let Some(source) = self.source {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        let connecting = socket.connect(self.address);
        let socket = connecting.await.with_context(|| format!("connecting to {}", self.address))?;
        socket.set_nodelay(true)?;
        Ok(socket)
    }

    /// A bare socket that behaves like one far away: small segments, and hardly a buffer. Over loopback with its usual
    /// buffers a client that reads nothing takes megabytes.
    pub(crate) async fn small_tcp(&self) -> Result<TcpStream> {
        self.clone().with_small_buffers().raw_tcp().await
    }

    /// The socket after the TLS handshake, for bytes that are not a correct request.
    pub(crate) async fn raw_tls(&self) -> Result<TlsStream<TcpStream>> {
        self.tls_over(self.raw_tcp().await?, None).await
    }

    /// TLS over a socket, with a protocol asked for by ALPN or none.
    pub(crate) async fn tls_over(
        &self,
        socket: TcpStream,
        protocol: Option<&str>,
    ) -> Result<TlsStream<TcpStream>> {
        let mut config = self.tls.clone().context("this client is a plain one")?;
        if let Some(protocol) = protocol {
            Arc::make_mut(&mut config).alpn_protocols = vec![protocol.as_bytes().to_vec()];
        }
        let host = self.authority.rsplit_once(':').map_or(self.authority.as_str(), |(host, _)| host);
        let name = ServerName::try_from(host.to_owned())?;
        TlsConnector::from(config).connect(name, socket).await.context("TLS handshake")
    }

    /// A connection that speaks HTTP/2, whose streams have windows of this size, driven for as long as it lives.
    pub(crate) async fn connect_h2(&self, window: u32) -> Result<H2Connection> {
        let mut config =
            rustls::ClientConfig::clone(self.tls.as_deref().context("this client is a plain one")?);
        config.alpn_protocols = vec![b"h2".to_vec()];
        let client = Self { tls: Some(Arc::new(config)), ..self.clone() };
        let io = TokioIo::new(client.raw_tls().await?);
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
        Ok(H2Connection { sender, authority: self.authority.clone(), _driver: tasks })
    }

    /// Asks for a token as docker does: at the realm of the challenge, by GET with Basic credentials.
    pub(crate) async fn token(&self, user: &str, password: &str, scopes: &[&str]) -> Result<String> {
        let answer = self.token_answer(user, password, scopes).await?.expect(200)?;
        let token = answer.json()?["token"].as_str().map(str::to_owned);
        token.context("no token in the answer")
    }

    /// As [`Self::token`], for tests of what is refused.
    pub(crate) async fn token_answer(&self, user: &str, password: &str, scopes: &[&str]) -> Result<Answer> {
        let challenge = self.clone().without_credentials().get("/v2/").await?.expect(401)?;
        let challenge = challenge.header("www-authenticate").context("no challenge")?.to_owned();
        let realm: http::Uri = challenge_parameter(&challenge, "realm").context("no realm")?.parse()?;
        let service = challenge_parameter(&challenge, "service").context("no service")?;
        let target = {
            // A block of its own: the serializer must not live across the await.
            let mut query = form_urlencoded::Serializer::new(String::new());
            query.append_pair("service", &service);
            for scope in scopes {
                query.append_pair("scope", scope);
            }
            format!("{}?{}", realm.path(), query.finish())
        };
        self.clone().with_basic(user, password).get(&target).await
    }
}

/// A request whose head has gone and whose body waits for the test. The gateway has asked for the body: what it does before that is done.
#[derive(Debug)]
pub(crate) struct Hanging {
    socket: TlsStream<TcpStream>,
}

impl TestClient {
    /// Sends the head of a request with `Expect: 100-continue`, and waits until its body is asked for.
    pub(crate) async fn hang(&self, method: Method, target: &str, headers: &str) -> Result<Hanging> {
        let mut socket = self.raw_tls().await?;
        let credential = self.authorization.as_ref();
        let credential = credential.map(|value| format!("authorization: {value}\r\n")).unwrap_or_default();
        let head = format!(
            "{method} {target} HTTP/1.1\r\nhost: {}\r\n{credential}{headers}expect: 100-continue\r\nconnection: close\r\n\r\n",
            self.authority
        );
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
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.socket.write_all(bytes).await?)
    }

    /// The status of the answer.
    pub(crate) async fn status(mut self) -> Result<u16> {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            line.push(tokio::time::timeout(HANG, self.socket.read_u8()).await.context("no answer")??);
        }
        let line = String::from_utf8(line)?;
        line.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status line")
    }
}

/// One open HTTP/1.1 connection. Dropping it closes it, in the middle of a body too.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: SendRequest<TestBody>,
    _driver: JoinSet<()>,
}

impl Connection {
    async fn over(io: impl hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static) -> Result<Self> {
        let (sender, driver) = handshake(io).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // A connection that ends with an error also fails the request on it, which the test sees.
            let _ = driver.await;
        });
        Ok(Self { sender, _driver: tasks })
    }

    /// Sends a request and returns the head of its answer; the body is the caller's to read.
    pub(crate) async fn send_head(&mut self, request: Request<TestBody>) -> Result<http::Response<Incoming>> {
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }

    pub(crate) async fn send(&mut self, request: Request<TestBody>) -> Result<Answer> {
        let (head, body) = self.send_head(request).await?.into_parts();
        let body = body.collect().await.context("the body broke off")?.to_bytes();
        Ok(Answer { status: head.status, headers: head.headers, body })
    }
}

/// One open HTTP/2 connection; its requests run side by side.
#[derive(Debug, Clone)]
pub(crate) struct H2Sender {
    sender: http2::SendRequest<TestBody>,
    authority: String,
}

/// An HTTP/2 connection; dropping it closes it.
#[derive(Debug)]
pub(crate) struct H2Connection {
    sender: http2::SendRequest<TestBody>,
    authority: String,
    _driver: JoinSet<()>,
}

impl H2Connection {
    /// Sends a request, made by [`TestClient::request`], and returns the head of its answer.
    pub(crate) async fn send_head(&self, request: Request<TestBody>) -> Result<http::Response<Incoming>> {
        let sender = H2Sender { sender: self.sender.clone(), authority: self.authority.clone() };
        sender.send_head(request).await
    }

    /// A handle that sends requests on it.
    pub(crate) fn sender(&self) -> H2Sender {
        H2Sender { sender: self.sender.clone(), authority: self.authority.clone() }
    }
}

impl H2Sender {
    /// Sends a request, made by [`TestClient::request`], and returns the head of its answer.
    pub(crate) async fn send_head(mut self, request: Request<TestBody>) -> Result<http::Response<Incoming>> {
        let (mut head, body) = request.into_parts();
        head.headers.remove(HOST);
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
        head.uri = format!("https://{}{target}", self.authority).parse()?;
        self.sender.ready().await?;
        Ok(self.sender.send_request(Request::from_parts(head, body)).await?)
    }
}

pub(crate) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("{user}:{password}").as_bytes()))
}

/// The value of `name="..."` in a challenge.
pub(crate) fn challenge_parameter(challenge: &str, name: &str) -> Option<String> {
    let (_, rest) = challenge.split_once(&format!("{name}=\""))?;
    Some(rest.split_once('"')?.0.to_owned())
}
