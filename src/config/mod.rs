//! The configuration file: read, checked as a whole, and turned into the settings of each component.

use std::time::Duration;

use crate::admin::AdminSettings;
use crate::auth::policy::Policy;
use crate::forwarding::hosts::Hosts;
use crate::identity::IdentitySettings;
use crate::routing::RouteTable;
use crate::server::ServerSettings;
use crate::telemetry::LogSettings;
use crate::token_service::{TokenSettings, UploadSettings};
use crate::upstream::PoolSettings;

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
    /// Logs.
    pub log: LogSettings,
    /// How the process ends.
    pub shutdown: ShutdownSettings,
    /// How often files are looked at for changes.
    pub reload_interval: Duration,
}

/// How the process ends on SIGTERM.
#[derive(Debug, Clone)]
pub struct ShutdownSettings {
    /// Between "not ready" and the end of accepting.
    pub lead_time: Duration,
    /// How long running requests may go on after that.
    pub grace_period: Duration,
}
