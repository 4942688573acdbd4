//! Headers of Harbor's web pages and API, in both directions. Harbor authenticates there, so
//! cookies, `Authorization` and the CSRF token pass; what says who a client is or how it came is
//! still ours to say.

use http::Uri;
use http::header::{
    AUTHORIZATION, CONTENT_LOCATION, COOKIE, FORWARDED, HOST, HeaderMap, HeaderValue, LINK, LOCATION,
    SET_COOKIE,
};

use super::hop::is_hop_by_hop;
use super::readable::text;
use super::request::{Via, insert_via, is_reserved, nominated};
use super::response::remove_connection_headers;

/// The cookie that keeps a browser at one node.
pub const AFFINITY_COOKIE: &str = "tidegate_node";
/// By which the portal shows that a request is its own.
const CSRF_TOKEN: &str = "x-harbor-csrf-token";

/// The headers for a node. `Host` is the public one: Harbor makes links and realms from it.
#[must_use]
pub fn node_headers(client: &HeaderMap, via: Via<'_>) -> HeaderMap {
    let nominated = nominated(client);
    let mut headers = HeaderMap::with_capacity(client.len() + 5);
    for (name, value) in client {
        let passes = [AUTHORIZATION, COOKIE].contains(name) || name.as_str() == CSRF_TOKEN;
        if is_hop_by_hop(name) || nominated.contains(name) || (is_reserved(name) && !passes) {
            continue;
        }
        if *name != COOKIE {
            headers.append(name, value.clone());
        } else if let Some(value) = without_affinity(value) {
            headers.append(COOKIE, value);
        }
    }
    headers.remove(FORWARDED);
    insert_via(&mut headers, via);
    if let Ok(host) = HeaderValue::try_from(via.authority) {
        headers.insert(HOST, host);
    }
    headers
}

/// The sealed values of affinity cookies. There may be several: a neighbouring site can set one of
/// any name; only ours opens.
pub fn affinities(client: &HeaderMap) -> impl Iterator<Item = &str> {
    let pairs = client.get_all(COOKIE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    pairs.filter_map(|pair| str::from_utf8(affinity_of(pair)?).ok())
}

/// The value of the affinity cookie, if `pair` is one.
fn affinity_of(pair: &[u8]) -> Option<&[u8]> {
    pair.trim_ascii().strip_prefix(AFFINITY_COOKIE.as_bytes())?.trim_ascii_start().strip_prefix(b"=")
}

/// The `Set-Cookie` that keeps a browser at one node, for as long as the browser is open.
#[must_use]
pub fn affinity_cookie(sealed: &str, https: bool) -> Option<HeaderValue> {
    let secure = if https { "; Secure" } else { "" };
    HeaderValue::try_from(format!("{AFFINITY_COOKIE}={sealed}; Path=/; HttpOnly; SameSite=Lax{secure}")).ok()
}

fn without_affinity(value: &HeaderValue) -> Option<HeaderValue> {
    let pairs = || value.as_bytes().split(|byte| *byte == b';');
    if pairs().all(|pair| affinity_of(pair).is_none()) {
        return Some(value.clone());
    }
    let others: Vec<&[u8]> =
        pairs().filter(|pair| affinity_of(pair).is_none()).map(<[u8]>::trim_ascii).collect();
    if others.is_empty() { None } else { HeaderValue::from_bytes(&others.join(&b"; "[..])).ok() }
}

/// The headers of a node's answer for the client. Core never marks its cookies `Secure`, because it does not see the
/// TLS; `Location` loses the node's own address, and one that browsers would read otherwise than the gateway is left
/// out.
#[must_use]
pub fn client_headers(mut node: HeaderMap, https: bool, own: &[&str]) -> HeaderMap {
    remove_connection_headers(&mut node);
    if https {
        let cookies: Vec<HeaderValue> = node.get_all(SET_COOKIE).iter().map(secure).collect();
        node.remove(SET_COOKIE);
        for cookie in cookies {
            node.append(SET_COOKIE, cookie);
        }
    }
    for name in [LOCATION, CONTENT_LOCATION] {
        let location = node.get(&name).map(|location| client_location(text(location), own));
        match location {
            Some(Some(location)) => drop(node.insert(name, location)),
            Some(None) => drop(node.remove(name)),
            None => {}
        }
    }
    // The links of Harbor's API are paths; an address of the node itself leads nowhere for a client.
    let links: Vec<HeaderValue> =
        node.get_all(LINK).iter().filter(|link| is_relative(text(link))).cloned().collect();
    node.remove(LINK);
    for link in links {
        node.append(LINK, link);
    }
    node
}

fn secure(cookie: &HeaderValue) -> HeaderValue {
    let marked = |part: &[u8]| part.trim_ascii().eq_ignore_ascii_case(b"secure");
    if cookie.as_bytes().split(|byte| *byte == b';').any(marked) {
        return cookie.clone();
    }
    HeaderValue::from_bytes(&[cookie.as_bytes(), b"; Secure"].concat()).unwrap_or_else(|_| cookie.clone())
}

/// Where a node's `Location` leads for a browser: a path of this host, or another host as the node said it. `None`
/// where browsers may read something else in it (WHATWG URL: they drop tabs, and take `\` for `/`).
fn client_location(location: &str, own: &[&str]) -> Option<HeaderValue> {
    if location.bytes().any(|byte| !(b'!'..=b'~').contains(&byte)) {
        return None;
    }
    let before_query = location.find(['?', '#']).unwrap_or(location.len());
    if location[..before_query].contains('\\') {
        return None;
    }
    if location.starts_with('/') {
        // Two slashes in front would be another host.
        return HeaderValue::try_from(format!("/{}", location.trim_start_matches('/'))).ok();
    }
    let Some((scheme, rest)) = location.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) else {
        // Relative to the path of the request; a colon in its first segment would be a scheme.
        let first = location.split(['/', '?', '#']).next().unwrap_or("");
        return if first.contains(':') { None } else { HeaderValue::try_from(location).ok() };
    };
    if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return None;
    }
    let uri = location.split('#').next().and_then(|uri| uri.parse::<Uri>().ok())?;
    let authority = uri.authority()?.as_str();
    if !own.iter().any(|own| own.eq_ignore_ascii_case(authority)) {
        return HeaderValue::try_from(location).ok();
    }
    let path = rest.find(['/', '?', '#']).map_or("/", |at| &rest[at..]);
    HeaderValue::try_from(format!("/{}", path.trim_start_matches('/'))).ok()
}

