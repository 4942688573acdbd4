//! The members: connections, credentials, health, and the pools they are in.

mod body;
mod connection;
mod credential;
mod door;
mod error;
pub mod harbor;
mod member;
mod name;
mod permits;
mod pool;
pub mod probe;
mod quarantine;
mod ramp;
mod reclaim;
mod settings;
mod tls;

pub use body::{BodyError, BodyProgress, IdleTimer, RequestBody};
pub use connection::{ConnectTarget, Connections, Lease, SendError};
pub use credential::{
    Asking, Authorization, Credential, CredentialError, MemberAccess, MemberKeys, TokenCredential,
};
pub use door::{Door, Question, QuestionError, Reply};
pub use error::{Phase, UpstreamError, UpstreamFault};
pub use member::{InFlight, Member, MemberState, OpenUpload, label, leave_out_draining};
pub use name::{InvalidName, MemberName, PoolName};
pub use permits::Work;
pub use pool::{
    BuildError, DrainError, Ejections, Placed, Pool, PoolMemory, Pools, Request, Shared, StandIn, StandIns,
    TagAnswer, TagAnswers, Topology, ask_about_tag, client_key, is_as_at_home,
};
pub use quarantine::Quarantine;
pub use reclaim::{Reclaimable, TakenBack};
pub use settings::*;
pub use tls::MemberTlsError;
