//! The values that metric labels can have.

/// What kind of failure a refused or broken request was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the kind of its name")]
pub enum ErrorKind {
    Client,
    Unauthorized,
    Denied,
    RateLimited,
    Upstream,
    Timeout,
    Internal,
}

impl ErrorKind {
    /// The label value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Unauthorized => "unauthorized",
            Self::Denied => "denied",
            Self::RateLimited => "rate_limited",
            Self::Upstream => "upstream",
            Self::Timeout => "timeout",
            Self::Internal => "internal",
        }
    }
}

/// Why no token was issued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the reason of its name")]
pub enum TokenRefusal {
    BadRequest,
    WrongPassword,
    NoCredentials,
    Unavailable,
    UnsupportedGrant,
    PlaintextConnection,
}

impl TokenRefusal {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::WrongPassword => "wrong_password",
            Self::NoCredentials => "no_credentials",
            Self::Unavailable => "unavailable",
            Self::UnsupportedGrant => "unsupported_grant",
            Self::PlaintextConnection => "plaintext_connection",
        }
    }
}

/// Why a login at a Harbor node could not be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the reason of its name")]
pub enum IdentityFault {
    Throttled,
    Unavailable,
}

impl IdentityFault {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::Unavailable => "unavailable",
        }
    }
}

/// What became of an upload session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the event of its name")]
pub enum PinEvent {
    Opened,
    Finished,
    Cancelled,
    Abandoned,
    Refused,
}

impl PinEvent {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Finished => "finished",
            Self::Cancelled => "cancelled",
            Self::Abandoned => "abandoned",
            Self::Refused => "refused",
        }
    }
}

/// How a probe went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the result of its name")]
pub enum ProbeResult {
    Healthy,
    Failed,
    CredentialFault,
}

impl ProbeResult {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Failed => "failed",
            Self::CredentialFault => "credential_fault",
        }
    }
}

/// The state of a member, as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberStatus {
    /// Not probed yet.
    Starting,
    /// In service.
    Healthy,
    /// Out: it does not answer, or not rightly.
    Unhealthy,
    /// Out: it refuses our credential.
    CredentialFault,
    /// Out for a while: requests to it failed.
    Ejected,
}

impl MemberStatus {
    pub(super) const ALL: [Self; 5] =
        [Self::Starting, Self::Healthy, Self::Unhealthy, Self::CredentialFault, Self::Ejected];

    /// The label value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::CredentialFault => "credential_fault",
            Self::Ejected => "ejected",
        }
    }
}

/// Which way bytes went, seen from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client.
    In,
    /// To the client.
    Out,
}

/// How a reload went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReloadResult {
    /// The new configuration is in force.
    Applied,
    /// The new configuration is broken; the old one stays.
    Refused,
}

/// Which certificate an expiry is of.
#[derive(Debug, Clone)]
pub struct CertificateLabel(pub String);
