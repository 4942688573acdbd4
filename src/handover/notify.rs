//! What the service manager is told (`sd_notify`), where it wants to be.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Names the socket of the service manager.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// That this process is about to end.
pub const PROCESS_ENDS: &str = "STOPPING=1\n";

/// That this process serves, and is the one to watch.
#[must_use]
pub fn ready_text() -> String {
    format!("READY=1\nMAINPID={}\n", std::process::id())
}

/// Tells the service manager, if there is one.
pub fn notify_manager(text: &str) {
    let Some(path) = std::env::var_os(VARIABLE) else { return };
    let send = || -> std::io::Result<usize> {
        let address = match path.to_str().and_then(|path| path.strip_prefix('@')) {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&path)?,
        };
        UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &address)
    };
    if let Err(error) = send() {
        tracing::warn!(%error, "the service manager cannot be told how the process stands");
    }
}
