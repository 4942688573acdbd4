//! Small questions of the gateway's own to a member: probes, tokens, checks, and what the doctor asks.
//!
//! Each goes over a connection of its own, outside the limit, so that a full or stuck pool can neither make a member look
//! sick nor keep a client from logging in. The caller bounds how many there are at once: the budgets of logins, the
//! fetches of a node, or the request that waits for the answer.

use std::error::Error;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderMap, USER_AGENT};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::settings::MemberAddress;
use crate::forwarding::readable::text;
use crate::forwarding::response::check_head;
use crate::random::unix_now;

/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// Where a member is, and how to speak to it.
#[derive(Clone)]
pub struct Door {
    /// Scheme, host and port.
    pub address: MemberAddress,
    /// TLS, for https members.
    pub tls: Option<(TlsConnector, ServerName<'static>)>,
    /// The `Host` of every request.
    pub host: HeaderValue,
}

/// A question. It has no `Debug`, which would show what authorizes it.
pub struct Question {
    method: Method,
    target: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

impl Question {
    /// A question about `target`, a path with its query.
    #[must_use]
    pub fn new(method: Method, target: impl Into<String>) -> Self {
        Self { method, target: target.into(), headers: Vec::new(), body: Bytes::new() }
    }

    /// A GET.
    #[must_use]
    pub fn get(target: impl Into<String>) -> Self {
        Self::new(Method::GET, target)
    }

    /// The same with a header, where there is a value for it.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: Option<HeaderValue>) -> Self {
        self.headers.extend(value.map(|value| (name, value)));
        self
    }

    /// The same with a body.
    #[must_use]
    pub fn body(mut self, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self.with(CONTENT_TYPE, Some(HeaderValue::from_static(content_type)))
    }
}

/// The answer to a question.
#[derive(Debug)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, whole.
    pub body: Bytes,
    /// From the question to the head of the answer, connecting left out.
    pub took: Duration,
    /// Our clock before connecting and after the answer, in seconds since the epoch.
    pub between: (u64, u64),
}

impl Reply {
    /// A header's text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(text)
    }

    /// The body as JSON; null where it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The code of the first error, where the body is an error list of the distribution-spec.
    #[must_use]
    pub fn error_code(&self) -> String {
        self.json()["errors"][0]["code"].as_str().unwrap_or_default().to_owned()
    }

    /// The value of a cookie that the answer sets.
    #[must_use]
    pub fn cookie(&self, name: &str) -> Option<&str> {
        let lines = self.headers.get_all(http::header::SET_COOKIE).iter();
        let mut pairs = lines.filter_map(|line| text(line).split(';').next()?.split_once('='));
        pairs.find(|(known, value)| *known == name && !value.is_empty()).map(|(_, value)| value)
    }
}

/// How a question failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QuestionError {
    /// The name has no address.
    #[error("its name has no address: {0}")]
    Lookup(String),
    /// The connection was refused.
    #[error("it refuses the connection")]
    Refused,
    /// No connection for another reason.
    #[error("no connection: {0}")]
    Connect(String),
    /// No connection in time.
    #[error("no connection in time")]
    ConnectTimeout,
    /// TLS has failed, or the member has said why it does not want to go on.
    #[error("TLS: {0}")]
    Tls(rustls::Error),
    /// The connection broke within the handshake.
    #[error("the TLS handshake broke off: {0}")]
    TlsBroken(String),
    /// The handshake was not finished in time.
    #[error("the TLS handshake was not finished in time")]
    TlsTimeout,
    /// No answer in time.
    #[error("no answer in time")]
    Silent,
    /// What came is no HTTP answer, or broke off.
    #[error("its answer cannot be read: {0}")]
    NotHttp(String),
}

impl Door {
    /// Asks.
    ///
    /// # Errors
    /// How far the question came, and why there is no answer.
    pub async fn ask(&self, question: Question, deadline: Instant) -> Result<Reply, QuestionError> {
        let request = self.request(question)?;
        // Large and rare: kept off the futures of those that may ask.
        Box::pin(self.send(request, deadline)).await
    }

    async fn send(&self, request: Request<Full<Bytes>>, deadline: Instant) -> Result<Reply, QuestionError> {
        let before = unix_now();
        let stream = self.connect(deadline).await?;
        let exchanged = match &self.tls {
            None => timeout_at(deadline, exchange(stream, request)).await,
            Some((connector, name)) => {
                let stream = match timeout_at(deadline, connector.connect(name.clone(), stream)).await {
                    Ok(stream) => stream.map_err(|error| tls_failure(&error))?,
                    Err(_) => return Err(QuestionError::TlsTimeout),
                };
                timeout_at(deadline, exchange(stream, request)).await
            }
        };
        let (head, body, took) = exchanged.unwrap_or(Err(QuestionError::Silent))?;
        Ok(Reply { status: head.status, headers: head.headers, body, took, between: (before, unix_now()) })
    }

    fn request(&self, question: Question) -> Result<Request<Full<Bytes>>, QuestionError> {
        let Question { method, target, headers, body } = question;
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header(USER_AGENT, concat!("tidegate/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(body))
            .map_err(|error| QuestionError::NotHttp(error.to_string()))?;
        request.headers_mut().insert(HOST, self.host.clone());
        for (name, value) in headers {
            request.headers_mut().insert(name, value);
        }
        Ok(request)
    }

    async fn connect(&self, deadline: Instant) -> Result<TcpStream, QuestionError> {
        let place = (self.address.host.as_str(), self.address.port);
        let addresses = match timeout_at(deadline, tokio::net::lookup_host(place)).await {
            Ok(Ok(addresses)) => addresses.collect::<Vec<_>>(),
            Ok(Err(error)) => return Err(QuestionError::Lookup(error.to_string())),
            Err(_) => {
                return Err(QuestionError::Lookup("no answer of the name service in time".to_owned()));
            }
        };
        match timeout_at(deadline, TcpStream::connect(addresses.as_slice())).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                Err(QuestionError::Refused)
            }
            Ok(Err(error)) => Err(QuestionError::Connect(error.to_string())),
            Err(_) => Err(QuestionError::ConnectTimeout),
        }
    }
}

type HeadAndBody = (http::response::Parts, Bytes, Duration);

async fn exchange<IO>(io: IO, request: Request<Full<Bytes>>) -> Result<HeadAndBody, QuestionError>
where
    IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(io)).await.map_err(|error| http_failure(&error))?;
    let answer = async move {
        let asked = Instant::now();
        let answer = sender.send_request(request).await.map_err(|error| http_failure(&error))?;
        let took = asked.elapsed();
        let (mut head, body) = answer.into_parts();
        check_head(&mut head).map_err(|problem| QuestionError::NotHttp(problem.to_owned()))?;
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| QuestionError::NotHttp(error.to_string()))?;
        Ok((head, body.to_bytes(), took))
    };
    let (mut answer, connection) = (pin!(answer), pin!(connection));
    tokio::select! {
        answer = &mut answer => return answer,
        // What was read before its end is still there.
        _ = connection => {}
    }
    answer.await
}

fn tls_failure(error: &std::io::Error) -> QuestionError {
    find_tls(error).map_or_else(|| QuestionError::TlsBroken(error.to_string()), QuestionError::Tls)
}

fn http_failure(error: &hyper::Error) -> QuestionError {
    find_tls(error).map_or_else(
        || {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            QuestionError::NotHttp(format!("{error}{cause}"))
        },
        QuestionError::Tls,
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
