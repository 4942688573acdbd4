//! Health probes of one member, and the control that judges a member's 401.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::header::WWW_AUTHENTICATE;
use http::{HeaderValue, Method, StatusCode};
use tokio::time::{Instant, timeout_at};

use super::credential::{Credential, MemberAccess, TokenCredential};
use super::harbor::HarborNode;
use super::member::Member;
use super::question::{Question, ask};
use super::settings::HarborVersion;
use super::topology::Topology;
use crate::balance::health::Observation;
use crate::random::{jitter, unix_now};
use crate::registry::{Actions, ManifestMethod, RegistryRequest, ResourceAccess};

/// A registry's control is good for this long, so that a thousand refusals are not a thousand probes.
const CONTROL_TTL: Duration = Duration::from_secs(1);
/// Every so many probes a member with a credential is also asked without one.
const OPEN_CHECK_EVERY: u64 = 100;
/// What the canary's manifest may be.
const MANIFEST_TYPES: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json";

/// What a node says of its health is at most 10 s old; after so long with a refused account and good health all the
/// while, the account is what is wrong.
const HEALTH_AGE_MAX: Duration = Duration::from_secs(12);

/// What a probe saw, and the words for it where it is not good.
struct Seen {
    observation: Observation,
    problem: Option<String>,
    /// Whether nothing but the account of the probes is refused: the node says that it is well, and takes our tokens.
    only_account: bool,
}

impl Seen {
    fn good() -> Self {
        Self { observation: Observation::Good, problem: None, only_account: false }
    }

    fn bad(problem: String) -> Self {
        Self { observation: Observation::Bad, problem: Some(problem), only_account: false }
    }

    fn refused(problem: &str) -> Self {
        let problem = Some(problem.to_owned());
        Self { observation: Observation::CredentialRefused, problem, only_account: false }
    }
}

