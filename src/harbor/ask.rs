//! Asking one node after the other, until one says yes or a believable no.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::known::{Grants, Known, place_of};
use crate::identity::HarborProviderSettings;
use crate::registry::{Action, Actions, ResourceAccess};
use crate::upstream::harbor::{ClientSecret, Login, NodeAt, NodeToken, Password, PasswordTurn};
use crate::upstream::{Member, MemberName, Pool, Request, Storage};

/// How often a password that may lock a name is offered to nodes where the name is in use.
const BUSY_PAUSE: Duration = Duration::from_millis(25);

/// Questions to nodes at once, for each kind of client; more wait within the login's own deadline. A node needs 1.5 s for a wrong
/// password and far less for a right one, so this is more than real logins use; it bounds the wait for a directory that hangs.
const CHECKS_MAX: usize = 64;

/// What asking the nodes came to.
pub(super) enum Asked {
    /// The password is right.
    Right(Box<Proven>),
    /// It is wrong, everywhere where it could be right.
    Wrong,
    /// Others use the name, or there are too many questions.
    Busy,
    /// A node was asked and did not answer in time, and no other could say: it may still be judging the password. And why.
    Silent(String),
    /// No node could say, and why.
    NotNow(String),
}

/// A password that is right.
pub(super) struct Proven {
    pub subject: String,
    pub grants: Grants,
    pub at: MemberName,
}

/// The nodes that are asked about clients, and how many questions there may be at once.
pub(super) struct Nodes {
    /// Whose members they are.
    pub pool: ArcSwap<Pool>,
    pub settings: HarborProviderSettings,
    budgets: Budgets,
}

/// Questions at once, apart for each kind of client: those who guess, or who need no password at
/// all, take nothing from those whose password is known to be right.
struct Budgets {
    unproven: Semaphore,
    proven: Semaphore,
    anonymous: Semaphore,
}

impl Nodes {
    pub(super) fn new(settings: HarborProviderSettings, pool: Arc<Pool>) -> Self {
        let budget = || Semaphore::new(CHECKS_MAX);
        let budgets = Budgets { unproven: budget(), proven: budget(), anonymous: budget() };
        Self { budgets, settings, pool: ArcSwap::new(pool) }
    }

    /// Asks with a client's password. Nodes without a common database know different accounts and
    /// projects: there each project is asked about at its home, and a no is one node's only.
    pub(super) async fn ask(
        &self,
        secret: &ClientSecret,
        known: Option<&Arc<Known>>,
        wanted: &[ResourceAccess],
        deadline: Instant,
    ) -> Asked {
        if self.pool.load().storage == Storage::Shared {
            return self.ask_about(secret, known, wanted, deadline).await;
        }
        let mut all: Option<Proven> = None;
        for group in by_place(wanted) {
            match self.ask_about(secret, known, &group, deadline).await {
                Asked::Right(proven) => match &mut all {
                    Some(all) => all.grants.join(proven.grants),
                    None => all = Some(*proven),
                },
                other => return other,
            }
        }
        all.map_or(Asked::Wrong, |proven| Asked::Right(Box::new(proven)))
    }

    async fn ask_about(
        &self,
        secret: &ClientSecret,
        known: Option<&Arc<Known>>,
        wanted: &[ResourceAccess],
        deadline: Instant,
    ) -> Asked {
        let together = self.pool.load().storage == Storage::Shared;
        let mut candidates = self.candidates(wanted);
        if let Some(known) = known.filter(|_| together || wanted.is_empty()) {
            // Stable: the node that knew it before comes first, the others stay in order.
            candidates.sort_by_key(|member| member.name != known.at);
        }
        let home = self.home_of(wanted);
        let mut waiting = nodes(&candidates);
        let mut refused = 0;
        let mut problem = "no node of the pool serves".to_owned();
        let mut silent = None;
        let busy = |silent: Option<String>| silent.map_or(Asked::Busy, Asked::Silent);
        while !waiting.is_empty() {
            let Some((index, _turn)) = next_free(&waiting, secret, known.is_some(), deadline).await else {
                return busy(silent);
            };
            let node = waiting.remove(index);
            let member = node.member;
            // Only now: who waits for a name takes nothing from others.
            let budget = if known.is_some() { &self.budgets.proven } else { &self.budgets.unproven };
            let Ok(Ok(_permit)) = timeout_at(deadline, budget.acquire()).await else { return busy(silent) };
            let try_deadline = deadline.min(Instant::now() + self.settings.try_timeout);
            let password = Password { secret, was_right: known.is_some() };
            match node.login(password, wanted, try_deadline).await {
                Login::Right(token) => {
                    let counts =
                        Counts::of(home.as_ref(), member, self.settings.foreign_accounts && refused > 0);
                    return proven(&token, member, wanted, counts);
                }
                Login::Wrong if together => return Asked::Wrong,
                Login::Wrong => refused += 1,
                Login::NotNow(reason) => problem = format!("{}: {reason}", member.name),
                Login::Silent => {
                    let hangs = "no answer in time; the directory behind it may hang";
                    silent = Some(format!("{}: {hangs}", member.name));
                    member.ask_for_probe();
                }
                Login::NodeFault(reason) => {
                    problem = format!("{}: {reason}", member.name);
                    member.ask_for_probe();
                }
            }
        }
        let all = self.pool.load().members.iter().filter(|member| member.harbor.is_some()).count();
        match silent {
            _ if refused > 0 && refused == all => Asked::Wrong,
            Some(problem) => Asked::Silent(problem),
            None => Asked::NotNow(problem),
        }
    }

