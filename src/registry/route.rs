//! Kinds of routes, for metrics and logs.

/// The kind of a request, a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[expect(missing_docs, reason = "each is the request of its name")]
pub enum RouteKind {
    Ping,
    Catalog,
    Tags,
    Referrers,
    Manifest,
    Blob,
    UploadStart,
    Upload,
    Token,
    Keys,
    Page,
    Api,
    #[default]
    Other,
}

impl RouteKind {
    /// Every kind.
    pub const ALL: [Self; 13] = [
        Self::Ping,
        Self::Catalog,
        Self::Tags,
        Self::Referrers,
        Self::Manifest,
        Self::Blob,
        Self::UploadStart,
        Self::Upload,
        Self::Token,
        Self::Keys,
        Self::Page,
        Self::Api,
        Self::Other,
    ];

    /// The label value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Catalog => "catalog",
            Self::Tags => "tags",
            Self::Referrers => "referrers",
            Self::Manifest => "manifest",
            Self::Blob => "blob",
            Self::UploadStart => "upload_start",
            Self::Upload => "upload",
            Self::Token => "token",
            Self::Keys => "keys",
            Self::Page => "page",
            Self::Api => "api",
            Self::Other => "other",
        }
    }
}
