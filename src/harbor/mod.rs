//! Harbor nodes as the provider of identities: names and passwords are checked where they are
//! kept, and what a node grants becomes ours.
//!
//! A node's yes is a token with a subject. Its no is believed only when it is proven (see
//! [`crate::upstream::harbor`]); whatever else happens is "not now", which is never a refusal. A
//! password that was right within the last minutes goes on being right until a proven no.

mod known;
mod turns;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moka::sync::Cache;
use secrecy::SecretString;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::auth::subject::Subject;
use crate::identity::{HARBOR, HarborProviderSettings, VerifyLimits};
use crate::random::{seed, unix_now};
use crate::registry::{Actions, ResourceAccess};
use crate::telemetry::{IdentityFault, Metrics};
use crate::upstream::harbor::{ClientSecret, Fingerprint, HarborNode, Login, NodeToken, PasswordTurn};
use crate::upstream::{Member, Pool, Storage};
use known::{Grants, Known, place_of};
use turns::Turns;

/// How often a password that may lock a name is offered to nodes where the name is in use.
const BUSY_PAUSE: Duration = Duration::from_millis(25);
/// The alarm that logins cannot be judged is raised at most this often, in seconds.
const ALARM_EVERY: u64 = 10;

/// What the nodes say of a client.
#[derive(Debug, Clone)]
pub enum Answer {
    /// It is who it says, and may do this much of what it asks for.
    Known(Subject, Vec<ResourceAccess>),
    /// Its password is wrong, and that is proven.
    Wrong,
    /// It cannot be said now.
    Unavailable,
}

/// What asking the nodes came to.
enum Asked {
    Right(Box<Proven>),
    Wrong,
    NotNow,
}

struct Proven {
    subject: String,
    grants: Grants,
    at: Arc<Member>,
}

/// Asks the nodes of one pool about clients.
pub struct HarborIdentity {
    settings: HarborProviderSettings,
    pool: Arc<Pool>,
    checks: Semaphore,
    right: Cache<Fingerprint, Arc<Known>>,
    wrong: Cache<Fingerprint, ()>,
    turns: Turns,
    anonymous: Cache<String, Actions>,
    anonymous_none: Cache<String, ()>,
    metrics: Arc<Metrics>,
    alarmed_at: AtomicU64,
}

impl HarborIdentity {
    /// Asks the nodes of `pool`.
    #[must_use]
    pub fn new(
        settings: HarborProviderSettings,
        limits: &VerifyLimits,
        pool: Arc<Pool>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let max = limits.cache_entries_max;
        Self {
            checks: Semaphore::new(settings.checks_max.min(Semaphore::MAX_PERMITS)),
            right: Cache::builder().max_capacity(max).time_to_live(limits.success_ttl).build(),
            wrong: Cache::builder().max_capacity(max).time_to_live(limits.failure_ttl).build(),
            anonymous: Cache::builder().max_capacity(max).time_to_live(limits.success_ttl).build(),
            anonymous_none: Cache::builder().max_capacity(max).time_to_live(limits.failure_ttl).build(),
            turns: Turns::new(max, settings.waiting_max, settings.wrong_pause),
            settings,
            pool,
            metrics,
            alarmed_at: AtomicU64::new(0),
        }
    }

    /// Whether Harbor decides what this client may do to what the pool at `pool` serves.
    #[must_use]
    pub fn decides(&self, subject: &Subject, pool: Option<usize>) -> bool {
        pool == Some(self.settings.pool) && (subject.is_anonymous() || subject.provider() == HARBOR)
    }

    /// Checks a name and password, and what of `wanted` it may do.
    pub async fn check(
        &self,
        (name, password): (&str, &SecretString),
        wanted: &[ResourceAccess],
        source: IpAddr,
    ) -> Answer {
        let secret = ClientSecret::new(name, password);
        let fingerprint = secret.fingerprint();
        let deadline = Instant::now() + self.settings.timeout;
        let known = self.right.get(&fingerprint);
        if let Some(known) = &known {
            return self.go_on(known, &secret, wanted, deadline).await;
        }
        if self.wrong.contains_key(&fingerprint) {
            return Answer::Wrong;
        }
        let Some(mut turn) = self.turns.take(name, source, deadline).await else {
            self.metrics.count_identity_fault(IdentityFault::Throttled);
            return Answer::Unavailable;
        };
        // The same pair may have been checked while this one waited.
        if let Some(known) = self.right.get(&fingerprint) {
            drop(turn);
            return self.go_on(&known, &secret, wanted, deadline).await;
        }
        if self.wrong.contains_key(&fingerprint) {
            return Answer::Wrong;
        }
        match self.ask_nodes(&secret, None, wanted, deadline).await {
            Asked::Right(proven) => self.remember(fingerprint, *proven, None, wanted),
            Asked::Wrong => {
                turn.was_wrong();
                self.wrong.insert(fingerprint, ());
                Answer::Wrong
            }
            Asked::NotNow => Answer::Unavailable,
        }
    }

