//! From a member's answer to the client's.

use std::sync::Arc;

use http::header::{CONTENT_LENGTH, HeaderValue, LOCATION};
use http::{Method, Response, StatusCode, response};
use tokio_util::task::TaskTracker;

use super::admission::Admitted;
use super::body::ResponseBody;
use super::error::GatewayError;
use super::record::RequestRecord;
use super::session::{Sessions, is_refused_cancel, no_session_here};
use crate::attempt::{AttemptError, ClientFault, MemberError, MemberRequest};
use crate::content::{ContentBody, ContentChecks, Head, Leader, Outcome, Resumption, Settled, SettledBody};
use crate::forwarding::response::{MemberLocation, client_headers, member_location};
use crate::pin::Pin;
use crate::registry::RegistryRequest;
use crate::token_service::TokenService;
use crate::upstream::{Member, TakenBack};

/// Turns what members answer into what clients get.
pub(super) struct Answers {
    pub tokens: Arc<TokenService>,
    pub sessions: Sessions,
    pub checks: Arc<ContentChecks>,
    /// Owns the tasks that fill windows for several readers.
    pub tasks: TaskTracker,
}

/// A member's answer with the body that the client gets.
pub(super) struct Answered {
    member: Arc<Member>,
    head: response::Parts,
    body: ResponseBody,
}

/// Whether this reads a blob or manifest.
fn reads_content(request: &MemberRequest) -> bool {
    let content =
        matches!(request.registry(), Some(RegistryRequest::Blob { .. } | RegistryRequest::Manifest { .. }));
    content && request.method == Method::GET
}

/// Where a member's answer leads, if that is for the gateway to say.
///
/// # Errors
/// When an upload is to go on at a place that is none of a registry.
fn location_of(member: &Member, head: &response::Parts) -> Result<Option<MemberLocation>, MemberError> {
    // A redirect leads to object storage, whatever its path looks like.
    if head.status.is_redirection() {
        return Ok(None);
    }
    match member_location(&head.headers) {
        Some(MemberLocation::Elsewhere) if head.status == StatusCode::ACCEPTED => {
            Err(MemberError::BadAnswer {
                member: member.name.clone(),
                problem: "its Location is no upload session",
            })
        }
        location => Ok(location),
    }
}

impl Answers {
    /// Turns a member's answer into the client's.
    pub(super) fn client_response(
        &self,
        admitted: &Admitted<'_>,
        request: &MemberRequest,
        pin: Option<Pin>,
        answered: Answered,
    ) -> Result<Response<ResponseBody>, GatewayError> {
        let target = request.registry().ok_or(GatewayError::Internal("a page has another answer"))?;
        let Answered { member, mut head, body } = answered;
        if is_refused_cancel(target, head.status) {
            return Ok(self.sessions.forget(target));
        }
        let location = location_of(&member, &head)?;
        head.headers = client_headers(std::mem::take(&mut head.headers));
        match location {
            // None at all, or a redirect to object storage: the client goes there itself.
            None => {}
            Some(MemberLocation::Elsewhere) => drop(head.headers.remove(LOCATION)),
            Some(MemberLocation::Upload(upload)) => {
                if upload.repository() != target.repository() {
                    return Err(no_session_here(&member).into());
                }
                let location =
                    self.sessions.sealed_location(admitted, &upload, pin, &member, &head.headers)?;
                head.headers.insert(LOCATION, location);
            }
            Some(MemberLocation::Content(path)) => {
                if let Ok(path) = HeaderValue::try_from(path) {
                    head.headers.insert(LOCATION, path);
                }
            }
        }
        self.sessions.note_end(target, head.status);
        if head.status == StatusCode::RANGE_NOT_SATISFIABLE && reads_content(request) {
            // docker-registry announces the blob's length here and sends no body.
            head.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
            return Ok(Response::from_parts(head, ResponseBody::empty()));
        }
        Ok(Response::from_parts(head, body))
    }

