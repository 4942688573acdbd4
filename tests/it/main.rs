//! The integration tests: Tidegate in front of real registries, used by real clients. One binary; one file per behaviour.

mod chaos;
mod check;
mod clients;
mod command_line;
mod control;
mod doctor;
mod drain;
mod edge;
mod failover;
mod fault_matrix;
mod harbor;
mod harbor_contract;
mod harness;
mod keys;
mod large_blobs;
mod lifecycle;
mod members;
mod observability;
mod protocol;
mod reload;
mod reload_members;
mod replicated;
mod systemd;
mod tokens_v3;
mod upgrade;
mod uploads;
