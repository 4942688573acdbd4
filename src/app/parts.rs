//! The parts that live as long as the process.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::keys::{Ring, SigningKey};
use crate::proxy::{Gateway, GatewayState};
use crate::reload::{Fingerprint, Members};
use crate::server::{Acceptor, Certificates, Listener};

/// The parts that live as long as the process.
pub(super) struct Parts {
    pub gateway: Arc<Gateway>,
    /// The configuration in force: topology, identities, policy and keys.
    pub state: GatewayState,
    pub member_ring: Arc<ArcSwap<Ring<SigningKey>>>,
    /// Until they are handed to the reloader.
    pub members: Option<Members>,
    pub seen: Fingerprint,
    pub certificates: Vec<Arc<Certificates>>,
    /// The accept loops of every worker.
    pub accepting: TaskTracker,
    pub connections: TaskTracker,
    /// Cancelled when accepting begins.
    pub go: CancellationToken,
    pub stop: CancellationToken,
    pub finished: CancellationToken,
}

/// A bound socket with what serves it; one a worker and listener.
pub(super) type Endpoint = (Listener, Acceptor);
