//! Ejections of all pools: decided one after the other, so that what bounds them holds.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use crate::auth::subject::Subject;
use crate::balance::blame::{ClientKey, Failures};
use crate::upstream::member::MemberState;
use crate::upstream::name::MemberName;

/// The members that requests have taken out, and whose requests those were.
#[derive(Debug, Default)]
pub struct Ejections(Mutex<Vec<Ejected>>);

#[derive(Debug)]
pub(super) struct Ejected {
    pub member: MemberName,
    pub state: Arc<MemberState>,
    pub failures: Failures,
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
    pub(super) fn lock(&self) -> MutexGuard<'_, Vec<Ejected>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
