//! The composition root: builds every component from the configuration, owns the tasks and
//! threads, and takes the process from start to its ordered end.
//!
//! Each worker is a thread with a `current_thread` runtime, its own listening sockets
//! (SO_REUSEPORT) and its own idle upstream connections. Probes, reloads, the admin listener and
//! signals run on one runtime more, here called control.

mod admin_side;
mod build;
mod listeners;
mod parts;
mod succession;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking};

use crate::admin::{Admin, Readiness, Reloads};
use crate::config::Config;
use crate::handover::{Estate, Inheritance, PROCESS_ENDS, notify_manager, ready_text};
use crate::key_store;
use crate::proxy::{ConnectionInfo, Gateway, GatewayState};
use crate::random::unix_now;
use crate::reload::{Fingerprint, Members, Reloader};
use crate::server::{Accepted, Certificates, ListenerKind, raise_descriptor_limit};
use crate::telemetry::{AccessLog, Metrics};
use crate::upstream::BodyError;
use admin_side::AdminSide;
pub use build::RequestPath;
use listeners::{Listening, bind_all};
use parts::{Endpoint, Parts};
pub use succession::StartedAs;
use succession::{Succession, take_over};

/// How often open uploads are looked through for abandoned ones.
const UPLOAD_SWEEP: Duration = Duration::from_secs(10);
/// How often it is looked whether homes that are back have what others took in their place.
const SETTLE_EVERY: Duration = Duration::from_secs(5);
/// What a client costs at most that does not read its answer, in bytes.
const READER_BYTES_MAX: usize = 256 * 1024;
/// Threads of each runtime for blocking work; password checks have their own bound on top.
const BLOCKING_THREADS: usize = 16;

/// Where the configuration came from and where the access log goes.
pub struct Surroundings {
    /// The configuration file, for reloads.
    pub config_path: Option<PathBuf>,
    /// The access log's writer.
    pub access_writer: NonBlocking,
    /// Its count of dropped lines.
    pub access_dropped: ErrorCounter,
    /// Sockets and state of others.
    pub inheritance: Inheritance,
    /// How the next process is started.
    pub started_as: StartedAs,
}

/// Runs the gateway until it is told to end.
///
/// # Errors
/// When something cannot be built, or a part that must not end has ended.
pub fn run(config: Config, mut surroundings: Surroundings) -> anyhow::Result<()> {
    raise_descriptor_limit(config.connections_max());
    let metrics = Metrics::new().context("register metrics")?;
    count_panics(&metrics);
    let control = runtime().context("start the control runtime")?;
    let mut parts = build(&config, &metrics, &surroundings)?;
    let Listening { endpoints, estate } = bind_all(&config, &parts, &metrics, &mut surroundings.inheritance)?;
    log_memory_bounds(&config);
    if !surroundings.inheritance.has_predecessor() {
        parts.go.cancel();
    }
    let workers = spawn_workers(endpoints, &parts)?;
    let ended = control.block_on(supervise(config, surroundings, &mut parts, estate));
    // Also after an error, when nothing else has told the listeners.
    parts.stop.cancel();
    parts.go.cancel();
    parts.finished.cancel();
    for worker in workers {
        if worker.join().is_err() {
            tracing::error!("a worker has panicked");
        }
    }
    control.shutdown_timeout(Duration::from_millis(100));
    ended
}

fn runtime() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_all().max_blocking_threads(BLOCKING_THREADS).build()
}

fn build(config: &Config, metrics: &Arc<Metrics>, surroundings: &Surroundings) -> anyhow::Result<Parts> {
    let (keys, seals) = (&config.tokens.keys, &config.uploads.seal_keys);
    for path in key_store::ensure(keys, seals, config.tokens.algorithm, config.tokens.replicas, unix_now())? {
        tracing::info!(path = %path.display(), "made a key");
    }
    // Taken first, so that nothing that changes from here on is missed.
    let seen = Fingerprint::of(surroundings.config_path.as_deref(), config);
    let access_writer = config.log.access_log.then(|| surroundings.access_writer.clone());
    let access_log = AccessLog::new(access_writer, config.log.format);
    let path = RequestPath::build(config, metrics, access_log, TaskTracker::new())?;
    let RequestPath { gateway, state, shared, member_ring } = path;
    metrics.generation.set(1);
    let topology = Arc::clone(&state.topology);
    let members = Members::new(topology, shared, state.tokens.logins().harbor.clone());
    let parts = Parts {
        gateway,
        state,
        member_ring,
        members: Some(members),
        seen,
        certificates: Vec::new(),
        accepting: TaskTracker::new(),
        connections: TaskTracker::new(),
        go: CancellationToken::new(),
        stop: CancellationToken::new(),
        finished: CancellationToken::new(),
    };
    with_certificates(parts, config)
}

