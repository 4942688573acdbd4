//! Whether a member took what it was sent: uploads are hashed on their way, and a member that
//! acknowledges anything else is reported and not believed.
//!
//! The hash of a session lives here from its start to its end, between its requests. Where that is
//! not all of it (another gateway, a restart, a chunk that was cut off, more sessions at once than are
//! remembered) nothing can be said, which is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::StatusCode;
use http::header::{CONTENT_RANGE, HeaderMap, RANGE};
use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::expected::{announced_digest, is_schema1};
use super::settle::Settled;
use crate::attempt::MemberError;
use crate::forwarding::readable::text;
use crate::forwarding::response::{MemberLocation, member_location};
use crate::random::monotonic_ms;
use crate::registry::{
    ContentHash, Digest, ManifestMethod, Reference, RegistryRequest, UploadId, UploadMethod,
};
use crate::telemetry::{ContentFault, Metrics, Unverified};
use crate::upstream::RequestBody;

/// Between two warnings that sessions were forgotten, in milliseconds.
const WARN_EVERY_MS: u64 = 60_000;

/// The hashes of sessions between their requests. Beyond their number the one that rests longest is forgotten.
#[derive(Debug)]
pub struct UploadChecks {
    sessions: Cache<UploadId, ContentHash>,
    metrics: Arc<Metrics>,
}

/// What a request says and what its bytes are.
pub struct SentContent {
    /// Complete already, for a body that is here as a whole.
    whole: Vec<ContentHash>,
    /// Whether the hashes are in the body that streams.
    streams: bool,
}

impl UploadChecks {
    /// Remembers at most `sessions_max` sessions, for their grace.
    #[must_use]
    pub fn new(sessions_max: usize, grace: Duration, metrics: Arc<Metrics>) -> Self {
        let (warned_ms, counted) = (AtomicU64::new(0), Arc::clone(&metrics));
        let forgotten = move |_: Arc<UploadId>, _: ContentHash, cause: RemovalCause| {
            if cause != RemovalCause::Size {
                return;
            }
            counted.upload_hashes_evicted.inc();
            let (now, last) = (monotonic_ms(), warned_ms.load(Ordering::Relaxed));
            if last == 0 || now.saturating_sub(last) >= WARN_EVERY_MS {
                warned_ms.store(now, Ordering::Relaxed);
                tracing::warn!(
                    sessions_max,
                    "more uploads are open than are remembered: what the oldest of them end with is not verified; raise `uploads.tracked_max`"
                );
            }
        };
        let sessions = Cache::builder()
            .max_capacity(sessions_max as u64)
            .time_to_live(grace)
            .eviction_policy(EvictionPolicy::lru())
            .eviction_listener(forgotten)
            .build();
        Self { sessions, metrics }
    }

    /// Forgets the sessions whose time is over.
    pub fn sweep(&self) {
        self.sessions.run_pending_tasks();
    }

    /// A session has ended, or is unknown to its member.
    pub fn ended(&self, id: &UploadId) {
        self.sessions.invalidate(id);
    }

    /// How many sessions are remembered.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.sessions.run_pending_tasks();
        self.sessions.entry_count()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Prepares the hashes of a request's body, which begins at `offset` of its upload as far as the client's pin says.
    /// `None` where nothing can be said afterwards.
    pub fn begin(
        &self,
        target: &RegistryRequest,
        headers: &HeaderMap,
        body: &RequestBody,
        offset: Option<u64>,
    ) -> Option<SentContent> {
        let mut hashes = match target {
            RegistryRequest::Manifest { method: ManifestMethod::Put, .. } if is_schema1(headers) => {
                return None;
            }
            RegistryRequest::Manifest { reference, method: ManifestMethod::Put, .. } => {
                let digest = if let Reference::Digest(digest) = reference { Some(digest) } else { None };
                fresh(digest)
            }
            RegistryRequest::UploadStart { digest: Some(digest), mount: None, .. } => fresh(Some(digest)),
            RegistryRequest::Upload { id, method: UploadMethod::Patch, .. } => {
                vec![self.resume(id, headers, offset)?]
            }
            RegistryRequest::Upload { id, method: UploadMethod::Put { digest }, .. } => {
                let known = self.resume(id, headers, offset)?;
                if known.bytes() == 0 { fresh(Some(digest)) } else { vec![known] }
            }
            _ => return None,
        };
        match body {
            RequestBody::Stream { progress, .. } => {
                progress.set_hashes(hashes);
                Some(SentContent { whole: Vec::new(), streams: true })
            }
            RequestBody::Whole(bytes) => {
                let bytes = bytes.as_deref().unwrap_or_default();
                hashes.iter_mut().for_each(|hash| hash.update(bytes));
                Some(SentContent { whole: hashes, streams: false })
            }
            RequestBody::Empty => Some(SentContent { whole: hashes, streams: false }),
        }
    }

