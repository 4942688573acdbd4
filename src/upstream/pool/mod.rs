//! A pool: its members, and which of them are asked in which order.

mod accounts;
mod budget;
mod build;
mod drain;
mod ejections;
mod failure;
mod memory;
mod pools;
mod stand_in;
mod tags;
mod topology;

use std::cmp::Reverse;
use std::sync::Arc;

pub use build::{BuildError, Shared};
pub use drain::DrainError;
pub use ejections::{Ejections, client_key};
pub use memory::PoolMemory;
pub use pools::{Placed, Pools};
pub use stand_in::{StandIn, StandIns};
pub use tags::{TagAnswer, TagAnswers, ask_about_tag, is_as_at_home};
pub use topology::Topology;

use super::member::{Member, leave_out_draining};
use super::name::{MemberName, PoolName};
use super::quarantine::Quarantine;
use super::settings::{Storage, UpstreamLimits};
use crate::balance::{Choice, Seen, key_hash, order, rendezvous};
use crate::random::{monotonic_ms, seed};
use crate::registry::{Digest, RepositoryName};
use crate::telemetry::PoolMetrics;

/// Members that serve the same content.
pub struct Pool {
    /// Its name.
    pub name: PoolName,
    /// How its members share their content.
    pub storage: Storage,
    /// Whether the web pages and the API of its Harbor nodes are served too.
    pub portal: bool,
    /// Its bounds.
    pub limits: UpstreamLimits,
    /// Its members, in file order.
    pub members: Vec<Arc<Member>>,
    /// Whether any of its members is a Harbor node.
    pub has_nodes: bool,
    /// Whether there are plain registries beside Harbor nodes.
    pub is_mixed: bool,
    /// Whether any of its members needs the clients' own passwords.
    pub needs_passwords: bool,
    /// Its metric handles.
    pub metrics: PoolMetrics,
    /// What it remembers, also beyond a reload.
    pub memory: Arc<PoolMemory>,
    /// The members before the list was changed.
    previous: Vec<MemberName>,
}

/// What the order of members depends on for one request.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// What decides between members that serve.
    pub choice: Choice,
    /// Whether it changes nothing.
    pub reads: bool,
    /// The content that is asked for, and the members that are known to have it broken.
    pub content: Option<(&'a Quarantine, &'a Digest)>,
}

impl Request<'_> {
    /// Something that any member may do and that changes something.
    #[must_use]
    pub fn change() -> Self {
        Self { choice: Choice::Cheapest, reads: false, content: None }
    }
}

impl Pool {
    /// The member of this name.
    #[must_use]
    pub fn member(&self, name: &MemberName) -> Option<&Arc<Member>> {
        self.members.iter().find(|member| member.name == *name)
    }

    /// The members to try, in this order.
    #[must_use]
    pub fn candidates(&self, request: Request<'_>) -> Vec<Arc<Member>> {
        let now_ms = monotonic_ms();
        let broken = |member: &Member| {
            request.content.is_some_and(|(quarantine, digest)| quarantine.holds(&member.name, digest))
        };
        let see = |(index, member): (usize, &Arc<Member>)| Seen {
            index,
            hash: member.hash,
            weight: member.weight_now(now_ms),
            tier: member.tier,
            standing: member.standing(),
            load: member.load(),
            latency: member.latency(now_ms),
            quarantined: broken(member),
        };
        let seen: Vec<Seen> = self.members.iter().enumerate().map(see).collect();
        let panic_percent = self.members.first().map_or(0, |member| member.probe.panic_percent);
        let order = order(&seen, request.choice, request.reads, panic_percent, seed());
        let mut candidates = order.into_iter().map(|index| Arc::clone(&self.members[index])).collect();
        leave_out_draining(&mut candidates);
        candidates
    }

    /// The choice that keeps what belongs to one key at one member, as far as its load allows.
    #[must_use]
    pub fn choice_by(&self, key: &str) -> Choice {
        Choice::Key(key_hash(key))
    }

    /// What decides on the home of a repository: its project in Harbor, else its whole name.
    #[must_use]
    pub fn home_key<'a>(&self, repository: &'a RepositoryName) -> &'a str {
        repository.project().filter(|_| self.has_nodes).unwrap_or_else(|| repository.as_str())
    }

    /// Whether what is in one repository can be mounted in another at its member.
    #[must_use]
    pub fn have_one_home(&self, one: &RepositoryName, other: &RepositoryName) -> bool {
        let home = |name| self.home(self.home_key(name)).map(|member| &member.name);
        self.storage == Storage::Shared || home(one) == home(other)
    }

    /// The members that serve, the home of a key first, in an order of the key's own; then those that are the last
    /// choice.
    #[must_use]
    pub fn candidates_from_home(&self, project: &str) -> Vec<Arc<Member>> {
        usable(self.in_home_order(project))
    }

    /// The home of a key, whether it serves or not: the member that writes and reads by tag go to
    /// where members do not share their content.
    #[must_use]
    pub fn home(&self, project: &str) -> Option<&Arc<Member>> {
        self.members.iter().min_by_key(|member| self.home_rank(project, member))
    }

    /// The member that was the home of a key before the list of members was changed, if it is still
    /// here and not the home now.
    #[must_use]
    pub fn previous_home(&self, project: &str) -> Option<&Arc<Member>> {
        let before = self.previous.iter().max_by_key(|name| rendezvous(project, name.as_str()))?;
        let member = self.member(before)?;
        self.home(project).is_some_and(|home| home.name != member.name).then_some(member)
    }

    /// The members of a key other than its home that serve, in its order, then those that are the last choice: the
    /// first stands in.
    #[must_use]
    pub fn others_from_home(&self, project: &str) -> Vec<Arc<Member>> {
        let mut others = self.in_home_order(project);
        others.drain(..others.len().min(1));
        usable(others)
    }

    fn in_home_order(&self, project: &str) -> Vec<&Arc<Member>> {
        let mut members: Vec<&Arc<Member>> = self.members.iter().collect();
        members.sort_by_cached_key(|member| self.home_rank(project, member));
        members
    }

    /// The place of a member in the order of a key: the least one is its home. A plain registry beside Harbor nodes
    /// comes last: Harbor would not know what it took.
    fn home_rank(&self, project: &str, member: &Member) -> (bool, Reverse<u64>) {
        (self.has_nodes && member.harbor.is_none(), Reverse(rendezvous(project, member.name.as_str())))
    }

    /// Whether any member can be asked.
    #[must_use]
    pub fn can_serve(&self) -> bool {
        self.members.iter().any(|member| member.is_usable())
    }
}

/// Those that serve, in their order, then those that are the last choice.
fn usable(mut members: Vec<&Arc<Member>>) -> Vec<Arc<Member>> {
    members.retain(|member| member.is_usable());
    members.sort_by_key(|member| !member.status().serves());
    members.into_iter().cloned().collect()
}
