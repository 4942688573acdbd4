//! The configuration file: read, checked as a whole, and turned into the settings of each component.

mod convert;
mod decode;
mod document;
mod error;
mod file;
mod quick_start;
mod suggest;
mod value;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use error::{ConfigError, ConfigErrors, Fix, Snippet};
pub use quick_start::from_member_urls;

use crate::admin::AdminSettings;
use crate::auth::policy::Policy;
use crate::forwarding::hosts::Hosts;
use crate::identity::{IdentitySettings, ProviderSettings};
use crate::routing::RouteTable;
use crate::secret::SecretString;
use crate::server::{ListenerKind, ServerSettings};
use crate::telemetry::LogSettings;
use crate::token_service::{TokenSettings, UploadSettings};
use crate::upstream::{CoalesceSettings, CredentialSettings, MemberKeySource, PoolSettings, VerifySettings};

use convert::Scope;
use document::Document;

/// Largest configuration file that is read.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

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

/// Reads, resolves and checks a configuration file.
///
/// # Errors
/// Everything that is wrong, with places and remedies.
pub fn load(path: &Path) -> Result<Loaded, ConfigErrors> {
    load_scope(path, Scope::Start)
}

/// The same for a reload: the listeners' certificates are not looked into, and no other file holds up
/// what does not stand on it. `known` are the secrets in force, for files that cannot be read now.
///
/// # Errors
/// Everything that is wrong, with places and remedies.
pub fn load_for_reload(path: &Path, known: &[SecretFile]) -> Result<Loaded, ConfigErrors> {
    load_scope(path, Scope::Reload(known))
}

fn load_scope(path: &Path, scope: Scope<'_>) -> Result<Loaded, ConfigErrors> {
    let source = read_source(path).map_err(|error| {
        let problem = format!("cannot be read: {error}");
        let fix = Fix::advice(
            "name a configuration file that this user can read; `config/tidegate.yaml` is an example",
        );
        ConfigError {
            file: Some(path.to_owned()),
            line: 0,
            column: 0,
            key: String::new(),
            problem,
            fix,
            snippet: None,
        }
    })?;
    parse(path, source, scope)
}

fn read_source(path: &Path) -> std::io::Result<String> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
        return Err(std::io::Error::other("it is not a regular file of at most 4 MiB"));
    }
    std::fs::read_to_string(path)
}

fn parse(path: &Path, source: String, scope: Scope<'_>) -> Result<Loaded, ConfigErrors> {
    let document = Document::parse(path.to_owned(), source)?;
    let file: file::File =
        decode::decode(&document).map_err(|problems| ConfigErrors(document.describe(problems)))?;
    convert::convert(&file, &document, path.parent().unwrap_or_else(|| Path::new("")), scope)
}

impl Config {
    /// Connections that there can be at once, to clients and to members.
    #[must_use]
    pub fn connections_max(&self) -> u64 {
        let of_pool = |pool: &PoolSettings| pool.members.len().saturating_mul(pool.limits.connections_max);
        let upstream: usize = self.pools.iter().map(of_pool).fold(0, usize::saturating_add);
        (self.server.limits.connections_max as u64).saturating_add(upstream as u64)
    }

    /// The certificates and keys of members.
    #[must_use]
    pub fn member_files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for member in self.pools.iter().flat_map(|pool| &pool.members) {
            files.extend(member.tls.ca_file.clone());
            files.extend(
                member.tls.client_certificate.iter().flat_map(|(cert, key)| [cert.clone(), key.clone()]),
            );
            if let CredentialSettings::Token(token) = &member.credential
                && let MemberKeySource::File { key, certificate } = &token.key
            {
                files.push(key.clone());
                files.extend(certificate.clone());
            }
        }
        files
    }

    /// The files besides the configuration file whose content it stands on, each once.
    #[must_use]
    pub fn watched_files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = self.secret_files.iter().map(|file| file.path.clone()).collect();
        for listener in &self.server.listeners {
            if let ListenerKind::Tls(tls) = &listener.kind {
                files.extend(tls.certificates.iter().flat_map(|pair| [pair.cert.clone(), pair.key.clone()]));
            }
        }
        for provider in &self.identity.providers {
            if let ProviderSettings::Htpasswd { path } = provider {
                files.push(path.clone());
            }
        }
        files.extend(self.member_files());
        files.sort();
        files.dedup();
        files
    }
}

/// How the process ends on SIGTERM.
#[derive(Debug, Clone)]
pub struct ShutdownSettings {
    /// Between "not ready" and the end of accepting.
    pub lead_time: Duration,
    /// How long running requests may go on after that.
    pub grace_period: Duration,
}
