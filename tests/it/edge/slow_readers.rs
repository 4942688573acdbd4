//! Answers that clients read too slowly, or not at all.

use std::time::Duration;

use http::Method;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

use super::{push_blob, site};
use crate::harness::client::TestClient;
use crate::harness::raw_h2::{DATA, END_STREAM, RST_STREAM, RawH2};
use crate::harness::{process, wait};

fn request(client: &TestClient, target: &str) -> Vec<u8> {
    client.raw_head(&Method::GET, target, "connection: close\r\n").into_bytes()
}

/// Reads so many bytes at a time, with a pause in between, until the other side ends the connection. Returns how many there were.
async fn read_slowly(mut stream: impl AsyncRead + Unpin, bytes: usize, pause: Duration) -> usize {
    let mut buffer = vec![0; bytes];
    let mut total = 0;
    loop {
        match wait::within("some bytes", stream.read(&mut buffer)).await {
            Ok(read @ 1..) => total += read,
            Ok(0) | Err(_) => return total,
        }
        tokio::time::sleep(pause).await;
    }
}

const BLOB_BYTES: usize = 8 << 20;

/// What is read comes in steps, each well within the time that a client may be silent.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_below_the_least_rate_is_ended_although_it_is_never_silent() {
    const BYTES: usize = 24 << 20;
    let extra = "limits: { body_rate_min: 16MiB }\nupstream: { body_idle_timeout: 2s }";
    let mut site = site(extra).await;
    let target = push_blob(&site, BYTES).await;
    let tls = site.anonymous("public/x").await;
    let plain = site.gateway.plain_client().with_host(tls.authority());
    let mut over_tls = tls.tls_over(tls.small_tcp().await, None).await.expect("TLS");
    over_tls.write_all(&request(&tls, &target)).await.expect("sent");
    let mut over_tcp = plain.small_tcp().await;
    over_tcp.write_all(&request(&tls, &target)).await.expect("sent");
    let pause = Duration::from_millis(10);
    let (tls_bytes, tcp_bytes) =
        tokio::join!(read_slowly(over_tls, 16_384, pause), read_slowly(over_tcp, 16_384, pause));
    for bytes in [tls_bytes, tcp_bytes] {
        assert!(bytes > 64 * 1024 && bytes < BYTES, "{bytes} bytes were read");
    }
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_above_the_least_rate_gets_everything() {
    let extra = "limits: { body_rate_min: 4KiB }\nupstream: { body_idle_timeout: 4s }";
    let mut site = site(extra).await;
    let target = push_blob(&site, 1 << 20).await;
    let client = site.anonymous("public/x").await;
    let mut stream = client.tls_over(client.small_tcp().await, None).await.expect("TLS");
    stream.write_all(&request(&client, &target)).await.expect("sent");
    // 64 KiB/s, which takes several windows.
    let read = read_slowly(stream, 4096, Duration::from_millis(62)).await;
    assert!(read > 1 << 20, "the connection was ended after {read} bytes");
    site.stop_gateway().await;
}

/// Ten layers over one slow line: each stream stands still most of the time, and its bytes move.
#[tokio::test(flavor = "multi_thread")]
async fn ten_streams_that_a_slow_client_reads_side_by_side_arrive_whole() {
    const BYTES: usize = 800_000;
    let mut site = site("upstream: { body_idle_timeout: 2s }").await;
    let target = push_blob(&site, BYTES).await;
    let client = site.anonymous("public/x").await;
    let mut curl = process::command("curl");
    curl.args([
        "--http2",
        "--parallel",
        "--parallel-max",
        "10",
        "--limit-rate",
        "30k",
        "--silent",
        "--show-error",
    ])
    .arg("--cacert")
    .arg(&site.endpoint.ca_file)
    .args(["--header", &format!("Authorization: {}", client.authorization().expect("a token"))])
    .args(["--write-out", "%{http_code} %{size_download}\n"]);
    for _ in 0..10 {
        curl.args(["--output", "/dev/null", &format!("https://{}{target}", site.endpoint.authority)]);
    }
    let told = process::run(curl, wait::HANG).await.unwrap_or_else(|error| panic!("{error:#}"));
    let lines: Vec<_> = told.lines().collect();
    assert_eq!(lines, vec![format!("200 {BYTES}"); 10]);
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_not_read_is_reset_and_its_connection_goes_on() {
    let mut site = site("upstream: { body_idle_timeout: 4s }").await;
    let target = push_blob(&site, BLOB_BYTES).await;
    let client = site.anonymous("public/x").await;
    let socket = client.raw_tcp().await;
    let mut connection = RawH2::open(&client, socket, 0).await.expect("a connection");
    connection.open_window(0, u32::try_from(BLOB_BYTES).expect("small") * 4).await.expect("sent");
    connection.request(1, END_STREAM, "GET", &target).await.expect("sent");
    connection.request(3, END_STREAM, "GET", &target).await.expect("sent");
    // Stream 1 is never read. Stream 3 is read in small steps until that one is reset, and then to its end.
    let (mut reset, mut bytes) = (false, 0);
    connection.open_window(3, 1024).await.expect("sent");
    while bytes < BLOB_BYTES {
        let next = connection.next().await.expect("the connection goes on");
        if next.kind == RST_STREAM {
            assert_eq!(next.stream, 1, "after {bytes} bytes");
            reset = true;
            connection.open_window(3, u32::try_from(BLOB_BYTES).expect("small")).await.expect("sent");
        }
        if next.kind == DATA {
            assert_eq!(next.stream, 3);
            bytes += next.payload.len();
            if !reset {
                let more = u32::try_from(next.payload.len()).expect("a frame");
                tokio::time::sleep(Duration::from_millis(20)).await;
                connection.open_window(3, more).await.expect("sent");
            }
        }
    }
    assert!(reset, "stream 3 was read in whole before stream 1 was reset");
    drop(connection);
    site.stop_gateway().await;
}
