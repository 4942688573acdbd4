//! Waiting for a condition: poll it until it holds, and say what was waited for when it never comes.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

/// After this long a wait counts as hung. It says nothing about how fast anything has to be: what a test waits for comes by itself,
/// and on a busy machine it comes late. So it is one number for all, far beyond what the slowest machine takes.
pub(crate) const HANG: Duration = Duration::from_secs(120);

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Polls `condition` until it gives a value; panics with `what` when it never does.
pub(crate) async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    match try_until(&mut condition).await {
        Some(value) => value,
        None => panic!("waited {HANG:?} in vain for: {what}"),
    }
}

/// As [`until`], for callers that have more to say about the failure.
pub(crate) async fn try_until<T>(mut condition: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + HANG;
    loop {
        if let Some(value) = condition().await {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Runs `work` to its end, or panics with `what` when it hangs.
pub(crate) async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(HANG, work).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not come within {HANG:?}"),
    }
}
