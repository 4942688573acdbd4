//! What one node is made of and remembers: its keys, its secrets, its locks, its faults, and what it was asked.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use jiff::Timestamp;
use tokio::time::Instant;

use super::HarborVersion;
use super::behind::{Behind, Drains};
use super::database::HarborDatabase;
use super::directory::Directory;
use super::keys::NodeKeys;
use super::redis::HarborRedis;

/// One request as it arrived at the node's nginx, with the status it was answered; 0 while it has none.
#[derive(Debug, Clone)]
pub(crate) struct SeenRequest {
    pub(crate) method: String,
    /// Path and query as they arrived.
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) status: u16,
}

impl SeenRequest {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The target without its query.
    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
}

/// What is wrong with the node now.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Faults {
    pub(super) core_gone: bool,
    pub(super) database_gone: bool,
    pub(super) redis_gone: bool,
    pub(super) registry_gone: bool,
    pub(super) jobservice_gone: bool,
    pub(super) token_delay: Duration,
    /// Seconds that this node's clock is ahead.
    pub(super) clock_offset: i64,
}

/// The state of a node, shared by everything that answers for it.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) version: HarborVersion,
    pub(super) database: HarborDatabase,
    pub(super) redis: HarborRedis,
    pub(super) directory: Directory,
    pub(super) keys: NodeKeys,
    pub(super) behind: Behind,
    /// `EXT_ENDPOINT`, without a slash at its end.
    pub(super) endpoint: String,
    /// Host and port of `CORE_URL`.
    pub(super) core_authority: String,
    pub(super) csrf_key: String,
    pub(super) harbor_secret: String,
    pub(super) portal_build: String,
    pub(super) drains: Drains,
    pub(super) memory: Memory,
}

/// What changes.
#[derive(Debug, Default)]
pub(super) struct Memory {
    faults: Mutex<Faults>,
    locks: Mutex<HashMap<String, Instant>>,
    seen: Mutex<(u64, Vec<(u64, SeenRequest)>)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Node {
    pub(super) fn faults(&self) -> Faults {
        *lock(&self.memory.faults)
    }

    pub(super) fn change_faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut lock(&self.memory.faults));
    }

    pub(super) fn is_locked(&self, typed: &str) -> bool {
        lock(&self.memory.locks).get(typed).is_some_and(|until| Instant::now() < *until)
    }

    pub(super) fn lock(&self, typed: &str, until: Instant) {
        lock(&self.memory.locks).insert(typed.to_owned(), until);
    }

    /// What does not outlive the process of core.
    pub(super) fn forget(&self) {
        lock(&self.memory.locks).clear();
    }

    pub(super) fn unix_now_exact(&self) -> f64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "an offset of seconds is small")]
        let offset = self.faults().clock_offset as f64;
        now + offset
    }

    pub(super) fn unix_now(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_secs();
        now.saturating_add_signed(self.faults().clock_offset)
    }

    /// The time `seconds` from now, as cookies have it.
    pub(super) fn http_date(&self, seconds: u64) -> String {
        let at = i64::try_from(self.unix_now() + seconds).expect("a time in range");
        let at = Timestamp::from_second(at).expect("a time in range");
        at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
    }

    /// Notes a request and returns its number, for [`Self::answered`].
    pub(super) fn saw(&self, request: SeenRequest) -> u64 {
        let mut seen = lock(&self.memory.seen);
        seen.0 += 1;
        let number = seen.0;
        seen.1.push((number, request));
        number
    }

    pub(super) fn answered(&self, number: u64, status: u16) {
        if let Some((_, request)) = lock(&self.memory.seen).1.iter_mut().find(|(known, _)| *known == number) {
            request.status = status;
        }
    }

    pub(super) fn requests(&self) -> Vec<SeenRequest> {
        lock(&self.memory.seen).1.iter().map(|(_, request)| request.clone()).collect()
    }

    pub(super) fn clear_requests(&self) {
        lock(&self.memory.seen).1.clear();
    }
}
