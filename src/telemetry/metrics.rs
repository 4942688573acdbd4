//! Every metric, with its labels and buckets. Label values come from enums and from the names of
//! pools and members in the configuration, never from requests.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus::{
    Encoder, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, TextEncoder,
};

use super::failover::{ContentFault, FailoverMetrics, MemberFailover, PoolMetrics, Unverified};
use super::labels::{
    CertificateLabel, Direction, ErrorKind, IdentityFault, MemberStatus, PinEvent, ProbeResult, ReloadResult,
    TokenRefusal,
};
use super::make::Maker;
use crate::registry::RouteKind;

/// Statuses with a counter of their own; anything else counts under its hundred.
const STATUSES: [u16; 30] = [
    200, 201, 202, 204, 206, 301, 302, 304, 307, 308, 400, 401, 403, 404, 405, 408, 409, 413, 416, 421, 429,
    500, 502, 503, 504, 100, 299, 399, 499, 599,
];
/// Methods with a label of their own.
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "other"];

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    first_byte: HistogramVec,
    bytes_in: [IntCounter; RouteKind::ALL.len()],
    bytes_out: [IntCounter; RouteKind::ALL.len()],
    durations: [Histogram; RouteKind::ALL.len()],
    local: StatusCounters,
    errors: IntCounterVec,
    member_state: IntGaugeVec,
    member_in_flight: IntGaugeVec,
    member_connections: IntGaugeVec,
    member_draining: IntGaugeVec,
    member_uploads: IntGaugeVec,
    probes: IntCounterVec,
    tokens_refused: IntCounterVec,
    pins: IntCounterVec,
    certificate_expiry: IntGaugeVec,
    identity_faults: IntCounterVec,
    reloads: IntCounterVec,
    failover: FailoverMetrics,
    /// Requests that have not ended.
    pub requests_in_flight: IntGauge,
    /// Open downstream connections.
    pub connections: IntGauge,
    /// TLS handshakes that failed or took too long.
    pub handshakes_failed: IntCounter,
    /// Connections that were ended because a head, handshake or idle deadline passed.
    pub connections_timed_out: IntCounter,
    /// Tasks of connections that panicked.
    pub panics: IntCounter,
    /// Client tokens issued.
    pub tokens_issued: IntCounter,
    /// Requests that carried a token of our issuer under an unknown key.
    pub foreign_keys: IntCounter,
    /// Requests of an upload session that went on after their bearer's end.
    pub upload_grace: IntCounter,
    /// Upload sessions whose hash was forgotten because there were too many.
    pub upload_hashes_evicted: IntCounter,
    /// Generation of the configuration in force.
    pub generation: IntGauge,
    /// Access log lines that were dropped.
    pub access_log_dropped: IntGauge,
}

/// Counters of one pool and member, by route, method and status; each is looked up once.
#[derive(Debug)]
struct StatusCounters {
    pool: String,
    member: String,
    cells: Box<[OnceLock<IntCounter>]>,
}

/// The handles of one member.
#[derive(Debug)]
pub struct MemberMetrics {
    counters: StatusCounters,
    first_byte: Histogram,
    state: [IntGauge; MemberStatus::ALL.len()],
    probes: [IntCounter; 3],
    failover: MemberFailover,
    /// Requests at the member.
    pub in_flight: IntGauge,
    /// Open connections to the member.
    pub connections: IntGauge,
    /// 1 while it gets no new work.
    pub draining: IntGauge,
    /// Open upload sessions at the member.
    pub open_uploads: IntGauge,
}

/// Keeps a gauge one higher while it lives.
#[derive(Debug)]
pub struct GaugeGuard(IntGauge);

