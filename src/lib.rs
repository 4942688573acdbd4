//! Tidegate, a registry-aware layer-7 load balancer and auth gateway.
//!
//! Pure modules decide ([`registry`], [`auth`], [`balance`], [`forwarding`], [`pin`], [`routing`], [`pace`]),
//! IO modules do ([`server`], [`proxy`], [`upstream`], [`identity`], [`token_service`], [`admin`],
//! [`harbor`], [`doctor`], [`files`], [`key_store`], [`handover`], [`reload`]), and [`app`] wires them from the [`config`].

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
