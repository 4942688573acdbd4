//! Why requests are refused, and OCI error bodies (distribution-spec 1.1 "Error codes").

use serde_json::json;

use super::name::NameError;

/// The codes that this gateway answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    /// Credentials are missing or wrong.
    Unauthorized,
    /// The subject lacks the right.
    Denied,
    /// The request cannot be understood or is not served here.
    Unsupported,
    /// The repository name breaks the grammar.
    NameInvalid,
    /// The digest breaks the grammar or does not match.
    DigestInvalid,
    /// The tag breaks the grammar.
    TagInvalid,
    /// The manifest cannot be taken.
    ManifestInvalid,
    /// There is no such manifest.
    ManifestUnknown,
    /// There is no such blob.
    BlobUnknown,
    /// The upload session is of another member, subject or repository, or broken.
    BlobUploadInvalid,
    /// There is no such upload session any more: start over.
    BlobUploadUnknown,
    /// There is no such repository or route.
    NameUnknown,
    /// `n` is not a number.
    PaginationNumberInvalid,
    /// The body or a part of it is larger than configured.
    SizeInvalid,
    /// Too many requests of this kind.
    TooManyRequests,
    /// No member can serve now.
    Unavailable,
    /// Something failed that the client did not cause.
    Unknown,
}

impl ErrorCode {
    /// The code as it stands in the body.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Denied => "DENIED",
            Self::Unsupported => "UNSUPPORTED",
            Self::NameInvalid => "NAME_INVALID",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::TagInvalid => "TAG_INVALID",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::PaginationNumberInvalid => "PAGINATION_NUMBER_INVALID",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// An error body with one entry; `detail` carries the request id that is also in the log.
#[must_use]
pub fn error_body(code: ErrorCode, message: &str, request_id: &str) -> Vec<u8> {
    let body = json!({"errors": [{
        "code": code.as_str(),
        "message": message,
        "detail": {"request_id": request_id},
    }]});
    body.to_string().into_bytes()
}

/// Why a request under `/v2` was refused before any member was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The path has an encoding or segment that could mean two things.
    #[error(
        "the path is not canonical: encoded slashes, dots, empty segments and non-ASCII bytes are refused"
    )]
    Path,
    /// No route of the distribution-spec.
    #[error("no such route")]
    Route,
    /// The route exists, but not with this method.
    #[error("the method is not allowed here")]
    Method,
    /// A name, tag or digest breaks its grammar.
    #[error("{0}")]
    Name(#[from] NameError),
    /// The query repeats a parameter, has too many, or is not UTF-8.
    #[error("the query repeats a parameter or cannot be decoded")]
    Query,
    /// `n` is not a whole number.
    #[error("the page size is not a number")]
    PageSize,
    /// A PUT on an upload session without its digest.
    #[error("the digest parameter is missing")]
    DigestMissing,
}

impl ParseError {
    /// The code for the error body.
    #[must_use]
    pub fn code(self) -> ErrorCode {
        match self {
            Self::Path | Self::Route => ErrorCode::NameUnknown,
            Self::Method | Self::Query => ErrorCode::Unsupported,
            Self::PageSize => ErrorCode::PaginationNumberInvalid,
            Self::DigestMissing | Self::Name(NameError::Digest) => ErrorCode::DigestInvalid,
            Self::Name(NameError::Repository) => ErrorCode::NameInvalid,
            Self::Name(NameError::Tag) => ErrorCode::TagInvalid,
            Self::Name(NameError::UploadId) => ErrorCode::BlobUploadUnknown,
        }
    }
}
