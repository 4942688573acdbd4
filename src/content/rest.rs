//! The rest of some content, asked of another member.
//!
//! It is asked for by `Range` and `If-Range` (RFC 9110 13.1.5, 14.2) and taken only if its
//! `Content-Range` is exactly what is missing.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::header::{
    ACCEPT_ENCODING, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    IF_RANGE, IF_UNMODIFIED_SINCE, RANGE,
};
use http_body_util::BodyExt as _;
use tokio::time::{Instant, timeout_at};

use super::checks::ContentChecks;
use super::expected::{announced_digest, content_range, is_encoded};
use crate::attempt::{Answer, MemberBody, MemberRequest, try_member};
use crate::registry::{Digest, Reference, RegistryRequest};
use crate::upstream::{Member, MemberName, Pool, Request, RequestBody};

/// Headers that would change what is answered to a request for the rest.
const CONDITIONS: [HeaderName; 6] =
    [RANGE, IF_RANGE, IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE];

/// Before a full queue is tried again.
const TURN_PAUSE: Duration = Duration::from_millis(500);

/// Everything that is needed to ask for the rest.
pub struct Resumption {
    request: Arc<MemberRequest>,
    /// What the first member called the content; a weak one compares nothing byte by byte (RFC 9110 13.1.5).
    etag: Option<HeaderValue>,
    pub(super) checks: Arc<ContentChecks>,
}

/// What is still missing of some content.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rest {
    pub from: u64,
    pub end: Option<u64>,
    pub total: Option<u64>,
    /// Whether it is asked for although nothing has failed.
    pub is_free: bool,
}

/// A member that goes on, and where the content ends by its word.
pub(super) struct Continued {
    pub member: Arc<Member>,
    pub body: MemberBody,
    pub end: u64,
}

/// What came of asking one member for the rest.
enum RestOutcome {
    GoesOn(Box<Continued>),
    /// It was not this request's turn there in time.
    Queued,
    Failed,
}

impl Resumption {
    /// How the answer to `request` goes on, of which `answer` are the headers.
    #[must_use]
    pub fn new(request: Arc<MemberRequest>, answer: &HeaderMap, checks: Arc<ContentChecks>) -> Self {
        let etag = answer.get(ETAG).filter(|etag| etag.as_bytes().starts_with(b"\"")).cloned();
        Self { request, etag, checks }
    }

    /// What is asked of members.
    pub(super) fn request(&self) -> &MemberRequest {
        &self.request
    }

    fn pool(&self) -> &Pool {
        &self.request.pool
    }

    /// The request for the rest: by the digest that is known by now, for a tag may have moved meanwhile, and without
    /// what would change the answer.
    fn request_for(&self, digest: &Digest, rest: Rest) -> Option<MemberRequest> {
        let target = match self.request.registry()? {
            RegistryRequest::Manifest { repository, method, .. } => RegistryRequest::Manifest {
                repository: repository.clone(),
                reference: Reference::Digest(digest.clone()),
                method: *method,
            },
            target => target.clone(),
        };
        let mut headers = self.request.headers.clone();
        for name in CONDITIONS {
            headers.remove(name);
        }
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let etag = self.etag.clone().or_else(|| HeaderValue::try_from(format!("\"{digest}\"")).ok());
        if let Some(etag) = etag {
            headers.insert(IF_RANGE, etag);
        }
        let range = match rest.end {
            Some(end) => format!("bytes={}-{}", rest.from, end - 1),
            None => format!("bytes={}-", rest.from),
        };
        headers.insert(RANGE, HeaderValue::try_from(range).ok()?);
        Some(self.request.get(target, headers))
    }

    /// Asks the others for the rest, each of them once, while the pool's budget of retries lasts.
    pub(super) async fn continue_elsewhere(
        self: Arc<Self>,
        digest: Digest,
        rest: Rest,
        tried: Vec<MemberName>,
    ) -> Option<Continued> {
        let mut candidates = self.candidates(&digest);
        candidates.retain(|member| !tried.contains(&member.name));
        for member in candidates {
            if !self.pool().may_retry() {
                break;
            }
            if let RestOutcome::GoesOn(continued) = self.ask_for_rest(&member, &digest, rest).await {
                return Some(*continued);
            }
        }
        None
    }

