//! The account of the probes of Harbor nodes: refused by one node, the node is at fault; refused by all of them while
//! they are well, the account is. Then they serve without it, and an alarm says so.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Pool;
use crate::balance::health::{Observation, Status};
use crate::upstream::member::Member;

impl Pool {
    /// A node is well, takes our tokens, and refuses the account of the probes. While another node takes it, the node
    /// is at fault; else the account is, and the nodes serve.
    pub(in crate::upstream) fn account_refused(&self, member: &Arc<Member>, problem: &str) {
        member.account_was_refused();
        if !self.is_account_refused() {
            member.observe(Observation::CredentialRefused, Some(problem));
            return;
        }
        if !self.memory.account_alarm.swap(true, Ordering::Relaxed) {
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
    pub(in crate::upstream) fn look_at_accounts(&self) {
        if self.memory.account_alarm.load(Ordering::Relaxed) && !self.is_account_refused() {
            self.memory.account_alarm.store(false, Ordering::Relaxed);
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
                node.state.account_taken.load(Ordering::Relaxed)
            }
        };
        let refused = self.members.iter().any(|node| node.is_account_refused());
        refused && !nodes.any(contradicts)
    }
}
