//! The body of a client's request: on its way to members as it comes, or, for a manifest and a login form, read here
//! first, so that it can be sent again; a refused body is read away.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, EXPECT};
use http::request;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use super::error::GatewayError;
use crate::attempt::MemberRequest;
use crate::balance::blame::ClientKey;
use crate::content::{FIRST_BYTES, ManifestMemory, ManifestReservation};
use crate::pace::LeastRate;
use crate::registry::{ManifestMethod, RegistryRequest, is_read};
use crate::upstream::{BodyProgress, Pool, RequestBody};

/// Largest login form; Harbor's have a name, a password and little else.
pub(super) const LOGIN_FORM_BYTES_MAX: usize = 64 * 1024;
/// A form comes as a whole within this.
const FORM_TIMEOUT: Duration = Duration::from_secs(10);

/// The body of a client's request.
pub(super) struct ClientBody {
    /// What was not taken yet. It is taken only after every decision: reading it is what makes hyper answer
    /// `100 Continue`.
    incoming: Option<Incoming>,
    /// How much of it was read.
    progress: Arc<BodyProgress>,
    waits_for_continue: bool,
}

/// How much of a refused body is read, and for how long.
#[derive(Debug, Clone)]
pub(super) struct ReadAway {
    pub bytes_max: u64,
    pub timeout: Duration,
    /// Owns the tasks that read.
    pub tasks: TaskTracker,
}

impl ClientBody {
    pub(super) fn new(head: &request::Parts, incoming: Incoming) -> Self {
        let waits_for_continue = head.headers.contains_key(EXPECT);
        Self { incoming: Some(incoming), progress: Arc::default(), waits_for_continue }
    }

    /// How much of it was read.
    pub(super) fn progress(&self) -> &Arc<BodyProgress> {
        &self.progress
    }

    /// Whether there is anything in it, as far as its head says.
    pub(super) fn has_content(&self) -> bool {
        self.incoming
            .as_ref()
            .is_some_and(|body| !body.is_end_stream() && body.size_hint().exact() != Some(0))
    }

    /// Reads on for a bounded while, so that a client that is still sending sees the answer instead of a reset
    /// connection.
    pub(super) fn read_away(self, settings: &ReadAway) {
        let Some(mut body) = self.incoming.filter(|body| !self.waits_for_continue && !body.is_end_stream())
        else {
            return;
        };
        let ReadAway { bytes_max, timeout, .. } = *settings;
        settings.tasks.spawn(async move {
            let read = async {
                let mut bytes = 0;
                while let Some(Ok(frame)) = body.frame().await {
                    bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                    if bytes > bytes_max {
                        break;
                    }
                }
            };
            // However it ends, the rest of the body is no longer wanted.
            drop(tokio::time::timeout(timeout, read).await);
        });
    }
}

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

/// A body that has begun to come.
struct Begun {
    first: Bytes,
    rest: Incoming,
    awaited: Duration,
}

impl ClientBody {
    /// The body for a member, once it has begun to come: until then it takes no member's connection, and no memory.
    pub(super) async fn streamed(
        &mut self,
        request: &MemberRequest,
        body_rate_min: u64,
    ) -> Result<PreparedBody, GatewayError> {
        if is_read(&request.method) || request.headers.get(CONTENT_LENGTH).is_some_and(|length| length == "0")
        {
            return Ok(PreparedBody::of(RequestBody::Empty));
        }
        let idle = request.pool.limits.body_idle_timeout;
        let Some(begun) = self.begun(Instant::now() + idle, GatewayError::UploadBody).await? else {
            return Ok(PreparedBody::of(RequestBody::Empty));
        };
        let least = LeastRate { bytes_per_second: body_rate_min, window: idle };
        let streaming = RequestBody::stream(begun.first, begun.rest, Arc::clone(&self.progress), least);
        Ok(PreparedBody { awaited: begun.awaited, ..PreparedBody::of(streaming) })
    }

    /// The body for members: a manifest as a whole, everything else as it comes.
    pub(super) async fn prepare(
        &mut self,
        request: &MemberRequest,
        body_rate_min: u64,
        memory: &ManifestMemory,
    ) -> Result<PreparedBody, GatewayError> {
        if is_read(&request.method) {
            return Ok(PreparedBody::of(RequestBody::Empty));
        }
        // Apart, so that reads, which are most of all requests, carry none of it along.
        Box::pin(async move {
            match request.registry() {
                Some(RegistryRequest::Manifest { method: ManifestMethod::Put, .. }) => {
                    self.manifest(request, memory).await
                }
                Some(_) | None => self.streamed(request, body_rate_min).await,
            }
        })
        .await
    }

    async fn manifest(
        &mut self,
        request: &MemberRequest,
        memory: &ManifestMemory,
    ) -> Result<PreparedBody, GatewayError> {
        let max = request.pool.limits.manifest_bytes_max;
        let announced = self.incoming.as_ref().and_then(|body| body.size_hint().exact());
        if announced.is_some_and(|length| length > max as u64) {
            return Err(GatewayError::ManifestTooLarge(max));
        }
        let asked = Instant::now();
        let deadline = asked + request.pool.limits.head_timeout;
        let Some(begun) = self.begun(deadline, GatewayError::ClientBody).await? else {
            return Ok(PreparedBody::of(RequestBody::Empty));
        };
        let reading = ManifestReading { max, pool: &request.pool, client: request.client, memory };
        let (bytes, memory) = reading.read(begun, deadline, &mut self.incoming).await?;
        self.progress.add(bytes.len() as u64);
        // No member is asked before it is here as a whole.
        let awaited = asked.elapsed();
        Ok(PreparedBody { body: RequestBody::Whole(Some(bytes)), awaited, memory: Some(memory) })
    }

    /// A form as a whole, of at most `bytes_max` bytes, so that nothing waits for its turn but what is here.
    pub(super) async fn form(&mut self, bytes_max: usize) -> Result<Bytes, GatewayError> {
        let Some(incoming) = self.incoming.take().filter(|incoming| !incoming.is_end_stream()) else {
            return Ok(Bytes::new());
        };
        let too_large = GatewayError::FormTooLarge(bytes_max);
        if incoming.size_hint().lower() > bytes_max as u64 {
            self.incoming = Some(incoming);
            return Err(too_large);
        }
        let reading = Limited::new(incoming, bytes_max).collect();
        match tokio::time::timeout(FORM_TIMEOUT, reading).await {
            Ok(Ok(form)) => {
                let form = form.to_bytes();
                self.progress.add(form.len() as u64);
                Ok(form)
            }
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large),
            Ok(Err(_)) | Err(_) => Err(GatewayError::BodyLate),
        }
    }

    /// The first of the body with the rest of it; `None` where there is none.
    async fn begun(
        &mut self,
        deadline: Instant,
        broken: GatewayError,
    ) -> Result<Option<Begun>, GatewayError> {
        let Some(mut incoming) = self.incoming.take().filter(|incoming| !incoming.is_end_stream()) else {
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