    /// Asks any member for the rest, for as long as a client is waited for, where all that it lacks is its turn.
    pub(super) async fn continue_in_turn(self: Arc<Self>, digest: Digest, rest: Rest) -> Option<Continued> {
        let deadline = Instant::now() + self.pool().limits.body_idle_timeout;
        loop {
            let mut lacks_turn = false;
            for member in self.candidates(&digest) {
                match self.ask_for_rest(&member, &digest, rest).await {
                    RestOutcome::GoesOn(continued) => return Some(*continued),
                    RestOutcome::Queued => lacks_turn = true,
                    RestOutcome::Failed => {}
                }
            }
            if !lacks_turn || Instant::now() >= deadline {
                return None;
            }
            tokio::time::sleep(TURN_PAUSE).await;
        }
    }

    /// The members to read the content from, in the order to ask them in.
    fn candidates(&self, digest: &Digest) -> Vec<Arc<Member>> {
        self.pool().candidates(Request {
            choice: self.pool().choice_by(digest.as_str()),
            reads: true,
            content: Some((&self.checks.quarantine, digest)),
        })
    }

    async fn ask_for_rest(&self, member: &Arc<Member>, digest: &Digest, rest: Rest) -> RestOutcome {
        let Some(request) = self.request_for(digest, rest) else { return RestOutcome::Failed };
        let patience = request.patience();
        let patience = if rest.is_free { patience.head } else { patience.attempt };
        let deadline = Instant::now() + patience;
        let request_id = &*self.request.id;
        let answer = match try_member(&request, member, RequestBody::Empty, deadline).await {
            Ok(answer) => answer,
            Err(failed) => {
                let error = failed.error;
                tracing::debug!(request_id, member = member.name.as_str(), %error, "it does not go on there");
                return if error.is_queue() { RestOutcome::Queued } else { RestOutcome::Failed };
            }
        };
        let status = answer.head.status;
        match self.continued(answer, digest, rest, deadline).await {
            Some(continued) => RestOutcome::GoesOn(Box::new(continued)),
            None => {
                tracing::debug!(request_id, member = member.name.as_str(), %status, "its answer is not the rest");
                RestOutcome::Failed
            }
        }
    }

    /// So many bytes are read away at most. Stock registries know no parts of manifests.
    fn skip_max(&self) -> u64 {
        let hold = self.checks.hold_bytes();
        match self.request.registry() {
            Some(RegistryRequest::Manifest { .. }) => hold.max(self.pool().limits.manifest_bytes_max as u64),
            _ => hold,
        }
    }

    /// The answer as the rest, if it is exactly that.
    async fn continued(
        &self,
        answer: Answer,
        digest: &Digest,
        rest: Rest,
        deadline: Instant,
    ) -> Option<Continued> {
        let Answer { member, head, mut body, .. } = answer;
        let other = announced_digest(&head.headers)
            .is_some_and(|said| said.algorithm() == digest.algorithm() && said != *digest);
        if is_encoded(&head.headers) || other {
            return None;
        }
        let agrees = |total: Option<u64>| match (total, rest.total) {
            (Some(said), Some(known)) => said == known,
            _ => true,
        };
        match head.status {
            StatusCode::PARTIAL_CONTENT => {
                let (start, end, total) = content_range(&head.headers)?;
                let is_rest = start == rest.from
                    && agrees(total)
                    && rest.end.or(total).is_some_and(|wanted| wanted == end)
                    && body.remaining().is_none_or(|length| length == end - start);
                is_rest.then_some(Continued { member, body, end })
            }
            // It knows no ranges. What the client has is read away, if it is not much.
            StatusCode::OK if rest.from <= self.skip_max() => {
                let length = body.remaining()?;
                if !agrees(Some(length)) || rest.end.is_some_and(|end| end != length) || length <= rest.from {
                    return None;
                }
                timeout_at(deadline, skip(&mut body, rest.from)).await.ok()??;
                Some(Continued { member, body, end: length })
            }
            _ => None,
        }
    }
}

/// Reads the first bytes of a body away.
async fn skip(body: &mut MemberBody, bytes: u64) -> Option<()> {
    let mut left = bytes;
    while left > 0 {
        let mut data = body.frame().await?.ok()?.into_data().ok()?;
        let unwanted = usize::try_from(left).unwrap_or(usize::MAX).min(data.len());
        let rest = data.split_off(unwanted);
        left -= unwanted as u64;
        if !rest.is_empty() {
            body.put_back(rest);
        }
    }
    Some(())
}
