//! Who may do what: credentials in headers, challenges, tokens, keys, and policy. Pure.

pub mod challenge;
pub mod credentials;
pub mod keys;
pub mod pattern;
pub mod policy;
pub mod seal;
pub mod subject;
pub mod token;
