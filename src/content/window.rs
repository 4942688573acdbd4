//! A window on content that several clients read together: one task fills it, the fastest reader sets
//! the pace, and a reader that falls out of it reads the rest by itself.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

use super::expected::Content;
use super::rest::Resumption;
use super::resume::ContentBody;
use crate::registry::ContentHash;
use crate::upstream::{BodyError, Member};

/// Bytes that are read from a member before the fastest reader has asked for them.
const AHEAD_BYTES_MAX: usize = 256 * 1024;
/// For this long the beginning is kept for readers that are still to come, however fast it was read.
const OPEN_FOR: Duration = Duration::from_secs(2);

/// A part of some content, through which several read it.
pub struct Window {
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
    /// Each reader's next frame and its waker; `None` for a reader that has gone.
    readers: Vec<Option<(u64, Option<Waker>)>>,
    /// No reader comes in any more: what every reader has is of no use.
    closed: bool,
    /// Waits until one more frame is wanted.
    filler: Option<Waker>,
    /// Waits until no reader is left.
    abandoned: Option<Waker>,
}

/// What the filler of a window finds.
enum Room {
    /// One more frame is wanted.
    Wanted,
    /// No reader is left.
    Abandoned,
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

    /// Bytes that the fastest reader has not read yet; `None` where there is no reader.
    fn unread(&self) -> Option<usize> {
        let fastest = self.readers.iter().flatten().map(|(next, _)| *next).max()?;
        let read = usize::try_from(fastest.saturating_sub(self.first)).unwrap_or(usize::MAX);
        Some(self.frames.iter().skip(read).map(|(frame, _)| frame.len()).sum())
    }

    /// Drops what every reader has.
    fn drop_read(&mut self) {
        let slowest = self.readers.iter().flatten().map(|(next, _)| *next).min();
        while self.closed && slowest.is_some_and(|slowest| slowest > self.first) && self.drop_first() {}
    }

