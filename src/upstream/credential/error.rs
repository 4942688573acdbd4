//! Why there is no credential for a request.

use crate::auth::keys::KeyError;
use crate::auth::subject::Subject;

/// Why there is no credential for a request.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CredentialError {
    /// It cannot be signed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The member needs the client's password, and the client is known without one.
    #[error("the member needs the client's own password, and {0} is not an account of Harbor")]
    NoPassword(Subject),
    /// The member takes the client's password no longer.
    #[error("the member takes the client's password no longer")]
    WrongPassword,
    /// The member does not grant this access to the client.
    #[error("the member does not grant this access to the client")]
    NotGranted,
    /// The member is well, and cannot judge the client's password now.
    #[error("the member cannot judge the client's password now: {0}")]
    NotNow(String),
    /// The member fails.
    #[error("the member gives no credential: {0}")]
    Member(String),
}
