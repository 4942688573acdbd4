//! Rules 6 to 9 and 23: the token endpoint, in every way in which clients ask it.

use std::time::{SystemTime, UNIX_EPOCH};

use http::Method;
use serde_json::Value;

use super::fixture::{Hub, assert_oci_error, hub};
use crate::harness::client::{Answer, basic, whole};

const FORM: &str = "application/x-www-form-urlencoded";

/// Posts a form, with an `Authorization` header where there is one to send.
async fn post(hub: &Hub, form: &[(&str, &str)], authorization: Option<&str>) -> Answer {
    let mut body = form_urlencoded::Serializer::new(String::new());
    body.extend_pairs(form);
    let mut request = hub.nobody().request(Method::POST, "/service/token").header("content-type", FORM);
    if let Some(authorization) = authorization {
        request = request.header("authorization", authorization);
    }
    let request = request.body(whole(body.finish()));
    hub.nobody().send(request).await
}

/// Asks as `bob` by GET with this query.
async fn get(hub: &Hub, query: &str) -> Answer {
    let client = hub.nobody().with_basic("bob", &hub.bob_password);
    client.get(&format!("/service/token?{query}")).await
}

/// The claims of the token in an answer.
#[track_caller]
fn claims(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let token = answer.token();
    let payload = token.split('.').nth(1).expect("three parts").to_owned();
    let payload = data_encoding::BASE64URL_NOPAD.decode(payload.as_bytes()).expect("base64url");
    serde_json::from_slice(&payload).expect("claims")
}

/// The granted access as scopes, in the order of the token.
#[track_caller]
fn granted(answer: &Answer) -> Vec<String> {
    let claims = claims(answer);
    let scope = |entry: &Value| {
        let words = |value: &Value| value.as_str().expect("a word").to_owned();
        let actions: Vec<_> = entry["actions"].as_array().expect("a list").iter().map(words).collect();
        format!("{}:{}:{}", words(&entry["type"]), words(&entry["name"]), actions.join(","))
    };
    claims["access"].as_array().expect("a list, also where it is empty").iter().map(scope).collect()
}

#[tokio::test]
async fn rule_06_get_takes_scopes_repeated_joined_empty_and_unknown() {
    let hub = hub().await;
    let both = ["repository:bob/a:pull,push", "repository:bob/b:pull"];
    for (query, expected) in [
        ("scope=repository:bob/a:pull,push&scope=repository:bob/b:pull", &both[..]),
        ("scope=repository:bob/a:push,pull%20repository:bob/b:pull", &both[..]),
        ("scope=repository:bob/a:push+repository:bob/a:pull+repository:bob/b:pull", &both[..]),
        ("scope=", &[][..]),
        ("", &[][..]),
        ("service=tidegate-test", &[][..]),
        ("service=", &[][..]),
        ("scope=nonsense&scope=plugin:x:pull&scope=repository:bob/b:pull", &both[1..]),
        ("scope=repository:bob/b:pull,scanner-pull,fly", &both[1..]),
        ("scope=repository(plugin):bob/b:pull", &both[1..]),
        ("account=bob&client_id=docker&offline_token=true&scope=repository:bob/b:pull", &both[1..]),
        ("scope=repository:alice/x:pull,push&scope=repository:bob/b:pull", &both[1..]),
        ("scope=repository:bob/a:*", &both[..1]),
        ("scope=registry:catalog:*", &[][..]),
    ] {
        assert_eq!(granted(&get(&hub, query).await), expected, "{query}");
    }
    for path in ["/service/token", "/token", "/auth/token"] {
        let client = hub.nobody().with_basic("bob", &hub.bob_password);
        let answer = client.get(&format!("{path}?scope=repository:bob/b:pull")).await;
        assert_eq!(granted(&answer), &both[1..], "{path}");
    }
}

