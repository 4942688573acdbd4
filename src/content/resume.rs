//! Content that goes on from another member when its member breaks off, stalls or ends early:
//! it is named by its digest, so the rest is the same wherever it comes from.
//!
//! Whole content is hashed on its way, and its last frame goes out only when the digest is right.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;

use super::expected::Content;
use super::rest::{Continued, Rest, Resumption};
use crate::attempt::MemberBody;
use crate::upstream::{BodyError, IdleTimer, Member, MemberName, TakenBack};

/// How often and with how much an answer went on from other members, for the log.
#[derive(Debug, Default)]
pub struct Resumed {
    switches: AtomicU64,
    bytes: AtomicU64,
}

impl Resumed {
    /// How often it went on elsewhere.
    #[must_use]
    pub fn switches(&self) -> u64 {
        self.switches.load(Ordering::Acquire)
    }

    /// Bytes that came from another member than the first.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }
}

type Resuming = Pin<Box<dyn Future<Output = Option<Continued>> + Send>>;

/// Content on its way to a client.
pub struct ContentBody {
    resumption: Arc<Resumption>,
    content: Content,
    member: Arc<Member>,
    /// `None` for the rest of something that was read elsewhere so far.
    stream: Option<MemberBody>,
    /// What came before the answer was passed on.
    held: VecDeque<Bytes>,
    /// Kept back until it is known whether it is the last.
    last: Option<Bytes>,
    /// It was not the last after all.
    ready: Option<Bytes>,
    /// The next byte that the client gets, in the whole.
    position: u64,
    stall: IdleTimer,
    /// Those that are not asked any more.
    tried: Vec<MemberName>,
    /// Those that sent a part of it, in order.
    contributors: Vec<Arc<Member>>,
    resuming: Option<(Resuming, BodyError)>,
    resumed: Arc<Resumed>,
    /// Nobody is left to go on.
    exhausted: bool,
    ended: bool,
}

impl ContentBody {
    /// Content from `member`, of which `held` has come already.
    #[must_use]
    pub fn new(
        resumption: Resumption,
        content: Content,
        (member, mut stream): (Arc<Member>, MemberBody),
        held: VecDeque<Bytes>,
    ) -> Self {
        if content.end.is_some() {
            stream.allow_reclaim(TakenBack::GoesOn);
        }
        let stall = IdleTimer::new(resumption.request().pool.limits.body_stall_timeout);
        let (position, tried) = (content.start, vec![member.name.clone()]);
        Self {
            contributors: vec![Arc::clone(&member)],
            resumption: Arc::new(resumption),
            content,
            member,
            stream: Some(stream),
            held,
            last: None,
            ready: None,
            position,
            stall,
            tried,
            resuming: None,
            resumed: Arc::default(),
            exhausted: false,
            ended: false,
        }
    }

    /// The rest of content of which the client has everything before `position`, hashed in
    /// `content`. Any member may go on, `member` too.
    pub(super) fn rest(
        resumption: Arc<Resumption>,
        content: Content,
        member: Arc<Member>,
        position: u64,
    ) -> Self {
        let stall = IdleTimer::new(resumption.request().pool.limits.body_stall_timeout);
        let rest = Rest { from: position, end: content.end, total: content.total, is_free: true };
        let going_on = Arc::clone(&resumption).continue_in_turn(content.digest.clone(), rest);
        Self {
            contributors: vec![Arc::clone(&member)],
            resumption,
            content,
            member,
            stream: None,
            held: VecDeque::new(),
            last: None,
            ready: None,
            position,
            stall,
            tried: Vec::new(),
            resuming: Some((Box::pin(going_on), BodyError::Short)),
            resumed: Arc::default(),
            exhausted: false,
            ended: false,
        }
    }

    /// What it is.
    pub(super) fn content(&self) -> &Content {
        &self.content
    }

    /// What it takes to go on elsewhere.
    pub(super) fn resumption(&self) -> Arc<Resumption> {
        Arc::clone(&self.resumption)
    }

    /// Whom it comes from now.
    pub(super) fn member(&self) -> &Arc<Member> {
        &self.member
    }

    /// How often it went on elsewhere, now and later.
    #[must_use]
    pub fn resumed(&self) -> Arc<Resumed> {
        Arc::clone(&self.resumed)
    }

