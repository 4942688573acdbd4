//! Answers of members that must not reach a client as they are.

use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::ejections;
use crate::failover::site_of;
use crate::harness::fake_member::{FakeMember, Recorded, Reply, answer};
use crate::harness::push;
use crate::harness::site::{MemberKind, Site};

fn raw(status: u16, headers: &[(&'static str, &[u8])]) -> Reply {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    for (name, value) in headers {
        let value = HeaderValue::from_bytes(value).expect("a value");
        response.headers_mut().append(HeaderName::from_static(name), value);
    }
    Reply::Answer(response)
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_cannot_be_read_are_unusable_and_say_nothing_of_the_members_address() {
    const INNER: &[u8] = b"http://inner.example:5000/v2/a/b/blobs/uploads/u-1?x=\xe9";
    let member = FakeMember::start(|request: &Recorded| {
        let target = request.target.as_str();
        let manifest = target.strip_prefix("/v2/a/b/manifests/");
        match (request.method.as_str(), manifest) {
            ("GET", None) if request.is_probe() => None,
            ("GET", Some(status)) if status.parse::<u16>().is_ok() => {
                Some(raw(status.parse().expect("a number"), &[]))
            }
            ("GET", Some("digest")) => Some(raw(200, &[("docker-content-digest", b"sha256:\xe9")])),
            ("PUT", Some(_)) => Some(raw(201, &[("location", INNER)])),
            ("POST", _) if target.contains("/a/b/") => Some(raw(202, &[("location", INNER)])),
            ("POST", _) => Some(raw(202, &[("location", b"http://inner.example:5000/elsewhere")])),
            _ => None,
        }
    })
    .await;
    let mut site = site_of(&[&member], |config| config).await;
    let client = site.authorized(&["repository:a/b:pull,push", "repository:c/d:pull,push"]).await;
    for path in ["101", "600", "999", "digest"] {
        let refused = client.get(&format!("/v2/a/b/manifests/{path}")).await;
        assert_eq!(
            (refused.status.as_u16(), refused.error_code().as_deref()),
            (504, Some("UNAVAILABLE")),
            "{path}"
        );
    }
    let put = client.put("/v2/a/b/manifests/v1", "application/vnd.oci.image.manifest.v1+json", "{}").await;
    let answers = [
        put,
        client.post("/v2/a/b/blobs/uploads/", "").await,
        client.post("/v2/c/d/blobs/uploads/", "").await,
    ];
    for refused in answers {
        assert_eq!(refused.status, 504, "{}", refused.text());
        let said = format!("{:?} {}", refused.headers, refused.text());
        assert!(!said.contains("inner.example"), "{said}");
    }
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_say_nothing_of_the_host_that_clients_use() {
    let member = FakeMember::start(|request: &Recorded| {
        if request.is_probe() {
            return None;
        }
        let headers = [
            ("alt-svc", "h3=\":443\""),
            ("strict-transport-security", "max-age=1; includeSubDomains"),
            ("clear-site-data", "\"*\""),
            ("refresh", "0; url=https://evil.example"),
            ("content-location", "http://inner.example:5000/v2/"),
            (
                "link",
                "</v2/a/b/tags/list?n=1&last=v1>; rel=\"next\", <http://inner.example:5000/x>; rel=\"help\"",
            ),
            ("link", "<http://inner.example:5000/metrics>; rel=\"up\""),
            ("content-type", "application/json"),
        ];
        Some(answer(200, &headers, r#"{"name":"a/b","tags":["v1"]}"#))
    })
    .await;
    let mut site = site_of(&[&member], |config| config).await;
    let client = site.authorized(&["repository:a/b:pull"]).await;
    let list = client.get("/v2/a/b/tags/list?n=1").await.is(200);
    for name in ["alt-svc", "strict-transport-security", "clear-site-data", "refresh", "content-location"] {
        assert_eq!(list.header(name), None, "{name}");
    }
    let links: Vec<_> = list.headers.get_all("link").iter().collect();
    assert_eq!(links, ["</v2/a/b/tags/list?n=1&last=v1>; rel=\"next\""]);
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_own_broken_body_is_its_own_fault() {
    let mut site = Site::start_with(&[MemberKind::Open], |config| {
        config.health("{ interval: 200ms, timeout: 20s, rise: 1, fall: 2, ejection: { failures: 1 } }")
    })
    .await;
    let client = site.authorized(&["repository:a/b:pull,push"]).await;
    for (what, body) in
        [("a size that is none", "3\r\nabc\r\nZZ\r\n"), ("a size too many", "3\r\nabcde\r\n0\r\n\r\n")]
    {
        let location = push::start(&client, "a/b").await;
        let mut socket = client.raw_tls().await;
        let head = client.raw_head(&http::Method::PATCH, &location, "transfer-encoding: chunked\r\n");
        socket.write_all(format!("{head}{body}").as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        let read = socket.read_to_end(&mut answer);
        // However the connection ends, the answer came before.
        drop(crate::harness::wait::within("the answer", read).await);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{what}: {answer}");
        assert!(answer.contains("BLOB_UPLOAD_INVALID"), "{what}: {answer}");
    }
    assert!(ejections(&site.gateway, &[]).await < 0.5);
    site.stop_gateway().await;
}