impl GaugeGuard {
    /// Raises `gauge` until the guard is dropped.
    #[must_use]
    pub fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl StatusCounters {
    fn new(pool: &str, member: &str) -> Self {
        let cells = RouteKind::ALL.len() * METHODS.len() * STATUSES.len();
        Self {
            pool: pool.to_owned(),
            member: member.to_owned(),
            cells: (0..cells).map(|_| OnceLock::new()).collect(),
        }
    }

    fn count(&self, requests: &IntCounterVec, route: RouteKind, method: &http::Method, status: u16) {
        let method = METHODS.iter().position(|word| *word == method.as_str()).unwrap_or(METHODS.len() - 1);
        let of_hundred = status / 100 * 100 + 99;
        let find = |wanted: u16| STATUSES.iter().position(|status| *status == wanted);
        let at = find(status).or_else(|| find(of_hundred)).unwrap_or(STATUSES.len() - 1);
        let cell = (route as usize * METHODS.len() + method) * STATUSES.len() + at;
        let Some(cell) = self.cells.get(cell) else { return };
        cell.get_or_init(|| {
            let status = STATUSES[at].to_string();
            requests.with_label_values(&[route.as_str(), METHODS[method], &status, &self.pool, &self.member])
        })
        .inc();
    }
}

impl Metrics {
    #[expect(clippy::too_many_lines, reason = "a flat table of metrics, one entry each")]
    /// Makes and registers every metric.
    ///
    /// # Errors
    /// When two metrics have one name, which a test rules out.
    pub fn new() -> Result<Arc<Self>, prometheus::Error> {
        let registry = Registry::new();
        let make = Maker(&registry);
        let requests = make.counters(
            "tidegate_requests_total",
            "Requests that have ended, by the member that answered (empty: answered by the gateway)",
            &["route", "method", "status", "pool", "member"],
        )?;
        let duration = make.histograms(
            "tidegate_request_duration_seconds",
            "From a request's head to its end",
            &["route"],
        )?;
        let bytes = make.counters(
            "tidegate_body_bytes_total",
            "Bytes of bodies, seen from the client",
            &["route", "direction"],
        )?;
        let of_routes = |direction: &str| {
            RouteKind::ALL.map(|route| bytes.with_label_values(&[route.as_str(), direction]))
        };
        Ok(Arc::new(Self {
            bytes_in: of_routes("in"),
            bytes_out: of_routes("out"),
            durations: RouteKind::ALL.map(|route| duration.with_label_values(&[route.as_str()])),
            local: StatusCounters::new("", ""),
            requests,
            first_byte: make.histograms(
                "tidegate_first_byte_seconds",
                "From sending a request to a member to the head of its answer",
                &["pool", "member"],
            )?,
            errors: make.counters(
                "tidegate_errors_total",
                "Requests that were refused or broken off, by kind",
                &["kind"],
            )?,
            member_state: make.gauges(
                "tidegate_member_state",
                "1 for the state that a member is in",
                &["pool", "member", "state"],
            )?,
            member_in_flight: make.gauges(
                "tidegate_member_requests_in_flight",
                "Requests at a member",
                &["pool", "member"],
            )?,
            member_connections: make.gauges(
                "tidegate_member_connections",
                "Open connections to a member",
                &["pool", "member"],
            )?,
            member_draining: make.gauges(
                "tidegate_member_draining",
                "1 while a member is being drained",
                &["pool", "member"],
            )?,
            member_uploads: make.gauges(
                "tidegate_member_open_uploads",
                "Upload sessions that are open at a member",
                &["pool", "member"],
            )?,
            probes: make.counters(
                "tidegate_probes_total",
                "Health probes, by result",
                &["pool", "member", "result"],
            )?,
            tokens_refused: make.counters(
                "tidegate_tokens_refused_total",
                "Token requests that were refused, by reason",
                &["reason"],
            )?,
            pins: make.counters("tidegate_upload_pins_total", "Upload sessions, by event", &["event"])?,
            certificate_expiry: make.gauges(
                "tidegate_certificate_expiry_timestamp_seconds",
                "When a certificate ends, seconds since the epoch",
                &["certificate"],
            )?,
            identity_faults: make.counters(
                "tidegate_identity_faults_total",
                "Logins that Harbor nodes could not judge, by reason",
                &["reason"],
            )?,
            reloads: make.counters("tidegate_reloads_total", "Reloads, by result", &["result"])?,
            failover: FailoverMetrics::new(&make)?,
            requests_in_flight: make.gauge("tidegate_requests_in_flight", "Requests that have not ended")?,
            connections: make.gauge("tidegate_connections", "Open downstream connections")?,
            handshakes_failed: make.counter(
                "tidegate_tls_handshakes_failed_total",
                "TLS handshakes that failed or took too long",
            )?,
            connections_timed_out: make.counter(
                "tidegate_connections_timed_out_total",
                "Downstream connections ended by a deadline",
            )?,
            panics: make.counter("tidegate_panics_total", "Requests that ended by a panic; each is a bug")?,
            tokens_issued: make.counter("tidegate_tokens_issued_total", "Client tokens issued")?,
            foreign_keys: make.counter(
                "tidegate_foreign_key_tokens_total",
                "Tokens of our issuer under a key that is not in the ring",
            )?,
            upload_hashes_evicted: make.counter(
                "tidegate_upload_hashes_evicted_total",
                "Open uploads that cannot be verified at their end, because more were open than are remembered",
            )?,
            upload_grace: make.counter(
                "tidegate_upload_grace_requests_total",
                "Upload requests that went on after their bearer's end",
            )?,
            generation: make
                .gauge("tidegate_config_generation", "Generation of the configuration in force")?,
            access_log_dropped: make.gauge(
                "tidegate_access_log_dropped_lines",
                "Access log lines dropped because the queue was full",
            )?,
            registry,
        }))
    }

