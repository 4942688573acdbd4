//! Harbor's web pages and API. Harbor authenticates there; ours is which paths exist, which node
//! answers, and that a browser stays with one: its session, its CSRF token and its login with a
//! third party are that node's, and so are the names of the files that its first page leads to.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, COOKIE, HeaderValue, SET_COOKIE, UPGRADE};
use http::{HeaderMap, Method, Response, StatusCode, request};
use hyper::body::Incoming;

use super::body::ResponseBody;
use super::context::RequestContext;
use super::error::{GatewayError, READ_ONLY};
use super::request_body::{self, PreparedBody};
use super::{Downstream, Gateway};
use crate::attempt::{MemberRequest, Target};
use crate::auth::credentials::Credentials;
use crate::auth::seal::{self, Purpose};
use crate::auth::subject::Subject;
use crate::content::{Settled, SettledBody};
use crate::forwarding::readable::text;
use crate::forwarding::request::Via;
use crate::forwarding::web::{affinities, affinity_cookie, client_headers, node_headers};
use crate::harbor::{self, HarborIdentity, Turn};
use crate::random::{nonce, unix_now};
use crate::registry::{ParseError, WebKind, WebRequest, is_read};
use crate::snapshot::Snapshot;
use crate::upstream::TakenBack;
use crate::upstream::harbor::ClientSecret;
use crate::upstream::{
    HarborVersion, Member, MemberAccess, Pool, Request as PoolRequest, Storage, Topology, client_key,
};

/// How many affinity cookies of one request are tried.
const AFFINITIES_MAX: usize = 4;

impl Gateway {
    /// Everything beside `/v2` and what we answer ourselves.
    pub(super) async fn serve_web(
        &self,
        state: &Snapshot,
        down: &Downstream,
        body: &mut Option<Incoming>,
        ctx: &mut RequestContext,
    ) -> Result<Response<ResponseBody>, GatewayError> {
        let pool = portal_of(down).ok_or(GatewayError::NotFound)?;
        let request = self.parse_web(pool, &down.head)?;
        ctx.route = request.route();
        ctx.note_path(down.head.uri.path());
        // Any other scheme is Harbor's own services' way to call each other.
        let credentials = Credentials::from_headers(&down.head.headers)?;
        let anonymous = matches!(credentials, Credentials::None);
        if asks_for_upgrade(&down.head.headers) {
            return Err(GatewayError::Upgrade);
        }
        let has_secret = request.kind() == WebKind::Session || down.head.headers.contains_key(COOKIE);
        if has_secret && !ctx.connection.credentials_allowed {
            return Err(GatewayError::PlaintextCredentials);
        }
        let node = self.node_of(state, &down.head.headers).filter(|_| anonymous);
        let Some(secret) = self.password_for_node(pool, credentials, ctx).await? else {
            return Ok(wrong_password());
        };
        // Whole before its turn: nobody waits for a form that is still on its way.
        let harbor = self.tokens.logins().harbor.as_ref().filter(|_| is_form(&request, &down.head.method));
        let form = if harbor.is_some() { Some(request_body::form(body, &ctx.progress).await?) } else { None };
        let turn = match harbor {
            Some(harbor) => Some(form_turn(harbor, ctx).await?),
            None => None,
        };
        let candidates = candidates(pool, &request, (&down.head.method, node.as_deref()))?;
        if candidates.is_empty() {
            return Err(GatewayError::NoMember(pool.name.clone()));
        }
        let via = Via {
            client: ctx.connection.peer.ip(),
            https: down.https,
            authority: &down.authority.text,
            request_id: &ctx.id,
        };
        let subject = Subject::anonymous();
        let request = MemberRequest {
            id: Arc::clone(&ctx.id),
            worker: ctx.connection.worker,
            method: down.head.method.clone(),
            headers: node_headers(&down.head.headers, via),
            client: client_key(ctx.connection.peer.ip(), &subject),
            subject,
            access: MemberAccess::default(),
            secret,
            pool: Arc::clone(pool),
            target: Target::Web(request),
        };
        let (body, awaited) = match form {
            Some(form) => (form, Duration::ZERO),
            None => {
                let body_rate_min = self.limits.body_rate_min;
                let prepared = request_body::streamed(&request, body, body_rate_min, &ctx.progress).await?;
                let PreparedBody { body, awaited, .. } = prepared;
                (body, awaited)
            }
        };
        let mut sending = self.sending(&request, ctx.started + awaited, 0);
        let answer = sending.run(candidates, body).await;
        ctx.note_trail(sending.trail);
        let answer = answer.map_err(|error| self.attempt_failed(down, &request, error))?;
        if let Some(mut turn) = turn.filter(|_| answer.head.status == StatusCode::UNAUTHORIZED) {
            turn.was_wrong();
        }
        let cookie = (anonymous && node.as_deref() != Some(answer.member.name.as_str()))
            .then(|| self.affinity_to(state, &answer.member, down.https))
            .flatten();
        Ok(web_response(down, answer, cookie))
    }

