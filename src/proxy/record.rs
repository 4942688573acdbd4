//! What is known of one request, and what is logged and counted of it when it ends. Nothing is decided by it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::USER_AGENT;
use http::{Method, Version, request};
use tokio::time::Instant;

use super::trail::Trail;
use crate::auth::subject::Subject;
use crate::content::Resumed;
use crate::forwarding::readable::text;
use crate::random::request_id;
use crate::registry::{Reference, RegistryRequest, RepositoryName, RouteKind};
use crate::telemetry::{AccessLog, AccessRecord, Direction, ErrorKind, GaugeGuard, Metrics, Phases};
use crate::upstream::Member;

/// Longest `User-Agent` that is logged, in bytes.
const USER_AGENT_BYTES_MAX: usize = 200;
/// Longest path that is logged, in characters.
const PATH_CHARS_MAX: usize = 200;

/// Where requests are counted and logged.
#[derive(Clone)]
pub struct Observers {
    /// Where they are counted.
    pub metrics: Arc<Metrics>,
    /// Where each has a line.
    pub access_log: Arc<AccessLog>,
}

/// What is known of one request.
pub struct RequestRecord {
    /// Its id, in the log and in every answer.
    pub id: Arc<str>,
    /// When its head had come.
    pub started: Instant,
    /// The client's side.
    pub client: ClientSide,
    /// What is asked for.
    pub target: TargetRecord,
    /// In whose name, as far as that is known.
    pub subject: Option<Subject>,
    /// The unique name of its token.
    pub jti: Option<String>,
    /// What came of it at members.
    pub trail: Trail,
    /// Times of the phases.
    pub phases: Phases,
    /// What was decided on its way.
    pub decisions: Decisions,
    /// Why it was refused.
    pub error: Option<ErrorKind>,
    observers: Observers,
    _in_flight: GaugeGuard,
}

/// The client's side of a request.
pub struct ClientSide {
    /// The client's address.
    pub peer: SocketAddr,
    /// Its method.
    pub method: Method,
    version: Version,
    user_agent: Option<String>,
}

/// What a request asks for.
#[derive(Default)]
pub struct TargetRecord {
    /// The kind of its route.
    pub route: RouteKind,
    /// The repository, where there is one.
    pub repository: Option<RepositoryName>,
    /// The tag or digest, where there is one.
    pub reference: Option<Reference>,
    /// The path, where it names no repository.
    pub path: Option<String>,
}

/// What was decided on a request's way.
#[derive(Debug, Default)]
pub struct Decisions {
    /// Whether the content was verified before the answer began.
    pub verified: bool,
    /// Whether the answer was got by another request.
    pub coalesced: bool,
    /// How the answer's content went on elsewhere; `None` where it cannot.
    pub resumed: Option<Arc<Resumed>>,
}

/// How an answer ended.
#[derive(Debug, Clone, Copy)]
pub struct AnswerEnd {
    /// Its status.
    pub status: u16,
    /// Bytes of the request's body that were read from the client.
    pub bytes_in: u64,
    /// Bytes of the answer's body that went to the client.
    pub bytes_out: u64,
    /// How its body ended.
    pub body: BodyEnd,
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

impl RequestRecord {
    /// The record of a request whose head has just come.
    #[must_use]
    pub fn new(peer: SocketAddr, head: &request::Parts, observers: &Observers) -> Self {
        let user_agent = head.headers.get(USER_AGENT).map(text).filter(|text| !text.is_empty());
        let user_agent = user_agent.map(|text| text.chars().take(USER_AGENT_BYTES_MAX).collect());
        Self {
            id: request_id().into(),
            started: Instant::now(),
            client: ClientSide { peer, method: head.method.clone(), version: head.version, user_agent },
            target: TargetRecord::default(),
            subject: None,
            jti: None,
            trail: Trail::default(),
            phases: Phases::default(),
            decisions: Decisions::default(),
            error: None,
            _in_flight: GaugeGuard::new(&observers.metrics.requests_in_flight),
            observers: observers.clone(),
        }
    }

