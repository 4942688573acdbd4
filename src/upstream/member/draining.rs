//! A member that drains gets no new work, while what runs there goes on to its end, upload sessions included.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Member, MemberState};
use crate::telemetry::GaugeGuard;

/// Counts an upload session at a member while it lives.
#[derive(Debug)]
pub struct OpenUpload {
    state: Arc<MemberState>,
    _gauge: GaugeGuard,
}

impl OpenUpload {
    /// Counts one more upload session at `member`.
    #[must_use]
    pub fn new(member: &Member) -> Self {
        member.state.open_uploads.fetch_add(1, Ordering::Relaxed);
        Self { state: Arc::clone(&member.state), _gauge: GaugeGuard::new(&member.metrics.open_uploads) }
    }
}

impl Drop for OpenUpload {
    fn drop(&mut self) {
        self.state.open_uploads.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Member {
    /// Whether it gets no new work while others can take it.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.state.draining.load(Ordering::Relaxed)
    }

    /// Upload sessions that were begun there and have not ended, as far as this process knows.
    #[must_use]
    pub fn open_uploads(&self) -> usize {
        self.state.open_uploads.load(Ordering::Relaxed)
    }

    /// Begins or ends the drain, and says so where that is a change.
    pub fn set_draining(&self, draining: bool) {
        let before = self.state.draining.swap(draining, Ordering::Relaxed);
        self.metrics.draining.set(i64::from(draining));
        let (member, pool) = (self.name.as_str(), self.pool.as_str());
        match (before, draining) {
            (false, true) => tracing::info!(member, pool, "member is draining: it gets no new work"),
            (true, false) => tracing::info!(member, pool, "member is in service again after a drain"),
            (false, false) | (true, true) => {}
        }
    }
}

/// Leaves out members that drain, as long as others of their kind remain: a plain registry beside
/// Harbor nodes cannot do the work of a node.
pub fn leave_out_draining(candidates: &mut Vec<Arc<Member>>) {
    let others = |is_node: bool| {
        let takes_over = |member: &Arc<Member>| {
            member.status().serves() && !member.is_draining() && (!is_node || member.harbor.is_some())
        };
        candidates.iter().any(takes_over)
    };
    let (any, node) = (others(false), others(true));
    candidates.retain(|member| {
        let others = if member.harbor.is_some() { node } else { any };
        !(others && member.is_draining())
    });
}
