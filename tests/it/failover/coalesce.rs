//! Reads of the same at the same time: one goes to the member, each client gets all of it, and none waits for another.

use std::sync::Arc;

use http::Method;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::site_of;
use crate::harness::client::TestClient;
use crate::harness::fake_member::{FakeMember, Gate, Recorded, answer, blob_answer};
use crate::harness::image::Blob;
use crate::harness::site::Site;
use crate::harness::wait;

const SCOPE: &str = "repository:a/b:pull";

/// A member that has one blob, and answers for it only when the gate is open.
async fn member_with(blob: &Blob, gate: &Gate) -> FakeMember {
    let (blob, gate) = (blob.clone(), gate.clone());
    FakeMember::start(move |request: &Recorded| {
        let is_blob = request.target.ends_with(&blob.digest);
        is_blob.then(|| gate.holds(blob_answer(request, &blob.bytes, &blob.digest)))
    })
    .await
}

/// Asks for a path with so many connections at once; each answer's bytes.
fn crowd(client: &TestClient, path: &str, size: usize) -> JoinSet<Vec<u8>> {
    let mut crowd = JoinSet::new();
    for _ in 0..size {
        let (client, path) = (client.clone(), path.to_owned());
        crowd.spawn(async move {
            let answer = client.get(&path).await.is(200);
            answer.body.to_vec()
        });
    }
    crowd
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_wants_the_same_costs_a_member_one_read() {
    // Held as a whole, and through the window.
    for size in [50_000, 3_000_000] {
        let (blob, gate) = (Blob::random(size), Gate::closed());
        let member = member_with(&blob, &gate).await;
        let mut site = site_of(&[&member], |config| config).await;
        let client = site.authorized(&[SCOPE]).await;
        let path = format!("/v2/a/b/blobs/{}", blob.digest);
        let readers = crowd(&client, &path, 20);
        site.gateway.wait_for_metric("tidegate_requests_in_flight", &[], 20.0).await;
        // Nobody gets in by waiting beside those who may.
        site.client().get(&path).await.is(401);
        let other = site.authorized(&["repository:a/other:pull"]).await;
        other.get(&path).await.is(401);
        gate.open();
        for bytes in readers.join_all().await {
            assert!(bytes == blob.bytes, "{} of {size} bytes", bytes.len());
        }
        assert_eq!(member.requests().len(), 1, "{size} bytes");
        site.gateway.wait_for_metric("tidegate_coalesced_requests_total", &["pool=\"main\""], 19.0).await;
        // Each has a line of its own.
        let lines = wait::until("every reader's line", async || {
            let mut lines = site.gateway.access_log();
            lines.retain(|line| line.route() == "blob" && line.status() == 200);
            (lines.len() == 20).then_some(lines)
        })
        .await;
        assert_eq!(lines.iter().filter(|line| line.0["coalesced"] == true).count(), 19);
        assert!(lines.iter().all(|line| line.text("subject") == "users/alice" && line.member() == "m0"));
        site.stop_gateway().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_member_is_told_who_asks_only_the_reads_of_one_user_are_shared() {
    let (blob, gate) = (Blob::random(50_000), Gate::closed());
    let member = member_with(&blob, &gate).await;
    let mut site = Site::start_with(&[], |config| {
        config.member_at("m0", member.url(), "{ token: { audience: m0 } }").user("bob", "builder")
    })
    .await;
    let path = format!("/v2/a/b/blobs/{}", blob.digest);
    let alice = site.authorized(&[SCOPE]).await;
    let token = site.client().token("bob", "builder", &[SCOPE]).await;
    let bob = site.client().with_bearer(&token);
    let (hers, his) = (crowd(&alice, &path, 3), crowd(&bob, &path, 3));
    site.gateway.wait_for_metric("tidegate_requests_in_flight", &[], 6.0).await;
    wait::until("a request of each", async || (member.requests().len() >= 2).then_some(())).await;
    gate.open();
    for bytes in hers.join_all().await.into_iter().chain(his.join_all().await) {
        assert!(bytes == blob.bytes);
    }
    assert_eq!(member.requests().len(), 2, "one for each of the two users");
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_leaves_does_not_end_it_for_the_others() {
    let (blob, gate) = (Blob::random(3_000_000), Gate::closed());
    let member = member_with(&blob, &gate).await;
    let mut site = site_of(&[&member], |config| config).await;
    let client = site.authorized(&[SCOPE]).await;
    let path = format!("/v2/a/b/blobs/{}", blob.digest);
    let leader = crowd(&client, &path, 1);
    wait::until("the leader's request at the member", async || (!member.requests().is_empty()).then_some(()))
        .await;
    let readers = crowd(&client, &path, 5);
    site.gateway.wait_for_metric("tidegate_requests_in_flight", &[], 6.0).await;
    drop(leader);
    // One of the others has asked in its place.
    wait::until("a new leader", async || (member.requests().len() == 2).then_some(())).await;
    gate.open();
    for bytes in readers.join_all().await {
        assert!(bytes == blob.bytes);
    }
    assert_eq!(member.requests().len(), 2);
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_stalls_nobody_and_reads_on_by_itself() {
    // More than sockets take in while nobody reads.
    let (blob, gate) = (Blob::random(40_000_000), Gate::closed());
    let member = member_with(&blob, &gate).await;
    let mut site = site_of(&[&member], |config| config.extra("coalesce: { window: 64KiB }")).await;
    let client = site.authorized(&[SCOPE]).await;
    let path = format!("/v2/a/b/blobs/{}", blob.digest);
    let mut connection = client.connect().await;
    let request = client.request(Method::GET, &path).empty();
    let slow = async {
        let answer = connection.send_head(request).await;
        assert_eq!(answer.status(), 200);
        answer.into_body()
    };
    let readers = crowd(&client, &path, 4);
    let opened = async {
        site.gateway.wait_for_metric("tidegate_requests_in_flight", &[], 5.0).await;
        gate.open();
    };
    let (slow, ()) = tokio::join!(slow, opened);
    // It reads nothing, and the others have it all.
    for bytes in readers.join_all().await {
        assert!(bytes == blob.bytes);
    }
    let rest = wait::within("the slow reader", slow.collect()).await.expect("all of it").to_bytes();
    assert!(rest == blob.bytes);
    let requests = member.requests();
    let ranges: Vec<_> = requests.iter().filter_map(|request| request.header("range")).collect();
    assert!(!ranges.is_empty(), "a reader that fell out of the window asks for the rest alone");
    // One whole read for all that came into the window; on a busy machine one that comes too late makes its own.
    let metrics = site.gateway.metrics().await;
    let coalesced = metrics.sum("tidegate_coalesced_requests_total", &["pool=\"main\""]);
    let whole = (requests.len() - ranges.len()) as f64;
    assert!((whole + coalesced - 5.0).abs() < 0.5, "{whole} whole reads, {coalesced} shared; {ranges:?}");
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn switched_off_each_asks_for_itself() {
    let (blob, gate) = (Blob::random(50_000), Gate::closed());
    let member = member_with(&blob, &gate).await;
    let mut site = site_of(&[&member], |config| config.extra("coalesce: { enabled: false }")).await;
    let client = site.authorized(&[SCOPE]).await;
    let readers = crowd(&client, &format!("/v2/a/b/blobs/{}", blob.digest), 5);
    wait::until("every request at the member", async || (member.requests().len() == 5).then_some(())).await;
    gate.open();
    assert!(readers.join_all().await.iter().all(|bytes| *bytes == blob.bytes));
    site.stop_gateway().await;
}

/// A member that sends the beginning of a blob once it may, and then stalls. The task ends when the gateway has closed the
/// connection.
async fn stalling_member(blob: &Blob, sends: usize, begin: Arc<Notify>) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("a bound socket has an address"));
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\ndocker-content-digest: {}\r\n\r\n",
        blob.bytes.len(),
        blob.digest
    );
    let part = [head.as_bytes(), &blob.bytes[..sends]].concat();
    let mut reads = JoinSet::new();
    reads.spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.expect("a connection");
            let mut socket = BufReader::new(socket);
            let mut request = String::new();
            while !request.ends_with("\r\n\r\n") && socket.read_line(&mut request).await.is_ok_and(|n| n > 0)
            {
            }
            if request.starts_with("GET /v2/ ") {
                let pong = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
                socket.write_all(pong).await.expect("an answer to a probe");
                continue;
            }
            begin.notified().await;
            socket.write_all(&part).await.expect("the beginning of the blob");
            // Until the gateway closes it.
            while socket.read_line(&mut request).await.is_ok_and(|n| n > 0) {}
            return;
        }
    });
    (url, reads)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_nobody_shares_any_more_ends_and_costs_no_retry() {
    let (blob, open) = (Blob::random(3_000_000), Gate::opened());
    let other = member_with(&blob, &open).await;
    let begin = Arc::new(Notify::new());
    let (url, mut reads) = stalling_member(&blob, 200_000, Arc::clone(&begin)).await;
    // Asked only when the other one fails.
    let backup = format!("{{ name: other, url: \"{}\", credential: none, backup: true }}", other.url());
    let mut site =
        Site::start_with(&[], |config| config.member_at("stalls", &url, "none").member_yaml(&backup)).await;
    let client = site.authorized(&[SCOPE]).await;
    let path = format!("/v2/a/b/blobs/{}", blob.digest);
    let read = async || {
        let mut connection = client.connect().await;
        let head = connection.send_head(client.request(Method::GET, &path).empty()).await;
        (connection, head.into_body())
    };
    let both_wait = async {
        site.gateway.wait_for_metric("tidegate_requests_in_flight", &[], 2.0).await;
        begin.notify_one();
    };
    let (one, other_one, ()) = tokio::join!(read(), read(), both_wait);
    drop((one, other_one));
    wait::within("the end of the read at the member", reads.join_next()).await;
    site.gateway.wait_for_metric("tidegate_requests_in_flight", &[], 0.0).await;
    let metrics = site.gateway.metrics().await;
    assert!((metrics.sum("tidegate_coalesced_requests_total", &[]) - 1.0).abs() < f64::EPSILON);
    for name in ["tidegate_retries_total", "tidegate_resumes_total"] {
        assert!(
            metrics.sum(name, &[]).abs() < f64::EPSILON,
            "{name}: what has no reader is not gone on with"
        );
    }
    assert!(other.requests().is_empty(), "{:?}", other.requests());
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_was_not_asked_for_is_no_answer() {
    let blob = Blob::random(50_000);
    let (bytes, digest) = (blob.bytes.clone(), blob.digest.clone());
    let bad = FakeMember::start(move |request: &Recorded| {
        let said = format!("bytes 0-9999/{}", bytes.len());
        let headers = [("content-range", said.as_str()), ("docker-content-digest", digest.as_str())];
        request.target.contains("/blobs/").then(|| answer(206, &headers, bytes[..10_000].to_vec()))
    })
    .await;
    let good = member_with(&blob, &Gate::opened()).await;
    let path = format!("/v2/a/b/blobs/{}", blob.digest);
    for (members, expected) in [(vec![&bad, &good], 200), (vec![&bad], 504)] {
        let mut site = site_of(&members, |config| config).await;
        let client = site.authorized(&[SCOPE]).await;
        // With two members some of these begin at the bad one.
        for _ in 0..10 {
            let answer = client.get(&path).await.is(expected);
            assert!(expected != 200 || answer.body == blob.bytes);
        }
        site.stop_gateway().await;
    }
    assert!(!bad.requests().is_empty());
}
