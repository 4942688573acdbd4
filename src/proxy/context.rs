//! What is known of one request while it lives, and what is said of it when it ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::USER_AGENT;
use http::{HeaderMap, Method, Version};
use tokio::time::Instant;

use super::send::Trail;
use crate::auth::subject::Subject;
use crate::content::Resumed;
use crate::forwarding::readable::text;
use crate::random::request_id;
use crate::registry::{Reference, RegistryRequest, RepositoryName, RouteKind};
use crate::telemetry::{AccessLog, AccessRecord, Direction, ErrorKind, GaugeGuard, Metrics, Phases};
use crate::upstream::{BodyProgress, Member};

/// Longest `User-Agent` that is logged, in bytes.
const USER_AGENT_BYTES_MAX: usize = 200;
/// Longest path that is logged, in characters.
const PATH_CHARS_MAX: usize = 200;

/// The connection that a request came on.
#[derive(Debug, Clone)]
pub struct ConnectionInfo {
    /// Which worker serves it.
    pub worker: usize,
    /// The client's address.
    pub peer: SocketAddr,
    /// Whether it is TLS.
    pub tls: bool,
    /// Whether credentials may be sent on it.
    pub credentials_allowed: bool,
}

/// What is known of one request.
pub struct RequestContext {
    /// Its id, in the log and in every answer.
    pub id: Arc<str>,
    /// Where it came from.
    pub connection: ConnectionInfo,
    /// When its head had come.
    pub started: Instant,
    /// Its method.
    pub method: Method,
    /// The kind of its route.
    pub route: RouteKind,
    /// The repository, where there is one.
    pub repository: Option<RepositoryName>,
    /// The tag or digest, where there is one.
    pub reference: Option<Reference>,
    /// The path, where it names no repository.
    pub path: Option<String>,
    /// Who sent it.
    pub subject: Option<Subject>,
    /// The unique name of its token.
    pub jti: Option<String>,
    /// The member that answered.
    pub member: Option<Arc<Member>>,
    /// How many members were tried.
    pub tries: u32,
    /// Times of the phases.
    pub phases: Phases,
    /// How far its body is.
    pub progress: Arc<BodyProgress>,
    /// What was decided on its way, for the log.
    pub decisions: Decisions,
    /// Why it was refused.
    pub error: Option<ErrorKind>,
    version: Version,
    user_agent: Option<String>,
    metrics: Arc<Metrics>,
    access_log: Arc<AccessLog>,
    _in_flight: GaugeGuard,
}

/// What was decided on a request's way.
#[derive(Debug, Default)]
pub struct Decisions {
    /// Other members that were asked about a 404.
    pub confirmations: u32,
    /// Whether the content was verified before the answer began.
    pub verified: bool,
    /// Whether the answer was got by another request.
    pub coalesced: bool,
    /// How the answer's content went on elsewhere; `None` where it cannot.
    pub resumed: Option<Arc<Resumed>>,
}

/// How an answer's body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyEnd {
    /// It was sent whole.
    Done,
    /// The client went away before.
    ClientClosed,
    /// The member broke off or stalled.
    MemberClosed,
    /// Its connection was given to a client that waited, and its own turn did not come again.
    Reclaimed,
    /// The content was not what its digest says.
    Corrupt,
}

impl BodyEnd {
    fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::ClientClosed => "client_closed",
            Self::MemberClosed => "member_closed",
            Self::Reclaimed => "reclaimed",
            Self::Corrupt => "corrupt",
        }
    }
}

impl RequestContext {
    /// The context of a request whose head has just come.
    #[must_use]
    pub fn new(
        connection: ConnectionInfo,
        head: (&Method, Version, &HeaderMap),
        (metrics, access_log): (&Arc<Metrics>, &Arc<AccessLog>),
    ) -> Self {
        let (method, version, headers) = head;
        let user_agent = headers.get(USER_AGENT).map(text).filter(|text| !text.is_empty());
        Self {
            id: request_id().into(),
            connection,
            started: Instant::now(),
            method: method.clone(),
            route: RouteKind::Other,
            repository: None,
            reference: None,
            path: None,
            subject: None,
            jti: None,
            member: None,
            tries: 0,
            phases: Phases::default(),
            progress: Arc::default(),
            decisions: Decisions::default(),
            error: None,
            version,
            user_agent: user_agent.map(|text| text.chars().take(USER_AGENT_BYTES_MAX).collect()),
            metrics: Arc::clone(metrics),
            access_log: Arc::clone(access_log),
            _in_flight: GaugeGuard::new(&metrics.requests_in_flight),
        }
    }

