//! What can be set of listeners, TLS and connection limits.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Listeners and the limits that all of them share.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerSettings {
    /// How many workers (runtimes, each with its own listeners); one per core by default.
    pub workers: usize,
    /// Where to listen.
    pub listeners: Vec<ListenerSettings>,
    /// Bounds on connections and waiting.
    pub limits: ConnectionLimits,
}

/// One address.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerSettings {
    /// Where to listen; port 0 lets the system choose.
    pub address: SocketAddr,
    /// What is spoken there.
    pub kind: ListenerKind,
}

/// What is spoken on a listener.
#[derive(Debug, Clone, PartialEq)]
pub enum ListenerKind {
    /// HTTPS, h2 and http/1.1 by ALPN.
    Tls(TlsSettings),
    /// Plain http/1.1. Credentials are refused there unless this says otherwise.
    Plain {
        /// Take passwords and tokens although they can be read on the way.
        allow_plaintext_credentials: bool,
    },
    /// Plain http/1.1 that answers 308 to the same place under https.
    Redirect,
}

/// Certificates of a TLS listener. The first is also for clients that send no or an unknown name.
#[derive(Debug, Clone, PartialEq)]
pub struct TlsSettings {
    /// The certificates that SNI picks from.
    pub certificates: Vec<CertificateFiles>,
}

/// One certificate: a file with the chain, leaf first, and one with the private key, both PEM.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CertificateFiles {
    /// The chain.
    pub cert: PathBuf,
    /// The private key (PKCS#8, PKCS#1 or SEC1).
    pub key: PathBuf,
}

/// Bounds on downstream connections, in force on every listener.
#[derive(Debug, Clone, PartialEq)]
pub struct ConnectionLimits {
    /// Most downstream connections at once, over all listeners; more wait in the kernel's backlog.
    pub connections_max: usize,
    /// A TLS handshake takes at most this long.
    pub handshake_timeout: Duration,
    /// A request's head arrives within this time.
    pub header_timeout: Duration,
    /// A connection without a request is closed after this.
    pub keep_alive: Duration,
    /// Largest request head in bytes.
    pub header_bytes_max: usize,
    /// The least rate of a body that a client sends or reads, in bytes per second; 0 for none.
    pub body_rate_min: u64,
    /// Bytes that the client of an h2 connection may send before they are read; half of it in one stream.
    pub h2_window_bytes: usize,
    /// How many bytes of a refused request's body are read so that the client sees the answer.
    pub refused_body_bytes_max: u64,
    /// How long a refused request's body is read.
    pub refused_body_timeout: Duration,
}

/// Heads of the requests that run on one h2 connection, in bytes, unless a single one may be larger.
const HEADS_BYTES_MAX: usize = 512 * 1024;
/// What a connection needs besides: TLS, buffers, tasks.
const CONNECTION_BYTES: usize = 512 * 1024;

impl ConnectionLimits {
    /// Bytes of the heads of all requests that run on one h2 connection.
    #[must_use]
    pub fn heads_bytes_max(&self) -> usize {
        HEADS_BYTES_MAX.max(self.header_bytes_max.saturating_mul(2))
    }

    /// Bytes that one connection can make this process remember before its client is let in: heads and unread bodies,
    /// each with as much again for the bookkeeping of its pieces.
    #[must_use]
    pub fn connection_bytes_max(&self) -> usize {
        let said = self.heads_bytes_max().saturating_add(self.h2_window_bytes);
        said.saturating_mul(2).saturating_add(CONNECTION_BYTES)
    }
}
