//! Reload on SIGHUP and on change of the files: users, policy, keys and certificates. What is
//! broken is refused as a whole and what was in force stays.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;

use crate::auth::keys::{Ring, SigningKey};
use crate::auth::token::ClientTokens;
use crate::config::{self, Config};
use crate::identity::{Identity, IdentityError, IdentitySettings, ProviderSettings};
use crate::key_store::{self, KeyStoreError, Retention};
use crate::secret::ExposeSecret as _;
use crate::server::Certificates;
use crate::snapshot::Snapshot;
use crate::telemetry::{CertificateLabel, Metrics, ReloadResult};
use crate::upstream::{AccountSettings, CredentialSettings, MemberKind, MemberSettings};

/// Why the new state is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The configuration file is broken.
    #[error("{0}")]
    Config(#[from] config::ConfigErrors),
    /// A file of a provider is broken.
    #[error("{0}")]
    Identity(#[from] IdentityError),
    /// A key file is broken, or there is none.
    #[error("{0}")]
    Keys(#[from] KeyStoreError),
}

/// What a reload changes, and from where.
pub struct Reloader {
    /// The configuration file; `None` where the process runs without one.
    pub path: Option<PathBuf>,
    /// The configuration in force.
    pub config: Config,
    /// Identities, policy and keys in force.
    pub state: Arc<ArcSwap<Snapshot>>,
    /// The member keys in force.
    pub member_ring: Arc<ArcSwap<Ring<SigningKey>>>,
    /// The certificates of every TLS listener.
    pub certificates: Vec<Arc<Certificates>>,
    /// Where reloads are counted.
    pub metrics: Arc<Metrics>,
    seen: Fingerprint,
}

/// Files with their times and sizes.
pub type Fingerprint = Vec<(PathBuf, Option<SystemTime>, u64)>;

/// Builds identities, policy and keys from a configuration.
///
/// # Errors
/// [`ReloadError`], naming the file.
pub fn build_state(config: &Config, generation: u64) -> Result<(Snapshot, Ring<SigningKey>), ReloadError> {
    let identity = Identity::build(&config.identity.providers)?;
    let keys = key_store::load(&config.tokens.keys, &config.uploads.seal_keys, retention(config))?;
    let (issuer, audience) = (config.tokens.issuer.clone(), config.tokens.service.clone());
    let tokens = ClientTokens::new(keys.client, issuer, audience);
    let entries_max = config.tokens.cache_entries_max;
    let mut snapshot = Snapshot::new(identity, config.policy.clone(), (tokens, keys.seal), entries_max);
    snapshot.generation = generation;
    snapshot.revocations = key_store::revocations(&config.tokens.keys)?;
    Ok((snapshot, keys.member))
}

/// How long old keys are of use with these settings.
#[must_use]
pub fn retention(config: &Config) -> Retention {
    let grace = config.uploads.grace.as_secs();
    let token = config.tokens.lifetime.as_secs() + config.tokens.expiry_margin.as_secs();
    // Passwords are sealed for as long as their token counts, pins for the grace.
    Retention { client: token + grace, seal: token + grace }
}

impl Reloader {
    /// Watches for what differs from `seen`, which was taken before the state was built.
    #[must_use]
    pub fn new(
        path: Option<PathBuf>,
        config: Config,
        (state, member_ring): (Arc<ArcSwap<Snapshot>>, Arc<ArcSwap<Ring<SigningKey>>>),
        certificates: Vec<Arc<Certificates>>,
        (metrics, seen): (Arc<Metrics>, Fingerprint),
    ) -> Self {
        let reloader = Self { path, config, state, member_ring, certificates, metrics, seen };
        reloader.publish_expiries();
        reloader
    }

    /// Reloads if any file has changed since the last look.
    pub fn reload_if_changed(&mut self) {
        if self.fingerprint() != self.seen {
            self.reload();
        }
    }

    /// Reloads, and says how it went. Certificates and the rest do not wait for each other.
    pub fn reload(&mut self) {
        // Before anything is read: what changes meanwhile is seen at the next look.
        let seen = self.fingerprint();
        self.warn_of_member_files(&seen);
        self.reload_certificates();
        match self.reload_state() {
            Ok(generation) => {
                self.metrics.count_reload(ReloadResult::Applied);
                self.metrics.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
                tracing::info!(generation, "reloaded");
            }
            Err(error) => {
                self.metrics.count_reload(ReloadResult::Refused);
                tracing::error!(error = %error, "reload refused: what was in force stays");
            }
        }
        self.seen = seen;
    }

    /// Names changed files that are read at start only.
    fn warn_of_member_files(&self, now: &Fingerprint) {
        let at_start = self.config.member_files();
        for (path, ..) in now.iter().filter(|entry| at_start.contains(&entry.0) && !self.seen.contains(entry))
        {
            tracing::warn!(path = %path.display(), "this file of a member has changed; restart to apply it");
        }
    }

    fn reload_state(&mut self) -> Result<u64, ReloadError> {
        let config = match &self.path {
            Some(path) => config::load_for_reload(path)?.config,
            None => self.config.clone(),
        };
        let (identity, harbor_changed) = with_running_harbor(&self.config.identity, config.identity.clone());
        let generation = self.state.load().generation + 1;
        let (snapshot, member_ring) = build_state(
            &Config { policy: config.policy.clone(), identity: identity.clone(), ..self.config.clone() },
            generation,
        )?;
        let harbor = harbor_changed.then_some("identity: harbor");
        for changed in restart_only_changes(&self.config, &config).into_iter().chain(harbor) {
            tracing::warn!(
                section = changed,
                "this section of the configuration has changed; restart to apply it"
            );
        }
        self.state.store(Arc::new(snapshot));
        self.member_ring.store(Arc::new(member_ring));
        self.config.policy = config.policy;
        self.config.identity = identity;
        Ok(generation)
    }

    fn reload_certificates(&self) {
        for certificates in &self.certificates {
            if let Err(error) = certificates.reload() {
                self.metrics.count_reload(ReloadResult::Refused);
                tracing::error!(error = %error, "certificate refused: the one in use stays");
            }
        }
        self.publish_expiries();
    }

    fn publish_expiries(&self) {
        for (name, expires_at) in self.certificates.iter().flat_map(|certificates| certificates.expiries()) {
            self.metrics.set_certificate_expiry(&CertificateLabel(name), expires_at);
        }
    }

    fn fingerprint(&self) -> Fingerprint {
        fingerprint(self.path.as_deref(), &self.config)
    }
}

/// What the state is built from: every file with its time and size.
#[must_use]
pub fn fingerprint(path: Option<&Path>, config: &Config) -> Fingerprint {
    let mut files = config.watched_files();
    files.extend(path.map(Path::to_owned));
    let mut seen: Fingerprint = files.into_iter().map(|path| stat(&path)).collect();
    seen.extend(key_store::fingerprint(&[&config.tokens.keys, &config.uploads.seal_keys]));
    seen
}

fn stat(path: &Path) -> (PathBuf, Option<SystemTime>, u64) {
    let metadata = std::fs::metadata(path).ok();
    let modified = metadata.as_ref().and_then(|metadata| metadata.modified().ok());
    (path.to_owned(), modified, metadata.map_or(0, |metadata| metadata.len()))
}

/// The new providers, but for Harbor's: it stands on a pool, and pools are made at start. Whether
/// that was changed.
fn with_running_harbor(old: &IdentitySettings, mut new: IdentitySettings) -> (IdentitySettings, bool) {
    let is_harbor = |provider: &ProviderSettings| matches!(provider, ProviderSettings::Harbor(_));
    let harbor = |settings: &IdentitySettings| settings.providers.iter().find(|it| is_harbor(it)).cloned();
    let (running, wanted) = (harbor(old), harbor(&new));
    new.providers.retain(|provider| !is_harbor(provider));
    let changed = format!("{running:?}") != format!("{wanted:?}");
    new.providers.extend(running);
    (new, changed)
}

/// The sections that differ and are only read at start.
fn restart_only_changes(old: &Config, new: &Config) -> Vec<&'static str> {
    let differs =
        |old: &dyn std::fmt::Debug, new: &dyn std::fmt::Debug| format!("{old:?}") != format!("{new:?}");
    [
        ("external_url, hosts", differs(&old.hosts, &new.hosts)),
        ("listeners, limits", differs(&old.server, &new.server)),
        ("admin", differs(&old.admin, &new.admin)),
        ("tokens", differs(&old.tokens, &new.tokens)),
        ("uploads", differs(&old.uploads, &new.uploads)),
        ("pools", differs(&old.pools, &new.pools) || passwords(old) != passwords(new)),
        ("password_checks", differs(&old.identity.limits, &new.identity.limits)),
        ("reload_interval", old.reload_interval != new.reload_interval),
        ("routes", differs(&old.routes, &new.routes)),
        ("coalesce", differs(&old.coalesce, &new.coalesce)),
        ("verify", differs(&old.verify, &new.verify)),
        ("log", differs(&old.log, &new.log)),
        ("shutdown", differs(&old.shutdown, &new.shutdown)),
    ]
    .into_iter()
    .filter_map(|(section, changed)| changed.then_some(section))
    .collect()
}

/// The members' passwords, which `Debug` does not tell apart.
fn passwords(config: &Config) -> Vec<&str> {
    let members = config.pools.iter().flat_map(|pool| &pool.members);
    fn of_member(member: &MemberSettings) -> impl Iterator<Item = &AccountSettings> {
        let own = match &member.credential {
            CredentialSettings::Basic(account) => Some(account),
            CredentialSettings::None
            | CredentialSettings::Token(_)
            | CredentialSettings::Exchange
            | CredentialSettings::Relay => None,
        };
        let node = match &member.kind {
            MemberKind::Harbor(harbor) => [Some(&harbor.account), Some(&harbor.catalog_account)],
            MemberKind::Registry => [None, None],
        };
        own.into_iter().chain(node.into_iter().flatten())
    }
    members.flat_map(of_member).map(|account| account.password.expose_secret()).collect()
}
