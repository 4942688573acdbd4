//! The right to use an account name at a node now.
//!
//! A wrong password locks its name on the node for 1.5 s, and the right one is refused meanwhile.
//! So a password that is not known to be right is tried at a node only while the name is not in use
//! there, one at a time; a request with a right one waits for that try to end, and keeps further
//! tries out. A client that goes on for ever cannot starve the others: those that wait for a turn
//! come before the next try.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dashmap::DashMap;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use super::secret::{ClientSecret, Fingerprint};

/// One gate for every name in use.
#[derive(Debug, Default)]
pub(super) struct NameGates {
    gates: DashMap<String, Arc<Gate>>,
}

#[derive(Debug, Default)]
struct Gate {
    lock: Arc<RwLock<()>>,
    /// The passwords that are in use as right ones, and how often.
    right: Mutex<HashMap<Fingerprint, usize>>,
}

/// The right to send a password of a name to a node.
#[derive(Debug)]
pub struct PasswordTurn<'a> {
    guard: Option<Guard>,
    fingerprint: Fingerprint,
    gate: Option<Arc<Gate>>,
    name: String,
    gates: &'a NameGates,
}

#[derive(Debug)]
enum Guard {
    /// The password is right; others may use it at the same time.
    #[expect(dead_code, reason = "held for what dropping it does")]
    Right(OwnedRwLockReadGuard<()>),
    /// The password may be wrong; the name is not in use meanwhile.
    #[expect(dead_code, reason = "held for what dropping it does")]
    Unproven(OwnedRwLockWriteGuard<()>),
}

impl Gate {
    fn right(&self) -> MutexGuard<'_, HashMap<Fingerprint, usize>> {
        self.right.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NameGates {
    /// Waits for the turn of a password that is known to be right.
    pub(super) async fn turn(&self, secret: &ClientSecret) -> PasswordTurn<'_> {
        // Made first: a request that gives up waiting leaves nothing behind.
        let mut turn = self.empty_turn(secret);
        let lock = turn.gate.as_ref().map(|gate| Arc::clone(&gate.lock)).unwrap_or_default();
        turn.use_as_right(lock.read_owned().await);
        turn
    }

    /// The turn of a password that may be wrong, if the name is not in use now. A password that is
    /// just being used as a right one is no guess.
    pub(super) fn try_turn(&self, secret: &ClientSecret) -> Option<PasswordTurn<'_>> {
        let mut turn = self.empty_turn(secret);
        let gate = Arc::clone(turn.gate.as_ref()?);
        if let Ok(guard) = Arc::clone(&gate.lock).try_write_owned() {
            turn.guard = Some(Guard::Unproven(guard));
            return Some(turn);
        }
        if !gate.right().contains_key(&secret.fingerprint()) {
            return None;
        }
        turn.use_as_right(Arc::clone(&gate.lock).try_read_owned().ok()?);
        Some(turn)
    }

    fn empty_turn(&self, secret: &ClientSecret) -> PasswordTurn<'_> {
        // Harbor and directories do not tell names apart by case.
        let name = secret.name().to_lowercase();
        let gate = Arc::clone(&self.gates.entry(name.clone()).or_default());
        PasswordTurn { guard: None, fingerprint: secret.fingerprint(), gate: Some(gate), name, gates: self }
    }
}

impl PasswordTurn<'_> {
    fn use_as_right(&mut self, guard: OwnedRwLockReadGuard<()>) {
        if let Some(gate) = &self.gate {
            *gate.right().entry(self.fingerprint).or_default() += 1;
        }
        self.guard = Some(Guard::Right(guard));
    }
}

impl Drop for PasswordTurn<'_> {
    fn drop(&mut self) {
        if let (Some(Guard::Right(_)), Some(gate)) = (&self.guard, &self.gate) {
            let mut right = gate.right();
            if let Some(count) = right.get_mut(&self.fingerprint) {
                *count -= 1;
                if *count == 0 {
                    right.remove(&self.fingerprint);
                }
            }
        }
        drop(self.guard.take());
        drop(self.gate.take());
        // Nothing is kept of a name that is not in use.
        self.gates.gates.remove_if(&self.name, |_, gate| Arc::strong_count(gate) == 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn secret(pair: &str) -> ClientSecret {
        ClientSecret::from_pair(pair.to_owned()).expect("a pair")
    }

    #[tokio::test]
    async fn a_guess_waits_for_nobody_and_keeps_the_right_password_out_meanwhile() {
        let gates = NameGates::default();
        let (right, guess) = (secret("ci:right"), secret("Ci:guess"));
        let first = gates.turn(&right).await;
        let second = gates.turn(&secret("CI:right")).await;
        assert!(gates.try_turn(&guess).is_none(), "the name is in use");
        assert!(gates.try_turn(&secret("other:x")).is_some(), "another name is not");
        assert!(gates.try_turn(&right).is_some(), "what is in use as right is no guess");
        drop(first);
        assert!(gates.try_turn(&guess).is_none(), "it is still in use");
        drop(second);
        let trying = gates.try_turn(&guess).expect("nobody uses the name");
        assert!(gates.try_turn(&guess).is_none(), "one try at a time");
        let turn = tokio::time::timeout(Duration::from_millis(20), gates.turn(&right)).await;
        assert!(turn.is_err(), "the right password waits for the try");
        drop(trying);
        drop(gates.turn(&right).await);
        assert!(gates.gates.is_empty(), "nothing is kept of names that nobody uses");
    }

    #[tokio::test]
    async fn whoever_waits_comes_before_the_next_guess() {
        let gates = NameGates::default();
        let (right, guess) = (secret("ci:right"), secret("ci:guess"));
        let trying = gates.try_turn(&guess).expect("nobody uses the name");
        let waiting = gates.turn(&right);
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(trying);
        assert!(gates.try_turn(&guess).is_none());
        drop(waiting.await);
        assert!(gates.try_turn(&guess).is_some());
    }
}
