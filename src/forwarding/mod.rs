//! Header rules in both directions, and the host names that may be used. Pure.

pub mod content_type;
mod hop;
pub mod hosts;
pub mod readable;
pub mod request;
pub mod response;
pub mod web;
