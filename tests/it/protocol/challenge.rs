//! Rules 1 to 5: what a client without sufficient credentials is told, and how.

use std::collections::BTreeSet;

use http::Method;

use super::fixture::{assert_oci_error, hub, push_scope};
use crate::harness::client::{Answer, basic, challenge_parameter};
use crate::harness::image::digest_of;

/// The one challenge of an answer.
#[track_caller]
fn challenge(answer: &Answer) -> String {
    assert_eq!(answer.status, 401, "{}", answer.text());
    let all: Vec<_> = answer.headers.get_all("www-authenticate").iter().collect();
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].to_str().expect("text").to_owned()
}

#[tokio::test]
async fn rule_01_v2_without_credentials_is_401_with_exactly_one_bearer_challenge() {
    let hub = hub().await;
    let realm = format!("https://{}/service/token", hub.authority());
    let expected = format!("Bearer realm=\"{realm}\",service=\"tidegate-test\"");
    // Also with the empty pair that registry clients send for "anonymous".
    let empty = basic("", "");
    for (headers, method) in [
        (&[][..], Method::GET),
        (&[][..], Method::HEAD),
        (&[("authorization", empty.as_str())][..], Method::GET),
    ] {
        for target in ["/v2/", "/v2"] {
            let answer = hub.send(method.clone(), target, headers).await;
            assert_eq!(challenge(&answer), expected, "{method} {target} {headers:?}");
        }
    }
    // Also where anybody may pull: clients learn only here where to get a token.
    let answer = hub.nobody().get("/v2/public/image/tags/list").await;
    assert_eq!(challenge(&answer), format!("{expected},scope=\"repository:public/image:pull\""));
}

#[tokio::test]
async fn rule_02_realm_has_the_scheme_host_and_port_of_the_request_and_only_listed_hosts() {
    let hub = hub().await;
    let port = hub.authority().rsplit_once(':').expect("a port").1.to_owned();
    for (host, expected) in [
        (format!("127.0.0.1:{port}"), format!("https://127.0.0.1:{port}/service/token")),
        (format!("localhost:{port}"), format!("https://localhost:{port}/service/token")),
        (format!("LOCALHOST:{port}"), format!("https://localhost:{port}/service/token")),
        ("localhost".to_owned(), "https://localhost/service/token".to_owned()),
    ] {
        let answer = hub.send(Method::GET, "/v2/", &[("host", &host)]).await;
        assert_eq!(challenge_parameter(&challenge(&answer), "realm"), Some(expected), "{host}");
    }
    for host in
        ["evil.example.com", "127.0.0.1:1", "localhost:5000@evil.example.com", "localhost.evil.example.com"]
    {
        for target in ["/v2/", "/service/token", "/.well-known/jwks.json", "/"] {
            let answer = hub.send(Method::GET, target, &[("host", host)]).await;
            assert_oci_error(&answer, 421, "UNSUPPORTED");
            assert_eq!(answer.header("www-authenticate"), None, "{host} {target}");
        }
    }
}

