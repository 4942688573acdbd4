//! The admin listener: liveness, readiness, metrics, status.

mod settings;

pub use settings::*;
