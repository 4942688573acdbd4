//! What can be set of identity providers.

use std::path::PathBuf;
use std::time::Duration;

/// The provider chain and its bounds.
#[derive(Debug, Clone, PartialEq)]
pub struct IdentitySettings {
    /// The providers, asked in this order.
    pub providers: Vec<ProviderSettings>,
    /// Bounds on password checks.
    pub limits: VerifyLimits,
}

/// One provider.
#[derive(Debug, Clone, PartialEq)]
pub enum ProviderSettings {
    /// Users in the configuration file. Its name is `users`.
    Users(Vec<UserSettings>),
    /// An htpasswd file with bcrypt entries, re-read when it changes. Its name is `htpasswd`.
    Htpasswd {
        /// The file.
        path: PathBuf,
    },
    /// The nodes of a Harbor pool are asked about every name that no provider before knows. Its name is `harbor`.
    Harbor(HarborProviderSettings),
}

/// How Harbor nodes are asked about accounts.
#[derive(Debug, Clone, PartialEq)]
pub struct HarborProviderSettings {
    /// Index of the pool whose nodes are asked.
    pub pool: usize,
    /// A question is answered within this, whatever the nodes do; docker waits 15 s.
    pub timeout: Duration,
    /// One node is given this long.
    pub try_timeout: Duration,
    /// After a wrong password the next unknown one of the same name and source waits this long.
    pub wrong_pause: Duration,
    /// Unknown passwords of one source that are tried at once, over all names; more wait.
    pub per_source_max: usize,
    /// Whether an account that the home of a project does not know may do there what another node
    /// without a common database grants it.
    pub foreign_accounts: bool,
}

/// One user of the configuration file.
#[derive(Debug, Clone, PartialEq)]
pub struct UserSettings {
    /// The account name.
    pub name: String,
    /// bcrypt hash of the password, as `tidegate hash-password` prints it.
    pub password_hash: String,
    /// The user's groups.
    pub groups: Vec<String>,
}

/// Bounds on password checks.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifyLimits {
    /// Password checks at once; one per core by default.
    pub concurrency: usize,
    /// Password checks that may wait; more are answered 503.
    pub queue_max: usize,
    /// How long a successful check is remembered.
    pub success_ttl: Duration,
    /// How long a failed check is remembered.
    pub failure_ttl: Duration,
}
