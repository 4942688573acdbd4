//! The admin listener: liveness, readiness, metrics and status. It only reads. What changes state
//! is asked for at the control socket.

mod control;
mod host;
mod reloads;
mod settings;
mod status;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use control::{Control, ControlError, ControlSocket};
pub use reloads::{RefusedSection, ReloadAsker, Reloads};
pub use settings::*;

use crate::telemetry::Metrics;
use crate::upstream::Topology;

/// A request's head comes within this.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection asks and has its answer within this.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections at once; scrapers and probes need few. One more takes the place of the oldest.
const CONNECTIONS_MAX: usize = 64;
/// Largest head, and how much of an answer is copied for a connection, in bytes.
const BUFFER_BYTES_MAX: usize = 16 * 1024;
/// Before accepting again when the system is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Readiness as the process sees it; readiness of the pools comes on top.
#[derive(Debug, Default)]
pub struct Readiness {
    ready: AtomicBool,
    ending: AtomicBool,
}

impl Readiness {
    /// Requests are wanted.
    pub fn begin(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }

    /// Requests are not wanted any more: the process ends.
    pub fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
        self.ready.store(false, Ordering::Relaxed);
    }

    fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }
}

/// Until when the tokens of a subject are refused.
pub type RevokedUntil = dyn Fn(&str) -> Option<u64> + Send + Sync;

/// What the admin listener shows.
pub struct Admin {
    /// Names by which it may be asked, besides addresses and `localhost`.
    pub hosts: Vec<String>,
    /// The members.
    pub topology: Arc<ArcSwap<Topology>>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Whether the process wants requests.
    pub readiness: Readiness,
    /// When the process started.
    pub started: Instant,
    /// Lines that the access log dropped.
    pub access_log_dropped: tracing_appender::non_blocking::ErrorCounter,
    /// Reloads.
    pub reloads: Arc<Reloads>,
    /// Until when the tokens of a subject (`provider/name`) are refused, in seconds since the epoch.
    pub revoked_until: Box<RevokedUntil>,
}

impl Admin {
    /// Serves until told to stop. What goes wrong with one connection, or with accepting it, is not the end.
    pub async fn run(self: Arc<Self>, listener: TcpListener, stop: CancellationToken, tasks: TaskTracker) {
        let mut open: VecDeque<AbortHandle> = VecDeque::with_capacity(CONNECTIONS_MAX);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection to the admin listener cannot be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            open.retain(|connection| !connection.is_finished());
            // A probe is answered as soon as it asks, so the connection that takes longest makes room for it.
            if open.len() >= CONNECTIONS_MAX
                && let Some(oldest) = open.pop_front()
            {
                oldest.abort();
            }
            let connection = Arc::clone(&self).serve(stream);
            open.push_back(tasks.spawn(connection).abort_handle());
        }
    }

    /// One connection, with one request. A process that ends answers what was accepted: a close in good order before the
    /// head has come would leave a client that is just asking without an answer.
    async fn serve(self: Arc<Self>, stream: TcpStream) {
        let service = service_fn(move |request| {
            let admin = Arc::clone(&self);
            async move { Ok::<_, Infallible>(admin.answer(&request)) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .keep_alive(false)
            .max_buf_size(BUFFER_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service);
        // A scraper that hangs up, or does not read, needs no log line.
        drop(tokio::time::timeout(CONNECTION_TIMEOUT, connection).await);
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !host::is_expected(request, &self.hosts) {
            let problem =
                "this Host is not served here: ask by address, as localhost, or by a name in admin.hosts\n";
            return text(StatusCode::MISDIRECTED_REQUEST, problem);
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "this listener only reads\n");
        }
        match request.uri().path() {
            "/livez" => text(StatusCode::OK, "ok\n"),
            "/readyz" => self.readyz(),
            "/metrics" => self.metrics(),
            "/status" => json_response(&self.status()),
            "/" => text(StatusCode::OK, "tidegate: /livez /readyz /metrics /status\n"),
            _ => text(StatusCode::NOT_FOUND, "not here: /livez /readyz /metrics /status\n"),
        }
    }

    /// 503 while starting or draining, and while some pool can serve nothing.
    fn readyz(&self) -> Response<Full<Bytes>> {
        if !self.readiness.is_ready() {
            return text(StatusCode::SERVICE_UNAVAILABLE, "starting or draining\n");
        }
        let topology = self.topology.load();
        let out: Vec<&str> = topology
            .pools
            .all()
            .iter()
            .filter(|pool| !pool.can_serve())
            .map(|pool| pool.name.as_str())
            .collect();
        if out.is_empty() {
            return text(StatusCode::OK, "ok\n");
        }
        text(StatusCode::SERVICE_UNAVAILABLE, &format!("no member serves in pool {}\n", out.join(", ")))
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let dropped = self.access_log_dropped.dropped_lines();
        self.metrics.access_log_dropped.set(i64::try_from(dropped).unwrap_or(i64::MAX));
        let mut response = Response::new(Full::from(self.metrics.encode()));
        let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }
}

fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text.to_owned()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn json_response(value: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(value.to_string()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
