//! The configuration file: read, checked as a whole, and turned into the settings of each component.

mod constant;
mod convert;
mod decode;
mod document;
mod error;
mod file;
mod quick_start;
mod settings;
mod suggest;
mod value;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use error::{ConfigError, ConfigErrors, Fix, Snippet};
pub use quick_start::from_member_urls;
pub use settings::{Config, Loaded, SecretFile, ShutdownSettings};

use crate::identity::ProviderSettings;
use crate::server::ListenerKind;
use crate::upstream::{CredentialSettings, MemberKeySource, PoolSettings};

use convert::Scope;
use document::Document;

/// Largest configuration file that is read.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

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
