//! Reload on SIGHUP and on change of the files: users, policy, keys, certificates, pools, members
//! and routes. What is broken is refused as a whole and what was in force stays.

mod members;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use crate::auth::keys::{Ring, SigningKey};
use crate::auth::token::ClientTokens;
use crate::config::{self, Config};
use crate::identity::{Identity, IdentityError, IdentitySettings, ProviderSettings};
use crate::key_store::{self, KeyStoreError, Retention};
use crate::proxy::Gateway;
use crate::server::{Certificates, raise_descriptor_limit};
use crate::snapshot::Snapshot;
use crate::telemetry::{CertificateLabel, ReloadResult};
use crate::upstream::BuildError;

pub use members::Members;

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
    /// A member cannot be built.
    #[error("{0}")]
    Members(#[from] BuildError),
    /// The pool that identities stand on is not there any more.
    #[error(
        "the pool that `identity: - harbor:` names at start is not in the file any more; restart to have another"
    )]
    HarborPoolGone,
}

/// What a reload changes, and from where.
pub struct Reloader {
    /// The configuration file; `None` where the process runs without one.
    pub path: Option<PathBuf>,
    /// The configuration in force.
    pub config: Config,
    /// Identities, policy and keys, pools and routes, in force for the request path.
    pub gateway: Arc<Gateway>,
    /// The member keys in force.
    pub member_ring: Arc<ArcSwap<Ring<SigningKey>>>,
    /// The certificates of every TLS listener.
    pub certificates: Vec<Arc<Certificates>>,
    /// The members and their probers.
    pub members: Members,
    /// The files as they were before the state in force was built.
    pub seen: Fingerprint,
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
    /// Probes the members, watches the files, and reloads when they change or somebody asks for it.
    /// Never returns unless a prober ends, which none does.
    pub async fn run(mut self, asked: Arc<Notify>) -> String {
        self.publish_expiries();
        let mut poll = tokio::time::interval(self.config.reload_interval);
        loop {
            tokio::select! {
                () = asked.notified() => self.reload().await,
                _ = poll.tick() => self.reload_if_changed().await,
                ended = self.members.prober_ended() => return ended,
            }
        }
    }

    /// Reloads if any file has changed since the last look.
    async fn reload_if_changed(&mut self) {
        if self.fingerprint() != self.seen {
            self.reload().await;
        }
    }

    /// Reloads, and says how it went. Certificates and the rest do not wait for each other.
    async fn reload(&mut self) {
        // Before anything is read: what changes meanwhile is seen at the next look.
        let seen = self.fingerprint();
        self.reload_certificates();
        match self.reload_state(seen.clone()).await {
            Ok((generation, seen)) => {
                self.gateway.metrics.count_reload(ReloadResult::Applied);
                self.gateway.metrics.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
                self.seen = seen;
                tracing::info!(generation, "reloaded");
            }
            Err(error) => {
                self.gateway.metrics.count_reload(ReloadResult::Refused);
                self.seen = seen;
                tracing::error!(error = %error, "reload refused: what was in force stays");
            }
        }
    }

    /// Builds everything anew, and only then lets it come into force.
    async fn reload_state(&mut self, mut seen: Fingerprint) -> Result<(u64, Fingerprint), ReloadError> {
        let mut wanted = self.load()?;
        let (mut config, mut harbor_changed) = self.with_running_parts(&wanted);
        let now_watched = fingerprint(self.path.as_deref(), &config);
        if !now_watched.iter().map(|file| &file.0).eq(seen.iter().map(|file| &file.0)) {
            // It names other files: they are to be read after their times.
            seen = now_watched;
            wanted = self.load()?;
            (config, harbor_changed) = self.with_running_parts(&wanted);
        }
        let generation = self.gateway.state.load().generation + 1;
        let (snapshot, member_ring) = build_state(&config, generation)?;
        let topology = self.members.prepare(&config).await?;
        let harbor = harbor_changed.then_some("identity: harbor");
        for changed in restart_only_changes(&self.config, &wanted).into_iter().chain(harbor) {
            tracing::warn!(
                section = changed,
                "this section of the configuration has changed; restart to apply it"
            );
        }
        raise_descriptor_limit(config.connections_max());
        self.member_ring.store(Arc::new(member_ring));
        self.gateway.state.store(Arc::new(snapshot));
        self.members.apply(topology, self.gateway.tokens.logins());
        self.config = config;
        Ok((generation, seen))
    }

    fn load(&self) -> Result<Config, ReloadError> {
        match &self.path {
            Some(path) => Ok(config::load_for_reload(path)?.config),
            None => Ok(self.config.clone()),
        }
    }

    /// What is wanted where it can be had without a restart, else what runs; and whether Harbor as
    /// a provider of identities was changed, which cannot.
    fn with_running_parts(&self, wanted: &Config) -> (Config, bool) {
        let (identity, harbor_changed) = with_running_harbor(&self.config, wanted);
        let config = Config {
            policy: wanted.policy.clone(),
            identity: IdentitySettings { limits: self.config.identity.limits.clone(), ..identity },
            pools: wanted.pools.clone(),
            routes: wanted.routes.clone(),
            secret_files: wanted.secret_files.clone(),
            ..self.config.clone()
        };
        (config, harbor_changed)
    }

    fn reload_certificates(&self) {
        for certificates in &self.certificates {
            if let Err(error) = certificates.reload() {
                self.gateway.metrics.count_reload(ReloadResult::Refused);
                tracing::error!(error = %error, "certificate refused: the one in use stays");
            }
        }
        self.publish_expiries();
    }

    fn publish_expiries(&self) {
        for (name, expires_at) in self.certificates.iter().flat_map(|certificates| certificates.expiries()) {
            self.gateway.metrics.set_certificate_expiry(&CertificateLabel(name), expires_at);
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

/// The new providers, but for Harbor's, which stands on what is made at start: its pool is known by
/// its name, and may have another place and other members. Whether anything else of it was changed.
fn with_running_harbor(old: &Config, new: &Config) -> (IdentitySettings, bool) {
    let is_harbor = |provider: &ProviderSettings| matches!(provider, ProviderSettings::Harbor(_));
    let harbor = |config: &Config| {
        config.identity.providers.iter().find_map(|provider| match provider {
            ProviderSettings::Harbor(settings) => {
                Some((settings.clone(), config.pools.get(settings.pool).map(|pool| pool.name.clone())))
            }
            ProviderSettings::Users(_) | ProviderSettings::Htpasswd { .. } => None,
        })
    };
    let (mut running, wanted) = (harbor(old), harbor(new));
    if let (Some((running, name)), Some((wanted, wanted_name))) = (&mut running, &wanted)
        && name == wanted_name
    {
        running.pool = wanted.pool;
    }
    let changed = format!("{running:?}") != format!("{wanted:?}");
    let mut identity = new.identity.clone();
    identity.providers.retain(|provider| !is_harbor(provider));
    identity.providers.extend(running.map(|(settings, _)| ProviderSettings::Harbor(settings)));
    (identity, changed)
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
        ("password_checks", differs(&old.identity.limits, &new.identity.limits)),
        ("reload_interval", old.reload_interval != new.reload_interval),
        ("coalesce", differs(&old.coalesce, &new.coalesce)),
        ("verify", differs(&old.verify, &new.verify)),
        ("log", differs(&old.log, &new.log)),
        ("shutdown", differs(&old.shutdown, &new.shutdown)),
    ]
    .into_iter()
    .filter_map(|(section, changed)| changed.then_some(section))
    .collect()
}
