//! The members: connections, health, credentials.

mod name;
mod settings;

pub use name::{InvalidName, MemberName, PoolName};
pub use settings::*;
