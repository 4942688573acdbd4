//! The life of a request: [`Gateway::handle`] and, below it, one line a step.

mod admission;
mod body;
mod context;
mod error;
mod forward;
mod local;
mod refusal;
mod upload_session;
mod uploads;
mod web;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, HeaderMap, HeaderValue, LOCATION,
    TRANSFER_ENCODING,
};
use http::{Method, Request, Response, StatusCode, request};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use tokio_util::task::TaskTracker;

pub use body::ResponseBody;
pub use context::{ConnectionInfo, RequestContext};
pub use error::GatewayError;
pub use uploads::OpenUploads;

use crate::forwarding::hosts::{Authority, Hosts};
use crate::forwarding::request::{Via, is_form, member_headers};
use crate::forwarding::response::{MemberLocation, REQUEST_ID, client_headers, member_location};
use crate::pin::Pin;
use crate::random::{seed, unix_now};
use crate::registry::{
    Action, Actions, Reference, RegistryRequest, RepositoryName, Resource, ResourceAccess, RouteKind,
    UploadMethod,
};
use crate::secret::ExposeSecret as _;
use crate::snapshot::{AuthenticatedClient, Snapshot};
use crate::telemetry::{AccessLog, Metrics};
use crate::token_service::{Place, TOKEN_PATHS, TokenRequestError, TokenService};
use crate::upstream::harbor::ClientSecret;
use crate::upstream::{Member, MemberAccess, Pool, RequestBody, Storage, Topology, leave_out_draining};
use body::MemberBody;
use forward::{Answer, Outgoing, Target, forward};

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
    target: RegistryRequest,
}

impl Admitted {
    /// Whether this reads a blob or manifest.
    fn reads_content(&self) -> bool {
        let content = matches!(self.target, RegistryRequest::Blob { .. } | RegistryRequest::Manifest { .. });
        content && self.down.head.method == Method::GET
    }

    fn outgoing<'a>(
        &'a self,
        headers: &'a HeaderMap,
        access: &'a MemberAccess,
        (pool, secret): (&'a Pool, Option<&'a ClientSecret>),
    ) -> Outgoing<'a> {
        Outgoing {
            target: Target::Registry(&self.target),
            method: &self.down.head.method,
            headers,
            subject: &self.client.subject,
            access,
            secret,
            limits: &pool.limits,
            copies: pool.storage == Storage::Replicated,
        }
    }
}

/// Whether only the home of a repository will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NeedsHome {
    Always,
    WhileItServes,
    Never,
}

