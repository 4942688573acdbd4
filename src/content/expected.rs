//! What the body of an answer has to be, by the request and by the answer's head.

use http::header::{CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, RANGE};
use http::{StatusCode, response};

use super::checks::ContentChecks;
use crate::attempt::MemberRequest;
use crate::forwarding::readable::text;
use crate::registry::{BlobMethod, ContentHash, Digest, ManifestMethod, Reference, RegistryRequest};
use crate::telemetry::Unverified;

/// The header by which registries say what they send or took.
const CONTENT_DIGEST: &str = "docker-content-digest";

/// What the body of an answer has to be.
#[derive(Debug)]
pub struct Content {
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

impl Content {
    /// What the answer to this request has to be; `None` where it is no content, or where nothing
    /// can be said of it.
    ///
    /// # Errors
    /// What is wrong with an answer that contradicts itself.
    pub(super) fn of(
        request: &MemberRequest,
        head: &response::Parts,
        length: Option<u64>,
        checks: &ContentChecks,
    ) -> Result<Option<Self>, &'static str> {
        let partial = match head.status {
            StatusCode::OK => false,
            StatusCode::PARTIAL_CONTENT => true,
            _ => return Ok(None),
        };
        let Some(target) = request.registry() else { return Ok(None) };
        if partial && !request.headers.contains_key(RANGE) {
            // Its client would take it for the whole (RFC 9110 15.3.7).
            return Err("it sends a part, and the whole was asked for");
        }
        let digest = match target {
            RegistryRequest::Blob { digest, method: BlobMethod::Get, .. } => Some(digest.clone()),
            RegistryRequest::Manifest { reference, method: ManifestMethod::Get, .. } => match reference {
                Reference::Digest(digest) => Some(digest.clone()),
                Reference::Tag(_) => announced_digest(&head.headers),
            },
            _ => return Ok(None),
        };
        let Some(digest) = digest else {
            checks.count_unverified(Unverified::Algorithm);
            return Ok(None);
        };
        if is_encoded(&head.headers) {
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

/// Whether a body is not the bytes as they are, which are what is asked for.
pub(super) fn is_encoded(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity")
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
