//! The token endpoint and the client tokens it issues.

mod settings;

pub use settings::*;
