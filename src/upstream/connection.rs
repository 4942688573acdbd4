//! Connections to one member: exact in number over all workers, idle ones kept per worker.
//!
//! A permit is the right to have a request at the member ([`super::permits`]); there are
//! `connections_max`. Pulls and uploads have a bound of their own each, so that neither can keep
//! the other from its work. An open connection occupies a slot until its socket is closed; there are
//! as many slots. A request that holds a permit therefore finds an idle connection of its own worker, a
//! free slot, or an idle connection of another worker.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use prometheus::IntGauge;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;

use super::body::{BodyProgress, RequestBody};
use super::error::{Phase, UpstreamError, UpstreamFault};
use super::name::MemberName;
use super::permits::{Bounds, NoPermit, Permit, Permits, Work};
use super::ramp::Ramped;
use super::reclaim::Reclaimable;
use super::settings::{MemberAddress, UpstreamLimits};
use crate::balance::blame::ClientKey;
use crate::telemetry::GaugeGuard;

/// Between keep-alive probes of the kernel on an upstream connection.
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Bytes that are read from a member at once, as far as [`Ramped`] lets them; also the largest head of an answer.
const BUFFER_BYTES_MAX: usize = 128 * 1024;

/// Where a member is and how to speak TLS to it.
pub struct ConnectTarget {
    /// Name for errors.
    pub member: MemberName,
    /// Scheme, host and port.
    pub address: MemberAddress,
    /// TLS, for https members.
    pub tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// The connections to one member.
pub struct Connections {
    target: ConnectTarget,
    limits: ArcSwap<UpstreamLimits>,
    permits: Arc<Permits>,
    open: Arc<Slots>,
    idle: Box<[Mutex<Vec<Idle>>]>,
    drivers: TaskTracker,
    gauge: IntGauge,
}

/// Its orderings are acquire and release: a request that takes a slot, or sees that another one waits, sees the lists of
/// idle connections as they were when that was written.
struct Slots {
    open: AtomicUsize,
    /// Requests that hold a permit and found no connection.
    waiting: AtomicUsize,
    freed: Notify,
}

/// Occupied while a connection's socket is open.
struct Slot {
    slots: Arc<Slots>,
    _gauge: GaugeGuard,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.open.fetch_sub(1, Ordering::AcqRel);
        self.slots.freed.notify_one();
    }
}

struct Idle {
    sender: SendRequest<RequestBody>,
    since: Instant,
}

/// A connection for a request.
struct Found {
    sender: SendRequest<RequestBody>,
    /// Whether it served before.
    reused: bool,
}

/// Counts a waiting request while it waits.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A connection in use. Dropped without [`Lease::give_back`], the connection is closed.
pub struct Lease {
    sender: SendRequest<RequestBody>,
    reused: bool,
    queued: Duration,
    worker: usize,
    connections: Arc<Connections>,
    permit: Permit,
}

/// A request that failed; it comes back if no byte of it was sent.
pub struct SendError {
    /// What happened.
    pub error: hyper::Error,
    /// The request, if it was never sent.
    pub unsent: Option<Request<RequestBody>>,
}

impl Lease {
    /// Whether the connection served a request before; such a one may have been closed meanwhile.
    #[must_use]
    pub fn was_reused(&self) -> bool {
        self.reused
    }

    /// How long the request waited for its turn.
    #[must_use]
    pub fn queued(&self) -> Duration {
        self.queued
    }

    /// Sends a request. The answer's body goes on to be read from the connection.
    ///
    /// # Errors
    /// [`SendError`], with the request if it was never sent.
    pub async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Box<SendError>> {
        self.sender.try_send_request(request).await.map_err(|mut failed| {
            let unsent = failed.take_message();
            Box::new(SendError { error: failed.into_error(), unsent })
        })
    }

