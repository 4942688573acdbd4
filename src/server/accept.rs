//! The accept loop of one worker on one listener, and the life of each connection.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::TlsAcceptor;

use super::acceptor::{Accepted, Acceptor};
use super::drive::{Handler, drive_h1, drive_h2, guarded};
use super::redirect::redirect;
use super::stream::Watched;
use super::watch::Activity;
use crate::telemetry::GaugeGuard;

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 4096;
/// Between keep-alive probes of the kernel on a downstream connection.
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(60);
/// Bytes that the kernel takes for a connection beyond what is on its way to the client. It bounds what a slow reader
/// costs, and lets its progress be seen in steps of half of this.
const UNSENT_BYTES_MAX: u32 = 256 * 1024;
/// Before accepting again when the system is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A bound socket of one worker.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
}

/// Which clients come to a listener on `[::]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Families {
    /// Those of IPv4 too.
    Both,
    /// Those of IPv6 alone: an IPv4 address has a listener of its own on the same port.
    Own,
}

impl Families {
    /// What is meant by `address` beside these others.
    #[must_use]
    pub fn of(address: SocketAddr, mut others: impl Iterator<Item = SocketAddr>) -> Self {
        let shares = |other: SocketAddr| other.is_ipv4() && other.port() == address.port();
        if address.port() != 0 && others.any(shares) { Self::Own } else { Self::Both }
    }
}

/// Binds an address for one worker. The first call for port 0 chooses; later ones are given that port.
///
/// # Errors
/// When the address cannot be bound.
pub fn bind(address: SocketAddr, families: Families) -> io::Result<TcpListener> {
    let socket = unbound(address, families)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Binds an address that no other process may have, not even another gateway.
///
/// # Errors
/// When the address cannot be bound.
pub fn bind_alone(address: SocketAddr, families: Families) -> io::Result<TcpListener> {
    let socket = unbound(address, families)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn unbound(address: SocketAddr, families: Families) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(families == Families::Own)?;
    }
    Ok(socket)
}

/// The client's address as it is known from here on. On a listener of both families a client of IPv4 comes as
/// `::ffff:a.b.c.d`, which no rule for its network would match.
fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
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
                    let peer = canonical(peer);
                    // Beyond the limit one connection waits here, the others in the kernel. What
                    // was accepted is served, also when accepting ends meanwhile.
                    let permit = Arc::clone(&acceptor.permits).acquire_owned();
                    tokio::pin!(permit);
                    let permit = tokio::select! {
                        permit = &mut permit => Some(permit),
                        () = acceptor.stop.cancelled() => None,
                    };
                    let (acceptor, handler) = (acceptor.clone(), Handler { answer: handler.clone(), resets });
                    let permits = Arc::clone(&acceptor.permits);
                    acceptor.connections.clone().spawn(async move {
                        let permit = match permit {
                            Some(permit) => permit,
                            None => permits.acquire_owned().await,
                        };
                        // The semaphore is never closed.
                        let Ok(permit) = permit else { return };
                        serve_connection(acceptor, stream, peer, handler, permit).await;
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
    stream: TcpStream,
    peer: SocketAddr,
    handler: Handler<H, B::Error>,
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
    let socket = SockRef::from(&stream);
    drop(socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(TCP_KEEP_ALIVE)));
    drop(socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX));
    let activity = Activity::new();
    let heads_bytes_max = acceptor.limits.heads_bytes_max();
    let Some(tls) = acceptor.tls.clone() else {
        if let Some(target) = acceptor.redirect.clone() {
            let heads = Arc::clone(&activity);
            let service = service_fn(move |request| {
                drop(heads.begin_request(0));
                let answer = redirect(&request, &target);
                async move { Ok::<_, Infallible>(answer) }
            });
            return drive_h1(&acceptor, Watched::new(stream, Arc::clone(&activity)), activity, service).await;
        }
        let accepted = Accepted { peer, tls: false, credentials_allowed: acceptor.plaintext_credentials };
        let service = guarded(handler, accepted, Arc::clone(&activity), heads_bytes_max);
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
    let service = guarded(handler, accepted, Arc::clone(&activity), heads_bytes_max);
    let stream = Watched::new(stream, Arc::clone(&activity));
    if is_h2 {
        activity.expect_frames();
        drive_h2(&acceptor, stream, activity, service).await;
    } else {
        drive_h1(&acceptor, stream, activity, service).await;
    }
}
