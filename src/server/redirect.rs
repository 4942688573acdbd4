//! Listeners that only redirect to https.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, HeaderValue, LOCATION};
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;

/// Where a redirect listener sends clients.
#[derive(Clone)]
pub struct Redirect {
    /// The port of the TLS listener.
    pub port: u16,
    /// Whether a `Host` is served here; no client is sent elsewhere.
    pub serves: Arc<dyn Fn(&str) -> bool + Send + Sync>,
}

/// 308 to the same place under https, for the names that are served here.
pub(super) fn redirect(request: &Request<Incoming>, to: &Redirect) -> Response<Empty<Bytes>> {
    let mut response = Response::new(Empty::new());
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    // One that cannot be read is none that is served here.
    let host = match request.headers().get(HOST).map(HeaderValue::to_str) {
        Some(Ok(host)) => host,
        Some(Err(_)) | None => "",
    };
    let name = match host.rfind(':') {
        Some(colon) if !host[colon..].contains(']') => &host[..colon],
        _ => host,
    };
    let port = if to.port == 443 { String::new() } else { format!(":{}", to.port) };
    let authority = format!("{name}{port}");
    if !(to.serves)(&authority) {
        *response.status_mut() = StatusCode::MISDIRECTED_REQUEST;
        return response;
    }
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    match HeaderValue::try_from(format!("https://{authority}{target}"))
        .ok()
        .filter(|_| target.starts_with('/'))
    {
        Some(location) => {
            *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
            response.headers_mut().insert(LOCATION, location);
        }
        None => *response.status_mut() = StatusCode::BAD_REQUEST,
    }
    response
}
