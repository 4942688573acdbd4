//! The life of a request: [`Gateway::handle`] and, below it, one line a step.

mod admission;
mod answer;
mod body;
mod context;
mod error;
mod home;
mod local;
mod merge;
mod plan;
mod request_body;
mod send;
mod upload_session;
mod uploads;
mod web;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, HeaderMap, HeaderValue, IF_RANGE, RANGE,
};
use http::{Method, Request, Response, request};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

pub use body::ResponseBody;
pub use context::{ConnectionInfo, RequestContext};
pub use error::GatewayError;
pub use uploads::OpenUploads;

use crate::attempt::{AttemptError, ClientFault, MemberRequest, Target};
use crate::balance::blame::ClientKey;
use crate::content::{ContentChecks, Flights, Joined, UploadChecks, join};
use crate::forwarding::content_type::member_content_type;
use crate::forwarding::hosts::{Authority, Hosts};
use crate::forwarding::readable::{keep_readable, text};
use crate::forwarding::request::{Via, member_headers};
use crate::forwarding::response::REQUEST_ID;
use crate::random::unix_now;
use crate::registry::{Actions, ListKind, RegistryRequest, ResourceAccess, UploadMethod};
use crate::secret::ExposeSecret as _;
use crate::snapshot::{AuthenticatedClient, Snapshot};
use crate::telemetry::{AccessLog, Metrics};
use crate::token_service::{Place, TOKEN_PATHS, TokenRequestError, TokenService};
use crate::upstream::harbor::ClientSecret;
use crate::upstream::{MemberAccess, Pool, Storage, Topology, client_key};
use merge::catalog_order;
use plan::Route;
use request_body::PreparedBody;
use send::{Sending, Trail};

/// Everything that answers requests.
pub struct Gateway {
    /// The host names that are served.
    pub hosts: Hosts,
    /// Pools, members and routes in force.
    pub topology: Arc<ArcSwap<Topology>>,
    /// Identities, policy and keys in force.
    pub state: Arc<ArcSwap<Snapshot>>,
    /// The token endpoint.
    pub tokens: TokenService,
    /// Where everything is counted.
    pub metrics: Arc<Metrics>,
    /// Where every request gets a line.
    pub access_log: Arc<AccessLog>,
    /// The open upload sessions.
    pub uploads: Arc<OpenUploads>,
    /// What has to be right of content that goes to clients.
    pub checks: Arc<ContentChecks>,
    /// Reads of the same that are under way.
    pub flights: Flights,
    /// What has to be right of content that goes to members.
    pub upload_checks: UploadChecks,
    /// Owns the tasks that read refused bodies.
    pub tasks: TaskTracker,
    /// The bounds of this layer.
    pub limits: GatewayLimits,
}

/// The bounds of the request path.
#[derive(Debug, Clone)]
pub struct GatewayLimits {
    /// How long an upload session may go on after its start.
    pub upload_grace: Duration,
    /// The least rate of a client's body, in bytes per second; 0 for none.
    pub body_rate_min: u64,
    /// How many bytes of a refused body are read.
    pub refused_body_bytes_max: u64,
    /// How long a refused body is read.
    pub refused_body_timeout: Duration,
}

/// The client's side of a request while nobody has decided yet.
struct Downstream {
    head: request::Parts,
    authority: Authority,
    /// Pools and routes, the same ones to the end of the request.
    topology: Arc<Topology>,
    /// Whether the client sees https.
    https: bool,
}

impl Downstream {
    fn place(&self) -> Place<'_> {
        Place { host: self.authority.name(), topology: &self.topology }
    }
}

/// A request that may go to a member, in the name of an authenticated client.
struct Admitted {
    state: Arc<Snapshot>,
    down: Downstream,
    client: AuthenticatedClient,
    /// Whose request it is, for shares and for blame.
    key: ClientKey,
}

