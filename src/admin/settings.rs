//! What can be set of the admin listener.

use std::net::SocketAddr;

/// The read-only admin listener.
#[derive(Debug, Clone)]
pub struct AdminSettings {
    /// Where to listen.
    pub address: SocketAddr,
}
