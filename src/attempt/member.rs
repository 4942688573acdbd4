//! One attempt at one member: what was sent, what came back, and whether another member may be asked.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use super::answer::Answer;
use super::error::{ClientFault, Failure, MemberError};
use super::refusal::{Verdict, judge_refusal, target_refused, without_credential};
use super::request::{Judgement, MemberRequest};
use super::send::{SendFailure, send_once};
use crate::forwarding::response::check_head;
use crate::upstream::{Member, Phase, RequestBody, UpstreamError};

/// Asks one member, and once more where a kept connection turned out closed or a minted token stale. The answer begins
/// until `deadline`.
///
/// # Errors
/// Why there is no answer to pass on, with the body where another member may be asked.
pub async fn try_member(
    request: &MemberRequest,
    member: &Arc<Member>,
    mut body: RequestBody,
    deadline: Instant,
) -> Result<Answer, Box<Failure>> {
    let mut renewed = false;
    loop {
        let again = body.again();
        let mut sent = match send_once(request, member, body, deadline).await {
            Ok(answer) => answer,
            Err(failed) => {
                let SendFailure { error, reused, body: returned, by_client, waited } = *failed;
                if let Some(why) = error.credential_error() {
                    return Err(without_credential(request, member, why.clone(), returned));
                }
                let returned = returned.filter(|_| error.is_unsent() || request.is_repeatable());
                match returned {
                    // The member closed a kept connection: that says nothing about the member.
                    Some(again) if reused && error.is_broken_connection() && Instant::now() < deadline => {
                        body = again;
                        continue;
                    }
                    _ if by_client => {
                        return Err(Failure::of_nobody(ClientFault::BrokenBody.into(), None));
                    }
                    returned => {
                        let is_suspect = is_suspect(request, &error, waited);
                        note_failure(request, member, &error);
                        let error = error.into();
                        return Err(Box::new(Failure { error, body: returned, is_suspect }));
                    }
                }
            }
        };
        if let Err(problem) = check_head(&mut sent.head) {
            let error = MemberError::BadAnswer { member: member.name.clone(), problem }.into();
            let body = again.filter(|_| request.is_repeatable());
            return Err(Box::new(Failure { error, body, is_suspect: true }));
        }
        let status = sent.head.status;
        // A 401 means that the request was not executed: where its body can be sent again, it may be.
        if status == StatusCode::UNAUTHORIZED {
            match Box::pin(judge_refusal(request, member, &sent, &mut renewed, deadline)).await {
                Verdict::TryAgain if again.is_some() => {
                    body = again.unwrap_or(RequestBody::Empty);
                    continue;
                }
                Verdict::Fault => {
                    let error = MemberError::CredentialFault { member: member.name.clone() };
                    return Err(Failure::of_nobody(error.into(), again));
                }
                Verdict::PassOn => return Ok(sent),
                Verdict::Credential(why) => {
                    return Err(without_credential(request, member, why, again));
                }
                Verdict::TryAgain | Verdict::AboutTarget => {
                    // Without the account of the probes a refusal is one node's word.
                    let again = again.filter(|_| request.members_differ() || member.is_account_refused());
                    return Err(Failure::of_nobody(target_refused(request, member), again));
                }
            }
        }
        if request.judge(status) == Judgement::MemberFailed {
            let error = MemberError::Failed { member: member.name.clone(), status }.into();
            let body = again.filter(|_| request.is_repeatable());
            let is_suspect = status.is_server_error();
            return Err(Box::new(Failure { error, body, is_suspect }));
        }
        member.answered(request.is_quick().then(|| sent.times.first_byte - sent.times.connected));
        return Ok(sent);
    }
}

/// What a failed attempt says about its member, whichever client made the request: that no connection can be made
/// counts at once.
fn note_failure(request: &MemberRequest, member: &Arc<Member>, error: &UpstreamError) {
    if error.is_head_timeout() {
        member.ask_for_probe();
    }
    if error.is_connect_failure() {
        member.connect_failed(&error.source.to_string());
        request.pool.member_failed(member, &format!("{error}: {}", error.source), None);
    }
}

/// Whether a failure counts against its member should another member do better at the same request. A registry can
/// fail at a request because of what is asked, by an answer as well as by closing the connection.
fn is_suspect(request: &MemberRequest, error: &UpstreamError, waited: Option<Duration>) -> bool {
    match error.phase {
        // What was left of the time when the request came through our own queue may be too little.
        Phase::Head if error.is_head_timeout() => {
            waited.is_some_and(|time| time >= request.pool.limits.first_byte_timeout / 2)
        }
        Phase::Head => true,
        // A full queue is our own doing, and no connection counts by itself.
        Phase::Queue | Phase::Connect | Phase::Unsent | Phase::Credential => false,
    }
}
