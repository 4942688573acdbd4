//! Ejections of all pools: decided one after the other, so that what bounds them holds.

use std::net::IpAddr;
use std::sync::{LazyLock, Mutex, PoisonError};

use std::hash::{BuildHasher as _, RandomState};

use super::member::Member;
use super::name::MemberName;
use super::pool::Pool;
use crate::auth::subject::Subject;
use crate::balance::blame::{ClientKey, Failures};
use crate::balance::health::Status;
use crate::random::monotonic_ms;

/// The members that requests have taken out, and whose requests those were.
#[derive(Debug, Default)]
pub struct Ejections(Mutex<Vec<Ejected>>);

#[derive(Debug)]
struct Ejected {
    member: MemberName,
    until_ms: u64,
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

impl Pool {
    /// A request failed by a member's fault; after several in a row the member is ejected, unless too many of the
    /// pool are, or all of them were requests of a client that has brought out another member already. `client` is
    /// `None` where no request can bring such a failure about.
    pub fn member_failed(&self, member: &Member, problem: &str, client: Option<ClientKey>) {
        let failures = member.failed(client);
        if failures.number() < member.probe.ejection.failures || !member.status().serves() {
            return;
        }
        let mut ejected = self.memory.ejections.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now_ms = monotonic_ms();
        ejected.retain(|earlier| earlier.until_ms > now_ms);
        let others = ejected.iter().filter(|earlier| earlier.member != member.name);
        let is_one_clients =
            others.into_iter().any(|earlier| failures.are_of_the_client_of(&earlier.failures));
        let out = self.members.iter().filter(|member| member.status() == Status::Ejected).count();
        let allowed = !is_one_clients && member.probe.ejection.allow(self.members.len(), out);
        if let Some(until_ms) = member.eject(problem, allowed) {
            ejected.push(Ejected { member: member.name.clone(), until_ms, failures });
        }
        drop(ejected);
        member.ask_for_probe();
    }
}
