//! One exchange: what is asked, what a real node answered, and what is the same in all of its answers: nginx's own headers, a request
//! id, a session cookie for whoever brought none.

use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use http::Method;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use serde_json::Value;

use crate::harness::client::{Answer, TestClient, whole};

/// The scope of the challenge that everybody gets whose credential did not do.
pub(super) const BASIC: &str = "Basic realm=\"harbor\"";
const JSON_UTF8: &str = "application/json; charset=utf-8";
/// The statuses to which nginx's `add_header` adds.
const FRAMED: [u16; 10] = [200, 201, 204, 206, 301, 302, 303, 304, 307, 308];

/// Who wrote an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Core,
    /// Core, asked past nginx.
    CoreItself,
    /// A page of nginx or a file of the portal.
    Nginx,
}

/// Whether an answer sets a session cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sid {
    New,
    None,
    Cleared,
}

/// An exchange with its number in the recordings, or its name.
#[derive(Debug)]
pub(super) struct Case {
    id: String,
    client: TestClient,
    method: Method,
    target: String,
    headers: Vec<(String, String)>,
    body: Bytes,
    origin: Origin,
    sid: Sid,
    status: Option<u16>,
    wanted: Vec<(String, String)>,
    absent: Vec<&'static str>,
    text: Option<String>,
    code: Option<String>,
}

impl Case {
    pub(super) fn new(
        id: impl Into<String>,
        method: Method,
        client: &TestClient,
        target: impl Into<String>,
    ) -> Self {
        Self {
            id: id.into(),
            client: client.clone(),
            method,
            target: target.into(),
            headers: Vec::new(),
            body: Bytes::new(),
            origin: Origin::Core,
            sid: Sid::New,
            status: None,
            wanted: Vec::new(),
            absent: Vec::new(),
            text: None,
            code: None,
        }
    }

    pub(super) fn get(id: impl Into<String>, client: &TestClient, target: impl Into<String>) -> Self {
        Self::new(id, Method::GET, client, target)
    }

    pub(super) fn head(id: impl Into<String>, client: &TestClient, target: impl Into<String>) -> Self {
        Self::new(id, Method::HEAD, client, target)
    }

    pub(super) fn post(id: impl Into<String>, client: &TestClient, target: impl Into<String>) -> Self {
        Self::new(id, Method::POST, client, target)
    }

    pub(super) fn put(id: impl Into<String>, client: &TestClient, target: impl Into<String>) -> Self {
        Self::new(id, Method::PUT, client, target)
    }

    pub(super) fn patch(id: impl Into<String>, client: &TestClient, target: impl Into<String>) -> Self {
        Self::new(id, Method::PATCH, client, target)
    }

    pub(super) fn delete(id: impl Into<String>, client: &TestClient, target: impl Into<String>) -> Self {
        Self::new(id, Method::DELETE, client, target)
    }

    /// A header of the request.
    pub(super) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(super) fn body(mut self, content_type: &str, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self.with("content-type", content_type)
    }

    /// A part of a blob.
    pub(super) fn octets(self, body: impl Into<Bytes>) -> Self {
        self.body("application/octet-stream", body)
    }

    pub(super) fn at_core(mut self) -> Self {
        self.origin = Origin::CoreItself;
        self
    }

    /// nginx itself answers with this page.
    pub(super) fn page_of_nginx(mut self, status: u16, title: &str) -> Self {
        self.origin = Origin::Nginx;
        self.sid = Sid::None;
        let title = format!("<head><title>{status} {title}</title></head>");
        self.status(status).says("content-type", "text/html").contains(&title).lacks("x-request-id")
    }

    /// A file of the portal.
    pub(super) fn portal(mut self, content_type: &str) -> Self {
        self.origin = Origin::Nginx;
        self.sid = Sid::None;
        self.status(200).says("content-type", content_type).lacks("x-request-id")
    }

    /// No session cookie is set: there is one already, or core stops before it makes one.
    pub(super) fn sets_no_sid(mut self) -> Self {
        self.sid = Sid::None;
        self
    }

    pub(super) fn clears_sid(mut self) -> Self {
        self.sid = Sid::Cleared;
        self
    }

