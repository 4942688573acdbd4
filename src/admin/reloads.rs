//! Reloads as the control socket sees them: asked for, and what the last one refused.

use std::sync::Arc;

use arc_swap::ArcSwap;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

/// Reloads that may be asked for while one is under way.
const ASKERS_MAX: usize = 16;

/// A section of the state that keeps what was in force before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RefusedSection {
    /// Which: `configuration`, `identity`, `keys`, `revocations`, `members` or `certificates`.
    pub section: &'static str,
    /// Why.
    pub error: String,
}

impl RefusedSection {
    /// A section that was refused, and why.
    #[must_use]
    pub fn new(section: &'static str, error: &impl std::fmt::Display) -> Self {
        Self { section, error: error.to_string() }
    }
}

/// Told when the reload that was asked for has ended.
pub type ReloadAsker = oneshot::Sender<()>;

/// Asks for reloads, and knows what the last one refused.
#[derive(Debug)]
pub struct Reloads {
    asks: mpsc::Sender<ReloadAsker>,
    refused: ArcSwap<Vec<RefusedSection>>,
}

impl Reloads {
    /// With the end that the reloader listens to.
    #[must_use]
    pub fn new() -> (Arc<Self>, mpsc::Receiver<ReloadAsker>) {
        let (asks, asked) = mpsc::channel(ASKERS_MAX);
        (Arc::new(Self { asks, refused: ArcSwap::default() }), asked)
    }

    /// Notes what the last reload refused.
    pub fn note(&self, refused: Vec<RefusedSection>) {
        self.refused.store(Arc::new(refused));
    }

    /// What the last reload refused.
    #[must_use]
    pub fn refused(&self) -> Arc<Vec<RefusedSection>> {
        self.refused.load_full()
    }

    /// Reloads now, and waits for the end of it; `false` when too many wait, or the process ends.
    pub(super) async fn reload(&self) -> bool {
        let (asker, ended) = oneshot::channel();
        self.asks.try_send(asker).is_ok() && ended.await.is_ok()
    }
}
