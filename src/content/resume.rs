//! Content that goes on from another member when its member breaks off, stalls or ends early:
//! it is named by its digest, so the rest is the same wherever it comes from.
//!
//! Whole content is hashed on its way, and its last frame goes out only when the digest is right.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::expected::Content;
use super::rest::{Continued, Rest, Resumption};
use super::settle::Coming;
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
        self.switches.load(Ordering::Relaxed)
    }

    /// Bytes that came from another member than the first.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Content on its way to a client.
pub struct ContentBody {
    resumption: Arc<Resumption>,
    content: Content,
    /// The member that it comes from now.
    member: Arc<Member>,
    phase: ContentPhase,
    kept: Kept,
    /// The next byte that the client gets, in the whole.
    position: u64,
    stall: IdleTimer,
    /// The members that are not asked any more.
    tried: Vec<MemberName>,
    /// The members that sent a part of it, in order.
    contributors: Vec<Arc<Member>>,
    resumed: Arc<Resumed>,
    /// No other member is left to go on.
    exhausted: bool,
}

/// What happens to the content now.
enum ContentPhase {
    /// It comes from a member.
    Streaming(Streaming),
    /// A member is asked for the rest.
    Asking(AskingForRest),
    /// There is nothing more to come.
    Ended,
}

/// Content that comes from a member.
struct Streaming {
    /// What came before the answer was passed on, and goes out first.
    held: VecDeque<Bytes>,
    body: MemberBody,
}

/// The rest is being asked for.
struct AskingForRest {
    question: Pin<Box<dyn Future<Output = Option<Continued>> + Send>>,
    because: Because,
    /// What came until then, where it has not failed: it may only stall.
    before: Option<Streaming>,
}

/// Why the rest is asked for.
enum Because {
    /// The member failed, or stalls.
    Failure(BodyError),
    /// The connection was given to a client that waited.
    Reclaimed,
    /// The client read with others until now, and is too slow for them.
    LeftBehind,
}

/// A frame that is not with the client yet.
enum Kept {
    Nothing,
    /// Whether it is the last is not known; if so, the digest decides.
    PerhapsLast(Bytes),
    /// It was not the last: it goes out now.
    Due(Bytes),
}

impl Because {
    fn into_error(self) -> BodyError {
        match self {
            Self::Failure(error) => error,
            Self::Reclaimed => BodyError::Reclaimed,
            Self::LeftBehind => BodyError::Short,
        }
    }
}

impl Kept {
    fn len(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::PerhapsLast(data) | Self::Due(data) => data.len(),
        }
    }

    fn take(&mut self) -> Option<Bytes> {
        match std::mem::replace(self, Self::Nothing) {
            Self::Nothing => None,
            Self::PerhapsLast(data) | Self::Due(data) => Some(data),
        }
    }

    /// Keeps a frame until the next one has come; returns the one before.
    fn keep(&mut self, data: Bytes) -> Option<Bytes> {
        let before = self.take();
        *self = Self::PerhapsLast(data);
        before
    }

    fn becomes_due(&mut self) {
        if let Some(data) = self.take() {
            *self = Self::Due(data);
        }
    }
}

impl ContentBody {
    /// Content from `member`, of which a part has come already.
    #[must_use]
    pub fn new(resumption: Resumption, member: &Arc<Member>, coming: Coming) -> Self {
        let Coming { content, held, mut body } = coming;
        if content.end.is_some() {
            body.allow_reclaim(TakenBack::GoesOn);
        }
        let tried = vec![member.name.clone()];
        let (position, phase) = (content.start, ContentPhase::Streaming(Streaming { held, body }));
        let resumption = Arc::new(resumption);
        Self { tried, ..Self::at(resumption, content, member, position, phase) }
    }

