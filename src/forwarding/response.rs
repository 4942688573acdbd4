//! Headers on their way to a client, and what a member's `Location` becomes.

use http::header::{
    ALT_SVC, CONTENT_LOCATION, HeaderMap, HeaderName, HeaderValue, LINK, LOCATION, REFRESH, SET_COOKIE,
    STRICT_TRANSPORT_SECURITY, WWW_AUTHENTICATE,
};
use http::{Method, Uri, response};

use super::hop::is_hop_by_hop;
use super::readable::{keep_readable, text};
use super::request::nominated;
use crate::registry::RegistryRequest;

/// What every answer on `/v2` carries; old clients insist on it.
pub const API_VERSION: (HeaderName, HeaderValue) =
    (HeaderName::from_static("docker-distribution-api-version"), HeaderValue::from_static("registry/2.0"));
/// The id of the request, the same as in the log.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What a member may not say of the host that clients use: where else it is, whether it is https only, what a
/// browser forgets, where it goes next.
const ABOUT_THE_HOST: [HeaderName; 4] =
    [ALT_SVC, STRICT_TRANSPORT_SECURITY, REFRESH, HeaderName::from_static("clear-site-data")];

/// Looks at the head of a member's answer before anything decides on it.
///
/// # Errors
/// What is wrong with it: a status that is no final answer (RFC 9110 15), or a header that decides something and
/// cannot be read.
pub fn check_head(head: &mut response::Parts) -> Result<(), &'static str> {
    if !(200..600).contains(&head.status.as_u16()) {
        return Err("its status is not that of a final answer");
    }
    keep_readable(&mut head.headers).map_err(|_| "a header of it has bytes outside visible ASCII")
}

/// Removes what belongs to one connection, and what only the host that clients use may say.
pub(super) fn remove_connection_headers(member: &mut HeaderMap) {
    for name in nominated(member) {
        member.remove(name);
    }
    let ends_here = |name: &&HeaderName| is_hop_by_hop(name) || ABOUT_THE_HOST.contains(name);
    let ends_here: Vec<HeaderName> = member.keys().filter(ends_here).cloned().collect();
    for name in ends_here {
        member.remove(name);
    }
    member.remove(REQUEST_ID);
}

/// A member's headers as a client may see them: nothing of one connection, no challenge, cookie or address of the
/// member. `Location` is for the caller to replace.
#[must_use]
pub fn client_headers(mut member: HeaderMap) -> HeaderMap {
    remove_connection_headers(&mut member);
    for name in [WWW_AUTHENTICATE, SET_COOKIE, CONTENT_LOCATION] {
        member.remove(name);
    }
    member.insert(API_VERSION.0, API_VERSION.1);
    if member.contains_key(LINK) {
        let links: Vec<HeaderValue> = member.get_all(LINK).iter().filter_map(relative_links).collect();
        member.remove(LINK);
        for link in links {
            member.append(LINK, link);
        }
    }
    member
}

/// What a member's `Location` points to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberLocation {
    /// An upload session, whose new URL needs a pin.
    Upload(Box<RegistryRequest>),
    /// A blob or manifest, rebuilt as a path.
    Content(String),
    /// Something else, such as object storage.
    Elsewhere,
}

/// Reads a member's `Location`, absolute or relative.
#[must_use]
pub fn member_location(headers: &HeaderMap) -> Option<MemberLocation> {
    let location = text(headers.get(LOCATION)?);
    let Ok(uri) = location.parse::<Uri>() else { return Some(MemberLocation::Elsewhere) };
    let parsed = RegistryRequest::parse(&Method::GET, uri.path(), uri.query());
    Some(match parsed {
        Ok(upload @ RegistryRequest::Upload { .. }) => MemberLocation::Upload(Box::new(upload)),
        Ok(content @ (RegistryRequest::Blob { .. } | RegistryRequest::Manifest { .. })) => {
            MemberLocation::Content(content.member_target())
        }
        Ok(_) | Err(_) => MemberLocation::Elsewhere,
    })
}

/// `<URL>; rel="next"` with every URL made relative, so that a page follows through the gateway (RFC 8288 3).
/// Links that lead anywhere but to the registry's own API are left out.
fn relative_links(value: &HeaderValue) -> Option<HeaderValue> {
    let mut links = Vec::new();
    let mut rest = text(value);
    while let Some((before, after)) = rest.split_once('<') {
        if !before.trim_matches([' ', '\t', ',']).is_empty() {
            return None;
        }
        let (url, parameters) = after.split_once('>')?;
        let end = end_of_link(parameters);
        let uri = url.parse::<Uri>().ok();
        let target = uri.as_ref().and_then(Uri::path_and_query).filter(|it| it.path().starts_with("/v2/"));
        links.extend(target.map(|target| format!("<{target}>{}", &parameters[..end])));
        rest = &parameters[end..];
    }
    if links.is_empty() { None } else { HeaderValue::try_from(links.join(", ")).ok() }
}

