//! Small content is verified before the answer begins, so that a bad member is replaced unseen.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::response;
use http_body_util::BodyExt as _;
use tokio::time::{Instant, timeout};

use super::checks::ContentChecks;
use super::expected::Content;
use crate::attempt::{Answer, MemberBody, MemberError, MemberRequest};
use crate::upstream::{BodyError, BodyProgress, Member};

/// An answer whose body is as safe as can be.
pub struct Settled {
    /// Which member's.
    pub member: Arc<Member>,
    /// Its head.
    pub head: response::Parts,
    /// Its body.
    pub body: SettledBody,
    /// How far the request's own body is, where it streams.
    pub progress: Option<Arc<BodyProgress>>,
}

/// The body of a [`Settled`].
pub enum SettledBody {
    /// All here, and verified.
    Held(Bytes),
    /// Still coming, with what it has to be.
    Content(Box<Coming>),
    /// Still coming; nothing is known of it.
    Other(Box<MemberBody>),
}

/// Content that is still coming.
pub struct Coming {
    /// What it has to be.
    pub content: Content,
    /// What has come already.
    pub held: VecDeque<Bytes>,
    /// The rest.
    pub body: MemberBody,
}

/// Looks at an answer before its head is passed on: content that is small enough is read and
/// verified here, so that what breaks, ends early or is wrong costs a try and is not seen. What
/// comes slowly is passed on as it comes.
///
/// `more_follow` is whether another member can be asked.
///
/// # Errors
/// When the content is not right, so that another member may be asked.
pub async fn settle(
    request: &MemberRequest,
    answer: Answer,
    checks: &ContentChecks,
    more_follow: bool,
) -> Result<Settled, MemberError> {
    let Answer { member, head, mut body, progress, .. } = answer;
    let content = Content::of(request, &head, body.remaining(), checks);
    let content = content.map_err(|problem| MemberError::BadAnswer { member: member.name.clone(), problem });
    let Some(mut content) = content? else {
        return Ok(Settled { member, head, body: SettledBody::Other(Box::new(body)), progress });
    };
    let length = content.end.filter(|_| content.hash.is_some() && content.start == 0);
    let memory = length
        .filter(|length| *length <= checks.hold_bytes())
        .and_then(|length| checks.answers.reserve(length, request.client));
    let limits = &request.pool.limits;
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
                // The first bytes are waited for in any case: a member that has none fails unseen. What comes
                // slowly may be right, and is passed on as it comes.
                if memory.is_none() || Instant::now() >= patience {
                    let body = SettledBody::Content(Box::new(Coming { content, held, body }));
                    return Ok(Settled { member, head, body, progress });
                }
                continue;
            }
            Ok(Some(Err(error))) => error.to_string(),
            Err(_) => BodyError::Idle.to_string(),
        };
        return Err(MemberError::BrokenAnswer { member: member.name.clone(), problem });
    }
    let Some(memory) = memory else {
        let body = SettledBody::Content(Box::new(Coming { content, held, body }));
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
                request_id = &*request.id,
                digest = %content.digest,
                "no member that can be asked has this content right"
            );
        }
        return Err(MemberError::Corrupt { member: member.name.clone(), digest: content.digest });
    }
    checks.quarantine.remove(&member.name, &content.digest);
    Ok(Settled { member, head, body: SettledBody::Held(memory.hold(bytes)), progress })
}

fn joined(mut frames: VecDeque<Bytes>) -> Bytes {
    if frames.len() < 2 {
        return frames.pop_front().unwrap_or_default();
    }
    let mut all = BytesMut::with_capacity(frames.iter().map(Bytes::len).sum());
    frames.iter().for_each(|frame| all.extend_from_slice(frame));
    all.freeze()
}
