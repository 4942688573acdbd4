//! Identical reads by digest that are under way at the same time go to a member once.
//!
//! The first of them asks. Those that come while it waits for the answer share it: small content as
//! it is, larger content through a window that one task fills. The fastest reader sets the pace; who
//! falls out of the window reads the rest by itself, so that a slow one stalls nobody. Each was
//! authenticated, authorised and is logged on its own.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use http::StatusCode;
use http::header::{
    ACCEPT, HeaderMap, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE, RANGE,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;

use super::content::Content;
use super::rest::Plan;
use super::resume::ContentBody;
use crate::auth::subject::Subject;
use crate::registry::{BlobMethod, ContentHash, ManifestMethod, Reference, RegistryRequest};
use crate::upstream::{BodyError, CoalesceSettings, Credential, Member, Pool, PoolName};

/// How long those that wait for an answer may take to come in once it is there.
const JOIN_PATIENCE: Duration = Duration::from_secs(1);

/// What makes two reads the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct FlightKey {
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
pub(super) enum Outcome {
    /// Small content.
    Held(Head, Bytes),
    /// Larger content, through a window.
    Stream(Head, Arc<Window>),
    /// There is nothing to share: each asks for itself.
    Alone,
}

/// The head of a shared answer.
#[derive(Clone)]
pub(super) struct Head {
    pub member: Arc<Member>,
    pub status: StatusCode,
    pub headers: HeaderMap,
}

/// How a read takes part.
pub(super) enum Part {
    /// It asks a member.
    Leader(Leader),
    /// It waits for the one that asks.
    Follower(watch::Receiver<Option<Outcome>>),
}

/// Asks for all who wait. Dropped without a word, one of those that wait asks instead.
pub(super) struct Leader {
    place: Place,
    window_bytes: usize,
    windows: Arc<Semaphore>,
}

/// Where those that come find a read that is under way.
struct Place {
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
    pub(super) fn key(
        &self,
        (target, host): (&RegistryRequest, &str),
        pool: &Pool,
        headers: &HeaderMap,
        subject: &Subject,
    ) -> Option<FlightKey> {
        self.window_bytes?;
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
    pub(super) fn enter(&self, key: FlightKey) -> Part {
        match self.flights.entry(key) {
            Entry::Occupied(flight) => Part::Follower(flight.get().subscribe()),
            Entry::Vacant(place) => {
                let (key, outcome) = (place.key().clone(), Arc::new(watch::Sender::new(None)));
                place.insert(Arc::clone(&outcome));
                let (flights, windows) = (Arc::clone(&self.flights), Arc::clone(&self.windows));
                let window_bytes = self.window_bytes.unwrap_or_default();
                Part::Leader(Leader { place: Place { key, flights, outcome }, window_bytes, windows })
            }
        }
    }
}

impl Leader {
    /// Whether somebody waits.
    fn has_followers(&self) -> bool {
        self.place.outcome.receiver_count() > 0
    }

    /// There is nothing that others could have.
    pub(super) fn share_nothing(self) {
        if self.has_followers() {
            self.place.say(Outcome::Alone);
        }
    }

    /// Small content, for all who wait.
    pub(super) fn share_held(self, head: impl FnOnce() -> Head, bytes: &Bytes) {
        if self.has_followers() {
            self.place.say(Outcome::Held(head(), bytes.clone()));
        }
    }

    /// Larger content, where somebody waits for it and there is room for one more window. The future
    /// fills the window, and has to be driven by somebody else than the reader.
    pub(super) fn share_stream(
        self,
        head: impl FnOnce() -> Head,
        body: ContentBody,
    ) -> Result<(SharedReader, impl Future<Output = ()> + Send + 'static), Box<ContentBody>> {
        // Of content whose end is not known the last frame is kept back, hashed already: nobody could
        // go on by himself in between.
        let may_share = self.has_followers() && body.content().end.is_some();
        let permit = Arc::clone(&self.windows).try_acquire_owned().ok().filter(|_| may_share);
        let Some(permit) = permit else {
            self.share_nothing();
            return Err(Box::new(body));
        };
        let window = Arc::new(Window::new(self.window_bytes, &body, permit));
        let Some(mut reader) = window.reader() else { return Err(Box::new(body)) };
        reader.may_go_on(body.plan(), body.content().anew(), Arc::clone(body.member()));
        self.place.say(Outcome::Stream(head(), Arc::clone(&window)));
        let place = self.place;
        Ok((reader, window.fill(body, place)))
    }
}

impl Place {
    fn say(&self, outcome: Outcome) {
        self.outcome.send_replace(Some(outcome));
    }
}

impl Place {
    /// Whoever comes from now on begins anew; those that wait have a moment to come in.
    async fn close(self) {
        self.leave();
        // However it ends: who is not here by then asks for himself.
        drop(timeout(JOIN_PATIENCE, self.outcome.closed()).await);
    }

    fn leave(&self) {
        self.flights.remove_if(&self.key, |_, outcome| Arc::ptr_eq(outcome, &self.outcome));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

/// How a read goes on.
pub(super) enum Joined {
    /// It asks, perhaps for others too.
    Asks(Option<Leader>),
    /// Somebody else has asked.
    Shared(Outcome),
}

/// Asks, or waits for what somebody else comes to. Where that one went away, it begins anew.
pub(super) async fn join(flights: &Flights, key: Option<FlightKey>) -> Joined {
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

/// A part of some content, through which several read it.
pub(super) struct Window {
    state: Mutex<WindowState>,
    bytes_max: usize,
    content: Content,
    /// Its share of the memory, until its last reader is gone.
    _permit: OwnedSemaphorePermit,
}

#[derive(Default)]
struct WindowState {
    /// The frames that are kept, each with the hash of everything up to its end.
    frames: VecDeque<(Bytes, Option<ContentHash>)>,
    /// Number of the first that is kept.
    first: u64,
    bytes: usize,
    /// How the content ended.
    ended: Option<Ending>,
    /// Each reader's next frame, and whom to wake; `None` for one that has gone.
    readers: Vec<Option<(u64, Option<Waker>)>>,
    filler: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Done,
    Broken,
    Corrupt,
}

impl WindowState {
    fn next(&self) -> u64 {
        self.first + self.frames.len() as u64
    }

    /// Bytes that the fastest reader has not read yet; `None` where nobody reads.
    fn unread(&self) -> Option<usize> {
        let fastest = self.readers.iter().flatten().map(|(next, _)| *next).max()?;
        let read = usize::try_from(fastest.saturating_sub(self.first)).unwrap_or(usize::MAX);
        Some(self.frames.iter().skip(read).map(|(frame, _)| frame.len()).sum())
    }

    fn wake_readers(&mut self) {
        for (_, waker) in self.readers.iter_mut().flatten() {
            if let Some(waker) = waker.take() {
                waker.wake();
            }
        }
    }
}

impl Window {
    fn new(bytes_max: usize, body: &ContentBody, permit: OwnedSemaphorePermit) -> Self {
        let content = body.content().anew();
        Self { state: Mutex::default(), bytes_max: bytes_max.max(1), content, _permit: permit }
    }

    fn lock(&self) -> MutexGuard<'_, WindowState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills the window until the content ends or nobody reads any more.
    async fn fill(self: Arc<Self>, mut body: ContentBody, place: Place) {
        let mut place = Some(place);
        loop {
            let wanted = std::future::poll_fn(|cx| self.poll_room(cx)).await;
            if !wanted {
                return;
            }
            let data = std::future::poll_fn(|cx| body.poll_data(cx)).await;
            let more = data.as_ref().and_then(|data| data.as_ref().ok()).map_or(0, Bytes::len);
            if self.lock().bytes + more > self.bytes_max
                && let Some(place) = place.take()
            {
                // Who has not begun yet would come too late: those that wait come in first.
                place.close().await;
            }
            let mut state = self.lock();
            match data {
                Some(Ok(data)) => {
                    state.bytes += data.len();
                    state.frames.push_back((data, body.content().hash.clone()));
                    while state.bytes > self.bytes_max && state.frames.len() > 1 {
                        let Some((frame, _)) = state.frames.pop_front() else { break };
                        state.bytes -= frame.len();
                        state.first += 1;
                    }
                }
                Some(Err(BodyError::Corrupt)) => state.ended = Some(Ending::Corrupt),
                Some(Err(_)) => state.ended = Some(Ending::Broken),
                None => state.ended = Some(Ending::Done),
            }
            state.wake_readers();
            if state.ended.is_some() {
                return;
            }
        }
    }

    /// Ready when one more frame is wanted, with `false` when nobody is left.
    fn poll_room(&self, cx: &Context<'_>) -> Poll<bool> {
        let mut state = self.lock();
        match state.unread() {
            None => Poll::Ready(false),
            Some(unread) if unread < self.bytes_max => Poll::Ready(true),
            Some(_) => {
                state.filler = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// One more reader, if the beginning is still here.
    pub(super) fn reader(self: &Arc<Self>) -> Option<SharedReader> {
        let mut state = self.lock();
        if state.first > 0 {
            return None;
        }
        state.readers.push(Some((0, None)));
        let number = state.readers.len() - 1;
        drop(state);
        let position = self.content.start;
        Some(SharedReader { window: Arc::clone(self), number, position, reading: None, rest: None })
    }

    /// The content as a reader that has none of it yet sees it.
    pub(super) fn content(&self) -> Content {
        self.content.anew()
    }
}

/// What a reader needs to go on by itself.
struct Reading {
    content: Content,
    plan: Arc<Plan>,
    member: Arc<Member>,
}

/// One of those that read a window.
pub(super) struct SharedReader {
    window: Arc<Window>,
    number: usize,
    position: u64,
    reading: Option<Reading>,
    /// It fell out of the window and reads by itself.
    rest: Option<Box<ContentBody>>,
}

impl SharedReader {
    /// With this it goes on by itself when it is too slow for the window.
    pub(super) fn may_go_on(&mut self, plan: Arc<Plan>, content: Content, member: Arc<Member>) {
        self.reading = Some(Reading { content, plan, member });
    }

    pub(super) fn remaining(&self) -> Option<u64> {
        match &self.rest {
            Some(rest) => rest.remaining(),
            None => self.window.content.end.map(|end| end.saturating_sub(self.position)),
        }
    }

    pub(super) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            if let Some(rest) = &mut self.rest {
                return rest.poll_data(cx);
            }
            if self.remaining() == Some(0) {
                return Poll::Ready(None);
            }
            match self.poll_window(cx) {
                Poll::Ready(Some(read)) => return Poll::Ready(read),
                Poll::Pending => return Poll::Pending,
                // Too slow for the window.
                Poll::Ready(None) => {
                    let Some(Reading { content, plan, member }) = self.reading.take() else {
                        return Poll::Ready(Some(Err(BodyError::Short)));
                    };
                    self.leave();
                    self.rest = Some(Box::new(ContentBody::rest(plan, content, member, self.position)));
                }
            }
        }
    }

    /// The next frame of the window; ready with `None` where that is gone.
    fn poll_window(&mut self, cx: &Context<'_>) -> Poll<Option<Option<Result<Bytes, BodyError>>>> {
        let mut guard = self.window.lock();
        let (first, next) = (guard.first, guard.next());
        let state = &mut *guard;
        let Some(Some((mine, waker))) = state.readers.get_mut(self.number) else { return Poll::Ready(None) };
        if *mine < first {
            return Poll::Ready(None);
        }
        if *mine == next {
            return match state.ended {
                Some(Ending::Done) => Poll::Ready(Some(None)),
                Some(Ending::Broken) => Poll::Ready(Some(Some(Err(BodyError::Short)))),
                Some(Ending::Corrupt) => Poll::Ready(Some(Some(Err(BodyError::Corrupt)))),
                None => {
                    *waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            };
        }
        let at = usize::try_from(*mine - first).unwrap_or(usize::MAX);
        let Some((frame, hash)) = state.frames.get(at).cloned() else { return Poll::Ready(None) };
        *mine += 1;
        if let Some(filler) = state.filler.take() {
            filler.wake();
        }
        drop(guard);
        self.position += frame.len() as u64;
        if let Some(reading) = &mut self.reading {
            reading.content.hash = hash;
        }
        Poll::Ready(Some(Some(Ok(frame))))
    }

    fn leave(&self) {
        let mut state = self.window.lock();
        if let Some(reader) = state.readers.get_mut(self.number) {
            *reader = None;
        }
        // Somebody else may set the pace now, or nobody is left.
        if let Some(filler) = state.filler.take() {
            filler.wake();
        }
    }
}

impl Drop for SharedReader {
    fn drop(&mut self) {
        self.leave();
    }
}
