//! What all answers share whose content is verified.

use std::sync::Arc;

use bytes::Bytes;

use super::memory::{AnswerMemory, GrowingReservation, ManifestMemory};
use crate::balance::blame::ClientKey;
use crate::registry::Digest;
use crate::telemetry::{ContentFault, Metrics, Unverified};
use crate::upstream::{Member, Quarantine, VerifySettings};

/// What all answers share that are verified.
#[derive(Debug)]
pub struct ContentChecks {
    hold_bytes: u64,
    /// Memory for what is held.
    pub(super) answers: AnswerMemory,
    /// Memory for manifests on their way to members.
    manifests: ManifestMemory,
    /// The members that are known to have content broken.
    pub quarantine: Quarantine,
    metrics: Arc<Metrics>,
}

impl ContentChecks {
    /// Checks by these settings.
    #[must_use]
    pub fn new(settings: &VerifySettings, metrics: Arc<Metrics>) -> Self {
        Self {
            hold_bytes: settings.hold_bytes,
            answers: AnswerMemory::new(settings.buffer_bytes_max),
            manifests: ManifestMemory::new(settings.manifest_buffer_bytes_max),
            quarantine: Quarantine::new(settings),
            metrics,
        }
    }

    /// Content of at most so many bytes is read and verified before its answer begins, and so much is read away at most
    /// where a member sends more than was asked for.
    #[must_use]
    pub fn hold_bytes(&self) -> u64 {
        self.hold_bytes
    }

    /// Memory for manifests on their way to members.
    #[must_use]
    pub fn manifests(&self) -> &ManifestMemory {
        &self.manifests
    }

    /// Memory for answers of members that are read whole for a client, which grows as they come.
    #[must_use]
    pub fn growing(&self, client: ClientKey) -> GrowingReservation<'_> {
        GrowingReservation::new(&self.answers, client)
    }

    /// An answer that is made here, in memory that is given back when the last of it has gone out; `None` where there is
    /// none for the client.
    #[must_use]
    pub fn hold(&self, bytes: Bytes, client: ClientKey) -> Option<Bytes> {
        self.answers.reserve(bytes.len() as u64, client).map(|memory| memory.hold(bytes))
    }

    /// Content went by unverified.
    pub(super) fn count_unverified(&self, reason: Unverified) {
        self.metrics.count_unverified(reason);
    }

    /// A member sent what its digest does not stand for.
    pub(super) fn note_corrupt(&self, member: &Member, digest: &Digest) {
        self.quarantine.add(&member.name, digest);
        member.metrics.count_content_fault(ContentFault::Download);
        let (member, pool) = (member.name.as_str(), member.pool.as_str());
        tracing::error!(
            member,
            pool,
            %digest,
            "member sent content that is not what its digest says; it is asked last for it from now on. Look at its storage"
        );
    }
}
