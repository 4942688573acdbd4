//! The parts the integration tests are made of: real registries, the real gateway, real clients, and nothing that outlives a test.

pub(crate) mod browser;
pub(crate) mod certs;
pub(crate) mod client;
pub(crate) mod clients;
pub(crate) mod config;
pub(crate) mod fake_member;
pub(crate) mod gateway;
pub(crate) mod harbor;
pub(crate) mod image;
pub(crate) mod inline_gateway;
pub(crate) mod network;
pub(crate) mod port;
pub(crate) mod process;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod raw_h2;
pub(crate) mod registry;
pub(crate) mod site;
pub(crate) mod token_server;
pub(crate) mod wait;

/// What every fallible step of a test returns; the text says which step.
pub(crate) type Result<T, E = anyhow::Error> = std::result::Result<T, E>;

/// A password or secret for one test run: 128 random bits in hexadecimal.
pub(crate) fn random_secret() -> String {
    let mut bytes = [0u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system has randomness");
    data_encoding::HEXLOWER.encode(&bytes)
}
