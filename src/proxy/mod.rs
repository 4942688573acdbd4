//! The life of a request: [`Gateway::handle`] and, below it, one line a step.

mod body;
mod context;
mod error;
mod forward;
mod local;
mod uploads;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderValue, LOCATION, TRANSFER_ENCODING};
use http::{Request, Response, StatusCode, request};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use tokio_util::task::TaskTracker;

pub use body::ResponseBody;
pub use context::{ConnectionInfo, RequestContext};
pub use error::GatewayError;
pub use uploads::OpenUploads;

use crate::auth::challenge::ChallengeReason;
use crate::auth::credentials::Credentials;
use crate::auth::subject::Subject;
use crate::auth::token::TokenError;
use crate::forwarding::hosts::{Authority, Hosts};
use crate::forwarding::request::{Via, is_form, member_headers};
use crate::forwarding::response::{MemberLocation, REQUEST_ID, client_headers, member_location};
use crate::identity::Verdict;
use crate::pin::{Pin, PinContext, PinError};
use crate::random::{nonce, seed, unix_now};
use crate::registry::{
    Action, Actions, PIN_PARAMETER, RegistryRequest, Resource, ResourceAccess, RouteKind, UploadMethod, with_query,
};
use crate::routing::RouteTable;
use crate::snapshot::{AuthenticatedClient, Snapshot};
use crate::telemetry::{AccessLog, Metrics, PinEvent};
use crate::token_service::{TOKEN_PATHS, TokenService};
use crate::upstream::{Member, MemberAccess, Pool, Pools, RequestBody};
use body::MemberBody;
use forward::{Answer, Outgoing, forward};

/// Everything that answers requests.
pub struct Gateway {
    /// The host names that are served.
    pub hosts: Hosts,
    /// Which pool serves what.
    pub routes: RouteTable,
    /// The members.
    pub pools: Arc<Pools>,
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
    /// Whether the client sees https.
    https: bool,
}

/// Where a request goes, and the pin that led there.
struct Plan {
    pool: Arc<Pool>,
    candidates: Vec<Arc<Member>>,
    pin: Option<Pin>,
}

