//! The accept loop of one worker on one listener, and the life of each connection.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, HeaderValue, LOCATION};
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use pin_project_lite::pin_project;
use rustls::ServerConfig;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::settings::ConnectionLimits;
use super::watch::{Activity, Judgement, Patience, RequestGuard, Watched};
use crate::telemetry::{GaugeGuard, Metrics};

/// Connections that the kernel keeps while nobody accepts.
const BACKLOG: i32 = 4096;
/// Between keep-alive probes of the kernel on a downstream connection.
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(60);
/// Before accepting again when the system is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a connection without a request stays open when accepting has ended.
const LINGER: Duration = Duration::from_secs(1);
/// h2 flow-control window of one stream, in bytes: uploads over a long way need it.
const H2_STREAM_WINDOW: u32 = 4 << 20;
/// h2 flow-control window of a connection, in bytes: layers are pushed side by side.
const H2_CONNECTION_WINDOW: u32 = 16 << 20;
/// h2 streams that a client may reset before they were accepted.
const H2_RESET_STREAMS_MAX: usize = 50;

/// A bound socket of one worker.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
}

/// What the handler learns of a connection.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// The client's address.
    pub peer: SocketAddr,
    /// Whether it is TLS.
    pub tls: bool,
    /// Whether credentials may be sent on it.
    pub credentials_allowed: bool,
}

/// Where a redirect listener sends clients.
#[derive(Clone)]
pub struct Redirect {
    /// The port of the TLS listener.
    pub port: u16,
    /// Whether a `Host` is served here; nobody is sent elsewhere.
    pub serves: Arc<dyn Fn(&str) -> bool + Send + Sync>,
}

/// What every worker needs to serve a listener.
#[derive(Clone)]
pub struct Acceptor {
    /// TLS; `None` on plain listeners.
    pub tls: Option<Arc<ServerConfig>>,
    /// Set where it only redirects to https.
    pub redirect: Option<Redirect>,
    /// Whether credentials may be sent on a plain connection.
    pub plaintext_credentials: bool,
    /// Deadlines and bounds.
    pub limits: ConnectionLimits,
    /// How long a body may stand still.
    pub body_idle_timeout: Duration,
    /// The connections that may still be opened, over all listeners.
    pub permits: Arc<Semaphore>,
    /// Where connections are counted.
    pub metrics: Arc<Metrics>,
    /// Owns the connections' tasks.
    pub connections: TaskTracker,
    /// Cancelled when accepting ends.
    pub stop: CancellationToken,
}

/// Binds an address for one worker. The first call for port 0 chooses; later ones are given that port.
///
/// # Errors
/// When the address cannot be bound.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

