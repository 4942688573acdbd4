//! `tidegate doctor`: dials every member of every pool and says what would bite, each with its fix.
//!
//! Pure files judge (`reach`, `clocks`, `facts`, `verdict`), the others ask. Without write probes
//! nothing but GET reaches a member.

mod clocks;
mod facts;
mod finding;
mod node;
mod patient;
mod probes;
mod reach;
mod render;
mod spoken;
mod together;
mod trial;
mod verdict;
mod visit;

use std::time::Duration;

use futures_util::future::join_all;

pub use finding::{Check, Checkup, Code, Finding, Level, NotChecked, Report, Summary};
pub use render::{Colour, render};

use crate::forwarding::hosts::Hosts;
use crate::registry::RepositoryName;
use crate::upstream::{PoolSettings, Pools};
use patient::Patient;

/// What the doctor may do.
#[derive(Debug, Clone)]
pub struct Options {
    /// A question is answered within this, its connection included.
    pub timeout: Duration,
    /// Where write probes may write; without it there are none.
    pub write_in: Option<RepositoryName>,
}

/// Examines every member of every pool, all at once. `pools` were built of `settings`.
pub async fn examine(settings: &[PoolSettings], pools: &Pools, hosts: &Hosts, options: &Options) -> Report {
    let pools = settings.iter().enumerate().filter_map(|(at, settings)| {
        let members = &pools.get(at)?.members;
        let patients = settings.members.iter().zip(members);
        let patients =
            patients.map(|(member, built)| Patient::new(settings, member, built, hosts, options.timeout));
        Some(examine_pool(patients.collect(), options))
    });
    Report::new(join_all(pools).await.into_iter().flatten().collect())
}

async fn examine_pool(patients: Vec<Patient<'_>>, options: &Options) -> Vec<Checkup> {
    let mut visits = join_all(patients.iter().map(|patient| Box::pin(visit::visit(patient)))).await;
    together::compare(&patients, &mut visits).await;
    if let Some(repository) = &options.write_in {
        Box::pin(probes::write(&patients, &mut visits, repository)).await;
    }
    visits.into_iter().map(|visit| visit.checkup).collect()
}
