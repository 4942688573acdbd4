//! Harbor's web pages and API. Harbor authenticates there; ours is which paths exist, which node
//! answers, and that a browser stays with one: its session, its CSRF token and its login with a
//! third party are that node's, and so are the names of the files that its first page leads to.

use std::sync::Arc;

use http::header::{CONTENT_TYPE, COOKIE, HeaderValue, SET_COOKIE, UPGRADE};
use http::{HeaderMap, Method, Response, StatusCode, request};

use super::arrival::Arrival;
use super::body::ResponseBody;
use super::client_body::{ClientBody, LOGIN_FORM_BYTES_MAX, PreparedBody};
use super::error::{GatewayError, READ_ONLY};
use super::record::RequestRecord;
use super::route::Candidates;
use super::send::{Sender, Sent};
use crate::attempt::{MemberBody, MemberRequest, Target};
use crate::auth::credentials::{Credentials, LoginPair};
use crate::auth::seal::{self, Purpose};
use crate::auth::subject::Subject;
use crate::content::{Settled, SettledBody};
use crate::forwarding::readable::text;
use crate::forwarding::web::{affinities, affinity_cookie, client_headers, node_headers};
use crate::harbor;
use crate::random::{nonce, unix_now};
use crate::registry::{ParseError, WebKind, WebRequest, is_read};
use crate::token_service::TokenService;
use crate::upstream::harbor::ClientSecret;
use crate::upstream::{
    HarborVersion, Member, MemberAccess, Pool, Request as PoolRequest, RequestBody, Storage, TakenBack,
    Topology, client_key,
};

/// How many affinity cookies of one request are tried.
const AFFINITIES_MAX: usize = 4;

/// Harbor's web pages and API, as browsers and scripts use them.
pub(super) struct Portal {
    pub tokens: Arc<TokenService>,
    pub sender: Arc<Sender>,
    /// The name of the gateway that every affinity cookie is bound to.
    pub host: String,
}

/// A request for a page or the API, before it is sent.
struct PageRequest<'a> {
    arrival: &'a Arrival,
    pool: &'a Arc<Pool>,
    request: WebRequest,
    /// The name of the node that the browser stays with.
    node: Option<String>,
    /// Whether the client shows no credentials in `Authorization`.
    anonymous: bool,
}

/// What a client shows of a password.
enum Shown {
    /// One that is right, to be sent along.
    Right(ClientSecret),
    /// None that is for the gateway to judge.
    Nothing,
    Wrong,
}

impl Portal {
    /// Everything beside `/v2` and the gateway's own endpoints.
    pub(super) async fn answer(
        &self,
        arrival: &Arrival,
        body: &mut ClientBody,
        record: &mut RequestRecord,
    ) -> Result<Response<ResponseBody>, GatewayError> {
        let pool = portal_of(arrival).ok_or(GatewayError::NotFound)?;
        let headers = &arrival.head.headers;
        let request = parse(pool, &arrival.head)?;
        record.note_route(request.route());
        record.note_path(arrival.head.uri.path());
        // Any other scheme is Harbor's own services' way to call each other.
        let credentials = Credentials::from_headers(headers)?;
        let anonymous = matches!(credentials, Credentials::None);
        if asks_for_upgrade(headers) {
            return Err(GatewayError::Upgrade);
        }
        let has_secret = request.kind() == WebKind::Session || headers.contains_key(COOKIE);
        if has_secret && !arrival.connection.credentials_allowed {
            return Err(GatewayError::PlaintextCredentials);
        }
        let node = self.node_of(arrival).filter(|_| anonymous);
        let secret = match self.password_for_node(pool, credentials, arrival).await? {
            Shown::Right(secret) => Some(secret),
            Shown::Nothing => None,
            Shown::Wrong => return Ok(wrong_password()),
        };
        let page = PageRequest { arrival, pool, request, node, anonymous };
        self.send(page, secret, body, record).await
    }

    async fn send(
        &self,
        page: PageRequest<'_>,
        secret: Option<ClientSecret>,
        body: &mut ClientBody,
        record: &mut RequestRecord,
    ) -> Result<Response<ResponseBody>, GatewayError> {
        let PageRequest { arrival, pool, request, node, anonymous } = page;
        let (method, peer) = (&arrival.head.method, arrival.connection.peer.ip());
        // Whole before its turn: no login waits for a form that is still on its way.
        let harbor = self.tokens.logins().harbor.as_ref().filter(|_| is_form(&request, method));
        let form = if harbor.is_some() { Some(body.form(LOGIN_FORM_BYTES_MAX).await?) } else { None };
        let members = candidates(pool, &request, method, node.as_deref())?;
        if members.is_empty() {
            return Err(GatewayError::NoMember(pool.name.clone()));
        }
        let turn = match harbor {
            Some(harbor) => Some(harbor.form_turn(peer).await.ok_or(GatewayError::IdentityUnavailable)?),
            None => None,
        };
        let subject = Subject::anonymous();
        let request = MemberRequest {
            id: Arc::clone(&arrival.id),
            worker: arrival.connection.worker,
            method: method.clone(),
            headers: node_headers(&arrival.head.headers, arrival.via()),
            client: client_key(peer, &subject),
            subject,
            access: MemberAccess::default(),
            secret,
            pool: Arc::clone(pool),
            target: Target::Web(request),
        };
        let (body, awaited) = match form {
            Some(form) if form.is_empty() => (RequestBody::Empty, arrival.at.elapsed()),
            // Until here it was the client's time, and that of its turn.
            Some(form) => (RequestBody::Whole(Some(form)), arrival.at.elapsed()),
            None => {
                let PreparedBody { body, awaited, .. } =
                    body.streamed(&request, self.sender.body_rate_min).await?;
                (body, awaited)
            }
        };
        let candidates = Candidates { members, confirmations: 0 };
        let Sent { outcome, trail } =
            self.sender.run(&request, &candidates, body, arrival.at + awaited).await;
        record.note_trail(trail);
        let may_be_wrong = match &outcome {
            Ok(settled) => settled.head.status == StatusCode::UNAUTHORIZED,
            Err(error) => error.has_reached_member(),
        };
        if let Some(turn) = turn.filter(|_| !may_be_wrong) {
            turn.was_not_wrong();
        }
        let settled = outcome.map_err(|error| GatewayError::of_attempt(&request, error))?;
        let cookie = (anonymous && node.as_deref() != Some(settled.member.name.as_str()))
            .then(|| self.affinity_to(&settled.member, arrival))
            .flatten();
        Ok(web_response(arrival, settled, cookie))
    }