    /// The rest of content of which the client has everything before `position`, hashed in
    /// `content`. Any member may go on, `member` too.
    pub(super) fn rest(
        resumption: Arc<Resumption>,
        content: Content,
        member: &Arc<Member>,
        position: u64,
    ) -> Self {
        let rest = Rest { from: position, end: content.end, total: content.total, is_free: true };
        let question = Arc::clone(&resumption).continue_in_turn(content.digest.clone(), rest);
        let because = Because::LeftBehind;
        let phase =
            ContentPhase::Asking(AskingForRest { question: Box::pin(question), because, before: None });
        Self::at(resumption, content, member, position, phase)
    }

    fn at(
        resumption: Arc<Resumption>,
        content: Content,
        member: &Arc<Member>,
        position: u64,
        phase: ContentPhase,
    ) -> Self {
        Self {
            stall: IdleTimer::new(resumption.request().pool.limits.body_stall_timeout),
            contributors: vec![Arc::clone(member)],
            resumption,
            content,
            member: Arc::clone(member),
            phase,
            kept: Kept::Nothing,
            position,
            tried: Vec::new(),
            resumed: Arc::default(),
            exhausted: false,
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

    /// The member that it comes from now.
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
        self.content.end.map(|end| end.saturating_sub(self.position) + self.kept.len() as u64)
    }

    /// Whether there is nothing more to come.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.phase, ContentPhase::Ended)
    }