#[tokio::test]
async fn rule_06_post_takes_the_oauth2_form_repeated_scopes_and_a_basic_header() {
    let hub = hub().await;
    let both = ["repository:bob/a:pull", "repository:bob/b:pull"];
    let password = hub.bob_password.as_str();
    let login = [("grant_type", "password"), ("username", "bob"), ("password", password)];
    let client = [("service", "tidegate-test"), ("client_id", "containerd-client")];
    let with = |more: &[(&'static str, &'static str)]| [&login[..], &client[..], more].concat();
    for form in [
        with(&[("scope", "repository:bob/a:pull repository:bob/b:pull")]),
        with(&[("scope", "repository:bob/a:pull"), ("scope", "repository:bob/b:pull")]),
        with(&[("scope", "repository:bob/a:pull repository:bob/b:pull"), ("access_type", "offline")]),
    ] {
        let answer = post(&hub, &form, None).await;
        assert_eq!(granted(&answer), both, "{form:?}");
        // The OAuth2 form of the answer (rule 9 has the rest).
        assert_eq!(answer.json()["scope"], both.join(" "));
    }
    assert_eq!(granted(&post(&hub, &with(&[]), None).await), Vec::<String>::new());
    assert_eq!(granted(&post(&hub, &login, None).await), Vec::<String>::new(), "no service, no client_id");
    let header = basic("bob", password);
    let answer = post(&hub, &[("scope", "repository:bob/a:pull")], Some(&header)).await;
    assert_eq!(granted(&answer), both[..1]);
}

#[tokio::test]
async fn rule_06_another_account_or_service_is_refused_and_so_are_too_many_scopes() {
    let hub = hub().await;
    let many = "scope=repository:bob/a:pull&".repeat(65);
    for query in ["account=alice", "service=other.example.com", many.as_str()] {
        assert_oci_error(&get(&hub, query).await, 400, "UNSUPPORTED");
    }
    let sixty_four: Vec<_> = (0..64).map(|number| format!("scope=repository:bob/{number}:pull")).collect();
    // 64 scopes are allowed, but this many repositories do not fit into a token of 4 KiB.
    let answer = get(&hub, &sixty_four.join("&")).await;
    assert_oci_error(&answer, 400, "UNSUPPORTED");
    assert!(answer.text().contains("larger than 4096 bytes"), "{}", answer.text());
}

#[tokio::test]
async fn rule_07_bad_password_is_401_bad_grant_400_and_other_methods_405() {
    let hub = hub().await;
    for (user, password) in [("bob", "wrong"), ("mallory", "wrong"), ("alice", hub.bob_password.as_str())] {
        let client = hub.nobody().with_basic(user, password);
        let answer = client.get("/service/token?scope=repository:public/x:pull").await;
        assert_oci_error(&answer, 401, "UNAUTHORIZED");
        let challenges: Vec<_> = answer.headers.get_all("www-authenticate").iter().collect();
        assert_eq!(challenges, ["Basic realm=\"tidegate\""], "the endpoint takes Basic, never a Bearer");
        let form = [("grant_type", "password"), ("username", user), ("password", password)];
        assert_oci_error(&post(&hub, &form, None).await, 401, "UNAUTHORIZED");
    }
    for grant in ["refresh_token", "authorization_code", "client_credentials", ""] {
        let answer = post(&hub, &[("grant_type", grant), ("refresh_token", "x")], None).await;
        assert_oci_error(&answer, 400, "UNSUPPORTED");
        assert_eq!(answer.json()["error"], "unsupported_grant_type", "{grant:?}");
    }
    for form in [&[("username", "bob"), ("password", "x")][..], &[("grant_type", "password")][..], &[][..]] {
        assert_oci_error(&post(&hub, form, None).await, 400, "UNSUPPORTED");
    }
    for method in [Method::PUT, Method::PATCH, Method::DELETE, Method::HEAD] {
        let answer = hub.send(method.clone(), "/service/token", &[]).await;
        assert_eq!(answer.status, 405, "{method}");
        assert_eq!(answer.header("allow"), Some("GET, POST"), "{method}");
    }
    let large = "x".repeat(17 * 1024);
    assert_oci_error(&post(&hub, &[("scope", &large)], None).await, 400, "UNSUPPORTED");
}

