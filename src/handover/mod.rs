//! Sockets and state that a process takes over: from systemd, or from the process before it.
//!
//! From one process to the next: the successor asks at the control socket, gets every listening
//! socket itself (a copy of the descriptor, so that no connection in its queue is lost), says
//! `ready` when it accepts, and is told `yours` when the other accepts no more. Until `ready`
//! nothing has changed for the one that runs.

mod inherit;
mod notify;
mod wire;

use std::net::{SocketAddr, TcpListener};

use serde::{Deserialize, Serialize};

pub use inherit::{InheritError, Inheritance};
pub use notify::{PROCESS_ENDS, notify_manager, ready_text};
pub use wire::{Heir, bequeath};

/// How the control socket is asked for a take-over, and what the connection speaks then.
pub const PROTOCOL: &str = "tidegate-take-over/1";

/// What one process leaves to the next.
#[derive(Debug, Default)]
pub struct Estate {
    /// The sockets of each listener, by the address in the configuration.
    pub listeners: Vec<(SocketAddr, Vec<TcpListener>)>,
    /// The admin listener.
    pub admin: Option<(SocketAddr, TcpListener)>,
}

/// What is told beside the sockets.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct State {
    /// Members that are being drained.
    pub draining: Vec<String>,
    /// Open upload sessions: id, member, deadline.
    pub uploads: Vec<(String, String, u64)>,
    /// Homes that came back after others may have taken writes in their place.
    #[serde(default)]
    pub returned: Vec<String>,
    /// What others took in place of homes: pool, repository, who, and tags.
    #[serde(default)]
    pub stand_ins: Vec<(String, String, String, Vec<String>)>,
}

/// The first message: what the sockets are that follow, in this order.
#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    listeners: Vec<(SocketAddr, usize)>,
    admin: Option<SocketAddr>,
    state: State,
}