    /// The client's password, once it is known to be right: an unproven one would lock its name at
    /// the node that sees it.
    async fn password_for_node(
        &self,
        portal: &Pool,
        credentials: Credentials,
        arrival: &Arrival,
    ) -> Result<Shown, GatewayError> {
        let Credentials::Basic { user, password } = credentials else { return Ok(Shown::Nothing) };
        let harbor = self.tokens.logins().harbor.as_ref();
        let Some(harbor) = harbor.filter(|harbor| harbor.is_of(Some(portal))) else {
            return Ok(Shown::Nothing);
        };
        match harbor
            .check(LoginPair { user: &user, password: &password }, &[], arrival.connection.peer.ip())
            .await
        {
            harbor::Answer::Known(..) => Ok(Shown::Right(ClientSecret::new(&user, &password))),
            harbor::Answer::Wrong => Ok(Shown::Wrong),
            harbor::Answer::Unavailable => Err(GatewayError::IdentityUnavailable),
        }
    }

    /// The name of the node that a browser stays with, where its cookie is ours.
    fn node_of(&self, arrival: &Arrival) -> Option<String> {
        let (context, seals) = ([self.host.as_bytes()], &arrival.state.seals);
        let open = |sealed| seal::open(seals, Purpose::Affinity, &context, sealed, unix_now()).ok();
        let cookies = affinities(&arrival.head.headers);
        String::from_utf8(cookies.take(AFFINITIES_MAX).find_map(open)?).ok()
    }

    fn affinity_to(&self, member: &Member, arrival: &Arrival) -> Option<HeaderValue> {
        let (context, name) = ([self.host.as_bytes()], member.name.as_str().as_bytes());
        let sealed =
            seal::seal(&arrival.state.seals, Purpose::Affinity, &context, name, unix_now(), nonce())?;
        affinity_cookie(&sealed, arrival.https)
    }
}

fn parse(pool: &Pool, head: &request::Parts) -> Result<WebRequest, GatewayError> {
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

/// A login form's password is seen by the node alone; how many are tried is still ours to say.
fn is_form(request: &WebRequest, method: &Method) -> bool {
    request.kind() == WebKind::Session && *method == Method::POST
}

/// The pool whose pages a host shows: the first of its routes that leads to Harbor nodes.
fn portal_of(arrival: &Arrival) -> Option<&Arc<Pool>> {
    let Topology { pools, routes } = &*arrival.topology;
    routes.pools_of(arrival.authority.name()).filter_map(|at| pools.get(at)).find(|pool| pool.portal)
}

/// The nodes to ask: the browser's own while it serves, then the others. Where nodes copy each other,
/// what is about a project is its home's, and everything else one and the same node's; writes are
/// no other member's.
fn candidates(
    pool: &Pool,
    request: &WebRequest,
    method: &Method,
    node: Option<&str>,
) -> Result<Vec<Arc<Member>>, GatewayError> {
    let mut candidates = match pool.storage {
        // Nothing of a node that is out: one that has lost its database refuses every client.
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
/// protocol than HTTP, which is not served here.
fn asks_for_upgrade(headers: &HeaderMap) -> bool {
    headers.get_all(UPGRADE).iter().any(|value| !value.as_bytes().eq_ignore_ascii_case(b"h2c"))
}

fn web_response(arrival: &Arrival, settled: Settled, cookie: Option<HeaderValue>) -> Response<ResponseBody> {
    let Settled { member, mut head, body, .. } = settled;
    let own = [text(&member.door.host), &*arrival.authority.text];
    head.headers = client_headers(std::mem::take(&mut head.headers), arrival.https, &own);
    if let Some(cookie) = cookie {
        head.headers.append(SET_COOKIE, cookie);
    }
    // A page has no digest that it could be held to.
    let body = match body {
        SettledBody::Other(body) => member_body(body),
        SettledBody::Content(coming) => member_body(Box::new(coming.body)),
        SettledBody::Held(bytes) => ResponseBody::held(bytes),
    };
    Response::from_parts(head, body)
}

fn member_body(mut body: Box<MemberBody>) -> ResponseBody {
    body.allow_reclaim(TakenBack::Ends);
    ResponseBody::member(body)
}
