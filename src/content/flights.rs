//! Identical reads by digest that are under way at the same time go to a member once.
//!
//! The first of them asks. Those that come while it waits for the answer share it: small content as
//! it is, larger content through a window that one task fills. The fastest reader sets the pace; who
//! falls out of the window reads the rest by itself, so that a slow one stalls no other. Each was
//! authenticated, authorised and is logged on its own.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use http::StatusCode;
use http::header::{
    ACCEPT, HeaderMap, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE, RANGE,
};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::resume::ContentBody;
use super::window::{SharedReader, Window};
use crate::attempt::MemberRequest;
use crate::auth::subject::Subject;
use crate::registry::{BlobMethod, ManifestMethod, Reference, RegistryRequest};
use crate::upstream::{CoalesceSettings, Credential, Member, PoolName};

/// How long those that wait for an answer may take to come in once it is there.
const JOIN_PATIENCE: Duration = Duration::from_secs(1);

/// What makes two reads the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FlightKey {
    pool: PoolName,
    host: String,
    /// Path at the member: repository and digest.
    target: String,
    accept: Vec<HeaderValue>,
    range: Vec<HeaderValue>,
    /// Whose name the member sees; `None` where it sees ours.
    subject: Option<Subject>,
}

type Outcomes = DashMap<FlightKey, Arc<watch::Sender<Option<Outcome>>>>;

/// The reads that are under way.
pub struct Flights {
    flights: Arc<Outcomes>,
    /// `None` where nothing is shared.
    window_bytes: Option<usize>,
    /// How many windows there are at once.
    windows: Arc<Semaphore>,
}

/// What became of a read, for those that wait for it.
#[derive(Clone)]
pub enum Outcome {
    /// Small content.
    Held(Head, Bytes),
    /// Larger content, through a window.
    Stream(Head, Arc<Window>),
    /// There is nothing to share: each asks for itself.
    Alone,
}

/// The head of a shared answer.
#[derive(Clone)]
pub struct Head {
    /// Whose answer it is.
    pub member: Arc<Member>,
    /// Its status.
    pub status: StatusCode,
    /// Its headers, as the member sent them.
    pub headers: HeaderMap,
}

/// How a read takes part.
enum Part {
    /// It asks a member.
    Leader(Leader),
    /// It waits for the one that asks.
    Follower(watch::Receiver<Option<Outcome>>),
}

/// Asks a member for every request that waits. Dropped without an outcome, one of the waiting requests asks instead.
pub struct Leader {
    entry: FlightEntry,
    window_bytes: usize,
    windows: Arc<Semaphore>,
}

/// Where those that come find a read that is under way.
struct FlightEntry {
    key: FlightKey,
    flights: Arc<Outcomes>,
    outcome: Arc<watch::Sender<Option<Outcome>>>,
}

impl Flights {
    /// Shares reads as the settings say.
    #[must_use]
    pub fn new(settings: &CoalesceSettings) -> Self {
        Self {
            flights: Arc::default(),
            window_bytes: settings.enabled.then_some(settings.window_bytes),
            windows: Arc::new(Semaphore::new(settings.windows_max.min(Semaphore::MAX_PERMITS))),
        }
    }

    /// How many reads are under way that others may share.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flights.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }

    /// What a read can be shared by; `None` where it cannot.
    pub fn key(&self, request: &MemberRequest, host: &str) -> Option<FlightKey> {
        self.window_bytes?;
        let MemberRequest { headers, pool, subject, .. } = request;
        let target = request.registry()?;
        let by_digest = matches!(
            target,
            RegistryRequest::Blob { method: BlobMethod::Get, .. }
                | RegistryRequest::Manifest {
                    reference: Reference::Digest(_),
                    method: ManifestMethod::Get,
                    ..
                }
        );
        let conditional = [IF_MATCH, IF_NONE_MATCH, IF_RANGE, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE]
            .iter()
            .any(|name| headers.contains_key(name));
        if !by_digest || conditional {
            return None;
        }
        let mut sees_subject = false;
        for member in &pool.members {
            match member.credential {
                Credential::None | Credential::Basic(_) => {}
                Credential::Token(_) => sees_subject = true,
                // The client's own password decides there.
                Credential::Exchange | Credential::Relay => return None,
            }
        }
        let all = |name| headers.get_all(name).iter().cloned().collect();
        Some(FlightKey {
            pool: pool.name.clone(),
            host: host.to_owned(),
            target: target.member_target(),
            accept: all(ACCEPT),
            range: all(RANGE),
            subject: sees_subject.then(|| subject.clone()),
        })
    }

