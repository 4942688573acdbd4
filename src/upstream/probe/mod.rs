//! One health probe of a member: what is asked, and what the answers show.

mod control;
mod prober;

use std::time::Duration;

use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use tokio::time::{Instant, timeout_at};

pub use control::control_passes;
pub use prober::{probe_once, run};

use super::credential::{Credential, MemberAccess, TokenCredential};
use super::door::Question;
use super::harbor::{HarborNode, token_of_account};
use super::member::Member;
use super::settings::HarborVersion;
use crate::balance::health::Observation;
use crate::random::unix_now;
use crate::registry::RegistryRequest;

/// What a probe saw, and the words for it where it is not good.
pub(super) struct Seen {
    pub observation: Observation,
    pub problem: Option<String>,
    /// Whether nothing but the account of the probes is refused: the node says that it is well, and takes our tokens.
    pub only_account: bool,
}

impl Seen {
    pub(super) fn good() -> Self {
        Self { observation: Observation::Good, problem: None, only_account: false }
    }

    pub(super) fn bad(problem: String) -> Self {
        Self { observation: Observation::Bad, problem: Some(problem), only_account: false }
    }

    pub(super) fn refused(problem: &str) -> Self {
        let problem = Some(problem.to_owned());
        Self { observation: Observation::CredentialRefused, problem, only_account: false }
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
        tokio::join!(probe_account(member, node, deadline), node.unhealthy(&member.door, patience));
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
        HarborVersion::One => token_of_account(&member.door, node.account().clone(), &[], deadline).await,
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
        Some(node) => node.ask(&member.door, &target, authorization, deadline).await,
        None => {
            let question = Question::get(target).with(AUTHORIZATION, authorization);
            member.door.ask(question, deadline).await
        }
    };
    let answer = match asked {
        Ok(answer) => answer,
        Err(error) => return Seen::bad(error.to_string()),
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
    match member.head_of_manifest(repository, reference, deadline).await {
        Ok(answer) if answer.status == StatusCode::OK => Seen::good(),
        Ok(answer) => {
            Seen::bad(format!("the canary {repository} {reference} was answered {}", answer.status))
        }
        Err(problem) => Seen::bad(problem),
    }
}
