//! What can be set of client tokens and upload pins.

use std::path::PathBuf;
use std::time::Duration;

use crate::auth::keys::Algorithm;

/// Client tokens and the keys behind them.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenSettings {
    /// The `service` of challenges and the `aud` of client tokens.
    pub service: String,
    /// The `iss` of client tokens.
    pub issuer: String,
    /// What signs client tokens.
    pub algorithm: Algorithm,
    /// The lifetime announced to clients, at least 60 s.
    pub lifetime: Duration,
    /// How much later a token really ends, for clients without a safety margin and for clocks apart.
    pub expiry_margin: Duration,
    /// Directory of the key ring.
    pub keys: PathBuf,
    /// How long a new key is only published before it signs.
    pub activate_after: Duration,
    /// How many gateways share the keys; keys are made by themselves only with 1.
    pub replicas: u32,
    /// How many verified and minted tokens are remembered.
    pub cache_entries_max: u64,
}

/// Upload pins.
#[derive(Debug, Clone, PartialEq)]
pub struct UploadSettings {
    /// Directory of the seal keys.
    pub seal_keys: PathBuf,
    /// How long an upload session may go on after its start, also past its bearer's end.
    pub grace: Duration,
    /// How many open sessions are counted for the metrics.
    pub tracked_max: usize,
}