fn is_scheme(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

/// Whether every URL of a `Link` is a path of this host.
fn is_relative(links: &str) -> bool {
    links.split('<').skip(1).all(|link| link.starts_with('/') && !link.starts_with("//"))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use http::header::HeaderName;

    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name = HeaderName::try_from(*name).expect("a name");
            headers.append(name, value.parse().expect("a value"));
        }
        headers
    }

    fn lines(headers: &HeaderMap) -> Vec<String> {
        let line =
            |(name, value): (&HeaderName, &HeaderValue)| format!("{name}: {}", value.to_str().expect("text"));
        let mut lines: Vec<String> = headers.iter().map(line).collect();
        lines.sort();
        lines
    }

    #[test]
    fn nodes_get_the_session_and_nothing_that_only_we_may_say() {
        let client = map(&[
            ("authorization", "Basic x"),
            ("cookie", "sid=1; tidegate_node=abc; _gorilla_csrf=2"),
            ("cookie", "tidegate_node=abc"),
            ("x-harbor-csrf-token", "t"),
            ("x-harbor-other", "t"),
            ("forwarded", "host=evil"),
            ("x-forwarded-host", "evil"),
            ("x-real-ip", "1.1.1.1"),
            ("connection", "x-hop, upgrade"),
            ("x-hop", "1"),
            ("upgrade", "websocket"),
            ("accept", "a/b"),
            ("accept", "c/d"),
            ("accept-encoding", "gzip"),
            ("content-type", "application/x-www-form-urlencoded"),
            ("host", "evil"),
        ]);
        let via =
            Via { client: IpAddr::from([10, 0, 0, 1]), https: true, authority: "hub:8070", request_id: "r" };
        assert_eq!(
            lines(&node_headers(&client, via)),
            [
                "accept-encoding: gzip",
                "accept: a/b",
                "accept: c/d",
                "authorization: Basic x",
                "content-type: application/x-www-form-urlencoded",
                "cookie: sid=1; _gorilla_csrf=2",
                "host: hub:8070",
                "x-forwarded-for: 10.0.0.1",
                "x-forwarded-host: hub:8070",
                "x-forwarded-proto: https",
                "x-harbor-csrf-token: t",
                "x-request-id: r",
            ]
        );
    }

    #[test]
    fn our_cookie_is_found_among_others_and_kept_from_nodes_whatever_they_hold() {
        let read =
            |pairs: &[(&str, &str)]| affinities(&map(pairs)).map(str::to_owned).collect::<Vec<_>>().join(" ");
        assert_eq!(read(&[("cookie", "a=b; tidegate_node=x")]), "x");
        assert_eq!(read(&[("cookie", "a=b")]), "");
        assert_eq!(
            read(&[("cookie", "tidegate_node=x; tidegate_node=y"), ("cookie", "tidegate_node=z")]),
            "x y z"
        );
        let mut odd = HeaderMap::new();
        odd.insert(COOKIE, HeaderValue::from_bytes(b"name=\xe4; tidegate_node=x").expect("a value"));
        assert_eq!(affinities(&odd).collect::<Vec<_>>(), ["x"]);
        let left = without_affinity(odd.get(COOKIE).expect("there")).expect("the other cookie");
        assert_eq!(left.as_bytes(), b"name=\xe4");
    }

    #[test]
    fn cookies_become_secure_and_locations_lose_the_nodes_address() {
        let node = map(&[
            ("set-cookie", "sid=1; Path=/; HttpOnly"),
            ("set-cookie", "_gorilla_csrf=2; Path=/; Secure"),
            ("x-harbor-csrf-token", "t"),
            ("connection", "keep-alive"),
            ("www-authenticate", "Basic realm=\"harbor\""),
        ]);
        assert_eq!(
            lines(&client_headers(node.clone(), true, &[])),
            [
                "set-cookie: _gorilla_csrf=2; Path=/; Secure",
                "set-cookie: sid=1; Path=/; HttpOnly; Secure",
                "www-authenticate: Basic realm=\"harbor\"",
                "x-harbor-csrf-token: t",
            ]
        );
        assert!(
            lines(&client_headers(node, false, &[]))
                .contains(&"set-cookie: sid=1; Path=/; HttpOnly".to_owned())
        );
        for (location, expected) in [
            ("http://10.0.0.1:8070/harbor/projects?a=b#x", "/harbor/projects?a=b#x"),
            ("https://HUB:8070", "/"),
            ("https://hub:8070?x=1", "/?x=1"),
            ("https://hub:8070//evil.example.com/x", "/evil.example.com/x"),
            ("https://login.example.com/auth?state=1", "https://login.example.com/auth?state=1"),
            ("/relative", "/relative"),
            ("relative?to=https://x", "relative?to=https://x"),
            ("/harbor/x?back=a\\b", "/harbor/x?back=a\\b"),
            ("//evil.example.com", "/evil.example.com"),
        ] {
            let headers =
                client_headers(map(&[("location", location)]), true, &["10.0.0.1:8070", "hub:8070"]);
            assert_eq!(headers.get(LOCATION).expect("there"), expected, "{location}");
        }
        for location in [
            "https://hub:8070/\\evil.example.com",
            "/\\evil.example.com",
            "\\\\evil.example.com",
            "/\t/evil.example.com",
            "https:/evil.example.com",
            "https:\\\\evil.example.com",
            "javascript:alert(1)",
            "javascript://hub:8070/%0aalert(1)",
        ] {
            let headers = client_headers(map(&[("location", location)]), true, &["hub:8070"]);
            assert_eq!(headers.get(LOCATION), None, "{location}");
        }
    }

    #[test]
    fn nodes_say_nothing_of_the_host_that_browsers_use() {
        let node = map(&[
            ("strict-transport-security", "max-age=31536000; includeSubdomains; preload"),
            ("alt-svc", "h3=\":443\""),
            ("clear-site-data", "\"cookies\""),
            ("refresh", "0; url=/x"),
            ("content-location", "http://10.0.0.1:8070/x"),
            ("link", "</api/v2.0/projects?page=2>; rel=\"next\""),
            ("link", "<http://10.0.0.1:8070/api>; rel=\"next\""),
            ("x-total-count", "3"),
        ]);
        assert_eq!(
            lines(&client_headers(node, true, &["10.0.0.1:8070"])),
            ["content-location: /x", "link: </api/v2.0/projects?page=2>; rel=\"next\"", "x-total-count: 3"]
        );
    }
}
