//! The host names under which clients may address the gateway.

use std::sync::Arc;

/// `host`, or `host:port`, in lower case. Without a port every port is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedHost {
    /// Name, IPv4 address, or IPv6 address in brackets.
    pub name: String,
    /// The only port, where one was given.
    pub port: Option<u16>,
}

/// The host names that the gateway answers to; the first is the primary one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hosts {
    allowed: Vec<AllowedHost>,
    /// Whether clients see https, also where a plain listener stands behind a TLS terminator.
    external_https: bool,
}

/// A client's `Host`, found in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// As the client wrote it, in lower case, with its port where it gave one.
    pub text: Arc<str>,
    /// Length of the name within the text.
    name_length: usize,
}

impl Authority {
    /// The name without the port.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.text[..self.name_length]
    }
}

/// Why a text is no host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a host name: write it as in a URL without scheme and path, such as hub.example.com or 10.0.0.1:8443"
)]
pub struct InvalidHost;

impl AllowedHost {
    /// Parses `host` or `host:port`.
    ///
    /// # Errors
    /// [`InvalidHost`] for anything else.
    pub fn parse(text: &str) -> Result<Self, InvalidHost> {
        let (name, port) = split_port(text).ok_or(InvalidHost)?;
        let port = port.map(|port| port.parse().map_err(|_| InvalidHost)).transpose()?;
        Ok(Self { name: name.to_ascii_lowercase(), port })
    }
}

impl Hosts {
    /// A list whose first entry is the primary one.
    #[must_use]
    pub fn new(primary: AllowedHost, further: Vec<AllowedHost>, external_https: bool) -> Self {
        Self { allowed: std::iter::once(primary).chain(further).collect(), external_https }
    }

    /// The name that stands for the whole group in sealed pins.
    #[must_use]
    pub fn primary(&self) -> &str {
        self.allowed.first().map_or("", |host| host.name.as_str())
    }

    /// The address that clients use, as `external_url` says it, without a path.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.external_https { "https" } else { "http" };
        let host = self.allowed.first().map_or("", |host| host.name.as_str());
        match self.allowed.first().and_then(|host| host.port) {
            Some(port) if port != if self.external_https { 443 } else { 80 } => {
                format!("{scheme}://{host}:{port}")
            }
            _ => format!("{scheme}://{host}"),
        }
    }

    /// Every name and address, without ports and brackets, as a certificate carries them.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let bare = |host: &AllowedHost| host.name.trim_start_matches('[').trim_end_matches(']').to_owned();
        self.allowed.iter().map(bare).collect()
    }

    /// Whether `external_url` is https.
    #[must_use]
    pub fn external_https(&self) -> bool {
        self.external_https
    }

    /// Finds a request's `Host` in the list.
    #[must_use]
    pub fn find(&self, host: &str) -> Option<Authority> {
        let (name, port) = split_port(host)?;
        let number: Option<u16> = port.map(str::parse).transpose().ok()?;
        let known = |allowed: &AllowedHost| {
            allowed.name.eq_ignore_ascii_case(name) && allowed.port.is_none_or(|port| is_port(number, port))
        };
        self.allowed
            .iter()
            .any(known)
            .then(|| Authority { text: Arc::from(host.to_ascii_lowercase()), name_length: name.len() })
    }
}

/// Clients leave the scheme's own port out.
fn is_port(sent: Option<u16>, allowed: u16) -> bool {
    sent.map_or(matches!(allowed, 443 | 80), |sent| sent == allowed)
}

fn split_port(text: &str) -> Option<(&str, Option<&str>)> {
    let (name, port) = if text.starts_with('[') {
        let end = text.find(']')? + 1;
        let (name, rest) = text.split_at(end);
        let inner = &name[1..end - 1];
        inner.parse::<std::net::Ipv6Addr>().ok()?;
        (name, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
    } else {
        let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if name.is_empty() || name.len() > 253 || !name.bytes().all(plain) {
            return None;
        }
        (name, port)
    };
    match port {
        Some(port) if port.is_empty() || port.len() > 5 || !port.bytes().all(|b| b.is_ascii_digit()) => None,
        _ => Some((name, port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_hosts_are_found_and_ports_must_fit_where_given() {
        let parse = |text| AllowedHost::parse(text).expect("a host");
        let hosts = Hosts::new(
            parse("hub.example.com:8443"),
            vec![parse("127.0.0.1"), parse("[::1]"), parse("b:443")],
            true,
        );
        for (host, expected) in [
            ("hub.example.com:8443", true),
            ("HUB.example.com:8443", true),
            ("hub.example.com", false),
            ("hub.example.com:1", false),
            ("127.0.0.1:5000", true),
            ("127.0.0.1", true),
            ("[::1]:7", true),
            ("[::1]", true),
            ("b", true),
            ("b:443", true),
            ("b:444", false),
            ("evil.example.com", false),
            ("", false),
            ("b:", false),
            ("b:99999", false),
            ("127.0.0.1:5000@evil", false),
            ("127.0.0.1\"", false),
            ("[::1]x", false),
        ] {
            assert_eq!(hosts.find(host).is_some(), expected, "{host:?}");
        }
        assert_eq!(hosts.find("127.0.0.1:5000").expect("known").name(), "127.0.0.1");
    }
}
