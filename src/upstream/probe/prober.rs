//! The task that probes one member as long as it is in use.

use std::convert::Infallible;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::StatusCode;
use tokio::time::Instant;

use super::{Seen, probe};
use crate::balance::health::Observation;
use crate::random::jitter;
use crate::registry::RegistryRequest;
use crate::upstream::door::Question;
use crate::upstream::member::Member;
use crate::upstream::pool::Topology;

/// Every so many probes a member with a credential is also asked without one.
const OPEN_CHECK_EVERY: u64 = 100;

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
        // Whether the account is good was not asked.
        Observation::Bad => {}
    }
    member.observe(seen.observation, seen.problem.as_deref());
}

/// A member that answers without the credential that is configured for it is open to every client.
async fn check_open(member: &Member) {
    // A Harbor node is never open, and each question without a session would start one there.
    if !member.credential.is_configured() || member.harbor.is_some() || !member.status().serves() {
        return;
    }
    let deadline = Instant::now() + member.probe.timeout;
    let target = RegistryRequest::Ping.member_target();
    if let Ok(answer) = member.door.ask(Question::get(target), deadline).await
        && answer.status == StatusCode::OK
    {
        tracing::warn!(
            member = member.name.as_str(),
            "member is open: it serves without the credential that is configured for it; close it, or set `credential: none`"
        );
    }
}
