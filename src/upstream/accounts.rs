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
    /// A probe saw the account of the probes taken.
    pub(super) fn account_was_taken(&self) {
        self.state.account_taken.store(true, Ordering::Release);
        if self.state.account_refused_since_ms.swap(0, Ordering::AcqRel) != 0 {
            self.forget_problem();
        }
    }

    /// A probe was refused, the account or something else.
    pub(super) fn account_is_in_doubt(&self) {
        self.state.account_taken.store(false, Ordering::Release);
    }

    fn account_was_refused(&self) {
        self.account_is_in_doubt();
        let since = &self.state.account_refused_since_ms;
        if since.load(Ordering::Acquire) == 0 {
            since.store(monotonic_ms(), Ordering::Release);
        }
    }

    /// Whether the account of the probes is refused there while nothing else is, as far as is known.
    #[must_use]
    pub fn is_account_refused(&self) -> bool {
        self.account_refused_for().is_some()
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
        member.account_was_refused();
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
        member.serves_without_account(problem);
        let others = self.members.iter().filter(|other| other.name != member.name);
        for node in
            others.filter(|node| node.is_account_refused() && node.status() == Status::CredentialFault)
        {
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

    /// Whether nodes refuse the account of the probes, and none that is well takes it.
    #[must_use]
    pub fn is_account_refused(&self) -> bool {
        let mut nodes = self.members.iter().filter(|node| node.harbor.is_some());
        let contradicts = |node: &Arc<Member>| match node.status() {
            Status::Unhealthy => false,
            Status::Starting => !node.is_account_refused(),
            Status::Healthy | Status::CredentialFault | Status::Ejected => {
                node.state.account_taken.load(Ordering::Acquire)
            }
        };
        let refused = self.members.iter().any(|node| node.is_account_refused());
        refused && !nodes.any(contradicts)
    }
}
