//! Small questions of the gateway's own to a member: probes, tokens, checks.
//!
//! Each goes over a connection of its own, outside the limit, so that a full or stuck pool can
//! neither make a member look sick nor keep anybody from logging in. How many there are at once is
//! bounded by whoever asks: by the budgets of logins, by the fetches of a node, or by the request
//! that waits for the answer.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, COOKIE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use tokio::time::{Instant, timeout_at};

use super::body::RequestBody;
use super::member::Member;
use crate::forwarding::response::check_head;

/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// A question.
pub(super) struct Question<'a> {
    /// GET, or HEAD where the answer's body is of no use.
    pub method: Method,
    /// Path and query.
    pub target: &'a str,
    /// Who asks.
    pub authorization: Option<HeaderValue>,
    /// What may be answered.
    pub accept: &'static str,
    /// A session to go on with.
    pub cookie: Option<HeaderValue>,
}

impl<'a> Question<'a> {
    /// A GET.
    pub(super) fn get(target: &'a str, authorization: Option<HeaderValue>) -> Self {
        Self { method: Method::GET, target, authorization, accept: "*/*", cookie: None }
    }
}

/// What was answered.
pub(super) struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// From the question to the head of the answer, connecting left out.
    pub took: Duration,
}

/// Asks.
///
/// # Errors
/// Why there was no answer, in words.
pub(super) async fn ask(member: &Member, question: Question<'_>, deadline: Instant) -> Result<Reply, String> {
    match timeout_at(deadline, exchange(member, question, deadline)).await {
        Ok(reply) => reply,
        Err(_) => Err("no answer in time".to_owned()),
    }
}

async fn exchange(member: &Member, question: Question<'_>, deadline: Instant) -> Result<Reply, String> {
    let mut sender = member.connections.connect_apart(deadline).await.map_err(|error| with_causes(&error))?;
    let mut request = Request::builder()
        .method(question.method)
        .uri(question.target)
        .header(HOST, &member.host)
        .header(USER_AGENT, concat!("tidegate/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, question.accept)
        .body(RequestBody::Empty)
        .map_err(|error| error.to_string())?;
    for (name, value) in [(AUTHORIZATION, question.authorization), (COOKIE, question.cookie)] {
        if let Some(value) = value {
            request.headers_mut().insert(name, value);
        }
    }
    let asked = Instant::now();
    let answer = sender.send_request(request).await.map_err(|error| with_causes(&error))?;
    let took = asked.elapsed();
    let (mut head, body) = answer.into_parts();
    check_head(&mut head).map_err(|problem| format!("its answer cannot be read: {problem}"))?;
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| format!("its answer cannot be read: {error}"))?.to_bytes();
    Ok(Reply { status: head.status, headers: head.headers, body, took })
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
