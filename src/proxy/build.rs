//! The gateway built of its components.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio_util::task::TaskTracker;

use super::Gateway;
use super::admission::Admission;
use super::answer::Answers;
use super::arrival::Arrivals;
use super::client_body::ReadAway;
use super::local::Endpoints;
use super::pins::Pins;
use super::record::Observers;
use super::route::Router;
use super::send::Sender;
use super::session::Sessions;
use super::uploads::OpenUploads;
use super::web::Portal;
use crate::content::{ContentChecks, Flights, UploadChecks};
use crate::forwarding::hosts::Hosts;
use crate::snapshot::Snapshot;
use crate::telemetry::AccessLog;
use crate::token_service::TokenService;
use crate::upstream::{CoalesceSettings, Topology, VerifySettings};

/// How the request path is set up.
pub struct GatewaySettings {
    /// The host names that are served.
    pub hosts: Hosts,
    /// What has to be right of content.
    pub verify: VerifySettings,
    /// Which reads of the same go to a member once.
    pub coalesce: CoalesceSettings,
    /// How long an upload session may go on after its start.
    pub upload_grace: Duration,
    /// How many open upload sessions are remembered.
    pub uploads_max: usize,
    /// The least rate of a client's body, in bytes per second; 0 for none.
    pub body_rate_min: u64,
    /// How many bytes of a refused body are read.
    pub refused_body_bytes_max: u64,
    /// How long a refused body is read.
    pub refused_body_timeout: Duration,
}

/// What the request path shares with the rest of the process: what is in force, and where things are counted.
#[derive(Clone)]
pub struct GatewayState {
    /// Pools, members and routes in force.
    pub topology: Arc<ArcSwap<Topology>>,
    /// Identities, policy and keys in force.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// The token endpoint.
    pub tokens: Arc<TokenService>,
    /// The open upload sessions.
    pub uploads: Arc<OpenUploads>,
    /// What has to be right of content that goes to members.
    pub upload_checks: Arc<UploadChecks>,
    /// Where requests are counted and logged.
    pub observers: Observers,
    /// Owns the tasks of the request path.
    pub tasks: TaskTracker,
}

impl GatewayState {
    /// The state of a gateway that has not answered anything yet.
    #[must_use]
    pub fn new(
        settings: &GatewaySettings,
        topology: Topology,
        snapshot: Snapshot,
        tokens: TokenService,
        access_log: AccessLog,
        tasks: TaskTracker,
    ) -> Self {
        let metrics = Arc::clone(tokens.metrics());
        let (uploads_max, grace) = (settings.uploads_max, settings.upload_grace);
        Self {
            topology: Arc::new(ArcSwap::from_pointee(topology)),
            snapshot: Arc::new(ArcSwap::from_pointee(snapshot)),
            tokens: Arc::new(tokens),
            uploads: Arc::new(OpenUploads::new(uploads_max, Arc::clone(&metrics))),
            upload_checks: Arc::new(UploadChecks::new(uploads_max, grace, Arc::clone(&metrics))),
            observers: Observers { metrics, access_log: Arc::new(access_log) },
            tasks,
        }
    }
}

impl Gateway {
    /// A gateway over this state.
    #[must_use]
    pub fn new(settings: &GatewaySettings, state: &GatewayState) -> Arc<Self> {
        let GatewayState { topology, snapshot, tokens, uploads, upload_checks, observers, tasks } =
            state.clone();
        let metrics = &observers.metrics;
        let host = settings.hosts.primary().to_owned();
        let pins = Pins { host: host.clone() };
        let checks = Arc::new(ContentChecks::new(&settings.verify, Arc::clone(metrics)));
        let sender = Arc::new(Sender {
            checks: Arc::clone(&checks),
            upload_checks: Arc::clone(&upload_checks),
            flights: Flights::new(&settings.coalesce),
            body_rate_min: settings.body_rate_min,
        });
        Arc::new(Self {
            service: tokens.settings().service.clone(),
            arrivals: Arrivals { hosts: settings.hosts.clone(), topology, state: snapshot },
            admission: Admission {
                tokens: Arc::clone(&tokens),
                pins: pins.clone(),
                metrics: Arc::clone(metrics),
            },
            router: Router {
                tokens: Arc::clone(&tokens),
                checks: Arc::clone(&checks),
                pins: pins.clone(),
                metrics: Arc::clone(metrics),
            },
            answers: Answers {
                tokens: Arc::clone(&tokens),
                sessions: Sessions { pins, uploads, upload_checks, grace: settings.upload_grace },
                checks,
                tasks: tasks.clone(),
            },
            endpoints: Endpoints { tokens: Arc::clone(&tokens), metrics: Arc::clone(metrics) },
            portal: Portal { tokens, sender: Arc::clone(&sender), host },
            sender,
            read_away: ReadAway {
                bytes_max: settings.refused_body_bytes_max,
                timeout: settings.refused_body_timeout,
                tasks,
            },
            observers,
        })
    }
}
