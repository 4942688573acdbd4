//! Passwords straight on `/v2/`, plain listeners, the redirect listener, and unclear credentials.

use http::{Method, Request};

use super::fixture::{assert_oci_error, bearer_of, hub};
use crate::harness::client::{TestClient, basic, whole};
use crate::harness::gateway::ListenerKind;
use crate::harness::image::Blob;
use crate::harness::push;

#[tokio::test]
async fn basic_straight_on_v2_works_and_has_the_rights_of_the_policy() {
    let hub = hub().await;
    let bob = hub.nobody().with_basic("bob", &hub.bob_password);
    let answer = bob.get("/v2/").await.is(200);
    assert_eq!(answer.header("www-authenticate"), None);
    let blob = Blob::random(1000);
    push::blob(&bob, "bob/basic", &blob).await;
    let answer = bob.get(&format!("/v2/bob/basic/blobs/{}", blob.digest)).await;
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &blob.bytes[..]));
    let answer = bob.post("/v2/shared/basic/blobs/uploads/", "").await;
    assert_oci_error(&answer, 401, "DENIED");
    let answer = bob.delete(&format!("/v2/bob/basic/blobs/{}", blob.digest)).await;
    assert_oci_error(&answer, 401, "DENIED");
}

#[tokio::test]
async fn wrong_password_and_unknown_user_on_v2_are_401_alike() {
    let hub = hub().await;
    let of = async |user: &str, password: &str| {
        let answer = hub.nobody().with_basic(user, password).get("/v2/").await;
        assert_oci_error(&answer, 401, "UNAUTHORIZED");
        let json = answer.json();
        let challenge = answer.header("www-authenticate").expect("a challenge").to_owned();
        (json["errors"][0]["message"].to_string(), challenge)
    };
    let wrong = of("bob", "wrong").await;
    assert_eq!(wrong, of("mallory", "wrong").await, "nobody can tell which users there are");
    assert!(wrong.1.ends_with(",error=\"invalid_token\""), "{}", wrong.1);
}

#[tokio::test]
async fn two_authorization_headers_and_unreadable_ones_are_400() {
    let hub = hub().await;
    let good = basic("bob", &hub.bob_password);
    let token = bearer_of(&hub.bob(&[]).await);
    for target in ["/v2/", "/v2/bob/x/tags/list", "/service/token"] {
        for pair in [[good.as_str(), good.as_str()], [good.as_str(), token.as_str()]] {
            let headers = pair.map(|value| ("authorization", value));
            let answer = hub.send(Method::GET, target, &headers).await;
            assert_oci_error(&answer, 400, "UNSUPPORTED");
            assert!(answer.text().contains("more than one Authorization"), "{}", answer.text());
        }
        for value in ["Digest x", "Basic", "Basic !!!", "Negotiate abc", "Bearer"] {
            let answer = hub.send(Method::GET, target, &[("authorization", value)]).await;
            assert_oci_error(&answer, 400, "UNSUPPORTED");
        }
    }
}

#[tokio::test]
async fn unknown_host_is_421_before_anything_else() {
    let hub = hub().await;
    let good = basic("bob", &hub.bob_password);
    for host in ["hub.example.com", "127.0.0.1:9", "127.0.0.1", "", "[::1]", "localhost:99999"] {
        let headers = [("host", host), ("authorization", good.as_str())];
        assert_oci_error(&hub.send(Method::GET, "/v2/", &headers).await, 421, "UNSUPPORTED");
    }
    let two = [("host", hub.authority()), ("host", hub.authority())];
    assert_oci_error(&hub.send(Method::GET, "/v2/", &two).await, 421, "UNSUPPORTED");
}

#[tokio::test]
async fn credentials_on_a_plain_listener_are_refused_and_never_looked_at() {
    let hub = hub().await;
    let plain = hub.site.gateway.plain_client().with_host(hub.authority());
    // Behind a TLS terminator clients see https, so the realm says so.
    let answer = plain.get("/v2/").await;
    let challenge = answer.header("www-authenticate").expect("a challenge").to_owned();
    assert!(challenge.starts_with(&format!("Bearer realm=\"https://{}/", hub.authority())), "{challenge}");
    let token = bearer_of(&hub.bob(&[]).await);
    let bearer = token.strip_prefix("Bearer ").expect("a bearer");
    for client in [
        plain.clone().with_basic("bob", &hub.bob_password),
        plain.clone().with_basic("bob", "wrong"),
        plain.clone().with_bearer(bearer),
    ] {
        let answer = client.get("/v2/").await;
        assert_oci_error(&answer, 403, "DENIED");
        assert_eq!(answer.header("www-authenticate"), None);
        assert_eq!(answer.header("connection"), Some("close"));
    }
}

/// Rule 7: the token endpoint never answers 403, which containerd does not get over.
#[tokio::test]
async fn rule_07_credentials_on_a_plain_listener_are_400_at_the_token_endpoint() {
    let hub = hub().await;
    let plain = hub.site.gateway.plain_client().with_host(hub.authority());
    let form = format!("grant_type=password&username=bob&password={}", hub.bob_password);
    let answer = plain.post("/service/token", form).await;
    assert_oci_error(&answer, 400, "DENIED");
    let answer = plain.with_basic("bob", &hub.bob_password).get("/service/token").await;
    assert_oci_error(&answer, 400, "DENIED");
}

#[tokio::test]
async fn redirect_listener_answers_308_to_the_same_place_under_https() {
    let hub = hub().await;
    let client = TestClient::plain(hub.site.gateway.address(ListenerKind::Redirect));
    let port = hub.authority().rsplit_once(':').expect("a port").1;
    for (method, host, target) in [
        (Method::GET, "localhost", "/v2/"),
        (Method::GET, "localhost:80", "/v2/a/b/tags/list?n=1&last=x"),
        (Method::POST, "127.0.0.1:8080", "/service/token"),
    ] {
        let request = Request::builder().method(method).uri(target).header("host", host);
        let answer = client.send(request.body(whole("")).expect("a request")).await;
        let name = host.split(':').next().expect("a name");
        assert_eq!(answer.status, 308);
        assert_eq!(answer.header("location"), Some(format!("https://{name}:{port}{target}").as_str()));
        assert!(answer.body.is_empty());
    }
    // Only to names that are served here.
    let request = Request::builder().uri("/v2/").header("host", "evil.example.com");
    let answer = client.send(request.body(whole("")).expect("a request")).await;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (421, None));
}
