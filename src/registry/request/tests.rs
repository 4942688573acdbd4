//! Every route, and every target that could mean two things.

use proptest::prelude::*;

use percent_encoding::utf8_percent_encode;

use super::*;
use crate::registry::NameError;
use crate::registry::target::QUERY_VALUE;

const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn parse(method: &str, target: &str) -> Result<RegistryRequest, ParseError> {
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    RegistryRequest::parse(&method, path, query)
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table, a row a route")]
fn every_route_is_read_with_its_access_and_rebuilt_canonically() {
    let digest = format!("sha256:{HEX}");
    for (method, target, scopes, rebuilt) in [
        ("GET", "/v2/".to_owned(), "", "/v2/".to_owned()),
        ("GET", "/v2".to_owned(), "", "/v2/".to_owned()),
        (
            "GET",
            "/v2/_catalog?n=5&last=a".to_owned(),
            "registry:catalog:*",
            "/v2/_catalog?n=5&last=a".to_owned(),
        ),
        (
            "GET",
            "/v2/_catalog?n=99999999999".to_owned(),
            "registry:catalog:*",
            "/v2/_catalog?n=1000".to_owned(),
        ),
        ("GET", "/v2/a/b/tags/list?ns=x".to_owned(), "repository:a/b:pull", "/v2/a/b/tags/list".to_owned()),
        ("HEAD", "/v2/a/manifests/v1".to_owned(), "repository:a:pull", "/v2/a/manifests/v1".to_owned()),
        (
            "GET",
            "/v2/a/manifests/v1?ns=docker.io".to_owned(),
            "repository:a:pull",
            "/v2/a/manifests/v1".to_owned(),
        ),
        ("PUT", "/v2/a/manifests/v1".to_owned(), "repository:a:pull,push", "/v2/a/manifests/v1".to_owned()),
        (
            "DELETE",
            format!("/v2/a/manifests/{digest}"),
            "repository:a:delete",
            format!("/v2/a/manifests/{digest}"),
        ),
        ("GET", format!("/v2/a/blobs/sha256%3A{HEX}"), "repository:a:pull", format!("/v2/a/blobs/{digest}")),
        ("DELETE", format!("/v2/a/blobs/{digest}"), "repository:a:delete", format!("/v2/a/blobs/{digest}")),
        (
            "GET",
            format!("/v2/a/referrers/{digest}?artifactType=x%2Fy%2Bz"),
            "repository:a:pull",
            format!("/v2/a/referrers/{digest}?artifactType=x/y%2Bz"),
        ),
        (
            "POST",
            "/v2/a/blobs/uploads/".to_owned(),
            "repository:a:pull,push",
            "/v2/a/blobs/uploads/".to_owned(),
        ),
        (
            "POST",
            format!("/v2/a/blobs/uploads/?from=b/c&mount={digest}"),
            "repository:a:pull,push repository:b/c:pull",
            format!("/v2/a/blobs/uploads/?mount={digest}&from=b/c"),
        ),
        (
            "POST",
            format!("/v2/a/blobs/uploads/?digest={digest}"),
            "repository:a:pull,push",
            format!("/v2/a/blobs/uploads/?digest={digest}"),
        ),
        (
            "PATCH",
            "/v2/a/blobs/uploads/u-1?_state=x%3D%3D&_tg=pin".to_owned(),
            "repository:a:pull,push",
            "/v2/a/blobs/uploads/u-1?_state=x%3D%3D".to_owned(),
        ),
        (
            "PUT",
            format!("/v2/a/blobs/uploads/u-1?_tg=pin&digest={digest}"),
            "repository:a:pull,push",
            format!("/v2/a/blobs/uploads/u-1?digest={digest}"),
        ),
        (
            "GET",
            "/v2/a/blobs/uploads/u-1".to_owned(),
            "repository:a:pull,push",
            "/v2/a/blobs/uploads/u-1".to_owned(),
        ),
        (
            "DELETE",
            "/v2/a/blobs/uploads/u-1".to_owned(),
            "repository:a:pull,push",
            "/v2/a/blobs/uploads/u-1".to_owned(),
        ),
    ] {
        let request = parse(method, &target).unwrap_or_else(|error| panic!("{method} {target}: {error}"));
        let asked: Vec<_> = request.challenge_access().iter().map(ToString::to_string).collect();
        assert_eq!(asked.join(" "), scopes, "{method} {target}");
        assert_eq!(request.member_target(), rebuilt, "{method} {target}");
    }
}

#[test]
fn repositories_named_like_routes_are_matched_from_the_right() {
    let digest = format!("sha256:{HEX}");
    for (method, target, repository) in [
        ("GET", "/v2/x/manifests/manifests/v1".to_owned(), "x/manifests"),
        ("GET", "/v2/x/tags/list/tags/list".to_owned(), "x/tags/list"),
        ("GET", "/v2/tags/list/manifests/list".to_owned(), "tags/list"),
        ("POST", "/v2/x/blobs/uploads/blobs/uploads/".to_owned(), "x/blobs/uploads"),
        ("GET", format!("/v2/x/blobs/uploads/blobs/{digest}"), "x/blobs/uploads"),
        ("GET", format!("/v2/blobs/blobs/{digest}"), "blobs"),
    ] {
        let request = parse(method, &target).unwrap_or_else(|error| panic!("{target}: {error}"));
        assert_eq!(request.repository().map(RepositoryName::as_str), Some(repository), "{target}");
    }
}

#[test]
fn whatever_could_mean_two_things_is_refused() {
    let digest = format!("sha256:{HEX}");
    for (method, target, expected) in [
        ("GET", "/v2//a/tags/list".to_owned(), ParseError::Path),
        ("GET", "/v2/a/../b/tags/list".to_owned(), ParseError::Path),
        ("GET", "/v2/a/%2e%2e/b/tags/list".to_owned(), ParseError::Path),
        ("GET", "/v2/a%2Fb/tags/list".to_owned(), ParseError::Path),
        ("GET", "/v2/a%252Fb/tags/list".to_owned(), ParseError::Path),
        ("GET", "/v2/a%00/tags/list".to_owned(), ParseError::Path),
        ("GET", "/v2/a\\b/tags/list".to_owned(), ParseError::Path),
        ("GET", "/v2/%C3%A9/tags/list".to_owned(), ParseError::Path),
        ("GET", "/v2/A/tags/list".to_owned(), ParseError::Name(NameError::Repository)),
        ("GET", "/v2/a/tags/list/".to_owned(), ParseError::Route),
        ("GET", "/v2/a/tags".to_owned(), ParseError::Route),
        ("GET", "/v2/a".to_owned(), ParseError::Route),
        ("GET", "/v3/".to_owned(), ParseError::Route),
        ("POST", "/v2/".to_owned(), ParseError::Method),
        ("PATCH", "/v2/a/manifests/v1".to_owned(), ParseError::Method),
        ("PUT", format!("/v2/a/blobs/{digest}"), ParseError::Method),
        ("GET", "/v2/a/blobs/uploads/".to_owned(), ParseError::Method),
        ("GET", "/v2/a/blobs/sha256:12".to_owned(), ParseError::Name(NameError::Digest)),
        ("PUT", "/v2/a/blobs/uploads/u-1".to_owned(), ParseError::DigestMissing),
        ("PUT", format!("/v2/a/blobs/uploads/u?digest={digest}&digest={digest}"), ParseError::Query),
        ("POST", format!("/v2/a/blobs/uploads/?mount={digest}&from=b&from=c"), ParseError::Query),
        (
            "POST",
            format!("/v2/a/blobs/uploads/?mount={digest}&from=B"),
            ParseError::Name(NameError::Repository),
        ),
        ("POST", format!("/v2/a/blobs/uploads/?mount={digest};from=b"), ParseError::Query),
        ("GET", "/v2/_catalog?n=-1".to_owned(), ParseError::PageSize),
    ] {
        assert_eq!(parse(method, &target).err(), Some(expected), "{method} {target}");
    }
}

#[test]
fn only_the_pin_and_the_digest_are_kept_from_the_member_query() {
    let digest = format!("sha256:{HEX}");
    let target = format!("/v2/a/blobs/uploads/u?_tg=P&_state=S%26x&digest={digest}&from=b&mount={digest}");
    let request = parse("PUT", &target).expect("parses");
    let RegistryRequest::Upload { pin, member_query, .. } = &request else { panic!("an upload") };
    assert_eq!(pin.as_deref(), Some("P"));
    assert_eq!(member_query, &[("_state".to_owned(), "S&x".to_owned())]);
}

proptest! {
    #[test]
    fn the_rebuilt_target_parses_to_the_same_request(
        name in "[a-z0-9]{1,4}(/[a-z0-9]{1,3}){0,2}",
        word in "(manifests|blobs|tags|referrers|uploads|list)",
        tag in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,10}",
        state in "[ -~]{0,20}",
        n in 0u32..3000,
    ) {
        let digest = format!("sha256:{HEX}");
        let state = utf8_percent_encode(&state, QUERY_VALUE).to_string();
        for (method, target) in [
            ("GET", format!("/v2/{name}/{word}/manifests/{tag}")),
            ("DELETE", format!("/v2/{name}/{word}/blobs/{digest}")),
            ("GET", format!("/v2/{word}/{name}/tags/list?n={n}&last={state}")),
            ("POST", format!("/v2/{name}/blobs/uploads/?mount={digest}&from={word}/{name}")),
            ("PUT", format!("/v2/{name}/{word}/blobs/uploads/{tag}?_state={state}&digest={digest}")),
        ] {
            let first = parse(method, &target).expect("valid by construction");
            let again = parse(method, &first.member_target()).expect("canonical");
            prop_assert_eq!(first, again);
        }
    }

    #[test]
    fn no_input_panics_and_no_accepted_path_climbs(target in "[ -~]{0,60}", method in "(GET|PUT|POST|PATCH|DELETE)") {
        if let Ok(request) = parse(&method, &format!("/v2/{target}")) {
            let rebuilt = request.member_target();
            prop_assert!(!rebuilt.contains("..") || rebuilt.contains('?') || rebuilt.contains("manifests/"));
            prop_assert!(rebuilt.starts_with("/v2/"));
        }
    }
}
