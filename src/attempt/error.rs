//! Why an attempt at a member came to nothing.

use http::StatusCode;

use crate::registry::Digest;
use crate::upstream::{MemberName, Phase, RequestBody, UpstreamError};

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// Because of the client: of what it may do, or of what it sent.
    #[error(transparent)]
    Client(#[from] ClientFault),
    /// Because of the member, or of what it has.
    #[error(transparent)]
    Member(#[from] MemberError),
}

/// What an attempt failed at on the client's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClientFault {
    /// The member refuses the client's own password.
    #[error("the member refuses the client's password")]
    WrongPassword,
    /// The account lacks the right.
    #[error("the member grants the client no such right")]
    NotGranted,
    /// Whether the client's password is right cannot be found out now.
    #[error("the client's password cannot be checked now")]
    LoginUnavailable,
    /// The body of the request broke off or stalled.
    #[error("the client's body broke off")]
    BrokenBody,
}

/// What an attempt failed at on the member's side.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// There was no member to ask.
    #[error("there is no member to ask")]
    NoCandidate,
    /// No head of an answer came.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// It answered with a server error.
    #[error("member {member} answered {status}")]
    Failed {
        /// Which member.
        member: MemberName,
        /// What it answered.
        status: StatusCode,
    },
    /// It refuses our own credential.
    #[error("member {member} refuses our credential")]
    CredentialFault {
        /// Which member.
        member: MemberName,
    },
    /// It takes our credential and says that there is no such thing.
    #[error("member {member} does not know the target")]
    UnknownTarget {
        /// Which member.
        member: MemberName,
    },
    /// Neither it nor any other member that was asked has the content.
    #[error("member {member} and the others do not have it")]
    UnknownContent {
        /// The first that was asked.
        member: MemberName,
        /// Whether it is a blob; else it is a manifest.
        is_blob: bool,
    },
    /// Its answer cannot be passed on.
    #[error("member {member} gave an unusable answer: {problem}")]
    BadAnswer {
        /// Which member.
        member: MemberName,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Its answer broke off before it was passed on.
    #[error("member {member} broke its answer off: {problem}")]
    BrokenAnswer {
        /// Which member.
        member: MemberName,
        /// How.
        problem: String,
    },
    /// Its content is not what its digest says.
    #[error("member {member} has {digest} broken")]
    Corrupt {
        /// Which member.
        member: MemberName,
        /// The digest.
        digest: Digest,
    },
}

impl AttemptError {
    /// Whether the connection to the member could not be made.
    #[must_use]
    pub fn is_connect_failure(&self) -> bool {
        self.upstream().is_some_and(UpstreamError::is_connect_failure)
    }

    /// Whether nothing was asked of the member, for want of room.
    #[must_use]
    pub fn is_full_queue(&self) -> bool {
        self.upstream().is_some_and(UpstreamError::is_full_queue)
    }

    /// Whether nothing was asked of the member, because its turn did not come.
    #[must_use]
    pub fn is_queue(&self) -> bool {
        self.upstream().is_some_and(UpstreamError::is_queue)
    }

    /// Whether the member was reached, and the failure came of that.
    #[must_use]
    pub fn has_reached_member(&self) -> bool {
        match self {
            Self::Member(MemberError::Upstream(error)) => error.phase == Phase::Head,
            Self::Member(MemberError::NoCandidate) | Self::Client(ClientFault::LoginUnavailable) => false,
            Self::Member(_) | Self::Client(_) => true,
        }
    }

    fn upstream(&self) -> Option<&UpstreamError> {
        if let Self::Member(MemberError::Upstream(error)) = self { Some(error) } else { None }
    }
}

impl From<UpstreamError> for AttemptError {
    fn from(error: UpstreamError) -> Self {
        MemberError::from(error).into()
    }
}

/// An attempt that failed.
pub struct Failure {
    /// Why.
    pub error: AttemptError,
    /// The body, where another attempt may be made.
    pub body: Option<RequestBody>,
    /// Whether it counts against the member, should another one do better.
    pub is_suspect: bool,
}

impl Failure {
    /// A failure that says nothing about the member.
    pub(super) fn of_nobody(error: AttemptError, body: Option<RequestBody>) -> Box<Self> {
        Box::new(Self { error, body, is_suspect: false })
    }
}
