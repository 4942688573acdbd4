//! The routes of a Harbor node beside `/v2`: its web pages and its API, as an allow-list.
//!
//! Harbor itself authenticates there. What must never be reached from outside is not on the list:
//! `/service/notifications` asks for no credentials, `/api/internal` and `internalconfig` are for
//! Harbor's own services. Core takes odd spellings of all of them, so a path is decoded once,
//! refused where two parsers could read it differently, and written anew.

use http::Method;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use super::error::ParseError;
use super::route::RouteKind;

/// Longest path and query in bytes: a node's own proxy takes a request line of 8 KiB.
const TARGET_BYTES_MAX: usize = 7_000;

/// What must be encoded in a path that we write (RFC 3986 3.3, and what Harbor's router dislikes).
const PATH: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// First segments that are not for clients, whatever follows.
const NEVER: [&str; 5] = ["service", "v1", "v2", "metrics", ".well-known"];

/// Methods that Harbor knows.
const METHODS: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];

/// What kind of page a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebKind {
    /// `/c/`: login, logout, OIDC.
    Session,
    /// `/api/`.
    Api,
    /// `/chartrepo/`, in Harbor before 2.8.
    Charts,
    /// The portal's files, and the one page that stands for all others.
    Page,
}

/// A request for a Harbor node's pages or API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebRequest {
    kind: WebKind,
    target: String,
    project: Option<String>,
}

impl WebRequest {
    /// Reads a request; `first_version` is whether the nodes are of Harbor 1.x.
    ///
    /// # Errors
    /// [`ParseError`]: `Path` and `Query` where they are not unambiguous, `Route` where nothing is
    /// served, `Method` where the route does not take it.
    pub fn parse(
        method: &Method,
        path: &str,
        query: Option<&str>,
        first_version: bool,
    ) -> Result<Self, ParseError> {
        let segments = segments(path)?;
        let kind = kind(&segments, first_version)?;
        let read = matches!(*method, Method::GET | Method::HEAD);
        if !METHODS.contains(method) || (kind == WebKind::Page && !read) {
            return Err(ParseError::Method);
        }
        let mut target = String::with_capacity(path.len() + 16);
        for segment in &segments {
            target.push('/');
            target.extend(utf8_percent_encode(segment, PATH));
        }
        if let Some(query) = query {
            // Percent-encodings of a query mean the same to every parser only as they are.
            if !query.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(ParseError::Query);
            }
            target.push('?');
            target.push_str(query);
        }
        if target.len() > TARGET_BYTES_MAX {
            return Err(ParseError::Path);
        }
        Ok(Self { kind, target, project: project(&segments) })
    }

    /// What kind of page it is for.
    #[must_use]
    pub fn kind(&self) -> WebKind {
        self.kind
    }

    /// Path and query for the node.
    #[must_use]
    pub fn member_target(&self) -> &str {
        &self.target
    }

    /// The project that an API request is about, where its path names one.
    #[must_use]
    pub fn project(&self) -> Option<&str> {
        self.project.as_deref()
    }

    /// The kind of its route, for metrics and logs.
    #[must_use]
    pub fn route(&self) -> RouteKind {
        match self.kind {
            WebKind::Session | WebKind::Page => RouteKind::Page,
            WebKind::Api | WebKind::Charts => RouteKind::Api,
        }
    }
}

/// The decoded segments behind each slash; the last is empty where the path ends in one.
fn segments(path: &str) -> Result<Vec<String>, ParseError> {
    let rest = path.strip_prefix('/').ok_or(ParseError::Path)?;
    let mut segments = Vec::new();
    for raw in rest.split('/') {
        let decoded = percent_decode_str(raw).decode_utf8().map_err(|_| ParseError::Path)?;
        let odd = decoded.chars().any(|c| c.is_control() || matches!(c, '/' | '\\'));
        // Core decodes once more in places: `%252F` in a repository's name is meant, dots are not.
        let twice = percent_decode_str(&decoded).decode_utf8().map_err(|_| ParseError::Path)?;
        let climbs = twice.split(['/', '\\']).any(|part| matches!(part, "." | ".."));
        if odd || climbs || twice.chars().any(char::is_control) {
            return Err(ParseError::Path);
        }
        segments.push(decoded.into_owned());
    }
    let inner = segments.len().saturating_sub(1);
    if segments[..inner].iter().any(String::is_empty) {
        return Err(ParseError::Path);
    }
    Ok(segments)
}

fn kind(segments: &[String], first_version: bool) -> Result<WebKind, ParseError> {
    let words: Vec<String> = segments.iter().map(|segment| segment.to_lowercase()).collect();
    let first = words.first().map_or("", String::as_str);
    if NEVER.contains(&first) || words.iter().any(|word| word == "internalconfig") {
        return Err(ParseError::Route);
    }
    let exact = segments.first().map_or("", String::as_str);
    match exact {
        "c" if segments.len() > 1 => Ok(WebKind::Session),
        "chartrepo" if segments.len() > 1 => Ok(WebKind::Charts),
        "api" => {
            let version = segments.get(1).map_or("", String::as_str);
            let versioned = usize::from(words.get(1).is_some_and(|word| word == "v2.0"));
            let internal = words.get(1 + versioned).is_some_and(|word| word == "internal");
            let known = first_version || matches!(version, "v2.0" | "version" | "chartrepo");
            if segments.len() < 2 || internal || !known { Err(ParseError::Route) } else { Ok(WebKind::Api) }
        }
        // Another spelling of one of these would be a page to us and who knows what to the node.
        _ if matches!(first, "c" | "chartrepo" | "api") => Err(ParseError::Route),
        _ => Ok(WebKind::Page),
    }
}

