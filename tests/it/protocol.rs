//! The must-honour rules of registry clients (docs/protocol.md), each shown with the real gateway in front of real registries, and
//! what the gateway refuses. Scripted members stand in only for faults that a stock registry does not have on demand.

mod challenge;
mod content;
mod cross_mount;
mod early_refusal;
mod fixture;
mod hostile;
mod http_versions;
mod listeners;
mod member_faults;
mod pins;
mod streaming;
mod token_endpoint;
mod uploads;