    /// The connection can be taken back, with what holds it, for a client that waits.
    pub fn allow_reclaim<T: Send + 'static>(&self, holder: &Arc<Reclaimable<T>>) {
        let holder = Arc::downgrade(holder);
        self.permit.allow_reclaim(holder);
    }

    /// A request body that is slow can be ended for a client that waits.
    pub fn allow_reclaim_of_body(&self, progress: &Arc<BodyProgress>) {
        let progress = Arc::downgrade(progress);
        self.permit.allow_reclaim(progress);
    }

    /// Gives the connection back for the next request. Only after the answer's body has ended.
    pub fn give_back(self) {
        let Self { sender, worker, connections, permit, .. } = self;
        // Beyond a lowered limit the connection ends with its request.
        let wanted = connections.open.open.load(Ordering::Acquire) <= connections.limit();
        if wanted && !sender.is_closed() {
            connections.idle_of(worker).push(Idle { sender, since: Instant::now() });
            // A request may be looking through the lists and have passed this one already.
            if connections.open.waiting.load(Ordering::Acquire) > 0 {
                connections.open.freed.notify_one();
            }
        }
        // Only now, so that the request that gets the permit finds the connection.
        drop(permit);
    }
}

impl Connections {
    /// Connections to `target` for `workers` workers.
    #[must_use]
    pub fn new(
        target: ConnectTarget,
        limits: UpstreamLimits,
        workers: usize,
        drivers: TaskTracker,
        gauge: IntGauge,
    ) -> Arc<Self> {
        Arc::new(Self {
            target,
            permits: Permits::new(Bounds::of(&limits), workers),
            limits: ArcSwap::from_pointee(limits),
            open: Arc::new(Slots {
                open: AtomicUsize::new(0),
                waiting: AtomicUsize::new(0),
                freed: Notify::new(),
            }),
            idle: (0..workers.max(1)).map(|_| Mutex::new(Vec::new())).collect(),
            drivers,
            gauge,
        })
    }

    /// Where they lead.
    #[must_use]
    pub fn target(&self) -> &ConnectTarget {
        &self.target
    }

