//! The redis behind nodes: web sessions by the value of the cookie `sid`. Nodes that share it share logins.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::harness::random_secret;

/// What a session knows.
#[derive(Debug, Clone, Default)]
pub(super) struct Session {
    pub(super) user: Option<String>,
    /// The state a login at the OpenID provider was started with.
    pub(super) oidc_state: Option<String>,
}

#[derive(Debug, Default)]
struct Data {
    sessions: HashMap<String, Session>,
    made: usize,
}

/// The shared redis of one or more nodes.
#[derive(Debug, Clone, Default)]
pub(crate) struct HarborRedis(Arc<Mutex<Data>>);

impl HarborRedis {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// How many keys of web sessions were ever made: one for each request that came without a valid `sid`.
    pub(crate) fn sessions(&self) -> usize {
        self.data().made
    }

    /// Forgets every session, as redis without persistence does when it restarts.
    pub(crate) fn flush(&self) {
        self.data().sessions.clear();
    }

    pub(super) fn session(&self, sid: &str) -> Option<Session> {
        self.data().sessions.get(sid).cloned()
    }

    pub(super) fn start(&self, session: Session) -> String {
        let sid = random_secret();
        let mut data = self.data();
        data.sessions.insert(sid.clone(), session);
        data.made += 1;
        sid
    }

    pub(super) fn update(&self, sid: &str, change: impl FnOnce(&mut Session)) {
        if let Some(session) = self.data().sessions.get_mut(sid) {
            change(session);
        }
    }

    /// Moves a session to a new key, as core does at login, so that a planted `sid` is worth nothing.
    pub(super) fn rename(&self, sid: &str, user: &str) -> String {
        let mut data = self.data();
        data.sessions.remove(sid);
        let renamed = random_secret();
        data.sessions.insert(renamed.clone(), Session { user: Some(user.to_owned()), oidc_state: None });
        renamed
    }

    pub(super) fn end(&self, sid: &str) {
        self.data().sessions.remove(sid);
    }

    fn data(&self) -> MutexGuard<'_, Data> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
