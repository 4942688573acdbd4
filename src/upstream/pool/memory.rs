//! What a pool remembers beyond one request, and beyond a reload: its retry budget, where it was
//! written to, and what others took for homes that were out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use moka::sync::Cache;

use super::ejections::Ejections;
use super::stand_in::StandIns;
use crate::balance::budget::RetryBudget;
use crate::random::monotonic_ms;
use crate::registry::RepositoryName;
use crate::upstream::name::MemberName;
use crate::upstream::settings::PoolSettings;

/// The memory of one pool.
pub struct PoolMemory {
    /// [`RetryBudget`] of all its requests.
    pub(super) budget: AtomicU64,
    /// Whether it was said that every node refuses the account of the probes.
    pub(super) account_alarm: AtomicBool,
    /// Those of all pools.
    pub(super) ejections: Arc<Ejections>,
    /// Where repositories were written to lately.
    pub(super) written: Cache<RepositoryName, MemberName>,
    read_your_writes: Duration,
    /// What was written while homes were out.
    pub stand_ins: Arc<StandIns>,
}

impl PoolMemory {
    /// Of a pool that has not run before. `entries_max` bounds what is remembered of repositories.
    pub(super) fn new(settings: &PoolSettings, entries_max: u64, ejections: &Arc<Ejections>) -> Self {
        Self {
            budget: AtomicU64::new(RetryBudget::full(settings.limits.retry, monotonic_ms()).to_bits()),
            account_alarm: AtomicBool::new(false),
            ejections: Arc::clone(ejections),
            written: Cache::builder()
                .max_capacity(entries_max)
                .time_to_live(settings.read_your_writes)
                .build(),
            read_your_writes: settings.read_your_writes,
            stand_ins: Arc::new(StandIns::new(entries_max)),
        }
    }

    /// The memory of the same pool under other settings. What others took for its homes is never
    /// forgotten by a reload.
    pub(super) fn carried_over(self: &Arc<Self>, settings: &PoolSettings, entries_max: u64) -> Arc<Self> {
        if self.read_your_writes == settings.read_your_writes {
            return Arc::clone(self);
        }
        let account_alarm = AtomicBool::new(self.account_alarm.load(Ordering::Relaxed));
        Arc::new(Self {
            account_alarm,
            stand_ins: Arc::clone(&self.stand_ins),
            ..Self::new(settings, entries_max, &self.ejections)
        })
    }
}
