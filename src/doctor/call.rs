//! One question to a member, on a connection of its own, bounded in time and size, with an exact
//! account of how it failed. The gateway's own questions need no such account.

use std::error::Error;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderMap, USER_AGENT};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::reach::says_wants_tls;
use crate::forwarding::readable::text;
use crate::random::unix_now;
use crate::upstream::Member;

/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// Where and how to ask.
pub(super) struct Door {
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    host_header: HeaderValue,
    timeout: Duration,
}

/// A question.
pub(super) struct Question {
    pub(super) method: Method,
    /// Path and query.
    pub(super) target: String,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) body: Bytes,
}

impl Question {
    pub(super) fn new(method: Method, target: impl Into<String>) -> Self {
        Self { method, target: target.into(), headers: Vec::new(), body: Bytes::new() }
    }

    pub(super) fn get(target: impl Into<String>) -> Self {
        Self::new(Method::GET, target)
    }

    pub(super) fn with(mut self, name: HeaderName, value: Option<HeaderValue>) -> Self {
        self.headers.extend(value.map(|value| (name, value)));
        self
    }

    pub(super) fn body(mut self, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        self.headers.push((http::header::CONTENT_TYPE, HeaderValue::from_static(content_type)));
        self.body = body.into();
        self
    }
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// From connecting to the end of the answer.
    pub(super) took: Duration,
    /// Our clock before and after, in seconds since the epoch.
    pub(super) between: (u64, u64),
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(text)
    }

    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The code of the first error, where the body is an error list of the distribution-spec.
    pub(super) fn error_code(&self) -> String {
        self.json()["errors"][0]["code"].as_str().unwrap_or_default().to_owned()
    }

    /// The value of a cookie that the answer sets.
    pub(super) fn cookie(&self, name: &str) -> Option<&str> {
        let lines = self.headers.get_all(http::header::SET_COOKIE).iter();
        let mut pairs = lines.filter_map(|line| text(line).split(';').next()?.split_once('='));
        pairs.find(|(known, value)| *known == name && !value.is_empty()).map(|(_, value)| value)
    }
}

/// How a question failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The name has no address.
    Lookup(String),
    /// The connection was refused.
    Refused,
    /// No connection for another reason.
    Connect(String),
    /// No connection in time.
    ConnectTimeout,
    /// TLS has failed, or the other side has said why it does not want to go on.
    Tls(rustls::Error),
    /// The connection broke within the handshake.
    TlsBroken(String),
    /// The handshake was not finished in time.
    TlsTimeout,
    /// No answer in time.
    Silent,
    /// What came is no HTTP answer, or broke off.
    NotHttp(String),
}

/// What a port speaks, found by trying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spoken {
    Http,
    Tls,
    Neither,
}

impl Door {
    pub(super) fn of(member: &Member, timeout: Duration) -> Self {
        Self {
            host: member.address.host.clone(),
            port: member.address.port,
            tls: member.connections.target().tls.clone(),
            host_header: member.host.clone(),
            timeout,
        }
    }

    pub(super) fn is_https(&self) -> bool {
        self.tls.is_some()
    }

    /// The name that the certificate has to carry.
    pub(super) fn expected_name(&self) -> String {
        self.tls.as_ref().map_or_else(|| self.host.clone(), |(_, name)| name.to_str().into_owned())
    }

