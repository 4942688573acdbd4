//! A request on its way to members, and every rule that follows from what it is.

use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderMap;
use http::{Method, StatusCode};

use crate::auth::subject::Subject;
use crate::balance::blame::ClientKey;
use crate::registry::{
    ManifestMethod, RegistryRequest, ResourceAccess, UploadMethod, WebKind, WebRequest, is_read,
};
use crate::upstream::harbor::ClientSecret;
use crate::upstream::{Asking, MemberAccess, Pool, Storage, UpstreamLimits, Work};

/// What is asked of a member.
#[derive(Debug, Clone)]
pub enum Target {
    /// Something of a registry, with our credential.
    Registry(RegistryRequest),
    /// A page or the API of a Harbor node, with the client's own.
    Web(WebRequest),
}

/// A request as it goes to members. It is made once, and shared by everything that may have to ask again.
pub struct MemberRequest {
    /// The request's id, for the log.
    pub id: Arc<str>,
    /// The worker that serves it.
    pub worker: usize,
    /// What is asked.
    pub target: Target,
    /// With which method.
    pub method: Method,
    /// The headers, but for `Host` and `Authorization`.
    pub headers: HeaderMap,
    /// In whose name.
    pub subject: Subject,
    /// Whose request it is, for shares and for blame.
    pub client: ClientKey,
    /// With which access.
    pub access: MemberAccess,
    /// The client's own name and password, where members need them.
    pub secret: Option<ClientSecret>,
    /// The members' pool, for its bounds and its budget.
    pub pool: Arc<Pool>,
}

/// How long a request may take at members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Queue, connects and all attempts together.
    pub head: Duration,
    /// One attempt, while another member can be asked.
    pub attempt: Duration,
    /// From the end of the request's body to the answer.
    pub after_body: Duration,
}

/// What the status of an answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// It is the answer.
    Final,
    /// A member that does not see everything yet would say that too.
    Unsure,
    /// The member, not the request, has failed.
    MemberFailed,
}

impl Target {
    /// Path and query at the member.
    #[must_use]
    pub fn member_target(&self) -> String {
        match self {
            Self::Registry(request) => request.member_target(),
            Self::Web(request) => request.member_target().to_owned(),
        }
    }

    /// The request of a registry; `None` for a page or the API.
    #[must_use]
    pub fn registry(&self) -> Option<&RegistryRequest> {
        match self {
            Self::Registry(request) => Some(request),
            Self::Web(_) => None,
        }
    }
}

impl MemberRequest {
    /// The request of a registry; `None` for a page or the API of a Harbor node.
    #[must_use]
    pub fn registry(&self) -> Option<&RegistryRequest> {
        self.target.registry()
    }

    /// The same client's request for something else of a registry, by GET.
    #[must_use]
    pub fn get(&self, target: RegistryRequest, headers: HeaderMap) -> Self {
        Self {
            id: Arc::clone(&self.id),
            worker: self.worker,
            target: Target::Registry(target),
            method: Method::GET,
            headers,
            subject: self.subject.clone(),
            client: self.client,
            access: self.access.clone(),
            secret: self.secret.clone(),
            pool: Arc::clone(&self.pool),
        }
    }

    /// The access that a client needs for it.
    #[must_use]
    pub fn challenge_access(&self) -> Vec<ResourceAccess> {
        self.registry().map(RegistryRequest::challenge_access).unwrap_or_default()
    }

    /// Whether it is about a repository.
    #[must_use]
    pub fn names_repository(&self) -> bool {
        self.registry().is_some_and(|request| request.repository().is_some())
    }

    /// What a credential is needed for.
    pub(super) fn asking(&self, streams: bool) -> Asking<'_> {
        Asking { subject: &self.subject, secret: self.secret.as_ref(), access: &self.access, streams }
    }

    /// Whether members copy each other, late, and know different accounts: what one says is its own word only.
    #[must_use]
    pub fn members_differ(&self) -> bool {
        self.registry().is_some() && self.pool.storage == Storage::Replicated
    }

    /// Whether it may be made once more although a member may have seen it (RFC 9110 9.2.2): reads, an upload start
    /// without content, and a manifest, which says the same however often it is said.
    #[must_use]
    pub fn is_repeatable(&self) -> bool {
        is_repeatable(&self.target, &self.method)
    }

    /// How long it may take.
    #[must_use]
    pub fn patience(&self) -> Patience {
        patience(&self.target, &self.pool.limits)
    }

    /// Whether its answer does not have to be worked for, so that the time it takes tells how busy the member is.
    #[must_use]
    pub fn is_quick(&self) -> bool {
        is_quick(&self.target)
    }

    /// Which share of a member's connections it is of.
    #[must_use]
    pub fn work(&self) -> Work {
        work(&self.target)
    }

    /// What an answer's status says.
    #[must_use]
    pub fn judge(&self, status: StatusCode) -> Judgement {
        judge(&self.target, &self.method, status)
    }
}