fn with_certificates(mut parts: Parts, config: &Config) -> anyhow::Result<Parts> {
    for listener in &config.server.listeners {
        if let ListenerKind::Tls(tls) = &listener.kind {
            parts.certificates.push(Certificates::load(tls)?);
        }
    }
    Ok(parts)
}

fn spawn_workers(endpoints: Vec<Vec<Endpoint>>, parts: &Parts) -> anyhow::Result<Vec<JoinHandle<()>>> {
    let mut workers = Vec::new();
    for (worker, endpoints) in endpoints.into_iter().enumerate() {
        let runtime = runtime().context("start a worker's runtime")?;
        let gateway = Arc::clone(&parts.gateway);
        let accepting = parts.accepting.clone();
        let signs = [parts.go.clone(), parts.stop.clone(), parts.finished.clone()];
        let thread = std::thread::Builder::new().name(format!("worker-{worker}"));
        let handle = thread.spawn(move || {
            runtime.block_on(work(worker, accepting, endpoints, gateway, signs));
            runtime.shutdown_timeout(Duration::from_millis(100));
        });
        workers.push(handle.context("start a worker")?);
    }
    Ok(workers)
}

/// One worker: accepts until told to stop, then lives on until its connections have ended.
async fn work(
    worker: usize,
    accepting: TaskTracker,
    endpoints: Vec<Endpoint>,
    gateway: Arc<Gateway>,
    [go, stop, finished]: [CancellationToken; 3],
) {
    go.cancelled().await;
    let mut listeners = JoinSet::new();
    for (listener, acceptor) in endpoints {
        let gateway = Arc::clone(&gateway);
        let handler = move |request, accepted: Accepted| {
            let connection = ConnectionInfo {
                worker,
                peer: accepted.peer,
                tls: accepted.tls,
                credentials_allowed: accepted.credentials_allowed,
            };
            Arc::clone(&gateway).handle(request, connection)
        };
        let running = listener.run(acceptor, handler, BodyError::resets_connection);
        listeners.spawn(accepting.track_future(running));
    }
    while let Some(ended) = listeners.join_next().await {
        if !stop.is_cancelled() {
            tracing::error!(worker, ?ended, "a listener has ended");
            stop.cancel();
        }
    }
    finished.cancelled().await;
}

/// Probes, reloads, admin, signals and successors, until the process ends.
async fn supervise(
    config: Config,
    surroundings: Surroundings,
    parts: &mut Parts,
    mut estate: Estate,
) -> anyhow::Result<()> {
    let Surroundings { config_path, access_dropped, mut inheritance, started_as, .. } = surroundings;
    let metrics = Arc::clone(&parts.state.observers.metrics);
    let mut maintenance: JoinSet<String> = JoinSet::new();
    let mut signals = Signals::new()?;
    let (reloads, asked_reloads) = Reloads::new();
    let hosts = config.admin.as_ref().map_or_else(Vec::new, |admin| admin.hosts.clone());
    let shown = what_is_shown(&parts.state, hosts, access_dropped, Arc::clone(&reloads));
    let mut admin = AdminSide::open(&config, Arc::clone(&shown), &mut inheritance, &mut estate)?;
    let alone = !inheritance.has_predecessor();
    if alone {
        admin.serve();
    }
    take_over(&parts.state, &inheritance.state);
    let mut members = parts.members.take().context("the members")?;
    members.begin().await;
    let shutdown = config.shutdown.clone();
    let reload = Arc::new(Notify::new());
    let reloader = Reloader {
        path: config_path,
        config,
        state: parts.state.clone(),
        member_ring: Arc::clone(&parts.member_ring),
        certificates: parts.certificates.clone(),
        members,
        seen: parts.seen.clone(),
        reloads,
    };
    maintenance.spawn(reloader.run(Arc::clone(&reload), asked_reloads));
    maintenance.spawn(sweep_uploads(parts.state.clone()));
    maintenance.spawn(settle_stand_ins(parts.state.clone()));
    parts.go.cancel();
    shown.readiness.begin();
    if !alone {
        admin.succeed()?;
        inheritance.announce().await;
        admin.serve();
    }
    let mut succession = JoinSet::new();
    let (offers, upgrades) = admin.successors();
    let state = parts.state.clone();
    succession.spawn(Succession { state, estate, started_as, offers, upgrades }.run());
    notify_manager(&ready_text());
    tracing::info!(version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), "ready");
    let heir = loop {
        tokio::select! {
            () = ended(&mut signals.terminate, &mut signals.interrupt) => break None,
            _ = signals.hangup.recv() => reload.notify_one(),
            Some(ended) = maintenance.join_next() => bail!("a part that must not end has ended: {ended:?}"),
            ended = admin.ended() => bail!("the admin listener has ended: {ended}"),
            Some(heir) = succession.join_next() => break Some(heir.context("the succession has ended")?),
            () = parts.stop.cancelled() => bail!("a listener has ended"),
        }
    };
    // The sockets that are kept for a successor would go on taking connections.
    succession.shutdown().await;
    if let Some(heir) = heir {
        admin.stop_serving().await;
        parts.stop.cancel();
        heir.confirm().await;
        tracing::info!("another process has taken over: what runs here ends");
    } else {
        shown.readiness.end();
        notify_manager(PROCESS_ENDS);
        tracing::info!(lead_time = ?shutdown.lead_time, "told to end: not ready any more");
        tokio::time::sleep(shutdown.lead_time).await;
    }
    drain(parts, &metrics, shutdown.grace_period, &mut signals).await;
    admin.end().await;
    Ok(())
}

