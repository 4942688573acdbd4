//! Drain: a member gets no new work while what runs there, its upload sessions included, goes on to
//! its end. Probes go on as well.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::member::{Member, MemberState};
use super::name::{MemberName, PoolName};
use super::pool::{Pool, Pools};
use crate::telemetry::GaugeGuard;

/// Why a member is not drained.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// There is no such member.
    #[error("there is no member {name:?}; the members are {members}")]
    Unknown {
        /// The name that was asked for.
        name: String,
        /// Every name there is.
        members: String,
    },
    /// Nobody else could do its work.
    #[error(
        "{member} is the last member of pool {pool} that serves and is not draining: nobody could take over its work. \
         Bring another one back first, or use --force"
    )]
    Last {
        /// The member.
        member: MemberName,
        /// Its pool.
        pool: PoolName,
    },
}

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
        member.state.open_uploads.fetch_add(1, Ordering::AcqRel);
        Self { state: Arc::clone(&member.state), _gauge: GaugeGuard::new(&member.metrics.open_uploads) }
    }
}

impl Drop for OpenUpload {
    fn drop(&mut self) {
        self.state.open_uploads.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Member {
    /// Whether it gets no new work while others can take it.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.state.draining.load(Ordering::Acquire)
    }

    /// Upload sessions that were begun there and have not ended, as far as this process knows.
    #[must_use]
    pub fn open_uploads(&self) -> usize {
        self.state.open_uploads.load(Ordering::Acquire)
    }

    /// Begins or ends the drain, and says so where that is a change.
    pub fn set_draining(&self, draining: bool) {
        let before = self.state.draining.swap(draining, Ordering::AcqRel);
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

impl Pool {
    /// Whether another member than `member` takes new work.
    fn can_spare(&self, member: &Member) -> bool {
        self.members.iter().any(|other| {
            let can_stand_in = member.harbor.is_none() || other.harbor.is_some();
            other.name != member.name && can_stand_in && other.status().serves() && !other.is_draining()
        })
    }
}

impl Pools {
    /// Begins to drain a member.
    ///
    /// # Errors
    /// [`DrainError`]; `force` is for the last member of a pool.
    pub fn drain(&self, name: &str, force: bool) -> Result<&Arc<Member>, DrainError> {
        let (pool, member) = self.named(name)?;
        let spare = pool.can_spare(member);
        if !force && !spare && !member.is_draining() && member.status().serves() {
            return Err(DrainError::Last { member: member.name.clone(), pool: member.pool.clone() });
        }
        member.set_draining(true);
        Ok(member)
    }

    /// Ends the drain of a member.
    ///
    /// # Errors
    /// [`DrainError`] when there is no such member.
    pub fn undrain(&self, name: &str) -> Result<&Arc<Member>, DrainError> {
        let (_, member) = self.named(name)?;
        member.set_draining(false);
        Ok(member)
    }

    /// A member of this name, or an error that lists all names.
    ///
    /// # Errors
    /// [`DrainError`] when there is no such member.
    pub fn named(&self, name: &str) -> Result<(&Arc<Pool>, &Arc<Member>), DrainError> {
        let placed = self.member(name).filter(|placed| !placed.retired);
        placed.map(|placed| (placed.pool, placed.member)).ok_or_else(|| {
            let members: Vec<&str> = self.members().map(|member| member.name.as_str()).collect();
            DrainError::Unknown { name: name.to_owned(), members: members.join(", ") }
        })
    }
}
