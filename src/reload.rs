//! Reload on SIGHUP and on change of the files: users, policy, keys, certificates, pools, members
//! and routes. A broken configuration file changes nothing; a section whose other files cannot be
//! used stays as it is while the rest comes into force. What was refused is tried until it works.

mod fingerprint;
mod members;
mod state;

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc};

use crate::admin::{RefusedSection, ReloadAsker, Reloads};
use crate::auth::keys::{Ring, SigningKey};
use crate::config::{self, Config, ConfigError, ConfigErrors, Loaded};
use crate::identity::{IdentitySettings, ProviderSettings};
use crate::key_store;
use crate::proxy::GatewayState;
use crate::server::{Certificates, raise_descriptor_limit};
use crate::telemetry::{CertificateLabel, ReloadResult};
use crate::upstream::Topology;
use state::{State, rebuild_state};

pub use fingerprint::Fingerprint;
pub use members::{Members, MembersError};
pub use state::{StateError, build_state, retention};

/// The certificates of listeners, as a section.
const CERTIFICATES: &str = "certificates";

/// What a reload changes, and from where.
pub struct Reloader {
    /// The configuration file; `None` where the process runs without one.
    pub path: Option<PathBuf>,
    /// The configuration in force.
    pub config: Config,
    /// Identities, policy and keys, pools and routes, in force for the request path.
    pub state: GatewayState,
    /// The member keys in force.
    pub member_ring: Arc<ArcSwap<Ring<SigningKey>>>,
    /// The certificates of every TLS listener.
    pub certificates: Vec<Arc<Certificates>>,
    /// The members and their probers.
    pub members: Members,
    /// The files as they were before the state in force was built.
    pub seen: Fingerprint,
    /// Where reloads are asked for, and where it is told what was refused.
    pub reloads: Arc<Reloads>,
}

/// Why it is looked at the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// It was asked for, or a file has changed.
    News,
    /// The last time something was refused, and it may work now.
    Again,
}

/// What can come into force, all of it.
struct Attempt {
    /// What the file says.
    wanted: Config,
    /// The same, with what runs in the place of what needs a restart.
    config: Config,
    harbor_changed: bool,
    state: State,
    /// `None` where the members stay as they are.
    topology: Option<Topology>,
    seen: Fingerprint,
}

impl Reloader {
    /// Probes the members, watches the files, and reloads when they change or it is asked for.
    /// Never returns unless a prober ends, which none does.
    pub async fn run(mut self, hangup: Arc<Notify>, mut asks: mpsc::Receiver<ReloadAsker>) -> String {
        self.publish_expiries();
        let mut poll = tokio::time::interval(self.config.reload_interval);
        loop {
            tokio::select! {
                () = hangup.notified() => self.reload(Reason::News).await,
                Some(asker) = asks.recv() => {
                    self.reload(Reason::News).await;
                    // A caller that has hung up meanwhile needs no word.
                    asker.send(()).unwrap_or(());
                }
                _ = poll.tick() => self.look().await,
                ended = self.members.prober_ended() => return ended,
            }
        }
    }

    /// Reloads if any file has changed since the last look, or if something was refused then: what
    /// was in the way may be gone without a trace in the files.
    async fn look(&mut self) {
        if self.seen.again() != self.seen {
            self.reload(Reason::News).await;
        } else if !self.reloads.refused().is_empty() {
            self.reload(Reason::Again).await;
        }
    }

    /// Reloads, and says how it went. No section waits for another one.
    async fn reload(&mut self, reason: Reason) {
        // Before anything is read: what changes meanwhile is seen at the next look.
        let seen = self.seen.again();
        let mut refused = self.reload_certificates();
        let attempt = self.attempt(seen.clone(), &mut refused).await;
        if !refused.is_empty() {
            self.state.observers.metrics.count_reload(ReloadResult::Refused);
        }
        if reason == Reason::Again && refused == *self.reloads.refused() {
            return;
        }
        tell(&refused);
        self.reloads.note(refused);
        match attempt {
            Some(attempt) => self.apply(attempt),
            None => self.seen = seen,
        }
    }

