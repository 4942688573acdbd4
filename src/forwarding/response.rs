//! Headers on their way to a client, and what a member's `Location` becomes.

use http::header::{HeaderMap, HeaderName, HeaderValue, LINK, LOCATION, SET_COOKIE, WWW_AUTHENTICATE};
use http::{Method, Uri};

use super::request::{is_hop_by_hop, nominated};
use crate::registry::RegistryRequest;

/// What every answer on `/v2` carries; old clients insist on it.
pub const API_VERSION: (HeaderName, HeaderValue) =
    (HeaderName::from_static("docker-distribution-api-version"), HeaderValue::from_static("registry/2.0"));
/// The id of the request, the same as in the log.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A member's headers as a client may see them: nothing of one connection, no challenge or cookie
/// of the member. `Location` and `Link` are for the caller to replace.
#[must_use]
pub fn client_headers(mut member: HeaderMap) -> HeaderMap {
    for name in nominated(&member) {
        member.remove(name);
    }
    let hop_by_hop: Vec<HeaderName> = member.keys().filter(|name| is_hop_by_hop(name)).cloned().collect();
    for name in hop_by_hop {
        member.remove(name);
    }
    for name in [WWW_AUTHENTICATE, SET_COOKIE, REQUEST_ID] {
        member.remove(name);
    }
    member.insert(API_VERSION.0, API_VERSION.1);
    if let Some(link) = member.get(LINK).and_then(relative_link) {
        member.insert(LINK, link);
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
    let location = headers.get(LOCATION)?.to_str().ok()?;
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

/// `<URL>; rel="next"` with the URL made relative, so that a page follows through the gateway.
fn relative_link(value: &HeaderValue) -> Option<HeaderValue> {
    let (url, rest) = value.to_str().ok()?.strip_prefix('<')?.split_once('>')?;
    let uri = url.parse::<Uri>().ok()?;
    let target = uri.path_and_query()?;
    HeaderValue::try_from(format!("<{target}>{rest}")).ok()
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
