//! The authenticated client: (provider, canonical name), with groups.

use std::fmt;
use std::sync::Arc;

/// Name of the provider of clients without credentials.
pub const ANONYMOUS_PROVIDER: &str = "anonymous";

/// Characters that no account name of a configuration file may hold: they mean something in
/// patterns, scopes or headers, and would be mistaken for that by a reader of the file.
const FORBIDDEN: &[char] = &['/', '*', '?', '[', ']', '\\', '$', ':', '"', ' '];

/// Longest account name in bytes.
const NAME_BYTES_MAX: usize = 255;

/// The authenticated client. Equal when provider and name are equal.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Subject {
    provider: Arc<str>,
    name: Arc<str>,
}

/// The account name is empty, too long, or holds a control character.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an account name: 1 to 255 characters, none of them a control character")]
pub struct InvalidSubject;

impl Subject {
    /// The client without credentials.
    #[must_use]
    pub fn anonymous() -> Self {
        Self { provider: Arc::from(ANONYMOUS_PROVIDER), name: Arc::from("") }
    }

    /// A subject of a provider. The name is whatever the provider calls the account, such as
    /// `robot$team+ci` or a name with spaces; patterns and placeholders take it literally.
    ///
    /// # Errors
    /// [`InvalidSubject`] when it is empty, too long, or would break a log line.
    pub fn new(provider: &str, name: &str) -> Result<Self, InvalidSubject> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            return Err(InvalidSubject);
        }
        Ok(Self { provider: Arc::from(provider), name: Arc::from(name) })
    }

    /// The provider that knows the client.
    #[must_use]
    pub fn provider(&self) -> &str {
        &self.provider
    }

    /// The account name; empty for anonymous.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the client gave no credentials.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        &*self.provider == ANONYMOUS_PROVIDER
    }
}

/// Whether a text can be an account name of a configuration file.
#[must_use]
pub fn is_account_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && !name.chars().any(|c| c.is_control() || FORBIDDEN.contains(&c))
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_anonymous() {
            return f.write_str(ANONYMOUS_PROVIDER);
        }
        write!(f, "{}/{}", self.provider, self.name)
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
