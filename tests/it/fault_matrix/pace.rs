//! How fast cases may begin: so many at once, and none while the machine itself is late. A good member on a machine that is late
//! would look like one that stalls.

use std::time::Duration;

use std::sync::Arc;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How often the machine is asked how late it is.
const TICK: Duration = Duration::from_millis(5);
/// A machine that is this late gets no further case for the time being; the shortest deadline is many times longer.
const LATE: Duration = Duration::from_millis(30);

pub(super) struct Pace {
    permits: Arc<Semaphore>,
    /// Behind a lock, so that one case begins at a time and the next sees what that one costs.
    lateness: Mutex<watch::Receiver<Duration>>,
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
        Self { permits: Arc::new(Semaphore::new(at_once)), lateness: Mutex::new(lateness), _clock: clock }
    }

    /// Waits for a turn, which lasts until it is dropped.
    pub(super) async fn turn(&self) -> OwnedSemaphorePermit {
        let permit = Arc::clone(&self.permits).acquire_owned().await.expect("never closed");
        let mut lateness = self.lateness.lock().await;
        lateness.changed().await.expect("the clock runs");
        lateness.wait_for(|late| *late < LATE).await.expect("the clock runs");
        permit
    }
}
