//! Randomness for ids, nonces and jitter, and the clocks: what pure modules are handed.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use tokio::time::Instant;

/// Seconds since the epoch.
#[must_use]
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Milliseconds of a clock that never goes back, for health, load and budgets.
#[must_use]
pub fn monotonic_ms() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    // From 1: 0 stands for "never" in some places.
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}

/// A new `jti`: 128 random bits.
#[must_use]
pub fn token_id() -> String {
    BASE64URL_NOPAD.encode(&rand::random::<[u8; 16]>())
}

/// A new request id: 96 random bits in hex.
#[must_use]
pub fn request_id() -> String {
    HEXLOWER.encode(&rand::random::<[u8; 12]>())
}

/// A fresh nonce.
#[must_use]
pub fn nonce() -> [u8; crate::pin::NONCE_BYTES] {
    rand::random()
}

/// A seed for choices between equals.
#[must_use]
pub fn seed() -> u64 {
    rand::random()
}

/// `time` give or take a fifth, so that what starts together drifts apart.
#[must_use]
pub fn jitter(time: Duration) -> Duration {
    time.mul_f64(rand::random_range(0.8..1.2))
}
