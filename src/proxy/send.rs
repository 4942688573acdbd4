//! Sending one request to members until one answers.
//!
//! What may be repeated ([`MemberRequest::is_repeatable`]) is tried again after any failure before the answer began, and
//! after a status that says that the member failed ([`MemberRequest::judge`]); everything else only when provably no byte of it was sent (an upload's bytes exist
//! once). Each further attempt is paid for from the pool's retry budget.

use std::sync::Arc;

use http::StatusCode;
use tokio::time::{Instant, timeout_at};

use super::arrival::Arrival;
use super::client_body::{ClientBody, PreparedBody};
use super::error::GatewayError;
use super::route::{Candidates, Route};
use super::trail::Trail;
use crate::attempt::{Answer, AttemptError, Failure, Judgement, MemberError, MemberRequest, try_member};
use crate::content::{ContentChecks, Flights, Joined, Settled, UploadChecks, join, settle};
use crate::registry::{RegistryRequest, is_read};
use crate::upstream::{Member, MemberName, Phase, RequestBody, UpstreamError, UpstreamFault};

/// Sends requests to members, with content that is what its digest says.
pub(super) struct Sender {
    pub checks: Arc<ContentChecks>,
    pub upload_checks: Arc<UploadChecks>,
    pub flights: Flights,
    /// The least rate of a client's body, in bytes per second; 0 for none.
    pub body_rate_min: u64,
}

/// What came of a sending: the answer or the last failure, and how it went.
pub(super) struct Sent {
    pub outcome: Result<Settled, AttemptError>,
    pub trail: Trail,
}

impl Sender {
    /// Joins a read of the same content that is under way.
    pub(super) async fn join(&self, request: &MemberRequest, arrival: &Arrival) -> Joined {
        let key = self.flights.key(request, arrival.authority.name());
        // What is left then is the time of one attempt of its own.
        let limits = &request.pool.limits;
        let patience = arrival.at + limits.head_timeout.saturating_sub(limits.first_byte_timeout);
        timeout_at(patience, join(&self.flights, key)).await.unwrap_or(Joined::Asks(None))
    }

    /// Sends the request of a registry along its route. The members' time counts from `at`, without what the client
    /// took to begin its body.
    ///
    /// # Errors
    /// What is wrong with the client's body. That a member failed is the outcome of a sending.
    pub(super) async fn send(
        &self,
        request: &MemberRequest,
        route: &Route,
        body: &mut ClientBody,
        at: Instant,
    ) -> Result<Sent, GatewayError> {
        let manifests = self.checks.manifests();
        let prepared = body.prepare(request, self.body_rate_min, manifests).await?;
        let PreparedBody { body, awaited, memory: _memory } = prepared;
        let offset = route.pin.as_ref().and_then(|pin| pin.offset);
        let hashes = request
            .registry()
            .and_then(|target| self.upload_checks.begin(target, &request.headers, &body, offset));
        let mut sent = self.run(request, &route.candidates, body, at + awaited).await;
        if let (Some(target), Ok(settled)) = (request.registry(), &sent.outcome)
            && let Err(error) = self.upload_checks.compare(target, hashes, settled)
        {
            sent.outcome = Err(error.into());
        }
        Ok(sent)
    }

    /// Sends a request to the candidates in order. A page's or an API's request needs nothing else.
    pub(super) async fn run(
        &self,
        request: &MemberRequest,
        candidates: &Candidates,
        body: RequestBody,
        begun: Instant,
    ) -> Sent {
        let Candidates { members, confirmations } = candidates;
        let confirmations = *confirmations;
        let trail = Trail::default();
        let mut sending = Sending { request, checks: &self.checks, begun, confirmations, trail };
        let outcome = sending.run(members, body).await;
        Sent { outcome, trail: sending.trail }
    }
}

/// A request that goes from member to member.
struct Sending<'a> {
    request: &'a MemberRequest,
    checks: &'a ContentChecks,
    /// From here on the members' time counts.
    begun: Instant,
    /// How many other members are asked before a client hears that there is no such thing.
    confirmations: usize,
    trail: Trail,
}

/// Members that failed a request that another one may do better.
struct Suspects(Vec<Suspect>);

struct Suspect {
    member: Arc<Member>,
    problem: String,
}

impl Suspects {
    /// Another member answered: those that failed the same request are at fault. A refusal is not better than a failure.
    fn answered(self, request: &MemberRequest, status: StatusCode) {
        if status.is_success() || status.is_redirection() {
            for Suspect { member, problem } in self.0 {
                request.pool.member_failed(&member, &problem, Some(request.client));
            }
        }
    }
}