    /// A settled answer with its body, which those that wait for the same get too.
    pub(super) fn answered(
        &self,
        request: &Arc<MemberRequest>,
        settled: Settled,
        leader: Option<Leader>,
        record: &mut RequestRecord,
    ) -> Answered {
        let Settled { member, head, body, .. } = settled;
        let shared =
            || Head { member: Arc::clone(&member), status: head.status, headers: head.headers.clone() };
        let body = match body {
            SettledBody::Held(bytes) => {
                record.decisions.verified = true;
                if let Some(leader) = leader {
                    leader.share_held(shared, &bytes);
                }
                ResponseBody::held(bytes)
            }
            SettledBody::Other(mut body) => {
                body.allow_reclaim(TakenBack::Ends);
                if let Some(leader) = leader {
                    leader.share_nothing();
                }
                ResponseBody::member(body)
            }
            SettledBody::Content(coming) => {
                let resumption =
                    Resumption::new(Arc::clone(request), &head.headers, Arc::clone(&self.checks));
                let body = ContentBody::new(resumption, &member, *coming);
                record.decisions.resumed = Some(body.resumed());
                self.streamed_content(body, leader, shared)
            }
        };
        Answered { member, head, body }
    }

    /// Content for this client, and for those that wait for the same.
    fn streamed_content(
        &self,
        body: ContentBody,
        leader: Option<Leader>,
        head: impl FnOnce() -> Head,
    ) -> ResponseBody {
        let Some(leader) = leader else { return ResponseBody::content(body) };
        match leader.share_stream(head, body) {
            Ok((reader, filling)) => {
                self.tasks.spawn(filling);
                ResponseBody::shared(reader)
            }
            Err(body) => ResponseBody::content(*body),
        }
    }

    /// The answer that another request got; `None` where this one comes too late for that.
    pub(super) fn shared(
        &self,
        request: &Arc<MemberRequest>,
        outcome: Outcome,
        record: &mut RequestRecord,
    ) -> Option<Answered> {
        let (head, body) = match outcome {
            Outcome::Held(head, bytes) => (head, ResponseBody::held(bytes)),
            Outcome::Stream(head, window) => {
                let mut reader = window.reader()?;
                let resumption =
                    Resumption::new(Arc::clone(request), &head.headers, Arc::clone(&self.checks));
                reader.may_go_on(Arc::new(resumption), window.content(), Arc::clone(&head.member));
                (head, ResponseBody::shared(reader))
            }
            Outcome::Alone => return None,
        };
        let Head { member, status, headers } = head;
        let (mut parts, ()) = Response::new(()).into_parts();
        (parts.status, parts.headers) = (status, headers);
        record.note_shared(&member);
        Some(Answered { member, head: parts, body })
    }

    /// What the client is told when no member answered.
    pub(super) fn failed(
        &self,
        request: &MemberRequest,
        pin: Option<&Pin>,
        error: AttemptError,
    ) -> Result<Response<ResponseBody>, GatewayError> {
        if let AttemptError::Client(ClientFault::WrongPassword) = error {
            self.forget_password(request);
        }
        let is_refusal = matches!(
            error,
            AttemptError::Client(ClientFault::WrongPassword | ClientFault::NotGranted)
                | AttemptError::Member(MemberError::CredentialFault { .. })
        );
        if let Some(target) = request.registry()
            && is_refusal
            && is_refused_cancel(target, StatusCode::UNAUTHORIZED)
        {
            return Ok(self.sessions.forget(target));
        }
        match pin {
            Some(pin) if error.is_connect_failure() => {
                Err(GatewayError::PinnedMemberGone { member: pin.member.clone() })
            }
            _ => Err(GatewayError::of_attempt(request, error)),
        }
    }

    /// A password that a member refuses is not shown to it again.
    fn forget_password(&self, request: &MemberRequest) {
        if let (Some(secret), Some(harbor)) = (&request.secret, &self.tokens.logins().harbor) {
            harbor.forget(secret);
        }
    }
}
