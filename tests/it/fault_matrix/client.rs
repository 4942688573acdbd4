//! The client: one request over h1 or h2, and exactly how its answer ended.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::case::Protocol;
use crate::harness::client::{TestBody, whole};

/// No deadline of the gateway is as long, all of them together.
const HANG: Duration = Duration::from_secs(40);
/// Pieces of a body whose length is not announced.
const PIECE: usize = 10_000;

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// As HTTP ends a body: `Content-Length` bytes over h1, END_STREAM over h2.
    Complete,
    /// TCP RST over h1, RST_STREAM over h2.
    Reset,
    /// Any other end before that.
    Cut,
}

/// What came back.
#[derive(Debug, Clone)]
pub(super) enum Seen {
    Answer {
        status: u16,
        headers: HeaderMap,
        body: Vec<u8>,
        ending: Ending,
    },
    /// No head of an answer, but this end, of which the text says more.
    NoHead(Ending, String),
    /// Nothing within [`HANG`].
    Hung,
}

/// A request as the client makes it.
#[derive(Debug, Clone, Default)]
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) target: String,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Bytes,
    /// Whether the length of the body is announced.
    pub(super) streamed: bool,
}

/// A client that trusts one authority and has one token.
pub(super) struct Client {
    h1: Arc<rustls::ClientConfig>,
    h2: Arc<rustls::ClientConfig>,
    token: String,
}

/// One connection; dropping it closes it.
pub(super) struct Connection {
    sender: Sender,
    authority: String,
    token: String,
    _driver: JoinSet<()>,
}

enum Sender {
    H1(http1::SendRequest<TestBody>),
    H2(http2::SendRequest<TestBody>),
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let Self::Answer { headers, .. } = self else { return None };
        headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(super) fn status(&self) -> Option<u16> {
        if let Self::Answer { status, .. } = self { Some(*status) } else { None }
    }

    /// One line for a report.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Answer { status, headers, body, ending } => {
                let length = headers.get("content-length").and_then(|length| length.to_str().ok());
                let text =
                    if *status >= 400 { String::from_utf8_lossy(body).into_owned() } else { String::new() };
                format!("{status}, {} of {} bytes, {ending:?} {text}", body.len(), length.unwrap_or("?"))
            }
            Self::NoHead(ending, problem) => format!("no head, {ending:?}: {problem}"),
            Self::Hung => "nothing".to_owned(),
        }
    }
}

impl Client {
    pub(super) fn new(authority_file: &Path, token: &str) -> Self {
        let config = |protocol: &[u8]| {
            let mut roots = rustls::RootCertStore::empty();
            for cert in CertificateDer::pem_file_iter(authority_file).expect("an authority file") {
                roots.add(cert.expect("a PEM certificate")).expect("a usable authority");
            }
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let mut config = rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .expect("the provider supports TLS 1.3")
                .with_root_certificates(roots)
                .with_no_client_auth();
            config.alpn_protocols = vec![protocol.to_vec()];
            Arc::new(config)
        };
        Self { h1: config(b"http/1.1"), h2: config(b"h2"), token: token.to_owned() }
    }

    pub(super) async fn connect(&self, protocol: Protocol, address: SocketAddr) -> io::Result<Connection> {
        let config = if protocol == Protocol::H1 { &self.h1 } else { &self.h2 };
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let name = ServerName::from(address.ip());
        let stream = TlsConnector::from(Arc::clone(config)).connect(name, socket).await?;
        let mut driver = JoinSet::new();
        // How a connection ends shows in the request that it carries.
        let sender = match protocol {
            Protocol::H1 => {
                let (sender, connection) =
                    http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
                driver.spawn(async move { drop(connection.await) });
                Sender::H1(sender)
            }
            Protocol::H2 => {
                let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
                let (sender, connection) = handshake.map_err(io::Error::other)?;
                driver.spawn(async move { drop(connection.await) });
                Sender::H2(sender)
            }
        };
        Ok(Connection { sender, authority: address.to_string(), token: self.token.clone(), _driver: driver })
    }
}

impl Connection {
    /// Sends a request and reads its answer to whatever end.
    pub(super) async fn exchange(&mut self, ask: &Ask) -> Seen {
        match tokio::time::timeout(HANG, self.exchange_to_the_end(ask)).await {
            Ok(seen) => seen,
            Err(_) => Seen::Hung,
        }
    }

    async fn exchange_to_the_end(&mut self, ask: &Ask) -> Seen {
        let request = self.request(ask);
        let answered = match &mut self.sender {
            Sender::H1(sender) => match sender.ready().await {
                Ok(()) => sender.send_request(request).await,
                Err(error) => Err(error),
            },
            Sender::H2(sender) => match sender.ready().await {
                Ok(()) => sender.send_request(request).await,
                Err(error) => Err(error),
            },
        };
        match answered {
            Ok(response) => read(response).await,
            Err(error) => Seen::NoHead(ending_of(&error), format!("{error:?}")),
        }
    }

    fn request(&self, ask: &Ask) -> Request<TestBody> {
        let mut request = Request::builder().method(&ask.method);
        request = match &self.sender {
            Sender::H1(_) => request.uri(&ask.target).header(HOST, &self.authority),
            Sender::H2(_) => request.uri(format!("https://{}{}", self.authority, ask.target)),
        };
        request = request.header(AUTHORIZATION, format!("Bearer {}", self.token));
        for (name, value) in &ask.headers {
            request = request.header(*name, value);
        }
        let body = if ask.streamed { in_pieces(&ask.body) } else { whole(ask.body.clone()) };
        request.body(body).expect("a request")
    }
}

fn in_pieces(body: &Bytes) -> TestBody {
    let starts = (0..body.len()).step_by(PIECE);
    let piece = |start: usize| body.slice(start..body.len().min(start + PIECE));
    let pieces: Vec<_> = starts.map(|start| Ok::<_, io::Error>(Frame::data(piece(start)))).collect();
    StreamBody::new(stream::iter(pieces)).boxed()
}

async fn read(response: http::Response<Incoming>) -> Seen {
    let (head, mut incoming) = response.into_parts();
    let (mut body, mut ending) = (Vec::new(), Ending::Complete);
    while let Some(frame) = incoming.frame().await {
        match frame {
            Ok(frame) => body.extend_from_slice(frame.data_ref().map_or(&[], |data| data.as_ref())),
            Err(error) => {
                ending = ending_of(&error);
                break;
            }
        }
    }
    Seen::Answer { status: head.status.as_u16(), headers: head.headers, body, ending }
}

fn ending_of(error: &hyper::Error) -> Ending {
    if is_reset(error) { Ending::Reset } else { Ending::Cut }
}

fn is_reset(error: &(dyn Error + 'static)) -> bool {
    let by_tcp =
        error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::ConnectionReset);
    let by_h2 = error.downcast_ref::<h2::Error>().is_some_and(h2::Error::is_reset);
    by_tcp || by_h2 || error.source().is_some_and(is_reset)
}
