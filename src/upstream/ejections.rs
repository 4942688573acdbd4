//! Ejections of all pools: decided one after the other, so that what bounds them holds.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use super::member::{Member, MemberState};
use super::name::MemberName;
use super::pool::Pool;
use crate::auth::subject::Subject;
use crate::balance::blame::{ClientKey, Failures};
use crate::balance::health::Status;

/// The members that requests have taken out, and whose requests those were.
#[derive(Debug, Default)]
pub struct Ejections(Mutex<Vec<Ejected>>);

#[derive(Debug)]
struct Ejected {
    member: MemberName,
    state: Arc<MemberState>,
    failures: Failures,
}

/// The key of a client for as long as this process lives.
#[must_use]
pub fn client_key(address: IpAddr, subject: &Subject) -> ClientKey {
    static KEYED: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    let network = match address {
        IpAddr::V4(address) => KEYED.hash_one(address),
        // One customer has a /64, and every address in it.
        IpAddr::V6(address) => KEYED.hash_one(&address.octets()[..8]),
    };
    let subject = (!subject.is_anonymous()).then(|| KEYED.hash_one(subject));
    ClientKey { network, subject }
}

impl Ejections {
    fn lock(&self) -> MutexGuard<'_, Vec<Ejected>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

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
        let allowed = member.probe.ejection.allow(self.members.len(), out);
        if member.eject(problem, allowed) {
            ejected.push(Ejected { member: member.name.clone(), state: Arc::clone(&member.state), failures });
        }
        drop(ejected);
        member.ask_for_probe();
    }
}
