//! Every way in which a request can fail, and the one place where that becomes an answer of the gateway's own.
//!
//! What a client reads is written here per variant; the cause goes to the log only.

#![deny(clippy::wildcard_enum_match_arm)]

use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Response, StatusCode};

use super::body::ResponseBody;
use super::realm::Realm;
use super::record::RequestRecord;
use crate::attempt::{AttemptError, ClientFault, MemberError, MemberRequest};
use crate::auth::challenge::{ChallengeReason, challenge};
use crate::auth::credentials::CredentialsError;
use crate::forwarding::content_type::ContentTypeError;
use crate::forwarding::readable::UnreadableHeader;
use crate::forwarding::response::{API_VERSION, REQUEST_ID};
use crate::pin::PinError;
use crate::registry::{ErrorCode, NameError, ParseError, RegistryRequest, ResourceAccess, error_body};
use crate::telemetry::ErrorKind;
use crate::token_service::TokenRequestError;
use crate::upstream::{MemberName, Phase, PoolName, UpstreamFault};

/// What to wait before trying again, in seconds, where we shed load.
const RETRY_AFTER_SECONDS: u64 = 2;

/// What a client hears where no member can be asked, ...
const NO_MEMBER: &str = "no registry node can serve this now; try again";
/// ... where one did not end what it began, ...
const UNFINISHED: &str = "the registry node did not finish answering; try again";
/// ... and where there is no such repository.
const UNKNOWN_NAME: &str = "repository name not known to registry";