    /// Notes what is asked for.
    pub fn note_target(&mut self, target: &RegistryRequest) {
        self.route = target.kind();
        self.repository = target.repository().cloned();
        self.reference = target.reference();
    }

    /// Notes the path of a page or an API request, as far as it is logged.
    pub fn note_path(&mut self, path: &str) {
        self.path = Some(path.chars().take(PATH_CHARS_MAX).collect());
    }

    /// Milliseconds since the request's head.
    #[must_use]
    pub fn elapsed_ms(&self) -> f64 {
        milliseconds(self.started.elapsed())
    }

    /// Notes what came of the request at members.
    pub(super) fn note_trail(&mut self, trail: Trail) {
        let since_head = |at: Instant| milliseconds(at.saturating_duration_since(self.started));
        if let Some(times) = trail.times {
            self.phases.queued = Some(milliseconds(times.queued));
            self.phases.connected = Some(since_head(times.connected));
            self.phases.first_byte = Some(since_head(times.first_byte));
        }
        self.tries = trail.tries;
        self.decisions.confirmations = trail.confirmations;
        self.member = trail.member;
    }

    /// Counts and logs the request. `bytes_out` is what went to the client of the answer's body.
    pub fn finish(mut self, status: u16, bytes_out: u64, end: BodyEnd) {
        let bytes_in = self.progress.bytes();
        self.phases.total = self.elapsed_ms();
        let member = self.member.as_deref();
        let labels = (self.route, &self.method, status);
        self.metrics.count_request(member.map(|member| &member.metrics), labels, self.started.elapsed());
        self.metrics.count_bytes(self.route, Direction::In, bytes_in);
        self.metrics.count_bytes(self.route, Direction::Out, bytes_out);
        let error = match end {
            BodyEnd::MemberClosed | BodyEnd::Corrupt => Some(ErrorKind::Upstream),
            BodyEnd::Reclaimed => Some(ErrorKind::RateLimited),
            BodyEnd::Done | BodyEnd::ClientClosed => self.error,
        };
        if let Some(kind) = error {
            self.metrics.count_error(kind);
        }
        self.access_log.write(&AccessRecord {
            time: jiff::Timestamp::now().to_string(),
            request_id: &self.id,
            client: self.connection.peer.to_string(),
            method: self.method.as_str(),
            route: self.route.as_str(),
            version: version_word(self.version),
            status,
            subject: self.subject.as_ref().map(ToString::to_string),
            repository: self.repository.as_ref().map(RepositoryName::as_str),
            reference: self.reference.as_ref().map(Reference::as_str),
            path: self.path.as_deref(),
            pool: member.map(|member| member.pool.as_str()),
            member: member.map(|member| member.name.as_str()),
            tries: self.tries,
            confirmations: self.decisions.confirmations,
            verified: self.decisions.verified,
            coalesced: self.decisions.coalesced,
            resumes: self.decisions.resumed.as_ref().map_or(0, |resumed| resumed.switches()),
            resumed_bytes: self.decisions.resumed.as_ref().map_or(0, |resumed| resumed.bytes()),
            phases: self.phases,
            bytes_in,
            bytes_out,
            end: error
                .map_or(end.as_str(), |kind| if end == BodyEnd::Done { kind.as_str() } else { end.as_str() }),
            jti: self.jti.as_deref(),
            user_agent: self.user_agent.as_deref(),
        });
    }
}

/// In whole microseconds: what is finer is noise.
fn milliseconds(time: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "no request takes 285 years")]
    let microseconds = time.as_micros() as f64;
    microseconds / 1000.0
}

fn version_word(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "h2",
        Version::HTTP_10 => "http/1.0",
        _ => "http/1.1",
    }
}
