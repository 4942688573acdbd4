//! Accepting connections: listeners, TLS, limits.

mod settings;

pub use settings::*;
