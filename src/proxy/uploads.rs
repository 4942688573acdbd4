//! Which upload sessions are open, as far as this process knows: for the metrics, and for the
//! progress of a drain. What a session may do is decided by its pin.

use std::sync::Arc;

use dashmap::DashMap;
use dashmap::mapref::multiple::RefMulti;

use crate::registry::UploadId;
use crate::telemetry::{Metrics, PinEvent};
use crate::upstream::{Member, MemberName, OpenUpload};

/// Sessions that were opened or seen here and did not end here, by the member's id.
#[derive(Debug)]
pub struct OpenUploads {
    sessions: DashMap<UploadId, Session>,
    tracked_max: usize,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Session {
    deadline: u64,
    member: MemberName,
    _at: OpenUpload,
}

impl OpenUploads {
    /// Tracks at most `tracked_max` sessions.
    #[must_use]
    pub fn new(tracked_max: usize, metrics: Arc<Metrics>) -> Self {
        Self { sessions: DashMap::new(), tracked_max, metrics }
    }

    /// A session was opened.
    pub fn opened(&self, upload: &UploadId, deadline: u64, member: &Member) {
        self.metrics.count_pins(PinEvent::Opened, 1);
        self.track(upload, deadline, member);
    }

    /// A session goes on, perhaps one that another process opened.
    pub fn seen(&self, upload: &UploadId, deadline: u64, member: &Member) {
        if !self.sessions.contains_key(upload) {
            self.track(upload, deadline, member);
        }
    }

    /// A session ended in good order.
    pub fn ended(&self, upload: &UploadId, event: PinEvent) {
        self.sessions.remove(upload);
        self.metrics.count_pins(event, 1);
    }

    /// Its member knows a session no longer.
    pub fn gone(&self, upload: &UploadId) {
        if self.sessions.remove(upload).is_some() {
            self.metrics.count_pins(PinEvent::Abandoned, 1);
        }
    }

    /// Every session: id, member and deadline, for a successor.
    #[must_use]
    pub fn list(&self) -> Vec<(String, String, u64)> {
        let entry = |session: RefMulti<'_, UploadId, Session>| {
            (session.key().as_str().to_owned(), session.member.as_str().to_owned(), session.deadline)
        };
        self.sessions.iter().map(entry).collect()
    }

    /// Counts and forgets the sessions whose deadline has passed.
    pub fn sweep(&self, now: u64) {
        let mut gone = 0;
        self.sessions.retain(|_, session| {
            let stays = session.deadline > now;
            gone += u64::from(!stays);
            stays
        });
        if gone > 0 {
            self.metrics.count_pins(PinEvent::Abandoned, gone);
        }
    }

    fn track(&self, upload: &UploadId, deadline: u64, member: &Member) {
        if self.sessions.len() < self.tracked_max {
            self.sessions.insert(
                upload.clone(),
                Session { deadline, member: member.name.clone(), _at: OpenUpload::new(member) },
            );
        }
    }
}
