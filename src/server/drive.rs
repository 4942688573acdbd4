//! One HTTP connection from its first byte to its last: its own end, a deadline's, or that of the process.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::acceptor::{Accepted, Acceptor};
use super::watch::{Activity, Judgement, Patience, RequestGuard};
use crate::pace::LeastRate;

/// How long a connection without a request stays open when accepting has ended.
const LINGER: Duration = Duration::from_secs(1);
/// Least h2 flow-control window of one stream, in bytes.
const H2_STREAM_WINDOW_LEAST: usize = 64 * 1024;
/// Requests of one h2 connection that run at once: the least that RFC 9113 6.5.2 recommends, and what clients that read
/// layers in parallel never need. `ConnectionLimits::heads_bytes_max` bounds the memory behind it.
const H2_STREAMS_MAX: u32 = 100;
/// Header lines of an HTTP/1.1 request. Registry clients send about ten, browsers and proxies in front some more.
const HEADERS_MAX: usize = 100;
/// h2 streams that a client may reset before they were accepted.
const H2_RESET_STREAMS_MAX: usize = 50;
/// Bytes of an answer that wait for one h2 stream, besides the piece that comes next.
const H2_SEND_BYTES_MAX: usize = 96 * 1024;
/// Bytes of an answer that wait for an h1 connection, and of a request that wait to be read.
const H1_BUFFER_BYTES_MAX: usize = 64 * 1024;
/// An answer is handed on in pieces of at most this many bytes.
const PIECE_BYTES_MAX: usize = 128 * 1024;

/// The heads of the requests that run on an h2 connection are too large together. The stream is reset.
#[derive(Debug, thiserror::Error)]
#[error("the heads of the requests on this connection are too large together")]
pub(super) struct HeadsTooLarge;

/// About what a head takes, counted as h2 does (RFC 9113 6.5.2).
fn head_bytes<B>(request: &Request<B>) -> usize {
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum::<usize>()
        + target
}

/// Answers the requests of a listener.
pub(super) struct Handler<H, E> {
    /// Answers one request.
    pub answer: H,
    /// After which errors of an answer's body the client's connection is reset rather than closed.
    pub resets: fn(&E) -> bool,
}

/// The handler as hyper wants it, with each request noted on its connection until its body ends.
pub(super) fn guarded<H, F, B>(
    handler: Handler<H, B::Error>,
    accepted: Accepted,
    activity: Arc<Activity>,
    heads_bytes_max: usize,
) -> impl HttpService<Incoming, ResBody = GuardedBody<B>, Error = HeadsTooLarge, Future: Send> + Clone + Send
where
    H: Fn(Request<Incoming>, Accepted) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let Handler { answer: handler, resets } = handler;
    service_fn(move |request: Request<Incoming>| {
        let guard = activity.begin_request(head_bytes(&request));
        let is_fine = activity.heads_bytes() <= heads_bytes_max;
        let answer = is_fine.then(|| handler(request, accepted.clone()));
        async move {
            let answer = answer.ok_or(HeadsTooLarge)?.await;
            Ok(answer.map(|body| GuardedBody { body, rest: None, guard, resets }))
        }
    })
}

pin_project! {
    /// A body that keeps its request noted on the connection, and gives what it has in pieces: what the connection
    /// takes over of it is out of the account of the task that made it.
    pub(super) struct GuardedBody<B: Body> {
        #[pin]
        body: B,
        rest: Option<Bytes>,
        guard: RequestGuard,
        resets: fn(&B::Error) -> bool,
    }
}

