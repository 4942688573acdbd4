//! Requests that try to mean one thing to the gateway and another to the member (research/clients-and-protocol.md 5).

use http::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::fixture::{FakeSite, assert_oci_error, bearer_of, hub, push_scope};
use crate::harness::client::whole;
use crate::harness::fake_member::{FakeMember, Recorded, answer};
use crate::harness::image::{Blob, digest_of};
use crate::harness::{push, wait};

const FORM: &str = "application/x-www-form-urlencoded";

#[tokio::test]
async fn members_see_no_credential_cookie_forwarding_or_hop_header_of_a_client() {
    let member = FakeMember::start(|_: &Recorded| Some(answer(200, &[], "{}"))).await;
    let site = FakeSite::start(&[&member]).await;
    let alice = site.alice(&["repository:t/app:pull"]).await;
    let mut request = alice.request(Method::GET, "/v2/t/app/manifests/v1");
    for (name, value) in [
        ("cookie", "sid=secret"),
        ("forwarded", "for=1.2.3.4;host=evil.example.com"),
        ("x-forwarded-for", "1.2.3.4"),
        ("x-forwarded-host", "evil.example.com"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-user", "root"),
        ("x-forwarded-client-cert", "x"),
        ("x-real-ip", "1.2.3.4"),
        ("x-request-id", "chosen"),
        ("x-harbor-csrf-token", "x"),
        ("x_forwarded_host", "evil.example.com"),
        ("x-original-url", "/v2/other/manifests/v1"),
        ("connection", "keep-alive, x-nominated, te"),
        ("x-nominated", "1"),
        ("keep-alive", "timeout=1000"),
        ("te", "trailers"),
        ("proxy-authorization", "Basic eDp4"),
        ("proxy-connection", "keep-alive"),
        ("upgrade", "h2c"),
        ("accept", "application/vnd.oci.image.index.v1+json"),
        ("user-agent", "docker/29"),
    ] {
        request = request.header(name, value);
    }
    let answer = alice.send(request.empty()).await.is(200);
    let asked = &member.requests()[0];
    let mut names: Vec<_> = asked.headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    let expected = [
        "accept",
        "accept-encoding",
        "host",
        "user-agent",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-request-id",
    ];
    assert_eq!(names, expected);
    let authority = site.nobody().request(Method::GET, "/").empty();
    let authority = authority.headers()["host"].to_str().expect("text").to_owned();
    for (name, value) in [
        ("host", member.url().strip_prefix("http://").expect("a plain member")),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-host", authority.as_str()),
        ("x-forwarded-proto", "https"),
        ("x-request-id", answer.header("x-request-id").expect("a request id")),
    ] {
        assert_eq!(asked.header(name).as_deref(), Some(value), "{name}");
    }
}

/// distribution reads `from`, `mount` and `digest` from a form in the body before it looks at the query.
#[tokio::test]
async fn an_upload_with_a_form_as_its_body_is_refused_and_mounts_nothing() {
    let hub = hub().await;
    let secret = Blob::random(500);
    push::blob(&hub.alice(&[&push_scope("alice/form")]).await, "alice/form", &secret).await;
    let bob = hub.bob(&[&push_scope("bob/form")]).await;
    let form = format!("mount={}&from=alice/form", secret.digest);
    let multipart = format!(
        "--b\r\nContent-Disposition: form-data; name=\"mount\"\r\n\r\n{}\r\n--b\r\nContent-Disposition: form-data; name=\"from\"\r\n\r\nalice/form\r\n--b--\r\n",
        secret.digest
    );
    for (content_type, body) in [
        (FORM, form.as_str()),
        ("Application/X-WWW-Form-URLencoded; charset=utf-8", &form),
        ("multipart/form-data; boundary=b", &multipart),
        ("multipart/mixed; boundary=b", &multipart),
    ] {
        for (method, target) in [
            (Method::POST, "/v2/bob/form/blobs/uploads/"),
            (
                Method::POST,
                "/v2/bob/form/blobs/uploads/?mount=sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855&from=bob/form",
            ),
        ] {
            let request = bob.request(method, target).header("content-type", content_type);
            let request = request.body(whole(body.to_owned()));
            assert_oci_error(&bob.send(request).await, 400, "UNSUPPORTED");
        }
    }
    assert_eq!(hub.members_asked("/v2/bob/form/blobs/uploads"), []);
    // Without a body the type says nothing, and some clients send it always.
    let request = bob.request(Method::POST, "/v2/bob/form/blobs/uploads/").header("content-type", FORM);
    let request = request.empty();
    bob.send(request).await.is(202);
    let answer = bob.head(&format!("/v2/bob/form/blobs/{}", secret.digest)).await;
    assert_eq!(answer.status, 404, "somebody else's blob was mounted");
}

#[tokio::test]
async fn repeated_or_ambiguous_query_parameters_are_400_and_reach_nobody() {
    let hub = hub().await;
    let bob = hub.bob(&[&push_scope("bob/query")]).await;
    let digest = digest_of(b"x");
    for query in [
        format!("mount={digest}&from=shared/a&from=alice/b"),
        format!("mount={digest}&from=shared/a&%66rom=alice/b"),
        format!("mount={digest}&mount={digest}&from=shared/a"),
        format!("digest={digest}&digest={digest}"),
        format!("mount={digest}&from=shared/a;from=alice/b"),
        format!("mount={digest}&from=%ff"),
    ] {
        let answer = bob.post(&format!("/v2/bob/query/blobs/uploads/?{query}"), "").await;
        assert_oci_error(&answer, 400, "UNSUPPORTED");
    }
    for (query, code) in [
        (format!("mount={digest}&from=Shared/A"), "NAME_INVALID"),
        (format!("mount={digest}&from=shared/../alice/b"), "NAME_INVALID"),
        ("mount=sha256:short&from=shared/a".to_owned(), "DIGEST_INVALID"),
    ] {
        let answer = bob.post(&format!("/v2/bob/query/blobs/uploads/?{query}"), "").await;
        assert_oci_error(&answer, 400, code);
    }
    assert_eq!(hub.members_asked("/v2/bob/query/"), []);
}

#[tokio::test]
async fn paths_that_two_parsers_could_read_differently_are_400_and_reach_nobody() {
    let hub = hub().await;
    let bearer = bearer_of(&hub.bob(&[&push_scope("bob/path")]).await);
    let authorization = [("authorization", bearer.as_str())];
    for target in [
        "/v2/bob%2Fpath/tags/list",
        "/v2/bob%2fpath/tags/list",
        "/v2/bob/path/../../alice/x/tags/list",
        "/v2/bob/path/%2e%2e/%2E%2E/alice/x/tags/list",
        "/v2/bob/path/./tags/list",
        "/v2//bob/path/tags/list",
        "/v2/bob//path/tags/list",
        "/v2/bob/path%00/tags/list",
        "/v2/bob/path%20/tags/list",
        "/v2/bob/path%252F/tags/list",
        "/v2/bob/path/tags%2Flist",
        "/v2/bob/path%5C/tags/list",
        "/v2/bob/p%C3%A4th/tags/list",
        "/v2/bob/path/tags/list//",
        "/v2/BOB/path/tags/list",
        "/v2/bob/Path/tags/list",
        "/v2/Registry.example.com:5000/bob/path/tags/list",
        "/v2/bob/path-/tags/list",
        "/v2/bob/pa___th/tags/list",
    ] {
        assert_oci_error(&hub.send(Method::GET, target, &authorization).await, 400, "NAME_INVALID");
    }
    let long = format!("/v2/bob/{}/tags/list", "a".repeat(252));
    assert_oci_error(&hub.send(Method::GET, &long, &authorization).await, 400, "NAME_INVALID");
    for member in &hub.site.members {
        for request in member.requests() {
            let part = |part: &str| request.target.to_ascii_lowercase().contains(part);
            assert!(!part("path") && !part("alice/x"), "{request:?}");
        }
    }
    // A digest's colon may be encoded, as some clients do.
    let target = format!("/v2/bob/colon/blobs/{}", digest_of(b"x").replace(':', "%3A"));
    let bearer = bearer_of(&hub.bob(&["repository:bob/colon:pull"]).await);
    let answer = hub.send(Method::GET, &target, &[("authorization", &bearer)]).await;
    assert_eq!((answer.status.as_u16(), answer.error_code().as_deref()), (404, Some("BLOB_UNKNOWN")));
}

/// `registry/v2/` route words may be parts of names; which repository is meant is decided from the right, as the members do it.
#[tokio::test]
async fn names_made_of_route_words_mean_the_same_repository_to_us_and_to_the_member() {
    let hub = hub().await;
    let repository = "bob/blobs/uploads/manifests/tags";
    let bob = hub.bob(&[&push_scope(repository)]).await;
    let blob = Blob::random(100);
    push::blob(&bob, repository, &blob).await;
    let answer = bob.get(&format!("/v2/{repository}/blobs/{}", blob.digest)).await;
    assert!(answer.body[..] == blob.bytes[..], "{}", answer.text());
    // The right to one repository is none to what a greedy parser would make of the path.
    for target in ["/v2/bob/blobs/uploads/manifests/v1", "/v2/bob/blobs/uploads/tags/list"] {
        assert_oci_error(&bob.get(target).await, 401, "DENIED");
    }
}

/// Sends bytes and reads what comes back until the connection ends.
async fn exchange(site: &FakeSite, bytes: &str) -> String {
    let mut stream = site.nobody().raw_tls().await;
    stream.write_all(bytes.as_bytes()).await.expect("sent");
    let mut read = Vec::new();
    // However it ends: some malformed requests are answered with a reset after the 400.
    drop(wait::within("the end of the connection", stream.read_to_end(&mut read)).await);
    String::from_utf8_lossy(&read).into_owned()
}

#[tokio::test]
async fn unclear_message_framing_is_400_and_reaches_nobody() {
    let member =
        FakeMember::start(|request: &Recorded| (!request.is_probe()).then(|| answer(201, &[], ""))).await;
    let site = FakeSite::start(&[&member]).await;
    let alice = site.alice(&[&push_scope("t/app")]).await;
    let host = alice.request(Method::GET, "/").empty();
    let host = host.headers()["host"].to_str().expect("text").to_owned();
    let common = format!("Host: {host}\r\nAuthorization: {}\r\nConnection: close\r\n", bearer_of(&alice));
    let chunked = "5\r\nhello\r\n0\r\n\r\n";
    let mut taken = Vec::new();
    for (what, version, headers, body) in [
        ("two lengths", "1.1", "Content-Length: 5\r\nContent-Length: 4\r\n", "hello"),
        ("a list of lengths", "1.1", "Content-Length: 5, 4\r\n", "hello"),
        ("a signed length", "1.1", "Content-Length: +5\r\n", "hello"),
        ("an unknown coding", "1.1", "Transfer-Encoding: gzip\r\n", "hello"),
        ("chunked not last", "1.1", "Transfer-Encoding: chunked, gzip\r\n", chunked),
        ("chunked in HTTP/1.0", "1.0", "Transfer-Encoding: chunked\r\n", chunked),
        ("a space before the colon", "1.1", "Content-Length : 5\r\n", "hello"),
        ("a folded line", "1.1", "X-A: b\r\n c\r\nContent-Length: 5\r\n", "hello"),
    ] {
        let request = format!("PUT /v2/t/app/manifests/v1 HTTP/{version}\r\n{common}{headers}\r\n{body}");
        let before = member.requests().len();
        let answer = exchange(&site, &request).await;
        let asked = member.requests().split_off(before);
        let status = answer.split(' ').nth(1).unwrap_or("no answer").to_owned();
        if (status.as_str(), asked.len()) != ("400", 0) {
            taken.push((what, status, asked));
        }
    }
    assert!(taken.is_empty(), "{taken:#?}\n{}", site.gateway.log_tail());
    // The same member, with a clear message.
    let request = format!("PUT /v2/t/app/manifests/v1 HTTP/1.1\r\n{common}Content-Length: 5\r\n\r\nhello");
    assert!(exchange(&site, &request).await.starts_with("HTTP/1.1 201 "));
    assert_eq!(member.requests().pop().expect("a request").body, b"hello");
    // With both, chunked counts and the length is dropped (RFC 9112 6.3): the member gets the length of what we have read.
    for both in [
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
    ] {
        let request = format!("PUT /v2/t/app/manifests/v1 HTTP/1.1\r\n{common}{both}\r\n{chunked}");
        assert!(exchange(&site, &request).await.starts_with("HTTP/1.1 201 "), "{both}");
        let asked = member.requests().pop().expect("a request");
        let length = asked.header("content-length");
        assert_eq!((&asked.body[..], length.as_deref()), (&b"hello"[..], Some("5")), "{both}");
        assert_eq!(asked.header("transfer-encoding"), None, "{both}");
    }
    assert_eq!(member.requests().len(), 3);
}
