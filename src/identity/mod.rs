//! Who a client is: the chain of providers.

mod settings;

pub use settings::*;
