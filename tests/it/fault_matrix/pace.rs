//! How fast cases may begin: so many at once, and none while the machine itself is late. A good member on a machine that is late
//! would look like one that stalls.

use std::time::Duration;

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How often the machine is asked how late it is.
const TICK: Duration = Duration::from_millis(5);
/// A machine that is this late gets no further case for the time being; the shortest deadline is many times longer.
const LATE: Duration = Duration::from_millis(60);

pub(super) struct Pace {
    permits: Arc<Semaphore>,
    lateness: watch::Receiver<Duration>,
    _clock: JoinSet<()>,
}

impl Pace {
    pub(super) fn start(at_once: usize) -> Self {
        let (tell, lateness) = watch::channel(Duration::ZERO);
        let mut clock = JoinSet::new();
        clock.spawn(async move {
            loop {
                let due = Instant::now() + TICK;
                tokio::time::sleep_until(due).await;
                tell.send_replace(due.elapsed());
            }
        });
        Self { permits: Arc::new(Semaphore::new(at_once)), lateness, _clock: clock }
    }

    /// Waits for a turn, which lasts until it is dropped.
    pub(super) async fn turn(&self) -> OwnedSemaphorePermit {
        let permit = Arc::clone(&self.permits).acquire_owned().await.expect("never closed");
        let mut lateness = self.lateness.clone();
        lateness.wait_for(|late| *late < LATE).await.expect("the clock runs");
        permit
    }
}