impl Gateway {
    /// Answers one request, whatever comes.
    pub async fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        connection: ConnectionInfo,
    ) -> Response<ResponseBody> {
        let head = (request.method(), request.version(), request.headers());
        let mut ctx = RequestContext::new(connection, head, (&self.metrics, &self.access_log));
        let (head, body) = request.into_parts();
        let waits_for_continue = head.headers.contains_key(EXPECT);
        let mut body = Some(body);
        let response = match self.serve(&mut ctx, head, &mut body).await {
            Ok(response) => response,
            Err(error) => error.into_response(&mut ctx),
        };
        if let Some(unread) = body.filter(|body| !waits_for_continue && !body.is_end_stream()) {
            self.drain(unread);
        }
        Self::observe(Box::new(ctx), response)
    }

    async fn serve(
        &self,
        ctx: &mut RequestContext,
        head: request::Parts,
        body: &mut Option<Incoming>,
    ) -> Result<Response<ResponseBody>, GatewayError> {
        let state = self.state.load_full();
        let down = self.downstream(head, ctx)?;
        let path = down.head.uri.path();
        if !path.starts_with("/v2") {
            return Box::pin(self.serve_local(&state, &down, body, ctx)).await;
        }
        let target = RegistryRequest::parse(&down.head.method, path, down.head.uri.query())?;
        ctx.note_target(&target);
        let client = self.authenticate(&state, &down, &target, ctx).await?;
        let target = self.authorize(&state, &down, &client, target)?;
        ctx.phases.authorized = Some(ctx.elapsed_ms());
        if target == RegistryRequest::Ping {
            return Ok(local::pong());
        }
        let key = client_key(client.source, &client.subject);
        let admitted = Admitted { state, down, client, key };
        let Route { pool, candidates, confirmations, pin } = self.plan(&admitted, &target).await?;
        let request = Arc::new(member_request(&admitted, target, pool, body.as_ref(), ctx)?);
        let Some(target) = request.registry() else {
            return Err(GatewayError::Internal("a registry's request became another"));
        };
        if request.pool.storage == Storage::Replicated
            && let Some((kind, page)) = ListKind::of(target, catalog_order(&request.pool))
        {
            return Box::pin(self.merged_list(&admitted.down, (&kind, page), &request, ctx)).await;
        }
        // Another request's answer is waited for no longer than one of its own would be.
        let patience = ctx.started + request.pool.limits.head_timeout;
        let key = self.flights.key(&request, admitted.down.authority.name());
        let joined = timeout_at(patience, join(&self.flights, key)).await;
        let leader = match joined.unwrap_or(Joined::Asks(None)) {
            Joined::Asks(leader) => leader,
            Joined::Shared(outcome) => match self.shared(&request, outcome, ctx) {
                Some(answered) => {
                    request.pool.metrics.coalesced.inc();
                    request.pool.count_request();
                    return self.client_response(&admitted, &request, pin, answered);
                }
                None => None,
            },
        };
        let PreparedBody { body, awaited, memory: _memory } =
            self.request_body(&request, body, &ctx.progress).await?;
        let offset = pin.as_ref().and_then(|pin| pin.offset);
        let sent = self.upload_checks.begin(target, &request.headers, &body, offset);
        let mut sending = self.sending(&request, ctx.started + awaited, confirmations);
        let settled = sending.run(candidates, body).await;
        ctx.note_trail(sending.trail);
        match settled {
            Ok(settled) => {
                self.upload_checks.compare(target, sent, &settled)?;
                let written = (&*settled.member, settled.head.status);
                self.note_write((target, &request.method), &request.pool, written);
                let answered = self.answered(&request, settled, leader, ctx);
                self.client_response(&admitted, &request, pin, answered)
            }
            Err(error) => {
                if let Some(leader) = leader {
                    leader.share_nothing();
                }
                self.forget_wrong_password(&request, &error);
                self.failed(&admitted, &request, pin.as_ref(), error)
            }
        }
    }

    /// Makes sure that the headers can be read, and checks the `Host` against the list.
    fn downstream(&self, mut head: request::Parts, ctx: &RequestContext) -> Result<Downstream, GatewayError> {
        keep_readable(&mut head.headers)?;
        let host = match head.uri.authority() {
            Some(authority) => Some(authority.as_str()),
            None => {
                let mut hosts = head.headers.get_all(HOST).iter();
                let host = hosts.next().map(text);
                host.filter(|_| hosts.next().is_none())
            }
        };
        let authority = host.and_then(|host| self.hosts.find(host)).ok_or(GatewayError::UnknownHost)?;
        let https = ctx.connection.tls || self.hosts.external_https();
        if head.headers.contains_key(AUTHORIZATION) && !ctx.connection.credentials_allowed {
            // Clients of the token endpoint take a 403 for the end of the world.
            if TOKEN_PATHS.contains(&head.uri.path()) {
                return Err(TokenRequestError::Plaintext.into());
            }
            return Err(GatewayError::PlaintextCredentials);
        }
        Ok(Downstream { head, authority, topology: self.topology.load_full(), https })
    }

    /// The sending of a request of which nothing was asked yet. The members' time counts from `begun`.
    fn sending<'a>(
        &'a self,
        request: &'a MemberRequest,
        begun: Instant,
        confirmations: usize,
    ) -> Sending<'a> {
        Sending { request, checks: &self.checks, begun, confirmations, trail: Trail::default() }
    }

    /// A password that a member refuses is not shown to it again.
    fn forget_wrong_password(&self, request: &MemberRequest, error: &AttemptError) {
        let is_wrong = matches!(error, AttemptError::Client(ClientFault::WrongPassword));
        if let (true, Some(secret), Some(harbor)) = (is_wrong, &request.secret, &self.tokens.logins().harbor)
        {
            harbor.forget(secret);
        }
    }

    fn member_headers(
        down: &Downstream,
        target: &RegistryRequest,
        body: Option<&Incoming>,
        ctx: &RequestContext,
    ) -> Result<HeaderMap, GatewayError> {
        let via = Via {
            client: ctx.connection.peer.ip(),
            https: down.https,
            authority: &down.authority.text,
            request_id: &ctx.id,
        };
        let mut headers = member_headers(&down.head.headers, via);
        if headers.get(RANGE).is_some_and(|range| text(range).contains(',')) {
            // An answer in several parts could be neither verified nor gone on with; the whole may be sent instead
            // (RFC 9110 14.2).
            headers.remove(RANGE);
            headers.remove(IF_RANGE);
        }
        let sends_body =
            body.is_some_and(|body| !body.is_end_stream() && body.size_hint().exact() != Some(0));
        if let Some(value) = member_content_type(target, &down.head.headers, sends_body)? {
            headers.insert(CONTENT_TYPE, value);
        }
        Ok(headers)
    }

    /// Reads on for a bounded while, so that a client that is still sending sees the answer
    /// instead of a reset connection.
    fn drain(&self, body: Incoming) {
        let (bytes_max, time) = (self.limits.refused_body_bytes_max, self.limits.refused_body_timeout);
        self.tasks.spawn(async move {
            let read = async {
                let mut body = body;
                let mut bytes = 0;
                while let Some(Ok(frame)) = body.frame().await {
                    bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                    if bytes > bytes_max {
                        break;
                    }
                }
            };
            // However it ends, the rest of the body is no longer wanted.
            drop(tokio::time::timeout(time, read).await);
        });
    }

    fn observe(ctx: Box<RequestContext>, mut response: Response<ResponseBody>) -> Response<ResponseBody> {
        if let Ok(id) = HeaderValue::from_str(&ctx.id) {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        if ctx.method == Method::HEAD {
            response = without_own_body(response);
        }
        let status = response.status().as_u16();
        response.map(|body| body.observed(ctx, status))
    }
}

