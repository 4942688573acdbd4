//! `/status`: the process, its pools and members, as JSON. Fields are added and never change their
//! meaning.

use serde_json::{Value, json};

use super::Admin;
use crate::upstream::{Member, Pool, label};

impl Admin {
    /// The whole status.
    pub(super) fn status(&self) -> Value {
        let topology = self.topology.load();
        let pools: Vec<Value> = topology.pools.all().iter().map(|pool| pool_status(pool)).collect();
        let refused: Vec<&str> = self.reloads.refused().iter().map(|refused| refused.section).collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "generation": self.metrics.generation.get(),
            "uptime_s": self.started.elapsed().as_secs(),
            "ready": self.readiness.is_ready(),
            "draining": self.readiness.is_ending(),
            "connections": self.metrics.connections.get(),
            "requests_in_flight": self.metrics.requests_in_flight.get(),
            "reload_refused": refused,
            "pools": pools,
        })
    }
}

fn pool_status(pool: &Pool) -> Value {
    let members: Vec<Value> = pool.members.iter().map(|member| member_status(member)).collect();
    json!({
        "name": pool.name.as_str(),
        "serves": pool.can_serve(),
        "account_refused": pool.is_account_refused(),
        "retries_left": pool.retries_left(),
        "stand_ins": pool.memory.stand_ins.len(),
        "members": members,
    })
}

/// One member.
pub(super) fn member_status(member: &Member) -> Value {
    json!({
        "name": member.name.as_str(),
        "pool": member.pool.as_str(),
        "state": label(member.status()).as_str(),
        "draining": member.is_draining(),
        "in_flight": member.in_flight(),
        "connections": member.metrics.connections.get(),
        "connections_max": member.connections.limit(),
        "queued": member.connections.queued(),
        "open_uploads": member.open_uploads(),
        "weight": member.weight,
        "backup": member.is_backup(),
        "latency_ms": member.latency_ms(),
        "out_for_s": member.out_for().map(|time| time.as_secs()),
        "last_problem": member.last_problem(),
    })
}
