//! What every worker needs to serve a listener, and what it learns of a connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::redirect::Redirect;
use super::settings::ConnectionLimits;
use crate::telemetry::Metrics;

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
