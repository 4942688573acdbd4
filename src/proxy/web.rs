//! Harbor's web pages and API. Harbor authenticates there; ours is which paths exist, which node
//! answers, and that a browser stays with one: its session, its CSRF token and its login with a
//! third party are that node's, and so are the names of the files that its first page leads to.

use std::sync::Arc;

use http::header::{COOKIE, SET_COOKIE, UPGRADE};
use http::{HeaderMap, Response, request};
use hyper::body::Incoming;

use super::body::{MemberBody, ResponseBody};
use super::context::RequestContext;
use super::error::{GatewayError, READ_ONLY};
use super::forward::{Answer, Outgoing, Target, forward};
use super::{Downstream, Gateway, outgoing_body};
use crate::auth::credentials::Credentials;
use crate::auth::seal::{self, Purpose};
use crate::auth::subject::Subject;
use crate::forwarding::request::Via;
use crate::forwarding::web::{affinity, affinity_cookie, client_headers, node_headers};
use crate::random::{nonce, seed, unix_now};
use crate::registry::{ParseError, WebKind, WebRequest};
use crate::snapshot::Snapshot;
use crate::upstream::{HarborVersion, Member, MemberAccess, Pool, Storage};

impl Gateway {
    /// Everything beside `/v2` and what we answer ourselves.
    pub(super) async fn serve_web(
        &self,
        state: &Snapshot,
        down: &Downstream,
        body: &mut Option<Incoming>,
        ctx: &mut RequestContext,
    ) -> Result<Response<ResponseBody>, GatewayError> {
        let pool = self.portal_of(down.authority.name()).ok_or(GatewayError::NotFound)?;
        let request = self.parse_web(pool, &down.head)?;
        ctx.route = request.route();
        ctx.note_path(down.head.uri.path());
        // Any other scheme is Harbor's own services' way to call each other.
        let anonymous = matches!(Credentials::from_headers(&down.head.headers)?, Credentials::None);
        if asks_for_upgrade(&down.head.headers) {
            return Err(GatewayError::Upgrade);
        }
        let has_secret = request.kind() == WebKind::Session || down.head.headers.contains_key(COOKIE);
        if has_secret && !ctx.connection.credentials_allowed {
            return Err(GatewayError::PlaintextCredentials);
        }
        let node = self.node_of(state, &down.head.headers).filter(|_| anonymous);
        let candidates = candidates(pool, &request, node.as_deref());
        if candidates.is_empty() {
            return Err(GatewayError::NoMember(pool.name.clone()));
        }
        let via = Via {
            client: ctx.connection.peer.ip(),
            https: down.https,
            authority: &down.authority.text,
            request_id: &ctx.id,
        };
        let headers = node_headers(&down.head.headers, via);
        let outgoing = Outgoing {
            target: Target::Web(&request),
            method: &down.head.method,
            headers: &headers,
            subject: &Subject::anonymous(),
            access: &MemberAccess::default(),
            secret: None,
            limits: &pool.limits,
            copies: false,
        };
        let request_body = outgoing_body(&headers, body, ctx, pool.limits.body_idle_timeout);
        let answer = forward(&outgoing, candidates, request_body, ctx).await?;
        let cookie = (anonymous && node.as_deref() != Some(answer.member.name.as_str()))
            .then(|| self.affinity_to(state, &answer.member, down.https))
            .flatten();
        Ok(web_response(down, answer, cookie))
    }

    /// The pool whose pages a host shows: the first of its routes that leads to Harbor nodes.
    fn portal_of(&self, host: &str) -> Option<&Arc<Pool>> {
        self.routes.pools_of(host).filter_map(|pool| self.pools.get(pool)).find(|pool| pool.portal)
    }

    fn parse_web(&self, pool: &Pool, head: &request::Parts) -> Result<WebRequest, GatewayError> {
        let is_first = |member: &Arc<Member>| {
            member.harbor.as_ref().is_some_and(|node| node.version() == HarborVersion::One)
        };
        let first_version = pool.members.iter().any(is_first);
        let parsed = WebRequest::parse(&head.method, head.uri.path(), head.uri.query(), first_version);
        parsed.map_err(|error| match error {
            ParseError::Route => GatewayError::NotFound,
            ParseError::Method => GatewayError::MethodNotAllowed(READ_ONLY),
            error => error.into(),
        })
    }

    /// The name of the node that a browser stays with, where its cookie is ours.
    fn node_of(&self, state: &Snapshot, headers: &HeaderMap) -> Option<String> {
        let context = [self.hosts.primary().as_bytes()];
        let opened = seal::open(&state.seals, Purpose::Affinity, &context, affinity(headers)?, unix_now());
        String::from_utf8(opened.ok()?).ok()
    }

    fn affinity_to(&self, state: &Snapshot, member: &Member, https: bool) -> Option<http::HeaderValue> {
        let context = [self.hosts.primary().as_bytes()];
        let name = member.name.as_str().as_bytes();
        let sealed = seal::seal(&state.seals, Purpose::Affinity, &context, name, (unix_now(), nonce()))?;
        affinity_cookie(&sealed, https)
    }
}

/// The nodes to ask: the browser's own while it serves, then the others; for a project where nodes
/// copy each other, its home before those.
fn candidates(pool: &Pool, request: &WebRequest, node: Option<&str>) -> Vec<Arc<Member>> {
    let mut candidates = match (pool.storage, request.project()) {
        (Storage::Replicated, Some(project)) => pool.candidates_from_home(project),
        (Storage::Replicated, None) | (Storage::Shared, _) => pool.candidates(seed()),
    };
    candidates.retain(|member| member.harbor.is_some());
    // Stable: the others keep their order.
    candidates.sort_by_key(|member| Some(member.name.as_str()) != node);
    candidates
}

/// `h2c` is an offer that may be left unanswered (RFC 9110 7.8); anything else wants another
/// protocol than HTTP, which nobody here speaks.
fn asks_for_upgrade(headers: &HeaderMap) -> bool {
    headers.get_all(UPGRADE).iter().any(|value| !value.as_bytes().eq_ignore_ascii_case(b"h2c"))
}

fn web_response(
    down: &Downstream,
    answer: Answer,
    cookie: Option<http::HeaderValue>,
) -> Response<ResponseBody> {
    let Answer { member, mut head, body, body_idle_timeout, hold } = answer;
    let own = [member.host.to_str().unwrap_or_default(), &*down.authority.text];
    head.headers = client_headers(std::mem::take(&mut head.headers), down.https, &own);
    if let Some(cookie) = cookie {
        head.headers.append(SET_COOKIE, cookie);
    }
    Response::from_parts(head, ResponseBody::member(MemberBody::new(body, body_idle_timeout, hold)))
}
