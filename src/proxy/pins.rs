//! Pins: sealed into the URL of an upload session, they say which member has the session and whose it is.

use crate::pin::{Pin, PinContext, PinError};
use crate::random::{nonce, unix_now};
use crate::registry::{RegistryRequest, RepositoryName};
use crate::snapshot::Snapshot;

/// Opens and seals the pins of one gateway.
#[derive(Debug, Clone)]
pub(super) struct Pins {
    /// The name of the gateway that every pin is bound to.
    pub host: String,
}

impl Pins {
    /// The pin of an upload's request; `None` for every other request.
    pub(super) fn open(&self, state: &Snapshot, target: &RegistryRequest) -> Option<Result<Pin, PinError>> {
        let RegistryRequest::Upload { repository, id, pin, .. } = target else { return None };
        let context = PinContext { host: &self.host, repository };
        Some(Pin::open(&state.seals, context, pin.as_deref(), id, unix_now()))
    }

    /// A pin as it stands in a URL; `None` where there is no seal key.
    pub(super) fn seal(&self, state: &Snapshot, repository: &RepositoryName, pin: &Pin) -> Option<String> {
        let context = PinContext { host: &self.host, repository };
        pin.seal(&state.seals, context, unix_now(), nonce())
    }
}
