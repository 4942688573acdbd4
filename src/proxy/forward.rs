//! Sending one request to members until one answers.
//!
//! GET, HEAD and an upload start without a body may be tried again after any failure before the
//! answer began, and after 500, 502, 503 and 504; everything else only when provably no byte of it
//! was sent (RFC 9110 9.2.2; an upload's bytes exist once).

use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri, response};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

use super::body::Hold;
use super::context::RequestContext;
use super::error::GatewayError;
use super::refusal::{Refusal, judge_refusal, target_refused, without_credential};
use crate::auth::challenge::ChallengeReason;
use crate::auth::subject::Subject;
use crate::registry::{RegistryRequest, ResourceAccess, UploadMethod, WebKind, WebRequest};
use crate::upstream::harbor::ClientSecret;
use crate::upstream::{
    Asking, Authorization, BodyProgress, InFlight, Lease, Member, MemberAccess, Phase, RequestBody,
    SendError, UpstreamError, UpstreamFault, UpstreamLimits,
};

/// What is asked of a member.
#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    /// Something of a registry, with our credential.
    Registry(&'a RegistryRequest),
    /// A page or the API of a Harbor node, with the client's own.
    Web(&'a WebRequest),
}

impl Target<'_> {
    fn member_target(&self) -> String {
        match self {
            Self::Registry(request) => request.member_target(),
            Self::Web(request) => request.member_target().to_owned(),
        }
    }

    fn challenge_access(&self) -> Vec<ResourceAccess> {
        match self {
            Self::Registry(request) => request.challenge_access(),
            Self::Web(_) => Vec::new(),
        }
    }

    pub(super) fn names_repository(&self) -> bool {
        matches!(self, Self::Registry(request) if request.repository().is_some())
    }
}

/// A request on its way to members.
pub(super) struct Outgoing<'a> {
    /// What is asked.
    pub target: Target<'a>,
    /// With which method.
    pub method: &'a Method,
    /// The headers, but for `Host` and `Authorization`.
    pub headers: &'a HeaderMap,
    /// In whose name.
    pub subject: &'a Subject,
    /// With which access.
    pub access: &'a MemberAccess,
    /// The client's own name and password, where members need them.
    pub secret: Option<&'a ClientSecret>,
    /// The bounds of the pool.
    pub limits: &'a UpstreamLimits,
    /// Whether members copy each other, late, and know different accounts: then a 404 is confirmed
    /// at the others, and a refusal is one member's only.
    pub copies: bool,
}

impl Outgoing<'_> {
    pub(super) fn asking(&self, streams: bool) -> Asking<'_> {
        Asking { subject: self.subject, secret: self.secret, access: self.access, streams }
    }

    pub(super) fn refused(&self, reason: ChallengeReason) -> GatewayError {
        // The realm and service are filled in by the caller, which knows the client's host.
        GatewayError::Unauthorized {
            reason,
            wanted: self.target.challenge_access(),
            realm: String::new(),
            service: String::new(),
        }
    }
}

/// A member's answer, its body still to come.
pub(super) struct Answer {
    pub member: Arc<Member>,
    pub head: response::Parts,
    pub body: Incoming,
    /// How long the body may stand still.
    pub body_idle_timeout: Duration,
    pub hold: Hold,
}

/// What one try came to.
pub(super) enum Attempt {
    /// An answer to pass on.
    Answered(Box<Answer>),
    /// It failed; the body comes back where another try may be made.
    Failed(GatewayError, Option<RequestBody>),
}

