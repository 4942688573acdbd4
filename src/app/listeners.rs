//! Listening sockets: bound here, or taken over from others, and shared out among the workers.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::Semaphore;

use super::parts::{Endpoint, Parts};
use crate::config::Config;
use crate::handover::{Estate, Inheritance};
use crate::server::{Acceptor, Families, Listener, ListenerKind, Redirect, bind, bind_alone};
use crate::telemetry::Metrics;

/// The endpoints of each worker, and every socket once more for a successor.
pub(super) struct Listening {
    pub(super) endpoints: Vec<Vec<Endpoint>>,
    pub(super) estate: Estate,
}

/// Binds every listener once a worker, but for those whose sockets are inherited.
pub(super) fn bind_all(
    config: &Config,
    parts: &Parts,
    metrics: &Arc<Metrics>,
    inheritance: &mut Inheritance,
) -> anyhow::Result<Listening> {
    let workers = config.server.workers;
    let mut listening =
        Listening { endpoints: (0..workers).map(|_| Vec::new()).collect(), estate: Estate::default() };
    let permits = Arc::new(Semaphore::new(config.server.limits.connections_max.min(Semaphore::MAX_PERMITS)));
    let body_idle_timeout = config.pools.iter().map(|pool| pool.limits.body_idle_timeout).max();
    let mut certificates = parts.certificates.iter();
    let mut https_port = 443;
    // Redirects last: they name the port of the TLS listener, which may be chosen only now.
    let (redirects, others): (Vec<_>, Vec<_>) =
        config.server.listeners.iter().partition(|listener| matches!(listener.kind, ListenerKind::Redirect));
    for listener in others.into_iter().chain(redirects) {
        let (kind, tls, redirect, plaintext_credentials) = match &listener.kind {
            ListenerKind::Tls(_) => {
                let certificates = certificates.next().context("certificates of a listener")?;
                ("tls", Some(certificates.server_config()?), None, false)
            }
            ListenerKind::Plain { allow_plaintext_credentials } => {
                ("plain", None, None, *allow_plaintext_credentials)
            }
            ListenerKind::Redirect => {
                let hosts = config.hosts.clone();
                let serves = Arc::new(move |host: &str| hosts.find(host).is_some());
                ("redirect", None, Some(Redirect { port: https_port, serves }), false)
            }
        };
        let acceptor = Acceptor {
            tls,
            redirect,
            plaintext_credentials,
            limits: config.server.limits.clone(),
            body_idle_timeout: body_idle_timeout.unwrap_or(Duration::from_secs(60)),
            permits: Arc::clone(&permits),
            metrics: Arc::clone(metrics),
            connections: parts.connections.clone(),
            stop: parts.stop.clone(),
        };
        let mut sockets = inheritance.take(listener.address);
        let inherited = !sockets.is_empty();
        if !inherited {
            sockets = bind_sockets(listener.address, families(config, listener.address), workers)?;
        }
        let address = share_out(&sockets, &acceptor, &mut listening.endpoints)?;
        listening.estate.listeners.push((listener.address, sockets));
        if kind == "tls" && https_port == 443 {
            https_port = address.port();
        }
        tracing::info!(kind, address = %address, inherited, "listening");
    }
    inheritance.drop_rest();
    Ok(listening)
}

/// Which clients come to a listener, the others and the admin listener considered.
pub(super) fn families(config: &Config, address: SocketAddr) -> Families {
    let admin = config.admin.as_ref().map(|admin| admin.address);
    Families::of(address, config.server.listeners.iter().map(|listener| listener.address).chain(admin))
}

/// One socket for each worker, all with the same address.
fn bind_sockets(address: SocketAddr, families: Families, workers: usize) -> anyhow::Result<Vec<TcpListener>> {
    // Without this a second gateway, or a second user's process, could share the port unnoticed.
    if address.port() != 0 {
        drop(bind_alone(address, families).with_context(|| format!("listen on {address}"))?);
    }
    let mut bound = address;
    let mut sockets = Vec::new();
    for _ in 0..workers {
        let socket = bind(bound, families).with_context(|| format!("listen on {bound}"))?;
        bound = socket.local_addr()?;
        sockets.push(socket);
    }
    Ok(sockets)
}

/// Every socket gets a worker and every worker a socket. The kernel shares connections out among the
/// sockets of an address, so none may be left lying; and a further one could not be given up again
/// without resetting what is in its queue, so workers without one share those that there are.
fn share_out(
    sockets: &[TcpListener],
    acceptor: &Acceptor,
    endpoints: &mut [Vec<Endpoint>],
) -> anyhow::Result<SocketAddr> {
    let workers = endpoints.len();
    for number in 0..sockets.len().max(workers) {
        let socket = sockets[number % sockets.len()].try_clone().context("share a socket")?;
        let listener = Listener::from_socket(socket).context("use a socket")?;
        endpoints[number % workers].push((listener, acceptor.clone()));
    }
    Ok(sockets[0].local_addr()?)
}