    /// Takes part in the read of this key.
    fn enter(&self, key: FlightKey) -> Part {
        match self.flights.entry(key) {
            Entry::Occupied(flight) => Part::Follower(flight.get().subscribe()),
            Entry::Vacant(place) => {
                let (key, outcome) = (place.key().clone(), Arc::new(watch::Sender::new(None)));
                place.insert(Arc::clone(&outcome));
                let (flights, windows) = (Arc::clone(&self.flights), Arc::clone(&self.windows));
                let window_bytes = self.window_bytes.unwrap_or_default();
                Part::Leader(Leader { entry: FlightEntry { key, flights, outcome }, window_bytes, windows })
            }
        }
    }
}

impl Leader {
    /// Whether a request waits.
    fn has_followers(&self) -> bool {
        self.entry.outcome.receiver_count() > 0
    }

    /// There is nothing that others could have.
    pub fn share_nothing(self) {
        if self.has_followers() {
            self.entry.say(Outcome::Alone);
        }
    }

    /// Small content, for every request that waits.
    pub fn share_held(self, head: impl FnOnce() -> Head, bytes: &Bytes) {
        if self.has_followers() {
            self.entry.say(Outcome::Held(head(), bytes.clone()));
        }
    }

    /// Larger content, where a request waits for it and there is room for one more window. The future
    /// fills the window, and has to be driven by another task than the reader's.
    pub fn share_stream(
        self,
        head: impl FnOnce() -> Head,
        body: ContentBody,
    ) -> Result<(SharedReader, impl Future<Output = ()> + Send + 'static), Box<ContentBody>> {
        // Of content whose end is not known the last frame is kept back, hashed already: no reader
        // could go on by itself in between.
        let may_share = self.has_followers() && body.content().end.is_some();
        let permit = Arc::clone(&self.windows).try_acquire_owned().ok().filter(|_| may_share);
        let Some(permit) = permit else {
            self.share_nothing();
            return Err(Box::new(body));
        };
        let window = Arc::new(Window::new(self.window_bytes, &body, permit));
        let Some(mut reader) = window.reader() else { return Err(Box::new(body)) };
        reader.may_go_on(body.resumption(), body.content().anew(), Arc::clone(body.member()));
        self.entry.say(Outcome::Stream(head(), Arc::clone(&window)));
        let entry = self.entry;
        Ok((reader, window.fill(body, async move { entry.close().await })))
    }
}

impl FlightEntry {
    fn say(&self, outcome: Outcome) {
        self.outcome.send_replace(Some(outcome));
    }

    /// A request that comes from now on begins anew; those that wait have a moment to come in.
    async fn close(self) {
        self.leave();
        // However it ends: a request that is not here by then asks for itself.
        drop(timeout(JOIN_PATIENCE, self.outcome.closed()).await);
    }

    fn leave(&self) {
        self.flights.remove_if(&self.key, |_, outcome| Arc::ptr_eq(outcome, &self.outcome));
    }
}

impl Drop for FlightEntry {
    fn drop(&mut self) {
        self.leave();
    }
}

/// How a read goes on.
pub enum Joined {
    /// It asks, perhaps for others too.
    Asks(Option<Leader>),
    /// Another request has asked.
    Shared(Outcome),
}

/// Asks, or waits for the outcome of another request. Where that one went away, it begins anew.
pub async fn join(flights: &Flights, key: Option<FlightKey>) -> Joined {
    let Some(key) = key else { return Joined::Asks(None) };
    loop {
        let mut receiver = match flights.enter(key.clone()) {
            Part::Leader(leader) => return Joined::Asks(Some(leader)),
            Part::Follower(receiver) => receiver,
        };
        let outcome = receiver.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        match outcome {
            None => {}
            Some(Outcome::Alone) => return Joined::Asks(None),
            Some(outcome) => return Joined::Shared(outcome),
        }
    }
}
