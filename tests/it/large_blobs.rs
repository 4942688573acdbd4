//! A 2 GiB blob up and down in constant memory.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;

use crate::harness::client::{Connection, TestClient};
use crate::harness::site::{MemberKind, Site};
use crate::harness::wait;

const CHUNK: usize = 1 << 20;
const CHUNKS: usize = 2048;
/// What the gateway may need more than at rest for one upload and one download.
const GROWTH_KIB_MAX: u64 = 48 * 1024;
const LIMIT: Duration = Duration::from_secs(240);

/// `CHUNKS` chunks of one pattern, with no length said beforehand, as docker sends layers.
struct Endless {
    chunk: Bytes,
    left: usize,
}

impl Body for Endless {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
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

/// The most memory that the process ever had, in KiB.
fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

async fn upload(client: &TestClient) -> String {
    let started =
        client.post("/v2/big/blob/blobs/uploads/", "").await.expect("sent").expect(202).expect("accepted");
    let target = started.header("location").expect("a Location").to_owned();
    let body = Endless { chunk: pattern(), left: CHUNKS }.boxed();
    let request = client.request(Method::PATCH, &target).header("content-type", "application/octet-stream");
    let mut connection: Connection = client.connect().await.expect("connected");
    let request = request.body(body).expect("a request");
    let answer = wait::within("the upload", LIMIT, connection.send(request))
        .await
        .expect("sent")
        .expect(202)
        .expect("taken");
    let digest = digest();
    let finish = format!("{}&digest={digest}", answer.header("location").expect("a Location"));
    // The member reads the whole blob again to check its digest.
    let finish =
        client.request(Method::PUT, &finish).body(crate::harness::client::whole("")).expect("a request");
    wait::within("the end of the upload", LIMIT, connection.send(finish))
        .await
        .expect("sent")
        .expect(201)
        .expect("finished");
    format!("/v2/big/blob/blobs/{digest}")
}

async fn download(client: &TestClient, path: &str) {
    let mut connection = client.connect().await.expect("connected");
    let request =
        client.request(Method::GET, path).body(crate::harness::client::whole("")).expect("a request");
    let mut response = connection.send_head(request).await.expect("an answer");
    assert_eq!(response.status(), 200);
    let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut bytes = 0;
    while let Some(frame) = response.frame().await {
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
    let pid = site.gateway.pid();
    let before = peak_kib(pid);
    let path = upload(&client).await;
    let after_upload = peak_kib(pid);
    wait::within("the download", LIMIT, download(&client, &path)).await;
    let after = peak_kib(pid);
    assert!(after - before < GROWTH_KIB_MAX, "memory grew from {before} to {after_upload} to {after} KiB");
    let log = site.gateway.access_log();
    let patch = log.iter().find(|line| line.method() == "PATCH").expect("logged");
    assert_eq!(patch.0["bytes_in"], CHUNK * CHUNKS);
    site.stop_gateway().await;
}
