//! Addresses: the external URL, further hosts, socket addresses of listeners, URLs of members.

use std::net::SocketAddr;

use crate::config::convert::Context;
use crate::config::document::KeyPath;
use crate::config::error::Fix;
use crate::config::file::File;
use crate::forwarding::hosts::{AllowedHost, Hosts};

/// What is wrong with a URL. Without `shown` the URL may hold a password.
pub(in crate::config) struct UrlProblem {
    pub(in crate::config) problem: String,
    pub(in crate::config) fix: Fix,
    shown: bool,
}

/// Scheme, host and port of a URL that has nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct External {
    pub(super) https: bool,
    pub(super) host: AllowedHost,
}

impl External {
    /// `host` or `host:port`, as clients type it.
    pub(super) fn authority(&self) -> String {
        match self.host.port {
            Some(port) => format!("{}:{port}", self.host.name),
            None => self.host.name.clone(),
        }
    }
}

/// Parses `http(s)://host[:port]`.
pub(super) fn parse_url(text: &str) -> Result<External, UrlProblem> {
    let problem = |problem: String, fix: Fix| UrlProblem { problem, fix, shown: true };
    if text.contains('@') {
        let problem = "user and password do not belong in a URL".to_owned();
        let fix = Fix::advice(
            "write http://HOST:PORT here; for a member, give `credential: { basic: { user, password } }`",
        );
        return Err(UrlProblem { problem, fix, shown: false });
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        let written = text.trim_start_matches('/');
        let fix = if AllowedHost::parse(written).is_ok() {
            Fix::Write(format!("\"http://{written}\" (or https://)"))
        } else {
            Fix::write("\"http://HOST:PORT\" or \"https://HOST:PORT\"")
        };
        return Err(problem(format!("{text:?} has no scheme"), fix));
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    let https = match scheme.to_ascii_lowercase().as_str() {
        "https" => true,
        "http" => false,
        _ => {
            let fix = Fix::Write(format!("\"http://{authority}\" or \"https://{authority}\""));
            return Err(problem(format!("{text:?} has the unknown scheme {scheme:?}"), fix));
        }
    };
    let Ok(host) = AllowedHost::parse(authority) else {
        let fix = Fix::Write(format!(
            "\"{scheme}://HOST:PORT\", with a name, an IPv4 address, or an IPv6 address in brackets"
        ));
        return Err(problem(format!("{text:?} has no valid host and port"), fix));
    };
    if host.port == Some(0) {
        return Err(problem(
            format!("{text:?} has the port 0"),
            Fix::Write(format!("\"{scheme}://{}:5000\"", host.name)),
        ));
    }
    if !tail.is_empty() {
        let what = if tail.starts_with('/') { "a path" } else { "a query or fragment" };
        return Err(problem(
            format!("{text:?} has {what}, which is not supported"),
            Fix::Write(format!("\"{scheme}://{authority}\"")),
        ));
    }
    Ok(External { https, host })
}

/// What clients type.
pub(super) fn external(cx: &mut Context<'_>, path: &KeyPath, text: &str) -> Option<External> {
    match parse_url(text) {
        Ok(external) => Some(external),
        Err(problem) => {
            report(cx, path, problem);
            None
        }
    }
}

/// Reports a URL's problem without a password that may be in it.
pub(super) fn report(cx: &mut Context<'_>, path: &KeyPath, problem: UrlProblem) {
    if problem.shown {
        cx.error(path, problem.problem, problem.fix);
    } else {
        cx.error_hidden(path, problem.problem, problem.fix);
    }
}

/// All names under which clients may address the gateway.
pub(super) fn hosts(cx: &mut Context<'_>, path: &KeyPath, external: &External, further: &[String]) -> Hosts {
    let mut allowed = Vec::new();
    for (at, text) in further.iter().enumerate() {
        let path = path.index(at);
        match AllowedHost::parse(text) {
            Ok(host) if host == external.host || allowed.contains(&host) => {
                cx.warn(&path, format!("{text:?} is already in the list"), Fix::advice("remove it"));
            }
            Ok(host) => allowed.push(host),
            Err(error) => {
                let fix = parse_url(text).map_or_else(
                    |_| Fix::write("hub.example.com or 10.0.0.1:8443"),
                    |url| Fix::Write(url.authority()),
                );
                cx.error(&path, format!("{text:?} is {error}"), fix);
            }
        }
    }
    Hosts::new(external.host.clone(), allowed, external.https)
}

/// Names without ports, in lower case.
pub(super) fn names(cx: &mut Context<'_>, path: &KeyPath, texts: &[String]) -> Vec<String> {
    let mut names = Vec::new();
    for (at, text) in texts.iter().enumerate() {
        match AllowedHost::parse(text) {
            Ok(AllowedHost { name, port: None }) => names.push(name),
            Ok(AllowedHost { name, port: Some(_) }) => {
                cx.error(&path.index(at), format!("{text:?} has a port"), Fix::Write(format!("\"{name}\"")));
            }
            Err(error) => {
                cx.error(&path.index(at), format!("{text:?} is {error}"), Fix::write("node1.example.com"));
            }
        }
    }
    names
}

/// Whether clients may address the gateway by this name, on whatever port.
pub(super) fn is_host_name(file: &File, name: &str) -> bool {
    let external = parse_url(&file.external_url).map(|external| external.host).ok();
    let further = file.hosts.iter().filter_map(|host| AllowedHost::parse(host).ok());
    external.into_iter().chain(further).any(|host| host.name == name)
}

/// Where to listen.
pub(super) fn socket(cx: &mut Context<'_>, path: &KeyPath, text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let fix = match text.rsplit_once(':') {
        Some(("" | "*", port)) if port.parse::<u16>().is_ok() => {
            format!("\"0.0.0.0:{port}\" or \"[::]:{port}\"")
        }
        Some((_, port)) if port.parse::<u16>().is_ok() => {
            format!("\"127.0.0.1:{port}\" or \"0.0.0.0:{port}\"")
        }
        _ if text.parse::<u16>().is_ok() => format!("\"0.0.0.0:{text}\""),
        _ if text.parse::<std::net::Ipv4Addr>().is_ok() => format!("\"{text}:8443\""),
        _ => "\"0.0.0.0:8443\"".to_owned(),
    };
    cx.error(path, format!("{text:?} is not an IP address with a port"), Fix::Write(fix));
    None
}
