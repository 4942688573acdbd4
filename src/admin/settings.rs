//! What can be set of the admin listener and the control socket.

use std::net::SocketAddr;
use std::path::PathBuf;

/// The read-only admin listener, and the socket for what changes state.
#[derive(Debug, Clone, PartialEq)]
pub struct AdminSettings {
    /// Where to listen.
    pub address: SocketAddr,
    /// Names by which it may be asked, in lower case, besides addresses and `localhost`.
    pub hosts: Vec<String>,
    /// The control socket; `None` for none.
    pub socket: Option<PathBuf>,
}
