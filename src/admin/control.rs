//! The control socket: a Unix socket, mode 0600, for everything that changes state. It speaks
//! HTTP/1 with JSON, one request a connection; bodies are not read.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::status::member_status;
use super::{ACCEPT_PAUSE, Admin, CONNECTION_TIMEOUT, HEAD_TIMEOUT, json_response};
use crate::handover::PROTOCOL;
use crate::upstream::{DrainError, Member};

/// Connections at once; only people and their scripts come here.
const CONNECTIONS_MAX: usize = 16;
/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 16;
/// An upgrade takes this long at most: the new process asks, and gets ready.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(300);
/// Only the user that Tidegate runs as, and root.
const MODE: u32 = 0o600;

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another process has it.
    #[error(
        "another running gateway answers at the control socket {0}: two gateways need an `admin.socket` each"
    )]
    InUse(PathBuf),
    /// Something else is in its place.
    #[error(
        "{0} is not a socket, so it is left alone; remove it, or say where the control socket is to be with `admin.socket`"
    )]
    NotASocket(PathBuf),
    /// It cannot be made.
    #[error(
        "the control socket {0} cannot be made: {1}; make its directory, or say `admin: {{ socket: none }}`"
    )]
    Io(PathBuf, #[source] io::Error),
}

/// The socket, and its place in the file system for as long as it is there.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    place: Place,
}

#[derive(Debug)]
struct Place {
    path: PathBuf,
    /// Device and inode, by which it is told from the socket of a successor.
    file: Option<(u64, u64)>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.file.is_some() && file_of(&self.path) == self.file {
            // It is of no use, and the next start replaces it.
            drop(fs::remove_file(&self.path));
        }
    }
}

fn file_of(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

impl ControlSocket {
    /// Makes the socket. One that a dead process left is replaced.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn bind(path: &Path) -> Result<Self, ControlError> {
        Self::check(path)?;
        Self::succeed(path)
    }

    /// Makes the socket in the place of that of a process which is about to end.
    ///
    /// # Errors
    /// [`ControlError::Io`].
    pub fn succeed(path: &Path) -> Result<Self, ControlError> {
        Self::replace(path).map_err(|error| ControlError::Io(path.to_owned(), error))
    }

    fn check(path: &Path) -> Result<(), ControlError> {
        match fs::symlink_metadata(path) {
            Ok(file) if !file.file_type().is_socket() => {
                return Err(ControlError::NotASocket(path.to_owned()));
            }
            Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
                return Err(ControlError::InUse(path.to_owned()));
            }
            Ok(_) | Err(_) => {}
        }
        Ok(())
    }

    /// Makes the socket in the place of whatever is there, at no moment leaving nothing there.
    fn replace(path: &Path) -> io::Result<Self> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::unix(&beside)?)?;
        // Before it listens: until then no process can connect, whatever the umask says.
        fs::set_permissions(&beside, fs::Permissions::from_mode(MODE))?;
        socket.listen(BACKLOG)?;
        fs::rename(&beside, path)?;
        let place = Place { path: path.to_owned(), file: file_of(path) };
        Ok(Self { listener: UnixListener::from_std(socket.into())?, place })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.place.path
    }
}

/// What is done at the control socket.
pub struct Control {
    /// What is shown and changed.
    pub admin: Arc<Admin>,
    /// Where connections of processes that take over go.
    pub offers: mpsc::Sender<UnixStream>,
    /// Where it is asked for an upgrade.
    pub upgrades: mpsc::Sender<oneshot::Sender<Result<u32, String>>>,
    /// Owns what goes on beside the connections.
    pub tasks: TaskTracker,
}

