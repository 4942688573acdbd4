//! Content on its way to a client: what an answer's bytes have to be, and small content that is
//! verified before the answer begins, so that a bad member is replaced unseen.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, HeaderMap};
use http::{StatusCode, response};
use http_body_util::BodyExt as _;
use tokio::time::{Instant, timeout};

use super::body::MemberBody;
use super::context::RequestContext;
use super::error::GatewayError;
use super::forward::{Outgoing, Target};
use super::memory::{AnswerMemory, AnswerReservation, ManifestMemory};
use super::send::Answer;
use super::window::SharedReader;
use crate::forwarding::readable::text;
use crate::registry::{BlobMethod, ContentHash, Digest, ManifestMethod, Reference, RegistryRequest};
use crate::telemetry::{ContentFault, Metrics, Unverified};
use crate::upstream::{BodyError, BodyProgress, Member, Quarantine, VerifySettings};

/// The header by which registries say what they send or took.
pub(super) const CONTENT_DIGEST: &str = "docker-content-digest";

/// What all answers share that are verified.
#[derive(Debug)]
pub struct ContentChecks {
    hold_bytes: u64,
    /// Memory for what is held.
    answers: AnswerMemory,
    /// Memory for manifests on their way to members.
    pub(super) manifests: ManifestMemory,
    /// Who is known to have which content broken.
    pub quarantine: Quarantine,
    metrics: Arc<Metrics>,
}

/// What the body of an answer has to be.
#[derive(Debug)]
pub(super) struct Content {
    /// The digest of the whole.
    pub digest: Digest,
    /// Computed as it goes by; `None` where it cannot be verified.
    pub hash: Option<ContentHash>,
    /// Where the body begins in the whole.
    pub start: u64,
    /// Where it ends; `None` where the member did not say.
    pub end: Option<u64>,
    /// How much the whole is, where it is known.
    pub total: Option<u64>,
}

/// An answer whose body is as safe as can be.
pub(super) struct Settled {
    pub member: Arc<Member>,
    pub head: response::Parts,
    pub body: SettledBody,
    /// How far the request's own body is, where it streams.
    pub progress: Option<Arc<BodyProgress>>,
}

/// The body of a [`Settled`].
pub(super) enum SettledBody {
    /// All here, and verified.
    Held(Bytes),
    /// Read together with others.
    Shared(SharedReader, Box<Content>),
    /// Still coming, with what has come already, and what it has to be.
    Content(MemberBody, VecDeque<Bytes>, Box<Content>),
    /// Still coming; nothing is known of it.
    Other(MemberBody),
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

    /// So much of content that is not wanted is read away at most.
    #[must_use]
    pub fn hold_bytes(&self) -> u64 {
        self.hold_bytes
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

impl Content {
    /// What the answer to this request has to be; `None` where it is no content, or where nothing
    /// can be said of it.
    ///
    /// # Errors
    /// What is wrong with an answer that contradicts itself.
    pub(super) fn of(
        target: Target<'_>,
        head: &response::Parts,
        length: Option<u64>,
        checks: &ContentChecks,
    ) -> Result<Option<Self>, &'static str> {
        let partial = match head.status {
            StatusCode::OK => false,
            StatusCode::PARTIAL_CONTENT => true,
            _ => return Ok(None),
        };
        let digest = match target {
            Target::Registry(RegistryRequest::Blob { digest, method: BlobMethod::Get, .. }) => {
                Some(digest.clone())
            }
            Target::Registry(RegistryRequest::Manifest {
                reference, method: ManifestMethod::Get, ..
            }) => match reference {
                Reference::Digest(digest) => Some(digest.clone()),
                Reference::Tag(_) => announced_digest(&head.headers),
            },
            _ => return Ok(None),
        };
        let Some(digest) = digest else {
            checks.count_unverified(Unverified::Algorithm);
            return Ok(None);
        };
        if head.headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
            // We asked for the bytes as they are; what came instead is of no known length.
            checks.count_unverified(Unverified::Encoding);
            return Ok(None);
        }
        if partial {
            checks.count_unverified(Unverified::Range);
            let Some((start, end, total)) = content_range(&head.headers) else {
                // Several parts in one answer are the client's to take apart (RFC 9110 14.6).
                let several = head.headers.get(CONTENT_TYPE).is_some_and(|value| {
                    let kind = text(value).split(';').next().unwrap_or("").trim();
                    kind.eq_ignore_ascii_case("multipart/byteranges")
                });
                return if several { Ok(None) } else { Err("its Content-Range is missing or no range") };
            };
            if length.is_some_and(|length| length != end - start) {
                return Err("its Content-Length is not that of its Content-Range");
            }
            return Ok(Some(Self { digest, hash: None, start, end: Some(end), total }));
        }
        let schema1 = is_schema1(&head.headers);
        let hash = ContentHash::like(&digest).filter(|_| !schema1);
        if hash.is_none() {
            checks.count_unverified(if schema1 { Unverified::Schema1 } else { Unverified::Algorithm });
        }
        Ok(Some(Self { digest, hash, start: 0, end: length, total: length }))
    }
}

impl Content {
    /// The same content, of which nothing has gone by yet.
    pub(super) fn anew(&self) -> Self {
        let digest = self.digest.clone();
        let hash = self.hash.as_ref().and_then(|_| ContentHash::like(&digest));
        Self { digest, hash, start: self.start, end: self.end, total: self.total }
    }
}

