//! The members: connections, credentials, health, and the pools they are in.

mod accounts;
mod body;
mod connection;
mod credential;
mod drain;
mod ejections;
mod error;
pub mod harbor;
mod likeness;
mod member;
mod memory;
mod name;
mod permits;
mod pool;
pub mod prober;
mod quarantine;
mod question;
mod ramp;
mod reclaim;
mod settings;
mod stand_in;
mod tls;
mod topology;

pub use body::{BodyError, BodyProgress, IdleTimer, RequestBody};
pub use connection::{Connections, Lease, SendError, Target};
pub use credential::{
    Asking, Authorization, Credential, CredentialError, MemberAccess, MemberKeys, TokenCredential,
};
pub use drain::{DrainError, OpenUpload, leave_out_draining};
pub use ejections::{Ejections, client_key};
pub use error::{Phase, UpstreamError, UpstreamFault};
pub use member::{InFlight, Member, MemberState, label};
pub use memory::PoolMemory;
pub use name::{InvalidName, MemberName, PoolName};
pub use permits::Work;
pub use pool::{BuildError, Placed, Pool, Pools, Request, Shared};
pub use quarantine::Quarantine;
pub use reclaim::{Reclaimable, TakenBack};
pub use settings::*;
pub use stand_in::{StandIn, StandIns, tag_digest};
pub use tls::MemberTlsError;
pub use topology::Topology;
