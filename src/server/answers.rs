//! The answers under way on a connection, and which of them the client does not read, or too slowly.
//!
//! Two things can hold an answer up: the line, which all answers of a connection share, and on h2 the window of its
//! own stream, which the client opens or not. A slow line is judged by what the connection moves in sum; a stream is
//! judged by itself where the line is free, or where others on the same line get far more than it does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::AbortHandle;

use crate::pace::{LeastRate, Pace};

/// Most bytes of one answer that are on their way between its body and the line, so that a stream that asks for
/// nothing may still be moving.
const UNDER_WAY_BYTES: u64 = 128 * 1024;
/// A stream that gets less than this part of what the others get is held up by its own window.
const FAIR_PART: u64 = 8;

/// What an answer's body does; kept up to date by the body itself. The time is in milliseconds; 0 means "not".
#[derive(Debug, Default)]
pub(super) struct Mark {
    /// Since when the client has not asked for more.
    unread_since: AtomicU64,
    given: AtomicU64,
}

impl Mark {
    /// The body gave so many bytes. From now on it is the client's turn.
    pub(super) fn gave(&self, bytes: u64, now: u64) {
        // Only the body writes.
        let given = self.given.load(Ordering::Relaxed);
        self.given.store(given.wrapping_add(bytes), Ordering::Relaxed);
        self.unread_since.store(now, Ordering::Relaxed);
    }

    /// The client would take more, and there is none yet.
    pub(super) fn waits_for_member(&self) {
        self.unread_since.store(0, Ordering::Relaxed);
    }
}

/// What the connection as a whole does at the moment of a look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line {
    /// Since the connection was opened.
    pub(super) now: Duration,
    /// Bytes that the socket took in all.
    pub(super) written: u64,
    /// Whether the socket takes no more.
    pub(super) is_blocked: bool,
    /// Whether it took no more at some time within the last window.
    pub(super) was_blocked: bool,
}

/// A pace that is looked at now and then. A state that is found at two looks in a row is taken to have lasted.
#[derive(Debug)]
struct Looked {
    pace: Pace,
    /// Bytes at the last look.
    bytes: u64,
    /// The last look, if it found that the client was waited for.
    waited_at: Option<Duration>,
    /// What the line had moved when the window under way began.
    line_then: u64,
}

impl Looked {
    fn new(least: LeastRate, bytes: u64, line: u64) -> Self {
        // Without a least rate a client still has to read something.
        let least = LeastRate { bytes_per_second: least.bytes_per_second.max(1), ..least };
        Self { pace: Pace::new(least), bytes, waited_at: None, line_then: line }
    }

    /// Looks: `waits_since` says since when the client is waited for without a break. Says whether it is too slow.
    fn look(&mut self, bytes: u64, waits_since: Option<Duration>, line: Line) -> bool {
        if let Some(since) = waits_since {
            self.pace.waits(self.waited_at.unwrap_or(since));
        }
        self.waited_at = waits_since.map(|_| line.now);
        let more = bytes.wrapping_sub(self.bytes);
        self.bytes = bytes;
        let would_be = self.pace.bytes().saturating_add(more);
        let too_slow = self.pace.moved(more, line.now);
        if self.pace.bytes() < would_be {
            self.line_then = line.written;
        }
        too_slow
    }
}

#[derive(Debug)]
struct Answer {
    mark: Arc<Mark>,
    task: Option<AbortHandle>,
    /// From the first look on.
    looked: Option<Looked>,
    line_at_begin: u64,
}

/// The answers under way.
#[derive(Debug, Default)]
pub(super) struct Answers {
    open: Vec<Answer>,
    line: Option<Looked>,
}

impl Answers {
    /// One more.
    pub(super) fn begin(&mut self, written: u64) -> Arc<Mark> {
        let mark = Arc::new(Mark::default());
        let answer = Answer { mark: Arc::clone(&mark), task: None, looked: None, line_at_begin: written };
        self.open.push(answer);
        mark
    }

    /// The task that the last one runs in.
    pub(super) fn set_task(&mut self, task: AbortHandle) {
        if let Some(answer) = self.open.last_mut().filter(|answer| answer.task.is_none()) {
            answer.task = Some(task);
        }
    }

    /// One fewer.
    pub(super) fn end(&mut self, mark: &Arc<Mark>) {
        self.open.retain(|answer| !Arc::ptr_eq(&answer.mark, mark));
    }

    /// Whether the client takes fewer bytes than it must of what it is offered.
    pub(super) fn line_is_too_slow(&mut self, line: Line, least: LeastRate) -> bool {
        let looked = self.line.get_or_insert_with(|| Looked::new(least, 0, 0));
        let too_slow = looked.look(line.written, line.is_blocked.then_some(line.now), line);
        too_slow && line.is_blocked
    }

    /// Ends the streams that the client does not read, or too slowly.
    pub(super) fn end_unread(&mut self, line: Line, least: LeastRate) {
        let streams = self.open.len() as u64;
        for answer in &mut self.open {
            let since = match answer.mark.unread_since.load(Ordering::Relaxed) {
                0 => None,
                since => Some(Duration::from_millis(since)),
            };
            let given = answer.mark.given.load(Ordering::Relaxed);
            let looked = answer.looked.get_or_insert_with(|| Looked::new(least, 0, answer.line_at_begin));
            let too_slow = looked.look(given, since, line);
            if !too_slow || since.is_none() {
                continue;
            }
            let moved = line.written.wrapping_sub(looked.line_then);
            let is_passed_over = moved / UNDER_WAY_BYTES >= 4 * streams
                && looked.pace.bytes() < moved / streams.max(1) / FAIR_PART;
            if !line.was_blocked || is_passed_over {
                if let Some(task) = &answer.task {
                    tracing::debug!(given, "the client does not read this stream: it is reset");
                    task.abort();
                }
            } else {
                *looked = Looked::new(least, given, line.written);
            }
        }
    }
}