    fn drop_first(&mut self) -> bool {
        let Some((frame, _)) = self.frames.pop_front() else { return false };
        self.bytes -= frame.len();
        self.first += 1;
        true
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
    pub(super) fn new(bytes_max: usize, body: &ContentBody, permit: OwnedSemaphorePermit) -> Self {
        let content = body.content().anew();
        Self { state: Mutex::default(), bytes_max: bytes_max.max(1), content, _permit: permit }
    }

    fn lock(&self) -> MutexGuard<'_, WindowState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills the window until the content ends or no reader is left. `closing` ends the time in which readers come in;
    /// dropped, it does so at once.
    pub(super) async fn fill(self: Arc<Self>, mut body: ContentBody, closing: impl Future<Output = ()>) {
        let mut closing = Some(Box::pin(closing));
        let open_until = Instant::now() + OPEN_FOR;
        loop {
            let patience = if closing.is_some() { open_until } else { Instant::now() + OPEN_FOR };
            match timeout_at(patience, poll_fn(|cx| self.poll_room(cx))).await {
                Ok(Room::Wanted) => {}
                Ok(Room::Abandoned) => return,
                Err(_) => {
                    self.close(closing.take()).await;
                    self.leave_alone();
                    continue;
                }
            }
            let next = poll_fn(|cx| match self.poll_abandoned(cx) {
                Poll::Ready(()) => Poll::Ready(None),
                Poll::Pending => body.poll_data(cx).map(Some),
            });
            // Without readers nothing is asked of another member, and nothing is said of this one.
            let Some(data) = next.await else { return };
            let more = data.as_ref().and_then(|data| data.as_ref().ok()).map_or(0, Bytes::len);
            let is_full = self.lock().bytes + more > self.bytes_max;
            if is_full {
                self.close(closing.take()).await;
            }
            let mut state = self.lock();
            match data {
                Some(Ok(data)) => {
                    state.bytes += data.len();
                    state.frames.push_back((data, body.content().hash.clone()));
                    while state.bytes > self.bytes_max && state.frames.len() > 1 {
                        state.drop_first();
                    }
                }
                Some(Err(BodyError::Corrupt)) => state.ended = Some(Ending::Corrupt),
                Some(Err(_)) => state.ended = Some(Ending::Broken),
                None => state.ended = Some(Ending::Done),
            }
            state.wake_readers();
            if state.ended.is_some() {
                break;
            }
        }
        drop((closing, body));
        // Its readers keep the window, not this.
        let window = Arc::downgrade(&self);
        drop(self);
        tokio::time::sleep(OPEN_FOR).await;
        if let Some(window) = window.upgrade() {
            window.lock().closed = true;
            window.leave_alone();
        }
    }

    /// A slow reader that is left with what faster ones made the window keep reads the rest by itself.
    fn leave_alone(&self) {
        let mut state = self.lock();
        state.drop_read();
        if state.readers.iter().flatten().count() == 1 && state.bytes > 2 * AHEAD_BYTES_MAX {
            while state.drop_first() {}
            state.wake_readers();
        }
    }

    /// Ends the time in which readers come in. Requests that wait come in first: they would come too late.
    async fn close(&self, closing: Option<Pin<Box<impl Future<Output = ()>>>>) {
        let Some(closing) = closing else { return };
        closing.await;
        self.lock().closed = true;
    }

    /// Ready when one more frame is wanted, or no reader is left.
    fn poll_room(&self, cx: &Context<'_>) -> Poll<Room> {
        let mut state = self.lock();
        state.drop_read();
        match state.unread() {
            None => {
                state.closed = true;
                Poll::Ready(Room::Abandoned)
            }
            Some(unread) if unread < self.bytes_max.min(AHEAD_BYTES_MAX) => Poll::Ready(Room::Wanted),
            Some(_) => {
                state.filler = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Ready when no reader is left. From then on none comes in: nothing would fill the window for it.
    fn poll_abandoned(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.readers.iter().flatten().next().is_none() {
            state.closed = true;
            return Poll::Ready(());
        }
        match &mut state.abandoned {
            Some(waker) => waker.clone_from(cx.waker()),
            waker @ None => *waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// One more reader, if the beginning is still here.
    #[must_use]
    pub fn reader(self: &Arc<Self>) -> Option<SharedReader> {
        let mut state = self.lock();
        if state.first > 0 || state.closed {
            return None;
        }
        state.readers.push(Some((0, None)));
        let number = state.readers.len() - 1;
        drop(state);
        let position = self.content.start;
        Some(SharedReader { window: Arc::clone(self), number, position, reading: None, rest: None })
    }

    /// The content as a reader that has none of it yet sees it.
    #[must_use]
    pub fn content(&self) -> Content {
        self.content.anew()
    }
}

/// What a reader needs to go on by itself.
struct Reading {
    content: Content,
    resumption: Arc<Resumption>,
    member: Arc<Member>,
}

/// What a reader finds in a window.
enum Read {
    Frame(Bytes),
    /// That was the last one.
    End,
    /// The content failed for every reader.
    Failed(BodyError),
    /// The window has gone on: the reader is too slow for it.
    LeftBehind,
}

/// One of the readers of a window.
pub struct SharedReader {
    window: Arc<Window>,
    number: usize,
    position: u64,
    reading: Option<Reading>,
    /// It fell out of the window and reads by itself.
    rest: Option<Box<ContentBody>>,
}

impl SharedReader {
    /// With this it goes on by itself when it is too slow for the window.
    pub fn may_go_on(&mut self, resumption: Arc<Resumption>, content: Content, member: Arc<Member>) {
        self.reading = Some(Reading { content, resumption, member });
    }

    /// Bytes that the reader still gets, where that is known.
    #[must_use]
    pub fn remaining(&self) -> Option<u64> {
        match &self.rest {
            Some(rest) => rest.remaining(),
            None => self.window.content.end.map(|end| end.saturating_sub(self.position)),
        }
    }

    /// The next bytes.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            if let Some(rest) = &mut self.rest {
                return rest.poll_data(cx);
            }
            if self.remaining() == Some(0) {
                return Poll::Ready(None);
            }
            match ready!(self.poll_window(cx)) {
                Read::Frame(frame) => return Poll::Ready(Some(Ok(frame))),
                Read::End => return Poll::Ready(None),
                Read::Failed(error) => return Poll::Ready(Some(Err(error))),
                Read::LeftBehind => {
                    let Some(Reading { content, resumption, member }) = self.reading.take() else {
                        return Poll::Ready(Some(Err(BodyError::Short)));
                    };
                    self.leave();
                    self.rest =
                        Some(Box::new(ContentBody::rest(resumption, content, &member, self.position)));
                }
            }
        }
    }

    /// The next frame of the window.
    fn poll_window(&mut self, cx: &Context<'_>) -> Poll<Read> {
        let mut guard = self.window.lock();
        let (first, next) = (guard.first, guard.next());
        let state = &mut *guard;
        let Some(Some((mine, waker))) = state.readers.get_mut(self.number) else {
            return Poll::Ready(Read::LeftBehind);
        };
        if *mine < first {
            return Poll::Ready(Read::LeftBehind);
        }
        if *mine == next {
            return match state.ended {
                Some(Ending::Done) => Poll::Ready(Read::End),
                // What broke off for the client that asked first need not for this one.
                Some(Ending::Broken) if self.reading.is_some() => Poll::Ready(Read::LeftBehind),
                Some(Ending::Broken) => Poll::Ready(Read::Failed(BodyError::Short)),
                Some(Ending::Corrupt) => Poll::Ready(Read::Failed(BodyError::Corrupt)),
                None => {
                    *waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            };
        }
        let at = usize::try_from(*mine - first).unwrap_or(usize::MAX);
        let Some((frame, hash)) = state.frames.get(at).cloned() else {
            return Poll::Ready(Read::LeftBehind);
        };
        *mine += 1;
        if let Some(filler) = state.filler.take() {
            filler.wake();
        }
        drop(guard);
        self.position += frame.len() as u64;
        if let Some(reading) = &mut self.reading {
            reading.content.hash = hash;
        }
        Poll::Ready(Read::Frame(frame))
    }

    fn leave(&self) {
        let mut state = self.window.lock();
        if let Some(reader) = state.readers.get_mut(self.number) {
            *reader = None;
        }
        // Another reader may set the pace now, or none is left.
        let waiting = [state.filler.take(), state.abandoned.take()];
        waiting.into_iter().flatten().for_each(Waker::wake);
    }
}

impl Drop for SharedReader {
    fn drop(&mut self) {
        self.leave();
    }
}
