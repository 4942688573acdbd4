//! How the gateway authenticates itself to one member.

mod asking;
mod error;
mod minted;

use http::HeaderValue;

pub use asking::{Asking, Authorization, MemberAccess};
pub use error::CredentialError;
pub(super) use minted::probe_subject;
pub use minted::{MemberKeys, TokenCredential};

use super::harbor::basic;
use super::settings::CredentialSettings;
use crate::auth::keys::KeyError;

/// The credential of one member.
#[derive(Debug)]
pub enum Credential {
    /// None: a trusted network.
    None,
    /// A service account, as a ready header.
    Basic(HeaderValue),
    /// Tokens that we mint.
    Token(Box<TokenCredential>),
    /// Tokens that the Harbor node gives for the client's password.
    Exchange,
    /// The client's own password.
    Relay,
}

impl Credential {
    /// Builds the credential of a member. `keys` is given for [`CredentialSettings::Token`]; `entries_max` bounds the
    /// minted tokens that are remembered.
    ///
    /// # Errors
    /// [`KeyError`] when a token credential comes without keys.
    pub fn build(
        settings: &CredentialSettings,
        keys: Option<MemberKeys>,
        entries_max: u64,
        for_harbor: bool,
    ) -> Result<Self, KeyError> {
        match settings {
            CredentialSettings::None => Ok(Self::None),
            CredentialSettings::Exchange => Ok(Self::Exchange),
            CredentialSettings::Relay => Ok(Self::Relay),
            CredentialSettings::Basic(account) => {
                Ok(Self::Basic(basic(account).ok_or(KeyError::Unsupported)?))
            }
            CredentialSettings::Token(token) => {
                let keys = keys.ok_or(KeyError::Unsupported)?;
                Ok(Self::Token(Box::new(TokenCredential::new(token, keys, entries_max, for_harbor))))
            }
        }
    }

    /// Whether there is one at all.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// Whether the credential says what it is for, so that a refusal of a good one is about the
    /// target.
    #[must_use]
    pub fn names_target(&self) -> bool {
        matches!(self, Self::Token(_) | Self::Exchange)
    }
}
