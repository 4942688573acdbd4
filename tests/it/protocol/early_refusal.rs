//! Rule 17: a refusal reaches a client that is still sending, costs the gateway a bounded amount of reading, and `100 Continue` is
//! said only once the request is allowed.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::fixture::{FakeSite, bearer_of, hub, push_scope};
use crate::harness::fake_member::FakeMember;
use crate::harness::{push, wait};

/// `limits.refused_body_bytes_max` where the configuration does not say otherwise.
const REFUSED_BYTES_MAX: usize = 1 << 20;

fn head(authority: &str, method: &str, target: &str, headers: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: {authority}\r\n{headers}\r\n")
}

/// Reads one whole answer: its head, and its body by `Content-Length`.
async fn read_answer(stream: &mut (impl AsyncRead + Unpin)) -> (String, String) {
    let mut read = Vec::new();
    let work = async {
        loop {
            if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8(read[..end].to_vec()).expect("text");
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                let length: usize = length.map_or(0, |length| length.parse().expect("a number"));
                if read.len() >= end + 4 + length {
                    let body = String::from_utf8(read[end + 4..].to_vec()).expect("text");
                    return (head, body);
                }
            }
            let mut buffer = [0; 4096];
            let count = stream.read(&mut buffer).await.expect("an answer, not a reset");
            assert_ne!(count, 0, "closed after {:?}", String::from_utf8_lossy(&read));
            read.extend_from_slice(&buffer[..count]);
        }
    };
    wait::within("the answer", work).await
}

#[track_caller]
fn assert_refused(answer: &(String, String)) {
    let (head, body) = answer;
    assert!(head.starts_with("HTTP/1.1 401 "), "{head}");
    assert!(head.contains("\r\nwww-authenticate: Bearer realm="), "{head}");
    assert!(head.contains("\r\ncontent-type: application/json"), "{head}");
    let json: serde_json::Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(json["errors"][0]["code"], "UNAUTHORIZED");
}

/// Writes chunks of 64 KiB until `total` bytes are out or the other side wants no more. Returns how many were taken.
async fn write_chunks(stream: &mut (impl AsyncWrite + Unpin), total: usize) -> usize {
    let (mut chunk, mut written) = (b"10000\r\n".to_vec(), 0);
    chunk.resize(chunk.len() + 0x10000, 0);
    chunk.extend_from_slice(b"\r\n");
    while written < total {
        if stream.write_all(&chunk).await.is_err() {
            return written;
        }
        written += 0x10000;
    }
    drop(stream.write_all(b"0\r\n\r\n").await);
    written
}

#[tokio::test]
async fn rule_17_100_continue_is_not_said_before_the_request_is_allowed() {
    let hub = hub().await;
    let expect = "Expect: 100-continue\r\nContent-Length: 1000000\r\n";
    let bearer = bearer_of(&hub.bob(&[&push_scope("bob/expect")]).await);
    let with_token = format!("{expect}Authorization: {bearer}\r\n");
    for (target, headers, status) in [
        ("/v2/bob/expect/blobs/uploads/some-id", expect, "401"),
        ("/v2/bob/expect/blobs/uploads/some-id", with_token.as_str(), "400"),
        ("/v2/alice/expect/blobs/uploads/some-id", with_token.as_str(), "401"),
        ("/v2/bob/EXPECT/blobs/uploads/some-id", with_token.as_str(), "400"),
    ] {
        let mut stream = hub.nobody().raw_tls().await;
        stream.write_all(head(hub.authority(), "PATCH", target, headers).as_bytes()).await.expect("sent");
        let (head, _) = read_answer(&mut stream).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{target}: {head}");
        // What is not wanted is not waited for either.
        let mut rest = Vec::new();
        let closed = wait::within("the end of the connection", stream.read_to_end(&mut rest)).await;
        assert!(closed.is_ok() && rest.is_empty(), "{closed:?} {rest:?}");
    }
}

