//! The body of a request as it goes to members: streamed, or, for a manifest, read here first, so
//! that it can be sent again.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_LENGTH;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use tokio::time::{Instant, timeout_at};

use super::Gateway;
use super::error::GatewayError;
use crate::attempt::MemberRequest;
use crate::balance::blame::ClientKey;
use crate::content::{FIRST_BYTES, ManifestMemory, ManifestReservation};
use crate::pace::LeastRate;
use crate::registry::{ManifestMethod, RegistryRequest, is_read};
use crate::upstream::{BodyProgress, Pool, RequestBody};

/// Largest login form; Harbor's have a name, a password and little else.
const FORM_BYTES_MAX: usize = 64 * 1024;
/// A login form comes as a whole within this.
const FORM_TIMEOUT: Duration = Duration::from_secs(10);

/// A request's body as it goes to members.
pub(super) struct PreparedBody {
    pub body: RequestBody,
    /// How long it took the client to begin it; not counted against the members.
    pub awaited: Duration,
    /// What it takes of the memory for manifests.
    pub memory: Option<ManifestReservation>,
}

impl PreparedBody {
    fn of(body: RequestBody) -> Self {
        Self { body, awaited: Duration::ZERO, memory: None }
    }
}

/// The body for the member, once it has begun to come: until then it takes no member's connection,
/// and no memory. Taken from `body` only here, after every decision: reading it is what makes hyper
/// answer `100 Continue`.
pub(super) async fn streamed(
    request: &MemberRequest,
    body: &mut Option<Incoming>,
    body_rate_min: u64,
    progress: &Arc<BodyProgress>,
) -> Result<PreparedBody, GatewayError> {
    if is_read(&request.method) || request.headers.get(CONTENT_LENGTH).is_some_and(|length| length == "0") {
        return Ok(PreparedBody::of(RequestBody::Empty));
    }
    let idle = request.pool.limits.body_idle_timeout;
    let Some(begun) = begun(body, Instant::now() + idle, GatewayError::UploadBody).await? else {
        return Ok(PreparedBody::of(RequestBody::Empty));
    };
    let least = LeastRate { bytes_per_second: body_rate_min, window: idle };
    let streaming = RequestBody::stream(begun.first, begun.rest, Arc::clone(progress), least);
    Ok(PreparedBody { awaited: begun.awaited, ..PreparedBody::of(streaming) })
}

/// A body that has begun to come.
struct Begun {
    first: Bytes,
    rest: Incoming,
    awaited: Duration,
}

/// The first of a body with the rest of it; `None` where there is none.
async fn begun(
    body: &mut Option<Incoming>,
    deadline: Instant,
    broken: GatewayError,
) -> Result<Option<Begun>, GatewayError> {
    let Some(mut incoming) = body.take().filter(|incoming| !incoming.is_end_stream()) else {
        return Ok(None);
    };
    let asked = Instant::now();
    let reading = async {
        while let Some(frame) = incoming.frame().await {
            // What is empty is no beginning, and trailers are the end.
            let Ok(frame) = frame else { return Err(broken) };
            match frame.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => return Ok(Some(data)),
                Err(_) => break,
            }
        }
        Ok::<_, GatewayError>(None)
    };
    let first = timeout_at(deadline, reading).await.map_err(|_| GatewayError::BodyLate)?;
    let awaited = asked.elapsed();
    Ok(first?.map(|first| Begun { first, rest: incoming, awaited }))
}

/// A login form as a whole, so that nothing waits for its turn but what is here.
pub(super) async fn form(
    body: &mut Option<Incoming>,
    progress: &BodyProgress,
) -> Result<RequestBody, GatewayError> {
    let Some(incoming) = body.take().filter(|incoming| !incoming.is_end_stream()) else {
        return Ok(RequestBody::Empty);
    };
    let too_large = GatewayError::FormTooLarge(FORM_BYTES_MAX);
    if incoming.size_hint().lower() > FORM_BYTES_MAX as u64 {
        *body = Some(incoming);
        return Err(too_large);
    }
    let reading = Limited::new(incoming, FORM_BYTES_MAX).collect();
    match tokio::time::timeout(FORM_TIMEOUT, reading).await {
        Ok(Ok(form)) => {
            let form = form.to_bytes();
            progress.add(form.len() as u64);
            Ok(RequestBody::Whole(Some(form)))
        }
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large),
        Ok(Err(_)) | Err(_) => Err(GatewayError::BodyLate),
    }
}

