//! The request path, built of a configuration.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::ArcSwap;
use tokio_util::task::TaskTracker;

use crate::auth::keys::{Ring, SigningKey};
use crate::config::Config;
use crate::harbor::HarborIdentity;
use crate::identity::{PasswordChecks, ProviderSettings};
use crate::proxy::{Gateway, GatewaySettings, GatewayState};
use crate::reload::build_state;
use crate::telemetry::{AccessLog, Metrics};
use crate::token_service::{Logins, TokenService};
use crate::upstream::{Pools, Shared, Topology};

/// Everything that answers requests, and what the rest of the process shares with it.
pub struct RequestPath {
    /// Answers requests.
    pub gateway: Arc<Gateway>,
    /// The configuration in force: topology, identities, policy and keys.
    pub state: GatewayState,
    /// Keys, metrics and ejections that all members share; a reload builds new members with it.
    pub shared: Shared,
    /// The member keys in force.
    pub member_ring: Arc<ArcSwap<Ring<SigningKey>>>,
}

impl RequestPath {
    /// Builds it. The keys that the configuration names have to be there.
    ///
    /// # Errors
    /// When users, keys or members cannot be used.
    pub fn build(
        config: &Config,
        metrics: &Arc<Metrics>,
        access_log: AccessLog,
        tasks: TaskTracker,
    ) -> anyhow::Result<Self> {
        let (snapshot, member_ring) = build_state(config, 1)?;
        let member_ring = Arc::new(ArcSwap::from_pointee(member_ring));
        let shared = Shared {
            member_ring: Arc::clone(&member_ring),
            metrics: Arc::clone(metrics),
            drivers: tasks.clone(),
            workers: config.server.workers,
            cache_entries_max: config.tokens.cache_entries_max,
            ejections: Arc::default(),
        };
        let pools = Pools::build(&config.pools, &shared)?;
        let logins = Logins {
            checks: Arc::new(PasswordChecks::new(&config.identity.limits)),
            harbor: harbor_identity(config, &pools, metrics, &tasks),
            members_need_passwords: AtomicBool::new(pools.need_passwords()),
        };
        let tokens = TokenService::new(config.tokens.clone(), logins, Arc::clone(metrics));
        let topology = Topology { pools, routes: config.routes.clone() };
        let settings = settings_of(config);
        let state = GatewayState::new(&settings, topology, snapshot, tokens, access_log, tasks);
        Ok(Self { gateway: Gateway::new(&settings, &state), state, shared, member_ring })
    }
}

fn settings_of(config: &Config) -> GatewaySettings {
    let limits = &config.server.limits;
    GatewaySettings {
        hosts: config.hosts.clone(),
        verify: config.verify.clone(),
        coalesce: config.coalesce.clone(),
        upload_grace: config.uploads.grace,
        uploads_max: config.uploads.tracked_max,
        body_rate_min: limits.body_rate_min,
        refused_body_bytes_max: limits.refused_body_bytes_max,
        refused_body_timeout: limits.refused_body_timeout,
    }
}

fn harbor_identity(
    config: &Config,
    pools: &Pools,
    metrics: &Arc<Metrics>,
    tasks: &TaskTracker,
) -> Option<Arc<HarborIdentity>> {
    let identity = &config.identity;
    let settings = identity.providers.iter().find_map(|provider| match provider {
        ProviderSettings::Harbor(settings) => Some(settings),
        ProviderSettings::Users(_) | ProviderSettings::Htpasswd { .. } => None,
    })?;
    let pool = Arc::clone(pools.get(settings.pool)?);
    Some(HarborIdentity::new(settings.clone(), &identity.limits, pool, Arc::clone(metrics), tasks.clone()))
}