fn is_repeatable(target: &Target, method: &Method) -> bool {
    match target {
        Target::Registry(RegistryRequest::UploadStart { digest, .. }) => digest.is_none(),
        Target::Registry(RegistryRequest::Manifest { method: ManifestMethod::Put, .. }) => true,
        Target::Registry(_) | Target::Web(_) => is_read(method),
    }
}

fn patience(target: &Target, limits: &UpstreamLimits) -> Patience {
    let head = if is_quick(target) && !finishes_upload(target) {
        limits.head_timeout
    } else {
        limits.finish_timeout
    };
    // The API may think for long, and still another node may be asked in time.
    let attempt = if is_quick(target) { limits.first_byte_timeout } else { limits.head_timeout };
    Patience { head, attempt, after_body: head }
}

/// Whether a member may have to put a whole upload together before it answers, however little of it comes with this
/// request: docker, skopeo and podman end every upload with an empty one.
fn finishes_upload(target: &Target) -> bool {
    matches!(
        target,
        Target::Registry(
            RegistryRequest::Upload { method: UploadMethod::Put { .. }, .. }
                | RegistryRequest::UploadStart { digest: Some(_), .. }
        )
    )
}

/// What Harbor's API does may take minutes, and no client of it gives up after 30 s.
fn is_quick(target: &Target) -> bool {
    match target {
        Target::Registry(_) => true,
        Target::Web(request) => request.kind() == WebKind::Page,
    }
}

fn work(target: &Target) -> Work {
    match target {
        Target::Registry(
            RegistryRequest::UploadStart { .. }
            | RegistryRequest::Upload { .. }
            | RegistryRequest::Manifest { method: ManifestMethod::Put, .. },
        ) => Work::Upload,
        Target::Registry(_) | Target::Web(_) => Work::Pull,
    }
}