    /// What of `wanted` clients without credentials may do; `None` when it cannot be said now.
    pub async fn anonymous(&self, wanted: &[ResourceAccess]) -> Option<Vec<ResourceAccess>> {
        let mut granted = Vec::new();
        let mut unknown = Vec::new();
        for access in wanted {
            let place = place_of(access);
            match self.anonymous.get(&place) {
                Some(actions) => granted.extend(known::limited(access, actions)),
                None if self.anonymous_none.contains_key(&place) => {}
                None => unknown.push(access.clone()),
            }
        }
        if unknown.is_empty() {
            return Some(granted);
        }
        let token = self.anonymous_token(&unknown).await?;
        for access in &unknown {
            let actions = token.granted(access);
            if actions.is_empty() {
                self.anonymous_none.insert(place_of(access), ());
            } else {
                self.anonymous.insert(place_of(access), actions);
                granted.extend(known::limited(access, actions));
            }
        }
        Some(granted)
    }

    async fn anonymous_token(&self, wanted: &[ResourceAccess]) -> Option<NodeToken> {
        let deadline = Instant::now() + self.settings.timeout;
        let _permit = timeout_at(deadline, self.checks.acquire()).await.ok()?.ok()?;
        for (member, node) in nodes(&self.candidates(wanted)) {
            let deadline = deadline.min(Instant::now() + self.settings.try_timeout);
            match node.anonymous_token(member, wanted, deadline).await {
                Ok(token) => return Some(token),
                Err(problem) => {
                    tracing::debug!(member = member.name.as_str(), problem, "no anonymous token");
                    member.ask_for_probe();
                }
            }
        }
        self.alarm("no node of the pool gives tokens to clients without credentials");
        None
    }

    /// A pair that was right before: what it may do is known, or asked.
    async fn go_on(
        &self,
        known: &Arc<Known>,
        secret: &ClientSecret,
        wanted: &[ResourceAccess],
        deadline: Instant,
    ) -> Answer {
        if let Some(granted) = known.granted(wanted) {
            return Answer::Known(known.subject.clone(), granted);
        }
        match self.ask_nodes(secret, Some(known), wanted, deadline).await {
            Asked::Right(proven) => self.remember(secret.fingerprint(), *proven, Some(known), wanted),
            Asked::Wrong => {
                self.right.invalidate(&secret.fingerprint());
                self.wrong.insert(secret.fingerprint(), ());
                Answer::Wrong
            }
            Asked::NotNow => Answer::Unavailable,
        }
    }

    fn remember(
        &self,
        fingerprint: Fingerprint,
        proven: Proven,
        before: Option<&Arc<Known>>,
        wanted: &[ResourceAccess],
    ) -> Answer {
        let Ok(subject) = Subject::new(HARBOR, &proven.subject) else {
            tracing::warn!("a node names an account by what cannot be a name; it is refused");
            return Answer::Wrong;
        };
        let known = Known::new(subject.clone(), proven.at.name.clone(), proven.grants, before);
        let granted = known.of(wanted);
        self.right.insert(fingerprint, Arc::new(known));
        Answer::Known(subject, granted)
    }

    fn candidates(&self, wanted: &[ResourceAccess]) -> Vec<Arc<Member>> {
        match self.pool.storage {
            Storage::Shared => self.pool.candidates(seed()),
            Storage::Replicated => {
                let project = wanted.first().map(place_of).unwrap_or_default();
                self.pool.candidates_from_home(project.trim_end_matches('/'))
            }
        }
    }

