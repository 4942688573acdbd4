//! The account of the probes of Harbor nodes: refused by one node, the node is at fault; refused by all of them while
//! they are well, the account is. Then they serve without it, and an alarm says so.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::member::Member;
use super::pool::Pool;
use crate::balance::health::{Observation, Status};
use crate::random::monotonic_ms;

impl Member {
    /// Whether nothing but the account of the probes is refused there.
    pub(super) fn set_account_refused(&self, refused: bool) {
        let before = self.state.account_refused_since_ms.load(Ordering::Acquire);
        if refused && before == 0 {
            self.state.account_refused_since_ms.store(monotonic_ms(), Ordering::Release);
        } else if !refused && before != 0 {
            self.state.account_refused_since_ms.store(0, Ordering::Release);
            self.forget_problem();
        }
    }

    /// For how long nothing but the account of the probes has been refused there; `None` where it is not.
    #[must_use]
    pub(super) fn account_refused_for(&self) -> Option<Duration> {
        match self.state.account_refused_since_ms.load(Ordering::Acquire) {
            0 => None,
            since => Some(Duration::from_millis(monotonic_ms().saturating_sub(since))),
        }
    }
}

impl Pool {
    /// A node is well, takes our tokens, and refuses the account of the probes. While another node takes it, the node
    /// is at fault; else the account is, and the nodes serve.
    pub(super) fn account_refused(&self, member: &Arc<Member>, problem: &str) {
        member.set_account_refused(true);
        if !self.is_account_refused() {
            member.observe(Observation::CredentialRefused, Some(problem));
            return;
        }
        if !self.memory.account_alarm.swap(true, Ordering::AcqRel) {
            tracing::error!(
                pool = self.name.as_str(),
                "every node of the pool that is well refuses `harbor.account`: it is disabled, has expired, or its password was changed. \
                 The nodes go on serving without it; enable the account, or set another one"
            );
        }
        self.metrics.account_refused.set(1);
        for node in self.members.iter().filter(|node| node.account_refused_for().is_some()) {
            node.serves_without_account(problem);
        }
    }

    /// A node was probed otherwise: the alarm ends when a node takes the account again.
    pub(super) fn look_at_accounts(&self) {
        if self.memory.account_alarm.load(Ordering::Acquire) && !self.is_account_refused() {
            self.memory.account_alarm.store(false, Ordering::Release);
            self.metrics.account_refused.set(0);
            tracing::info!(
                pool = self.name.as_str(),
                "`harbor.account` is not refused by every node any more"
            );
        }
    }

    /// Whether every node that is well refuses the account of the probes.
    #[must_use]
    pub fn is_account_refused(&self) -> bool {
        let nodes = self.members.iter().filter(|node| node.harbor.is_some());
        let mut answering = nodes.filter(|node| node.status() != Status::Unhealthy).peekable();
        answering.peek().is_some() && answering.all(|node| node.account_refused_for().is_some())
    }
}
