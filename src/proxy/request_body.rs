//! The body of a request as it goes to members: streamed, or, for a manifest, read here first, so
//! that it can be sent again.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use tokio::time::{Instant, timeout, timeout_at};

use super::Gateway;
use super::context::RequestContext;
use super::error::{GatewayError, is_read};
use crate::registry::{ManifestMethod, RegistryRequest, RouteKind};
use crate::upstream::{Pool, RequestBody};

/// Whether a request says that it has a body.
pub(super) fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING) || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0")
}

/// Largest login form; Harbor's have a name, a password and little else.
const FORM_BYTES_MAX: usize = 64 * 1024;
/// A login form comes as a whole within this.
const FORM_TIMEOUT: Duration = Duration::from_secs(10);

/// The body for the member, once it has begun to come: until then it takes no member's connection,
/// and no memory. Taken from `body` only here, after every decision: reading it is what makes hyper
/// answer `100 Continue`.
pub(super) async fn streamed(
    headers: &HeaderMap,
    body: &mut Option<Incoming>,
    ctx: &mut RequestContext,
    pool: &Pool,
) -> Result<RequestBody, GatewayError> {
    if is_read(&ctx.method)
        || ctx.route == RouteKind::Ping
        || headers.get(CONTENT_LENGTH).is_some_and(|length| length == "0")
    {
        return Ok(RequestBody::Empty);
    }
    let idle = pool.limits.body_idle_timeout;
    let Some((first, incoming)) = begun(body, Instant::now() + idle, ctx).await? else {
        return Ok(RequestBody::Empty);
    };
    Ok(RequestBody::stream(first, incoming, Arc::clone(&ctx.progress), idle))
}

/// The first of a body with the rest of it; `None` where there is none.
async fn begun(
    body: &mut Option<Incoming>,
    deadline: Instant,
    ctx: &mut RequestContext,
) -> Result<Option<(Bytes, Incoming)>, GatewayError> {
    let Some(mut incoming) = body.take().filter(|incoming| !incoming.is_end_stream()) else {
        return Ok(None);
    };
    let asked = Instant::now();
    let reading = async {
        while let Some(frame) = incoming.frame().await {
            // What is empty is no beginning, and trailers are the end.
            match frame.map_err(|_| GatewayError::ClientBody)?.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => return Ok(Some(data)),
                Err(_) => break,
            }
        }
        Ok::<_, GatewayError>(None)
    };
    let first = timeout_at(deadline, reading).await.map_err(|_| GatewayError::BodyLate)?;
    // The client's time, not the members'.
    ctx.body_awaited = asked.elapsed();
    Ok(first?.map(|data| (data, incoming)))
}

/// A login form as a whole, so that nothing waits for its turn but what is here.
pub(super) async fn form(
    body: &mut Option<Incoming>,
    ctx: &RequestContext,
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
            ctx.progress.add(form.len() as u64);
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
        (target, headers): (&RegistryRequest, &HeaderMap),
        body: &mut Option<Incoming>,
        pool: &Pool,
        ctx: &mut RequestContext,
    ) -> Result<RequestBody, GatewayError> {
        if !matches!(target, RegistryRequest::Manifest { method: ManifestMethod::Put, .. }) {
            return streamed(headers, body, ctx, pool).await;
        }
        let max = pool.limits.manifest_bytes_max;
        let announced = body.as_ref().and_then(|body| body.size_hint().exact());
        if announced.is_some_and(|length| length > max as u64) {
            return Err(GatewayError::ManifestTooLarge(max));
        }
        let deadline = Instant::now() + pool.limits.head_timeout;
        let Some((first, incoming)) = begun(body, deadline, ctx).await? else {
            return Ok(RequestBody::Empty);
        };
        let Some(memory) = self.checks.buffer(announced.unwrap_or(max as u64)) else {
            *body = Some(incoming);
            return Err(GatewayError::NoMemory);
        };
        // The memory is not there for whoever sends a byte now and then.
        let reading = read_whole(first, incoming, (max, pool.limits.body_idle_timeout), body);
        let bytes = timeout_at(deadline, reading).await.map_err(|_| GatewayError::ClientBody)??;
        ctx.progress.add(bytes.len() as u64);
        ctx.memory = Some(memory);
        Ok(RequestBody::Whole(Some(bytes)))
    }
}

/// Reads a body of at most `max` bytes. What is refused is given back to be read away.
async fn read_whole(
    first: Bytes,
    mut incoming: Incoming,
    (max, idle): (usize, Duration),
    refused: &mut Option<Incoming>,
) -> Result<Bytes, GatewayError> {
    let mut bytes = BytesMut::new();
    let mut next = Some(first);
    while let Some(data) = next {
        if bytes.len() + data.len() > max {
            *refused = Some(incoming);
            return Err(GatewayError::ManifestTooLarge(max));
        }
        bytes.extend_from_slice(&data);
        next = timeout(idle, incoming.frame())
            .await
            .map_err(|_| GatewayError::ClientBody)?
            .transpose()
            .map_err(|_| GatewayError::ClientBody)?
            .map(|frame| frame.into_data().unwrap_or_default());
    }
    Ok(bytes.freeze())
}