/// Tries the candidates in order.
///
/// # Errors
/// The last failure, when no candidate answered.
pub(super) async fn forward(
    outgoing: &Outgoing<'_>,
    candidates: Vec<Arc<Member>>,
    mut body: RequestBody,
    ctx: &mut RequestContext,
) -> Result<Answer, GatewayError> {
    let head_deadline = ctx.started + head_time(outgoing);
    let mut last = GatewayError::Internal("no candidate was tried");
    let mut missing = None;
    let count = candidates.len();
    for (at, member) in candidates.into_iter().enumerate() {
        let more_follow = at + 1 < count && is_repeatable(outgoing);
        let patience = match (more_follow, answers_quickly(outgoing)) {
            (true, true) => Some(outgoing.limits.first_byte_timeout),
            // The API may think for long, and still another node may be asked in time.
            (true, false) => Some(outgoing.limits.head_timeout),
            (false, _) => None,
        };
        let deadline = patience.map_or(head_deadline, |time| head_deadline.min(Instant::now() + time));
        match try_member(outgoing, &member, body, deadline, ctx).await {
            Attempt::Answered(answer)
                if outgoing.copies && more_follow && answer.head.status == StatusCode::NOT_FOUND =>
            {
                // Not kept: an answer that waits for another member's would hold a connection here.
                missing = Some(GatewayError::UnknownContent {
                    member: answer.member.name.clone(),
                    is_blob: matches!(outgoing.target, Target::Registry(RegistryRequest::Blob { .. })),
                });
                body = RequestBody::Empty;
            }
            Attempt::Answered(answer) => return Ok(*answer),
            Attempt::Failed(error, None) => return Err(missing.unwrap_or(error)),
            Attempt::Failed(error, Some(returned)) => {
                tracing::debug!(request_id = ctx.id.as_str(), member = member.name.as_str(), %error, "try failed");
                last = error;
                body = returned;
            }
        }
        if Instant::now() >= head_deadline {
            break;
        }
    }
    Err(missing.unwrap_or(last))
}

/// One member, and once more where a kept connection turned out closed or a minted token stale.
async fn try_member(
    outgoing: &Outgoing<'_>,
    member: &Arc<Member>,
    mut body: RequestBody,
    deadline: Instant,
    ctx: &mut RequestContext,
) -> Attempt {
    ctx.tries += 1;
    let mut renewed = false;
    loop {
        let sent = match send_once(outgoing, member, body, deadline, ctx).await {
            Ok(answer) => answer,
            Err(failed) => {
                let Sending { error, reused, body: returned } = *failed;
                if let Some(why) = error.credential_error() {
                    return without_credential(outgoing, member, why.clone(), returned);
                }
                let returned = returned.filter(|_| error.is_unsent() || is_repeatable(outgoing));
                if error.is_head_timeout() {
                    member.ask_for_probe();
                }
                if error.is_connect_failure() {
                    member.connect_failed(&error.source.to_string());
                }
                match returned {
                    // The member closed a kept connection: that says nothing about the member.
                    Some(again) if reused && error.phase != Phase::Queue && Instant::now() < deadline => {
                        body = again;
                        continue;
                    }
                    returned => return Attempt::Failed(error.into(), returned),
                }
            }
        };
        let status = sent.head.status;
        // A body that was sent is gone; without one, a refusal was no execution.
        let bodiless = sent.hold.progress.is_none();
        let repeatable = bodiless && is_repeatable(outgoing);
        if status == StatusCode::UNAUTHORIZED {
            match judge_refusal(outgoing, member, &sent, &mut renewed, deadline).await {
                Refusal::TryAgain if bodiless => {
                    body = RequestBody::Empty;
                    continue;
                }
                Refusal::Fault => {
                    let error = GatewayError::CredentialFault { member: member.name.clone() };
                    return Attempt::Failed(error, bodiless.then_some(RequestBody::Empty));
                }
                Refusal::PassOn => return Attempt::Answered(Box::new(sent)),
                Refusal::Credential(why) => {
                    let body = bodiless.then_some(RequestBody::Empty);
                    return without_credential(outgoing, member, why, body);
                }
                Refusal::TryAgain | Refusal::AboutTarget => {
                    let body = bodiless.then_some(RequestBody::Empty).filter(|_| outgoing.copies);
                    return Attempt::Failed(target_refused(outgoing, member), body);
                }
            }
        }
        if is_member_failure(outgoing, status) {
            let error = GatewayError::MemberFailed { member: member.name.clone(), status };
            return Attempt::Failed(error, repeatable.then_some(RequestBody::Empty));
        }
        return Attempt::Answered(Box::new(sent));
    }
}

