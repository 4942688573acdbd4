//! A request that failed by its member's fault.

use std::sync::Arc;

use super::Pool;
use super::ejections::Ejected;
use crate::balance::blame::ClientKey;
use crate::balance::ejection::allows_one_more;
use crate::balance::health::Status;
use crate::upstream::member::Member;

impl Pool {
    /// A request failed by a member's fault; after several in a row the member is ejected, unless too many of the
    /// pool are. A client that has helped to bring out another member is not listened to until that one is back.
    /// `client` is `None` where no request can bring such a failure about.
    pub fn member_failed(&self, member: &Member, problem: &str, client: Option<ClientKey>) {
        // Decided one after the other, so that the bounds hold.
        let mut ejected = self.memory.ejections.lock();
        ejected.retain(|earlier| earlier.state.status() == Status::Ejected);
        let is_spent = |client: &ClientKey| {
            let mut others = ejected.iter().filter(|earlier| earlier.member != member.name);
            others.any(|earlier| earlier.failures.are_also_of(client))
        };
        if client.as_ref().is_some_and(is_spent) {
            return;
        }
        let Some(failures) = member.failed(client) else { return };
        if !member.status().serves() {
            return;
        }
        let out = self.members.iter().filter(|member| member.status() == Status::Ejected).count();
        let allowed = allows_one_more(self.members.len(), out);
        if member.eject(problem, allowed) {
            ejected.push(Ejected { member: member.name.clone(), state: Arc::clone(&member.state), failures });
        }
        drop(ejected);
        member.ask_for_probe();
    }
}
