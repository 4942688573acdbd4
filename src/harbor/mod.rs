//! Harbor nodes as the provider of identities: names and passwords are checked where they are
//! kept, and what a node grants becomes ours.
//!
//! A node's yes is a token with a subject. Its no is believed only when it is proven (see
//! [`crate::upstream::harbor`]); whatever else happens is "not now", which is never a refusal. A
//! password that was right within the last minutes goes on being right until a proven no.

mod ask;
mod known;
mod turns;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use crate::auth::credentials::{LoginPair, can_be_an_account};
use crate::auth::subject::Subject;
use crate::identity::{CACHE_ENTRIES_MAX, HARBOR, HarborProviderSettings, VerifyLimits};
use crate::random::unix_now;
use crate::registry::{Actions, ResourceAccess};
use crate::telemetry::{IdentityFault, Metrics};
use crate::upstream::Pool;
use crate::upstream::harbor::{ClientSecret, Fingerprint};
use ask::{Asked, Nodes, Proven};
use known::{Known, limited, place_of};
pub use turns::Turn;
use turns::Turns;

/// The alarm that logins cannot be judged is raised at most this often, in seconds.
const ALARM_EVERY: u64 = 10;
/// How long a pair that is not asked about any more is remembered as being asked about.
const ASKED_IDLE: Duration = Duration::from_mins(1);

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

/// Asks the nodes of one pool about clients.
pub struct HarborIdentity {
    nodes: Nodes,
    /// How long a client waits for an answer.
    timeout: Duration,
    right: Cache<Fingerprint, Arc<Known>>,
    /// How long a grant counts, by its own age: others of the same account may be younger.
    grant_ttl: Duration,
    wrong: Cache<Fingerprint, ()>,
    /// Pairs that are being asked about: a client that brings the same one waits for that answer.
    asked: Cache<Fingerprint, Arc<Mutex<()>>>,
    turns: Turns,
    anonymous: Cache<String, Actions>,
    anonymous_none: Cache<String, ()>,
    metrics: Arc<Metrics>,
    alarmed_at: AtomicU64,
    /// Owns the questions, which outlive the requests that asked them.
    tasks: TaskTracker,
}

fn cache<K, V>(max: u64, ttl: Duration) -> Cache<K, V>
where
    K: std::hash::Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    Cache::builder().max_capacity(max).time_to_live(ttl).build()
}

impl HarborIdentity {
    /// Asks the nodes of `pool`.
    #[must_use]
    pub fn new(
        settings: HarborProviderSettings,
        limits: &VerifyLimits,
        pool: Arc<Pool>,
        metrics: Arc<Metrics>,
        tasks: TaskTracker,
    ) -> Arc<Self> {
        let max = CACHE_ENTRIES_MAX;
        Arc::new(Self {
            right: cache(max, limits.success_ttl),
            grant_ttl: limits.success_ttl,
            wrong: cache(max, limits.failure_ttl),
            asked: Cache::builder().max_capacity(max).time_to_idle(ASKED_IDLE).build(),
            anonymous: cache(max, limits.success_ttl),
            anonymous_none: cache(max, limits.failure_ttl),
            turns: Turns::new(max, &settings),
            timeout: settings.timeout,
            nodes: Nodes::new(settings, pool),
            metrics,
            alarmed_at: AtomicU64::new(0),
            tasks,
        })
    }

    /// The pool of the same name has other members now.
    pub fn set_pool(&self, pool: Arc<Pool>) {
        self.nodes.pool.store(pool);
    }

    /// Whether Harbor decides what this client may do to what `pool` serves.
    #[must_use]
    pub fn decides(&self, subject: &Subject, pool: Option<&Pool>) -> bool {
        self.is_of(pool) && (subject.is_anonymous() || subject.provider() == HARBOR)
    }

    /// Whether the nodes of `pool` are asked.
    #[must_use]
    pub fn is_of(&self, pool: Option<&Pool>) -> bool {
        pool.is_some_and(|pool| pool.name == self.nodes.pool.load().name)
    }

    /// A member takes this pair no longer: the next login asks again.
    pub fn forget(&self, secret: &ClientSecret) {
        self.right.invalidate(&secret.fingerprint());
    }

    /// The turn of a password that only a node sees, such as in a login form; `None` when too many
    /// of the same source wait, or it does not come in time.
    pub async fn form_turn(&self, source: IpAddr) -> Option<Turn> {
        let turn = self.turns.take("", source, Instant::now() + self.timeout).await;
        if turn.is_none() {
            self.metrics.count_identity_fault(IdentityFault::Throttled);
        }
        turn
    }

