//! A small HTTP client for what no real client does on purpose: exact requests, broken bodies, raw bytes. One request is one
//! connection unless a test opens a [`Connection`] itself; certificates are checked against the test's authority.

mod answer;
mod connection;
mod request;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use data_encoding::BASE64;
use http::header::{AUTHORIZATION, HOST};
use http::{Method, Request};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(crate) use self::answer::{Answer, sure};
pub(crate) use self::connection::{Connection, H2Connection};
pub(crate) use self::request::{RequestBuilder, TestBody, chunked, whole};
use super::Result;
use super::wait::HANG;

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
    pub(crate) fn request(&self, method: Method, target: &str) -> RequestBuilder {
        let builder = RequestBuilder::new(method, target).header(HOST, &self.authority);
        match &self.authorization {
            Some(value) => builder.header(AUTHORIZATION, value),
            None => builder,
        }
    }

    /// The answer to a GET. This and its likes panic when no answer comes; those that are named `try_` return the error.
    #[track_caller]
    pub(crate) fn get(&self, target: &str) -> impl Future<Output = Answer> {
        sure(self.try_get(target))
    }

    pub(crate) async fn try_get(&self, target: &str) -> Result<Answer> {
        self.try_send(self.request(Method::GET, target).empty()).await
    }

    #[track_caller]
    pub(crate) fn head(&self, target: &str) -> impl Future<Output = Answer> {
        sure(self.try_head(target))
    }

    pub(crate) async fn try_head(&self, target: &str) -> Result<Answer> {
        self.try_send(self.request(Method::HEAD, target).empty()).await
    }

    #[track_caller]
    pub(crate) fn delete(&self, target: &str) -> impl Future<Output = Answer> {
        sure(self.try_delete(target))
    }

    pub(crate) async fn try_delete(&self, target: &str) -> Result<Answer> {
        self.try_send(self.request(Method::DELETE, target).empty()).await
    }

    #[track_caller]
    pub(crate) fn post(&self, target: &str, body: impl Into<Bytes>) -> impl Future<Output = Answer> {
        sure(self.try_post(target, body))
    }

    pub(crate) async fn try_post(&self, target: &str, body: impl Into<Bytes>) -> Result<Answer> {
        self.try_send(self.request(Method::POST, target).body(whole(body))).await
    }

    #[track_caller]
    pub(crate) fn patch(&self, target: &str, body: impl Into<Bytes>) -> impl Future<Output = Answer> {
        sure(self.try_patch(target, body))
    }

    pub(crate) async fn try_patch(&self, target: &str, body: impl Into<Bytes>) -> Result<Answer> {
        let request = self.request(Method::PATCH, target).header("content-type", "application/octet-stream");
        self.try_send(request.body(whole(body))).await
    }

    #[track_caller]
    pub(crate) fn put(
        &self,
        target: &str,
        content_type: &str,
        body: impl Into<Bytes>,
    ) -> impl Future<Output = Answer> {
        sure(self.try_put(target, content_type, body))
    }

    pub(crate) async fn try_put(
        &self,
        target: &str,
        content_type: &str,
        body: impl Into<Bytes>,
    ) -> Result<Answer> {
        let request = self.request(Method::PUT, target).header("content-type", content_type);
        self.try_send(request.body(whole(body))).await
    }

    /// Sends one request on a connection of its own and reads the answer to its end.
    #[track_caller]
    pub(crate) fn send(&self, request: Request<TestBody>) -> impl Future<Output = Answer> {
        sure(self.try_send(request))
    }

    pub(crate) async fn try_send(&self, request: Request<TestBody>) -> Result<Answer> {
        let what = connection::name_of(&request);
        let work = Box::pin(async {
            let mut connection = self.try_connect().await.with_context(|| what.clone())?;
            connection.try_send(request).await
        });
        let answer = tokio::time::timeout(HANG, work).await;
        answer.with_context(|| format!("{what} took longer than {HANG:?}"))?
    }

    /// Opens a connection that stays open between requests, or while a body is half read.
    #[track_caller]
    pub(crate) fn connect(&self) -> impl Future<Output = Connection> {
        sure(self.try_connect())
    }

    pub(crate) async fn try_connect(&self) -> Result<Connection> {
        if self.tls.is_some() {
            Connection::over(TokioIo::new(self.try_raw_tls().await?)).await
        } else {
            Connection::over(TokioIo::new(self.try_raw_tcp().await?)).await
        }
    }

    /// The bare socket, for bytes that are not HTTP, or not TLS.
    #[track_caller]
    pub(crate) fn raw_tcp(&self) -> impl Future<Output = TcpStream> {
        sure(self.try_raw_tcp())
    }

    pub(crate) async fn try_raw_tcp(&self) -> Result<TcpStream> {
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
    #[track_caller]
    pub(crate) fn small_tcp(&self) -> impl Future<Output = TcpStream> + use<> {
        let small = self.clone().with_small_buffers();
        sure(async move { small.try_raw_tcp().await })
    }

    /// The socket after the TLS handshake, for bytes that are not a correct request.
    #[track_caller]
    pub(crate) fn raw_tls(&self) -> impl Future<Output = TlsStream<TcpStream>> {
        sure(self.try_raw_tls())
    }

    pub(crate) async fn try_raw_tls(&self) -> Result<TlsStream<TcpStream>> {
        self.tls_over(self.try_raw_tcp().await?, None).await
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
    #[track_caller]
    pub(crate) fn connect_h2(&self, window: u32) -> impl Future<Output = H2Connection> {
        sure(async move {
            let io = TokioIo::new(self.tls_over(self.try_raw_tcp().await?, Some("h2")).await?);
            H2Connection::over(io, self.authority.clone(), window).await
        })
    }

    /// Asks for a token as docker does: at the realm of the challenge, by GET with Basic credentials.
    #[track_caller]
    pub(crate) fn token(&self, user: &str, password: &str, scopes: &[&str]) -> impl Future<Output = String> {
        sure(self.try_token(user, password, scopes))
    }

    pub(crate) async fn try_token(&self, user: &str, password: &str, scopes: &[&str]) -> Result<String> {
        self.try_token_answer(user, password, scopes).await?.ensure(200)?.try_token()
    }

    /// This client with the token for pulls of `repository` that anybody gets.
    #[track_caller]
    pub(crate) fn anonymous(&self, repository: &str) -> impl Future<Output = Self> {
        sure(async move {
            let scope = format!("repository:{repository}:pull");
            let target = format!("/service/token?service=tidegate-test&scope={scope}");
            let token = self.try_get(&target).await?.ensure(200)?.try_token()?;
            Ok(self.clone().with_bearer(&token))
        })
    }

    /// As [`Self::token`], for tests of what is refused.
    #[track_caller]
    pub(crate) fn token_answer(
        &self,
        user: &str,
        password: &str,
        scopes: &[&str],
    ) -> impl Future<Output = Answer> {
        sure(self.try_token_answer(user, password, scopes))
    }

    pub(crate) async fn try_token_answer(
        &self,
        user: &str,
        password: &str,
        scopes: &[&str],
    ) -> Result<Answer> {
        let challenge = self.clone().without_credentials().try_get("/v2/").await?.ensure(401)?;
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
        self.clone().with_basic(user, password).try_get(&target).await
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