impl Sending<'_> {
    /// Tries the candidates in order.
    ///
    /// # Errors
    /// The last failure, when no candidate answered.
    async fn run(
        &mut self,
        candidates: &[Arc<Member>],
        mut body: RequestBody,
    ) -> Result<Settled, AttemptError> {
        let request = self.request;
        request.pool.count_request();
        let (is_repeatable, head_deadline) = (request.is_repeatable(), self.begun + request.patience().head);
        let (mut last, mut late) = (None, None);
        let (mut missing, mut suspects) = (None, Suspects(Vec::new()));
        let mut candidates = candidates.iter().peekable();
        while let Some(member) = candidates.next() {
            if Instant::now() >= head_deadline {
                late = Some(member);
                break;
            }
            let more_follow = candidates.peek().is_some_and(|next| next.status().serves()) && is_repeatable;
            let is_last = candidates.peek().is_none() || !is_repeatable;
            let deadline = self.attempt_deadline(more_follow, is_last, head_deadline);
            self.trail.tries += 1;
            let again = body.again();
            let attempt = try_member(request, member, body, deadline).await;
            let settled = match attempt {
                Ok(answer) if more_follow && self.may_confirm(answer.head.status) => {
                    // Not kept: an answer that waits for another member's would hold a connection here.
                    self.trail.confirmations += 1;
                    missing.get_or_insert_with(|| unknown_content(request, &member.name));
                    body = again.unwrap_or(RequestBody::Empty);
                    continue;
                }
                attempt => self.settled(member, attempt, more_follow).await,
            };
            let Failure { error, body: returned, is_suspect } = match settled {
                Ok(settled) => {
                    note_confirmation(request, missing.is_some(), settled.head.status);
                    suspects.answered(request, settled.head.status);
                    return Ok(settled);
                }
                Err(failed) => *failed,
            };
            tracing::debug!(request_id = &*request.id, member = member.name.as_str(), %error, "attempt failed");
            if is_suspect {
                member.ask_for_probe();
                suspects.0.push(Suspect { member: Arc::clone(member), problem: with_cause(&error) });
            }
            let costs_nothing = error.is_full_queue();
            last = Some(error);
            match returned {
                Some(returned) if candidates.peek().is_some() && Instant::now() < head_deadline => {
                    body = returned
                }
                Some(_) | None => break,
            }
            // Where a member has no room nothing was asked of it, and nothing is made worse elsewhere.
            if !costs_nothing && !request.pool.may_retry() {
                tracing::debug!(
                    request_id = &*request.id,
                    "no attempt at another member: the retry budget is spent"
                );
                break;
            }
        }
        Err(match (missing, last) {
            // A member that could not be asked may have it.
            (Some(_), Some(last)) if request.members_differ() || !is_read(&request.method) => last,
            (Some(missing), _) => missing.into(),
            (None, Some(last)) => last,
            (None, None) => late.map_or_else(|| MemberError::NoCandidate.into(), |member| too_late(member)),
        })
    }

    /// Whether another member is asked before the client hears of this.
    fn may_confirm(&self, status: StatusCode) -> bool {
        (self.trail.confirmations as usize) < self.confirmations
            && self.request.judge(status) == Judgement::Unsure
    }

    /// The answer of an attempt, its content as safe as can be.
    async fn settled(
        &mut self,
        member: &Arc<Member>,
        attempt: Result<Answer, Box<Failure>>,
        more_follow: bool,
    ) -> Result<Settled, Box<Failure>> {
        match attempt {
            Ok(answer) => {
                self.trail.member = Some(Arc::clone(member));
                self.trail.times = Some(answer.times);
                settle(self.request, answer, self.checks, more_follow).await.map_err(|error| {
                    let is_suspect = !matches!(error, MemberError::Corrupt { .. });
                    let body = Some(RequestBody::Empty);
                    Box::new(Failure { error: error.into(), body, is_suspect })
                })
            }
            Err(failed) => {
                if failed.error.has_reached_member() {
                    self.trail.member = Some(Arc::clone(member));
                }
                Err(failed)
            }
        }
    }

    fn attempt_deadline(&self, more_follow: bool, is_last: bool, head_deadline: Instant) -> Instant {
        let limits = &self.request.pool.limits;
        if more_follow {
            return head_deadline.min(Instant::now() + self.request.patience().attempt);
        }
        if is_last {
            return head_deadline;
        }
        // What follows is asked only before a client is refused, and then has its time.
        head_deadline - limits.first_byte_timeout.min(limits.head_timeout / 2)
    }
}

fn unknown_content(request: &MemberRequest, member: &MemberName) -> MemberError {
    MemberError::UnknownContent {
        member: member.clone(),
        is_blob: matches!(request.registry(), Some(RegistryRequest::Blob { .. })),
    }
}

fn with_cause(error: &AttemptError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// The time was over before anything was asked.
fn too_late(member: &Member) -> AttemptError {
    let (member, source) = (member.name.clone(), UpstreamFault::Timeout);
    UpstreamError { member, phase: Phase::Queue, source }.into()
}

fn note_confirmation(request: &MemberRequest, was_missing: bool, status: StatusCode) {
    if !was_missing {
        return;
    }
    let metrics = &request.pool.metrics;
    match request.judge(status) {
        Judgement::Unsure => metrics.confirmed_missing.inc(),
        Judgement::Final | Judgement::MemberFailed => metrics.found_elsewhere.inc(),
    }
}