/// Whether a request may be made twice although a member may have seen it.
pub(super) fn is_repeatable(outgoing: &Outgoing<'_>) -> bool {
    match outgoing.target {
        Target::Registry(RegistryRequest::UploadStart { digest, .. }) => digest.is_none(),
        _ => matches!(*outgoing.method, Method::GET | Method::HEAD),
    }
}

/// How long queue, connects and tries may take together.
fn head_time(outgoing: &Outgoing<'_>) -> Duration {
    if answers_quickly(outgoing) { outgoing.limits.head_timeout } else { outgoing.limits.finish_timeout }
}

/// What Harbor's API does may take minutes, and no client of it gives up after 30 s.
fn answers_quickly(outgoing: &Outgoing<'_>) -> bool {
    match outgoing.target {
        Target::Registry(_) => true,
        Target::Web(request) => request.kind() == WebKind::Page,
    }
}

/// Statuses that say that the member, not the request, has failed. 429 is fatal to docker. Of the
/// pages and the API only what the node's own proxy says when there is nothing behind it.
fn is_member_failure(outgoing: &Outgoing<'_>, status: StatusCode) -> bool {
    if matches!(outgoing.target, Target::Web(_)) {
        let gone = [StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT];
        return is_repeatable(outgoing) && gone.contains(&status);
    }
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
        || status == StatusCode::TOO_MANY_REQUESTS
}

/// A failed sending.
struct Sending {
    error: UpstreamError,
    /// Whether the connection had served before.
    reused: bool,
    /// The body, if no byte of it is lost.
    body: Option<RequestBody>,
}

/// Our credential for the member; for pages and the API only the turn of the client's own.
async fn authorize<'a>(
    outgoing: &Outgoing<'_>,
    member: &'a Member,
    streams: bool,
    deadline: Instant,
) -> Result<Authorization<'a>, (Phase, UpstreamFault)> {
    match (outgoing.target, &member.harbor, outgoing.secret) {
        (Target::Registry(_), ..) => {
            let asked = member.authorization(outgoing.asking(streams), deadline).await;
            asked.map_err(|error| (Phase::Credential, error.into()))
        }
        (Target::Web(_), Some(node), Some(secret)) => {
            // Meanwhile no other password of its name is tried there.
            let turn = timeout_at(deadline, node.password_turn(secret)).await;
            turn.map(Authorization::of_turn).map_err(|_| (Phase::Queue, UpstreamFault::Timeout))
        }
        (Target::Web(_), ..) => Ok(Authorization::default()),
    }
}

