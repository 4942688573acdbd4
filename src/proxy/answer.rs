//! From a member's answer to the client's.

use std::sync::Arc;

use http::header::{CONTENT_LENGTH, HeaderMap, HeaderValue, LOCATION};
use http::{Method, Response, StatusCode, response};

use super::body::ResponseBody;
use super::coalesce::{Head, Leader, Outcome};
use super::content::{Settled, SettledBody};
use super::context::RequestContext;
use super::error::GatewayError;
use super::rest::Plan;
use super::resume::ContentBody;
use super::{Admitted, Asked, Gateway};
use crate::forwarding::response::{MemberLocation, client_headers, member_location};
use crate::pin::Pin;
use crate::registry::{Digest, RegistryRequest};
use crate::upstream::{Member, TakenBack};

impl Admitted {
    /// Whether this reads a blob or manifest.
    fn reads_content(&self) -> bool {
        let content = matches!(self.target, RegistryRequest::Blob { .. } | RegistryRequest::Manifest { .. });
        content && self.down.head.method == Method::GET
    }
}

/// Where a member's answer leads, if that is for the gateway to say.
///
/// # Errors
/// When an upload is to go on at a place that is none of a registry.
fn location_of(member: &Member, head: &response::Parts) -> Result<Option<MemberLocation>, GatewayError> {
    // A redirect leads to object storage, whatever its path looks like.
    if head.status.is_redirection() {
        return Ok(None);
    }
    match member_location(&head.headers) {
        Some(MemberLocation::Elsewhere) if head.status == StatusCode::ACCEPTED => {
            Err(GatewayError::BadAnswer {
                member: member.name.clone(),
                problem: "its Location is no upload session",
            })
        }
        location => Ok(location),
    }
}

impl Gateway {
    /// Turns a member's answer into the client's.
    pub(super) fn client_response(
        &self,
        admitted: &Admitted,
        pin: Option<Pin>,
        settled: Settled,
        (asked, ctx): (Asked, &mut RequestContext),
    ) -> Result<Response<ResponseBody>, GatewayError> {
        let Settled { member, mut head, body, .. } = settled;
        if admitted.is_refused_cancel(head.status) {
            return Ok(self.forget_session(&admitted.target));
        }
        let location = location_of(&member, &head)?;
        let member_headers = std::mem::take(&mut head.headers);
        let leader = ctx.leader.take();
        let shared =
            || Head { member: Arc::clone(&member), status: head.status, headers: member_headers.clone() };
        let body = match body {
            SettledBody::Held(bytes) => {
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
            SettledBody::Content(stream, held, content) => {
                let plan = self.resume_plan(admitted, asked, (&member_headers, &content.digest), ctx);
                let body = ContentBody::new(plan, *content, (Arc::clone(&member), stream), held);
                ctx.decisions.resumed = Some(body.resumed());
                self.streamed_content(body, leader, shared)
            }
            SettledBody::Shared(mut reader, content) => {
                let plan = self.resume_plan(admitted, asked, (&member_headers, &content.digest), ctx);
                reader.may_go_on(Arc::new(plan), *content, Arc::clone(&member));
                ResponseBody::shared(reader)
            }
        };
        head.headers = client_headers(member_headers);
        match location {
            // None at all, or a redirect to object storage: the client goes there itself.
            None => {}
            Some(MemberLocation::Elsewhere) => drop(head.headers.remove(LOCATION)),
            Some(MemberLocation::Upload(upload)) => {
                let location = self.sealed_location(admitted, &upload, pin, (&member, &head.headers))?;
                head.headers.insert(LOCATION, location);
            }
            Some(MemberLocation::Content(path)) => {
                if let Ok(path) = HeaderValue::try_from(path) {
                    head.headers.insert(LOCATION, path);
                }
            }
        }
        self.note_upload_end(&admitted.target, head.status);
        if head.status == StatusCode::RANGE_NOT_SATISFIABLE && admitted.reads_content() {
            // docker-registry announces the blob's length here and sends no body.
            head.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
            return Ok(Response::from_parts(head, ResponseBody::empty()));
        }
        Ok(Response::from_parts(head, body))
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

    /// The answer that somebody else got; `None` where it comes too late for that.
    pub(super) fn shared(&self, outcome: Outcome, ctx: &mut RequestContext) -> Option<Settled> {
        let (head, body) = match outcome {
            Outcome::Held(head, bytes) => (head, SettledBody::Held(bytes)),
            Outcome::Stream(head, window) => {
                let content = Box::new(window.content());
                (head, SettledBody::Shared(window.reader()?, content))
            }
            Outcome::Alone => return None,
        };
        let Head { member, status, headers } = head;
        let (mut parts, ()) = Response::new(()).into_parts();
        (parts.status, parts.headers) = (status, headers);
        ctx.member = Some(Arc::clone(&member));
        ctx.decisions.coalesced = true;
        Some(Settled { member, head: parts, body, progress: None })
    }

    /// What it takes to go on from another member when this one fails in the middle.
    fn resume_plan(
        &self,
        admitted: &Admitted,
        asked: Asked,
        (answer, digest): (&HeaderMap, &Digest),
        ctx: &RequestContext,
    ) -> Plan {
        let Asked { pool, headers, access, secret } = asked;
        Plan {
            target: Plan::target_of(admitted.target.clone(), digest),
            headers: Plan::headers_of(headers, answer, digest),
            subject: admitted.client.subject.clone(),
            client: admitted.key,
            access,
            secret,
            checks: Arc::clone(&self.checks),
            worker: ctx.connection.worker,
            request_id: ctx.id.clone(),
            switches_max: pool.limits.resume_max,
            pool,
        }
    }

    /// What the client is told when no member answered.
    pub(super) fn failed(
        &self,
        admitted: &Admitted,
        pin: Option<&Pin>,
        error: GatewayError,
    ) -> Result<Response<ResponseBody>, GatewayError> {
        match (error, pin) {
            (GatewayError::Unauthorized { .. } | GatewayError::CredentialFault { .. }, _)
                if admitted.is_refused_cancel(StatusCode::UNAUTHORIZED) =>
            {
                Ok(self.forget_session(&admitted.target))
            }
            // The forwarding does not know the client's host, and so not the realm.
            (GatewayError::Unauthorized { reason, wanted, .. }, _) => {
                Err(self.unauthorized(&admitted.down, reason, wanted))
            }
            (GatewayError::Upstream(error), Some(pin)) if error.is_connect_failure() => {
                Err(GatewayError::PinnedMemberGone { member: pin.member.clone() })
            }
            (error, _) => Err(error),
        }
    }
}
