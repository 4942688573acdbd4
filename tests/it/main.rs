//! The integration tests: Tidegate in front of real registries, used by real clients. One binary; one file per behaviour.

mod check;
mod clients;
mod harness;
mod keys;
mod members;
mod uploads;