    /// The next bytes for the client.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let polled = if self.remaining() == Some(0) { Poll::Ready(None) } else { self.poll_next(cx) };
        if let Poll::Ready(Some(Err(_)) | None) = &polled {
            self.phase = ContentPhase::Ended;
        }
        polled
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            if let Kept::Due(_) = &self.kept {
                return Poll::Ready(self.kept.take().map(Ok));
            }
            let frame = match &mut self.phase {
                ContentPhase::Ended => return Poll::Ready(None),
                ContentPhase::Asking(asking) => {
                    let continued = ready!(asking.question.as_mut().poll(cx));
                    if let Some(error) = self.answered(continued) {
                        return Poll::Ready(Some(Err(error)));
                    }
                    continue;
                }
                ContentPhase::Streaming(streaming) => match streaming.held.pop_front() {
                    Some(data) => Poll::Ready(Some(Ok(data))),
                    None => {
                        streaming.body.poll_frame(cx).map_ok(|frame| frame.into_data().unwrap_or_default())
                    }
                },
            };
            match frame {
                Poll::Pending => {
                    let stalls = self.may_switch() && self.stall.poll_idle(cx).is_ready();
                    if !stalls {
                        return Poll::Pending;
                    }
                    self.stall.progressed();
                    self.ask_elsewhere(BodyError::Idle);
                }
                Poll::Ready(Some(Ok(data))) => {
                    self.stall.progressed();
                    if let Some(ready) = self.take(data) {
                        return Poll::Ready(Some(ready));
                    }
                }
                // A client that waited was given the connection: the rest is asked for in turn.
                Poll::Ready(Some(Err(BodyError::Reclaimed))) => self.wait_for_turn(),
                Poll::Ready(Some(Err(error))) if self.may_switch() => self.ask_elsewhere(error),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(self.broken(error)))),
                Poll::Ready(None) => match self.at_end() {
                    Ok(last) => return Poll::Ready(last.map(Ok)),
                    Err(error) if self.may_switch() => self.ask_elsewhere(error),
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
            self.resumed.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
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
            None => self.kept.keep(data).map(Ok),
        }
    }

    /// The member says that this is all.
    fn at_end(&mut self) -> Result<Option<Bytes>, BodyError> {
        match self.content.end {
            Some(end) if self.position < end => Err(BodyError::Short),
            Some(_) => Ok(None),
            None if self.is_right() => {
                self.content.end = Some(self.position);
                Ok(self.kept.take())
            }
            // It may have ended too early; a member that has more says so.
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
        let limits = &self.resumption.request().pool.limits;
        !self.exhausted && self.resumed.switches() < u64::from(limits.resume_max)
    }

    /// Asks the other members for the rest.
    fn ask_elsewhere(&mut self, error: BodyError) {
        self.member.ask_for_probe();
        let resumption = Arc::clone(&self.resumption);
        let rest = self.what_is_missing(false);
        let question = resumption.continue_elsewhere(self.content.digest.clone(), rest, self.tried.clone());
        self.ask(Box::pin(question), Because::Failure(error));
    }

    /// Asks for the rest anew, of any member, until its turn comes. Nothing has failed.
    fn wait_for_turn(&mut self) {
        self.resumption.request().pool.metrics.reclaims.inc();
        let rest = self.what_is_missing(true);
        let question = Arc::clone(&self.resumption).continue_in_turn(self.content.digest.clone(), rest);
        self.ask(Box::pin(question), Because::Reclaimed);
    }

    fn what_is_missing(&self, is_free: bool) -> Rest {
        Rest { from: self.position, end: self.content.end, total: self.content.total, is_free }
    }

    fn ask(&mut self, question: Pin<Box<dyn Future<Output = Option<Continued>> + Send>>, because: Because) {
        let before = match std::mem::replace(&mut self.phase, ContentPhase::Ended) {
            ContentPhase::Streaming(streaming) => {
                Some(streaming).filter(|streaming| !streaming.body.has_failed())
            }
            ContentPhase::Asking(_) | ContentPhase::Ended => None,
        };
        self.phase = ContentPhase::Asking(AskingForRest { question, because, before });
    }

    /// It is known whether another member goes on. Without one, a member that only stalls has more time; else the error
    /// is returned.
    fn answered(&mut self, continued: Option<Continued>) -> Option<BodyError> {
        let ContentPhase::Asking(AskingForRest { because, before, .. }) =
            std::mem::replace(&mut self.phase, ContentPhase::Ended)
        else {
            return None;
        };
        match (continued, because, before) {
            (Some(continued), because, _) => {
                self.go_on(continued, because);
                None
            }
            (None, Because::Failure(BodyError::Idle), Some(streaming)) => {
                self.exhausted = true;
                self.phase = ContentPhase::Streaming(streaming);
                None
            }
            (None, because, _) => {
                self.exhausted = true;
                self.resumption.request().pool.metrics.resumes_failed.inc();
                let error = because.into_error();
                Some(if matches!(error, BodyError::Corrupt) { self.corrupt() } else { error })
            }
        }
    }

    /// Goes on with what another member sends, or the same one.
    fn go_on(&mut self, continued: Continued, because: Because) {
        let Continued { member, mut body, end } = continued;
        body.allow_reclaim(TakenBack::GoesOn);
        match because {
            // The member before has not failed, and may be asked again.
            Because::Reclaimed if member.name != self.member.name => {
                self.tried.retain(|tried| *tried != self.member.name);
                self.contributed(&member);
            }
            Because::Reclaimed => {}
            // Nothing has failed: the client was too slow for those that it read with.
            Because::LeftBehind => {
                self.contributed(&member);
                self.content.end = Some(end);
            }
            Because::Failure(error) => {
                // The other one does better, so it was the member's fault.
                let request = self.resumption.request();
                let problem = format!("its answer broke off: {error}");
                request.pool.member_failed(&self.member, &problem, Some(request.client));
                self.switch_to(&member, end, &error);
            }
        }
        self.member = member;
        self.phase = ContentPhase::Streaming(Streaming { held: VecDeque::new(), body });
        self.stall.progressed();
    }

    fn switch_to(&mut self, member: &Arc<Member>, end: u64, error: &BodyError) {
        let (from, to) = (self.member.name.as_str(), member.name.as_str());
        tracing::info!(
            request_id = &*self.resumption.request().id,
            from, to, %error, at = self.position, "an answer goes on from another member"
        );
        self.resumption.request().pool.metrics.resumes.inc();
        self.resumed.switches.fetch_add(1, Ordering::Relaxed);
        self.contributed(member);
        self.content.end = Some(end);
        self.kept.becomes_due();
    }

    fn contributed(&mut self, member: &Arc<Member>) {
        self.tried.push(member.name.clone());
        self.contributors.push(Arc::clone(member));
    }
}