async fn send_once(
    outgoing: &Outgoing<'_>,
    member: &Arc<Member>,
    body: RequestBody,
    deadline: Instant,
    ctx: &mut RequestContext,
) -> Result<Answer, Box<Sending>> {
    let fail = |phase, source, body| {
        let error = UpstreamError { member: member.name.clone(), phase, source };
        Box::new(Sending { error, reused: false, body })
    };
    let streams = matches!(body, RequestBody::Stream { .. });
    // Kept until the member has judged it.
    let mut authorization = match authorize(outgoing, member, streams, deadline).await {
        Ok(authorization) => authorization,
        Err((phase, fault)) => return Err(fail(phase, fault, Some(body))),
    };
    let in_flight = InFlight::new(member);
    let acquired = timeout_at(deadline, member.connections.acquire(ctx.connection.worker, deadline)).await;
    let mut lease = match acquired {
        Ok(Ok(lease)) => lease,
        Ok(Err(error)) => return Err(Box::new(Sending { error, reused: false, body: Some(body) })),
        Err(_) => return Err(fail(Phase::Queue, UpstreamFault::Timeout, Some(body))),
    };
    ctx.phases.connected = Some(ctx.elapsed_ms());
    let progress = matches!(body, RequestBody::Stream { .. }).then(|| Arc::clone(&ctx.progress));
    let mut request = Request::new(body);
    *request.method_mut() = outgoing.method.clone();
    let Ok(uri) = outgoing.target.member_target().parse::<Uri>() else {
        return Err(fail(Phase::Credential, UpstreamFault::Timeout, None));
    };
    *request.uri_mut() = uri;
    *request.headers_mut() = outgoing.headers.clone();
    if matches!(request.body(), RequestBody::Empty) {
        // What the client said of a body that is not sent would swallow the next request.
        request.headers_mut().remove(CONTENT_LENGTH);
        if matches!(*outgoing.method, Method::POST | Method::PUT | Method::PATCH) {
            request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
    }
    if let Target::Registry(_) = outgoing.target {
        request.headers_mut().insert(HOST, member.host.clone());
    }
    if let Some(header) = authorization.header.take() {
        request.headers_mut().insert(AUTHORIZATION, header);
    }
    let sent_at = Instant::now();
    match await_head(outgoing, &mut lease, request, progress.as_ref(), deadline).await {
        Ok(response) => {
            member.metrics.observe_first_byte(sent_at.elapsed());
            ctx.phases.first_byte = Some(ctx.elapsed_ms());
            ctx.member = Some(Arc::clone(member));
            let (head, body) = response.into_parts();
            let hold = Hold { lease, in_flight, progress };
            let body_idle_timeout = outgoing.limits.body_idle_timeout;
            Ok(Answer { member: Arc::clone(member), head, body, body_idle_timeout, hold })
        }
        Err(HeadError::Send(failed)) => {
            let reused = lease.was_reused();
            let SendError { error, unsent } = *failed;
            let phase = if unsent.is_some() { Phase::Unsent } else { Phase::Head };
            let body = match unsent {
                Some(request) => Some(request.into_body()),
                None => progress.is_none().then_some(RequestBody::Empty),
            };
            let error = UpstreamError { member: member.name.clone(), phase, source: error.into() };
            Err(Box::new(Sending { error, reused, body }))
        }
        Err(HeadError::Timeout) => {
            let body = progress.is_none().then_some(RequestBody::Empty);
            Err(fail(Phase::Head, UpstreamFault::Timeout, body))
        }
    }
}

enum HeadError {
    Send(Box<SendError>),
    Timeout,
}

/// Sends and waits for the head of the answer. While a body is on its way only a stall ends it;
/// when it has gone, the answer has its time.
async fn await_head(
    outgoing: &Outgoing<'_>,
    lease: &mut Lease,
    request: Request<RequestBody>,
    progress: Option<&Arc<BodyProgress>>,
    deadline: Instant,
) -> Result<Response<Incoming>, HeadError> {
    let sending = lease.send(request);
    tokio::pin!(sending);
    let Some(progress) = progress else {
        return match timeout_at(deadline, &mut sending).await {
            Ok(sent) => sent.map_err(HeadError::Send),
            Err(_) => Err(HeadError::Timeout),
        };
    };
    let stall = outgoing.limits.body_idle_timeout;
    let mut bytes_before = None;
    while !progress.has_ended() {
        tokio::select! {
            sent = &mut sending => return sent.map_err(HeadError::Send),
            () = progress.ended() => {}
            () = tokio::time::sleep(stall) => {
                let bytes = progress.bytes();
                if bytes_before.replace(bytes) == Some(bytes) {
                    return Err(HeadError::Timeout);
                }
            }
        }
    }
    match tokio::time::timeout(answer_time(outgoing), &mut sending).await {
        Ok(sent) => sent.map_err(HeadError::Send),
        Err(_) => Err(HeadError::Timeout),
    }
}

/// How long an answer may take once the whole body was sent.
fn answer_time(outgoing: &Outgoing<'_>) -> Duration {
    match outgoing.target {
        Target::Registry(
            RegistryRequest::Upload { method: UploadMethod::Put { .. }, .. }
            | RegistryRequest::UploadStart { digest: Some(_), .. },
        ) => outgoing.limits.finish_timeout,
        Target::Registry(_) | Target::Web(_) => head_time(outgoing),
    }
}
