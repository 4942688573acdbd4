//! One line per request, on standard output. Never a token, password, `_state` or pin.

use std::io::Write as _;

use serde::Serialize;
use tracing_appender::non_blocking::NonBlocking;

use super::settings::LogFormat;

/// What is known of a request when it has ended.
#[derive(Debug, Clone, Serialize)]
pub struct AccessRecord<'a> {
    /// When the request ended, RFC 3339.
    pub time: String,
    /// The id that error bodies and `X-Request-Id` carry too.
    pub request_id: &'a str,
    /// Address of the client.
    pub client: String,
    /// Method.
    pub method: &'a str,
    /// Kind of the route.
    pub route: &'a str,
    /// Protocol version.
    pub version: &'a str,
    /// Status of the answer.
    pub status: u16,
    /// `provider/name`, or `anonymous`; absent before authentication.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<&'a str>,
    /// Tag or digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<&'a str>,
    /// The path of a page or an API request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<&'a str>,
    /// The pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<&'a str>,
    /// The member that answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member: Option<&'a str>,
    /// How many members were tried.
    pub tries: u32,
    /// Other members that were asked about a 404.
    #[serde(skip_serializing_if = "is_zero_u32")]
    pub confirmations: u32,
    /// Whether the content was verified before the answer began.
    #[serde(skip_serializing_if = "is_false")]
    pub verified: bool,
    /// Whether the answer was got by another request for the same.
    #[serde(skip_serializing_if = "is_false")]
    pub coalesced: bool,
    /// How often the answer went on from another member.
    #[serde(skip_serializing_if = "is_zero")]
    pub resumes: u64,
    /// Bytes that came from another member than the first.
    #[serde(skip_serializing_if = "is_zero")]
    pub resumed_bytes: u64,
    /// Times of the phases.
    #[serde(flatten)]
    pub phases: Phases,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// Why it ended: `done`, an error kind, `client_closed`, `member_closed`.
    pub end: &'a str,
    /// The unique name of the bearer token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jti: Option<&'a str>,
    /// The client program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<&'a str>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero_u32(number: &u32) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

/// Milliseconds from the request's head to the end of each phase.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Phases {
    /// Authenticated and authorised.
    #[serde(rename = "auth_ms", skip_serializing_if = "Option::is_none")]
    pub authorized: Option<f64>,
    /// Waited for a turn at the member that answered; not counted from the head.
    #[serde(rename = "queue_ms", skip_serializing_if = "Option::is_none")]
    pub queued: Option<f64>,
    /// Connected to the member that answered.
    #[serde(rename = "connect_ms", skip_serializing_if = "Option::is_none")]
    pub connected: Option<f64>,
    /// The member's answer began.
    #[serde(rename = "first_byte_ms", skip_serializing_if = "Option::is_none")]
    pub first_byte: Option<f64>,
    /// Everything.
    #[serde(rename = "total_ms")]
    pub total: f64,
}

/// Writes records without ever blocking; lines that do not fit the queue are counted and dropped.
#[derive(Debug)]
pub struct AccessLog {
    writer: Option<NonBlocking>,
    format: LogFormat,
}

impl AccessLog {
    /// A log to `writer`; `None` writes nothing.
    #[must_use]
    pub fn new(writer: Option<NonBlocking>, format: LogFormat) -> Self {
        Self { writer, format }
    }

    /// Writes one line.
    pub fn write(&self, record: &AccessRecord<'_>) {
        let Some(writer) = &self.writer else { return };
        let mut line = match self.format {
            LogFormat::Json => serde_json::to_vec(record).unwrap_or_default(),
            LogFormat::Text => text_line(record),
        };
        line.push(b'\n');
        // A full queue is counted by the writer itself.
        // The clone is a handle to the queue.
        drop(writer.clone().write_all(&line));
    }
}

fn text_line(record: &AccessRecord<'_>) -> Vec<u8> {
    let dash = |text: Option<&str>| text.unwrap_or("-").to_owned();
    format!(
        "{} {} {} {} {} {} {} {} {} {} in={} out={} {:.1}ms {}",
        record.time,
        record.request_id,
        record.client,
        dash(record.subject.as_deref()),
        record.method,
        record.route,
        dash(record.repository),
        dash(record.reference),
        record.status,
        dash(record.member),
        record.bytes_in,
        record.bytes_out,
        record.phases.total,
        record.end,
    )
    .into_bytes()
}