impl Listener {
    /// Accepts on this socket.
    ///
    /// # Errors
    /// When the socket cannot be used.
    pub fn from_socket(socket: TcpListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { socket })
    }

    /// Accepts until told to stop. `handler` answers each request; `resets` says after which errors
    /// of an answer's body the client's connection is reset rather than closed.
    ///
    /// # Errors
    /// When the socket cannot be used at all.
    pub async fn run<H, F, B>(
        self,
        acceptor: Acceptor,
        handler: H,
        resets: fn(&B::Error) -> bool,
    ) -> io::Result<()>
    where
        H: Fn(Request<Incoming>, Accepted) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let listener = tokio::net::TcpListener::from_std(self.socket)?;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = acceptor.stop.cancelled() => return Ok(()),
            };
            match accepted {
                Ok((stream, peer)) => {
                    // Beyond the limit one connection waits here, the others in the kernel. What
                    // was accepted is served, also when accepting ends meanwhile.
                    let permit = Arc::clone(&acceptor.permits).acquire_owned();
                    tokio::pin!(permit);
                    let permit = tokio::select! {
                        permit = &mut permit => Some(permit),
                        () = acceptor.stop.cancelled() => None,
                    };
                    let (acceptor, handler) = (acceptor.clone(), (handler.clone(), resets));
                    let permits = Arc::clone(&acceptor.permits);
                    acceptor.connections.clone().spawn(async move {
                        let permit = match permit {
                            Some(permit) => permit,
                            None => permits.acquire_owned().await,
                        };
                        // Nobody closes the semaphore.
                        let Ok(permit) = permit else { return };
                        serve_connection(acceptor, (stream, peer), handler, permit).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn serve_connection<H, F, B>(
    acceptor: Acceptor,
    (stream, peer): (TcpStream, SocketAddr),
    handler: (H, fn(&B::Error) -> bool),
    permit: OwnedSemaphorePermit,
) where
    H: Fn(Request<Incoming>, Accepted) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let _permit = permit;
    let _gauge = GaugeGuard::new(&acceptor.metrics.connections);
    // A socket that takes no options is about to fail anyway.
    drop(stream.set_nodelay(true));
    drop(socket2::SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(TCP_KEEP_ALIVE)));
    let activity = Activity::new();
    let Some(tls) = acceptor.tls.clone() else {
        if let Some(target) = acceptor.redirect.clone() {
            let heads = Arc::clone(&activity);
            let service = service_fn(move |request| {
                drop(heads.begin_request());
                let answer = redirect(&request, &target);
                async move { Ok::<_, Infallible>(answer) }
            });
            return drive_h1(&acceptor, Watched::new(stream, Arc::clone(&activity)), activity, service).await;
        }
        let accepted = Accepted { peer, tls: false, credentials_allowed: acceptor.plaintext_credentials };
        let service = guarded(handler, accepted, Arc::clone(&activity));
        return drive_h1(&acceptor, Watched::new(stream, Arc::clone(&activity)), activity, service).await;
    };
    // On the heap, and not gone before it is counted: the client sees the end of it.
    let mut handshake = Box::pin(TlsAcceptor::from(tls).accept(stream));
    let stream = match tokio::time::timeout(acceptor.limits.handshake_timeout, handshake.as_mut()).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            acceptor.metrics.handshakes_failed.inc();
            tracing::debug!(%peer, %error, "TLS handshake failed");
            return;
        }
        Err(_) => {
            acceptor.metrics.handshakes_failed.inc();
            return;
        }
    };
    drop(handshake);
    let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let accepted = Accepted { peer, tls: true, credentials_allowed: true };
    let service = guarded(handler, accepted, Arc::clone(&activity));
    let stream = Watched::new(stream, Arc::clone(&activity));
    if is_h2 {
        activity.expect_frames();
        drive_h2(&acceptor, stream, activity, service).await;
    } else {
        drive_h1(&acceptor, stream, activity, service).await;
    }
}

/// The handler as hyper wants it, with each request noted on its connection until its body ends.
fn guarded<H, F, B>(
    (handler, resets): (H, fn(&B::Error) -> bool),
    accepted: Accepted,
    activity: Arc<Activity>,
) -> impl HttpService<Incoming, ResBody = GuardedBody<B>, Error = Infallible, Future: Send> + Clone + Send
where
    H: Fn(Request<Incoming>, Accepted) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    service_fn(move |request| {
        let guard = activity.begin_request();
        let answer = handler(request, accepted.clone());
        async move { Ok(answer.await.map(|body| GuardedBody { body, guard, resets })) }
    })
}

pin_project! {
    /// A body that keeps its request noted on the connection.
    pub(super) struct GuardedBody<B: Body> {
        #[pin]
        body: B,
        guard: RequestGuard,
        resets: fn(&B::Error) -> bool,
    }
}

impl<B: Body> Body for GuardedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let frame = this.body.poll_frame(cx);
        this.guard.note_body(frame.is_ready());
        if let std::task::Poll::Ready(Some(Err(error))) = &frame
            && (this.resets)(error)
        {
            this.guard.reset_connection();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

async fn drive_h1<S, V, B>(acceptor: &Acceptor, stream: S, activity: Arc<Activity>, service: V)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    V: HttpService<Incoming, ResBody = B, Error = Infallible, Future: Send>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_headers(acceptor.limits.headers_max)
        .max_header_size(acceptor.limits.header_bytes_max)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    watch(acceptor, &activity, connection, (LINGER, http1::Connection::graceful_shutdown)).await;
}

