//! One request at one member: what may be repeated and how long it may take, the credential, the connection, the head
//! of the answer, and what a refusal means.
//!
//! This floor knows members ([`crate::upstream`]) and nothing of the client: no host, no challenge, no status for it.
//! What asks several members, one after the other, is above.

mod answer;
mod error;
mod member;
mod refusal;
mod request;
mod send;

pub use answer::{Answer, MemberBody, Times};
pub use error::{AttemptError, ClientFault, Failure, MemberError};
pub use member::try_member;
pub use request::{Judgement, MemberRequest, Patience, Target};
