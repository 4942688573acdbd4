//! Which member serves a request: health as a state machine, load, and the order of candidates. Pure.

pub mod blame;
pub mod budget;
pub mod ejection;
pub mod fair;
pub mod health;
mod latency;
mod order;
mod rendezvous;

pub use latency::PeakEwma;
pub use order::{Choice, PANIC_PERCENT, Seen, Standing, Tier, order};
pub use rendezvous::{key_hash, rendezvous};

#[cfg(test)]
mod simulation;