    /// The hash of a session's bytes so far, if it has all that the member has, by the client's pin,
    /// and the next ones follow on them.
    fn resume(&self, id: &UploadId, headers: &HeaderMap, offset: Option<u64>) -> Option<ContentHash> {
        let hash = self.sessions.remove(id)?;
        if offset != Some(hash.bytes()) {
            return None;
        }
        let from = headers.get(CONTENT_RANGE).map(text);
        let follows = match from {
            None => true,
            Some(range) => {
                let first = range.strip_prefix("bytes ").unwrap_or(range).split('-').next();
                first.and_then(|first| first.trim().parse().ok()) == Some(hash.bytes())
            }
        };
        follows.then_some(hash)
    }

    fn keep(&self, id: &UploadId, hash: ContentHash) {
        self.sessions.insert(id.clone(), hash);
    }
}

/// A hash as all registries name content, and one as this content is named.
fn fresh(digest: Option<&Digest>) -> Vec<ContentHash> {
    let canonical = ContentHash::sha256();
    let named = digest.filter(|digest| !canonical.is_like(digest)).and_then(ContentHash::like);
    std::iter::once(canonical).chain(named).collect()
}

impl UploadChecks {
    /// Compares what a member acknowledges with what it was sent.
    ///
    /// # Errors
    /// When it acknowledges something else.
    pub fn compare(
        &self,
        target: &RegistryRequest,
        sent: Option<SentContent>,
        settled: &Settled,
    ) -> Result<(), MemberError> {
        let status = settled.head.status;
        if let RegistryRequest::UploadStart { digest: None, .. } = target {
            // A registry may take the body of this request for the first part.
            if status == StatusCode::ACCEPTED
                && settled.progress.is_none()
                && let Some(MemberLocation::Upload(upload)) = member_location(&settled.head.headers)
                && let RegistryRequest::Upload { id, .. } = *upload
            {
                self.keep(&id, ContentHash::sha256());
            }
            return Ok(());
        }
        let is_upload = matches!(
            target,
            RegistryRequest::UploadStart { .. }
                | RegistryRequest::Upload { method: UploadMethod::Patch | UploadMethod::Put { .. }, .. }
                | RegistryRequest::Manifest { method: ManifestMethod::Put, .. }
        );
        if !is_upload {
            return Ok(());
        }
        let hashes = match (sent, &settled.progress) {
            (Some(SentContent { streams: true, .. }), Some(progress)) => progress.take_hashes(),
            (Some(sent), _) => sent.whole,
            (None, _) => Vec::new(),
        };
        match target {
            RegistryRequest::Upload { id, method: UploadMethod::Patch, .. } => {
                if let (StatusCode::ACCEPTED, Some(hash)) = (status, hashes.into_iter().next()) {
                    self.keep_after_chunk(id, hash, &settled.head.headers);
                }
                Ok(())
            }
            _ if status != StatusCode::CREATED => Ok(()),
            _ => self.check_acknowledged(target, &hashes, settled),
        }
    }

    /// The member says how many bytes it has; only if they are all is the hash of any use.
    fn keep_after_chunk(&self, id: &UploadId, hash: ContentHash, headers: &HeaderMap) {
        let has_all = received(headers) == Some(hash.bytes());
        let renamed = match member_location(headers) {
            Some(MemberLocation::Upload(upload)) => match *upload {
                RegistryRequest::Upload { id, .. } => Some(id),
                _ => None,
            },
            _ => None,
        };
        if has_all {
            self.keep(renamed.as_ref().unwrap_or(id), hash);
        }
    }

