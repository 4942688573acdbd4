//! Unmodified Harbor nodes behind the gateway: nobody's account changes, and no node's token, key or lock can refuse a client.

mod account;
mod browser;
mod expiry;
mod faults;
pub(crate) mod fixture;
mod grants;
mod guesser;
mod layouts;
mod logins;
mod real_clients;
mod relay;
mod round_robin;
mod section8;
mod web;