    pub(super) fn status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }

    pub(super) fn says(mut self, name: &str, value: impl Into<String>) -> Self {
        self.wanted.push((name.to_owned(), value.into()));
        self
    }

    pub(super) fn lacks(mut self, name: &'static str) -> Self {
        self.absent.push(name);
        self
    }

    /// The body is this, to the letter.
    pub(super) fn text(mut self, text: impl Into<String>) -> Self {
        self.text = Some(text.into());
        self
    }

    fn contains(mut self, text: &str) -> Self {
        self.code = Some(text.to_owned());
        self
    }

    /// An answer of the registry behind, or of core pretending to be one.
    pub(super) fn of_registry(self) -> Self {
        self.says("docker-distribution-api-version", "registry/2.0")
    }

    /// Core's own error.
    pub(super) fn error(self, status: u16, code: &str, message: &str) -> Self {
        let text = format!(
            "{{\"errors\":[{{\"code\":{},\"message\":{}}}]}}\n",
            Value::from(code),
            Value::from(message)
        );
        self.status(status).says("content-type", JSON_UTF8).text(text)
    }

    /// An error list with this code first; the registry adds details of its own.
    pub(super) fn code(self, status: u16, code: &str) -> Self {
        self.status(status)
            .contains(&format!("{{\"errors\":[{{\"code\":\"{code}\","))
            .says("content-type", JSON_UTF8)
    }

    /// The 401 of `/v2`.
    pub(super) fn refused(self, challenge: impl Into<String>, message: &str) -> Self {
        self.error(401, "UNAUTHORIZED", &format!("{message}: {message}"))
            .says("www-authenticate", challenge)
            .of_registry()
    }

    /// The 401 for somebody who may not do `action`.
    pub(super) fn forbidden(self, repository: &str, action: &str) -> Self {
        self.refused(BASIC, &format!("unauthorized to access repository: {repository}, action: {action}"))
    }

    /// Asks, and fails with everything that is not as it was recorded.
    pub(super) async fn run(self) -> Answer {
        let mut request = self.client.request(self.method.clone(), &self.target);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.body(whole(self.body.clone()));
        let answer = self.client.try_send(request).await;
        let answer = answer.unwrap_or_else(|error| panic!("[{}] {error:#}", self.id));
        let problems = self.problems(&answer);
        assert!(
            problems.is_empty(),
            "[{}] {} {}\n  {}\n{} {:?}\n{}",
            self.id,
            self.method,
            self.target,
            problems.join("\n  "),
            answer.status,
            answer.headers,
            answer.text()
        );
        answer
    }

    fn problems(&self, answer: &Answer) -> Vec<String> {
        let mut problems = Vec::new();
        let status = answer.status.as_u16();
        if self.status.is_some_and(|wanted| wanted != status) {
            problems.push(format!("status {status} instead of {:?}", self.status));
        }
        for (name, value) in &self.wanted {
            if answer.header(name) != Some(value.as_str()) {
                problems.push(format!("{name}: {:?} instead of {value:?}", answer.header(name)));
            }
        }
        problems.extend(
            self.absent
                .iter()
                .filter(|name| answer.headers.contains_key(**name))
                .map(|name| format!("has {name}")),
        );
        self.check_body(answer, &mut problems);
        self.check_common(answer, &mut problems);
        problems
    }

    fn check_body(&self, answer: &Answer, problems: &mut Vec<String>) {
        let body = answer.text();
        let is_head = self.method == Method::HEAD;
        if let Some(text) = &self.text {
            // An answer to HEAD still tells how long it would be.
            let length = answer.header("content-length").and_then(|length| length.parse().ok());
            let fits = if is_head { length == Some(text.len()) } else { body == *text };
            if !fits {
                problems.push(format!("body {body:?} instead of {text:?}"));
            }
        }
        if let Some(code) = self.code.as_ref().filter(|code| !is_head && !body.contains(code.as_str())) {
            problems.push(format!("no {code} in the body"));
        }
    }

    fn check_common(&self, answer: &Answer, problems: &mut Vec<String>) {
        let mut must = |holds: bool, what: &str| {
            if !holds {
                problems.push(what.to_owned());
            }
        };
        let by_nginx = self.origin != Origin::CoreItself;
        let framed = by_nginx && FRAMED.contains(&answer.status.as_u16());
        must((answer.header("server") == Some("nginx")) == by_nginx, "Server is nginx's");
        must((answer.header("x-frame-options") == Some("DENY")) == framed, "X-Frame-Options");
        let policy = answer.header("content-security-policy") == Some("frame-ancestors 'none'");
        must(policy == framed, "Content-Security-Policy");
        must(answer.headers.contains_key("x-request-id") == (self.origin != Origin::Nginx), "X-Request-Id");
        let cookies =
            answer.headers.get_all("set-cookie").into_iter().filter_map(|cookie| cookie.to_str().ok());
        let sids: Vec<_> = cookies.filter(|cookie| cookie.starts_with("sid=")).collect();
        match (self.sid, sids.as_slice()) {
            (Sid::None, []) => {}
            (Sid::New, [sid]) => must(is_new_sid(sid), "the session cookie has another form"),
            (Sid::Cleared, [sid]) => {
                let ends =
                    sid.starts_with("sid=; Path=/; Expires=") && sid.ends_with("; Max-Age=0; HttpOnly");
                must(ends, "the session cookie is not cleared");
            }
            _ => must(false, &format!("session cookies {sids:?} instead of {:?}", self.sid)),
        }
    }
}

fn is_new_sid(cookie: &str) -> bool {
    let value = cookie.strip_prefix("sid=").and_then(|rest| rest.strip_suffix("; Path=/; HttpOnly"));
    value.is_some_and(|value| value.len() == 32 && value.chars().all(|letter| letter.is_ascii_hexdigit()))
}

/// Runs exchanges that do not depend on each other, in an order of `seed`.
pub(super) async fn run_shuffled(seed: u64, mut cases: Vec<Case>) {
    cases.shuffle(&mut StdRng::seed_from_u64(seed));
    for case in cases {
        case.run().await;
    }
}

/// The value of a cookie that an answer sets.
pub(super) fn cookie_of(answer: &Answer, name: &str) -> Option<String> {
    let mut cookies =
        answer.headers.get_all("set-cookie").into_iter().filter_map(|cookie| cookie.to_str().ok());
    let pair = cookies.find_map(|cookie| cookie.strip_prefix(&format!("{name}=")))?;
    pair.split(';').next().map(str::to_owned)
}

/// Header and claims of a token in an answer of the token service.
pub(super) fn token_parts(answer: &Answer) -> (Value, Value) {
    let token = answer.token();
    let mut parts = token.split('.').map(|part| BASE64URL_NOPAD.decode(part.as_bytes()).expect("base64"));
    let mut next = || serde_json::from_slice(&parts.next().expect("a part")).expect("JSON");
    (next(), next())
}