impl Gateway {
    /// Answers one request, whatever comes.
    pub async fn handle(self: Arc<Self>, request: Request<Incoming>, connection: ConnectionInfo) -> Response<ResponseBody> {
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
        ctx.route = target.kind();
        ctx.target = Some(target.clone());
        let client = self.authenticate(&state, &down, &target, ctx).await?;
        let target = self.authorize(&state, &down, &client, target)?;
        ctx.phases.authorized = Some(ctx.elapsed_ms());
        if target == RegistryRequest::Ping {
            return Ok(local::pong());
        }
        let plan = self.plan(&state, &down, &client, &target)?;
        let access = member_access(&target);
        let headers = self.outgoing_headers(&down, &target, ctx)?;
        let outgoing = Outgoing {
            target: &target,
            method: &down.head.method,
            headers: &headers,
            subject: &client.subject,
            access: &access,
            limits: &plan.pool.limits,
        };
        let request_body = outgoing_body(&headers, body, ctx, plan.pool.limits.body_idle_timeout);
        let answer = forward(&outgoing, plan.candidates, request_body, ctx).await;
        let answer = answer.map_err(|error| self.complete(error, &down, plan.pin.as_ref()))?;
        self.client_response(&state, &target, &client, (plan.pin, plan.pool.limits.body_idle_timeout), answer)
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
            return Err(GatewayError::PlaintextCredentials);
        }
        Ok(Downstream { head, authority, https })
    }

    /// Who sends this. Without credentials the answer is a challenge, also where anonymous may
    /// pull: clients learn only there where to get a token.
    async fn authenticate(
        &self,
        state: &Snapshot,
        down: &Downstream,
        target: &RegistryRequest,
        ctx: &mut RequestContext,
    ) -> Result<AuthenticatedClient, GatewayError> {
        let refused = |reason| self.unauthorized(down, reason, target.challenge_access());
        let source = ctx.connection.peer.ip();
        let (subject, token) = match Credentials::from_headers(&down.head.headers)? {
            Credentials::None => return Err(refused(ChallengeReason::NoCredentials)),
            Credentials::Basic { user, password } => {
                match state.identity.check(self.tokens.checks(), &user, &password).await {
                    Verdict::Known(subject) => (subject, None),
                    Verdict::Wrong => return Err(refused(ChallengeReason::InvalidToken)),
                    Verdict::Unavailable => return Err(GatewayError::IdentityUnavailable),
                }
            }
            Credentials::Bearer(token) => {
                let now = unix_now();
                let verified = state.verify(&token, now).map_err(|error| {
                    self.note_token_error(&error);
                    refused(ChallengeReason::InvalidToken)
                })?;
                if verified.expires_at <= now {
                    if !self.is_in_upload(state, target, &verified.subject, now) {
                        return Err(refused(ChallengeReason::InvalidToken));
                    }
                    self.metrics.upload_grace.inc();
                }
                ctx.jti = Some(verified.jti.clone());
                (verified.subject.clone(), Some(verified))
            }
        };
        ctx.subject = Some(subject.clone());
        // Removed since: refused at the very next request.
        let groups = state.identity.groups_of(&subject).ok_or_else(|| refused(ChallengeReason::InvalidToken))?;
        Ok(AuthenticatedClient { subject, groups, source, token })
    }

    /// An open upload session of the same subject outlives its bearer; nothing else does.
    fn is_in_upload(&self, state: &Snapshot, target: &RegistryRequest, subject: &Subject, now: u64) -> bool {
        self.open_pin(state, target, now).is_some_and(|pin| pin.is_ok_and(|pin| pin.check_subject(subject).is_ok()))
    }

    /// Whether the client may do this now. A mount whose source it may not read becomes a plain
    /// upload start: every client copes with that, few with a refusal.
    fn authorize(
        &self,
        state: &Snapshot,
        down: &Downstream,
        client: &AuthenticatedClient,
        target: RegistryRequest,
    ) -> Result<RegistryRequest, GatewayError> {
        if let Some(required) = target.required_access()
            && !state.permits(client, &required)
        {
            return Err(self.unauthorized(down, ChallengeReason::InsufficientScope, target.challenge_access()));
        }
        let RegistryRequest::UploadStart { repository, mount: Some(mount), .. } = &target else { return Ok(target) };
        let readable = mount.from.as_ref().is_some_and(|from| {
            let pool_of = |name| self.routes.pool_of(down.authority.name(), name);
            let resource = Resource::Repository(from.clone());
            state.permitted(client, &resource).contains(Action::Pull) && pool_of(from) == pool_of(repository)
        });
        Ok(if readable { target } else { target.without_mount() })
    }

    /// The members to try: the pinned one, or those of the route's pool.
    fn plan(&self, state: &Snapshot, down: &Downstream, client: &AuthenticatedClient, target: &RegistryRequest) -> Result<Plan, GatewayError> {
        if let Some(pin) = self.open_pin(state, target, unix_now()) {
            let refused = |error: PinError| {
                self.metrics.count_pins(PinEvent::Refused, 1);
                GatewayError::Pin(error)
            };
            let pin = pin.map_err(refused)?;
            pin.check_subject(&client.subject).map_err(refused)?;
            return self.pinned_plan(pin);
        }
        let host = down.authority.name();
        let pool = match target.repository() {
            Some(repository) => self.routes.pool_of(host, repository),
            None => self.routes.catalog_pool(host),
        };
        let pool = pool.and_then(|pool| self.pools.get(pool)).ok_or(GatewayError::NoRoute)?;
        let candidates = pool.candidates(seed());
        if candidates.is_empty() {
            return Err(GatewayError::NoMember(pool.name.clone()));
        }
        Ok(Plan { pool: Arc::clone(pool), candidates, pin: None })
    }

    fn pinned_plan(&self, pin: Pin) -> Result<Plan, GatewayError> {
        let gone = || GatewayError::PinnedMemberGone { member: pin.member.clone() };
        let (pool, member) = self.pools.member(&pin.member).ok_or_else(gone)?;
        if !member.status().serves() {
            return Err(gone());
        }
        let pool = self.pools.get(pool).ok_or_else(gone)?;
        Ok(Plan { pool: Arc::clone(pool), candidates: vec![Arc::clone(member)], pin: Some(pin) })
    }

    fn open_pin(&self, state: &Snapshot, target: &RegistryRequest, now: u64) -> Option<Result<Pin, PinError>> {
        let RegistryRequest::Upload { repository, id, pin, .. } = target else { return None };
        let context = PinContext { host: self.hosts.primary(), repository };
        Some(Pin::open(&state.seals, context, pin.as_deref(), id, now))
    }

    fn outgoing_headers(&self, down: &Downstream, target: &RegistryRequest, ctx: &RequestContext) -> Result<HeaderMap, GatewayError> {
        let via = Via {
            client: ctx.connection.peer.ip(),
            https: down.https,
            authority: &down.authority.text,
            request_id: &ctx.id,
        };
        let mut headers = member_headers(&down.head.headers, via);
        let is_upload = matches!(target, RegistryRequest::UploadStart { .. } | RegistryRequest::Upload { .. });
        if is_upload && is_form(&headers) {
            if has_body(&down.head.headers) {
                return Err(GatewayError::FormBody);
            }
            headers.remove(http::header::CONTENT_TYPE);
        }
        Ok(headers)
    }

    /// Turns a member's answer into the client's.
    fn client_response(
        &self,
        state: &Snapshot,
        target: &RegistryRequest,
        client: &AuthenticatedClient,
        (pin, idle): (Option<Pin>, Duration),
        answer: Answer,
    ) -> Result<Response<ResponseBody>, GatewayError> {
        let Answer { member, mut head, body, hold } = answer;
        let location = member_location(&head.headers);
        head.headers = client_headers(std::mem::take(&mut head.headers));
        match location {
            None => {}
            Some(MemberLocation::Upload(upload)) => {
                let bad = |problem| GatewayError::BadAnswer { member: member.name.clone(), problem };
                let pin = self.pin_for(&upload, pin.as_ref(), client, &member).ok_or_else(|| bad("its Location is no upload session"))?;
                let location = self.sealed_location(state, &upload, target, &pin).ok_or_else(|| bad("its Location is of another repository"))?;
                head.headers.insert(LOCATION, location);
            }
            Some(MemberLocation::Content(path)) => {
                if let Ok(path) = HeaderValue::try_from(path) {
                    head.headers.insert(LOCATION, path);
                }
            }
            // Object storage: the client goes there itself.
            Some(MemberLocation::Elsewhere) => {}
        }
        self.note_upload_end(target, head.status);
        let status = self.client_status(target, &mut head.headers, head.status);
        let mut response = Response::new(ResponseBody::member(MemberBody::new(body, idle, hold)));
        *response.status_mut() = status;
        *response.headers_mut() = head.headers;
        if status == StatusCode::NO_CONTENT && head.status != StatusCode::NO_CONTENT {
            *response.body_mut() = ResponseBody::empty();
        }
        Ok(response)
    }

    /// A cancel that the member refuses for want of the `delete` right is done as far as we are
    /// concerned: we forget the session, the member's own purging removes it.
    fn client_status(&self, target: &RegistryRequest, headers: &mut HeaderMap, status: StatusCode) -> StatusCode {
        let cancel = matches!(target, RegistryRequest::Upload { method: UploadMethod::Cancel, .. });
        if cancel && matches!(status, StatusCode::FORBIDDEN | StatusCode::METHOD_NOT_ALLOWED) {
            headers.remove(CONTENT_LENGTH);
            headers.remove(http::header::CONTENT_TYPE);
            return StatusCode::NO_CONTENT;
        }
        status
    }

    /// The pin of a session: the one it came with, or a new one where it was just opened.
    fn pin_for(&self, upload: &RegistryRequest, pin: Option<&Pin>, client: &AuthenticatedClient, member: &Member) -> Option<Pin> {
        let RegistryRequest::Upload { id, .. } = upload else { return None };
        if let Some(pin) = pin {
            return Some(Pin { upload: id.clone(), ..pin.clone() });
        }
        let deadline = unix_now().saturating_add(self.limits.upload_grace.as_secs());
        self.uploads.opened(id, deadline);
        let (member, subject) = (member.name.as_str().to_owned(), client.subject.clone());
        Some(Pin { member, upload: id.clone(), subject, deadline })
    }

    /// `/v2/<name>/blobs/uploads/<id>?<the member's own>&_tg=<pin>`, relative, so that neither
    /// scheme nor port can be wrong.
    fn sealed_location(&self, state: &Snapshot, upload: &RegistryRequest, target: &RegistryRequest, pin: &Pin) -> Option<HeaderValue> {
        let RegistryRequest::Upload { repository, id, member_query, .. } = upload else { return None };
        if target.repository() != Some(repository) {
            return None;
        }
        let context = PinContext { host: self.hosts.primary(), repository };
        let sealed = pin.seal(&state.seals, context, unix_now(), nonce())?;
        let mut parameters: Vec<(&str, &str)> =
            member_query.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        parameters.push((PIN_PARAMETER, &sealed));
        HeaderValue::try_from(with_query(format!("/v2/{repository}/blobs/uploads/{id}"), &parameters)).ok()
    }

    fn note_upload_end(&self, target: &RegistryRequest, status: StatusCode) {
        let RegistryRequest::Upload { id, method, .. } = target else { return };
        match method {
            UploadMethod::Put { .. } if status == StatusCode::CREATED => self.uploads.ended(id, PinEvent::Finished),
            UploadMethod::Cancel => self.uploads.ended(id, PinEvent::Cancelled),
            UploadMethod::Put { .. } | UploadMethod::Patch | UploadMethod::Status => {}
        }
    }

    /// Adds to an error of the forwarding what only this layer knows.
    fn complete(&self, error: GatewayError, down: &Downstream, pin: Option<&Pin>) -> GatewayError {
        match (error, pin) {
            (GatewayError::Unauthorized { reason, wanted, .. }, _) => self.unauthorized(down, reason, wanted),
            (GatewayError::Upstream(error), Some(pin)) if error.is_connect_failure() => {
                GatewayError::PinnedMemberGone { member: pin.member.clone() }
            }
            (error, _) => error,
        }
    }

    fn unauthorized(&self, down: &Downstream, reason: ChallengeReason, wanted: Vec<ResourceAccess>) -> GatewayError {
        let scheme = if down.https { "https" } else { "http" };
        let realm = format!("{scheme}://{}{}", down.authority.text, TOKEN_PATHS[0]);
        GatewayError::Unauthorized { reason, wanted, realm, service: self.tokens.settings().service.clone() }
    }

    fn note_token_error(&self, error: &TokenError) {
        let TokenError::ForeignKey { kid } = error else { return };
        self.metrics.foreign_keys.inc();
        // Every such request is counted; the words come once in a while.
        if self.metrics.foreign_keys.get() % 100 == 1 {
            tracing::error!(
                kid = kid.as_str(),
                "another replica has other keys: a token of our issuer names a key that is not in our key ring; give every replica the same key files"
            );
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
        let status = response.status().as_u16();
        response.map(|body| body.observed(ctx, status))
    }
}

/// The access that a member's token gets for a request: what the request needs, and for a cancel
/// the `delete` that registries ask for.
fn member_access(target: &RegistryRequest) -> MemberAccess {
    let mut required = target.required_access();
    if let (RegistryRequest::Upload { method: UploadMethod::Cancel, .. }, Some(access)) = (target, &mut required) {
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
fn outgoing_body(headers: &HeaderMap, body: &mut Option<Incoming>, ctx: &RequestContext, idle: Duration) -> RequestBody {
    let ended = body.as_ref().is_none_or(Incoming::is_end_stream);
    let reads = matches!(ctx.method, http::Method::GET | http::Method::HEAD);
    if ended || reads || ctx.route == RouteKind::Ping || headers.get(CONTENT_LENGTH).is_some_and(|length| length == "0") {
        return RequestBody::Empty;
    }
    match body.take() {
        Some(incoming) => RequestBody::stream(incoming, Arc::clone(&ctx.progress), idle),
        None => RequestBody::Empty,
    }
}