impl<B: Body<Data = Bytes>> Body for GuardedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let mut frame = match this.rest.take() {
            Some(rest) => Poll::Ready(Some(Ok(Frame::data(rest)))),
            None => this.body.poll_frame(cx),
        };
        let mut given = 0;
        if let Poll::Ready(Some(Ok(frame))) = &mut frame
            && let Some(data) = frame.data_mut()
        {
            if data.len() > PIECE_BYTES_MAX {
                *this.rest = Some(data.split_off(PIECE_BYTES_MAX));
            }
            given = data.len();
        }
        this.guard.note_body(frame.is_ready().then_some(given));
        if let Poll::Ready(Some(Err(error))) = &frame
            && (this.resets)(error)
        {
            this.guard.reset_connection();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        let rest = self.rest.as_ref().map_or(0, |rest| rest.len() as u64);
        // The upper bound first: it must not be below the lower one.
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint.set_lower(hint.lower().saturating_add(rest));
        hint
    }
}

/// Runs each stream of an h2 connection in a task of its own, and notes it where the stream can be ended.
#[derive(Debug, Clone)]
struct Streams {
    activity: Arc<Activity>,
}

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        #[expect(
            clippy::disallowed_methods,
            reason = "its connection owns it; a tracker would move each stream once more"
        )]
        let task = tokio::spawn(stream);
        // The request of the stream has begun just now, in the same poll.
        self.activity.set_task(task.abort_handle());
    }
}

/// Speaks HTTP/1.1 until the connection ends.
pub(super) async fn drive_h1<S, V, B>(acceptor: &Acceptor, stream: S, activity: Arc<Activity>, service: V)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    V: HttpService<Incoming, ResBody = B, Error: std::error::Error + Send + Sync + 'static, Future: Send>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_headers(HEADERS_MAX)
        .max_header_size(acceptor.limits.header_bytes_max)
        .max_buf_size(acceptor.limits.header_bytes_max.max(H1_BUFFER_BYTES_MAX))
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    watch(acceptor, &activity, connection, LINGER, http1::Connection::graceful_shutdown).await;
}

/// Speaks h2 until the connection ends.
pub(super) async fn drive_h2<S, V, B>(acceptor: &Acceptor, stream: S, activity: Arc<Activity>, service: V)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    V: HttpService<
            Incoming,
            ResBody = B,
            Error: std::error::Error + Send + Sync + 'static,
            Future: Send + 'static,
        >,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let limits = &acceptor.limits;
    let streams = Streams { activity: Arc::clone(&activity) };
    let connection = http2::Builder::new(streams)
        .timer(TokioTimer::new())
        .max_concurrent_streams(H2_STREAMS_MAX)
        .max_header_list_size(u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(H2_RESET_STREAMS_MAX)
        .max_send_buf_size(H2_SEND_BYTES_MAX)
        .initial_stream_window_size(window((limits.h2_window_bytes / 2).max(H2_STREAM_WINDOW_LEAST)))
        .initial_connection_window_size(window(limits.h2_window_bytes))
        .keep_alive_interval(limits.keep_alive)
        .keep_alive_timeout(limits.header_timeout)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    // GOAWAY tells the client which of its requests are served; nothing is lost by sending it at once.
    watch(acceptor, &activity, connection, Duration::ZERO, http2::Connection::graceful_shutdown).await;
}

/// A flow-control window of so many bytes, as far as there are such (RFC 9113 6.9.1).
fn window(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX).min(u32::MAX >> 1)
}

/// Drives a connection to its end: its own, a deadline's, or that of the process.
async fn watch<C>(
    acceptor: &Acceptor,
    activity: &Activity,
    mut connection: Pin<&mut C>,
    linger: Duration,
    close_in_order: impl Fn(Pin<&mut C>),
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
                activity.closes();
                close_in_order(connection.as_mut());
            }
            () = tokio::time::sleep(wait) => match judge(acceptor, activity) {
                Judgement::Wait(next) => wait = next,
                Judgement::CloseIdle => {
                    activity.closes();
                    close_in_order(connection.as_mut());
                }
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
        reading: LeastRate {
            bytes_per_second: acceptor.limits.body_rate_min,
            window: acceptor.body_idle_timeout,
        },
    };
    let judgement = activity.judge(patience);
    if judgement == Judgement::Abort {
        acceptor.metrics.connections_timed_out.inc();
    }
    judgement
}
