//! Password checks on a bounded pool of blocking threads, remembered by a keyed hash.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_lc_rs::hmac;
use moka::sync::Cache;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;

use super::htpasswd::bcrypt_cost;
use super::settings::VerifyLimits;

/// Longest wait for a turn: docker gives a token request 15 s and tries no second time.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Checks that are remembered, right and wrong ones apart, of this process and of Harbor nodes; a few hundred bytes each.
/// Beyond that the least used are forgotten, and made again.
pub const CACHE_ENTRIES_MAX: u64 = 10_000;

type Fingerprint = [u8; 32];

/// Checks passwords, a bounded number at once. What it remembers survives a reload: the stored
/// hash is part of the key, so a changed password is a new question.
#[derive(Debug)]
pub struct PasswordChecks {
    key: hmac::Key,
    running: Arc<Semaphore>,
    waiting: AtomicUsize,
    queue_max: usize,
    right: Cache<Fingerprint, ()>,
    wrong: Cache<Fingerprint, ()>,
}

struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl PasswordChecks {
    /// A pool with these bounds.
    #[must_use]
    pub fn new(limits: &VerifyLimits) -> Self {
        let cache = |ttl| Cache::builder().max_capacity(CACHE_ENTRIES_MAX).time_to_live(ttl).build();
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &rand::random::<[u8; 32]>()),
            running: Arc::new(Semaphore::new(limits.concurrency.clamp(1, Semaphore::MAX_PERMITS))),
            waiting: AtomicUsize::new(0),
            queue_max: limits.queue_max,
            right: cache(limits.success_ttl),
            wrong: cache(limits.failure_ttl),
        }
    }

    /// Whether `password` belongs to `hash`; `None` when too many checks wait already. A wrong one
    /// takes as long as a check against a hash of `cost_max`, so that no time tells hashes apart.
    pub(super) async fn matches(
        &self,
        name: &str,
        password: &SecretString,
        hash: &Arc<str>,
        cost_max: u32,
    ) -> Option<bool> {
        let fingerprint = self.fingerprint(name, password, hash);
        if let Some(known) = self.known(&fingerprint) {
            return Some(known);
        }
        let permit = match Arc::clone(&self.running).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let ahead = self.waiting.fetch_add(1, Ordering::Relaxed);
                let _waiting = Waiting(&self.waiting);
                if ahead >= self.queue_max {
                    return None;
                }
                let turn = Arc::clone(&self.running).acquire_owned();
                tokio::time::timeout(WAIT_MAX, turn).await.ok()?.ok()?
            }
        };
        // The same pair may have been checked while this one waited.
        if let Some(known) = self.known(&fingerprint) {
            return Some(known);
        }
        let (password, hash) = (password.clone(), Arc::clone(hash));
        let checked = tokio::task::spawn_blocking(move || {
            let matches = bcrypt::verify(password.expose_secret(), &hash).unwrap_or(false);
            if !matches {
                for cost in missing_costs(bcrypt_cost(&hash), cost_max) {
                    // What comes of it says nothing; it is done for its time.
                    drop(bcrypt::verify(password.expose_secret(), &dummy_hash(cost)));
                }
            }
            drop(permit);
            matches
        });
        let matches = checked.await.ok()?;
        if matches { &self.right } else { &self.wrong }.insert(fingerprint, ());
        Some(matches)
    }

    fn known(&self, fingerprint: &Fingerprint) -> Option<bool> {
        if self.right.contains_key(fingerprint) {
            return Some(true);
        }
        self.wrong.contains_key(fingerprint).then_some(false)
    }

    fn fingerprint(&self, name: &str, password: &SecretString, hash: &str) -> Fingerprint {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [name, hash, password.expose_secret()] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        let tag = context.sign();
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(tag.as_ref());
        fingerprint
    }
}

/// A well-formed hash that no password has.
pub(super) fn dummy_hash(cost: u32) -> String {
    format!("$2b${cost:02}${}", ".".repeat(53))
}

/// The costs of the checks that are as much work, together with one of cost `done`, as one of cost
/// `wanted`: each step up doubles the work.
fn missing_costs(done: Option<u32>, wanted: u32) -> std::ops::Range<u32> {
    done.map_or(wanted..wanted, |done| done..wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_password_is_as_much_work_whatever_its_hash_costs() {
        let work = |cost: u32| 1_u64 << cost;
        for (own, costliest) in [(4, 4), (4, 12), (11, 12), (12, 12), (5, 31)] {
            let more: u64 = missing_costs(Some(own), costliest).map(work).sum();
            assert_eq!(work(own) + more, work(costliest), "{own} {costliest}");
        }
    }

    #[test]
    fn the_check_of_an_unknown_name_really_hashes() {
        assert!(matches!(bcrypt::verify("x", &dummy_hash(4)), Ok(false)));
    }

    #[tokio::test]
    async fn checks_beyond_the_queue_are_unavailable_not_wrong() {
        let checks = PasswordChecks::new(&VerifyLimits {
            concurrency: 1,
            queue_max: 0,
            success_ttl: Duration::from_secs(24 * 3600),
            failure_ttl: Duration::from_secs(24 * 3600),
        });
        let hash = Arc::from(bcrypt::hash("right", 4).expect("hashed"));
        let (right, wrong) = (SecretString::from("right"), SecretString::from("wrong"));
        let running = Arc::clone(&checks.running).try_acquire_owned().expect("nothing runs yet");
        assert_eq!(checks.matches("eve", &right, &hash, 4).await, None);
        drop(running);
        assert_eq!(checks.matches("eve", &right, &hash, 4).await, Some(true));
        assert_eq!(checks.matches("eve", &wrong, &hash, 4).await, Some(false));
        let _running = Arc::clone(&checks.running).try_acquire_owned().expect("both have ended");
        assert_eq!(checks.matches("eve", &right, &hash, 4).await, Some(true), "what is known needs no turn");
        assert_eq!(checks.matches("eve", &wrong, &hash, 4).await, Some(false));
    }
}
