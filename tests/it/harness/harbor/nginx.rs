//! The node's own nginx: it refuses what is too long, normalises paths, keeps internal ones from the outside and passes the rest to
//! core or to the portal.

use http::header::{EXPECT, HOST};
use http::{HeaderMap, HeaderValue, Method, Request, Version};
use hyper::body::Incoming;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use super::HarborVersion;
use super::answer::{self, Answer};
use super::behind::ClientBody;
use super::core::{self, CoreRequest};
use super::node::{Node, SeenRequest};
use super::portal;

/// `large_client_header_buffers 4 8k` and the buffer before them, which no Harbor sets otherwise.
const FIRST_BUFFER_BYTES: usize = 1024;
const LARGE_BUFFER_BYTES: usize = 8192;
const LARGE_BUFFERS: usize = 4;

const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'#').add(b'%').add(b'?');

/// A path as nginx writes it when it passes it on.
pub(super) fn escape(path: &str) -> String {
    utf8_percent_encode(path, ESCAPED).to_string()
}

/// Answers a request of the node's entry.
pub(super) async fn answer(node: &Node, request: Request<Incoming>) -> Answer {
    let number = node.saw(SeenRequest {
        method: request.method().to_string(),
        target: request.uri().path_and_query().map_or_else(String::new, ToString::to_string),
        headers: request.headers().clone(),
        status: 0,
    });
    let keeps = request.version() == Version::HTTP_11
        && request.headers().get("connection").is_none_or(|value| value != "close");
    let mut answer = decide(node, request).await;
    node.answered(number, answer.status().as_u16());
    if [200, 201, 204, 206, 301, 302, 303, 304, 307, 308].contains(&answer.status().as_u16()) {
        answer::set(&mut answer, "x-frame-options", "DENY");
        answer::set(&mut answer, "content-security-policy", "frame-ancestors 'none'");
    }
    answer::set(&mut answer, "server", "nginx");
    answer::set(&mut answer, "date", &node.http_date(0));
    answer::set(&mut answer, "connection", if keeps { "keep-alive" } else { "close" });
    answer
}

/// The first status line of limits: whether the head fits into nginx's buffers, line by line.
fn too_long(request: &Request<Incoming>) -> Option<Answer> {
    let line = request.method().as_str().len() + request.uri().to_string().len() + " HTTP/1.1\r\n".len() + 1;
    if line > LARGE_BUFFER_BYTES {
        return Some(answer::nginx_page(414, "Request-URI Too Large"));
    }
    let (mut used, mut room, mut large) = (0, FIRST_BUFFER_BYTES, 0);
    let mut fits = |length: usize| {
        if used + length > room {
            (used, room, large) = (0, LARGE_BUFFER_BYTES, large + 1);
        }
        used += length;
        used <= room && large <= LARGE_BUFFERS
    };
    let headers =
        request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len());
    let all_fit = std::iter::once(line).chain(headers).all(&mut fits);
    (!all_fit).then(|| answer::nginx_page(400, "Request Header Or Cookie Too Large"))
}

async fn decide(node: &Node, request: Request<Incoming>) -> Answer {
    if let Some(refusal) = too_long(&request) {
        return refusal;
    }
    if request.method() == Method::TRACE {
        return answer::nginx_page(405, "Not Allowed");
    }
    let (head, body) = request.into_parts();
    let mut body = ClientBody::new(body, node.drains.clone());
    if head.headers.contains_key(EXPECT) {
        body.invite().await;
    }
    let Some(path) = normalise(head.uri.path()) else {
        return answer::nginx_page(400, "Bad Request");
    };
    let places: &[&str] = match node.version {
        HarborVersion::V1_10 | HarborVersion::V2_0 => &["/c/", "/api/", "/v2/", "/service/", "/chartrepo/"],
        _ => &["/c/", "/api/", "/v2/", "/service/"],
    };
    if path.starts_with("/service/notifications") || path.starts_with("/v1/") {
        return answer::nginx_page(404, "Not Found");
    }
    if places.iter().any(|place| place.strip_suffix('/') == Some(&path)) {
        return redirect_to_slash(&path, &head.headers);
    }
    if !places.iter().any(|place| path.starts_with(place)) {
        return portal::answer(node, &head.method, &path);
    }
    if node.faults().core_gone {
        return answer::nginx_page(502, "Bad Gateway");
    }
    let mut headers = head.headers;
    if !headers.contains_key("x-forwarded-proto") {
        headers.insert("x-forwarded-proto", HeaderValue::from_static("http"));
    }
    let request = CoreRequest {
        method: head.method,
        raw_path: path.clone(),
        path,
        raw_query: head.uri.query().map(str::to_owned),
        headers,
        body,
    };
    core::answer(node, request).await
}

/// Answers a request at core's own port, past nginx. Core cleans paths too, only later.
pub(super) async fn answer_at_core(node: &Node, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let raw_path = percent_decode_str(head.uri.path()).decode_utf8_lossy().into_owned();
    let (path, _) = clean(head.uri.path());
    let request = CoreRequest {
        method: head.method,
        raw_path,
        path,
        raw_query: head.uri.query().map(str::to_owned),
        headers: head.headers,
        body: ClientBody::new(body, node.drains.clone()),
    };
    core::answer(node, request).await
}

fn redirect_to_slash(path: &str, headers: &HeaderMap) -> Answer {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let mut answer = answer::nginx_page(301, "Moved Permanently");
    answer::set(&mut answer, "location", &format!("http://{host}{path}/"));
    answer
}

/// Decodes, merges slashes and follows dots. Nothing for a path that leads out of the root.
fn normalise(raw: &str) -> Option<String> {
    let (path, left_root) = clean(raw);
    (!left_root).then_some(path)
}

/// The clean path, in which a way out of the root is a way to the root, and whether there was one.
fn clean(raw: &str) -> (String, bool) {
    let decoded = percent_decode_str(raw).decode_utf8_lossy();
    let (mut parts, mut left_root): (Vec<&str>, bool) = (Vec::new(), false);
    let ends_open = decoded.ends_with('/') || decoded.ends_with("/.") || decoded.ends_with("/..");
    for part in decoded.split('/') {
        match part {
            "" | "." => {}
            ".." => left_root |= parts.pop().is_none(),
            _ => parts.push(part),
        }
    }
    let slash = if ends_open && !parts.is_empty() { "/" } else { "" };
    (format!("/{}{slash}", parts.join("/")), left_root)
}
