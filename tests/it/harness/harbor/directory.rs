//! The LDAP directory that nodes ask about their directory users, and its faults.

use std::sync::Arc;

use tokio::sync::watch;

/// What the directory does with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum DirectoryState {
    #[default]
    Up,
    /// Nobody listens: core knows at once that it cannot know.
    Refuses,
    /// Accepts and never says a word: core waits, and so does everybody who waits for core.
    Hangs,
}

/// One directory, which several nodes may ask.
#[derive(Debug, Clone)]
pub(crate) struct Directory(Arc<watch::Sender<DirectoryState>>);

impl Default for Directory {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(DirectoryState::Up)))
    }
}

impl Directory {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn set(&self, state: DirectoryState) {
        self.0.send_replace(state);
    }

    /// Whether it can be asked now. While it hangs this does not come back.
    pub(super) async fn reach(&self) -> bool {
        let mut state = self.0.subscribe();
        let state = state.wait_for(|state| *state != DirectoryState::Hangs).await;
        state.is_ok_and(|state| *state == DirectoryState::Up)
    }
}