    /// The client's password, once it is known to be right: an unproven one would lock its name at
    /// the node that sees it. `None` inside where there is none to be sent, outside where it is wrong.
    async fn password_for_node(
        &self,
        portal: &Pool,
        credentials: Credentials,
        ctx: &RequestContext,
    ) -> Result<Option<Option<ClientSecret>>, GatewayError> {
        let Credentials::Basic { user, password } = credentials else { return Ok(Some(None)) };
        let harbor = self.tokens.logins().harbor.as_ref();
        let Some(harbor) = harbor.filter(|harbor| harbor.is_of(Some(portal))) else { return Ok(Some(None)) };
        match harbor.check((&user, &password), &[], ctx.connection.peer.ip()).await {
            harbor::Answer::Known(..) => Ok(Some(Some(ClientSecret::new(&user, &password)))),
            harbor::Answer::Wrong => Ok(None),
            harbor::Answer::Unavailable => Err(GatewayError::IdentityUnavailable),
        }
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
        let open = |sealed| seal::open(&state.seals, Purpose::Affinity, &context, sealed, unix_now()).ok();
        String::from_utf8(affinities(headers).take(AFFINITIES_MAX).find_map(open)?).ok()
    }

    fn affinity_to(&self, state: &Snapshot, member: &Member, https: bool) -> Option<http::HeaderValue> {
        let context = [self.hosts.primary().as_bytes()];
        let name = member.name.as_str().as_bytes();
        let sealed = seal::seal(&state.seals, Purpose::Affinity, &context, name, (unix_now(), nonce()))?;
        affinity_cookie(&sealed, https)
    }
}

/// A login form's password is seen by the node alone; how many are tried is still ours to say.
fn is_form(request: &WebRequest, method: &Method) -> bool {
    request.kind() == WebKind::Session && *method == Method::POST
}

async fn form_turn(harbor: &HarborIdentity, ctx: &RequestContext) -> Result<Turn, GatewayError> {
    harbor.form_turn(ctx.connection.peer.ip()).await.ok_or(GatewayError::IdentityUnavailable)
}

/// The pool whose pages a host shows: the first of its routes that leads to Harbor nodes.
fn portal_of(down: &Downstream) -> Option<&Arc<Pool>> {
    let Topology { pools, routes } = &*down.topology;
    routes.pools_of(down.authority.name()).filter_map(|at| pools.get(at)).find(|pool| pool.portal)
}

/// The nodes to ask: the browser's own while it serves, then the others. Where nodes copy each other,
/// what is about a project is its home's, and everything else one and the same node's; writes are
/// nobody else's.
fn candidates(
    pool: &Pool,
    request: &WebRequest,
    (method, node): (&Method, Option<&str>),
) -> Result<Vec<Arc<Member>>, GatewayError> {
    let mut candidates = match pool.storage {
        // Nothing of a node that is out: one that has lost its database refuses everybody.
        Storage::Shared => pool.candidates(PoolRequest::change()),
        Storage::Replicated => {
            // A number is another project at every node.
            let named = |project: &&str| !project.bytes().all(|byte| byte.is_ascii_digit());
            let key = request.project().filter(named).unwrap_or_default();
            let writes = request.kind() == WebKind::Api && !is_read(method);
            match pool.home(key).filter(|_| writes) {
                Some(home) if home.is_usable() => vec![Arc::clone(home)],
                Some(home) => return Err(GatewayError::HomeDown { member: home.name.clone() }),
                None => pool.candidates_from_home(key),
            }
        }
    };
    candidates.retain(|member| member.harbor.is_some());
    // Stable: the others keep their order.
    candidates.sort_by_key(|member| Some(member.name.as_str()) != node);
    Ok(candidates)
}

/// What Harbor's API says to a wrong password.
fn wrong_password() -> Response<ResponseBody> {
    let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"unauthorized"}]}"#;
    let mut response = Response::new(ResponseBody::full(body));
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// `h2c` is an offer that may be left unanswered (RFC 9110 7.8); anything else wants another
/// protocol than HTTP, which nobody here speaks.
fn asks_for_upgrade(headers: &HeaderMap) -> bool {
    headers.get_all(UPGRADE).iter().any(|value| !value.as_bytes().eq_ignore_ascii_case(b"h2c"))
}

fn web_response(
    down: &Downstream,
    answer: Settled,
    cookie: Option<http::HeaderValue>,
) -> Response<ResponseBody> {
    let Settled { member, mut head, body, .. } = answer;
    let own = [text(&member.host), &*down.authority.text];
    head.headers = client_headers(std::mem::take(&mut head.headers), down.https, &own);
    if let Some(cookie) = cookie {
        head.headers.append(SET_COOKIE, cookie);
    }
    // A page has no digest that it could be held to.
    let body = match body {
        SettledBody::Other(mut body) | SettledBody::Content(mut body, ..) => {
            body.allow_reclaim(TakenBack::Ends);
            ResponseBody::member(body)
        }
        SettledBody::Held(bytes) => ResponseBody::held(bytes),
    };
    Response::from_parts(head, body)
}