/// Where the parameters of one link end: at the next comma outside quotes.
fn end_of_link(parameters: &str) -> usize {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in parameters.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => return at,
            _ => {}
        }
    }
    parameters.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_challenges_cookies_and_connection_headers_stay_behind() {
        let mut member = HeaderMap::new();
        for (name, value) in [
            ("www-authenticate", "Basic realm=\"x\""),
            ("set-cookie", "sid=1"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("transfer-encoding", "chunked"),
            ("etag", "\"x\""),
            ("alt-svc", "h3=\":443\""),
            ("strict-transport-security", "max-age=1; includeSubDomains"),
            ("clear-site-data", "*"),
            ("refresh", "0; url=https://evil"),
            ("content-location", "http://m:5000/x"),
            ("link", "<http://m:5000/v2/_catalog?last=a&n=1>; rel=\"next\""),
        ] {
            member.append(name, value.parse().expect("a value"));
        }
        let headers = client_headers(member);
        let mut seen: Vec<_> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().expect("text")))
            .collect();
        seen.sort();
        assert_eq!(
            seen,
            [
                "docker-distribution-api-version: registry/2.0",
                "etag: \"x\"",
                "link: </v2/_catalog?last=a&n=1>; rel=\"next\"",
            ]
        );
    }

    #[test]
    fn every_link_becomes_relative_or_stays_behind() {
        for (link, expected) in [
            ("<http://m:5000/v2/_catalog?n=1>; rel=\"next\"", Some("</v2/_catalog?n=1>; rel=\"next\"")),
            ("</v2/a/tags/list?n=1>; rel=next", Some("</v2/a/tags/list?n=1>; rel=next")),
            (
                "<http://m:5000/v2/a>; rel=\"a,b\\\"<c\", <http://m:5000/v2/b>; rel=\"next\"",
                Some("</v2/a>; rel=\"a,b\\\"<c\", </v2/b>; rel=\"next\""),
            ),
            ("</v2/a>; rel=x,<http://m:5000/metrics>; rel=y", Some("</v2/a>; rel=x")),
            ("<http://m:5000>; rel=\"next\"", None),
            ("http://m:5000/v2/a", None),
            ("<http://m:5000/v2/a", None),
            ("evil <http://m:5000/v2/a>; rel=next", None),
        ] {
            let mut member = HeaderMap::new();
            member.insert(LINK, link.parse().expect("a value"));
            assert_eq!(client_headers(member).get(LINK).map(text), expected, "{link}");
        }
    }

    #[test]
    fn only_final_answers_with_readable_headers_are_looked_at() {
        let answer = |status: u16, name: &'static str, value: &[u8]| {
            let (mut head, ()) = http::Response::new(()).into_parts();
            head.status = status.try_into().expect("a status");
            head.headers.insert(name, HeaderValue::from_bytes(value).expect("a value"));
            check_head(&mut head).map(|()| head.headers.len())
        };
        for status in [101, 199, 600, 999] {
            assert!(answer(status, "etag", b"x").is_err(), "{status}");
        }
        assert_eq!(answer(200, "etag", b"x"), Ok(1));
        assert_eq!(answer(599, "x-any", b"\xe9"), Ok(0));
        assert!(answer(202, "location", b"http://m:5000/\xe9").is_err());
        assert!(answer(200, "docker-content-digest", b"\xe9").is_err());
    }

    #[test]
    fn locations_are_read_absolute_and_relative() {
        let read = |location: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(LOCATION, location.parse().expect("a value"));
            member_location(&headers).expect("present")
        };
        for location in
            ["http://m:5000/v2/a/b/blobs/uploads/u-1?_state=x%3D", "/v2/a/b/blobs/uploads/u-1?_state=x%3D"]
        {
            let MemberLocation::Upload(upload) = read(location) else { panic!("{location}") };
            assert_eq!(upload.member_target(), "/v2/a/b/blobs/uploads/u-1?_state=x%3D");
        }
        assert_eq!(
            read("https://m/v2/a/manifests/v1"),
            MemberLocation::Content("/v2/a/manifests/v1".to_owned())
        );
        assert_eq!(read("https://s3.example.com/bucket/x?sig=1"), MemberLocation::Elsewhere);
    }
}
