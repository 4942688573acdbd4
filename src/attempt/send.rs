//! Sending a request once: the credential, a connection, the request, and the head of the answer.

use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, HeaderValue};
use http::{Method, Request, Response, Uri};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout, timeout_at};

use super::answer::{Answer, Hold, MemberBody, Times};
use super::request::{MemberRequest, Target};
use crate::upstream::{
    Authorization, BodyProgress, InFlight, Lease, Member, Phase, RequestBody, SendError, UpstreamError,
    UpstreamFault,
};

/// A failed sending.
pub(super) struct SendFailure {
    pub error: UpstreamError,
    /// Whether the connection had served before.
    pub reused: bool,
    /// The body, if no byte of it is lost.
    pub body: Option<RequestBody>,
    /// Whether the client, not the member, is to blame.
    pub by_client: bool,
    /// How long the member had the request; `None` where it never had.
    pub waited: Option<Duration>,
}

/// Our credential for the member; for pages and the API only the turn of the client's own.
async fn authorize<'a>(
    asked: &MemberRequest,
    member: &'a Member,
    streams: bool,
    deadline: Instant,
) -> Result<Authorization<'a>, (Phase, UpstreamFault)> {
    match (&asked.target, &member.harbor, &asked.secret) {
        (Target::Registry(_), ..) => {
            let authorization = member.authorization(asked.asking(streams), deadline).await;
            authorization.map_err(|error| (Phase::Credential, error.into()))
        }
        (Target::Web(_), Some(node), Some(secret)) => {
            // Meanwhile no other password of its name is tried there.
            let turn = timeout_at(deadline, node.password_turn(secret)).await;
            turn.map(Authorization::of_turn).map_err(|_| (Phase::Queue, UpstreamFault::Timeout))
        }
        (Target::Web(_), ..) => Ok(Authorization::default()),
    }
}

pub(super) async fn send_once(
    asked: &MemberRequest,
    member: &Arc<Member>,
    body: RequestBody,
    deadline: Instant,
) -> Result<Answer, Box<SendFailure>> {
    let failed =
        |error, body| Box::new(SendFailure { error, reused: false, body, by_client: false, waited: None });
    let fail =
        |phase, source, body| failed(UpstreamError { member: member.name.clone(), phase, source }, body);
    let progress = match &body {
        RequestBody::Stream { progress, .. } => Some(Arc::clone(progress)),
        RequestBody::Empty | RequestBody::Whole(_) => None,
    };
    let has_body = !matches!(body, RequestBody::Empty);
    // With the turn of a password in it, which lasts until the member has judged the password.
    let mut authorization = match authorize(asked, member, has_body, deadline).await {
        Ok(authorization) => authorization,
        Err((phase, fault)) => return Err(fail(phase, fault, Some(body))),
    };
    let mut in_flight = InFlight::new(member);
    let acquired = member.connections.acquire(asked.work(), asked.client, asked.worker, deadline);
    let acquired = timeout_at(deadline, acquired).await;
    let mut lease = match acquired {
        Ok(Ok(lease)) => lease,
        Ok(Err(error)) => return Err(failed(error, Some(body))),
        Err(_) => return Err(fail(Phase::Queue, UpstreamFault::Timeout, Some(body))),
    };
    member.metrics.observe_queue(lease.queued());
    let queued = lease.queued();
    let connected = Instant::now();
    if let Some(progress) = &progress {
        lease.allow_reclaim_of_body(progress);
    }
    let again = body.again();
    let header = authorization.header.take();
    let Some(request) = request_for(asked, member, body, header) else {
        return Err(fail(Phase::Credential, UpstreamFault::Timeout, None));
    };
    match await_head(asked, &mut lease, request, progress.as_ref(), deadline).await {
        Ok(response) => {
            let first_byte = Instant::now();
            let (head, incoming) = response.into_parts();
            if let Some(length) = http_body::Body::size_hint(&incoming).exact() {
                in_flight.expect_bytes(length);
            }
            let is_good = !head.status.is_server_error();
            let hold = Hold { lease, in_flight, progress: progress.clone(), is_good };
            let body = MemberBody::new(incoming, asked.pool.limits.body_idle_timeout, hold);
            let times = Times { queued, connected, first_byte };
            Ok(Answer { member: Arc::clone(member), head, body, progress, times })
        }
        Err(HeadError::Send(failed)) => {
            let reused = lease.was_reused();
            let SendError { error, unsent } = *failed;
            let phase = if unsent.is_some() { Phase::Unsent } else { Phase::Head };
            let body = match unsent {
                Some(request) => again.or_else(|| Some(request.into_body())),
                None => again,
            };
            let by_client = progress.is_some_and(|progress| progress.is_broken());
            let error = UpstreamError { member: member.name.clone(), phase, source: error.into() };
            Err(Box::new(SendFailure { error, reused, body, by_client, waited: Some(connected.elapsed()) }))
        }
        Err(HeadError::Timeout) => {
            let failed = fail(Phase::Head, UpstreamFault::Timeout, again);
            Err(Box::new(SendFailure { waited: Some(connected.elapsed()), ..*failed }))
        }
    }
}

/// The request as this member gets it. `None` only for a target that is no path, of which there is none.
fn request_for(
    asked: &MemberRequest,
    member: &Member,
    body: RequestBody,
    authorization: Option<HeaderValue>,
) -> Option<Request<RequestBody>> {
    let mut request = Request::new(body);
    *request.method_mut() = asked.method.clone();
    *request.uri_mut() = asked.target.member_target().parse::<Uri>().ok()?;
    *request.headers_mut() = asked.headers.clone();
    set_length(&mut request);
    if asked.registry().is_some() {
        request.headers_mut().insert(HOST, member.door.host.clone());
    }
    if let Some(header) = authorization {
        request.headers_mut().insert(AUTHORIZATION, header);
    }
    Some(request)
}

/// What the client said of a body that is not sent would swallow the next request.
fn set_length(request: &mut Request<RequestBody>) {
    let length = match request.body() {
        RequestBody::Stream { .. } => return,
        RequestBody::Empty => 0,
        RequestBody::Whole(bytes) => bytes.as_ref().map_or(0, bytes::Bytes::len),
    };
    request.headers_mut().remove(CONTENT_LENGTH);
    if length > 0 || matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH) {
        request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
}

enum HeadError {
    Send(Box<SendError>),
    Timeout,
}

/// Sends and waits for the head of the answer. While a body is on its way only a stall ends it;
/// when it has gone, the answer has its time.
async fn await_head(
    asked: &MemberRequest,
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
    let stall = asked.pool.limits.body_idle_timeout;
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
    match timeout(asked.patience().after_body, &mut sending).await {
        Ok(sent) => sent.map_err(HeadError::Send),
        Err(_) => Err(HeadError::Timeout),
    }
}