/// The digest that a member says its answer has.
pub(super) fn announced_digest(headers: &HeaderMap) -> Option<Digest> {
    Digest::try_from(text(headers.get(CONTENT_DIGEST)?)).ok()
}

/// The digest of a schema 1 manifest leaves its signatures out.
pub(super) fn is_schema1(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| text(value).starts_with("application/vnd.docker.distribution.manifest.v1+"))
}

/// `bytes FIRST-LAST/TOTAL` as first byte, byte after the last, and total (RFC 9110 14.4).
pub(super) fn content_range(headers: &HeaderMap) -> Option<(u64, u64, Option<u64>)> {
    let text = text(headers.get(CONTENT_RANGE)?).strip_prefix("bytes ")?;
    let (range, total) = text.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<u64>().ok()).flatten()
    };
    let (first, end) = (number(first)?, number(last)?.checked_add(1)?);
    let total = if total == "*" { None } else { Some(number(total)?) };
    (first < end && total.is_none_or(|total| end <= total)).then_some((first, end, total))
}

/// Looks at an answer before its head is passed on: content that is small enough is read and
/// verified here, so that what breaks, ends early or is wrong costs a try and is not seen. What
/// comes slowly is passed on as it comes.
///
/// # Errors
/// When the content is not right, so that another member may be asked.
pub(super) async fn settle(
    outgoing: &Outgoing<'_>,
    answer: Answer,
    checks: &ContentChecks,
    (more_follow, ctx): (bool, &mut RequestContext),
) -> Result<Settled, GatewayError> {
    let Answer { member, head, mut body, progress, .. } = answer;
    let content = Content::of(outgoing.target, &head, body.remaining(), checks);
    let content = content.map_err(|problem| GatewayError::BadAnswer { member: member.name.clone(), problem });
    let Some(mut content) = content? else {
        return Ok(Settled { member, head, body: SettledBody::Other(body), progress });
    };
    let length = content.end.filter(|_| content.hash.is_some() && content.start == 0);
    let memory = length
        .filter(|length| *length <= checks.hold_bytes)
        .and_then(|length| checks.answers.reserve(length, outgoing.client));
    let limits = &outgoing.pool.limits;
    let stall = if more_follow {
        limits.body_stall_timeout.min(limits.first_byte_timeout)
    } else {
        limits.body_stall_timeout
    };
    let patience = Instant::now() + limits.first_byte_timeout;
    let mut held = VecDeque::new();
    loop {
        let problem = match timeout(stall, body.frame()).await {
            Ok(None) => break,
            Ok(Some(Ok(frame))) => {
                held.extend(frame.into_data().ok());
                // The first bytes are waited for in any case: whoever has none fails unseen. What comes
                // slowly may be right, and is passed on as it comes.
                if memory.is_none() || Instant::now() >= patience {
                    let body = SettledBody::Content(body, held, Box::new(content));
                    return Ok(Settled { member, head, body, progress });
                }
                continue;
            }
            Ok(Some(Err(error))) => error.to_string(),
            Err(_) => BodyError::Idle.to_string(),
        };
        return Err(GatewayError::BrokenAnswer { member: member.name.clone(), problem });
    }
    let Some(memory) = memory else {
        let body = SettledBody::Content(body, held, Box::new(content));
        return Ok(Settled { member, head, body, progress });
    };
    let bytes = joined(held);
    let is_right = content.hash.as_mut().is_none_or(|hash| {
        hash.update(&bytes);
        hash.is(&content.digest)
    });
    if !is_right || length != Some(bytes.len() as u64) {
        checks.note_corrupt(&member, &content.digest);
        if !more_follow {
            tracing::error!(
                request_id = ctx.id.as_str(),
                digest = %content.digest,
                "no member that can be asked has this content right"
            );
        }
        return Err(GatewayError::CorruptContent { member: member.name.clone(), digest: content.digest });
    }
    checks.quarantine.remove(&member.name, &content.digest);
    ctx.decisions.verified = true;
    let held = Bytes::from_owner(HeldBytes { bytes, _memory: memory });
    Ok(Settled { member, head, body: SettledBody::Held(held), progress })
}

/// Bytes in memory that is given back when the last of them has gone out, also those that wait in a
/// connection for a slow client.
struct HeldBytes {
    bytes: Bytes,
    _memory: AnswerReservation,
}

impl AsRef<[u8]> for HeldBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn joined(mut frames: VecDeque<Bytes>) -> Bytes {
    if frames.len() < 2 {
        return frames.pop_front().unwrap_or_default();
    }
    let mut all = BytesMut::with_capacity(frames.iter().map(Bytes::len).sum());
    frames.iter().for_each(|frame| all.extend_from_slice(frame));
    all.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_strictly() {
        for (text, expected) in [
            ("bytes 0-9/10", Some((0, 10, Some(10)))),
            ("bytes 5-5/*", Some((5, 6, None))),
            ("bytes 5-4/10", None),
            ("bytes 0-10/10", None),
            ("bytes 0-9", None),
            ("bytes +0-9/10", None),
            ("bytes -9/10", None),
            ("items 0-9/10", None),
            ("bytes 0-18446744073709551615/*", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_RANGE, text.parse().expect("a value"));
            assert_eq!(content_range(&headers), expected, "{text}");
        }
    }
}
