//! Headers that the gateway and a registry could read differently. distribution takes `mount` and `from` from a form in
//! the body before it looks at the query.

use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::BodyExt as _;

use crate::failover::site_of;
use crate::harness::client::{TestBody, TestClient, whole};
use crate::harness::fake_member::{FakeMember, Recorded, answer};
use crate::harness::image::Blob;
use crate::harness::site::{MemberKind, Site};
use crate::harness::{push, random_secret};

/// Content types that Go reads as a form although some byte of them is no visible ASCII, or as forms at all.
const FORMS: [&[u8]; 5] = [
    b"application/x-www-form-urlencoded; \xe9",
    b"application/x-www-form-urlencoded;charset=\xff",
    b"APPLICATION/X-WWW-FORM-URLENCODED ; a=b",
    b"application/x-www-form-urlencoded",
    b"multipart/form-data; boundary=b; c=\x80",
];

fn form_post(client: &TestClient, content_type: &[u8], body: &str) -> Request<TestBody> {
    let content_type = HeaderValue::from_bytes(content_type).expect("a value");
    let request = client.request(Method::POST, "/v2/bob/app/blobs/uploads/");
    request.header("content-type", content_type).body(whole(body.to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_content_type_hides_a_form_that_mounts_what_its_sender_may_not_read() {
    for kind in [MemberKind::Open, MemberKind::Basic] {
        let password = random_secret();
        let mut site = Site::start_with(&[kind], |config| {
            config
                .user("bob", &password)
                .rule("{ user: alice, repository: \"**\", allow: [pull, push] }")
                .rule("{ user: bob, repository: \"bob/**\", allow: [pull, push] }")
        })
        .await;
        let secret = Blob::random(500);
        let alice = site.authorized(&["repository:secret/x:pull,push"]).await;
        push::blob(&alice, "secret/x", &secret).await;
        let token = site.client().token("bob", &password, &["repository:bob/app:pull,push"]).await;
        let bob = site.client().with_bearer(&token);
        let form = format!("mount={}&from=secret/x", secret.digest);
        let h2 = bob.connect_h2(65_535).await;
        for content_type in FORMS {
            let refused = bob.send(form_post(&bob, content_type, &form)).await;
            assert_eq!(
                (refused.status.as_u16(), refused.error_code().as_deref()),
                (400, Some("UNSUPPORTED")),
                "{kind:?} h1 {}",
                content_type.escape_ascii()
            );
            let answer = h2.send_head(form_post(&bob, content_type, &form)).await;
            assert_eq!(
                answer.status(),
                StatusCode::BAD_REQUEST,
                "{kind:?} h2 {}",
                content_type.escape_ascii()
            );
            answer.into_body().collect().await.expect("a body");
        }
        // What is no form by its name is bytes, whatever its name.
        for content_type in ["text/plain", "application/json", "x"] {
            let started = bob.send(form_post(&bob, content_type.as_bytes(), &form)).await;
            assert_eq!(started.status, 202, "{kind:?} {content_type}: {}", started.text());
        }
        let head = bob.head(&format!("/v2/bob/app/blobs/{}", secret.digest)).await;
        assert_eq!(head.status, 404, "{kind:?}: the blob was mounted");
        drop(h2);
        site.stop_gateway().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_sees_no_header_that_cannot_be_read_and_a_content_type_of_ours() {
    let member = FakeMember::start(|request: &Recorded| match request.method.as_str() {
        _ if request.is_probe() => None,
        "POST" => Some(answer(202, &[("location", "/v2/a/b/blobs/uploads/u-1")], "")),
        "PUT" => Some(answer(201, &[], "")),
        _ => Some(answer(200, &[], "{}")),
    })
    .await;
    let mut site = site_of(&[&member], |config| config).await;
    let client = site.authorized(&["repository:a/b:pull,push"]).await;
    let value = |bytes: &[u8]| HeaderValue::from_bytes(bytes).expect("a value");
    for (name, bytes) in [
        ("connection", &b"close, x-secret\xe9"[..]),
        ("content-type", b"a/\xe9"),
        ("range", b"bytes=0-\xe9"),
        ("accept", b"\xe9"),
        ("if-none-match", b"\"\xe9\""),
    ] {
        let request = client.request(Method::GET, "/v2/a/b/manifests/v1").header("x-secret", "1");
        let request = request.header(name, value(bytes)).empty();
        let refused = client.send(request).await;
        assert_eq!(refused.status, 400, "{name}: {}", refused.text());
        assert!(refused.text().contains("UNSUPPORTED"), "{}", refused.text());
    }
    assert!(member.requests().is_empty(), "{:?}", member.requests());
    let request = client.request(Method::GET, "/v2/a/b/manifests/v1").header("user-agent", value(b"caf\xe9"));
    let request = request.header("x-note", value(b"\xff")).header("accept", "a/b").body(whole(""));
    client.send(request).await.is(200);
    let start = client.request(Method::POST, "/v2/a/b/blobs/uploads/").header("content-type", "text/html");
    client.send(start.body(whole("x"))).await.is(202);
    let put = client.request(Method::PUT, "/v2/a/b/manifests/v1");
    let put = put.header("content-type", "Application/vnd.OCI.image.manifest.v1+JSON; charset=utf-8");
    client.send(put.body(whole("{}"))).await.is(201);
    let seen = member.requests();
    let of = |at: usize, name: &str| seen[at].header(name);
    assert_eq!((of(0, "user-agent"), of(0, "x-note"), of(0, "accept")), (None, None, Some("a/b".to_owned())));
    assert_eq!(of(1, "content-type").as_deref(), Some("application/octet-stream"));
    assert_eq!(of(2, "content-type").as_deref(), Some("application/vnd.oci.image.manifest.v1+json"));
    site.stop_gateway().await;
}