    /// One node after the other, until one says yes or a believable no. Nodes without a common
    /// database know different accounts: there a no is one node's only, and so is what it grants.
    async fn ask_nodes(
        &self,
        secret: &ClientSecret,
        known: Option<&Arc<Known>>,
        wanted: &[ResourceAccess],
        deadline: Instant,
    ) -> Asked {
        let Ok(Ok(_permit)) = timeout_at(deadline, self.checks.acquire()).await else {
            self.metrics.count_identity_fault(IdentityFault::Throttled);
            return Asked::NotNow;
        };
        let mut candidates = self.candidates(wanted);
        if let Some(known) = known {
            // Stable: the node that knew it before comes first, the others stay in order.
            candidates.sort_by_key(|member| member.name != known.at);
        }
        let together = self.pool.storage == Storage::Shared;
        let mut waiting = nodes(&candidates);
        let mut proven: Option<Proven> = None;
        let mut refused = 0;
        let mut problem = "no node of the pool serves".to_owned();
        while !waiting.is_empty() {
            let Some((index, _turn)) = next_free(&waiting, secret, known.is_some(), deadline).await else {
                "others use this name at every node".clone_into(&mut problem);
                break;
            };
            let (member, node) = waiting.remove(index);
            let try_deadline = deadline.min(Instant::now() + self.settings.try_timeout);
            match node.login(member, secret, wanted, try_deadline).await {
                Login::Right(token) => {
                    let all = merge(&mut proven, &token, member, wanted);
                    if together || all {
                        break;
                    }
                }
                Login::Wrong if together => return Asked::Wrong,
                Login::Wrong => refused += 1,
                Login::NotNow(reason) => problem = format!("{}: {reason}", member.name),
                Login::Silent => {
                    problem = format!("{}: no answer in time; the directory behind it may hang", member.name);
                    member.ask_for_probe();
                }
                Login::NodeFault(reason) => {
                    problem = format!("{}: {reason}", member.name);
                    member.ask_for_probe();
                }
            }
        }
        if let Some(proven) = proven {
            return Asked::Right(Box::new(proven));
        }
        if refused > 0 && refused == self.pool.members.iter().filter(|member| member.harbor.is_some()).count()
        {
            return Asked::Wrong;
        }
        self.alarm(&problem);
        Asked::NotNow
    }

    fn alarm(&self, problem: &str) {
        self.metrics.count_identity_fault(IdentityFault::Unavailable);
        let (now, before) = (unix_now(), self.alarmed_at.load(Ordering::Acquire));
        let mine = now >= before.saturating_add(ALARM_EVERY)
            && self.alarmed_at.compare_exchange(before, now, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if mine {
            let pool = self.pool.name.as_str();
            tracing::error!(
                pool,
                problem,
                "logins cannot be judged now; they are answered 503, and no node is taken out for it"
            );
        }
    }
}

/// The first node that may be asked now, with the turn of the password; `None` when there is none
/// before the deadline.
async fn next_free<'a>(
    waiting: &[(&'a Arc<Member>, &'a HarborNode)],
    secret: &ClientSecret,
    is_known: bool,
    deadline: Instant,
) -> Option<(usize, PasswordTurn<'a>)> {
    if is_known {
        let (_, node) = waiting.first()?;
        return Some((0, timeout_at(deadline, node.password_turn(secret)).await.ok()?));
    }
    loop {
        let turn = |(index, (_, node)): (usize, &(_, &'a HarborNode))| {
            Some((index, node.try_password_turn(secret)?))
        };
        if let Some(free) = waiting.iter().enumerate().find_map(turn) {
            return Some(free);
        }
        if Instant::now() + BUSY_PAUSE >= deadline {
            return None;
        }
        tokio::time::sleep(BUSY_PAUSE).await;
    }
}

fn nodes(members: &[Arc<Member>]) -> Vec<(&Arc<Member>, &HarborNode)> {
    members.iter().filter_map(|member| Some((member, member.harbor.as_ref()?))).collect()
}

/// Takes in what one node grants. Returns whether everything wanted is granted now.
fn merge(
    proven: &mut Option<Proven>,
    token: &NodeToken,
    member: &Arc<Member>,
    wanted: &[ResourceAccess],
) -> bool {
    let Some(subject) = token.subject.clone() else { return false };
    let proven =
        proven.get_or_insert_with(|| Proven { subject, grants: Grants::default(), at: Arc::clone(member) });
    for access in wanted {
        proven.grants.add(access, token.granted(access));
    }
    wanted.iter().all(|access| proven.grants.covers(access))
}
