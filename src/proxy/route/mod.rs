//! Where a request goes: the member in its pin, or those of its route's pool, in order.

mod candidates;
mod home;
mod plan;
mod tag;

use std::sync::Arc;

pub(super) use candidates::Candidates;
pub(super) use home::note_write;

use super::admission::Admitted;
use super::error::GatewayError;
use super::pins::Pins;
use crate::balance::Choice;
use crate::balance::health::Status;
use crate::content::ContentChecks;
use crate::pin::{Pin, PinError};
use crate::registry::{Action, Reference, RegistryRequest, RepositoryName, Resource};
use crate::telemetry::{Metrics, PinEvent};
use crate::token_service::TokenService;
use crate::upstream::{Member, Placed, Pool, Request as PoolRequest, Storage};
use home::Homes;
use plan::{ByLoad, Key, NeedsHome, NodeRule, by_load, confirmations, needs_home, node_rule};

/// Where a request goes, and the pin that led there.
pub(super) struct Route {
    pub pool: Arc<Pool>,
    pub candidates: Candidates,
    pub pin: Option<Pin>,
}

/// Finds the members of a request.
pub(super) struct Router {
    pub tokens: Arc<TokenService>,
    pub checks: Arc<ContentChecks>,
    pub pins: Pins,
    pub metrics: Arc<Metrics>,
}

impl Router {
    /// The members to try: the pinned one, or those of the route's pool.
    pub(super) async fn route(
        &self,
        admitted: &Admitted<'_>,
        target: &RegistryRequest,
    ) -> Result<Route, GatewayError> {
        let arrival = admitted.arrival;
        if let Some(pin) = self.pins.open(&arrival.state, target) {
            return self.pinned(pin, admitted);
        }
        let pool = arrival.topology.pool_of(arrival.authority.name(), target.repository());
        let pool = pool.ok_or(GatewayError::NoRoute)?;
        let method = &arrival.head.method;
        let mut candidates = match (pool.storage, target.repository()) {
            (Storage::Shared, _) | (Storage::Replicated, None) => {
                let members = self.candidates_by_load(&by_load(target, method), pool);
                Candidates { members, confirmations: confirmations(target) }
            }
            (Storage::Replicated, Some(repository)) => {
                let needs = needs_home(target, method, || self.may_push(admitted, repository));
                self.candidates_by_home(needs, target, repository, pool).await?
            }
        };
        if pool.is_mixed {
            match node_rule(target, method) {
                NodeRule::Any => {}
                // Stable: nodes that are out stay behind what serves, and what has the content broken behind the others.
                NodeRule::NodesFirst => candidates.members.sort_by_key(|member| {
                    (!member.status().serves(), self.has_it_broken(member, target), member.harbor.is_none())
                }),
                NodeRule::NodesOnly => candidates.members.retain(|member| member.harbor.is_some()),
            }
        }
        if candidates.members.is_empty() {
            return Err(GatewayError::NoMember(pool.name.clone()));
        }
        Ok(Route { pool: Arc::clone(pool), candidates, pin: None })
    }

    /// The pinned member, if the pin is this subject's and the member serves.
    fn pinned(&self, pin: Result<Pin, PinError>, admitted: &Admitted<'_>) -> Result<Route, GatewayError> {
        let subject = &admitted.client.subject;
        let pin = pin.and_then(|pin| pin.check_subject(subject).map(|()| pin)).map_err(|error| {
            self.metrics.count_pins(PinEvent::Refused, 1);
            GatewayError::Pin(error)
        })?;
        let gone = || GatewayError::PinnedMemberGone { member: pin.member.clone() };
        let pools = &admitted.arrival.topology.pools;
        let Placed { pool, member, retired } = pools.member(&pin.member).ok_or_else(gone)?;
        // A member that was removed is not probed: its sessions find out by themselves. One that is
        // out because other requests failed there is the only one that can finish them.
        let may_serve = member.status().serves() || member.status() == Status::Ejected || retired;
        if !may_serve {
            return Err(gone());
        }
        Ok(Route { pool: Arc::clone(pool), candidates: Candidates::only(member), pin: Some(pin) })
    }

    /// Where all members have the same content: blobs come from the member that is likely to have
    /// them in its page cache, what is written to one repository goes to one member as far as that
    /// can be, and what was just written is read there.
    fn candidates_by_load(&self, plan: &ByLoad<'_>, pool: &Pool) -> Vec<Arc<Member>> {
        let choice = match plan.key {
            Key::Digest(digest) => pool.choice_by(digest.as_str()),
            Key::Repository(repository) => pool.choice_by(repository.as_str()),
            Key::None => Choice::Cheapest,
        };
        let content = plan.content.map(|digest| (&self.checks.quarantine, digest));
        let mut members = pool.candidates(PoolRequest { choice, reads: plan.reads, content });
        let writer = plan.written_in.and_then(|repository| pool.last_written_at(repository));
        if let Some(writer) = writer {
            // Stable, and only if it serves and has the content right: else it stays where it is.
            members.sort_by_key(|member| {
                let broken = content.is_some_and(|(known, digest)| known.holds(&member.name, digest));
                member.name != writer || !member.status().serves() || broken
            });
        }
        members
    }

    /// Whether a member is known to have the content broken that is asked for by its digest.
    fn has_it_broken(&self, member: &Member, target: &RegistryRequest) -> bool {
        match target.reference() {
            Some(Reference::Digest(digest)) => self.checks.quarantine.holds(&member.name, &digest),
            Some(Reference::Tag(_)) | None => false,
        }
    }

    /// Where members copy each other, late.
    async fn candidates_by_home(
        &self,
        needs: NeedsHome,
        target: &RegistryRequest,
        repository: &RepositoryName,
        pool: &Pool,
    ) -> Result<Candidates, GatewayError> {
        match Homes::of(pool, repository, target) {
            Some(homes) => homes.candidates(needs, &self.checks.quarantine).await,
            None => Ok(Candidates { members: Vec::new(), confirmations: 0 }),
        }
    }

    /// A client that may push and finds a blob elsewhere would not bring it to the home.
    fn may_push(&self, admitted: &Admitted<'_>, repository: &RepositoryName) -> bool {
        let resource = Resource::Repository(repository.clone());
        let arrival = admitted.arrival;
        let decider = self.tokens.logins().decider(arrival.place(), &admitted.client.subject, &resource);
        arrival.state.permitted(&admitted.client, &resource, decider).contains(Action::Push)
    }
}