impl Control {
    /// Serves until told to stop, then removes the socket. What goes wrong is logged, and accepting goes on.
    pub async fn run(self: Arc<Self>, socket: ControlSocket, stop: CancellationToken) {
        let tasks = self.tasks.clone();
        let ControlSocket { listener, place: _place } = socket;
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let permit = tokio::select! {
                permit = Arc::clone(&permits).acquire_owned() => permit,
                () = stop.cancelled() => return,
            };
            let Ok(permit) = permit else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection to the control socket cannot be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let connection = Arc::clone(&self).serve(stream);
            tasks.spawn(async move {
                let _permit = permit;
                connection.await;
            });
        }
    }

    /// One connection, with one question.
    async fn serve(self: Arc<Self>, stream: UnixStream) {
        let waits = Arc::new(AtomicBool::new(false));
        let upgrade = Arc::clone(&waits);
        let service = service_fn(move |request: Request<Incoming>| {
            let control = Arc::clone(&self);
            upgrade.store(is_upgrade(&request), Ordering::Relaxed);
            async move { Ok::<_, Infallible>(control.answer(request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        tokio::pin!(connection);
        // A client of the socket that hangs up, says nothing or does not read needs no log line.
        if tokio::time::timeout(CONNECTION_TIMEOUT, connection.as_mut()).await.is_err()
            && waits.load(Ordering::Relaxed)
        {
            drop(tokio::time::timeout(UPGRADE_TIMEOUT, connection).await);
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        match (request.method(), request.uri().path()) {
            _ if is_upgrade(&request) => self.upgrade().await,
            (&Method::POST, "/take-over") => self.take_over(request),
            (&Method::POST, "/reload") => self.reload().await,
            _ => self.answer_at_once(&request),
        }
    }

    /// Waits for the end, and tells what was refused.
    async fn reload(&self) -> Response<Full<Bytes>> {
        if !self.admin.reloads.reload().await {
            return refusal(StatusCode::CONFLICT, "too many reloads are asked for, or the process ends");
        }
        json_response(&json!({ "refused": *self.admin.reloads.refused() }))
    }

    /// Waits for the outcome.
    async fn upgrade(&self) -> Response<Full<Bytes>> {
        let (asker, outcome) = oneshot::channel();
        if self.upgrades.try_send(asker).is_err() {
            return refusal(StatusCode::CONFLICT, "another upgrade is under way, or the process ends");
        }
        match outcome.await {
            Ok(Ok(pid)) => json_response(&json!({ "pid": pid })),
            Ok(Err(problem)) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &problem),
            Err(_) => refusal(StatusCode::CONFLICT, "the process ends"),
        }
    }

    /// From here on the connection speaks the protocol of the take-over.
    fn take_over(&self, mut request: Request<Incoming>) -> Response<Full<Bytes>> {
        let asked = request.headers().get(UPGRADE).is_some_and(|asked| asked == PROTOCOL);
        let Some(offer) = self.offers.try_reserve().ok().filter(|_| asked) else {
            return refusal(StatusCode::CONFLICT, "another take-over is under way, or the process ends");
        };
        drop(offer);
        let (offers, upgraded) = (self.offers.clone(), hyper::upgrade::on(&mut request));
        self.tasks.spawn(async move {
            let Ok(upgraded) = upgraded.await else { return };
            let Ok(parts) = upgraded.downcast::<TokioIo<UnixStream>>() else { return };
            // Nothing takes it: the process ends, and so does the connection.
            drop(offers.try_send(parts.io.into_inner()));
        });
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        response.headers_mut().insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
        response
    }

    fn answer_at_once(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let query = request.uri().query().unwrap_or_default().as_bytes();
        let parameter = |name: &str| {
            form_urlencoded::parse(query).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
        };
        let name = parameter("member").unwrap_or_default();
        let topology = self.admin.topology.load();
        let pools = &topology.pools;
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/status") => {
                // Texts that may show lines of files are for users who may read those.
                let mut status = self.admin.status();
                status["reload_errors"] = json!(*self.admin.reloads.refused());
                json_response(&status)
            }
            (&Method::GET, "/member") => of_member(pools.named(&name).map(|(_, member)| member)),
            (&Method::GET, "/revocation") => {
                let subject = parameter("subject").unwrap_or_default();
                json_response(&json!({ "revoked_until": (self.admin.revoked_until)(&subject) }))
            }
            (&Method::POST, "/drain") => {
                of_member(pools.drain(&name, parameter("force").as_deref() == Some("true")))
            }
            (&Method::POST, "/undrain") => of_member(pools.undrain(&name)),
            _ => refusal(
                StatusCode::NOT_FOUND,
                "not here: GET /status /member /revocation, POST /drain /undrain /reload /upgrade",
            ),
        }
    }
}

/// The one question whose answer takes its time.
fn is_upgrade(request: &Request<Incoming>) -> bool {
    request.method() == Method::POST && request.uri().path() == "/upgrade"
}

fn of_member(member: Result<&Arc<Member>, DrainError>) -> Response<Full<Bytes>> {
    match member {
        Ok(member) => json_response(&member_status(member)),
        Err(error @ DrainError::Unknown { .. }) => refusal(StatusCode::NOT_FOUND, &error.to_string()),
        Err(error @ DrainError::Last { .. }) => refusal(StatusCode::CONFLICT, &error.to_string()),
    }
}

fn refusal(status: StatusCode, problem: &str) -> Response<Full<Bytes>> {
    let mut response = json_response(&json!({ "error": problem }));
    *response.status_mut() = status;
    response
}
