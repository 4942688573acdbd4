//! Where a request goes: the member in its pin, or those of its route's pool, in order.

use std::sync::Arc;

use http::Method;

use super::error::GatewayError;
use super::{Admitted, Downstream, Gateway};
use crate::balance::Choice;
use crate::pin::Pin;
use crate::random::unix_now;
use crate::registry::{
    Action, BlobMethod, ManifestMethod, Reference, RegistryRequest, RepositoryName, Resource, is_read,
};
use crate::upstream::{Member, Pool, Request as PoolRequest, Storage};

/// Whether only the home of a repository will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NeedsHome {
    Always,
    WhileItServes,
    Never,
}

/// Where a request goes, and the pin that led there.
pub(super) struct Route {
    pub pool: Arc<Pool>,
    pub candidates: Vec<Arc<Member>>,
    /// How many of them are asked beside one that says 404.
    pub confirmations: usize,
    pub pin: Option<Pin>,
}

impl Gateway {
    /// The members to try: the pinned one, or those of the route's pool.
    pub(super) async fn plan(
        &self,
        admitted: &Admitted,
        target: &RegistryRequest,
    ) -> Result<Route, GatewayError> {
        if let Some(pin) = self.open_pin(&admitted.state, target, unix_now()) {
            return self.pinned_plan(pin, &admitted.client.subject, &admitted.down.topology);
        }
        let host = admitted.down.authority.name();
        let pool = admitted.down.topology.pool_of(host, target.repository());
        let pool = pool.ok_or(GatewayError::NoRoute)?;
        let (mut candidates, confirmations) = match (pool.storage, target.repository()) {
            (Storage::Shared, _) | (Storage::Replicated, None) => {
                (self.candidates_by_load(&admitted.down.head.method, target, pool), confirmations(target))
            }
            (Storage::Replicated, Some(repository)) => {
                self.candidates_by_home(admitted, target, pool, repository).await?
            }
        };
        if pool.is_mixed {
            prefer_nodes(&mut candidates, target, &admitted.down.head.method);
        }
        if candidates.is_empty() {
            return Err(GatewayError::NoMember(pool.name.clone()));
        }
        Ok(Route { pool: Arc::clone(pool), candidates, confirmations, pin: None })
    }

    /// Where all members have the same content: blobs come from the member that is likely to have
    /// them in its page cache, what is written to one repository goes to one member as far as that
    /// can be, and what was just written is read there.
    fn candidates_by_load(&self, method: &Method, target: &RegistryRequest, pool: &Pool) -> Vec<Arc<Member>> {
        let reads = is_read(method);
        let digest = match target {
            RegistryRequest::Blob { digest, method: BlobMethod::Get, .. } => Some(digest),
            RegistryRequest::Manifest { reference: Reference::Digest(digest), .. } if reads => Some(digest),
            _ => None,
        };
        let choice = match (target, target.repository()) {
            (RegistryRequest::Blob { digest, method: BlobMethod::Get, .. }, _) => {
                pool.choice_by(digest.as_str())
            }
            (_, Some(repository)) if !reads => pool.choice_by(repository.as_str()),
            _ => Choice::Cheapest,
        };
        let content = digest.map(|digest| (&self.checks.quarantine, digest));
        let mut candidates = pool.candidates(PoolRequest { choice, reads, content });
        // A blob that everybody wants must not come from one member only because it is new.
        let spread = matches!(target, RegistryRequest::Blob { method: BlobMethod::Get, .. });
        let writer = target.repository().filter(|_| !spread).and_then(|name| pool.last_written_at(name));
        if let Some(writer) = writer {
            // Stable, and only if it serves: who is out stays where it is.
            candidates.sort_by_key(|member| member.name != writer || !member.status().serves());
        }
        candidates
    }

    pub(super) fn needs_home(
        &self,
        admitted: &Admitted,
        target: &RegistryRequest,
        repository: &RepositoryName,
    ) -> NeedsHome {
        let method = &admitted.down.head.method;
        let by_digest = match target {
            RegistryRequest::Blob { .. } | RegistryRequest::Referrers { .. } => true,
            RegistryRequest::Manifest { reference, .. } => matches!(reference, Reference::Digest(_)),
            _ => false,
        };
        if !is_read(method)
            || matches!(target, RegistryRequest::UploadStart { .. } | RegistryRequest::Upload { .. })
        {
            return NeedsHome::Always;
        }
        // Whoever may push and finds a blob elsewhere would not bring it to the home.
        let resource = Resource::Repository(repository.clone());
        let decider =
            self.tokens.logins().decider(admitted.down.place(), &admitted.client.subject, &resource);
        let pushes = || admitted.state.permitted(&admitted.client, &resource, decider).contains(Action::Push);
        match (by_digest, *method == Method::HEAD && pushes()) {
            (true, true) | (false, _) => NeedsHome::WhileItServes,
            (true, false) => NeedsHome::Never,
        }
    }
}

/// How many other members are asked beside one that says 404, where all see the same storage, perhaps a
/// moment late.
fn confirmations(target: &RegistryRequest) -> usize {
    match target {
        RegistryRequest::Blob { method: BlobMethod::Get, .. }
        | RegistryRequest::Manifest {
            method: ManifestMethod::Get | ManifestMethod::Head | ManifestMethod::Put,
            ..
        } => 1,
        // Every push looks for its blobs first, and expects not to find them.
        _ => 0,
    }
}

/// Whether a mount within a pool stays on one member.
pub(super) fn share_a_home(
    down: &Downstream,
    pool: Option<usize>,
    (from, to): (&RepositoryName, &RepositoryName),
) -> bool {
    let Some(pool) = pool.and_then(|pool| down.topology.pools.get(pool)) else { return false };
    let home = |name| pool.home(pool.home_key(name)).map(|member| &member.name);
    pool.storage == Storage::Shared || home(from) == home(to)
}

/// Harbor keeps a list of its own of what is pushed: what a plain registry of the pool took, Harbor
/// would not know. So writes go to Harbor nodes alone, and what a push looks for first; other reads
/// go to a plain registry when no node can serve, and blobs are the same everywhere.
fn prefer_nodes(candidates: &mut Vec<Arc<Member>>, target: &RegistryRequest, method: &Method) {
    match target {
        RegistryRequest::Blob { .. } if *method == Method::GET => {}
        RegistryRequest::UploadStart { .. } | RegistryRequest::Upload { .. } => {
            candidates.retain(|member| member.harbor.is_some());
        }
        _ if is_read(method) => candidates.sort_by_key(|member| member.harbor.is_none()),
        _ => candidates.retain(|member| member.harbor.is_some()),
    }
}
