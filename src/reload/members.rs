//! Pools, members and routes: others come into force, and the probers with them.

use std::convert::Infallible;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::task::{AbortHandle, JoinSet};

use crate::config::Config;
use crate::harbor::HarborIdentity;
use crate::random::unix_now;
use crate::token_service::Logins;
use crate::upstream::{BuildError, Member, Shared, Topology, probe};

/// Why the members stay as they are.
#[derive(Debug, thiserror::Error)]
pub enum MembersError {
    /// A member cannot be built.
    #[error("{0}")]
    Build(#[from] BuildError),
    /// The pool that identities stand on is not there any more.
    #[error(
        "the pool that `identity: - harbor:` names at start is not in the file any more; restart to have another"
    )]
    HarborPoolGone,
}

/// The members in force, and the tasks that probe them.
pub struct Members {
    topology: Arc<ArcSwap<Topology>>,
    shared: Shared,
    harbor: Option<Arc<HarborIdentity>>,
    probers: JoinSet<Infallible>,
    running: Vec<(Arc<Member>, AbortHandle)>,
}

impl Members {
    /// The members of `topology`, none of which is probed yet.
    #[must_use]
    pub fn new(
        topology: Arc<ArcSwap<Topology>>,
        shared: Shared,
        harbor: Option<Arc<HarborIdentity>>,
    ) -> Self {
        Self { topology, shared, harbor, probers: JoinSet::new(), running: Vec::new() }
    }

    /// Probes every member once, then for ever.
    pub async fn begin(&mut self) {
        let topology = self.topology.load_full();
        first_probes(topology.pools.members().cloned()).await;
        self.match_probers(&topology);
    }

    /// What the configuration makes of the running members. New ones are probed once, so that none
    /// gets work of which nothing is known.
    pub(super) async fn prepare(&self, config: &Config) -> Result<Topology, MembersError> {
        let before = self.topology.load_full();
        let now = unix_now();
        let until = now.saturating_add(config.uploads.grace.as_secs());
        let pools = before.pools.rebuild(&config.pools, &self.shared, now, until)?;
        if let Some(harbor) = &self.harbor
            && !pools.all().iter().any(|pool| harbor.is_of(Some(pool)))
        {
            return Err(MembersError::HarborPoolGone);
        }
        let is_new = |member: &&Arc<Member>| {
            let placed = before.pools.member(member.name.as_str());
            placed.is_none_or(|placed| placed.retired || !Arc::ptr_eq(&placed.member.state, &member.state))
        };
        first_probes(pools.members().filter(is_new).cloned()).await;
        Ok(Topology { pools, routes: config.routes.clone() })
    }

    /// Brings what was prepared into force. Nothing of this can fail.
    pub(super) fn apply(&mut self, topology: Topology, logins: &Logins) {
        let topology = Arc::new(topology);
        let before = self.topology.swap(Arc::clone(&topology));
        topology.take_effect(&before);
        logins.note_members(topology.pools.need_passwords());
        let of_harbor = |harbor: &Arc<HarborIdentity>| {
            topology.pools.all().iter().find(|pool| harbor.is_of(Some(pool))).cloned()
        };
        if let Some((harbor, pool)) =
            self.harbor.as_ref().and_then(|harbor| Some((harbor, of_harbor(harbor)?)))
        {
            harbor.set_pool(pool);
        }
        self.match_probers(&topology);
    }

    /// Waits until a prober ends, which none does but by a panic.
    pub(super) async fn prober_ended(&mut self) -> String {
        loop {
            match self.probers.join_next().await {
                Some(Err(error)) if error.is_cancelled() => {}
                Some(ended) => return format!("{ended:?}"),
                None => std::future::pending().await,
            }
        }
    }

    fn match_probers(&mut self, topology: &Topology) {
        self.running.retain(|(member, prober)| {
            let stays = topology.pools.members().any(|other| Arc::ptr_eq(other, member));
            if !stays {
                prober.abort();
            }
            stays
        });
        for member in topology.pools.members() {
            if !self.running.iter().any(|(other, _)| Arc::ptr_eq(other, member)) {
                let prober = self.probers.spawn(probe::run(Arc::clone(member), Arc::clone(&self.topology)));
                self.running.push((Arc::clone(member), prober));
            }
        }
    }
}

/// One probe of each, so that the first requests find their state known.
async fn first_probes(members: impl Iterator<Item = Arc<Member>>) {
    let mut probes = JoinSet::new();
    for member in members {
        probes.spawn(async move { probe::probe_once(&member).await });
    }
    while probes.join_next().await.is_some() {}
}
