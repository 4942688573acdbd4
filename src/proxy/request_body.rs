//! The body of a request as it goes to members: streamed, or, for a manifest, read here first, so
//! that it can be sent again.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HeaderMap};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use tokio::time::{Instant, timeout_at};

use super::Gateway;
use super::context::RequestContext;
use super::error::{GatewayError, is_read};
use super::memory::{FIRST_BYTES, ManifestMemory, ManifestReservation};
use crate::balance::blame::ClientKey;
use crate::pace::LeastRate;
use crate::registry::{ManifestMethod, RegistryRequest, RouteKind};
use crate::upstream::{Pool, RequestBody};

/// The body for the member. Taken from `body` only here, after every decision: reading it is what
/// makes hyper answer `100 Continue`.
pub(super) fn streamed(
    headers: &HeaderMap,
    body: &mut Option<Incoming>,
    ctx: &RequestContext,
    (pool, body_rate_min): (&Pool, u64),
) -> RequestBody {
    let ended = body.as_ref().is_none_or(Incoming::is_end_stream);
    let reads = is_read(&ctx.method);
    if ended
        || reads
        || ctx.route == RouteKind::Ping
        || headers.get(CONTENT_LENGTH).is_some_and(|length| length == "0")
    {
        return RequestBody::Empty;
    }
    match body.take() {
        Some(incoming) => {
            let window = pool.limits.body_idle_timeout;
            let least = LeastRate { bytes_per_second: body_rate_min, window };
            RequestBody::stream(incoming, Arc::clone(&ctx.progress), least)
        }
        None => RequestBody::Empty,
    }
}

impl Gateway {
    /// The body for members: a manifest as a whole, everything else as it comes.
    pub(super) async fn request_body(
        &self,
        (target, headers): (&RegistryRequest, &HeaderMap),
        body: &mut Option<Incoming>,
        (pool, client): (&Pool, ClientKey),
        ctx: &mut RequestContext,
    ) -> Result<RequestBody, GatewayError> {
        if !matches!(target, RegistryRequest::Manifest { method: ManifestMethod::Put, .. }) {
            return Ok(streamed(headers, body, ctx, (pool, self.limits.body_rate_min)));
        }
        let Some(incoming) = body.take() else { return Ok(RequestBody::Empty) };
        let max = pool.limits.manifest_bytes_max;
        let announced = incoming.size_hint().exact();
        if announced.is_some_and(|length| length > max as u64) {
            *body = Some(incoming);
            return Err(GatewayError::ManifestTooLarge(max));
        }
        let reading = ManifestReading { max, pool, client, memory: &self.checks.manifests };
        let (bytes, memory) = reading.read(incoming, body).await?;
        ctx.progress.add(bytes.len() as u64);
        ctx.memory = Some(memory);
        Ok(RequestBody::Whole(Some(bytes)))
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
        mut incoming: Incoming,
        refused: &mut Option<Incoming>,
    ) -> Result<(Bytes, ManifestReservation), GatewayError> {
        let deadline = Instant::now() + self.pool.limits.head_timeout;
        let announced = incoming.size_hint().exact().unwrap_or(self.max as u64);
        let mut bytes = BytesMut::new();
        let mut reserved: Option<(u64, ManifestReservation)> = None;
        loop {
            let idle = deadline.min(Instant::now() + self.pool.limits.body_idle_timeout);
            let frame = timeout_at(idle, incoming.frame()).await.map_err(|_| GatewayError::ClientBody)?;
            let data = match frame {
                Some(frame) => frame.map_err(|_| GatewayError::ClientBody)?.into_data().unwrap_or_default(),
                None if reserved.is_some() => break,
                None => Bytes::new(),
            };
            let length = bytes.len() + data.len();
            if length > self.max {
                *refused = Some(incoming);
                return Err(GatewayError::ManifestTooLarge(self.max));
            }
            // Only now: a client that sends nothing holds nothing.
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
        }
        let (_, memory) = reserved.ok_or(GatewayError::Internal("a manifest has no memory"))?;
        Ok((bytes.freeze(), memory))
    }
}
