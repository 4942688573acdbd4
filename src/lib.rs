//! Tidegate, a registry-aware layer-7 load balancer and auth gateway.
pub mod secret;
pub mod registry;
pub mod auth;
pub mod forwarding;
pub mod pin;
pub mod key_store;
pub mod random;
pub mod balance;
pub mod routing;
pub mod snapshot;
pub mod telemetry;
pub mod server;
pub mod identity;
pub mod upstream;
pub mod token_service;
pub mod admin;
pub mod config;