impl Gateway {
    /// The body for members: a manifest as a whole, everything else as it comes.
    pub(super) async fn request_body(
        &self,
        request: &MemberRequest,
        body: &mut Option<Incoming>,
        progress: &Arc<BodyProgress>,
    ) -> Result<PreparedBody, GatewayError> {
        if is_read(&request.method) {
            return Ok(PreparedBody::of(RequestBody::Empty));
        }
        // Apart, so that reads, which are most of all requests, carry none of it along.
        Box::pin(self.body_of_write(request, body, progress)).await
    }

    async fn body_of_write(
        &self,
        request: &MemberRequest,
        body: &mut Option<Incoming>,
        progress: &Arc<BodyProgress>,
    ) -> Result<PreparedBody, GatewayError> {
        let Some(RegistryRequest::Manifest { method: ManifestMethod::Put, .. }) = request.registry() else {
            return streamed(request, body, self.limits.body_rate_min, progress).await;
        };
        let max = request.pool.limits.manifest_bytes_max;
        let announced = body.as_ref().and_then(|body| body.size_hint().exact());
        if announced.is_some_and(|length| length > max as u64) {
            return Err(GatewayError::ManifestTooLarge(max));
        }
        let deadline = Instant::now() + request.pool.limits.head_timeout;
        let Some(begun) = begun(body, deadline, GatewayError::ClientBody).await? else {
            return Ok(PreparedBody::of(RequestBody::Empty));
        };
        let awaited = begun.awaited;
        let reading = ManifestReading {
            max,
            pool: &request.pool,
            client: request.client,
            memory: self.checks.manifests(),
        };
        let (bytes, memory) = reading.read(begun, deadline, body).await?;
        progress.add(bytes.len() as u64);
        Ok(PreparedBody { body: RequestBody::Whole(Some(bytes)), awaited, memory: Some(memory) })
    }
}

/// A manifest that is read before any member is asked.
struct ManifestReading<'a> {
    max: usize,
    pool: &'a Pool,
    client: ClientKey,
    memory: &'a ManifestMemory,
}

impl ManifestReading<'_> {
    /// Reads a body of at most `max` bytes, within the time that its answer has. What is refused is given back to be
    /// read away.
    async fn read(
        &self,
        Begun { first, rest: mut incoming, .. }: Begun,
        deadline: Instant,
        refused: &mut Option<Incoming>,
    ) -> Result<(Bytes, ManifestReservation), GatewayError> {
        let rest = incoming.size_hint().exact();
        let announced = rest.map_or(self.max as u64, |rest| rest.saturating_add(first.len() as u64));
        let mut bytes = BytesMut::new();
        let mut reserved: Option<(u64, ManifestReservation)> = None;
        let mut next = Some(first);
        while let Some(data) = next {
            let length = bytes.len() + data.len();
            if length > self.max {
                *refused = Some(incoming);
                return Err(GatewayError::ManifestTooLarge(self.max));
            }
            // As it arrives: a client that sends little holds little.
            let so_far = reserved.as_ref().map_or(0, |(bytes, _)| *bytes);
            if reserved.is_none() || length as u64 > so_far {
                let more = async {
                    match length as u64 > FIRST_BYTES {
                        true => Some((u64::MAX, self.memory.whole(announced, self.client).await?)),
                        false => Some((FIRST_BYTES, self.memory.first(self.client).await?)),
                    }
                };
                reserved = match timeout_at(deadline, more).await {
                    Ok(Some(more)) => Some(more),
                    Ok(None) | Err(_) => {
                        *refused = Some(incoming);
                        return Err(GatewayError::NoMemory);
                    }
                };
            }
            bytes.extend_from_slice(&data);
            let idle = deadline.min(Instant::now() + self.pool.limits.body_idle_timeout);
            let frame = timeout_at(idle, incoming.frame()).await.map_err(|_| GatewayError::ClientBody)?;
            let frame = frame.transpose().map_err(|_| GatewayError::ClientBody)?;
            next = frame.map(|frame| frame.into_data().unwrap_or_default());
        }
        let (_, memory) = reserved.ok_or(GatewayError::Internal("a manifest has no memory"))?;
        Ok((bytes.freeze(), memory))
    }
}