/// Why a request was not answered by a member.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// Not a request of the distribution-spec.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// A path that is not served here.
    #[error("no such path")]
    NotFound,
    /// A known path with the wrong method.
    #[error("method not allowed")]
    MethodNotAllowed(&'static str),
    /// Another protocol than HTTP is asked for.
    #[error("an upgrade to another protocol")]
    Upgrade,
    /// The `Host` is missing, repeated, or not on the list.
    #[error("unknown host")]
    UnknownHost,
    /// The `Authorization` header cannot be read.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// Credentials on a connection without TLS.
    #[error("credentials on a plain connection")]
    PlaintextCredentials,
    /// Credentials are missing or wrong, or do not suffice.
    #[error("unauthorized: {}", reason.log_word())]
    Unauthorized {
        /// Which of these.
        reason: ChallengeReason,
        /// What the request needs.
        wanted: Vec<ResourceAccess>,
    },
    /// A token request was refused.
    #[error("token request: {0}")]
    Token(#[from] TokenRequestError),
    /// Too many password checks wait.
    #[error("the client's password cannot be checked now")]
    IdentityUnavailable,
    /// The upload's pin is missing, broken, another subject's, or over.
    #[error("upload pin: {0}")]
    Pin(#[from] PinError),
    /// The member that holds the upload session is gone.
    #[error("member {member} holds the upload session and is gone")]
    PinnedMemberGone {
        /// Its name.
        member: String,
    },
    /// A body that is a form, or a manifest of no media type.
    #[error(transparent)]
    ContentType(#[from] ContentTypeError),
    /// A header that decides something cannot be read.
    #[error(transparent)]
    Unreadable(#[from] UnreadableHeader),
    /// No route leads anywhere from here.
    #[error("no route for this repository")]
    NoRoute,
    /// No member of the pool serves now.
    #[error("no member of pool {0} serves")]
    NoMember(PoolName),
    /// No member that copies this content has the repository.
    #[error("no member has this repository")]
    UnknownRepository,
    /// The home of the repository is out, and only it takes this.
    #[error("member {member}, the home of this project, is out")]
    HomeDown {
        /// The home.
        member: MemberName,
    },
    /// The home is out, and a tag was written there a moment ago.
    #[error("member {member}, which has the newest state of this tag, is out")]
    NewestDown {
        /// The home.
        member: MemberName,
    },
    /// The home of the repository is back, and does not have what others took in its place yet.
    #[error("member {member}, the home of this repository, is back and lacks what was written meanwhile")]
    HomeReturning {
        /// The home.
        member: MemberName,
    },
    /// No member answered; the last failure counts.
    #[error(transparent)]
    Member(#[from] MemberError),
    /// A manifest that is larger than allowed.
    #[error("a manifest of more than {0} bytes")]
    ManifestTooLarge(usize),
    /// The client's manifest broke off or stalled.
    #[error("the client's manifest broke off")]
    ClientBody,
    /// The client's upload broke off or stalled.
    #[error("the client's upload broke off")]
    UploadBody,
    /// There is no memory for one more body.
    #[error("no memory left for a body")]
    NoMemory,
    /// Something of our own failed.
    #[error("internal: {0}")]
    Internal(&'static str),
    /// A body did not begin, or a form did not come as a whole, in its time.
    #[error("the client's body did not come in time")]
    BodyLate,
    /// A login form that is larger than any.
    #[error("a form of more than {0} bytes")]
    FormTooLarge(usize),
}

/// An answer without the parts that all errors share.
struct ErrorAnswer {
    status: StatusCode,
    code: ErrorCode,
    message: String,
}

impl ChallengeReason {
    fn log_word(self) -> &'static str {
        match self {
            Self::NoCredentials => "no credentials",
            Self::InvalidToken => "invalid credentials",
            Self::InsufficientScope => "insufficient scope",
        }
    }
}

impl GatewayError {
    /// Credentials are missing or wrong, or do not suffice for what the request needs.
    pub(super) fn unauthorized(reason: ChallengeReason, wanted: Vec<ResourceAccess>) -> Self {
        Self::Unauthorized { reason, wanted }
    }

    /// A request for which no member's answer could be got, as its client is told.
    pub(super) fn of_attempt(request: &MemberRequest, error: AttemptError) -> Self {
        let refused = |reason| Self::unauthorized(reason, request.challenge_access());
        match error {
            AttemptError::Client(ClientFault::WrongPassword) => refused(ChallengeReason::InvalidToken),
            AttemptError::Client(ClientFault::NotGranted) => refused(ChallengeReason::InsufficientScope),
            AttemptError::Client(ClientFault::LoginUnavailable) => Self::IdentityUnavailable,
            AttemptError::Client(ClientFault::BrokenBody) => match request.registry() {
                Some(RegistryRequest::Manifest { .. }) => Self::ClientBody,
                Some(_) | None => Self::UploadBody,
            },
            AttemptError::Member(error) => error.into(),
        }
    }

    /// The metric's word.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Parse(_)
            | Self::NotFound
            | Self::MethodNotAllowed(_)
            | Self::UnknownHost
            | Self::Upgrade
            | Self::Credentials(_) => ErrorKind::Client,
            Self::PlaintextCredentials
            | Self::Pin(_)
            | Self::PinnedMemberGone { .. }
            | Self::ContentType(_)
            | Self::Unreadable(_)
            | Self::ManifestTooLarge(_)
            | Self::ClientBody
            | Self::UploadBody => ErrorKind::Client,
            Self::NoRoute | Self::UnknownRepository => ErrorKind::Client,
            Self::Unauthorized { reason, .. } => match reason {
                ChallengeReason::NoCredentials | ChallengeReason::InvalidToken => ErrorKind::Unauthorized,
                ChallengeReason::InsufficientScope => ErrorKind::Denied,
            },
            Self::Token(error) => match error {
                TokenRequestError::WrongPassword | TokenRequestError::NoCredentials => {
                    ErrorKind::Unauthorized
                }
                TokenRequestError::Unavailable => ErrorKind::RateLimited,
                TokenRequestError::Key(_) => ErrorKind::Internal,
                TokenRequestError::Malformed(_)
                | TokenRequestError::UnknownService(_)
                | TokenRequestError::TooManyScopes(_)
                | TokenRequestError::TooLarge(_)
                | TokenRequestError::UnsupportedGrant
                | TokenRequestError::Body
                | TokenRequestError::Plaintext => ErrorKind::Client,
            },
            Self::IdentityUnavailable | Self::NoMemory => ErrorKind::RateLimited,
            Self::NoMember(_)
            | Self::HomeDown { .. }
            | Self::HomeReturning { .. }
            | Self::NewestDown { .. } => ErrorKind::Upstream,
            Self::Member(error) => kind_of(error),
            Self::Internal(_) => ErrorKind::Internal,
            Self::BodyLate | Self::FormTooLarge(_) => ErrorKind::Client,
        }
    }

    /// The answer to the client. `realm` is where it gets its tokens; `None` where the request did not come to a host
    /// that is served.
    #[must_use]
    pub fn into_response(
        self,
        realm: Option<Realm<'_>>,
        record: &mut RequestRecord,
    ) -> Response<ResponseBody> {
        record.error = Some(self.kind());
        self.log(record);
        let ErrorAnswer { status, code, message } = self.refusal();
        let mut response = if let Self::Token(TokenRequestError::UnsupportedGrant) = self {
            // The OAuth2 word beside the registry's own (RFC 6749 5.2).
            let body = serde_json::json!({
                "error": "unsupported_grant_type",
                "errors": [{"code": code.as_str(), "message": message, "detail": {"request_id": &*record.id}}],
            });
            Response::new(ResponseBody::full(body.to_string()))
        } else {
            Response::new(ResponseBody::full(error_body(code, &message, &record.id)))
        };
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(API_VERSION.0, API_VERSION.1);
        if let Ok(id) = HeaderValue::from_str(&record.id) {
            headers.insert(REQUEST_ID, id);
        }
        if let Some(value) = self.challenge(realm).and_then(|value| HeaderValue::try_from(value).ok()) {
            headers.insert(WWW_AUTHENTICATE, value);
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
        }
        if let Self::MethodNotAllowed(allowed) = self {
            headers.insert(ALLOW, HeaderValue::from_static(allowed));
        }
        if matches!(self, Self::UnknownHost | Self::PlaintextCredentials) {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    fn challenge(&self, realm: Option<Realm<'_>>) -> Option<String> {
        if let Self::Unauthorized { reason, wanted } = self {
            return realm.map(|realm| challenge(&realm.url(), realm.service, wanted, *reason));
        }
        let Self::Token(TokenRequestError::WrongPassword | TokenRequestError::NoCredentials) = self else {
            return None;
        };
        // The token endpoint takes Basic; registry clients never see this beside a Bearer.
        Some("Basic realm=\"tidegate\"".to_owned())
    }

    fn log(&self, record: &RequestRecord) {
        let request_id = &*record.id;
        match self.kind() {
            ErrorKind::Client | ErrorKind::Unauthorized | ErrorKind::Denied => {
                tracing::debug!(request_id, error = %self, "request refused");
            }
            // Members that are lost are warned of once, where their state changes.
            ErrorKind::RateLimited | ErrorKind::Upstream | ErrorKind::Timeout => {
                tracing::info!(request_id, error = %self, cause = %Causes(self), "request failed");
            }
            ErrorKind::Internal => {
                tracing::error!(request_id, error = %self, cause = %Causes(self), "request failed")
            }
        }
    }

    fn refusal(&self) -> ErrorAnswer {
        let (status, code, message) = match self {
            Self::Parse(error) => return parse_refusal(*error),
            Self::NotFound => (404, ErrorCode::NameUnknown, "nothing is served under this path; registries answer under /v2/".to_owned()),
            Self::MethodNotAllowed(allowed) => (405, ErrorCode::Unsupported, format!("this path takes {allowed} only")),
            Self::UnknownHost => (421, ErrorCode::Unsupported, "this host name is not served here; the operator lists names under `external_url` and `hosts`".to_owned()),
            Self::Upgrade => (400, ErrorCode::Unsupported, "connections are not upgraded here; leave the Upgrade header out".to_owned()),
            Self::Credentials(error) => (400, ErrorCode::Unsupported, error.to_string()),
            Self::PlaintextCredentials => (403, ErrorCode::Denied, "credentials are refused on a connection without TLS; use https".to_owned()),
            Self::Unauthorized { reason, .. } => match reason {
                ChallengeReason::NoCredentials => (401, ErrorCode::Unauthorized, "authentication required".to_owned()),
                ChallengeReason::InvalidToken => (401, ErrorCode::Unauthorized, "the credentials are wrong, expired or no longer known; log in again".to_owned()),
                ChallengeReason::InsufficientScope => (401, ErrorCode::Denied, "requested access to the resource is denied".to_owned()),
            },
            Self::Token(error) => return token_refusal(error),
            Self::IdentityUnavailable => (503, ErrorCode::Unavailable, "logins cannot be checked now: too many at once, or the directory does not answer; try again".to_owned()),
            Self::Pin(PinError::Expired) | Self::PinnedMemberGone { .. } => (404, ErrorCode::BlobUploadUnknown, "the upload session is gone; start the upload again".to_owned()),
            Self::Pin(PinError::Missing | PinError::Broken | PinError::OtherUpload | PinError::OtherSubject) => {
                (400, ErrorCode::BlobUploadInvalid, "the upload URL is not the one that was given for this upload; follow the Location header exactly".to_owned())
            }
            Self::ContentType(ContentTypeError::Form) => (400, ErrorCode::Unsupported, "bodies are not forms here; send Content-Type: application/octet-stream".to_owned()),
            Self::ContentType(ContentTypeError::Malformed) => (400, ErrorCode::ManifestInvalid, "the Content-Type of the manifest is repeated or no media type; send one such as application/vnd.oci.image.manifest.v1+json".to_owned()),
            Self::Unreadable(header) => (400, ErrorCode::Unsupported, format!("{header}; leave them out or encode them")),
            Self::NoRoute => (404, ErrorCode::NameUnknown, "no route leads to this repository".to_owned()),
            Self::HomeDown { .. } => (503, ErrorCode::Unavailable, "the node that takes writes to this project is down; reads go on, try the write again later".to_owned()),
            Self::NewestDown { .. } => (503, ErrorCode::Unavailable, "the node that has the newest state of this tag is down, and the others may have an older one; try again in a moment, or pull by digest".to_owned()),
            Self::HomeReturning { .. } => (503, ErrorCode::Unavailable, "the node of this repository was down and is being brought up to date; try again in a moment".to_owned()),
            Self::NoMember(_) => return unavailable(StatusCode::GATEWAY_TIMEOUT, NO_MEMBER),
            Self::UnknownRepository => (404, ErrorCode::NameUnknown, UNKNOWN_NAME.to_owned()),
            Self::Member(error) => return member_refusal(error),
            Self::ManifestTooLarge(max) => (413, ErrorCode::SizeInvalid, format!("the manifest is larger than the {max} bytes that are taken here (upstream.manifest_bytes_max)")),
            Self::ClientBody => (400, ErrorCode::ManifestInvalid, "the manifest did not arrive as a whole; send it again".to_owned()),
            Self::UploadBody => (400, ErrorCode::BlobUploadInvalid, "the body did not arrive as a whole; ask for the state of the upload and go on from there".to_owned()),
            Self::NoMemory => (503, ErrorCode::Unavailable, "the gateway has too much to do; try again".to_owned()),
            Self::Internal(_) => (500, ErrorCode::Unknown, "the gateway failed; the request id is in its log".to_owned()),
            Self::BodyLate => (408, ErrorCode::Unsupported, "the body of the request did not come in time; send it again".to_owned()),
            Self::FormTooLarge(max) => (413, ErrorCode::SizeInvalid, format!("the form is larger than the {max} bytes that are taken here")),
        };
        ErrorAnswer {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            code,
            message,
        }
    }
}

fn kind_of(error: &MemberError) -> ErrorKind {
    match error {
        MemberError::Upstream(error) => match error.source {
            UpstreamFault::Timeout => ErrorKind::Timeout,
            UpstreamFault::QueueFull => ErrorKind::RateLimited,
            UpstreamFault::Io(_) | UpstreamFault::Http(_) | UpstreamFault::Credential(_) => {
                ErrorKind::Upstream
            }
        },
        MemberError::UnknownTarget { .. } | MemberError::UnknownContent { .. } => ErrorKind::Client,
        MemberError::NoCandidate
        | MemberError::Failed { .. }
        | MemberError::CredentialFault { .. }
        | MemberError::BadAnswer { .. }
        | MemberError::BrokenAnswer { .. }
        | MemberError::Corrupt { .. } => ErrorKind::Upstream,
    }
}

fn unavailable(status: StatusCode, message: &str) -> ErrorAnswer {
    ErrorAnswer { status, code: ErrorCode::Unavailable, message: message.to_owned() }
}

fn member_refusal(error: &MemberError) -> ErrorAnswer {
    let unknown = |code, message: &str| ErrorAnswer {
        status: StatusCode::NOT_FOUND,
        code,
        message: message.to_owned(),
    };
    let late = StatusCode::GATEWAY_TIMEOUT;
    match error {
        MemberError::NoCandidate | MemberError::CredentialFault { .. } => unavailable(late, NO_MEMBER),
        MemberError::Upstream(error) => match (&error.source, error.phase) {
            (UpstreamFault::QueueFull, _) => {
                unavailable(StatusCode::SERVICE_UNAVAILABLE, "the registry is overloaded; try again")
            }
            (
                UpstreamFault::Timeout
                | UpstreamFault::Io(_)
                | UpstreamFault::Http(_)
                | UpstreamFault::Credential(_),
                Phase::Head,
            ) => unavailable(late, UNFINISHED),
            (
                UpstreamFault::Timeout
                | UpstreamFault::Io(_)
                | UpstreamFault::Http(_)
                | UpstreamFault::Credential(_),
                Phase::Queue | Phase::Connect | Phase::Unsent | Phase::Credential,
            ) => unavailable(late, "no registry node could be reached; try again"),
        },
        MemberError::Failed { status, .. } => {
            let overloaded = [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS];
            let status = match *status {
                status if overloaded.contains(&status) => StatusCode::SERVICE_UNAVAILABLE,
                StatusCode::INTERNAL_SERVER_ERROR => StatusCode::INTERNAL_SERVER_ERROR,
                _ => late,
            };
            unavailable(status, "the registry node failed; try again")
        }
        MemberError::UnknownTarget { .. } => unknown(ErrorCode::NameUnknown, UNKNOWN_NAME),
        MemberError::UnknownContent { is_blob: true, .. } => {
            unknown(ErrorCode::BlobUnknown, "blob unknown to registry")
        }
        MemberError::UnknownContent { is_blob: false, .. } => {
            unknown(ErrorCode::ManifestUnknown, "manifest unknown")
        }
        MemberError::BadAnswer { .. } => {
            unavailable(late, "the registry node gave an unusable answer; try again")
        }
        MemberError::BrokenAnswer { .. } => unavailable(late, UNFINISHED),
        MemberError::Corrupt { .. } => {
            unavailable(late, "no registry node has this content intact; the gateway's log names the node")
        }
    }
}

fn parse_refusal(error: ParseError) -> ErrorAnswer {
    let status = match error {
        // docker-registry has no route for these, and clients take a 404 for "not there".
        ParseError::Route | ParseError::Name(NameError::Tag | NameError::UploadId) => StatusCode::NOT_FOUND,
        ParseError::Method => StatusCode::METHOD_NOT_ALLOWED,
        ParseError::Path
        | ParseError::Query
        | ParseError::PageSize
        | ParseError::DigestMissing
        | ParseError::Name(NameError::Repository | NameError::Digest) => StatusCode::BAD_REQUEST,
    };
    let code = if error == ParseError::Path { ErrorCode::NameInvalid } else { error.code() };
    ErrorAnswer { status, code, message: error.to_string() }
}

fn token_refusal(error: &TokenRequestError) -> ErrorAnswer {
    let (status, code) = match error {
        TokenRequestError::Malformed(_)
        | TokenRequestError::UnknownService(_)
        | TokenRequestError::TooManyScopes(_)
        | TokenRequestError::TooLarge(_)
        | TokenRequestError::UnsupportedGrant
        | TokenRequestError::Body => (StatusCode::BAD_REQUEST, ErrorCode::Unsupported),
        TokenRequestError::WrongPassword | TokenRequestError::NoCredentials => {
            (StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized)
        }
        TokenRequestError::Plaintext => (StatusCode::BAD_REQUEST, ErrorCode::Denied),
        TokenRequestError::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable),
        TokenRequestError::Key(_) => (StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Unknown),
    };
    ErrorAnswer { status, code, message: error.to_string() }
}

/// The chain of sources, for the log.
struct Causes<'a>(&'a GatewayError);

impl std::fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut source = std::error::Error::source(self.0);
        let mut first = true;
        while let Some(error) = source {
            if !first {
                f.write_str(": ")?;
            }
            first = false;
            write!(f, "{error}")?;
            source = error.source();
        }
        Ok(())
    }
}

/// The `Allow` of a path that is only read.
pub(super) const READ_ONLY: &str = "GET, HEAD";