    /// Asks.
    pub(super) async fn ask(&self, question: Question) -> Result<Answer, Failure> {
        let deadline = Instant::now() + self.timeout;
        let mut request = Request::builder()
            .method(question.method)
            .uri(question.target)
            .header(USER_AGENT, concat!("tidegate-doctor/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(question.body))
            .map_err(|error| Failure::NotHttp(error.to_string()))?;
        request.headers_mut().insert(HOST, self.host_header.clone());
        for (name, value) in question.headers {
            request.headers_mut().insert(name, value);
        }
        let (started, before) = (Instant::now(), unix_now());
        let stream = self.connect(deadline).await?;
        let exchanged = match &self.tls {
            None => timeout_at(deadline, exchange(stream, request)).await,
            Some((connector, name)) => {
                let stream = match timeout_at(deadline, connector.connect(name.clone(), stream)).await {
                    Ok(stream) => stream.map_err(|error| tls_failure(&error))?,
                    Err(_) => return Err(Failure::TlsTimeout),
                };
                timeout_at(deadline, exchange(stream, request)).await
            }
        };
        let (head, body) = exchanged.unwrap_or(Err(Failure::Silent))?;
        let (took, between) = (started.elapsed(), (before, unix_now()));
        Ok(Answer { status: head.status, headers: head.headers, body, took, between })
    }

    async fn connect(&self, deadline: Instant) -> Result<TcpStream, Failure> {
        let addresses =
            match timeout_at(deadline, tokio::net::lookup_host((self.host.as_str(), self.port))).await {
                Ok(Ok(addresses)) => addresses.collect::<Vec<_>>(),
                Ok(Err(error)) => return Err(Failure::Lookup(error.to_string())),
                Err(_) => return Err(Failure::Lookup("no answer of the name service in time".to_owned())),
            };
        match timeout_at(deadline, TcpStream::connect(addresses.as_slice())).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => Err(Failure::Refused),
            Ok(Err(error)) => Err(Failure::Connect(error.to_string())),
            Err(_) => Err(Failure::ConnectTimeout),
        }
    }

    /// Tries the other protocol, to tell what the port speaks.
    pub(super) async fn what_is_spoken(&self) -> Spoken {
        let tls = match &self.tls {
            Some(_) => None,
            None => stranger(&self.host),
        };
        let wants_tls = tls.is_some();
        let other = Self {
            host: self.host.clone(),
            port: self.port,
            tls,
            host_header: self.host_header.clone(),
            timeout: self.timeout,
        };
        match other.ask(Question::get("/v2/")).await {
            // A certificate that nobody trusts is still one.
            Err(Failure::Tls(rustls::Error::InvalidCertificate(_))) => Spoken::Tls,
            Ok(_) if wants_tls => Spoken::Tls,
            // Many servers say in plain HTTP that they want TLS.
            Ok(answer) if says_wants_tls(answer.status, &answer.body, None) => Spoken::Tls,
            Ok(_) => Spoken::Http,
            Err(_) => Spoken::Neither,
        }
    }
}

/// Speaks TLS and trusts nobody, to see whether the other side has a certificate at all.
fn stranger(host: &str) -> Option<(TlsConnector, ServerName<'static>)> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .ok()?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).ok()?;
    Some((TlsConnector::from(Arc::new(config)), name))
}

async fn exchange<IO>(
    io: IO,
    request: Request<Full<Bytes>>,
) -> Result<(http::response::Parts, Bytes), Failure>
where
    IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(io)).await.map_err(|error| http_failure(&error))?;
    let answer = async move {
        let answer = sender.send_request(request).await.map_err(|error| http_failure(&error))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| Failure::NotHttp(format!("its answer cannot be read: {error}")))?;
        Ok((head, body.to_bytes()))
    };
    let (mut answer, connection) = (pin!(answer), pin!(connection));
    tokio::select! {
        answer = &mut answer => return answer,
        // What was read before its end is still there.
        _ = connection => {}
    }
    answer.await
}

fn tls_failure(error: &std::io::Error) -> Failure {
    find_tls(error).map_or_else(|| Failure::TlsBroken(error.to_string()), Failure::Tls)
}

fn http_failure(error: &hyper::Error) -> Failure {
    find_tls(error).map_or_else(
        || {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            Failure::NotHttp(format!("{error}{cause}"))
        },
        Failure::Tls,
    )
}

/// The error of TLS at the root of another.
fn find_tls(error: &(dyn Error + 'static)) -> Option<rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls.clone());
        }
        // An `io::Error` shows what it wraps by `get_ref`, and not as its source.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = wrapped.map(|error| error as &(dyn Error + 'static)).or_else(|| error.source());
    }
    None
}
