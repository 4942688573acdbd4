//! Harbor's core: the middlewares that every request passes, in their order, and which part answers it.

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue, Method};

use super::HarborVersion;
use super::answer::{self, Answer};
use super::api;
use super::behind::ClientBody;
use super::csrf::{self, Guard};
use super::identity::{self, Caller};
use super::node::Node;
use super::redis::Session;
use super::tokens;
use super::v1;
use super::v2::{self, Target};
use super::web;

/// A request as core has it.
#[derive(Debug)]
pub(super) struct CoreRequest {
    pub(super) method: Method,
    /// Decoded, and cleaned of double slashes and dots.
    pub(super) path: String,
    /// Decoded only: what the guard against forged requests looks at.
    pub(super) raw_path: String,
    pub(super) raw_query: Option<String>,
    pub(super) headers: HeaderMap,
    pub(super) body: ClientBody,
}

impl CoreRequest {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(super) fn cookie(&self, name: &str) -> Option<String> {
        let lines = self.headers.get_all(COOKIE).into_iter().filter_map(|line| line.to_str().ok());
        let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.find(|(known, _)| *known == name).map(|(_, value)| value.to_owned())
    }

    pub(super) fn queries(&self, name: &str) -> Vec<String> {
        let pairs = form_urlencoded::parse(self.raw_query.as_deref().unwrap_or_default().as_bytes());
        pairs.filter(|(known, _)| known == name).map(|(_, value)| value.into_owned()).collect()
    }

    pub(super) fn query(&self, name: &str) -> Option<String> {
        self.queries(name).into_iter().next()
    }

    /// Path and query for the registry.
    pub(super) fn target(&self) -> String {
        let path = super::nginx::escape(&self.path);
        self.raw_query.as_ref().map_or_else(|| path.clone(), |query| format!("{path}?{query}"))
    }

    fn is_ping(&self) -> bool {
        self.path == "/api/v2.0/ping" || self.path == "/api/ping"
    }

    fn only_reads(&self) -> bool {
        [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE].contains(&self.method)
    }
}

/// The session of a request, and whether the client has to be told of it.
#[derive(Debug)]
pub(super) struct SessionSlot {
    pub(super) sid: String,
    set_cookie: Option<String>,
}

impl SessionSlot {
    /// Every request without a valid session gets one, also a ping. Without redis every request gets one, and none is kept.
    fn start(node: &Node, request: &CoreRequest) -> Self {
        let alive = !node.faults().redis_gone;
        if let Some(sid) = request.cookie("sid").filter(|sid| alive && node.redis.session(sid).is_some()) {
            return Self { sid, set_cookie: None };
        }
        let sid = if alive { node.redis.start(Session::default()) } else { crate::harness::random_secret() };
        let set_cookie = Some(cookie(&sid));
        Self { sid, set_cookie }
    }

    pub(super) fn log_in(&mut self, node: &Node, user: &str) {
        if !node.faults().redis_gone {
            self.sid = node.redis.rename(&self.sid, user);
        }
        self.set_cookie = Some(cookie(&self.sid));
    }

    pub(super) fn log_out(&mut self, node: &Node) {
        node.redis.end(&self.sid);
        self.set_cookie = Some(format!("sid=; Path=/; Expires={}; Max-Age=0; HttpOnly", node.http_date(0)));
    }
}

fn cookie(sid: &str) -> String {
    format!("sid={sid}; Path=/; HttpOnly")
}

/// Answers one request.
pub(super) async fn answer(node: &Node, request: CoreRequest) -> Answer {
    let request_id = request.headers.get("x-request-id").cloned();
    let has_guard = node.version != HarborVersion::V1_10 && csrf::looks_at(&request);
    let guard = has_guard.then(|| Guard::of(node, &request));
    let mut answer = match &guard {
        Some(guard) if guard.refuses(&request) => guard.refusal(node),
        Some(guard) => {
            let mut answer = behind_guard(node, request).await;
            guard.mark(node, &mut answer);
            answer.headers_mut().insert("vary", HeaderValue::from_static("Cookie"));
            answer
        }
        None => behind_guard(node, request).await,
    };
    let request_id = request_id.unwrap_or_else(|| HeaderValue::from_str(&uuid()).expect("a header"));
    answer.headers_mut().insert("x-request-id", request_id);
    answer
}

async fn behind_guard(node: &Node, request: CoreRequest) -> Answer {
    let is_v1 = node.version == HarborVersion::V1_10;
    let target = Target::parse(&request);
    if node.faults().database_gone && opens_transaction(&request, &target) {
        return answer::internal_error();
    }
    if !is_v1 && let Some(refusal) = v2::malformed(&request, &target) {
        return refusal;
    }
    let caller =
        if request.is_ping() { Caller::Anonymous } else { identity::caller_of(node, &request).await };
    if node.database.data().read_only && !request.only_reads() && !works_read_only(&request) {
        let message = "The system is in read only mode. Any modification is prohibited.";
        return answer::error(403, "DENIED", message);
    }
    let mut session = SessionSlot::start(node, &request);
    let mut answer = route(node, request, target, caller, &mut session).await;
    if let Some(cookie) = &session.set_cookie {
        answer.headers_mut().append("set-cookie", HeaderValue::from_str(cookie).expect("a cookie"));
    }
    answer
}

async fn route(
    node: &Node,
    request: CoreRequest,
    target: Target,
    caller: Caller,
    session: &mut SessionSlot,
) -> Answer {
    let path = request.path.as_str();
    if path == "/v2" || path.starts_with("/v2/") {
        return match node.version {
            HarborVersion::V1_10 => v1::proxy(node, request).await,
            _ => v2::answer(node, request, target, &caller).await,
        };
    }
    if path == "/service/token" {
        return tokens::serve(node, &request, &caller).await;
    }
    if path.starts_with("/service/notifications/") {
        return notification(&request);
    }
    if path.starts_with("/c/") {
        return web::answer(node, request, &caller, session).await;
    }
    if path.starts_with("/api/") {
        return api::answer(node, request, &caller).await;
    }
    if path.starts_with("/chartrepo/") && node.version <= HarborVersion::V2_0 {
        return v1::charts(node, &request, &caller);
    }
    answer::page_not_found()
}

/// Core asks nobody for a login here; only the node's nginx keeps the outside away.
fn notification(request: &CoreRequest) -> Answer {
    let name = request.path.trim_start_matches("/service/notifications/");
    if request.method == Method::POST && name.starts_with("jobs/scan/") {
        return answer::empty(200);
    }
    if request.method == Method::POST && (name.starts_with("tasks/") || name.starts_with("schedules/")) {
        return answer::internal_error();
    }
    answer::page_not_found()
}

/// Writes run in a transaction, which is opened before anybody asks who is writing. Uploads and manifests do without.
fn opens_transaction(request: &CoreRequest, target: &Target) -> bool {
    let is_long = match target {
        Target::Upload { .. } => [Method::PATCH, Method::PUT].contains(&request.method),
        Target::Manifest { .. } => request.method == Method::PUT,
        _ => false,
    };
    !is_long && !request.only_reads() && request.path != "/service/token" && !request.path.starts_with("/c/")
}

fn works_read_only(request: &CoreRequest) -> bool {
    let path = request.path.as_str();
    let is_login = ["/service/token", "/c/login", "/c/userExists", "/c/oidc/onboard"].contains(&path);
    is_login || path == "/api/v2.0/configurations" || path.starts_with("/service/notifications/")
}

pub(super) fn uuid() -> String {
    let hex = crate::harness::random_secret();
    format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}