async fn drive_h2<S, V, B>(acceptor: &Acceptor, stream: S, activity: Arc<Activity>, service: V)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    V: HttpService<Incoming, ResBody = B, Error = Infallible, Future: Send + 'static>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let limits = &acceptor.limits;
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.h2_streams_max)
        .max_header_list_size(u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(H2_RESET_STREAMS_MAX)
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .keep_alive_interval(limits.keep_alive)
        .keep_alive_timeout(limits.header_timeout)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    // GOAWAY tells the client which of its requests are served; nothing is lost by sending it at once.
    watch(acceptor, &activity, connection, (Duration::ZERO, http2::Connection::graceful_shutdown)).await;
}

/// Drives a connection to its end: its own, a deadline's, or that of the process.
async fn watch<C>(
    acceptor: &Acceptor,
    activity: &Activity,
    mut connection: Pin<&mut C>,
    (linger, close_in_order): (Duration, impl Fn(Pin<&mut C>)),
) where
    C: Future<Output = Result<(), hyper::Error>>,
{
    let mut draining = false;
    let mut stopping: Option<Instant> = None;
    let mut wait = acceptor.limits.header_timeout / 4;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "connection ended");
                }
                return;
            }
            () = acceptor.stop.cancelled(), if stopping.is_none() => stopping = Some(Instant::now() + linger),
            () = linger_ended(activity, stopping), if stopping.is_some() && !draining => {
                draining = true;
                close_in_order(connection.as_mut());
            }
            () = tokio::time::sleep(wait) => match judge(acceptor, activity) {
                Judgement::Wait(next) => wait = next,
                Judgement::CloseIdle => close_in_order(connection.as_mut()),
                Judgement::Abort => return,
            }
        }
    }
}

/// When a connection that is to close closes: while a request is served, so that its answer can say
/// so; else when none came for a while. A client may be sending one at this very moment, or may
/// have connected just now.
async fn linger_ended(activity: &Activity, until: Option<Instant>) {
    let Some(until) = until else { return std::future::pending().await };
    loop {
        let began = activity.began();
        if activity.is_busy() || (Instant::now() >= until && !activity.is_in_head()) {
            return;
        }
        // In the middle of a head its own deadline counts.
        let pause = until.max(Instant::now() + LINGER / 20);
        drop(tokio::time::timeout_at(pause, began).await);
    }
}

fn judge(acceptor: &Acceptor, activity: &Activity) -> Judgement {
    let patience = Patience {
        head: acceptor.limits.header_timeout,
        idle: acceptor.limits.keep_alive,
        blocked: acceptor.body_idle_timeout,
    };
    let judgement = activity.judge(patience);
    if judgement == Judgement::Abort {
        acceptor.metrics.connections_timed_out.inc();
    }
    judgement
}

/// 308 to the same place under https, for the names that are served here.
fn redirect(request: &Request<Incoming>, to: &Redirect) -> Response<Empty<Bytes>> {
    let mut response = Response::new(Empty::new());
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = match host.rfind(':') {
        Some(colon) if !host[colon..].contains(']') => &host[..colon],
        _ => host,
    };
    let port = if to.port == 443 { String::new() } else { format!(":{}", to.port) };
    let authority = format!("{name}{port}");
    if !(to.serves)(&authority) {
        *response.status_mut() = StatusCode::MISDIRECTED_REQUEST;
        return response;
    }
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    match HeaderValue::try_from(format!("https://{authority}{target}"))
        .ok()
        .filter(|_| target.starts_with('/'))
    {
        Some(location) => {
            *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
            response.headers_mut().insert(LOCATION, location);
        }
        None => *response.status_mut() = StatusCode::BAD_REQUEST,
    }
    response
}
