//! Answers as a Harbor node writes them: core's error lists, nginx's and beego's pages.

use std::io;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use serde::Serialize;
use serde_json::Value;

pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;
pub(super) type Answer = Response<Body>;

pub(super) const JSON: &str = "application/json";
pub(super) const JSON_UTF8: &str = "application/json; charset=utf-8";
const TEXT_UTF8: &str = "text/plain; charset=utf-8";

pub(super) fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// An answer without a body, and so without a content type.
pub(super) fn empty(status: u16) -> Answer {
    with_body(status, None, Bytes::new())
}

pub(super) fn content(status: u16, content_type: &str, body: impl Into<Bytes>) -> Answer {
    with_body(status, Some(content_type), body.into())
}

pub(super) fn plain(status: u16, body: &str) -> Answer {
    content(status, TEXT_UTF8, body.to_owned())
}

/// What the API answers: JSON and a line break.
pub(super) fn json(value: &Value) -> Answer {
    content(200, JSON, format!("{value}\n"))
}

fn with_body(status: u16, content_type: Option<&str>, body: Bytes) -> Answer {
    let length = body.len();
    let mut answer = Response::new(whole(body));
    *answer.status_mut() = StatusCode::from_u16(status).expect("a status");
    if let Some(content_type) = content_type {
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_str(content_type).expect("a header"));
    }
    answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    answer
}

#[derive(Serialize)]
struct Errors<'a> {
    errors: [Fault<'a>; 1],
}

#[derive(Serialize)]
struct Fault<'a> {
    code: &'a str,
    message: &'a str,
}

/// Core's own error list, with its keys in core's order.
pub(super) fn error(status: u16, code: &str, message: &str) -> Answer {
    let text = serde_json::to_string(&Errors { errors: [Fault { code, message }] }).expect("strings");
    content(status, JSON_UTF8, format!("{text}\n"))
}

/// What core says of anything it did not expect.
pub(super) fn internal_error() -> Answer {
    error(500, "UNKNOWN", "internal server error")
}

/// The 401 of `/v2`: always with the header, which is empty where core has no challenge to make.
pub(super) fn v2_unauthorized(challenge: &str, message: &str) -> Answer {
    let mut answer = error(401, "UNAUTHORIZED", &format!("{message}: {message}"));
    set(&mut answer, "docker-distribution-api-version", "registry/2.0");
    set(&mut answer, "www-authenticate", challenge);
    answer
}

pub(super) fn set(answer: &mut Answer, name: &'static str, value: &str) {
    answer.headers_mut().insert(name, HeaderValue::from_str(value).expect("a header value"));
}

/// A page of nginx, which has nobody's cookies and no request id.
pub(super) fn nginx_page(status: u16, title: &str) -> Answer {
    content(status, "text/html", page_of_nginx(status, title))
}

fn page_of_nginx(status: u16, title: &str) -> String {
    // One page has one title in its head and a longer one in its body.
    let heading = if title.starts_with("Request Header") { "Bad Request" } else { title };
    let detail = if title == heading { String::new() } else { format!("<center>{title}</center>\r\n") };
    format!(
        "<html>\r\n<head><title>{status} {title}</title></head>\r\n<body>\r\n\
         <center><h1>{status} {heading}</h1></center>\r\n{detail}<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    )
}

/// nginx's answer to something that is no HTTP, as the bytes on the wire: a TLS greeting, for one.
pub(super) fn nginx_bad_request_bytes() -> String {
    let page = page_of_nginx(400, "Bad Request");
    format!(
        "HTTP/1.1 400 Bad Request\r\nServer: nginx\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{page}",
        page.len()
    )
}

/// Core's page for a path it does not have.
pub(super) fn page_not_found() -> Answer {
    let page = "<!DOCTYPE HTML>\n<html>\n<head>\n<meta charset=\"utf-8\">\n<title>404 - Page Not Found</title>\n</head>\n\
                <body>\n    <div id=\"content\">\n        <div id=\"main-body\">\n\
                \t\t\t<div>\n\t\t        <span class=\"status-code\">404</span>\n\
                \t\t        <span class=\"status-text\">Page Not Found</span>\n\t\t    </div>\n\
                \t\t    <div class=\"status-subtitle\">\n\
                \t\t        <p><a href=\"/harbor\" class=\"underline\">Home</a></p>\n\t\t    </div>\n\
                        </div>\n    </div>\n</body>\n</html>\n";
    content(404, "text/html; charset=utf-8", page)
}
