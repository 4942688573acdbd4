//! Lists of repositories and tags where members copy each other, late: every member is asked, and
//! their lists become one.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, LINK};
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use tokio::time::{Instant, timeout_at};

use super::body::ResponseBody;
use super::error::GatewayError;
use super::trail::Trail;
use crate::attempt::{Answer, AttemptError, ClientFault, MemberError, MemberRequest, try_member};
use crate::content::{ContentChecks, GrowingReservation};
use crate::forwarding::readable::text;
use crate::forwarding::response::API_VERSION;
use crate::registry::{CatalogOrder, ListKind, Page, PartialList, merge};
use crate::upstream::{Member, Pool, RequestBody, Storage};

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
    /// There is no memory for it.
    NoMemory,
}

/// A list that is merged of the lists of all members.
pub(super) struct MergedList<'a> {
    kind: ListKind,
    page: &'a Page,
    request: &'a MemberRequest,
}

/// The answer to a list, and how it was got.
pub(super) struct Merged {
    pub outcome: Result<Response<ResponseBody>, GatewayError>,
    pub trail: Trail,
}

impl<'a> MergedList<'a> {
    /// The list that a request wants, where its pool's members copy each other, late; `None` for any other request.
    pub(super) fn of(request: &'a MemberRequest) -> Option<Self> {
        if request.pool.storage != Storage::Replicated {
            return None;
        }
        let (kind, page) = ListKind::of(request.registry()?, catalog_order(&request.pool))?;
        Some(Self { kind, page, request })
    }

    /// The answer, from all members that serve. Their time counts from `at`.
    pub(super) async fn answer(&self, at: Instant, checks: &ContentChecks) -> Merged {
        let members = self.members();
        let wanted = self.kind.page_of_members(self.page);
        let deadline = at + self.request.patience().head;
        // Until the merged list has its own.
        let memory = Mutex::new(checks.growing(self.request.client));
        let reading = ListReading { request: self.request, memory: &memory, deadline };
        let lists = members.iter().map(|member| reading.pages(&wanted, member));
        let lists = futures_util::future::join_all(lists).await;
        let tries = u32::try_from(members.len()).unwrap_or(u32::MAX);
        Merged { outcome: self.merged(lists, checks), trail: Trail { tries, ..Trail::default() } }
    }

    fn members(&self) -> Vec<Arc<Member>> {
        let all = || self.request.pool.members.iter();
        let mut members: Vec<_> = all().filter(|member| member.status().serves()).cloned().collect();
        if members.is_empty() {
            members = all().filter(|member| member.is_usable()).cloned().collect();
        }
        if members.iter().any(|member| member.harbor.is_some()) {
            // Harbor keeps these lists in its database; a plain registry beside it has none.
            members.retain(|member| member.harbor.is_some());
        }
        members
    }

    fn merged(
        &self,
        all: Vec<OneList>,
        checks: &ContentChecks,
    ) -> Result<Response<ResponseBody>, GatewayError> {
        let (mut lists, mut failed, mut refused, mut missing) = (Vec::new(), None, None, false);
        for one in all {
            match one {
                OneList::List(list) => lists.push(list),
                OneList::Missing => missing = true,
                OneList::Refused(error) => refused = Some(error),
                OneList::Failed(error) => failed = Some(error),
                OneList::NoMemory => return Err(GatewayError::NoMemory),
            }
        }
        if let Some(error) = failed {
            // A list that lacks what one of them has would be taken for the whole.
            return Err(GatewayError::of_attempt(self.request, error));
        }
        if lists.is_empty() {
            return Err(match (refused, missing) {
                (Some(error), _) => GatewayError::of_attempt(self.request, error),
                (None, true) => GatewayError::UnknownRepository,
                (None, false) => GatewayError::NoMember(self.request.pool.name.clone()),
            });
        }
        let merged = merge(&self.kind, self.page, lists);
        let body = checks.hold(merged.body.into(), self.request.client).ok_or(GatewayError::NoMemory)?;
        let mut response = Response::new(ResponseBody::full(body));
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
fn catalog_order(pool: &Pool) -> CatalogOrder {
    if pool.has_nodes { CatalogOrder::Names } else { CatalogOrder::Paths }
}

/// The lists of members that are being read for one answer.
struct ListReading<'a> {
    request: &'a MemberRequest,
    memory: &'a Mutex<GrowingReservation<'a>>,
    deadline: Instant,
}

impl ListReading<'_> {
    /// A page of one member. Harbor takes only entries of its own as the place to go on after, so it is
    /// asked from the start, as far as it takes.
    async fn pages(&self, wanted: &Page, member: &Arc<Member>) -> OneList {
        let Some(last) = wanted.last.as_deref().filter(|_| member.harbor.is_some()) else {
            return self.list(wanted, member).await;
        };
        let mut page = Page { n: Some(NODE_PAGE), last: None };
        let mut all: Option<PartialList> = None;
        for _ in 0..NODE_PAGES_MAX {
            let list = match self.list(&page, member).await {
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

    async fn list(&self, page: &Page, member: &Arc<Member>) -> OneList {
        let Some(target) = self.request.registry() else { return OneList::Missing };
        let request = self.request.get(target.with_page(page.clone()), self.request.headers.clone());
        match try_member(&request, member, RequestBody::Empty, self.deadline).await {
            Ok(answer) => self.read(answer).await,
            Err(failed) => match failed.error {
                // The repository is unknown there; another member's list may have it.
                AttemptError::Member(MemberError::UnknownTarget { .. }) => OneList::Missing,
                error @ AttemptError::Client(ClientFault::WrongPassword | ClientFault::NotGranted) => {
                    OneList::Refused(error)
                }
                error => OneList::Failed(error),
            },
        }
    }

    async fn read(&self, answer: Answer) -> OneList {
        let Answer { member, head, body, .. } = answer;
        let bad =
            |problem| OneList::Failed(MemberError::BadAnswer { member: member.name.clone(), problem }.into());
        match head.status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return OneList::Missing,
            _ => return bad("its list has an unexpected status"),
        }
        let bytes_max = self.request.pool.limits.manifest_bytes_max;
        let mut body = Limited::new(body, bytes_max);
        let mut bytes = BytesMut::new();
        loop {
            match timeout_at(self.deadline, body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    let data = frame.into_data().unwrap_or_default();
                    if !self.memory.lock().unwrap_or_else(PoisonError::into_inner).grow(data.len()) {
                        return OneList::NoMemory;
                    }
                    bytes.extend_from_slice(&data);
                }
                Ok(None) => break,
                Ok(Some(Err(_))) | Err(_) => return bad("its list broke off or is too large"),
            }
        }
        let list = PartialList::parse(&bytes, has_next(&head.headers));
        list.map_or_else(|| bad("its list cannot be read"), OneList::List)
    }
}

fn has_next(headers: &HeaderMap) -> bool {
    headers.get_all(LINK).iter().any(|link| text(link).contains("rel=\"next\""))
}
