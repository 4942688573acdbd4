//! The body of a request as it goes to members: streamed, or, for a manifest, read here first, so
//! that it can be sent again.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HeaderMap};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use tokio::time::timeout;

use super::Gateway;
use super::context::RequestContext;
use super::error::{GatewayError, is_read};
use crate::registry::{ManifestMethod, RegistryRequest, RouteKind};
use crate::upstream::{Pool, RequestBody};

/// The body for the member. Taken from `body` only here, after every decision: reading it is what
/// makes hyper answer `100 Continue`.
pub(super) fn streamed(
    headers: &HeaderMap,
    body: &mut Option<Incoming>,
    ctx: &RequestContext,
    pool: &Pool,
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
            RequestBody::stream(incoming, Arc::clone(&ctx.progress), pool.limits.body_idle_timeout)
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
        pool: &Pool,
        ctx: &mut RequestContext,
    ) -> Result<RequestBody, GatewayError> {
        if !matches!(target, RegistryRequest::Manifest { method: ManifestMethod::Put, .. }) {
            return Ok(streamed(headers, body, ctx, pool));
        }
        let Some(incoming) = body.take() else { return Ok(RequestBody::Empty) };
        let max = pool.limits.manifest_bytes_max;
        let announced = incoming.size_hint().exact();
        if announced.is_some_and(|length| length > max as u64) {
            *body = Some(incoming);
            return Err(GatewayError::ManifestTooLarge(max));
        }
        let Some(memory) = self.checks.buffer(announced.unwrap_or(max as u64)) else {
            *body = Some(incoming);
            return Err(GatewayError::NoMemory);
        };
        // The memory is not there for whoever sends a byte now and then.
        let reading = read_whole(incoming, max, pool, body);
        let bytes =
            timeout(pool.limits.head_timeout, reading).await.map_err(|_| GatewayError::ClientBody)??;
        ctx.progress.add(bytes.len() as u64);
        ctx.memory = Some(memory);
        Ok(RequestBody::Whole(Some(bytes)))
    }
}

/// Reads a body of at most `max` bytes. What is refused is given back to be read away.
async fn read_whole(
    mut incoming: Incoming,
    max: usize,
    pool: &Pool,
    refused: &mut Option<Incoming>,
) -> Result<Bytes, GatewayError> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = timeout(pool.limits.body_idle_timeout, incoming.frame())
        .await
        .map_err(|_| GatewayError::ClientBody)?
    {
        let Ok(data) = frame.map_err(|_| GatewayError::ClientBody)?.into_data() else { continue };
        if bytes.len() + data.len() > max {
            *refused = Some(incoming);
            return Err(GatewayError::ManifestTooLarge(max));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}
