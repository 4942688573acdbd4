//! Health probes of one member, and the control that judges a member's 401.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, HOST, USER_AGENT, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

use super::body::RequestBody;
use super::credential::{Credential, MemberAccess, TokenCredential};
use super::member::Member;
use crate::auth::subject::Subject;
use crate::balance::health::Observation;
use crate::random::{jitter, unix_now};
use crate::registry::{Actions, ManifestMethod, RegistryRequest, ResourceAccess};

/// A control's answer is good for this long, so that a thousand refusals are not a thousand probes.
const CONTROL_TTL: Duration = Duration::from_secs(1);
/// Every so many probes a member with a credential is also asked without one.
const OPEN_CHECK_EVERY: u64 = 100;
/// What the canary's manifest may be.
const MANIFEST_TYPES: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json";

/// What a probe saw, and the words for it where it is not good.
struct Seen {
    observation: Observation,
    problem: Option<String>,
}

impl Seen {
    fn good() -> Self {
        Self { observation: Observation::Good, problem: None }
    }

    fn bad(problem: String) -> Self {
        Self { observation: Observation::Bad, problem: Some(problem) }
    }

    fn refused(problem: &str) -> Self {
        Self { observation: Observation::CredentialRefused, problem: Some(problem.to_owned()) }
    }
}

/// Probes the member for ever. Never returns; dropping it is safe anywhere.
pub async fn run(member: Arc<Member>) -> Infallible {
    for round in 0_u64.. {
        probe_once(&member).await;
        if round % OPEN_CHECK_EVERY == 0 {
            check_open(&member).await;
        }
        member.connections.sweep();
        let settings = &member.probe;
        let pause = if member.is_unsettled() { settings.fast_interval } else { settings.interval };
        let poked = tokio::time::timeout(jitter(pause), member.state.probe_now.notified()).await;
        if poked.is_ok() {
            // Many failing requests ask for probes; one at a time is enough.
            tokio::time::sleep(settings.fast_interval.min(settings.interval) / 4).await;
        }
    }
    std::future::pending().await
}

/// Probes once and takes the result in.
pub async fn probe_once(member: &Member) {
    let seen = probe(member).await;
    member.count_probe(seen.observation);
    member.observe(seen.observation, seen.problem.as_deref());
}

/// Whether the member takes our own credential now: asked when it answered a request 401. One
/// probe at a time; everybody who waits gets its answer.
pub async fn control_passes(member: &Member) -> bool {
    let asked = Instant::now();
    let mut last = member.state.control.lock().await;
    if let Some((when, passed)) = *last
        && (when > asked || asked.duration_since(when) < CONTROL_TTL)
    {
        return passed;
    }
    let seen = probe(member).await;
    member.count_probe(seen.observation);
    let passed = seen.observation == Observation::Good;
    if !passed {
        member.observe(seen.observation, seen.problem.as_deref());
    }
    *last = Some((Instant::now(), passed));
    passed
}

async fn probe(member: &Member) -> Seen {
    let deadline = Instant::now() + member.probe.timeout;
    match timeout_at(deadline, probe_steps(member, deadline)).await {
        Ok(seen) => seen,
        Err(_) => Seen::bad(format!("no answer to a probe within {:?}", member.probe.timeout)),
    }
}

async fn probe_steps(member: &Member, deadline: Instant) -> Seen {
    let seen = match &member.credential {
        Credential::Token(token) => probe_with_keys(member, token, deadline).await,
        Credential::None | Credential::Basic(_) => match authorization(member, &MemberAccess::default()) {
            Ok(authorization) => probe_ping(member, authorization, deadline).await,
            Err(problem) => Seen::bad(problem),
        },
    };
    if seen.observation != Observation::Good {
        return seen;
    }
    probe_canary(member, deadline).await
}

