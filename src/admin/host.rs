//! Which `Host` the admin listener answers to. A page that a browser shows can have its own name resolve to this
//! machine, and would then read what is here; its name gives it away.

use std::net::IpAddr;

use http::Request;
use http::header::HOST;

/// Whether a request asks by an address, as `localhost`, or by one of these names. One that says nothing comes from no
/// browser.
pub(super) fn is_expected<B>(request: &Request<B>, names: &[String]) -> bool {
    let mut hosts = request.headers().get_all(HOST).iter();
    let (host, further) = (hosts.next(), hosts.next());
    if further.is_some() {
        return false;
    }
    let of_target = request.uri().authority().is_none_or(|authority| is_name(authority.as_str(), names));
    let of_header = host.is_none_or(|host| match host.to_str() {
        Ok(host) => is_name(host, names),
        Err(_) => false,
    });
    of_target && of_header
}

/// Whether `host` or `host:port` is such a name.
fn is_name(text: &str, names: &[String]) -> bool {
    let name = match text.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => text,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    address.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || names.iter().any(|allowed| name.eq_ignore_ascii_case(allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_localhost_and_listed_names_are_expected() {
        let names = ["node1.example.com".to_owned()];
        for (hosts, expected) in [
            (&["127.0.0.1:9090"][..], true),
            (&["10.0.0.1"], true),
            (&["[::1]:9090"], true),
            (&["[::1]"], true),
            (&["localhost"], true),
            (&["LOCALHOST:9090"], true),
            (&["node1.example.com"], true),
            (&["Node1.Example.com:9090"], true),
            (&[], true),
            (&["evil.example.com"], false),
            (&["evil.example.com:9090"], false),
            (&["localhost.evil.example.com"], false),
            (&["127.0.0.1.evil.example.com"], false),
            (&["node1.example.com.evil.example.com"], false),
            (&["127.0.0.1:x"], false),
            (&[""], false),
            (&["127.0.0.1", "127.0.0.1"], false),
            (&["127.0.0.1", "evil.example.com"], false),
        ] {
            let mut request = Request::builder().uri("/status");
            for host in hosts {
                request = request.header(HOST, *host);
            }
            let request = request.body(()).expect("a request");
            assert_eq!(is_expected(&request, &names), expected, "{hosts:?}");
        }
        let absolute = Request::builder().uri("http://evil.example.com/status").header(HOST, "127.0.0.1");
        assert!(!is_expected(&absolute.body(()).expect("a request"), &names));
    }
}
