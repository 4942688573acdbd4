//! A whole configuration, as the components take it.

use std::path::PathBuf;
use std::time::Duration;

use super::error::ConfigError;
use crate::admin::AdminSettings;
use crate::auth::policy::Policy;
use crate::forwarding::hosts::Hosts;
use crate::identity::IdentitySettings;
use crate::routing::RouteTable;
use crate::secret::SecretString;
use crate::server::ServerSettings;
use crate::telemetry::LogSettings;
use crate::token_service::{TokenSettings, UploadSettings};
use crate::upstream::{CoalesceSettings, PoolSettings, VerifySettings};

/// A whole configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// The names under which clients may address the gateway.
    pub hosts: Hosts,
    /// Listeners and connection limits.
    pub server: ServerSettings,
    /// The admin listener.
    pub admin: Option<AdminSettings>,
    /// Client tokens.
    pub tokens: TokenSettings,
    /// Upload pins.
    pub uploads: UploadSettings,
    /// Identity providers.
    pub identity: IdentitySettings,
    /// Who may do what.
    pub policy: Policy,
    /// The pools, in file order.
    pub pools: Vec<PoolSettings>,
    /// Which pool a repository goes to.
    pub routes: RouteTable,
    /// How content is verified on its way.
    pub verify: VerifySettings,
    /// How reads of the same are shared.
    pub coalesce: CoalesceSettings,
    /// Logs.
    pub log: LogSettings,
    /// How the process ends.
    pub shutdown: ShutdownSettings,
    /// How often files are looked at for changes.
    pub reload_interval: Duration,
    /// The files of secrets given as `{ file: PATH }`; their content is already in the settings.
    pub secret_files: Vec<SecretFile>,
}

/// A file that holds a secret.
#[derive(Debug, Clone)]
pub struct SecretFile {
    /// Where it is.
    pub path: PathBuf,
    /// What it held when it was last read.
    pub secret: SecretString,
}

/// A configuration that can be used, and what is questionable in it.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What is probably not meant as it is written.
    pub warnings: Vec<ConfigError>,
    /// Other files that cannot be used, for a reload: each holds up its own section alone.
    pub refused: Vec<ConfigError>,
}

/// How the process ends on SIGTERM.
#[derive(Debug, Clone, PartialEq)]
pub struct ShutdownSettings {
    /// Between "not ready" and the end of accepting.
    pub lead_time: Duration,
    /// How long running requests may go on after that.
    pub grace_period: Duration,
}
