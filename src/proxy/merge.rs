//! Lists of repositories and tags where members copy each other, late: every member is asked, and
//! their lists become one.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, LINK};
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use tokio::time::{Instant, timeout_at};

use super::body::ResponseBody;
use super::context::RequestContext;
use super::error::GatewayError;
use super::{Downstream, Gateway};
use crate::attempt::{Answer, AttemptError, ClientFault, MemberError, MemberRequest, try_member};
use crate::forwarding::readable::text;
use crate::forwarding::response::API_VERSION;
use crate::registry::{CatalogOrder, ListKind, Page, PartialList, merge};
use crate::upstream::{Member, Pool, RequestBody};

/// Pages of a Harbor node that are read to come to a place in its list, and their size.
const NODE_PAGES_MAX: usize = 100;
const NODE_PAGE: u32 = 1000;

/// What came of one member's list.
enum OneList {
    List(PartialList),
    /// It has no such repository.
    Missing,
    /// The client has no right there.
    Refused(AttemptError),
    Failed(AttemptError),
}

impl Gateway {
    /// The answer to a list, from all members that serve.
    pub(super) async fn merged_list(
        &self,
        down: &Downstream,
        (kind, page): (&ListKind, &Page),
        request: &MemberRequest,
        ctx: &mut RequestContext,
    ) -> Result<Response<ResponseBody>, GatewayError> {
        let mut members: Vec<_> =
            request.pool.members.iter().filter(|member| member.status().serves()).cloned().collect();
        if members.is_empty() {
            members = request.pool.members.iter().filter(|member| member.is_usable()).cloned().collect();
        }
        if members.iter().any(|member| member.harbor.is_some()) {
            // Harbor keeps these lists in its database; a plain registry beside it has none.
            members.retain(|member| member.harbor.is_some());
        }
        let wanted = kind.page_of_members(page);
        let deadline = ctx.started + request.patience().head;
        ctx.tries = u32::try_from(members.len()).unwrap_or(u32::MAX);
        let lists = members.iter().map(|member| ask_for_pages(request, &wanted, member, deadline));
        let all = futures_util::future::join_all(lists).await;
        let (mut lists, mut failed, mut refused, mut missing) = (Vec::new(), None, None, false);
        for one in all {
            match one {
                OneList::List(list) => lists.push(list),
                OneList::Missing => missing = true,
                OneList::Refused(error) => refused = Some(error),
                OneList::Failed(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            // A list that lacks what one of them has would be taken for the whole.
            return Err(self.attempt_failed(down, request, error));
        }
        if lists.is_empty() {
            return Err(match (refused, missing) {
                (Some(error), _) => self.attempt_failed(down, request, error),
                (None, true) => GatewayError::UnknownRepository,
                (None, false) => GatewayError::NoMember(request.pool.name.clone()),
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

/// The order in which the members of a pool list repositories.
pub(super) fn catalog_order(pool: &Pool) -> CatalogOrder {
    if pool.has_nodes { CatalogOrder::Names } else { CatalogOrder::Paths }
}

/// A page of one member. Harbor takes only entries of its own as the place to go on after, so it is
/// asked from the start, as far as it takes.
async fn ask_for_pages(
    request: &MemberRequest,
    wanted: &Page,
    member: &Arc<Member>,
    deadline: Instant,
) -> OneList {
    let Some(last) = wanted.last.as_deref().filter(|_| member.harbor.is_some()) else {
        return ask_for_list(request, wanted, member, deadline).await;
    };
    let mut page = Page { n: Some(NODE_PAGE), last: None };
    let mut all: Option<PartialList> = None;
    for _ in 0..NODE_PAGES_MAX {
        let list = match ask_for_list(request, &page, member, deadline).await {
            OneList::List(list) => list,
            other => return other,
        };
        let list = match all.take() {
            Some(before) => before.followed_by(list),
            None => list,
        };
        page.last = list.goes_on_after().map(str::to_owned);
        let is_enough = page.last.as_deref().is_none_or(|reached| reached > last);
        all = Some(list);
        if is_enough {
            break;
        }
    }
    all.map_or_else(|| OneList::Failed(MemberError::NoCandidate.into()), OneList::List)
}

async fn ask_for_list(
    request: &MemberRequest,
    page: &Page,
    member: &Arc<Member>,
    deadline: Instant,
) -> OneList {
    let Some(target) = request.registry() else { return OneList::Missing };
    let request = request.get(target.with_page(page.clone()), request.headers.clone());
    match try_member(&request, member, RequestBody::Empty, deadline).await {
        Ok(answer) => read_list(answer, request.pool.limits.manifest_bytes_max, deadline).await,
        Err(failed) => match failed.error {
            // There nobody knows the repository; another member's list may have it.
            AttemptError::Member(MemberError::UnknownTarget { .. }) => OneList::Missing,
            error @ AttemptError::Client(ClientFault::WrongPassword | ClientFault::NotGranted) => {
                OneList::Refused(error)
            }
            error => OneList::Failed(error),
        },
    }
}

async fn read_list(answer: Answer, bytes_max: usize, deadline: Instant) -> OneList {
    let Answer { member, head, body, .. } = answer;
    let bad =
        |problem| OneList::Failed(MemberError::BadAnswer { member: member.name.clone(), problem }.into());
    match head.status {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return OneList::Missing,
        _ => return bad("its list has an unexpected status"),
    }
    let read = timeout_at(deadline, Limited::new(body, bytes_max).collect()).await;
    let Ok(Ok(collected)) = read else { return bad("its list broke off or is too large") };
    let bytes: Bytes = collected.to_bytes();
    let list = PartialList::parse(&bytes, has_next(&head.headers));
    list.map_or_else(|| bad("its list cannot be read"), OneList::List)
}

fn has_next(headers: &HeaderMap) -> bool {
    headers.get_all(LINK).iter().any(|link| text(link).contains("rel=\"next\""))
}
