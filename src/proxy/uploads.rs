//! Which upload sessions this gateway opened and has not seen end, for the metrics alone: what a
//! session may do is decided by its pin.

use std::sync::Arc;

use dashmap::DashMap;

use crate::registry::UploadId;
use crate::telemetry::{Metrics, PinEvent};

/// Sessions that were opened here, by the member's id, with their deadlines.
#[derive(Debug)]
pub struct OpenUploads {
    sessions: DashMap<UploadId, u64>,
    tracked_max: usize,
    metrics: Arc<Metrics>,
}

impl OpenUploads {
    /// Tracks at most `tracked_max` sessions.
    #[must_use]
    pub fn new(tracked_max: usize, metrics: Arc<Metrics>) -> Self {
        Self { sessions: DashMap::new(), tracked_max, metrics }
    }

    /// A session was opened.
    pub fn opened(&self, upload: &UploadId, deadline: u64) {
        self.metrics.count_pins(PinEvent::Opened, 1);
        if self.sessions.len() < self.tracked_max {
            self.sessions.insert(upload.clone(), deadline);
        }
    }

    /// A session ended in good order.
    pub fn ended(&self, upload: &UploadId, event: PinEvent) {
        self.sessions.remove(upload);
        self.metrics.count_pins(event, 1);
    }

    /// Counts and forgets the sessions whose deadline has passed.
    pub fn sweep(&self, now: u64) {
        let before = self.sessions.len();
        self.sessions.retain(|_, deadline| *deadline > now);
        let gone = before.saturating_sub(self.sessions.len());
        if gone > 0 {
            self.metrics.count_pins(PinEvent::Abandoned, gone as u64);
        }
    }
}
