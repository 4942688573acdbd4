//! Headers on their way to a member.
//!
//! Left out: hop-by-hop headers (RFC 9110 7.6.1), whatever `Connection` names, the client's
//! credentials, and every header by which a proxy in front of a registry says who a client is or
//! how it came; those are ours to say.

use std::net::IpAddr;

use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_TYPE, COOKIE, EXPECT, FORWARDED, HOST, HeaderMap,
    HeaderName, HeaderValue,
};

use super::hop::is_hop_by_hop;
use super::readable::text;

/// Prefixes of headers that only the gateway may set.
const RESERVED_PREFIXES: [&str; 5] = ["x-forwarded-", "x-harbor-", "x-zot-", "x-spegel-", "x-tidegate-"];
/// Further headers that only the gateway may set.
const RESERVED: [&str; 4] = ["x-real-ip", "x-request-id", "x-original-url", "x-rewrite-url"];

/// What the gateway says of a client.
#[derive(Debug, Clone, Copy)]
pub struct Via<'a> {
    /// The client's address.
    pub client: IpAddr,
    /// Whether the client sees https.
    pub https: bool,
    /// The `Host` that the client used.
    pub authority: &'a str,
    /// The request's id.
    pub request_id: &'a str,
}

/// The headers that `Connection` nominates.
pub(super) fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| text(value).split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .collect()
}

pub(super) fn is_reserved(name: &HeaderName) -> bool {
    [AUTHORIZATION, COOKIE, FORWARDED, HOST, EXPECT].contains(name)
        || RESERVED.contains(&name.as_str())
        || RESERVED_PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix))
        // A server that folds `_` and `-` together would read these as the reserved ones.
        || name.as_str().contains('_')
}

/// The headers for a member, but for `Host` and `Authorization`, which differ by member, and for `Content-Type`,
/// which [`super::content_type`] writes.
#[must_use]
pub fn member_headers(client: &HeaderMap, via: Via<'_>) -> HeaderMap {
    let nominated = nominated(client);
    let mut headers = HeaderMap::with_capacity(client.len() + 5);
    for (name, value) in client {
        if !is_hop_by_hop(name) && !is_reserved(name) && !nominated.contains(name) && *name != CONTENT_TYPE {
            headers.append(name, value.clone());
        }
    }
    // Offsets and digests are of the bytes as they are stored.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    insert_via(&mut headers, via);
    headers
}

/// What only the gateway says of a client.
pub(super) fn insert_via(headers: &mut HeaderMap, via: Via<'_>) {
    headers.insert("x-forwarded-proto", HeaderValue::from_static(if via.https { "https" } else { "http" }));
    for (name, value) in [
        ("x-forwarded-for", via.client.to_string()),
        ("x-forwarded-host", via.authority.to_owned()),
        ("x-request-id", via.request_id.to_owned()),
    ] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_get_no_hop_by_hop_identity_or_credential_header() {
        let mut client = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, x-secret"),
            ("x-secret", "1"),
            ("te", "trailers"),
            ("keep-alive", "5"),
            ("authorization", "Bearer x"),
            ("cookie", "sid=1"),
            ("forwarded", "for=1.1.1.1"),
            ("host", "evil"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-prefix", "/x"),
            ("x-real-ip", "1.1.1.1"),
            ("x-harbor-csrf-token", "1"),
            ("x_forwarded_for", "1.1.1.1"),
            ("expect", "100-continue"),
            ("accept-encoding", "zstd"),
            ("accept", "a/b"),
            ("accept", "c/d"),
            ("range", "bytes=1-"),
            ("content-range", "0-1"),
            ("user-agent", "docker"),
            ("content-type", "multipart/form-data"),
            ("upgrade", "h2c"),
        ] {
            client.append(name, value.parse().expect("a value"));
        }
        let via =
            Via { client: IpAddr::from([10, 0, 0, 1]), https: true, authority: "hub:8443", request_id: "r" };
        let headers = member_headers(&client, via);
        let mut seen: Vec<_> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().expect("text")))
            .collect();
        seen.sort();
        assert_eq!(
            seen,
            [
                "accept-encoding: identity",
                "accept: a/b",
                "accept: c/d",
                "content-range: 0-1",
                "range: bytes=1-",
                "user-agent: docker",
                "x-forwarded-for: 10.0.0.1",
                "x-forwarded-host: hub:8443",
                "x-forwarded-proto: https",
                "x-request-id: r",
            ]
        );
    }
}