/// Probes the member for ever. Never returns; dropping it is safe anywhere.
pub async fn run(member: Arc<Member>, topology: Arc<ArcSwap<Topology>>) -> Infallible {
    for round in 0_u64.. {
        let seen = probe(&member).await;
        let pool = topology.load().pools.member(member.name.as_str()).map(|placed| Arc::clone(placed.pool));
        match pool {
            Some(pool) if seen.only_account => {
                member.count_probe(seen.observation);
                pool.account_refused(&member, seen.problem.as_deref().unwrap_or_default());
            }
            pool => {
                take_in(&member, &seen);
                if let Some(pool) = pool {
                    pool.look_at_accounts();
                }
            }
        }
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
    take_in(member, &probe(member).await);
}

fn take_in(member: &Member, seen: &Seen) {
    member.count_probe(seen.observation);
    match seen.observation {
        Observation::Good => member.account_was_taken(),
        Observation::CredentialRefused => member.account_is_in_doubt(),
        // Whether the account is good, nobody was asked.
        Observation::Bad => {}
    }
    member.observe(seen.observation, seen.problem.as_deref());
}

/// Whether the member takes our own credential now: asked when it answered a request 401. One
/// probe at a time; everybody who waits gets its answer.
pub async fn control_passes(member: &Member) -> bool {
    let asked = Instant::now();
    let mut last = member.state.control.lock().await;
    if let Some((began, passed)) = *last
        && (began >= asked || (member.harbor.is_none() && asked.duration_since(began) < CONTROL_TTL))
    {
        return passed;
    }
    let began = Instant::now();
    let seen = match &member.harbor {
        None => probe(member).await,
        Some(node) => control_of_node(member, node).await,
    };
    member.count_probe(seen.observation);
    let passed = seen.observation == Observation::Good;
    if member.harbor.is_some() && seen.observation == Observation::CredentialRefused {
        // Whether the node or the account is at fault, a probe says, which looks at the node's health too.
        member.ask_for_probe();
    } else if !passed {
        member.observe(seen.observation, seen.problem.as_deref());
    }
    *last = Some((began, passed));
    passed
}

/// What a refusal of a Harbor node is judged by. A node that has just lost its database refuses
/// everybody, so each refusal is judged by a control that began after it; those that wait share.
async fn control_of_node(member: &Member, node: &HarborNode) -> Seen {
    let deadline = Instant::now() + member.probe.timeout;
    let mut seen = probe_account(member, node, deadline).await;
    if seen.observation == Observation::CredentialRefused
        && member.account_refused_for().is_some_and(|time| time >= HEALTH_AGE_MAX)
        && node.unhealthy(member, deadline).await.is_some_and(|sick| sick.is_empty())
    {
        // That account tells nothing any more. The node's own word on its health and our tokens do.
        seen = Seen::good();
    }
    match &member.credential {
        Credential::Token(token) if seen.observation == Observation::Good => {
            probe_with_keys(member, token, deadline).await
        }
        _ => seen,
    }
}

async fn probe(member: &Member) -> Seen {
    let deadline = Instant::now() + member.probe.timeout;
    match timeout_at(deadline, probe_steps(member, deadline)).await {
        Ok(seen) => seen,
        Err(_) => Seen::bad(format!("no answer to a probe within {:?}", member.probe.timeout)),
    }
}

async fn probe_steps(member: &Member, deadline: Instant) -> Seen {
    if let Some(node) = &member.harbor {
        let seen = probe_node(member, node, deadline).await;
        if let (true, Credential::Token(token)) = (seen.only_account, &member.credential) {
            let with_keys = probe_with_keys(member, token, deadline).await;
            return Seen { only_account: with_keys.observation == Observation::Good, ..seen };
        }
        if seen.observation != Observation::Good {
            return seen;
        }
    }
    let seen = match &member.credential {
        Credential::Token(token) => probe_with_keys(member, token, deadline).await,
        Credential::None => probe_ping(member, None, deadline).await,
        Credential::Basic(value) => probe_ping(member, Some(value.clone()), deadline).await,
        // The account of the probes stands for the clients'.
        Credential::Exchange | Credential::Relay => Seen::good(),
    };
    if seen.observation != Observation::Good {
        return seen;
    }
    probe_canary(member, deadline).await
}

/// Whether a Harbor node takes our own account and says that it is well. What it says is at most
/// 10 s old, and what it says late is not waited for: a component that hangs need not be one that
/// pulling and pushing needs.
async fn probe_node(member: &Member, node: &HarborNode, deadline: Instant) -> Seen {
    let patience = deadline - (member.probe.timeout / 10).min(Duration::from_millis(200));
    let (ping, unhealthy) =
        tokio::join!(probe_account(member, node, deadline), node.unhealthy(member, patience));
    match unhealthy {
        Some(sick) if !sick.is_empty() => {
            Seen::bad(format!("the node says of itself that it is unhealthy: {}", sick.join(", ")))
        }
        Some(_) => Seen { only_account: ping.observation == Observation::CredentialRefused, ..ping },
        // Late this time: what was known of the account before still holds.
        None if ping.observation == Observation::CredentialRefused => {
            Seen { only_account: member.is_account_refused(), ..ping }
        }
        None => ping,
    }
}

/// A registry of Harbor 1.x takes no passwords, only tokens.
async fn probe_account(member: &Member, node: &HarborNode, deadline: Instant) -> Seen {
    let authorization = match node.version() {
        HarborVersion::Two => Ok(Some(node.account().clone())),
        HarborVersion::One => node.account_token(member, &[], deadline).await,
    };
    let seen = match authorization {
        Ok(Some(authorization)) => probe_ping(member, Some(authorization), deadline).await,
        Ok(None) => Seen::refused(""),
        Err(problem) => Seen::bad(problem),
    };
    if seen.observation == Observation::CredentialRefused {
        return Seen::refused(
            "the node answers 401 to `harbor.account`: name or password are wrong there, or the node has lost its database",
        );
    }
    seen
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
        let authorization = match token.probe_authorization(&key, &MemberAccess::default(), now).await {
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
    if member.harbor.is_some() && last.observation == Observation::CredentialRefused {
        return Seen::refused(
            "the node takes `harbor.account` and refuses our token: the configured key is not the node's private_key.pem, or the clocks differ",
        );
    }
    last
}

async fn probe_ping(member: &Member, authorization: Option<HeaderValue>, deadline: Instant) -> Seen {
    let with_credential = authorization.is_some();
    let target = RegistryRequest::Ping.member_target();
    let asked = match &member.harbor {
        Some(node) => node.ask(member, &target, authorization, deadline).await,
        None => ask(member, Question::get(&target, authorization), deadline).await,
    };
    let answer = match asked {
        Ok(answer) => answer,
        Err(problem) => return Seen::bad(problem),
    };
    match answer.status {
        StatusCode::OK => Seen::good(),
        StatusCode::UNAUTHORIZED if with_credential => Seen::refused(
            "the member answered 401 to our own credential: the configured credential is wrong, or the member does not trust our key",
        ),
        StatusCode::UNAUTHORIZED if answer.headers.contains_key(WWW_AUTHENTICATE) => Seen::good(),
        status => Seen::bad(format!("GET /v2/ was answered {status}")),
    }
}

async fn probe_canary(member: &Member, deadline: Instant) -> Seen {
    let Some((repository, reference)) = &member.probe.canary else { return Seen::good() };
    let access = ResourceAccess::repository(repository.clone(), Actions::PULL);
    let authorization = match member.own_authorization(&access, deadline).await {
        Ok(authorization) => authorization,
        Err(problem) => return Seen::bad(problem),
    };
    let canary = RegistryRequest::Manifest {
        repository: repository.clone(),
        reference: reference.clone(),
        method: ManifestMethod::Head,
    };
    let target = canary.member_target();
    let question =
        Question { method: Method::HEAD, accept: MANIFEST_TYPES, ..Question::get(&target, authorization) };
    match ask(member, question, deadline).await {
        Ok(answer) if answer.status == StatusCode::OK => Seen::good(),
        Ok(answer) => {
            Seen::bad(format!("the canary {repository} {reference} was answered {}", answer.status))
        }
        Err(problem) => Seen::bad(problem),
    }
}

/// A member that answers everybody although it has a credential is an open door.
async fn check_open(member: &Member) {
    // A Harbor node is never open, and each question without a session would start one there.
    if !member.credential.is_configured() || member.harbor.is_some() || !member.status().serves() {
        return;
    }
    let deadline = Instant::now() + member.probe.timeout;
    let target = RegistryRequest::Ping.member_target();
    if let Ok(answer) = ask(member, Question::get(&target, None), deadline).await
        && answer.status == StatusCode::OK
    {
        tracing::warn!(
            member = member.name.as_str(),
            "member is open: it serves without the credential that is configured for it; close it, or set `credential: none`"
        );
    }
}