#[tokio::test]
async fn rule_02_forwarding_headers_of_a_client_do_not_move_the_realm() {
    let hub = hub().await;
    let plain = challenge(&hub.send(Method::GET, "/v2/", &[]).await);
    for (name, value) in [
        ("x-forwarded-host", "evil.example.com"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-port", "80"),
        ("forwarded", "host=evil.example.com;proto=http"),
        ("x-original-host", "evil.example.com"),
    ] {
        assert_eq!(challenge(&hub.send(Method::GET, "/v2/", &[(name, value)]).await), plain, "{name}");
    }
}

#[tokio::test]
async fn rule_03_realm_and_service_are_the_same_for_all_repositories_and_requests() {
    let hub = hub().await;
    let nowhere = hub.bob(&[]).await;
    let mut seen = BTreeSet::new();
    let mut note = |answer: Answer| {
        let challenge = challenge(&answer);
        let parameter = |name| challenge_parameter(&challenge, name).expect("a parameter");
        seen.insert((parameter("realm"), parameter("service")));
    };
    // More often than there are members.
    for repository in ["a", "a/b", "public/x", "bob/x", "shared/x", "deep/er/and/deeper"] {
        for target in
            [format!("/v2/{repository}/tags/list"), format!("/v2/{repository}/blobs/{}", digest_of(b"x"))]
        {
            note(hub.send(Method::GET, &target, &[]).await);
            note(hub.send(Method::GET, &target, &[("authorization", "Bearer nonsense")]).await);
            note(nowhere.get(&target).await);
        }
        let uploads = format!("/v2/{repository}/blobs/uploads/");
        note(hub.send(Method::POST, &uploads, &[]).await);
    }
    note(hub.send(Method::GET, "/v2/", &[]).await);
    note(hub.send(Method::GET, "/v2/_catalog", &[]).await);
    assert_eq!(seen.len(), 1, "{seen:?}");
}

#[tokio::test]
async fn rule_04_challenge_scope_names_what_the_request_needs() {
    let hub = hub().await;
    let digest = digest_of(b"x");
    let mount = format!("/v2/a/b/blobs/uploads/?mount={digest}&from=c/d");
    for (method, target, scope) in [
        (Method::GET, "/v2/a/b/manifests/v1".to_owned(), "repository:a/b:pull"),
        (Method::HEAD, "/v2/a/b/manifests/v1".to_owned(), "repository:a/b:pull"),
        (Method::PUT, "/v2/a/b/manifests/v1".to_owned(), "repository:a/b:pull,push"),
        (Method::DELETE, format!("/v2/a/b/manifests/{digest}"), "repository:a/b:delete"),
        (Method::GET, format!("/v2/a/b/blobs/{digest}"), "repository:a/b:pull"),
        (Method::HEAD, format!("/v2/a/b/blobs/{digest}"), "repository:a/b:pull"),
        (Method::DELETE, format!("/v2/a/b/blobs/{digest}"), "repository:a/b:delete"),
        (Method::GET, "/v2/a/b/tags/list".to_owned(), "repository:a/b:pull"),
        (Method::GET, format!("/v2/a/b/referrers/{digest}"), "repository:a/b:pull"),
        (Method::POST, "/v2/a/b/blobs/uploads/".to_owned(), "repository:a/b:pull,push"),
        (Method::POST, mount, "repository:a/b:pull,push repository:c/d:pull"),
        (Method::PATCH, "/v2/a/b/blobs/uploads/some-id".to_owned(), "repository:a/b:pull,push"),
        (Method::PUT, format!("/v2/a/b/blobs/uploads/some-id?digest={digest}"), "repository:a/b:pull,push"),
        (Method::GET, "/v2/_catalog".to_owned(), "registry:catalog:*"),
    ] {
        let answer = hub.send(method.clone(), &target, &[]).await;
        let challenge = challenge(&answer);
        assert_eq!(challenge_parameter(&challenge, "scope").as_deref(), Some(scope), "{method} {target}");
        // An error is only for a credential that came.
        assert_eq!(challenge_parameter(&challenge, "error"), None, "{method} {target}");
    }
}

#[tokio::test]
async fn rule_04_a_bad_token_is_invalid_token_and_a_missing_right_is_insufficient_scope() {
    let hub = hub().await;
    let realm = format!("https://{}/service/token", hub.authority());
    let expected = |scope: &str, error: &str| {
        format!("Bearer realm=\"{realm}\",service=\"tidegate-test\",scope=\"{scope}\",error=\"{error}\"")
    };
    let (target, scope) = ("/v2/bob/app/tags/list", "repository:bob/app:pull");
    let wrong_password = basic("bob", "wrong");
    let unknown_user = basic("mallory", "wrong");
    for authorization in
        ["Bearer nonsense", "Bearer e30.e30.e30", wrong_password.as_str(), unknown_user.as_str()]
    {
        let answer = hub.send(Method::GET, target, &[("authorization", authorization)]).await;
        assert_eq!(challenge(&answer), expected(scope, "invalid_token"), "{authorization}");
        assert_oci_error(&answer, 401, "UNAUTHORIZED");
    }
    // A token without the right, a token for something else, and a right that the policy does not give.
    for (client, target, scope) in [
        (hub.bob(&[]).await, target, scope),
        (hub.bob(&[&push_scope("bob/other")]).await, target, scope),
        (hub.bob(&[&push_scope("alice/app")]).await, "/v2/alice/app/tags/list", "repository:alice/app:pull"),
        (hub.nobody().with_basic("bob", &hub.bob_password), "/v2/_catalog", "registry:catalog:*"),
    ] {
        let answer = client.get(target).await;
        assert_eq!(challenge(&answer), expected(scope, "insufficient_scope"), "{target}");
        assert_oci_error(&answer, 401, "DENIED");
    }
}

#[tokio::test]
async fn rule_05_every_answer_has_the_api_version_and_every_refusal_is_oci_json() {
    let hub = hub().await;
    let alice = hub.alice(&["repository:a/b:pull,push"]).await;
    let bearer = super::fixture::bearer_of(&alice);
    let authorization = [("authorization", bearer.as_str())];
    for (method, target, headers, status, code) in [
        (Method::GET, "/v2/", &[][..], 401, "UNAUTHORIZED"),
        (Method::GET, "/v2/a/b/tags/list", &[][..], 401, "UNAUTHORIZED"),
        (Method::GET, "/v2/other/tags/list", &authorization[..], 401, "DENIED"),
        (Method::GET, "/v2/a/b/manifests/v1", &authorization[..], 404, "MANIFEST_UNKNOWN"),
        (Method::GET, "/v2/a/b/nothing", &authorization[..], 404, "NAME_UNKNOWN"),
        (Method::GET, "/elsewhere", &[][..], 404, "NAME_UNKNOWN"),
        (Method::POST, "/v2/a/b/tags/list", &authorization[..], 405, "UNSUPPORTED"),
        (Method::GET, "/v2/A/b/tags/list", &authorization[..], 400, "NAME_INVALID"),
        (Method::DELETE, "/token", &[][..], 405, "UNSUPPORTED"),
    ] {
        let answer = hub.send(method.clone(), target, headers).await;
        assert_eq!(answer.status, status, "{method} {target} {}", answer.text());
        assert_eq!(answer.header("docker-distribution-api-version"), Some("registry/2.0"), "{target}");
        let content_type = answer.header("content-type").expect("a content type");
        assert!(content_type.starts_with("application/json"), "{method} {target}: {content_type}");
        assert_eq!(answer.error_code().as_deref(), Some(code), "{method} {target} {}", answer.text());
        assert!(answer.header("x-request-id").is_some(), "{method} {target}");
        assert!(answer.json()["errors"][0]["message"].is_string(), "{}", answer.text());
    }
    let answer = alice.get("/v2/").await.is(200);
    assert_eq!(answer.header("docker-distribution-api-version"), Some("registry/2.0"));
}