#[tokio::test]
async fn rule_08_login_verifies_credentials_and_never_gives_an_anonymous_token() {
    let hub = hub().await;
    // A login is a request without scope.
    assert_eq!(granted(&get(&hub, "service=tidegate-test&offline_token=true").await), Vec::<String>::new());
    for target in ["/service/token", "/service/token?service=tidegate-test", "/service/token?scope="] {
        let answer = hub.nobody().get(target).await;
        assert_oci_error(&answer, 401, "UNAUTHORIZED");
        let answer = hub.nobody().with_basic("", "").get(target).await;
        assert_oci_error(&answer, 401, "UNAUTHORIZED");
        let answer = hub.nobody().with_basic("bob", "wrong").get(target).await;
        assert_oci_error(&answer, 401, "UNAUTHORIZED");
    }
    // With a scope anybody may ask, and gets what anybody may do.
    let target = "/service/token?scope=repository:public/x:pull,push&scope=repository:bob/x:pull";
    let answer = hub.nobody().get(target).await;
    assert_eq!(granted(&answer), ["repository:public/x:pull"]);
    assert_eq!(claims(&answer)["sub"], "");
    // Such a token opens what anybody may see, and nothing else.
    let token = answer.token();
    let anybody = hub.nobody().with_bearer(&token);
    let answer = anybody.get("/v2/public/x/tags/list").await;
    assert_eq!((answer.status.as_u16(), answer.error_code().as_deref()), (404, Some("NAME_UNKNOWN")));
    for target in ["/v2/bob/x/tags/list", "/v2/public/other/tags/list", "/v2/_catalog"] {
        assert_oci_error(&anybody.get(target).await, 401, "DENIED");
    }
    let answer = anybody.post("/v2/public/x/blobs/uploads/", "").await;
    assert_oci_error(&answer, 401, "DENIED");
}

#[tokio::test]
async fn rule_09_answer_has_both_tokens_equal_expires_in_and_issued_at_and_no_refresh_token() {
    let hub = hub().await;
    let form = [
        ("grant_type", "password"),
        ("username", "bob"),
        ("password", hub.bob_password.as_str()),
        ("access_type", "offline"),
    ];
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("past 1970").as_secs();
    for answer in [get(&hub, "offline_token=true").await, post(&hub, &form, None).await] {
        let json = answer.json();
        assert_eq!(json["token"], json["access_token"]);
        assert_eq!(json["expires_in"], 600);
        assert_eq!(json.get("refresh_token"), None, "{json}");
        let issued: jiff::Timestamp = json["issued_at"].as_str().expect("text").parse().expect("RFC 3339");
        let issued = u64::try_from(issued.as_second()).expect("past 1970");
        assert!(issued <= now() && issued + 60 > now(), "{json}");
        let claims = claims(&answer);
        assert_eq!(claims["iat"], issued);
        // Clients have no margin of their own, so the token really ends later than it says.
        assert_eq!(claims["exp"], issued + 600 + 300);
        assert_eq!(claims["aud"], "tidegate-test", "one string, not a list");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
}

#[tokio::test]
async fn rule_23_many_wrong_passwords_lock_nobody_out_and_never_answer_429() {
    let hub = hub().await;
    for number in 0..30 {
        let client = hub.nobody().with_basic("bob", &format!("wrong{number}"));
        assert_oci_error(&client.get("/service/token").await, 401, "UNAUTHORIZED");
    }
    // Kubelet tries one pull secret after the other, for every pod again.
    for _ in 0..30 {
        let client = hub.nobody().with_basic("bob", "an old password");
        assert_oci_error(&client.get("/service/token").await, 401, "UNAUTHORIZED");
        get(&hub, "scope=repository:bob/x:pull").await.is(200);
    }
}

#[tokio::test]
async fn published_keys_verify_a_token_and_nothing_else_is_in_its_header() {
    let hub = hub().await;
    let answer = get(&hub, "scope=repository:bob/x:pull").await;
    let token = answer.token();
    let header = token.split('.').next().expect("a header").as_bytes().to_owned();
    let header = data_encoding::BASE64URL_NOPAD.decode(&header).expect("base64url");
    let header: serde_json::Map<String, Value> = serde_json::from_slice(&header).expect("a header");
    assert_eq!(header.keys().collect::<Vec<_>>(), ["alg", "kid", "typ"]);
    let keys = hub.nobody().get("/.well-known/jwks.json").await.is(200);
    assert_eq!(keys.header("content-type"), Some("application/json"));
    assert!(!keys.text().contains("\"d\""), "a private key: {}", keys.text());
    let keys: jsonwebtoken::jwk::JwkSet = serde_json::from_slice(&keys.body).expect("a key set");
    let kid = header["kid"].as_str().expect("a kid");
    let key = keys.find(kid).expect("the key that signed is published");
    let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::ES256);
    validation.set_audience(&["tidegate-test"]);
    validation.set_issuer(&["tidegate"]);
    let key = jsonwebtoken::DecodingKey::from_jwk(key).expect("a usable key");
    let verified = jsonwebtoken::decode::<Value>(&token, &key, &validation).expect("a verified token");
    assert_eq!(verified.claims["sub"], "bob");
    let answer = hub.send(Method::POST, "/.well-known/jwks.json", &[]).await;
    assert_oci_error(&answer, 405, "UNSUPPORTED");
}
