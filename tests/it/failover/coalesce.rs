//! Reads of the same at the same time: one goes to the member, each client gets all of it, and none waits for another.

use http::Method;
use http_body_util::BodyExt as _;
use tokio::task::JoinSet;

use super::site_of;
use crate::harness::client::TestClient;
use crate::harness::fake_member::{FakeMember, Gate, Recorded, blob_answer};
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
