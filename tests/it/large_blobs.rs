//! A 2 GiB blob up and down in constant memory.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;

use crate::harness::client::{Connection, TestClient};
use crate::harness::site::{MemberKind, Site};
use crate::harness::{push, wait};

const CHUNK: usize = 1 << 20;
const CHUNKS: usize = 2048;
/// What the gateway may need more than at rest for one upload and one download.
const GROWTH_KIB_MAX: usize = 48 * 1024;
/// The member reads the whole blob again before it answers; the gateway's own `finish_timeout` ends that.
const FINISH_LIMIT: Duration = Duration::from_secs(900);

/// `CHUNKS` chunks of one pattern, with no length said beforehand, as docker sends layers.
struct Endless {
    chunk: Bytes,
    left: Arc<AtomicUsize>,
}

impl Body for Endless {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let Some(left) = self.left.load(Ordering::Relaxed).checked_sub(1) else {
            return Poll::Ready(None);
        };
        self.left.store(left, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(self.chunk.clone()))))
    }
}

fn pattern() -> Bytes {
    (0..CHUNK).map(|at| u8::try_from(at % 251).expect("below 251")).collect::<Vec<u8>>().into()
}

fn digest() -> String {
    let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let chunk = pattern();
    for _ in 0..CHUNKS {
        hash.update(&chunk);
    }
    format!("sha256:{}", data_encoding::HEXLOWER.encode(hash.finish().as_ref()))
}

/// Drives an upload to its end, which may take its time as long as chunks go out.
async fn while_it_moves<T>(left: &AtomicUsize, upload: impl Future<Output = T>) -> T {
    tokio::pin!(upload);
    loop {
        let before = left.load(Ordering::Relaxed);
        if let Ok(ended) = tokio::time::timeout(wait::HANG, &mut upload).await {
            return ended;
        }
        assert!(left.load(Ordering::Relaxed) < before, "the upload stands still");
    }
}

async fn upload(client: &TestClient) -> String {
    let target = push::start(client, "big/blob").await;
    let left = Arc::new(AtomicUsize::new(CHUNKS));
    let body = Endless { chunk: pattern(), left: Arc::clone(&left) }.boxed();
    let request = client.request(Method::PATCH, &target).header("content-type", "application/octet-stream");
    let mut connection: Connection = client.connect().await;
    let request = request.body(body);
    let answer = while_it_moves(&left, connection.send(request)).await.is(202);
    let digest = digest();
    let finish = push::end_of(&answer.location(), &digest);
    let finish = client.request(Method::PUT, &finish).empty();
    tokio::time::timeout(FINISH_LIMIT, connection.send(finish)).await.expect("the end of the upload").is(201);
    format!("/v2/big/blob/blobs/{digest}")
}

async fn download(client: &TestClient, path: &str) {
    let mut connection = client.connect().await;
    let request = client.request(Method::GET, path).empty();
    let mut response = connection.send_head(request).await;
    assert_eq!(response.status(), 200);
    let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut bytes = 0;
    while let Some(frame) = wait::within("more of the download", response.frame()).await {
        let frame = frame.expect("the body does not break off");
        let data = frame.data_ref().expect("data");
        hash.update(data);
        bytes += data.len();
    }
    assert_eq!(bytes, CHUNK * CHUNKS);
    let digest = format!("sha256:{}", data_encoding::HEXLOWER.encode(hash.finish().as_ref()));
    assert!(path.ends_with(&digest));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gibibytes_go_up_and_down_in_constant_memory() {
    let mut site = Site::start(&[MemberKind::Open]).await;
    let client = site.authorized(&["repository:big/blob:pull,push"]).await;
    let before = site.gateway.memory_kib("VmHWM");
    let path = upload(&client).await;
    let after_upload = site.gateway.memory_kib("VmHWM");
    download(&client, &path).await;
    let after = site.gateway.memory_kib("VmHWM");
    assert!(after - before < GROWTH_KIB_MAX, "memory grew from {before} to {after_upload} to {after} KiB");
    // Only then the whole access log is written.
    site.stop_gateway().await;
    let log = site.gateway.access_log();
    let patch = log.iter().find(|line| line.method() == "PATCH").expect("logged");
    assert_eq!(patch.0["bytes_in"], CHUNK * CHUNKS);
}