    /// A node's token for clients without credentials; `None` when no node gives one now.
    pub(super) async fn anonymous_token(&self, wanted: &[ResourceAccess]) -> Option<NodeToken> {
        let deadline = Instant::now() + self.settings.timeout;
        let _permit = timeout_at(deadline, self.budgets.anonymous.acquire()).await.ok()?.ok()?;
        for node in nodes(&self.candidates(wanted)) {
            let deadline = deadline.min(Instant::now() + self.settings.try_timeout);
            match node.anonymous_token(wanted, deadline).await {
                Ok(token) => return Some(token),
                Err(problem) => {
                    tracing::debug!(member = node.member.name.as_str(), problem, "no anonymous token");
                    node.member.ask_for_probe();
                }
            }
        }
        None
    }

    fn candidates(&self, wanted: &[ResourceAccess]) -> Vec<Arc<Member>> {
        let pool = self.pool.load();
        match pool.storage {
            Storage::Shared => pool.candidates(Request::change()),
            Storage::Replicated => {
                let key = home_key(wanted);
                let mut candidates = pool.candidates_from_home(&key);
                // What the home grants counts for its projects, also when requests have ejected it. Stable.
                if let Some(home) = pool.home(&key).filter(|_| !wanted.is_empty()) {
                    candidates.sort_by_key(|member| member.name != home.name);
                }
                candidates
            }
        }
    }

    /// The node whose word on `wanted` counts; `None` where every node's does.
    fn home_of(&self, wanted: &[ResourceAccess]) -> Option<Arc<Member>> {
        let pool = self.pool.load();
        let apart = pool.storage == Storage::Replicated && !wanted.is_empty();
        apart.then(|| pool.home(&home_key(wanted)).cloned()).flatten()
    }
}

/// How much of a node's grants counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counts {
    All,
    /// The home is out: what others grant is for reading at those others.
    Reads,
    /// Another node's grants are for its own projects, which may only have the same name.
    Nothing,
}

impl Counts {
    fn of(home: Option<&Arc<Member>>, member: &Member, foreign: bool) -> Self {
        match home {
            None => Self::All,
            Some(home) if home.name == member.name || foreign => Self::All,
            Some(home) if home.is_usable() => Self::Nothing,
            Some(_) => Self::Reads,
        }
    }

    fn limit(self, actions: Actions) -> Actions {
        match self {
            Self::All => actions,
            Self::Reads if actions.contains(Action::Pull) => Actions::PULL,
            Self::Reads | Self::Nothing => Actions::NONE,
        }
    }
}

fn proven(token: &NodeToken, member: &Member, wanted: &[ResourceAccess], counts: Counts) -> Asked {
    let Some(subject) = token.subject.clone() else {
        return Asked::NotNow(format!("{}: its token names nobody", member.name));
    };
    let mut grants = Grants::default();
    for access in wanted {
        grants.add(access, counts.limit(token.granted(access)));
    }
    Asked::Right(Box::new(Proven { subject, grants, at: member.name.clone() }))
}

fn home_key(wanted: &[ResourceAccess]) -> String {
    wanted.first().map(place_of).unwrap_or_default().trim_end_matches('/').to_owned()
}

/// What is wanted, apart by what it belongs to; one empty group for a mere login.
fn by_place(wanted: &[ResourceAccess]) -> Vec<Vec<ResourceAccess>> {
    let mut groups: Vec<(String, Vec<ResourceAccess>)> = Vec::new();
    for access in wanted {
        let place = place_of(access);
        match groups.iter_mut().find(|(known, _)| *known == place) {
            Some((_, group)) => group.push(access.clone()),
            None => groups.push((place, vec![access.clone()])),
        }
    }
    if groups.is_empty() {
        return vec![Vec::new()];
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// The first node that may be asked now, with the turn of the password; `None` when there is none
/// before the deadline.
async fn next_free<'a>(
    waiting: &[NodeAt<'a>],
    secret: &ClientSecret,
    is_known: bool,
    deadline: Instant,
) -> Option<(usize, PasswordTurn<'a>)> {
    if is_known {
        let first = waiting.first()?.node;
        return Some((0, timeout_at(deadline, first.password_turn(secret)).await.ok()?));
    }
    loop {
        let turn = |(index, at): (usize, &NodeAt<'a>)| Some((index, at.node.try_password_turn(secret)?));
        if let Some(free) = waiting.iter().enumerate().find_map(turn) {
            return Some(free);
        }
        if Instant::now() + BUSY_PAUSE >= deadline {
            return None;
        }
        tokio::time::sleep(BUSY_PAUSE).await;
    }
}

fn nodes(members: &[Arc<Member>]) -> Vec<NodeAt<'_>> {
    members.iter().filter_map(|member| member.node()).collect()
}