    /// Builds everything anew. What cannot be built is added to `refused` and stays as it is.
    async fn attempt(&self, mut seen: Fingerprint, refused: &mut Vec<RefusedSection>) -> Option<Attempt> {
        let load = || {
            let loaded = match &self.path {
                Some(path) => config::load_for_reload(path, &self.config.secret_files)?,
                None => Loaded { config: self.config.clone(), warnings: Vec::new(), refused: Vec::new() },
            };
            let (config, harbor_changed) = self.with_running_parts(&loaded.config);
            Ok::<_, ConfigErrors>((loaded, config, harbor_changed))
        };
        let mut loaded = load();
        if let Ok((_, config, _)) = &loaded
            && !seen.is_of(self.path.as_deref(), config)
        {
            // It names other files: they are to be read after their times.
            seen = Fingerprint::of(self.path.as_deref(), config);
            loaded = load();
        }
        let (loaded, config, harbor_changed) = match loaded {
            Ok(loaded) => loaded,
            Err(errors) => {
                refused.push(RefusedSection::new("configuration", &errors));
                return None;
            }
        };
        refused.extend(loaded.refused.iter().map(|error| RefusedSection::new(section_of(error), error)));
        let state = rebuild_state(&config, &self.state.snapshot.load(), refused);
        let topology = self.members.prepare(&config).await;
        let topology = topology.map_err(|error| refused.push(RefusedSection::new("members", &error))).ok();
        Some(Attempt { wanted: loaded.config, config, harbor_changed, state, topology, seen })
    }

    /// Brings it into force. Nothing of this can fail.
    fn apply(&mut self, attempt: Attempt) {
        let Attempt { wanted, config, harbor_changed, state, topology, seen } = attempt;
        let harbor = harbor_changed.then_some("identity: harbor");
        for changed in restart_only_changes(&self.config, &wanted).into_iter().chain(harbor) {
            tracing::warn!(
                section = changed,
                "this section of the configuration has changed; restart to apply it"
            );
        }
        raise_descriptor_limit(config.connections_max());
        if let Some(ring) = state.member_ring {
            self.member_ring.store(Arc::new(ring));
        }
        let generation = state.snapshot.generation;
        if state.removals_grew
            && let Err(error) = key_store::keep_removals(&config.tokens.keys, &state.snapshot.removals)
        {
            tracing::warn!(%error, "that users were removed is forgotten with this process: should one of them come back after a restart, its earlier tokens count until they end");
        }
        self.state.snapshot.store(Arc::new(state.snapshot));
        match topology {
            Some(topology) => {
                self.members.apply(topology, self.state.tokens.logins());
                self.config = config;
            }
            // The newest secrets are what stays where a file cannot be read next time.
            None => self.config.secret_files = config.secret_files,
        }
        self.seen = seen;
        self.state.observers.metrics.count_reload(ReloadResult::Applied);
        self.state.observers.metrics.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        tracing::info!(generation, "reloaded");
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

    fn reload_certificates(&self) -> Vec<RefusedSection> {
        let errors = self.certificates.iter().filter_map(|certificates| certificates.reload().err());
        let refused = errors.map(|error| RefusedSection::new(CERTIFICATES, &error)).collect();
        self.publish_expiries();
        refused
    }

    fn publish_expiries(&self) {
        for (name, expires_at) in self.certificates.iter().flat_map(|certificates| certificates.expiries()) {
            self.state.observers.metrics.set_certificate_expiry(&CertificateLabel(name), expires_at);
        }
    }
}

/// The section whose files the key names.
fn section_of(error: &ConfigError) -> &'static str {
    match error.key.split(['.', '[']).next() {
        Some("identity") => "identity",
        Some("pools") => "members",
        Some(_) | None => "configuration",
    }
}

fn tell(refused: &[RefusedSection]) {
    for RefusedSection { section, error } in refused {
        match *section {
            CERTIFICATES => tracing::error!(error, "certificate refused: the one in use stays"),
            "configuration" => tracing::error!(error, "reload refused: what was in force stays"),
            section => tracing::error!(
                section,
                error,
                "reload refused for this section: what was in force there stays, and it is tried again"
            ),
        }
    }
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
    let changed = running != wanted;
    let mut identity = new.identity.clone();
    identity.providers.retain(|provider| !is_harbor(provider));
    identity.providers.extend(running.map(|(settings, _)| ProviderSettings::Harbor(settings)));
    (identity, changed)
}

/// The sections that differ and are only read at start.
fn restart_only_changes(old: &Config, new: &Config) -> Vec<&'static str> {
    [
        ("external_url, hosts", old.hosts != new.hosts),
        ("listeners, limits", old.server != new.server),
        ("admin", old.admin != new.admin),
        ("tokens", old.tokens != new.tokens),
        ("uploads", old.uploads != new.uploads),
        ("password_checks", old.identity.limits != new.identity.limits),
        ("reload_interval", old.reload_interval != new.reload_interval),
        ("coalesce", old.coalesce != new.coalesce),
        ("verify", old.verify != new.verify),
        ("log", old.log != new.log),
        ("shutdown", old.shutdown != new.shutdown),
    ]
    .into_iter()
    .filter_map(|(section, changed)| changed.then_some(section))
    .collect()
}
