//! Where a client gets its tokens, as a challenge names it.

use crate::token_service::TOKEN_PATHS;

/// The token endpoint under the host that a client came to.
#[derive(Debug, Clone, Copy)]
pub struct Realm<'a> {
    /// Whether the client sees https.
    pub https: bool,
    /// Host and port, as the client wrote them.
    pub authority: &'a str,
    /// The `service` of its tokens.
    pub service: &'a str,
}

impl Realm<'_> {
    /// The URL of the token endpoint.
    pub(super) fn url(&self) -> String {
        let scheme = if self.https { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority, TOKEN_PATHS[0])
    }
}
