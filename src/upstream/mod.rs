//! The members: connections, credentials, health, and the pools they are in.

mod body;
mod connection;
mod credential;
mod drain;
mod error;
pub mod harbor;
mod likeness;
mod member;
mod name;
mod pool;
pub mod prober;
mod question;
mod settings;
mod tls;
mod topology;

pub use body::{BodyError, BodyProgress, IdleTimer, RequestBody};
pub use connection::{Connections, Lease, SendError, Target};
pub use credential::{
    Asking, Authorization, Credential, CredentialError, MemberAccess, MemberKeys, TokenCredential,
};
pub use drain::{DrainError, OpenUpload, leave_out_draining};
pub use error::{Phase, UpstreamError, UpstreamFault};
pub use member::{InFlight, Member, MemberState, label};
pub use name::{InvalidName, MemberName, PoolName};
pub use pool::{BuildError, Placed, Pool, Pools, Shared};
pub use settings::*;
pub use tls::MemberTlsError;
pub use topology::Topology;
