//! Header rules in both directions, and the host names that may be used. Pure.

pub mod hosts;
pub mod request;
pub mod response;
pub mod web;
