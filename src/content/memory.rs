//! Memory for bodies that are here as a whole: answers that are verified before they begin, and manifests on their way
//! to members. Each has its own, so that readers keep no client from pushing.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::balance::blame::ClientKey;

/// Memory is handed out in pieces of so many bytes.
const UNIT_BYTES: u64 = 1024;
/// Memory that grows is taken in steps of so many bytes.
const STEP_BYTES: u64 = 64 << 10;
/// Clients are told apart by so many places: two that share one only get less when memory is scarce.
const PLACES: usize = 256;
/// One client holds at most this part of the memory.
const CLIENT_PART: u32 = 4;
/// Of a manifest that is still to come, so many bytes are reserved at first; the whole only when they are here.
pub const FIRST_BYTES: u64 = 64 << 10;

/// Memory for answers. Where there is none, an answer is passed on as it comes.
#[derive(Debug)]
pub(super) struct AnswerMemory {
    units: Arc<Semaphore>,
    units_max: u32,
    /// Units that each network holds.
    held: Arc<[AtomicU32]>,
    places: Places,
}

/// Memory for manifests on their way in. A client waits for its turn when it holds its part, and every client waits when
/// there is none left.
#[derive(Debug)]
pub struct ManifestMemory {
    /// For the first bytes of each. Apart from the rest, so that no client that holds some waits for more of the same.
    first: Fair,
    whole: Fair,
}

/// A budget of which each network and each account holds at most its part.
#[derive(Debug)]
struct Fair {
    units: Arc<Semaphore>,
    part: u32,
    networks: Box<[Arc<Semaphore>]>,
    subjects: Box<[Arc<Semaphore>]>,
    places: Places,
}

/// Where a client is counted.
#[derive(Debug, Default)]
struct Places(RandomState);

impl Places {
    fn of(&self, key: u64) -> usize {
        usize::try_from(self.0.hash_one(key) % PLACES as u64).unwrap_or(0)
    }
}

/// Memory for an answer, given back when the last of its bytes has gone out.
#[derive(Debug)]
pub(super) struct AnswerReservation {
    _units: OwnedSemaphorePermit,
    number: u32,
    held: Arc<[AtomicU32]>,
    place: usize,
}

impl AnswerReservation {
    /// The same bytes, which hold the memory until the last of them has gone out.
    pub(super) fn hold(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(HeldBytes { bytes, _memory: self })
    }
}

/// Bytes whose memory is given back when the last of them has gone out, also those that wait in a connection for a slow
/// client.
struct HeldBytes {
    bytes: Bytes,
    _memory: AnswerReservation,
}

impl AsRef<[u8]> for HeldBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Memory for answers of members that are read whole, which grows as they come.
pub struct GrowingReservation<'a> {
    memory: &'a AnswerMemory,
    client: ClientKey,
    parts: Vec<AnswerReservation>,
    /// What is taken and not used yet.
    left: u64,
}

impl<'a> GrowingReservation<'a> {
    pub(super) fn new(memory: &'a AnswerMemory, client: ClientKey) -> Self {
        Self { memory, client, parts: Vec::new(), left: 0 }
    }

    /// Takes so many bytes more. `false` where there is no memory for them.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let bytes = bytes as u64;
        if bytes > self.left {
            // In steps, so that small pieces are not rounded up one by one.
            let step = (bytes - self.left).max(STEP_BYTES);
            let Some(part) = self.memory.reserve(step, self.client) else { return false };
            self.parts.push(part);
            self.left += step;
        }
        self.left -= bytes;
        true
    }
}

impl Drop for AnswerReservation {
    fn drop(&mut self) {
        self.held[self.place].fetch_sub(self.number, Ordering::Relaxed);
    }
}

/// Memory for a manifest.
#[derive(Debug)]
pub struct ManifestReservation {
    _units: OwnedSemaphorePermit,
    _of_network: OwnedSemaphorePermit,
    _of_subject: Option<OwnedSemaphorePermit>,
}

fn units_of(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
}

impl AnswerMemory {
    pub(super) fn new(bytes_max: u64) -> Self {
        let units_max = units_of(bytes_max);
        Self {
            units: semaphore(units_max),
            units_max,
            held: (0..PLACES).map(|_| AtomicU32::new(0)).collect(),
            places: Places::default(),
        }
    }

