//! Which member had which content broken: it is asked for that content last.

use std::sync::atomic::{AtomicBool, Ordering};

use moka::sync::Cache;

use super::name::MemberName;
use super::settings::VerifySettings;
use crate::registry::Digest;

/// Pairs that are remembered, about 200 bytes each. A member with more broken content than this needs a person.
const ENTRIES_MAX: u64 = 10_000;

/// Pairs of member and digest, for a time.
#[derive(Debug)]
pub struct Quarantine {
    pairs: Cache<(MemberName, Digest), ()>,
    /// Nearly always there is none, and nothing is looked up.
    any: AtomicBool,
}

impl Quarantine {
    /// An empty one.
    #[must_use]
    pub fn new(settings: &VerifySettings) -> Self {
        let pairs = Cache::builder().max_capacity(ENTRIES_MAX).time_to_live(settings.quarantine).build();
        Self { pairs, any: AtomicBool::new(false) }
    }

    /// The member had this content broken.
    pub fn add(&self, member: &MemberName, digest: &Digest) {
        self.pairs.insert((member.clone(), digest.clone()), ());
        self.any.store(true, Ordering::Relaxed);
    }

    /// The member had it right again.
    pub fn remove(&self, member: &MemberName, digest: &Digest) {
        if self.any.load(Ordering::Relaxed) {
            self.pairs.invalidate(&(member.clone(), digest.clone()));
        }
    }

    /// Whether the member is known to have this content broken.
    #[must_use]
    pub fn holds(&self, member: &MemberName, digest: &Digest) -> bool {
        self.any.load(Ordering::Relaxed) && self.pairs.contains_key(&(member.clone(), digest.clone()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_pair_is_held_until_it_is_removed_or_too_old() {
        let settings = VerifySettings {
            hold_bytes: 0,
            buffer_bytes_max: 0,
            manifest_buffer_bytes_max: 0,
            quarantine: Duration::from_millis(50),
        };
        let quarantine = Quarantine::new(&settings);
        let member = MemberName::try_from("node1").expect("a name");
        let other = MemberName::try_from("node2").expect("a name");
        let digest = Digest::try_from(format!("sha256:{:064x}", 1).as_str()).expect("a digest");
        assert!(!quarantine.holds(&member, &digest));
        quarantine.add(&member, &digest);
        assert!(quarantine.holds(&member, &digest) && !quarantine.holds(&other, &digest));
        quarantine.remove(&member, &digest);
        assert!(!quarantine.holds(&member, &digest));
        quarantine.add(&member, &digest);
        let began = std::time::SystemTime::now();
        while quarantine.holds(&member, &digest) {
            assert!(began.elapsed().expect("a clock") < Duration::from_secs(60), "it is held for ever");
        }
    }
}
