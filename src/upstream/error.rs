//! What went wrong at a member, and whether the request may be tried elsewhere.

use super::credential::CredentialError;
use super::name::MemberName;

/// How far a try had come when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for a free connection.
    Queue,
    /// Connecting, TLS included.
    Connect,
    /// The request was handed back unsent.
    Unsent,
    /// Between the request's first byte and the answer's head.
    Head,
    /// The credential could not be made.
    Credential,
}

impl Phase {
    /// The word for logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Connect => "connect",
            Self::Unsent => "unsent",
            Self::Head => "head",
            Self::Credential => "credential",
        }
    }
}

/// A try at one member failed.
#[derive(Debug, thiserror::Error)]
#[error("member {member} failed in phase {}", phase.as_str())]
pub struct UpstreamError {
    /// The member.
    pub member: MemberName,
    /// How far it came.
    pub phase: Phase,
    /// Why.
    #[source]
    pub source: UpstreamFault,
}

/// Why a try failed.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamFault {
    /// A deadline passed.
    #[error("timed out")]
    Timeout,
    /// Too many requests wait already.
    #[error("the queue is full")]
    QueueFull,
    /// Name lookup, connect or TLS failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// HTTP towards the member failed.
    #[error(transparent)]
    Http(#[from] hyper::Error),
    /// There is no credential for the request.
    #[error(transparent)]
    Credential(#[from] CredentialError),
}

impl UpstreamError {
    /// Whether no byte of the request can have reached the member.
    #[must_use]
    pub fn is_unsent(&self) -> bool {
        match self.phase {
            Phase::Queue | Phase::Connect | Phase::Unsent | Phase::Credential => true,
            Phase::Head => false,
        }
    }

    /// Whether the member took the request and then said nothing in time.
    #[must_use]
    pub fn is_head_timeout(&self) -> bool {
        self.phase == Phase::Head && matches!(self.source, UpstreamFault::Timeout)
    }

    /// Whether the connection broke before the answer began.
    #[must_use]
    pub fn is_broken_connection(&self) -> bool {
        matches!(self.phase, Phase::Unsent | Phase::Head) && matches!(self.source, UpstreamFault::Http(_))
    }

    /// Why there is no credential, where that is it.
    #[must_use]
    pub fn credential_error(&self) -> Option<&CredentialError> {
        if let UpstreamFault::Credential(error) = &self.source { Some(error) } else { None }
    }

    /// Whether nothing was asked of the member, for want of room.
    #[must_use]
    pub fn is_full_queue(&self) -> bool {
        matches!(self.source, UpstreamFault::QueueFull)
    }

    /// Whether nothing was asked of the member, because its turn did not come.
    #[must_use]
    pub fn is_queue(&self) -> bool {
        self.phase == Phase::Queue
    }

    /// Whether it says something about the member's health.
    #[must_use]
    pub fn is_connect_failure(&self) -> bool {
        self.phase == Phase::Connect
    }
}