/// What clients can make this process remember; docs/configuration.md says how the figures come about.
fn log_memory_bounds(config: &Config) {
    let limits = &config.server.limits;
    let connection = limits.connection_bytes_max();
    tracing::info!(
        connection_bytes_max = connection,
        connections_bytes_max = connection.saturating_mul(limits.connections_max),
        reader_bytes_max = READER_BYTES_MAX,
        content_bytes_max = config.verify.buffer_bytes_max,
        manifests_bytes_max = config.verify.manifest_buffer_bytes_max,
        windows_bytes_max = config.coalesce.window_bytes.saturating_mul(config.coalesce.windows_max),
        "memory bounds"
    );
}

fn what_is_shown(
    state: &GatewayState,
    hosts: Vec<String>,
    access_log_dropped: ErrorCounter,
    reloads: Arc<Reloads>,
) -> Arc<Admin> {
    let snapshot = Arc::clone(&state.snapshot);
    Arc::new(Admin {
        hosts,
        reloads,
        revoked_until: Box::new(move |subject| snapshot.load().revocations.get(subject).copied()),
        topology: Arc::clone(&state.topology),
        metrics: Arc::clone(&state.observers.metrics),
        readiness: Readiness::default(),
        started: Instant::now(),
        access_log_dropped,
    })
}

async fn settle_stand_ins(state: GatewayState) -> String {
    loop {
        tokio::time::sleep(SETTLE_EVERY).await;
        state.topology.load_full().pools.settle_stand_ins().await;
    }
}

async fn sweep_uploads(state: GatewayState) -> String {
    loop {
        tokio::time::sleep(UPLOAD_SWEEP).await;
        state.uploads.sweep(unix_now());
        state.upload_checks.sweep();
        // A retired member is not probed, which is where others have their idle connections closed.
        state.topology.load().pools.retired().for_each(|member| member.connections.sweep());
    }
}

/// Stops accepting and lets running requests end, up to the grace period or a second signal.
async fn drain(parts: &Parts, metrics: &Metrics, grace_period: Duration, signals: &mut Signals) {
    parts.stop.cancel();
    // A worker may have accepted a connection at this moment: it counts only when it is a task.
    parts.accepting.close();
    parts.accepting.wait().await;
    parts.connections.close();
    tokio::select! {
        () = parts.connections.wait() => tracing::info!("drained: every request has ended"),
        () = tokio::time::sleep(grace_period) => {
            let (connections, requests) = (metrics.connections.get(), metrics.requests_in_flight.get());
            tracing::warn!(connections, requests, "the grace period is over: cut what was still running");
        }
        () = ended(&mut signals.terminate, &mut signals.interrupt) => {
            let (connections, requests) = (metrics.connections.get(), metrics.requests_in_flight.get());
            tracing::warn!(connections, requests, "told to end at once: cut what was still running");
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

/// SIGTERM or SIGINT.
async fn ended(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Counts panics of connections; they end the connection, not the process.
fn count_panics(metrics: &Arc<Metrics>) {
    let metrics = Arc::clone(metrics);
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        metrics.panics.inc();
        tracing::error!(panic = %panic, "a task has panicked; this is a bug");
        before(panic);
    }));
}
