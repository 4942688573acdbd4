//! Sending one request to members until one answers.
//!
//! GET, HEAD and an upload start without a body may be tried again after any failure before the
//! answer began, and after 500, 502, 503 and 504; so may a manifest, which is here as a whole and
//! says the same however often it is said; everything else only when provably no byte of it was
//! sent (RFC 9110 9.2.2; an upload's bytes exist once). Each further try is paid for from the
//! pool's retry budget.

use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderMap;
use http::{Method, StatusCode};
use tokio::time::Instant;

use super::content::{ContentChecks, Settled, settle};
use super::context::RequestContext;
use super::error::{GatewayError, is_read};
use super::refusal::{Refusal, judge_refusal, target_refused, without_credential};
use super::send::{Answer, Sending, Try, send_once};
use crate::auth::challenge::ChallengeReason;
use crate::auth::subject::Subject;
use crate::balance::blame::ClientKey;
use crate::forwarding::response::check_head;
use crate::registry::{ManifestMethod, RegistryRequest, ResourceAccess, UploadMethod, WebKind, WebRequest};
use crate::upstream::harbor::ClientSecret;
use crate::upstream::{
    Asking, Member, MemberAccess, MemberName, Phase, Pool, RequestBody, UpstreamError, UpstreamFault,
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
    pub(super) fn member_target(&self) -> String {
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
    /// Whose request it is.
    pub client: ClientKey,
    /// With which access.
    pub access: &'a MemberAccess,
    /// The client's own name and password, where members need them.
    pub secret: Option<&'a ClientSecret>,
    /// The pool, for its bounds and its budget.
    pub pool: &'a Pool,
    /// How many other members are asked before a client hears that there is no such thing.
    pub confirmations: usize,
    /// Whether members copy each other, late, and know different accounts: a refusal is one member's
    /// only.
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

    /// Whether a member's answer is what one that does not see everything yet would say.
    fn is_unsure(&self, status: StatusCode) -> bool {
        match self.target {
            // It may not see the blobs yet that the manifest names.
            Target::Registry(RegistryRequest::Manifest { method: ManifestMethod::Put, .. }) => {
                matches!(status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND)
            }
            Target::Registry(_) => is_repeatable(self) && status == StatusCode::NOT_FOUND,
            Target::Web(_) => false,
        }
    }

    /// The client's own body broke off or stalled.
    fn broken_body(&self) -> GatewayError {
        match self.target {
            Target::Registry(RegistryRequest::Manifest { .. }) => GatewayError::ClientBody,
            Target::Registry(_) | Target::Web(_) => GatewayError::UploadBody,
        }
    }

    fn unknown_content(&self, member: &MemberName) -> GatewayError {
        GatewayError::UnknownContent {
            member: member.clone(),
            is_blob: matches!(self.target, Target::Registry(RegistryRequest::Blob { .. })),
        }
    }
}

/// What one try came to.
pub(super) enum Attempt {
    /// An answer to pass on.
    Answered(Box<Answer>),
    /// It failed.
    Failed(Box<Failed>),
}

/// A try that failed.
pub(super) struct Failed {
    /// Why.
    pub error: GatewayError,
    /// The body, where another try may be made.
    pub body: Option<RequestBody>,
    /// Whether it counts against the member, should another one do better.
    pub is_suspect: bool,
}

impl Failed {
    /// A failure that says nothing about the member.
    pub(super) fn of_nobody(error: GatewayError, body: Option<RequestBody>) -> Box<Self> {
        Box::new(Self { error, body, is_suspect: false })
    }
}

/// Members that failed a request that another one may do better.
struct Suspects(Vec<(Arc<Member>, String)>);

impl Suspects {
    /// Another member answered: whoever failed the same request is at fault. A refusal is not better than a failure.
    fn answered(self, outgoing: &Outgoing<'_>, status: StatusCode) {
        if status.is_success() || status.is_redirection() {
            for (member, problem) in self.0 {
                outgoing.pool.member_failed(&member, &problem, Some(outgoing.client));
            }
        }
    }
}

/// Tries the candidates in order.
///
/// # Errors
/// The last failure, when no candidate answered.
pub(super) async fn forward(
    outgoing: &Outgoing<'_>,
    candidates: Vec<Arc<Member>>,
    mut body: RequestBody,
    checks: &ContentChecks,
    ctx: &mut RequestContext,
) -> Result<Settled, GatewayError> {
    outgoing.pool.count_request();
    let head_deadline = ctx.started + ctx.body_awaited + head_time(outgoing);
    let mut last = GatewayError::Internal("no candidate was tried");
    let (mut missing, mut suspects) = (None, Suspects(Vec::new()));
    let mut failed = false;
    let mut unsure_left = outgoing.confirmations;
    let mut candidates = candidates.into_iter().peekable();
    while let Some(member) = candidates.next() {
        if Instant::now() >= head_deadline {
            return Err(too_late(&member));
        }
        let more_follow =
            candidates.peek().is_some_and(|next| next.status().serves()) && is_repeatable(outgoing);
        let is_last = candidates.peek().is_none() || !is_repeatable(outgoing);
        let deadline = try_deadline(outgoing, (more_follow, is_last), head_deadline);
        ctx.tries += 1;
        let again = body.again();
        let at = Try { worker: ctx.connection.worker, deadline };
        let attempt = try_member(outgoing, &member, body, at).await;
        let settled = match attempt {
            Attempt::Answered(answer)
                if unsure_left > 0 && more_follow && outgoing.is_unsure(answer.head.status) =>
            {
                // Not kept: an answer that waits for another member's would hold a connection here.
                unsure_left -= 1;
                missing.get_or_insert_with(|| outgoing.unknown_content(&member.name));
                ctx.decisions.confirmations += 1;
                body = again.unwrap_or(RequestBody::Empty);
                continue;
            }
            attempt => settled(outgoing, (&member, attempt), checks, (more_follow, ctx)).await,
        };
        let Failed { error, body: returned, is_suspect } = match settled {
            Ok(settled) => {
                note_confirmation(outgoing, missing.is_some(), settled.head.status);
                suspects.answered(outgoing, settled.head.status);
                return Ok(settled);
            }
            Err(failed) => *failed,
        };
        tracing::debug!(request_id = ctx.id.as_str(), member = member.name.as_str(), %error, "try failed");
        if is_suspect {
            member.ask_for_probe();
            suspects.0.push((member, with_cause(&error)));
        }
        (last, failed) = (error, true);
        match returned {
            Some(returned) if candidates.peek().is_some() && Instant::now() < head_deadline => {
                body = returned
            }
            Some(_) | None => break,
        }
        // Where a member has no room nothing was asked of it, and nothing is made worse elsewhere.
        if !last.is_full_queue() && !outgoing.pool.may_retry() {
            tracing::debug!(
                request_id = ctx.id.as_str(),
                "no try at another member: the retry budget is spent"
            );
            break;
        }
    }
    Err(match missing {
        // A member that could not be asked may have it.
        Some(_) if failed && (outgoing.copies || !is_read(outgoing.method)) => last,
        Some(missing) => missing,
        None => last,
    })
}

/// The answer of a try, its content as safe as can be.
async fn settled(
    outgoing: &Outgoing<'_>,
    (member, attempt): (&Arc<Member>, Attempt),
    checks: &ContentChecks,
    (more_follow, ctx): (bool, &mut RequestContext),
) -> Result<Settled, Box<Failed>> {
    match attempt {
        Attempt::Answered(answer) => {
            ctx.note_answer(&answer);
            settle(outgoing, *answer, checks, (more_follow, ctx)).await.map_err(|error| {
                let is_suspect = !matches!(error, GatewayError::CorruptContent { .. });
                Box::new(Failed { error, body: Some(RequestBody::Empty), is_suspect })
            })
        }
        Attempt::Failed(failed) => {
            if !matches!(failed.error, GatewayError::Upstream(_)) {
                // It was reached, and this came of it.
                ctx.member = Some(Arc::clone(member));
            }
            Err(failed)
        }
    }
}

fn with_cause(error: &GatewayError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// The time was over before anything was asked.
fn too_late(member: &Member) -> GatewayError {
    let (member, source) = (member.name.clone(), UpstreamFault::Timeout);
    UpstreamError { member, phase: Phase::Queue, source }.into()
}

fn try_deadline(
    outgoing: &Outgoing<'_>,
    (more_follow, is_last): (bool, bool),
    head_deadline: Instant,
) -> Instant {
    if !more_follow && !is_last {
        // What follows is asked only before a client is refused, and then has its time.
        return head_deadline
            - outgoing.pool.limits.first_byte_timeout.min(outgoing.pool.limits.head_timeout / 2);
    }
    let patience = match (more_follow, answers_quickly(outgoing)) {
        (true, true) => outgoing.pool.limits.first_byte_timeout,
        // The API may think for long, and still another node may be asked in time.
        (true, false) => outgoing.pool.limits.head_timeout,
        (false, _) => return head_deadline,
    };
    head_deadline.min(Instant::now() + patience)
}

fn note_confirmation(outgoing: &Outgoing<'_>, was_missing: bool, status: StatusCode) {
    if !was_missing {
        return;
    }
    let metrics = &outgoing.pool.metrics;
    if outgoing.is_unsure(status) { &metrics.confirmed_missing } else { &metrics.found_elsewhere }.inc();
}

/// One member, and once more where a kept connection turned out closed or a minted token stale.
pub(super) async fn try_member(
    outgoing: &Outgoing<'_>,
    member: &Arc<Member>,
    mut body: RequestBody,
    at: Try,
) -> Attempt {
    let mut renewed = false;
    loop {
        let again = body.again();
        let mut sent = match send_once(outgoing, member, body, at).await {
            Ok(answer) => answer,
            Err(failed) => {
                let Sending { error, reused, body: returned, by_client, waited } = *failed;
                if let Some(why) = error.credential_error() {
                    return Attempt::Failed(without_credential(outgoing, member, why.clone(), returned));
                }
                let returned = returned.filter(|_| error.is_unsent() || is_repeatable(outgoing));
                match returned {
                    // The member closed a kept connection: that says nothing about the member.
                    Some(again) if reused && error.is_broken_connection() && Instant::now() < at.deadline => {
                        body = again;
                        continue;
                    }
                    _ if by_client => {
                        return Attempt::Failed(Failed::of_nobody(outgoing.broken_body(), None));
                    }
                    returned => {
                        let is_suspect = is_suspect(outgoing, &error, waited);
                        note_failure(outgoing, member, &error);
                        let error = error.into();
                        return Attempt::Failed(Box::new(Failed { error, body: returned, is_suspect }));
                    }
                }
            }
        };
        if let Err(problem) = check_head(&mut sent.head) {
            let error = GatewayError::BadAnswer { member: member.name.clone(), problem };
            let body = again.filter(|_| is_repeatable(outgoing));
            return Attempt::Failed(Box::new(Failed { error, body, is_suspect: true }));
        }
        let status = sent.head.status;
        // A body that was sent is gone; where it can be sent again, a refusal was no execution.
        if status == StatusCode::UNAUTHORIZED {
            match Box::pin(judge_refusal(outgoing, member, &sent, &mut renewed, at.deadline)).await {
                Refusal::TryAgain if again.is_some() => {
                    body = again.unwrap_or(RequestBody::Empty);
                    continue;
                }
                Refusal::Fault => {
                    let error = GatewayError::CredentialFault { member: member.name.clone() };
                    return Attempt::Failed(Failed::of_nobody(error, again));
                }
                Refusal::PassOn => return Attempt::Answered(Box::new(sent)),
                Refusal::Credential(why) => {
                    return Attempt::Failed(without_credential(outgoing, member, why, again));
                }
                Refusal::TryAgain | Refusal::AboutTarget => {
                    // Without the account of the probes a refusal is one node's word.
                    let again = again.filter(|_| outgoing.copies || member.is_account_refused());
                    return Attempt::Failed(Failed::of_nobody(target_refused(outgoing, member), again));
                }
            }
        }
        if is_member_failure(outgoing, status) {
            let error = GatewayError::MemberFailed { member: member.name.clone(), status };
            let body = again.filter(|_| is_repeatable(outgoing));
            let is_suspect = status.is_server_error();
            return Attempt::Failed(Box::new(Failed { error, body, is_suspect }));
        }
        member.answered(answers_quickly(outgoing).then(|| sent.times.first_byte - sent.times.connected));
        return Attempt::Answered(Box::new(sent));
    }
}

/// What a failed try says about its member, whoever made the request: that no connection can be made counts at once.
fn note_failure(outgoing: &Outgoing<'_>, member: &Arc<Member>, error: &UpstreamError) {
    if error.is_head_timeout() {
        member.ask_for_probe();
    }
    if error.is_connect_failure() {
        member.connect_failed(&error.source.to_string());
        outgoing.pool.member_failed(member, &format!("{error}: {}", error.source), None);
    }
}

/// Whether a failure counts against its member should another member do better at the same request. A registry can
/// fail at a request because of what is asked, by an answer as well as by closing the connection.
fn is_suspect(outgoing: &Outgoing<'_>, error: &UpstreamError, waited: Option<Duration>) -> bool {
    match error.phase {
        // What was left of the time when the request came through our own queue may be too little.
        Phase::Head if error.is_head_timeout() => {
            waited.is_some_and(|time| time >= outgoing.pool.limits.first_byte_timeout / 2)
        }
        Phase::Head => true,
        // A full queue is our own doing, and no connection counts by itself.
        Phase::Queue | Phase::Connect | Phase::Unsent | Phase::Credential => false,
    }
}

/// Whether a request may be made twice although a member may have seen it.
pub(super) fn is_repeatable(outgoing: &Outgoing<'_>) -> bool {
    match outgoing.target {
        Target::Registry(RegistryRequest::UploadStart { digest, .. }) => digest.is_none(),
        Target::Registry(RegistryRequest::Manifest { method: ManifestMethod::Put, .. }) => true,
        _ => is_read(outgoing.method),
    }
}

/// How long queue, connects and tries may take together.
pub(super) fn head_time(outgoing: &Outgoing<'_>) -> Duration {
    let limits = &outgoing.pool.limits;
    if answers_quickly(outgoing) && !finishes_upload(outgoing) {
        limits.head_timeout
    } else {
        limits.finish_timeout
    }
}

/// Whether a member may have to put a whole upload together before it answers, however little of it comes with this
/// request: docker, skopeo and podman end every upload with an empty one.
fn finishes_upload(outgoing: &Outgoing<'_>) -> bool {
    matches!(
        outgoing.target,
        Target::Registry(
            RegistryRequest::Upload { method: UploadMethod::Put { .. }, .. }
                | RegistryRequest::UploadStart { digest: Some(_), .. }
        )
    )
}

/// What Harbor's API does may take minutes, and no client of it gives up after 30 s.
pub(super) fn answers_quickly(outgoing: &Outgoing<'_>) -> bool {
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
