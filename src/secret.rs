//! Secrets that never show up in `Debug` output or logs.

pub use secrecy::{ExposeSecret, SecretString};
