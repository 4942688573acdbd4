//! What one client does must not reach what it may not, nor keep the others from their work.

mod answers;
mod blame;
mod forms;
mod memory;
mod patience;
mod shares;
mod uploads;

use crate::harness::gateway::Gateway;

/// How often a member was ejected, over all members whose name has this label.
async fn ejections(gateway: &Gateway, labels: &[&str]) -> f64 {
    gateway.metrics().await.sum("tidegate_member_ejections_total", labels)
}