/// Where a request goes, and the pin that led there.
struct Plan {
    pool: Arc<Pool>,
    candidates: Vec<Arc<Member>>,
    pin: Option<Pin>,
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
            return self.serve_local(&state, &down, body, ctx).await;
        }
        let target = RegistryRequest::parse(&down.head.method, path, down.head.uri.query())?;
        ctx.note_target(&target);
        let client = self.authenticate(&state, &down, &target, ctx).await?;
        let target = self.authorize(&state, &down, &client, target)?;
        ctx.phases.authorized = Some(ctx.elapsed_ms());
        if target == RegistryRequest::Ping {
            return Ok(local::pong());
        }
        let admitted = Admitted { state, down, client, target };
        let Plan { pool, candidates, pin } = self.plan(&admitted)?;
        let headers = Self::outgoing_headers(&admitted, ctx)?;
        let access = member_access(&admitted.target);
        let secret = self.secret_for(&admitted, &pool);
        let outgoing = admitted.outgoing(&headers, &access, (&pool, secret.as_ref()));
        let request_body = outgoing_body(&headers, body, ctx, pool.limits.body_idle_timeout);
        match forward(&outgoing, candidates, request_body, ctx).await {
            Ok(answer) => self.client_response(&admitted, pin, answer),
            Err(error) => {
                let harbor = self.tokens.logins().harbor.as_ref();
                if let (true, Some(secret), Some(harbor)) = (error.is_wrong_password(), &secret, harbor) {
                    harbor.forget(secret);
                }
                self.failed(&admitted, pin.as_ref(), error)
            }
        }
    }

    /// Checks the `Host` against the list.
    fn downstream(&self, head: request::Parts, ctx: &RequestContext) -> Result<Downstream, GatewayError> {
        let host = match head.uri.authority() {
            Some(authority) => Some(authority.as_str()),
            None => {
                let mut hosts = head.headers.get_all(HOST).iter();
                let host = hosts.next().and_then(|host| host.to_str().ok());
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

    /// The members to try: the pinned one, or those of the route's pool.
    fn plan(&self, admitted: &Admitted) -> Result<Plan, GatewayError> {
        if let Some(pin) = self.open_pin(&admitted.state, &admitted.target, unix_now()) {
            return self.pinned_plan(pin, &admitted.client.subject, &admitted.down.topology);
        }
        let host = admitted.down.authority.name();
        let pool = admitted.down.topology.pool_of(host, admitted.target.repository());
        let pool = pool.ok_or(GatewayError::NoRoute)?;
        let mut candidates = match (pool.storage, admitted.target.repository()) {
            (Storage::Shared, _) | (Storage::Replicated, None) => pool.candidates(seed()),
            (Storage::Replicated, Some(repository)) => self.candidates_by_home(admitted, pool, repository)?,
        };
        if pool.is_mixed {
            prefer_nodes(&mut candidates, admitted);
        }
        if candidates.is_empty() {
            return Err(GatewayError::NoMember(pool.name.clone()));
        }
        Ok(Plan { pool: Arc::clone(pool), candidates, pin: None })
    }

    /// Where members copy each other, late: what writes, and what a push looks for first, is the
    /// home's alone; tags are read there while it serves; digests anywhere, the home first.
    fn candidates_by_home(
        &self,
        admitted: &Admitted,
        pool: &Pool,
        repository: &RepositoryName,
    ) -> Result<Vec<Arc<Member>>, GatewayError> {
        let key = pool.home_key(repository);
        let Some(home) = pool.home(key) else { return Ok(Vec::new()) };
        let serves = home.status().serves();
        match self.needs_home(admitted, repository) {
            NeedsHome::Always if !serves => Err(GatewayError::HomeDown { member: home.name.clone() }),
            NeedsHome::Always => Ok(vec![Arc::clone(home)]),
            NeedsHome::WhileItServes if serves => Ok(vec![Arc::clone(home)]),
            NeedsHome::WhileItServes | NeedsHome::Never => {
                let mut candidates = pool.candidates_from_home(key);
                leave_out_draining(&mut candidates);
                Ok(candidates)
            }
        }
    }

    fn needs_home(&self, admitted: &Admitted, repository: &RepositoryName) -> NeedsHome {
        let method = &admitted.down.head.method;
        let by_digest = match &admitted.target {
            RegistryRequest::Blob { .. } | RegistryRequest::Referrers { .. } => true,
            RegistryRequest::Manifest { reference, .. } => matches!(reference, Reference::Digest(_)),
            _ => false,
        };
        if !matches!(*method, Method::GET | Method::HEAD)
            || matches!(admitted.target, RegistryRequest::UploadStart { .. } | RegistryRequest::Upload { .. })
        {
            return NeedsHome::Always;
        }
        // Whoever may push and finds a blob elsewhere would not bring it to the home.
        let resource = Resource::Repository(repository.clone());
        let decider =
            self.tokens.logins().decider(admitted.down.place(), &admitted.client.subject, &resource);
        let pushes = || admitted.state.permitted(&admitted.client, &resource, decider).contains(Action::Push);
        match (by_digest, *method == Method::HEAD && pushes()) {
            (true, true) | (false, _) => NeedsHome::WhileItServes,
            (true, false) => NeedsHome::Never,
        }
    }

    /// The client's own name and password, where a member of the pool needs them.
    fn secret_for(&self, admitted: &Admitted, pool: &Pool) -> Option<ClientSecret> {
        if !pool.needs_passwords {
            return None;
        }
        let pair = admitted.state.pair_of(&admitted.client, unix_now())?;
        ClientSecret::from_pair(pair.expose_secret().to_owned())
    }

    fn outgoing_headers(admitted: &Admitted, ctx: &RequestContext) -> Result<HeaderMap, GatewayError> {
        let Admitted { down, target, .. } = admitted;
        let via = Via {
            client: ctx.connection.peer.ip(),
            https: down.https,
            authority: &down.authority.text,
            request_id: &ctx.id,
        };
        let mut headers = member_headers(&down.head.headers, via);
        let is_upload =
            matches!(target, RegistryRequest::UploadStart { .. } | RegistryRequest::Upload { .. });
        if is_upload && is_form(&headers) {
            if has_body(&down.head.headers) {
                return Err(GatewayError::FormBody);
            }
            headers.remove(CONTENT_TYPE);
        }
        Ok(headers)
    }

    /// Turns a member's answer into the client's.
    fn client_response(
        &self,
        admitted: &Admitted,
        pin: Option<Pin>,
        answer: Answer,
    ) -> Result<Response<ResponseBody>, GatewayError> {
        let Answer { member, mut head, body, body_idle_timeout, hold } = answer;
        if admitted.is_refused_cancel(head.status) {
            return Ok(self.forget_session(&admitted.target));
        }
        // A redirect leads to object storage, whatever its path looks like.
        let location = if head.status.is_redirection() { None } else { member_location(&head.headers) };
        head.headers = client_headers(std::mem::take(&mut head.headers));
        match location {
            // None at all, or object storage: the client goes there itself.
            None | Some(MemberLocation::Elsewhere) => {}
            Some(MemberLocation::Upload(upload)) => {
                let location = self.sealed_location(admitted, &upload, pin, &member)?;
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
        let body = ResponseBody::member(MemberBody::new(body, body_idle_timeout, hold));
        Ok(Response::from_parts(head, body))
    }

    /// What the client is told when no member answered.
    fn failed(
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
        if let Ok(id) = HeaderValue::try_from(&ctx.id) {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        if ctx.method == Method::HEAD {
            response = without_own_body(response);
        }
        let status = response.status().as_u16();
        response.map(|body| body.observed(ctx, status))
    }
}

/// Whether a mount within a pool stays on one member.
fn share_a_home(
    down: &Downstream,
    pool: Option<usize>,
    (from, to): (&RepositoryName, &RepositoryName),
) -> bool {
    let Some(pool) = pool.and_then(|pool| down.topology.pools.get(pool)) else { return false };
    let home = |name| pool.home(pool.home_key(name)).map(|member| &member.name);
    pool.storage == Storage::Shared || home(from) == home(to)
}

/// Harbor keeps a list of its own of what is pushed: what a plain registry of the pool took, Harbor
/// would not know. So writes go to Harbor nodes alone, and what a push looks for first; other reads
/// go to a plain registry when no node can serve, and blobs are the same everywhere.
fn prefer_nodes(candidates: &mut Vec<Arc<Member>>, admitted: &Admitted) {
    let is_read = matches!(admitted.down.head.method, Method::GET | Method::HEAD);
    match &admitted.target {
        RegistryRequest::Blob { .. } if admitted.down.head.method == Method::GET => {}
        RegistryRequest::UploadStart { .. } | RegistryRequest::Upload { .. } => {
            candidates.retain(|member| member.harbor.is_some());
        }
        _ if is_read => candidates.sort_by_key(|member| member.harbor.is_none()),
        _ => candidates.retain(|member| member.harbor.is_some()),
    }
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

fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING) || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0")
}

/// The body for the member. Taken from `body` only here, after every decision: reading it is what
/// makes hyper answer `100 Continue`.
fn outgoing_body(
    headers: &HeaderMap,
    body: &mut Option<Incoming>,
    ctx: &RequestContext,
    idle: Duration,
) -> RequestBody {
    let ended = body.as_ref().is_none_or(Incoming::is_end_stream);
    let reads = matches!(ctx.method, Method::GET | Method::HEAD);
    if ended
        || reads
        || ctx.route == RouteKind::Ping
        || headers.get(CONTENT_LENGTH).is_some_and(|length| length == "0")
    {
        return RequestBody::Empty;
    }
    match body.take() {
        Some(incoming) => RequestBody::stream(incoming, Arc::clone(&ctx.progress), idle),
        None => RequestBody::Empty,
    }
}

/// The answer to a HEAD says how long the body would be and sends none; over h2 a body would be
/// an error (RFC 9110 9.3.2). A member's answer has none already.
fn without_own_body(response: Response<ResponseBody>) -> Response<ResponseBody> {
    let (mut head, body) = response.into_parts();
    let Some(length) = body.own_length() else { return Response::from_parts(head, body) };
    head.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    Response::from_parts(head, ResponseBody::empty())
}