    /// Checks a name and password, and what of `wanted` it may do.
    pub async fn check(
        self: &Arc<Self>,
        pair: LoginPair<'_>,
        wanted: &[ResourceAccess],
        source: IpAddr,
    ) -> Answer {
        let LoginPair { user: name, password } = pair;
        // A node would fail at some of them, which says nothing about the node.
        if !can_be_an_account(name, password) {
            return Answer::Wrong;
        }
        let secret = ClientSecret::new(name, password);
        let deadline = Instant::now() + self.timeout;
        if let Some(answer) = self.without_turn(&secret, wanted, deadline).await {
            return answer;
        }
        // Twenty jobs with one right password are one question.
        let one = self.asked.get_with(secret.fingerprint(), Arc::default);
        let Ok(_one) = timeout_at(deadline, one.lock()).await else { return self.throttled() };
        if let Some(answer) = self.without_turn(&secret, wanted, deadline).await {
            return answer;
        }
        match self.turns.take(name, source, deadline).await {
            Some(turn) => self.ask_apart(secret, wanted.to_vec(), Some(turn), deadline).await,
            None => self.throttled(),
        }
    }

    /// What of `wanted` clients without credentials may do; `None` when it cannot be said now.
    pub async fn anonymous(&self, wanted: &[ResourceAccess]) -> Option<Vec<ResourceAccess>> {
        let mut granted = Vec::new();
        let mut unknown = Vec::new();
        for access in wanted {
            let place = place_of(access);
            match self.anonymous.get(&place) {
                Some(actions) => granted.extend(limited(access, actions)),
                None if self.anonymous_none.contains_key(&place) => {}
                None => unknown.push(access.clone()),
            }
        }
        if unknown.is_empty() {
            return Some(granted);
        }
        let Some(token) = self.nodes.anonymous_token(&unknown).await else {
            self.alarm("no node of the pool gives tokens to clients without credentials");
            return None;
        };
        for access in &unknown {
            let actions = token.granted(access);
            if actions.is_empty() {
                self.anonymous_none.insert(place_of(access), ());
            } else {
                self.anonymous.insert(place_of(access), actions);
                granted.extend(limited(access, actions));
            }
        }
        Some(granted)
    }

    fn throttled(&self) -> Answer {
        self.metrics.count_identity_fault(IdentityFault::Throttled);
        Answer::Unavailable
    }

    /// What can be said of a pair that was asked about before: a right one may still have to be
    /// asked for more, which locks no name. `None` for a pair that may be wrong.
    async fn without_turn(
        self: &Arc<Self>,
        secret: &ClientSecret,
        wanted: &[ResourceAccess],
        deadline: Instant,
    ) -> Option<Answer> {
        let fingerprint = secret.fingerprint();
        let Some(known) = self.right.get(&fingerprint) else {
            return self.wrong.contains_key(&fingerprint).then_some(Answer::Wrong);
        };
        match known.granted(wanted, Instant::now(), self.grant_ttl) {
            Some(granted) => Some(Answer::Known(known.subject.clone(), granted)),
            None => Some(self.ask_apart(secret.clone(), wanted.to_vec(), None, deadline).await),
        }
    }

    /// Asks on a task of its own: a client that goes away must not free the turn of a password
    /// that a node is still judging. A turn is given for passwords that may be wrong.
    async fn ask_apart(
        self: &Arc<Self>,
        secret: ClientSecret,
        wanted: Vec<ResourceAccess>,
        turn: Option<Turn>,
        deadline: Instant,
    ) -> Answer {
        let this = Arc::clone(self);
        let asking = self.tasks.spawn(async move { this.ask(&secret, &wanted, turn, deadline).await });
        asking.await.unwrap_or(Answer::Unavailable)
    }

    async fn ask(
        &self,
        secret: &ClientSecret,
        wanted: &[ResourceAccess],
        turn: Option<Turn>,
        deadline: Instant,
    ) -> Answer {
        let fingerprint = secret.fingerprint();
        let known = self.right.get(&fingerprint);
        let asked = self.nodes.ask(secret, known.as_ref(), wanted, deadline).await;
        match (turn, &asked) {
            // The turn ends with a pause.
            (Some(_), Asked::Wrong | Asked::Silent(_)) | (None, _) => {}
            (Some(turn), Asked::Right(_) | Asked::Busy | Asked::NotNow(_)) => turn.was_not_wrong(),
        }
        match asked {
            Asked::Right(proven) => self.remember(fingerprint, *proven, known.as_ref(), wanted),
            Asked::Wrong => {
                self.right.invalidate(&fingerprint);
                self.wrong.insert(fingerprint, ());
                Answer::Wrong
            }
            Asked::Busy => self.throttled(),
            Asked::Silent(problem) | Asked::NotNow(problem) => {
                self.alarm(&problem);
                Answer::Unavailable
            }
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
        let known = Known::new(subject.clone(), proven.at, proven.grants, before);
        let granted = known.of(wanted, Instant::now(), self.grant_ttl);
        self.right.insert(fingerprint, Arc::new(known));
        Answer::Known(subject, granted)
    }

    fn alarm(&self, problem: &str) {
        self.metrics.count_identity_fault(IdentityFault::Unavailable);
        let (now, before) = (unix_now(), self.alarmed_at.load(Ordering::Relaxed));
        let mine = now >= before.saturating_add(ALARM_EVERY)
            && self.alarmed_at.compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if mine {
            let pool = self.nodes.pool.load_full();
            let pool = pool.name.as_str();
            tracing::error!(
                pool,
                problem,
                "logins cannot be judged now; they are answered 503, and no node is taken out for it"
            );
        }
    }
}
