//! The one challenge that clients see (RFC 6750 3, distribution token spec).

use std::fmt::Write as _;

use crate::registry::ResourceAccess;

/// Why a challenge is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChallengeReason {
    /// No credentials came; such a challenge has no `error`.
    NoCredentials,
    /// The token or password is wrong, expired or revoked.
    InvalidToken,
    /// The right is missing.
    InsufficientScope,
}

impl ChallengeReason {
    fn error(self) -> Option<&'static str> {
        match self {
            Self::NoCredentials => None,
            Self::InvalidToken => Some("invalid_token"),
            Self::InsufficientScope => Some("insufficient_scope"),
        }
    }
}

/// The value of `WWW-Authenticate`. All parameters are quoted; `scope` is left out where nothing
/// is asked for.
#[must_use]
pub fn challenge(realm: &str, service: &str, wanted: &[ResourceAccess], reason: ChallengeReason) -> String {
    let mut value = format!("Bearer realm=\"{realm}\",service=\"{service}\"");
    for (at, access) in wanted.iter().enumerate() {
        let start = if at == 0 { ",scope=\"" } else { " " };
        write!(value, "{start}{access}").expect("writing to a String cannot fail");
    }
    if !wanted.is_empty() {
        value.push('"');
    }
    if let Some(error) = reason.error() {
        write!(value, ",error=\"{error}\"").expect("writing to a String cannot fail");
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::parse_scopes;

    #[test]
    fn challenges_name_the_scope_and_the_error() {
        let two = parse_scopes(["repository:a:pull,push repository:b:pull"], 9).expect("two");
        for (wanted, reason, expected) in [
            (&[][..], ChallengeReason::NoCredentials, r#"Bearer realm="R",service="S""#),
            (
                &two[..],
                ChallengeReason::NoCredentials,
                r#"Bearer realm="R",service="S",scope="repository:a:pull,push repository:b:pull""#,
            ),
            (
                &two[1..],
                ChallengeReason::InsufficientScope,
                r#"Bearer realm="R",service="S",scope="repository:b:pull",error="insufficient_scope""#,
            ),
            (&[][..], ChallengeReason::InvalidToken, r#"Bearer realm="R",service="S",error="invalid_token""#),
        ] {
            assert_eq!(challenge("R", "S", wanted, reason), expected);
        }
    }
}