#[tokio::test]
async fn rule_17_100_continue_is_said_once_the_request_is_allowed_and_the_member_chosen() {
    let hub = hub().await;
    let bob = hub.bob(&[&push_scope("bob/continue")]).await;
    let url = push::start(&bob, "bob/continue").await;
    let headers = format!(
        "Expect: 100-continue\r\nContent-Length: 11\r\nContent-Type: application/octet-stream\r\nAuthorization: {}\r\n",
        bearer_of(&bob)
    );
    let mut stream = hub.nobody().raw_tls().await;
    stream.write_all(head(hub.authority(), "PATCH", &url, &headers).as_bytes()).await.expect("sent");
    let (interim, _) = read_answer(&mut stream).await;
    assert_eq!(interim, "HTTP/1.1 100 Continue");
    stream.write_all(b"hello world").await.expect("sent");
    let (head, _) = read_answer(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 202 ") && head.contains("\r\nrange: 0-10"), "{head}");
}

#[tokio::test]
async fn rule_17_a_client_that_is_still_sending_reads_the_refusal() {
    let hub = hub().await;
    let target = "/v2/bob/early/blobs/uploads/some-id";
    let headers = "Transfer-Encoding: chunked\r\nContent-Type: application/octet-stream\r\n";
    for _ in 0..5 {
        let stream = hub.nobody().raw_tls().await;
        let (mut reading, mut writing) = tokio::io::split(stream);
        let write = async {
            writing
                .write_all(head(hub.authority(), "PATCH", target, headers).as_bytes())
                .await
                .expect("sent");
            write_chunks(&mut writing, 8 << 20).await
        };
        let (answer, _) = tokio::join!(read_answer(&mut reading), write);
        assert_refused(&answer);
    }
}

/// A client that looks for the answer only when it has sent all it has.
#[tokio::test]
async fn rule_17_a_refused_body_within_the_bound_is_read_and_the_connection_goes_on() {
    let hub = hub().await;
    let headers = "Transfer-Encoding: chunked\r\n";
    let mut stream = hub.nobody().raw_tls().await;
    for _ in 0..3 {
        let request = head(hub.authority(), "PATCH", "/v2/bob/early/blobs/uploads/some-id", headers);
        stream.write_all(request.as_bytes()).await.expect("sent");
        assert_eq!(write_chunks(&mut stream, REFUSED_BYTES_MAX / 2).await, REFUSED_BYTES_MAX / 2);
        assert_refused(&read_answer(&mut stream).await);
    }
}

#[tokio::test]
async fn rule_17_a_refused_body_is_read_up_to_the_bound_and_no_further() {
    const ENDLESS: usize = 512 << 20;
    let hub = hub().await;
    let stream = hub.site.gateway.plain_client().raw_tcp().await;
    let (mut reading, mut writing) = stream.into_split();
    let request = head(
        hub.authority(),
        "PATCH",
        "/v2/bob/early/blobs/uploads/some-id",
        "Transfer-Encoding: chunked\r\n",
    );
    let write = async {
        writing.write_all(request.as_bytes()).await.expect("sent");
        wait::within("the end of the connection", write_chunks(&mut writing, ENDLESS)).await
    };
    let (answer, written) = tokio::join!(read_answer(&mut reading), write);
    assert_refused(&answer);
    // What the gateway did not read is still in the buffers of the two sockets.
    let buffers = kernel_buffer_max("tcp_rmem") + kernel_buffer_max("tcp_wmem");
    assert!(written < REFUSED_BYTES_MAX + buffers + (1 << 20), "{written} bytes were taken");
}

fn kernel_buffer_max(name: &str) -> usize {
    let text = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).expect("a kernel setting");
    text.split_whitespace().last().and_then(|bytes| bytes.parse().ok()).expect("three numbers")
}

#[tokio::test]
async fn rule_17_a_refused_client_that_stalls_is_closed() {
    let member = FakeMember::start(|_| None).await;
    let site = FakeSite::start_with(
        |config| config.member_at("fake", member.url(), "none"),
        |text| format!("{text}limits: {{ refused_body_timeout: 1s, header_timeout: 1h, keep_alive: 1h }}\n"),
    )
    .await;
    let headers = "Content-Length: 1000000\r\n";
    let mut stream = site.nobody().raw_tls().await;
    let request = head(site.authority(), "PATCH", "/v2/t/app/blobs/uploads/some-id", headers);
    stream.write_all(request.as_bytes()).await.expect("sent");
    stream.write_all(b"a little, and then nothing").await.expect("sent");
    assert_refused(&read_answer(&mut stream).await);
    let mut rest = Vec::new();
    let read = wait::within("the end", stream.read_to_end(&mut rest)).await;
    assert!(read.is_err() || rest.is_empty(), "{rest:?}");
}