    fn check_acknowledged(
        &self,
        target: &RegistryRequest,
        hashes: &[ContentHash],
        settled: &Settled,
    ) -> Result<(), MemberError> {
        if hashes.is_empty() {
            self.metrics.count_unverified(Unverified::Parts);
            return Ok(());
        }
        let asked = match target.reference() {
            Some(Reference::Digest(digest)) => Some(digest),
            Some(Reference::Tag(_)) | None => None,
        };
        let acknowledged = announced_digest(&settled.head.headers);
        let is_wrong = |digest: &Digest| {
            let mut like = hashes.iter().filter(|hash| hash.is_like(digest)).peekable();
            like.peek().is_some() && !like.any(|hash| hash.is(digest))
        };
        let wrong = [asked, acknowledged].into_iter().flatten().find(|digest| is_wrong(digest));
        let Some(wrong) = wrong else { return Ok(()) };
        let member = &settled.member;
        member.metrics.count_content_fault(ContentFault::Upload);
        let sent = hashes.first().map(ContentHash::text).unwrap_or_default();
        tracing::error!(
            member = member.name.as_str(),
            pool = member.pool.as_str(),
            acknowledged = %wrong,
            sent,
            "member acknowledged an upload that is not what it was sent; the client was told that it failed. Look at its storage"
        );
        Err(MemberError::BadAnswer {
            member: member.name.clone(),
            problem: "it acknowledges content that it was not sent",
        })
    }
}

/// How many bytes of an upload a member says that it has (`Range: 0-LAST`). With none it says `0-0`
/// too, so that one byte and none cannot be told apart.
#[must_use]
pub fn received(headers: &HeaderMap) -> Option<u64> {
    let (first, last) = text(headers.get(RANGE)?).rsplit_once('-')?;
    let last: u64 = last.parse().ok()?;
    (first.trim_start_matches("bytes=") == "0" && last > 0).then(|| last.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upload(id: &str) -> UploadId {
        UploadId::try_from(id).expect("an id")
    }

    fn checks(sessions_max: usize) -> UploadChecks {
        UploadChecks::new(sessions_max, Duration::from_secs(100), Metrics::new().expect("metrics"))
    }

    #[test]
    fn a_session_goes_on_only_where_its_bytes_ended() {
        let checks = checks(2);
        let mut hash = ContentHash::sha256();
        hash.update(b"12345");
        for (range, expected) in [
            (None, true),
            (Some("5-9"), true),
            (Some("bytes 5-9/10"), true),
            (Some("4-9"), false),
            (Some("x"), false),
        ] {
            checks.keep(&upload("u"), hash.clone());
            let mut headers = HeaderMap::new();
            if let Some(range) = range {
                headers.insert(CONTENT_RANGE, range.parse().expect("a value"));
            }
            assert_eq!(checks.resume(&upload("u"), &headers, Some(5)).is_some(), expected, "{range:?}");
            assert!(checks.resume(&upload("u"), &headers, Some(5)).is_none(), "it is taken once");
        }
        // Another gateway has sent a part of it meanwhile, or that is not known.
        for offset in [Some(9), Some(0), None] {
            checks.keep(&upload("u"), hash.clone());
            assert!(checks.resume(&upload("u"), &HeaderMap::new(), offset).is_none(), "{offset:?}");
        }
    }

    #[test]
    fn the_session_that_rests_longest_makes_room_and_one_that_ended_is_gone() {
        let metrics = Metrics::new().expect("metrics");
        let checks = UploadChecks::new(2, Duration::from_secs(100), Arc::clone(&metrics));
        for name in ["a", "b", "c"] {
            checks.keep(&upload(name), ContentHash::sha256());
            checks.sweep();
        }
        assert_eq!((checks.len(), metrics.upload_hashes_evicted.get()), (2, 1));
        assert!(checks.resume(&upload("a"), &HeaderMap::new(), Some(0)).is_none());
        assert!(checks.resume(&upload("c"), &HeaderMap::new(), Some(0)).is_some());
        checks.ended(&upload("b"));
        assert!(checks.is_empty());
        assert_eq!(metrics.upload_hashes_evicted.get(), 1, "an end is no eviction");
    }
}
