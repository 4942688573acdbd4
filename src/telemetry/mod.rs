//! Logs, metrics and the access log.

mod settings;

pub use settings::*;
