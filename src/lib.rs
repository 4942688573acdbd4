//! Tidegate, a registry-aware layer-7 load balancer and auth gateway.
//!
//! Pure modules decide ([`registry`], [`auth`], [`balance`], [`forwarding`], [`pin`], [`routing`], [`pace`], [`secret`]),
//! IO modules do, and [`app`] wires them from the [`config`]. The request path has four floors, each of which knows only
//! those below it: [`proxy`] the client, [`content`] bytes that are what their digest says, [`attempt`] one request at one
//! member, [`upstream`] the members. Beside it: [`server`] the connections of clients, [`identity`], [`harbor`] and
//! [`token_service`] who they are, [`snapshot`] and [`reload`] what is in force, [`key_store`] and [`files`] what is on
//! disk, [`admin`], [`doctor`] and [`cli`] the operator, [`handover`] the next process, [`telemetry`] logs and metrics,
//! [`random`] chance and the clock.

pub mod pace;
pub mod registry;
pub mod secret;

pub mod auth;
pub mod balance;
pub mod forwarding;
pub mod pin;
pub mod routing;

pub mod config;

pub mod random;
pub mod telemetry;

pub mod files;
pub mod identity;
pub mod key_store;
pub mod upstream;

pub mod attempt;
pub mod content;

pub mod harbor;
pub mod snapshot;
pub mod token_service;

pub mod proxy;
pub mod server;

pub mod admin;
pub mod doctor;
pub mod handover;
pub mod reload;

pub mod app;
pub mod cli;
