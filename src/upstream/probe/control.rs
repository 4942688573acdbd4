//! The control that judges a member's 401: whether the member takes our own credential now.

use std::time::Duration;

use tokio::time::Instant;

use super::{Seen, probe, probe_account, probe_with_keys};
use crate::balance::health::Observation;
use crate::upstream::credential::Credential;
use crate::upstream::harbor::HarborNode;
use crate::upstream::member::Member;

/// A registry's control is good for this long, so that a thousand refusals are not a thousand probes.
const CONTROL_TTL: Duration = Duration::from_secs(1);
/// What a node says of its health is at most 10 s old; after so long with a refused account and good health all the
/// while, the account is what is wrong.
const HEALTH_AGE_MAX: Duration = Duration::from_secs(12);

/// Whether the member takes our own credential now: asked when it answered a request 401. One
/// probe at a time; every request that waits gets its answer.
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
/// every client, so each refusal is judged by a control that began after it; those that wait share.
async fn control_of_node(member: &Member, node: &HarborNode) -> Seen {
    let deadline = Instant::now() + member.probe.timeout;
    let mut seen = probe_account(member, node, deadline).await;
    if seen.observation == Observation::CredentialRefused
        && member.account_refused_for().is_some_and(|time| time >= HEALTH_AGE_MAX)
        && node.unhealthy(&member.door, deadline).await.is_some_and(|sick| sick.is_empty())
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