    /// Memory for so many bytes, if there is any left; when less than half is left, not for a network that holds its
    /// part already.
    pub(super) fn reserve(&self, bytes: u64, client: ClientKey) -> Option<AnswerReservation> {
        let (number, place) = (units_of(bytes), self.places.of(client.network));
        let is_scarce = self.units.available_permits() < self.units_max as usize / 2;
        let held = self.held[place].load(Ordering::Relaxed);
        if is_scarce && held.saturating_add(number) > self.units_max / CLIENT_PART {
            return None;
        }
        let units = Arc::clone(&self.units).try_acquire_many_owned(number).ok()?;
        self.held[place].fetch_add(number, Ordering::Relaxed);
        Some(AnswerReservation { _units: units, number, held: Arc::clone(&self.held), place })
    }
}

impl ManifestMemory {
    pub(super) fn new(bytes_max: u64) -> Self {
        let first = bytes_max / 4;
        Self { first: Fair::new(first), whole: Fair::new(bytes_max - first) }
    }

    /// Waits for memory for the first [`FIRST_BYTES`] of a manifest.
    pub async fn first(&self, client: ClientKey) -> Option<ManifestReservation> {
        self.first.reserve(FIRST_BYTES, client).await
    }

    /// Waits for memory for a manifest of so many bytes.
    pub async fn whole(&self, bytes: u64, client: ClientKey) -> Option<ManifestReservation> {
        self.whole.reserve(bytes, client).await
    }
}

impl Fair {
    fn new(bytes_max: u64) -> Self {
        let units_max = units_of(bytes_max);
        let part = (units_max / CLIENT_PART).max(1);
        let places = || (0..PLACES).map(|_| semaphore(part)).collect();
        Self {
            units: semaphore(units_max),
            part,
            networks: places(),
            subjects: places(),
            places: Places::default(),
        }
    }

    /// Waits for so many bytes; a manifest that is larger than a client's part takes the whole part. `None` never
    /// comes, since the budget is never closed.
    async fn reserve(&self, bytes: u64, client: ClientKey) -> Option<ManifestReservation> {
        let number = units_of(bytes).min(self.part);
        let take = async |units: &Arc<Semaphore>| Arc::clone(units).acquire_many_owned(number).await.ok();
        // The client's own first: one that waits for it keeps no other waiting.
        let of_network = take(&self.networks[self.places.of(client.network)]).await?;
        let of_subject = match client.subject {
            Some(subject) => Some(take(&self.subjects[self.places.of(subject)]).await?),
            None => None,
        };
        let units = take(&self.units).await?;
        Some(ManifestReservation { _units: units, _of_network: of_network, _of_subject: of_subject })
    }
}

fn semaphore(units: u32) -> Arc<Semaphore> {
    Arc::new(Semaphore::new((units as usize).min(Semaphore::MAX_PERMITS)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn client(network: u64, subject: u64) -> ClientKey {
        ClientKey { network, subject: Some(subject) }
    }

    #[test]
    fn answers_of_one_network_leave_room_for_others() {
        let memory = AnswerMemory::new(64 * MIB);
        let greedy: Vec<_> = std::iter::from_fn(|| memory.reserve(MIB, client(1, 1))).collect();
        assert_eq!(greedy.len(), 33, "half of it, and what was left unscarce");
        let others: Vec<_> = (2..6).filter_map(|network| memory.reserve(MIB, client(network, 1))).collect();
        assert_eq!(others.len(), 4);
        drop((greedy, others));
        assert_eq!(memory.units.available_permits(), 64 * 1024);
        assert!(memory.held.iter().all(|held| held.load(Ordering::Relaxed) == 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_with_many_large_manifests_waits_for_itself_alone() {
        let memory = ManifestMemory::new(32 * MIB);
        let waits = Duration::from_secs(1);
        let mut held = Vec::new();
        while let Ok(reserved) = timeout(waits, memory.whole(3 * MIB, client(1, 1))).await {
            held.push(reserved);
        }
        assert_eq!(held.len(), 2, "6 of the 24 MiB");
        for (other, gets) in [(client(2, 1), false), (client(1, 2), false), (client(2, 2), true)] {
            let reserved = timeout(waits, memory.whole(3 * MIB, other)).await;
            assert_eq!(reserved.is_ok(), gets, "{other:?}");
        }
        held.pop();
        assert!(timeout(waits, memory.whole(3 * MIB, client(1, 1))).await.is_ok());
        assert!(timeout(waits, memory.whole(u64::MAX, client(3, 3))).await.is_ok(), "larger than any part");
    }

    #[tokio::test(start_paused = true)]
    async fn dripping_manifests_hold_their_first_bytes_only() {
        let memory = ManifestMemory::new(32 * MIB);
        let mut held = Vec::new();
        for _ in 0..16 {
            held.push(timeout(Duration::from_secs(1), memory.first(client(1, 1))).await.expect("room"));
        }
        assert!(timeout(Duration::from_secs(1), memory.whole(4 * MIB, client(1, 1))).await.is_ok());
    }
}