    /// Notes what is asked for.
    pub fn note_target(&mut self, target: &RegistryRequest) {
        self.target.route = target.kind();
        self.target.repository = target.repository().cloned();
        self.target.reference = target.reference();
    }

    /// Notes the kind of a request that is none of a registry.
    pub fn note_route(&mut self, route: RouteKind) {
        self.target.route = route;
    }

    /// Notes the path of a page or an API request, as far as it is logged.
    pub fn note_path(&mut self, path: &str) {
        self.target.path = Some(path.chars().take(PATH_CHARS_MAX).collect());
    }

    /// Notes that the client may do what it asks for.
    pub fn note_authorized(&mut self) {
        self.phases.authorized = Some(self.elapsed_ms());
    }

    /// Notes what came of the request at members.
    pub fn note_trail(&mut self, trail: Trail) {
        let since_head = |at: Instant| milliseconds(at.saturating_duration_since(self.started));
        if let Some(times) = trail.times {
            self.phases.queued = Some(milliseconds(times.queued));
            self.phases.connected = Some(since_head(times.connected));
            self.phases.first_byte = Some(since_head(times.first_byte));
        }
        self.trail = trail;
    }

    /// Notes that the answer is another request's.
    pub fn note_shared(&mut self, member: &Arc<Member>) {
        self.trail.member = Some(Arc::clone(member));
        self.decisions.coalesced = true;
    }

    fn elapsed_ms(&self) -> f64 {
        milliseconds(self.started.elapsed())
    }

    /// Counts and logs the request.
    pub fn finish(mut self, ending: AnswerEnd) {
        let AnswerEnd { status, bytes_in, bytes_out, body } = ending;
        self.phases.total = self.elapsed_ms();
        let Self { client, target: asked, trail, decisions, observers, .. } = &self;
        let (metrics, member) = (&observers.metrics, trail.member.as_deref());
        let (of_member, took) = (member.map(|member| &member.metrics), self.started.elapsed());
        metrics.count_request(of_member, asked.route, &client.method, status, took);
        metrics.count_bytes(asked.route, Direction::In, bytes_in);
        metrics.count_bytes(asked.route, Direction::Out, bytes_out);
        let error = match body {
            BodyEnd::MemberClosed | BodyEnd::Corrupt => Some(ErrorKind::Upstream),
            BodyEnd::Reclaimed => Some(ErrorKind::RateLimited),
            BodyEnd::Done | BodyEnd::ClientClosed => self.error,
        };
        if let Some(kind) = error {
            metrics.count_error(kind);
        }
        let refused_as = error.filter(|_| body == BodyEnd::Done);
        observers.access_log.write(&AccessRecord {
            time: jiff::Timestamp::now().to_string(),
            request_id: &self.id,
            client: client.peer.to_string(),
            method: client.method.as_str(),
            route: asked.route.as_str(),
            version: version_word(client.version),
            status,
            subject: self.subject.as_ref().map(ToString::to_string),
            repository: asked.repository.as_ref().map(RepositoryName::as_str),
            reference: asked.reference.as_ref().map(Reference::as_str),
            path: asked.path.as_deref(),
            pool: member.map(|member| member.pool.as_str()),
            member: member.map(|member| member.name.as_str()),
            tries: trail.tries,
            confirmations: trail.confirmations,
            verified: decisions.verified,
            coalesced: decisions.coalesced,
            resumes: decisions.resumed.as_ref().map_or(0, |resumed| resumed.switches()),
            resumed_bytes: decisions.resumed.as_ref().map_or(0, |resumed| resumed.bytes()),
            phases: self.phases,
            bytes_in,
            bytes_out,
            end: refused_as.map_or(body.as_str(), ErrorKind::as_str),
            jti: self.jti.as_deref(),
            user_agent: client.user_agent.as_deref(),
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
