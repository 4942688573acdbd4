//! Memory for bodies: readers and slow pushers keep nobody else from pushing.

use std::time::Duration;

use http::Method;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::harness::client::{Answer, TestClient, chunked};
use crate::harness::image::{Blob, Image};
use crate::harness::site::{MemberKind, Site};
use crate::harness::{pull, push, random_secret};

/// Sends the head of a request, and leaves the connection open.
async fn begin(client: &TestClient, method: Method, target: &str, headers: &str) -> TlsStream<TcpStream> {
    let mut socket = client.raw_tls().await;
    socket.write_all(client.raw_head(&method, target, headers).as_bytes()).await.expect("sent");
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
        let headers = "content-type: application/json\r\ncontent-length: 4194304\r\n";
        let target = format!("/v2/a/b/manifests/m{number}");
        let mut drips = begin(&mallory, Method::PUT, &target, headers).await;
        drips.write_all(&[b' '; 1000]).await.expect("sent");
        drips.flush().await.expect("sent");
        held.push(drips);
    }
    let image = Image::random(&[1000]);
    push::image(&alice, "a/b", "v1", &image).await;
    let blob = Blob::random(1 << 20);
    let path = push::blob(&alice, "a/b", &blob).await;
    for _ in 0..80 {
        held.push(begin(&mallory, Method::GET, &path, "").await);
    }
    site.gateway.wait_for_metric("tidegate_requests_in_flight", &[], 100.0).await;
    let image = Image::random(&[1000]);
    push::image(&alice, "a/b", "v2", &image).await;
    let read = pull::manifest(&alice, "a/b", "v2").await.is(200);
    assert!(read.body == image.manifest.bytes, "{read}");
    drop(held);
    site.stop_gateway().await;
}

/// Sends so many bytes four times a second, and no more once it is ended.
async fn upload_in_pieces(client: &TestClient, bytes_at_once: usize) -> Answer {
    let location = push::start(client, "a/b").await;
    let (pieces, body) = chunked();
    let sending = async move {
        // Often enough that the body is never idle; for three windows where nothing ends it.
        for _ in 0..40 {
            if pieces.send(vec![b'x'; bytes_at_once].into()).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    };
    let request = client.request(Method::PATCH, &location).body(body);
    let (answer, ()) = tokio::join!(client.send(request), sending);
    answer
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
    // In time with each other; what the one is ended for is no matter of the other.
    let (dripped, steady) = tokio::join!(upload_in_pieces(&client, 1), upload_in_pieces(&client, 4096));
    assert_eq!(dripped.is(400).error_code().as_deref(), Some("BLOB_UPLOAD_INVALID"));
    steady.is(202);
    site.stop_gateway().await;
}