fn judge(target: &Target, method: &Method, status: StatusCode) -> Judgement {
    let is_unsure = match target {
        // The member may not see the blobs yet that the manifest names.
        Target::Registry(RegistryRequest::Manifest { method: ManifestMethod::Put, .. }) => {
            matches!(status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND)
        }
        Target::Registry(_) => is_repeatable(target, method) && status == StatusCode::NOT_FOUND,
        Target::Web(_) => false,
    };
    let has_failed = match target {
        // 429 is fatal to docker.
        Target::Registry(_) => {
            status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
                || status == StatusCode::TOO_MANY_REQUESTS
        }
        // Only what the node's own proxy says when there is nothing behind it.
        Target::Web(_) => {
            let gone =
                [StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT];
            is_repeatable(target, method) && gone.contains(&status)
        }
    };
    match (has_failed, is_unsure) {
        (true, _) => Judgement::MemberFailed,
        (false, true) => Judgement::Unsure,
        (false, false) => Judgement::Final,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::budget::RetryRules;

    fn registry(method: &Method, path_and_query: &str) -> (Target, Method) {
        let (path, query) = match path_and_query.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path_and_query, None),
        };
        let request = RegistryRequest::parse(method, path, query).expect("a request of a registry");
        (Target::Registry(request), method.clone())
    }

    fn web(method: &Method, path: &str) -> (Target, Method) {
        let request = WebRequest::parse(method, path, None, false).expect("a request of a Harbor node");
        (Target::Web(request), method.clone())
    }

    /// A request of each kind, with whether it may be repeated and what share of connections it is of.
    fn requests() -> Vec<((Target, Method), bool, Work)> {
        use Work::{Pull, Upload};
        let digest = format!("sha256:{}", "a".repeat(64));
        let (get, put) = (Method::GET, Method::PUT);
        vec![
            (registry(&get, "/v2/a/b/manifests/v1"), true, Pull),
            (registry(&Method::HEAD, &format!("/v2/a/b/blobs/{digest}")), true, Pull),
            (registry(&get, &format!("/v2/a/b/blobs/{digest}")), true, Pull),
            (registry(&Method::DELETE, &format!("/v2/a/b/blobs/{digest}")), false, Pull),
            (registry(&put, "/v2/a/b/manifests/v1"), true, Upload),
            (registry(&Method::POST, "/v2/a/b/blobs/uploads/"), true, Upload),
            (registry(&Method::POST, &format!("/v2/a/b/blobs/uploads/?digest={digest}")), false, Upload),
            (registry(&Method::PATCH, "/v2/a/b/blobs/uploads/u"), false, Upload),
            (registry(&put, &format!("/v2/a/b/blobs/uploads/u?digest={digest}")), false, Upload),
            (registry(&get, "/v2/_catalog"), true, Pull),
            (web(&get, "/api/v2.0/projects"), true, Pull),
            (web(&Method::POST, "/api/v2.0/projects"), false, Pull),
        ]
    }

    #[test]
    fn what_is_repeated_and_which_connections_it_takes() {
        for ((target, method), repeatable, of) in requests() {
            let what = format!("{method} {}", target.member_target());
            assert_eq!(is_repeatable(&target, &method), repeatable, "{what}");
            assert_eq!(work(&target), of, "{what}");
        }
    }

    /// Only the times are looked at.
    fn limits() -> UpstreamLimits {
        let long = Duration::from_secs(1000);
        UpstreamLimits {
            connections_max: 1,
            queue_max: 1,
            queue_timeout: long,
            connect_timeout: long,
            idle_timeout: long,
            first_byte_timeout: Duration::from_secs(1),
            head_timeout: Duration::from_secs(2),
            finish_timeout: Duration::from_secs(3),
            body_idle_timeout: long,
            pulls_max: 1,
            uploads_max: 1,
            client_share_percent: 50,
            body_stall_timeout: long,
            resume_max: 1,
            manifest_bytes_max: 1,
            retry: RetryRules { percent: 0, per_second: 0 },
        }
    }

    #[test]
    fn how_long_a_request_may_take() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let (first_byte, head, finish) = (1, 2, 3);
        let put = Method::PUT;
        for ((target, method), all_attempts, one_attempt) in [
            (registry(&Method::GET, "/v2/a/b/manifests/v1"), head, first_byte),
            (registry(&Method::GET, &format!("/v2/a/b/blobs/{digest}")), head, first_byte),
            (registry(&put, "/v2/a/b/manifests/v1"), head, first_byte),
            (registry(&Method::POST, "/v2/a/b/blobs/uploads/"), head, first_byte),
            (registry(&Method::PATCH, "/v2/a/b/blobs/uploads/u"), head, first_byte),
            // However little of the upload comes with it.
            (registry(&put, &format!("/v2/a/b/blobs/uploads/u?digest={digest}")), finish, first_byte),
            (registry(&Method::POST, &format!("/v2/a/b/blobs/uploads/?digest={digest}")), finish, first_byte),
            (web(&Method::GET, "/harbor/projects"), head, first_byte),
            (web(&Method::GET, "/api/v2.0/projects"), finish, head),
            (web(&Method::POST, "/api/v2.0/projects"), finish, head),
        ] {
            let what = format!("{method} {}", target.member_target());
            let seconds = Duration::from_secs;
            let expected = Patience {
                head: seconds(all_attempts),
                attempt: seconds(one_attempt),
                after_body: seconds(all_attempts),
            };
            assert_eq!(patience(&target, &limits()), expected, "{what}");
        }
    }

    #[test]
    fn what_a_status_says() {
        use Judgement::{Final, MemberFailed, Unsure};
        let digest = format!("sha256:{}", "a".repeat(64));
        let pull = registry(&Method::GET, "/v2/a/b/manifests/v1");
        let push = registry(&Method::PUT, "/v2/a/b/manifests/v1");
        let end = registry(&Method::PUT, &format!("/v2/a/b/blobs/uploads/u?digest={digest}"));
        let page = web(&Method::GET, "/api/v2.0/projects");
        let change = web(&Method::POST, "/api/v2.0/projects");
        for (request, status, expected) in [
            (&pull, 200, Final),
            (&pull, 404, Unsure),
            (&pull, 400, Final),
            (&pull, 500, MemberFailed),
            (&pull, 501, Final),
            (&pull, 429, MemberFailed),
            (&push, 400, Unsure),
            (&push, 404, Unsure),
            (&push, 201, Final),
            (&end, 404, Final),
            (&end, 503, MemberFailed),
            (&page, 404, Final),
            (&page, 500, Final),
            (&page, 503, MemberFailed),
            (&change, 503, Final),
        ] {
            let (target, method) = request;
            let judged = judge(target, method, StatusCode::from_u16(status).expect("a status"));
            assert_eq!(judged, expected, "{method} {} {status}", target.member_target());
        }
    }
}