/// A new signing key is used for a member only after the member accepted it here.
async fn probe_with_keys(member: &Member, token: &TokenCredential, deadline: Instant) -> Seen {
    let now = unix_now();
    let proven = token.signing_key(now);
    let wanted = token.unproven_key(now);
    let mut keys: Vec<_> = wanted.iter().cloned().collect();
    let further = if wanted.is_some() { token.older_keys(now) } else { Vec::new() };
    for key in proven.into_iter().chain(further) {
        if keys.iter().all(|known| known.thumbprint() != key.thumbprint()) {
            keys.push(key);
        }
    }
    let mut last = Seen::bad("there is no member key".to_owned());
    for key in keys {
        let authorization = match token.probe_authorization(&key, &MemberAccess::default(), now) {
            Ok(authorization) => authorization,
            Err(error) => return Seen::bad(format!("no token can be minted: {error}")),
        };
        last = probe_ping(member, Some(authorization), deadline).await;
        match last.observation {
            Observation::Good => {
                if wanted.as_ref().is_some_and(|wanted| wanted.thumbprint() == key.thumbprint()) {
                    tracing::info!(
                        member = member.name.as_str(),
                        key = key.thumbprint(),
                        "member accepts the signing key"
                    );
                }
                token.set_proven(key);
                return last;
            }
            Observation::CredentialRefused => {}
            Observation::Bad => return last,
        }
    }
    last
}

async fn probe_ping(member: &Member, authorization: Option<HeaderValue>, deadline: Instant) -> Seen {
    let with_credential = authorization.is_some();
    let answer = match ask(member, &RegistryRequest::Ping, authorization, deadline).await {
        Ok(answer) => answer,
        Err(problem) => return Seen::bad(problem),
    };
    match answer.status() {
        StatusCode::OK => Seen::good(),
        StatusCode::UNAUTHORIZED if with_credential => Seen::refused(
            "the member answered 401 to our own credential: the configured credential is wrong, or the member does not trust our key",
        ),
        StatusCode::UNAUTHORIZED if answer.headers().contains_key(WWW_AUTHENTICATE) => Seen::good(),
        status => Seen::bad(format!("GET /v2/ was answered {status}")),
    }
}

async fn probe_canary(member: &Member, deadline: Instant) -> Seen {
    let Some((repository, reference)) = &member.probe.canary else { return Seen::good() };
    let access = ResourceAccess::repository(repository.clone(), Actions::PULL);
    let access = MemberAccess { target: Some(access), source: None };
    let authorization = match authorization(member, &access) {
        Ok(authorization) => authorization,
        Err(problem) => return Seen::bad(problem),
    };
    let canary = RegistryRequest::Manifest {
        repository: repository.clone(),
        reference: reference.clone(),
        method: ManifestMethod::Head,
    };
    match ask(member, &canary, authorization, deadline).await {
        Ok(answer) if answer.status() == StatusCode::OK => Seen::good(),
        Ok(answer) => {
            Seen::bad(format!("the canary {repository} {reference} was answered {}", answer.status()))
        }
        Err(problem) => Seen::bad(problem),
    }
}

/// A member that answers everybody although it has a credential is an open door.
async fn check_open(member: &Member) {
    if !member.credential.is_configured() || !member.status().serves() {
        return;
    }
    let deadline = Instant::now() + member.probe.timeout;
    let asked = timeout_at(deadline, ask(member, &RegistryRequest::Ping, None, deadline)).await;
    if let Ok(Ok(answer)) = asked
        && answer.status() == StatusCode::OK
    {
        tracing::warn!(
            member = member.name.as_str(),
            "member is open: it serves without the credential that is configured for it; close it, or set `credential: none`"
        );
    }
}

fn authorization(member: &Member, access: &MemberAccess) -> Result<Option<HeaderValue>, String> {
    let probe = Subject::new("tidegate", "probe").map_err(|error| error.to_string())?;
    member
        .credential
        .authorization(&probe, access, unix_now())
        .map_err(|error| format!("no token can be minted: {error}"))
}

async fn ask(
    member: &Member,
    request: &RegistryRequest,
    authorization: Option<HeaderValue>,
    deadline: Instant,
) -> Result<Response<Incoming>, String> {
    let describe = |error: &dyn std::error::Error| {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            text = format!("{text}: {error}");
            source = error.source();
        }
        text
    };
    let mut sender =
        member.connections.connect_for_probe(deadline).await.map_err(|error| describe(&error))?;
    let is_head = matches!(request, RegistryRequest::Manifest { .. });
    let mut probe = Request::builder()
        .method(if is_head { Method::HEAD } else { Method::GET })
        .uri(request.member_target())
        .header(HOST, &member.host)
        .header(USER_AGENT, concat!("tidegate/", env!("CARGO_PKG_VERSION"), " (health probe)"))
        .header(ACCEPT, MANIFEST_TYPES)
        .body(RequestBody::Empty)
        .map_err(|error| describe(&error))?;
    if let Some(authorization) = authorization {
        probe.headers_mut().insert(AUTHORIZATION, authorization);
    }
    sender.send_request(probe).await.map_err(|error| describe(&error))
}
