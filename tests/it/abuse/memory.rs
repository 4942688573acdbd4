//! Memory for bodies: readers and slow pushers keep nobody else from pushing.

use http::Method;
use tokio::io::AsyncWriteExt as _;

use crate::harness::client::TestClient;
use crate::harness::image::{Blob, Image};
use crate::harness::site::{MemberKind, Site};
use crate::harness::{push, random_secret};

/// A raw request with the first bytes of its body, on a connection that stays open.
async fn begin(
    client: &TestClient,
    head: &str,
    body: &[u8],
) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let request = client.request(Method::GET, "/").empty();
    let header = |name: &str| request.headers()[name].to_str().expect("text").to_owned();
    let mut socket = client.raw_tls().await;
    let text =
        format!("{head}Host: {}\r\nAuthorization: {}\r\n\r\n", header("host"), header("authorization"));
    socket.write_all(text.as_bytes()).await.expect("sent");
    socket.write_all(body).await.expect("sent");
    socket.flush().await.expect("sent");
    socket
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_that_drip_in_and_readers_that_do_not_read_keep_nobody_from_pushing() {
    let password = random_secret();
    let mut site = Site::start_with(&[MemberKind::Open], |config| {
        config
            .user("mallory", &password)
            .rule("{ everybody: true, repository: \"**\", allow: [pull, push] }")
            .extra("verify: { buffer_bytes_max: 8MiB }")
            .extra("coalesce: { enabled: false }")
            .extra("upstream: { head_timeout: 1h, queue_timeout: 1h }")
    })
    .await;
    let alice = site.authorized(&["repository:a/b:pull,push"]).await;
    let mallory = site.client().at_source([127, 0, 0, 2]);
    let token = mallory.token("mallory", &password, &["repository:a/b:pull,push"]).await;
    let mallory = mallory.with_bearer(&token).with_small_buffers();
    let mut held = Vec::new();
    for number in 0..32 {
        let head = format!(
            "PUT /v2/a/b/manifests/m{number} HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 4194304\r\n"
        );
        held.push(begin(&mallory, &head, &vec![b' '; 1000]).await);
    }
    let image = Image::random(&[1000]);
    push::image(&alice, "a/b", "v1", &image).await;
    let blob = Blob::random(1 << 20);
    push::blob(&alice, "a/b", &blob).await;
    for _ in 0..80 {
        let head = format!("GET /v2/a/b/blobs/{} HTTP/1.1\r\n", blob.digest);
        held.push(begin(&mallory, &head, b"").await);
    }
    crate::failover::wait_for_metric(&site.gateway, "tidegate_requests_in_flight", &[], 100.0).await;
    let image = Image::random(&[1000]);
    push::image(&alice, "a/b", "v2", &image).await;
    let read = alice.request(Method::GET, "/v2/a/b/manifests/v2").header("accept", image.manifest_type());
    let read = alice.send(read.empty()).await;
    assert!(read.status == 200 && read.body == image.manifest.bytes, "{}", read.text());
    drop(held);
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_drips_in_ends_and_one_at_the_least_rate_does_not() {
    let mut site = Site::start_with(&[MemberKind::Open], |config| {
        config
            .extra("limits: { body_rate_min: 1KiB }")
            .extra("upstream: { body_idle_timeout: 4s, body_stall_timeout: 4s }")
    })
    .await;
    let client = site.authorized(&["repository:a/b:pull,push"]).await;
    for (bytes_at_once, ends) in [(1, true), (4096, false)] {
        let location = push::start(&client, "a/b").await;
        let (chunks, body) = crate::harness::client::chunked();
        let mut sending = tokio::task::JoinSet::new();
        sending.spawn(async move {
            // Often enough that the body is never idle; for three windows where nothing ends it.
            for _ in 0..40 {
                if chunks.send(vec![b'x'; bytes_at_once].into()).await.is_err() {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(250)).await;
            }
        });
        let request = client.request(Method::PATCH, &location).body(body);
        let answer = client.send(request).await;
        let expected = if ends { (400, Some("BLOB_UPLOAD_INVALID".to_owned())) } else { (202, None) };
        assert_eq!((answer.status.as_u16(), answer.error_code()), expected, "{bytes_at_once} bytes at once");
    }
    site.stop_gateway().await;
}