    /// Everything in the Prometheus text format.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(16 * 1024);
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics cannot be encoded");
        }
        text
    }

    /// The handles of a member.
    #[must_use]
    pub fn member(&self, pool: &str, member: &str) -> MemberMetrics {
        let results = [ProbeResult::Healthy, ProbeResult::Failed, ProbeResult::CredentialFault];
        MemberMetrics {
            counters: StatusCounters::new(pool, member),
            first_byte: self.first_byte.with_label_values(&[pool, member]),
            state: MemberStatus::ALL
                .map(|state| self.member_state.with_label_values(&[pool, member, state.as_str()])),
            probes: results.map(|result| self.probes.with_label_values(&[pool, member, result.as_str()])),
            in_flight: self.member_in_flight.with_label_values(&[pool, member]),
            connections: self.member_connections.with_label_values(&[pool, member]),
            failover: self.failover.member(pool, member),
            draining: self.member_draining.with_label_values(&[pool, member]),
            open_uploads: self.member_uploads.with_label_values(&[pool, member]),
        }
    }

    /// The handles of a pool.
    #[must_use]
    pub fn pool(&self, pool: &str) -> PoolMetrics {
        self.failover.pool(pool)
    }

    /// Counts content that went by unverified.
    pub fn count_unverified(&self, reason: Unverified) {
        self.failover.count_unverified(reason);
    }

    /// Counts a request that has ended; `member` is the one that answered.
    pub fn count_request(
        &self,
        member: Option<&MemberMetrics>,
        route: RouteKind,
        method: &http::Method,
        status: u16,
        duration: Duration,
    ) {
        let counters = member.map_or(&self.local, |member| &member.counters);
        counters.count(&self.requests, route, method, status);
        self.durations[route as usize].observe(duration.as_secs_f64());
    }

    /// Counts bytes of bodies.
    pub fn count_bytes(&self, route: RouteKind, direction: Direction, bytes: u64) {
        let counters = match direction {
            Direction::In => &self.bytes_in,
            Direction::Out => &self.bytes_out,
        };
        counters[route as usize].inc_by(bytes);
    }

    /// Counts a refused or broken request.
    pub fn count_error(&self, kind: ErrorKind) {
        self.errors.with_label_values(&[kind.as_str()]).inc();
    }

    /// Counts a refused token request.
    pub fn count_token_refusal(&self, reason: TokenRefusal) {
        self.tokens_refused.with_label_values(&[reason.as_str()]).inc();
    }

    /// Counts a login at a Harbor node that could not be judged.
    pub fn count_identity_fault(&self, fault: IdentityFault) {
        self.identity_faults.with_label_values(&[fault.as_str()]).inc();
    }

    /// Counts what became of upload sessions.
    pub fn count_pins(&self, event: PinEvent, how_many: u64) {
        self.pins.with_label_values(&[event.as_str()]).inc_by(how_many);
    }

    /// Counts a reload.
    pub fn count_reload(&self, result: ReloadResult) {
        let word = match result {
            ReloadResult::Applied => "applied",
            ReloadResult::Refused => "refused",
        };
        self.reloads.with_label_values(&[word]).inc();
    }

    /// Says when a certificate ends.
    pub fn set_certificate_expiry(&self, certificate: &CertificateLabel, timestamp: i64) {
        self.certificate_expiry.with_label_values(&[certificate.0.as_str()]).set(timestamp);
    }
}

impl MemberMetrics {
    /// Says which state the member is in.
    pub fn set_state(&self, status: MemberStatus) {
        for (state, gauge) in MemberStatus::ALL.iter().zip(&self.state) {
            gauge.set(i64::from(*state == status));
        }
    }

    /// Says that there is no such member any more.
    pub fn clear(&self) {
        self.state.iter().for_each(|gauge| gauge.set(0));
        self.draining.set(0);
    }

    /// Counts a probe.
    pub fn count_probe(&self, result: ProbeResult) {
        self.probes[result as usize].inc();
    }

    /// Counts an ejection.
    pub fn count_ejection(&self) {
        self.failover.ejections.inc();
    }

    /// Notes how long a request waited for a connection.
    pub fn observe_queue(&self, time: Duration) {
        self.failover.queued.observe(time.as_secs_f64());
    }

    /// Counts content that is not what its digest says.
    pub fn count_content_fault(&self, fault: ContentFault) {
        self.failover.faults[fault as usize].inc();
    }

    /// Notes how long the member's answer took to begin.
    pub fn observe_first_byte(&self, time: Duration) {
        self.first_byte.observe(time.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_under_their_labels() {
        let metrics = Metrics::new().expect("unique names");
        let member = metrics.member("main", "node1");
        let one = Duration::from_millis(1);
        for status in [200, 200, 418, 799] {
            metrics.count_request(Some(&member), RouteKind::Blob, &http::Method::GET, status, one);
        }
        metrics.count_request(None, RouteKind::Other, &http::Method::TRACE, 404, one);
        member.set_state(MemberStatus::Unhealthy);
        let text = String::from_utf8(metrics.encode()).expect("text");
        for line in [
            r#"tidegate_requests_total{member="node1",method="GET",pool="main",route="blob",status="200"} 2"#,
            r#"tidegate_requests_total{member="node1",method="GET",pool="main",route="blob",status="499"} 1"#,
            r#"tidegate_requests_total{member="node1",method="GET",pool="main",route="blob",status="599"} 1"#,
            r#"tidegate_requests_total{member="",method="other",pool="",route="other",status="404"} 1"#,
            r#"tidegate_member_state{member="node1",pool="main",state="unhealthy"} 1"#,
            r#"tidegate_member_state{member="node1",pool="main",state="healthy"} 0"#,
        ] {
            assert!(text.lines().any(|seen| seen == line), "{line} is missing from\n{text}");
        }
    }
}
