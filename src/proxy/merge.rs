//! Lists of repositories and tags where members copy each other, late: every member is asked, and
//! their lists become one.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, LINK};
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use tokio::time::{Instant, timeout_at};

use super::body::ResponseBody;
use super::context::RequestContext;
use super::error::GatewayError;
use super::forward::{Attempt, NotFound, Outgoing, Target, try_member};
use super::send::{Answer, Try};
use super::{Admitted, Asked, Gateway};
use crate::forwarding::response::API_VERSION;
use crate::registry::{ListKind, PartialList, RegistryRequest, merge};
use crate::upstream::{Member, RequestBody};

/// What one member said.
enum Said {
    List(PartialList),
    /// It has no such repository.
    Missing,
    Failed(GatewayError),
}

impl Gateway {
    /// The answer to a list, from all members that serve.
    pub(super) async fn merged_list(
        &self,
        admitted: &Admitted,
        kind: &ListKind,
        (asked, members): (&Asked, Vec<Arc<Member>>),
        ctx: &mut RequestContext,
    ) -> Result<Response<ResponseBody>, GatewayError> {
        let Some((_, page)) = ListKind::of(&admitted.target) else {
            return Err(GatewayError::Internal("no list was asked for"));
        };
        let target = admitted.target.with_page(kind.page_of_members(page));
        let deadline = ctx.started + asked.pool.limits.head_timeout;
        let at = Try { worker: ctx.connection.worker, deadline };
        ctx.tries = u32::try_from(members.len()).unwrap_or(u32::MAX);
        let said = members.iter().map(|member| ask_for_list(admitted, (&target, asked), member, at));
        let said = futures_util::future::join_all(said).await;
        let (mut lists, mut failed, mut missing) = (Vec::new(), None, false);
        for said in said {
            match said {
                Said::List(list) => lists.push(list),
                Said::Missing => missing = true,
                Said::Failed(error) => failed = Some(error),
            }
        }
        if lists.is_empty() {
            // What a member that is out might have is not known.
            return Err(match failed {
                Some(error) => error,
                None if missing => GatewayError::UnknownRepository,
                None => GatewayError::NoMember(asked.pool.name.clone()),
            });
        }
        let merged = merge(kind, page, lists);
        let mut response = Response::new(ResponseBody::full(merged.body));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
        headers.insert(API_VERSION.0, API_VERSION.1);
        let link = merged.next.map(|next| format!("<{next}>; rel=\"next\""));
        if let Some(link) = link.and_then(|link| HeaderValue::try_from(link).ok()) {
            headers.insert(LINK, link);
        }
        Ok(response)
    }
}

async fn ask_for_list(
    admitted: &Admitted,
    (target, asked): (&RegistryRequest, &Asked),
    member: &Arc<Member>,
    at: Try,
) -> Said {
    let outgoing = Outgoing {
        target: Target::Registry(target),
        method: &Method::GET,
        headers: &asked.headers,
        subject: &admitted.client.subject,
        access: &asked.access,
        secret: asked.secret.as_ref(),
        pool: &asked.pool,
        not_found: NotFound::AskAll,
    };
    match try_member(&outgoing, member, RequestBody::Empty, at).await {
        Attempt::Answered(answer) => {
            read_list(*answer, asked.pool.limits.manifest_bytes_max, at.deadline).await
        }
        Attempt::Failed(error, _) => Said::Failed(error),
    }
}

async fn read_list(answer: Answer, bytes_max: usize, deadline: Instant) -> Said {
    let Answer { member, head, body, .. } = answer;
    let bad = |problem| Said::Failed(GatewayError::BadAnswer { member: member.name.clone(), problem });
    match head.status {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Said::Missing,
        _ => return bad("its list has an unexpected status"),
    }
    let read = timeout_at(deadline, Limited::new(body, bytes_max).collect()).await;
    let Ok(Ok(collected)) = read else { return bad("its list broke off or is too large") };
    let bytes: Bytes = collected.to_bytes();
    let list = PartialList::parse(&bytes, has_next(&head.headers));
    list.map_or_else(|| bad("its list cannot be read"), Said::List)
}

fn has_next(headers: &HeaderMap) -> bool {
    headers.get_all(LINK).iter().any(|link| link.to_str().is_ok_and(|link| link.contains("rel=\"next\"")))
}