fn project(segments: &[String]) -> Option<String> {
    let after = segments.iter().position(|segment| segment == "projects")?;
    let name = segments.get(after + 1)?;
    (segments[0] == "api" && !name.is_empty()).then(|| name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(path: &str) -> Result<WebRequest, ParseError> {
        WebRequest::parse(&Method::GET, path, None, false)
    }

    #[test]
    fn pages_and_the_api_are_served_and_nothing_of_harbors_own() {
        for (path, kind) in [
            ("/", WebKind::Page),
            ("/harbor/projects", WebKind::Page),
            ("/main.0123abcd.js", WebKind::Page),
            ("/i18n/lang/en-us-lang.json", WebKind::Page),
            ("/images/", WebKind::Page),
            ("/account/sign-in", WebKind::Page),
            ("/c/login", WebKind::Session),
            ("/c/oidc/callback", WebKind::Session),
            ("/chartrepo/library/index.yaml", WebKind::Charts),
            ("/api/v2.0/ping", WebKind::Api),
            ("/api/version", WebKind::Api),
            ("/api/chartrepo/library/charts", WebKind::Api),
        ] {
            let request = parse(path).unwrap_or_else(|error| panic!("{path}: {error}"));
            assert_eq!((request.kind(), request.member_target()), (kind, path));
        }
        for path in [
            "/service/notifications",
            "/service/notifications/tasks/1",
            "/service/token",
            "/Service/notifications",
            "/%73ervice/notifications/jobs/scan/x",
            "/v1/_ping",
            "/v2/_catalog",
            "/V2/",
            "/metrics",
            "/api",
            "/api/",
            "/api/internal/configurations",
            "/api/Internal/configurations",
            "/api/v2.0/internal/syncquota",
            "/api/%69nternal/syncregistry",
            "/api/v2.0/internalconfig",
            "/api/ping",
            "/API/v2.0/internalconfig",
            "/Api/internal/x",
            "/c",
        ] {
            assert_eq!(parse(path), Err(ParseError::Route), "{path}");
        }
        let first = |path| WebRequest::parse(&Method::GET, path, None, true).map(|request| request.kind());
        assert_eq!(first("/api/ping"), Ok(WebKind::Api));
        assert_eq!(first("/api/internal/configurations"), Err(ParseError::Route));
        // A project of that name is a project.
        assert_eq!(first("/api/repositories/internal/app/tags"), Ok(WebKind::Api));
        assert_eq!(parse("/api/chartrepo/internal/charts").map(|request| request.kind()), Ok(WebKind::Api));
    }

    #[test]
    fn paths_that_could_mean_two_things_are_refused() {
        for path in [
            "",
            "x",
            "//service/notifications",
            "/./service/notifications",
            "/c/../service/notifications",
            "/api/..%2fservice/notifications",
            "/api/%2e%2e/service/notifications",
            "/api/v2.0/%252e%252e/service",
            "/api/v2.0/x%252f..%252fservice",
            "/api/v2.0//ping",
            "/c/login%00",
            "/api/v2.0/a%5cb",
            "/a\\b",
            "/%ff",
            "/api/v2.0/x%0d%0a",
        ] {
            assert_eq!(parse(path), Err(ParseError::Path), "{path}");
        }
        assert_eq!(
            WebRequest::parse(&Method::GET, "/", Some(&"q".repeat(TARGET_BYTES_MAX)), false),
            Err(ParseError::Path)
        );
    }

    #[test]
    fn names_with_encoded_slashes_and_queries_reach_the_node_as_they_are() {
        let path = "/api/v2.0/projects/team/repositories/a%252Fb/artifacts/sha256:0/tags";
        let request = WebRequest::parse(&Method::GET, path, Some("q=name%3D~x&page=1"), false).expect("good");
        assert_eq!(request.member_target(), format!("{path}?q=name%3D~x&page=1"));
        assert_eq!(request.project(), Some("team"));
        assert_eq!(parse("/api/v2.0/projects").expect("good").project(), None);
        assert_eq!(parse("/harbor/projects/1").expect("good").project(), None);
    }

    #[test]
    fn pages_are_read_only_and_unknown_methods_are_refused() {
        let parse = |method: &Method, path| WebRequest::parse(method, path, None, false).map(|_| ());
        assert_eq!(parse(&Method::POST, "/c/login"), Ok(()));
        assert_eq!(parse(&Method::DELETE, "/api/v2.0/projects/1"), Ok(()));
        assert_eq!(parse(&Method::POST, "/harbor"), Err(ParseError::Method));
        assert_eq!(parse(&Method::TRACE, "/api/v2.0/ping"), Err(ParseError::Method));
        assert_eq!(parse(&Method::CONNECT, "/c/login"), Err(ParseError::Method));
    }

    proptest! {
        #[test]
        fn whatever_is_served_reads_the_same_once_more_and_never_climbs(path in "/[a-z./%0-9A-F\\\\]{0,40}") {
            if let Ok(request) = parse(&path) {
                let again = parse(request.member_target()).expect("what we write can be read");
                prop_assert_eq!(again.member_target(), request.member_target());
                let decoded = percent_decode_str(request.member_target()).decode_utf8_lossy().into_owned();
                prop_assert!(!decoded.split('/').any(|part| part == ".." || part == "."));
                prop_assert!(!decoded.to_lowercase().starts_with("/service"));
            }
        }
    }
}
