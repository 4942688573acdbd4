//! The gateway in the test's own process: built from a configuration text by the same parts as the program, so that a test can have
//! hundreds of them, each with members, health and connections of its own. It has no prober, no admin listener and no signals: members
//! are probed once, when it starts.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tidegate::app::RequestPath;
use tidegate::config::{self, Config};
use tidegate::key_store;
use tidegate::proxy::{ConnectionInfo, Gateway};
use tidegate::random::unix_now;
use tidegate::server::{Accepted, Acceptor, Certificates, Families, Listener, ListenerKind, bind};
use tidegate::telemetry::{AccessLog, Metrics};
use tidegate::upstream::{BodyError, Topology, probe};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What nobody needs any more has ended by then, refused bodies that are read on (`refused_body_timeout`) included.
const LEFTOVERS_END_WITHIN: Duration = Duration::from_secs(15);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A gateway with one TLS listener.
pub(crate) struct InlineGateway {
    address: SocketAddr,
    topology: Arc<Topology>,
    metrics: Arc<Metrics>,
    connections: TaskTracker,
    upstream: TaskTracker,
    stop: CancellationToken,
    listeners: JoinSet<std::io::Result<()>>,
}

/// Reads a configuration as the program does. The keys it names are made where there are none.
pub(crate) fn load_config(text: &str, path: &Path) -> Config {
    std::fs::write(path, text).expect("a configuration file");
    let loaded = config::load(path).unwrap_or_else(|errors| panic!("{errors}\n{text}"));
    let config = loaded.config;
    let (keys, seals) = (&config.tokens.keys, &config.uploads.seal_keys);
    key_store::ensure(keys, seals, config.tokens.algorithm, config.tokens.replicas, unix_now())
        .expect("keys can be made");
    config
}

impl InlineGateway {
    /// Starts a gateway on a port of its own, and probes every member once.
    pub(crate) async fn start(config: &Config) -> Self {
        let metrics = Metrics::new().expect("metrics of one's own");
        let upstream = TaskTracker::new();
        let (gateway, topology) = build(config, &metrics, upstream.clone());
        let (connections, stop) = (TaskTracker::new(), CancellationToken::new());
        let socket = bind(SocketAddr::from(([127, 0, 0, 1], 0)), Families::Both).expect("a free port");
        let address = socket.local_addr().expect("a bound socket has an address");
        let listener = Listener::from_socket(socket).expect("a usable socket");
        let acceptor = Acceptor {
            tls: Some(server_config(config)),
            redirect: None,
            plaintext_credentials: false,
            limits: config.server.limits.clone(),
            body_idle_timeout: config.pools[0].limits.body_idle_timeout,
            permits: Arc::new(Semaphore::new(config.server.limits.connections_max)),
            metrics: Arc::clone(&metrics),
            connections: connections.clone(),
            stop: stop.clone(),
        };
        let mut listeners = JoinSet::new();
        listeners.spawn(serve(listener, acceptor, gateway));
        let members: Vec<_> = topology.pools.members().cloned().collect();
        for member in members {
            probe::probe_once(&member).await;
        }
        Self { address, topology, metrics, connections, upstream, stop, listeners }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting and waits until every connection, up and down, and every task has ended.
    ///
    /// # Errors
    /// What is left over although nothing of it is needed any more.
    pub(crate) async fn stop(mut self) -> Result<(), String> {
        self.stop.cancel();
        while self.listeners.join_next().await.is_some() {}
        self.connections.close();
        self.upstream.close();
        let deadline = Instant::now() + LEFTOVERS_END_WITHIN;
        loop {
            // A connection that a request has just given back is idle, which is no leftover.
            self.topology.pools.members().for_each(|member| member.connections.close_idle());
            let left = self.leftovers();
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(left.join(", "));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        let mut note = |what: &str, count: i64| {
            if count != 0 {
                left.push(format!("{count} {what}"));
            }
        };
        note("requests in flight", self.metrics.requests_in_flight.get());
        note("downstream connections", self.metrics.connections.get());
        note("connection tasks", i64::try_from(self.connections.len()).unwrap_or(i64::MAX));
        note("upstream tasks", i64::try_from(self.upstream.len()).unwrap_or(i64::MAX));
        for member in self.topology.pools.members() {
            note("requests at a member", member.metrics.in_flight.get());
            note("connections to a member", member.metrics.connections.get());
            note("load at a member", i64::try_from(member.in_flight()).unwrap_or(i64::MAX));
        }
        note("panics", i64::try_from(self.metrics.panics.get()).unwrap_or(i64::MAX));
        left
    }
}

fn build(config: &Config, metrics: &Arc<Metrics>, tasks: TaskTracker) -> (Arc<Gateway>, Arc<Topology>) {
    let access_log = AccessLog::new(None, config.log.format);
    let path = RequestPath::build(config, metrics, access_log, tasks);
    let RequestPath { gateway, state, .. } = path.expect("identities, policy, keys and members");
    (gateway, state.topology.load_full())
}

fn server_config(config: &Config) -> Arc<rustls::ServerConfig> {
    let tls = config.server.listeners.iter().find_map(|listener| match &listener.kind {
        ListenerKind::Tls(tls) => Some(tls),
        ListenerKind::Plain { .. } | ListenerKind::Redirect => None,
    });
    let certificates = Certificates::load(tls.expect("a TLS listener")).expect("a certificate and its key");
    certificates.server_config().expect("a usable certificate")
}

async fn serve(listener: Listener, acceptor: Acceptor, gateway: Arc<Gateway>) -> std::io::Result<()> {
    let handler = move |request, accepted: Accepted| {
        let connection = ConnectionInfo {
            worker: 0,
            peer: accepted.peer,
            tls: accepted.tls,
            credentials_allowed: accepted.credentials_allowed,
        };
        Arc::clone(&gateway).handle(request, connection)
    };
    listener.run(acceptor, handler, BodyError::resets_connection).await
}