/// The request as it goes to members.
fn member_request(
    admitted: &Admitted,
    target: RegistryRequest,
    pool: Arc<Pool>,
    body: Option<&Incoming>,
    ctx: &RequestContext,
) -> Result<MemberRequest, GatewayError> {
    Ok(MemberRequest {
        id: Arc::clone(&ctx.id),
        worker: ctx.connection.worker,
        method: admitted.down.head.method.clone(),
        headers: Gateway::member_headers(&admitted.down, &target, body, ctx)?,
        subject: admitted.client.subject.clone(),
        client: admitted.key,
        access: member_access(&target),
        secret: secret_for(admitted, &pool),
        pool,
        target: Target::Registry(target),
    })
}

/// The client's own name and password, where a member of the pool needs them.
fn secret_for(admitted: &Admitted, pool: &Pool) -> Option<ClientSecret> {
    if !pool.needs_passwords {
        return None;
    }
    let pair = admitted.state.pair_of(&admitted.client, unix_now())?;
    ClientSecret::from_pair(pair.expose_secret().to_owned())
}

/// The access that a member's token gets for a request: what the request needs, and for a cancel
/// the `delete` that registries ask for.
fn member_access(target: &RegistryRequest) -> MemberAccess {
    let mut required = target.required_access();
    if let (RegistryRequest::Upload { method: UploadMethod::Cancel, .. }, Some(access)) =
        (target, &mut required)
    {
        access.actions = access.actions.union(Actions::DELETE);
    }
    let source = target.mount_source().map(|from| ResourceAccess::repository(from.clone(), Actions::PULL));
    MemberAccess { target: required, source }
}

/// The answer to a HEAD says how long the body would be and sends none; over h2 a body would be
/// an error (RFC 9110 9.3.2). A member's answer has none already.
fn without_own_body(response: Response<ResponseBody>) -> Response<ResponseBody> {
    let (mut head, body) = response.into_parts();
    let Some(length) = body.own_length() else { return Response::from_parts(head, body) };
    head.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    Response::from_parts(head, ResponseBody::empty())
}