    /// Bytes that the client still gets.
    #[must_use]
    pub fn remaining(&self) -> Option<u64> {
        let kept: u64 = self.last.iter().chain(&self.ready).map(|kept| kept.len() as u64).sum();
        self.content.end.map(|end| end.saturating_sub(self.position) + kept)
    }

    /// Whether there is nothing more to come.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// The next bytes for the client.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let polled = self.poll_next(cx);
        if let Poll::Ready(Some(Err(_)) | None) = &polled {
            self.ended = true;
        }
        polled
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.ended || self.remaining() == Some(0) {
            return Poll::Ready(None);
        }
        if let Some(ready) = self.ready.take() {
            return Poll::Ready(Some(Ok(ready)));
        }
        loop {
            if let Some(data) = self.held.pop_front() {
                if let Some(ready) = self.take(data) {
                    return Poll::Ready(Some(ready));
                }
                continue;
            }
            if let Some((resuming, _)) = &mut self.resuming {
                match resuming.as_mut().poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(continued) => {
                        let error = self.resuming.take().map_or(BodyError::Short, |(_, error)| error);
                        if let Some(error) = self.go_on(continued, error) {
                            return Poll::Ready(Some(Err(error)));
                        }
                        if let Some(ready) = self.ready.take() {
                            return Poll::Ready(Some(Ok(ready)));
                        }
                    }
                }
            }
            let Some(stream) = &mut self.stream else {
                return Poll::Ready(Some(Err(BodyError::Short)));
            };
            match stream.poll_frame(cx) {
                Poll::Pending => {
                    let stalls = self.may_switch() && self.stall.poll_idle(cx).is_ready();
                    if !stalls {
                        return Poll::Pending;
                    }
                    self.stall.progressed();
                    self.start_resuming(BodyError::Idle);
                }
                Poll::Ready(Some(Ok(frame))) => {
                    self.stall.progressed();
                    let Ok(data) = frame.into_data() else { continue };
                    if let Some(ready) = self.take(data) {
                        return Poll::Ready(Some(ready));
                    }
                }
                // A client that waited was given the connection: the rest is asked for in turn.
                Poll::Ready(Some(Err(BodyError::Reclaimed))) => self.wait_for_turn(),
                Poll::Ready(Some(Err(error))) => {
                    if !self.may_switch() {
                        return Poll::Ready(Some(Err(self.broken(error))));
                    }
                    self.start_resuming(error);
                }
                Poll::Ready(None) => match self.at_end() {
                    Ok(last) => return Poll::Ready(last.map(Ok)),
                    Err(error) if self.may_switch() => self.start_resuming(error),
                    Err(error) => return Poll::Ready(Some(Err(self.broken(error)))),
                },
            }
        }
    }

    /// Takes in what came. Returns what goes to the client now, if anything does.
    fn take(&mut self, data: Bytes) -> Option<Result<Bytes, BodyError>> {
        if data.is_empty() {
            return None;
        }
        self.position += data.len() as u64;
        if self.resumed.switches() > 0 {
            self.resumed.bytes.fetch_add(data.len() as u64, Ordering::AcqRel);
            self.resumption.request().pool.metrics.resumed_bytes.inc_by(data.len() as u64);
        }
        if let Some(hash) = &mut self.content.hash {
            hash.update(&data);
        }
        match self.content.end {
            Some(end) if self.position > end => Some(Err(self.corrupt())),
            Some(end) if self.position == end => {
                Some(if self.is_right() { Ok(data) } else { Err(self.corrupt()) })
            }
            Some(_) => Some(Ok(data)),
            // The last frame is only known when there is no further one.
            None => self.last.replace(data).map(Ok),
        }
    }

    /// The member says that this is all.
    fn at_end(&mut self) -> Result<Option<Bytes>, BodyError> {
        match self.content.end {
            Some(end) if self.position < end => Err(BodyError::Short),
            Some(_) => Ok(None),
            None if self.is_right() => {
                self.content.end = Some(self.position);
                Ok(self.last.take())
            }
            // It may have ended too early; whoever has more says so.
            None => Err(BodyError::Corrupt),
        }
    }

    fn is_right(&self) -> bool {
        let right = self.content.hash.as_ref().is_none_or(|hash| hash.is(&self.content.digest));
        if right && self.content.hash.is_some() && self.contributors.len() == 1 {
            self.resumption.checks.quarantine.remove(&self.member.name, &self.content.digest);
        }
        right
    }

    /// Not what it should be, and the client has most of it. Where several members sent parts of it,
    /// which of them is to blame is not known: the first is asked last from now on, and if it was
    /// another, that one's next answer shows it.
    fn corrupt(&self) -> BodyError {
        let first = self.contributors.first().unwrap_or(&self.member);
        if self.contributors.len() > 1 {
            let names: Vec<&str> = self.contributors.iter().map(|member| member.name.as_str()).collect();
            tracing::error!(
                request_id = &*self.resumption.request().id,
                members = names.join(", "),
                "parts of several members are not what the digest says; one of them has it broken"
            );
        }
        self.resumption.checks.note_corrupt(first, &self.content.digest);
        BodyError::Corrupt
    }

    fn broken(&self, error: BodyError) -> BodyError {
        if matches!(error, BodyError::Corrupt) {
            return self.corrupt();
        }
        self.member.ask_for_probe();
        self.resumption.request().pool.metrics.resumes_failed.inc();
        error
    }

    fn may_switch(&self) -> bool {
        !self.exhausted
            && self.resuming.is_none()
            && self.resumed.switches() < u64::from(self.resumption.request().pool.limits.resume_max)
    }

    fn start_resuming(&mut self, error: BodyError) {
        self.member.ask_for_probe();
        let (end, total) = (self.content.end, self.content.total);
        let rest = Rest { from: self.position, end, total, is_free: false };
        let resumption = Arc::clone(&self.resumption);
        let going_on = resumption.continue_elsewhere(self.content.digest.clone(), rest, self.tried.clone());
        self.resuming = Some((Box::pin(going_on), error));
    }

    /// Asks for the rest anew, of any member, until its turn comes. Nothing has failed.
    fn wait_for_turn(&mut self) {
        let (end, total) = (self.content.end, self.content.total);
        let rest = Rest { from: self.position, end, total, is_free: true };
        self.resumption.request().pool.metrics.reclaims.inc();
        let going_on = Arc::clone(&self.resumption).continue_in_turn(self.content.digest.clone(), rest);
        self.resuming = Some((Box::pin(going_on), BodyError::Reclaimed));
    }

    /// Goes on with another member. Without one, a member that only stalls has more time; else the
    /// error is returned.
    fn go_on(&mut self, continued: Option<Continued>, error: BodyError) -> Option<BodyError> {
        let Some(Continued { member, mut body, end }) = continued else {
            self.exhausted = true;
            let still_there = self.stream.as_ref().is_some_and(|stream| !stream.has_failed());
            if matches!(error, BodyError::Idle) && still_there {
                return None;
            }
            self.resumption.request().pool.metrics.resumes_failed.inc();
            return Some(if matches!(error, BodyError::Corrupt) { self.corrupt() } else { error });
        };
        body.allow_reclaim(TakenBack::GoesOn);
        if matches!(error, BodyError::Reclaimed) {
            if member.name != self.member.name {
                // The one before has not failed, and may be asked again.
                self.tried.retain(|tried| *tried != self.member.name);
                self.tried.push(member.name.clone());
                self.contributors.push(Arc::clone(&member));
            }
            (self.member, self.stream) = (member, Some(body));
            self.stall.progressed();
            return None;
        }
        let (from, to) = (self.member.name.as_str(), member.name.as_str());
        tracing::info!(
            request_id = &*self.resumption.request().id,
            from, to, %error, at = self.position, "an answer goes on from another member"
        );
        // The other one does better, so it was the member's fault.
        if !self.tried.is_empty() {
            let problem = format!("its answer broke off: {error}");
            self.resumption.request().pool.member_failed(
                &self.member,
                &problem,
                Some(self.resumption.request().client),
            );
        }
        self.resumption.request().pool.metrics.resumes.inc();
        self.resumed.switches.fetch_add(1, Ordering::AcqRel);
        self.tried.push(member.name.clone());
        self.contributors.push(Arc::clone(&member));
        self.content.end = Some(end);
        self.ready = self.last.take();
        (self.member, self.stream) = (member, Some(body));
        self.stall.progressed();
        None
    }
}