    /// Requests that wait for the right to be sent.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.permits.waiting()
    }

    /// Most connections at once.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limits.load().connections_max
    }

    /// Takes other limits. A lower number of connections holds for every request that begins from
    /// now on: what runs beyond it is not cut, and nothing begins in its place.
    pub fn set_limits(&self, limits: &UpstreamLimits) {
        let before = self.limits.swap(Arc::new(limits.clone()));
        self.permits.set_bounds(Bounds::of(limits));
        if limits.connections_max < before.connections_max {
            self.close_idle();
        }
    }

    /// Waits for the right to send a request and for a connection to send it on.
    ///
    /// # Errors
    /// [`UpstreamError`] when the queue is full or too slow, or no connection can be made.
    pub async fn acquire(
        self: &Arc<Self>,
        work: Work,
        client: ClientKey,
        worker: usize,
        deadline: Instant,
    ) -> Result<Lease, UpstreamError> {
        let asked = Instant::now();
        let queue_deadline = deadline.min(asked + self.limits.load().queue_timeout);
        let permit = self.permits.acquire(work, client, worker, queue_deadline).await;
        let permit = permit.map_err(|reason| {
            let fault = match reason {
                NoPermit::Full => UpstreamFault::QueueFull,
                NoPermit::Timeout => UpstreamFault::Timeout,
            };
            self.error(Phase::Queue, fault)
        })?;
        let queued = asked.elapsed();
        loop {
            if let Some(found) = self.find(worker, deadline).await? {
                return Ok(self.lease(found, worker, permit, queued));
            }
            // Every connection is either at work or just closing. Queue up for the next slot
            // before looking once more, so that none that is freed in between is missed.
            let _waiting = Waiting::new(&self.open.waiting);
            let freed = self.open.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if let Some(found) = self.find(worker, deadline).await? {
                return Ok(self.lease(found, worker, permit, queued));
            }
            if timeout_at(queue_deadline, freed).await.is_err() {
                return Err(self.error(Phase::Queue, UpstreamFault::Timeout));
            }
        }
    }

    /// An idle connection of this worker, a new one, or an idle one of another worker.
    async fn find(&self, worker: usize, deadline: Instant) -> Result<Option<Found>, UpstreamError> {
        if let Some(sender) = self.take_idle(worker).await {
            return Ok(Some(Found { sender, reused: true }));
        }
        if let Some(slot) = self.slot() {
            let patience = Instant::now() + self.limits.load().connect_timeout;
            let connected = self.connect(slot, deadline.min(patience)).await;
            return match connected {
                // The request ran out of time in the queue; that says nothing about the member.
                Err(error) if deadline < patience && matches!(error.source, UpstreamFault::Timeout) => {
                    Err(self.error(Phase::Queue, UpstreamFault::Timeout))
                }
                connected => connected.map(|sender| Some(Found { sender, reused: false })),
            };
        }
        for other in (0..self.idle.len()).filter(|other| *other != worker) {
            if let Some(sender) = self.take_idle(other).await {
                return Ok(Some(Found { sender, reused: true }));
            }
        }
        Ok(None)
    }

    /// Closes connections that have been idle for too long.
    pub fn sweep(&self) {
        let Some(oldest) = Instant::now().checked_sub(self.limits.load().idle_timeout) else { return };
        for worker in 0..self.idle.len() {
            self.idle_of(worker).retain(|idle| idle.since > oldest && !idle.sender.is_closed());
        }
    }

    /// Closes every idle connection, as when the member is out: what comes back starts afresh.
    pub fn close_idle(&self) {
        for worker in 0..self.idle.len() {
            self.idle_of(worker).clear();
        }
    }

    fn lease(self: &Arc<Self>, found: Found, worker: usize, permit: Permit, queued: Duration) -> Lease {
        let Found { sender, reused } = found;
        Lease { sender, reused, queued, worker, connections: Arc::clone(self), permit }
    }

    fn idle_of(&self, worker: usize) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        let at = worker % self.idle.len();
        self.idle[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn take_idle(&self, worker: usize) -> Option<SendRequest<RequestBody>> {
        let oldest = Instant::now().checked_sub(self.limits.load().idle_timeout);
        loop {
            // The youngest first: it is the least likely to be closed by the member.
            let Idle { mut sender, since } = self.idle_of(worker).pop()?;
            if oldest.is_none_or(|oldest| since > oldest) && sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }

    fn slot(&self) -> Option<Slot> {
        let max = self.limit();
        let taken = self
            .open
            .open
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |open| (open < max).then_some(open + 1));
        taken.is_ok().then(|| Slot { slots: Arc::clone(&self.open), _gauge: GaugeGuard::new(&self.gauge) })
    }

    async fn connect(
        &self,
        slot: Slot,
        deadline: Instant,
    ) -> Result<SendRequest<RequestBody>, UpstreamError> {
        match timeout_at(deadline, self.handshake(slot)).await {
            Ok(Ok(sender)) => Ok(sender),
            Ok(Err(fault)) => Err(self.error(Phase::Connect, fault)),
            Err(_) => Err(self.error(Phase::Connect, UpstreamFault::Timeout)),
        }
    }

    async fn handshake(&self, slot: Slot) -> Result<SendRequest<RequestBody>, UpstreamFault> {
        let address = &self.target.address;
        let stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
        stream.set_nodelay(true)?;
        let keep_alive = socket2::TcpKeepalive::new().with_time(TCP_KEEP_ALIVE).with_interval(TCP_KEEP_ALIVE);
        socket2::SockRef::from(&stream).set_tcp_keepalive(&keep_alive)?;
        match &self.target.tls {
            None => self.drive(TokioIo::new(Ramped::new(stream)), slot).await,
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await?;
                self.drive(TokioIo::new(Ramped::new(stream)), slot).await
            }
        }
    }

    async fn drive<IO>(&self, io: IO, slot: Slot) -> Result<SendRequest<RequestBody>, UpstreamFault>
    where
        IO: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::Builder::new().max_buf_size(BUFFER_BYTES_MAX).handshake(io).await?;
        self.drivers.spawn(async move {
            // How the connection ends shows in the request that it carries.
            drop(connection.await);
            drop(slot);
        });
        Ok(sender)
    }

    fn error(&self, phase: Phase, source: UpstreamFault) -> UpstreamError {
        UpstreamError { member: self.target.member.clone(), phase, source }
    }
}
