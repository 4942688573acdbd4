//! One client gets no more than its share of a member's connections while others wait, and all of them while nobody does.

use bytes::Bytes;
use http::{Method, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::task::JoinSet;

use crate::failover::site_of;
use crate::harness::client::{H2Connection, TestClient, whole};
use crate::harness::fake_member::{FakeMember, Gate, Recorded, Reply, answer, blob_answer};
use crate::harness::image::Blob;
use crate::harness::pull::Download;
use crate::harness::site::Site;
use crate::harness::wait;

const PULLS_MAX: usize = 8;

/// A member with one large blob and a small manifest, for which it answers when the gate is open.
async fn member_with(blob: &Blob, gate: &Gate) -> FakeMember {
    let gate = gate.clone();
    let blob = blob.clone();
    FakeMember::start(move |request: &Recorded| -> Option<Reply> {
        match request.target.contains("/blobs/") {
            _ if request.is_probe() => None,
            true => Some(blob_answer(request, &blob.bytes, &blob.digest)),
            false => Some(gate.holds(answer(200, &[("content-type", "application/json")], "{}"))),
        }
    })
    .await
}

async fn site_with(members: &[&FakeMember]) -> Site {
    site_of(members, |config| {
        config
            .rule("{ everybody: true, repository: \"**\", allow: [pull] }")
            .extra("coalesce: { enabled: false }")
            .extra(&format!(
                "upstream: {{ connections_max: {PULLS_MAX}, pulls_max: {PULLS_MAX}, queue_timeout: 1h, head_timeout: 1h, first_byte_timeout: 1h, body_idle_timeout: 1h, body_stall_timeout: 1h }}"
            ))
    })
    .await
}

/// So many reads whose answers nobody reads, each on its way by itself.
fn unread(h2: &H2Connection, client: &TestClient, path: &str, number: usize) -> JoinSet<Response<Incoming>> {
    let mut answers = JoinSet::new();
    for _ in 0..number {
        let request = client.request(Method::GET, path).empty();
        let sender = h2.sender();
        answers.spawn(async move { sender.send_head(request).await });
    }
    answers
}

/// Reads a download to its end, which keeps its connection for as long.
async fn read_whole(mut download: Download) -> Bytes {
    read_body(&mut download.response).await
}

async fn read_body(answer: &mut Response<Incoming>) -> Bytes {
    assert_eq!(answer.status(), 200);
    wait::within("the rest", answer.body_mut().collect()).await.expect("the whole body").to_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_not_read_give_their_members_back_and_go_on_when_they_are_read() {
    let blob = Blob::random(3 << 20);
    let gate = Gate::opened();
    let (one, two) = (member_with(&blob, &gate).await, member_with(&blob, &gate).await);
    let mut site = site_with(&[&one, &two]).await;
    let greedy = site.authorized(&["repository:a/b:pull"]).await.at_source([127, 0, 0, 2]);
    let path = format!("/v2/a/b/blobs/{}", blob.digest);
    let (first, second) = (greedy.connect_h2(16_384).await, greedy.connect_h2(16_384).await);
    // While nobody else wants anything, one client has every connection of both members.
    let mut of_first = unread(&first, &greedy, &path, 2 * PULLS_MAX);
    let mut of_second = unread(&second, &greedy, &path, 2 * PULLS_MAX);
    for member in ["member=\"m0\"", "member=\"m1\""] {
        site.gateway.wait_for_metric("tidegate_member_connections", &[member], PULLS_MAX as f64).await;
    }
    let nobody = site.anonymous("a/b").await.at_source([127, 0, 0, 3]);
    let pulled = wait::within("a pull of somebody else", nobody.get(&path)).await;
    assert!(pulled.status == 200 && pulled.body == blob.bytes, "{}", pulled.status);
    wait::within("a manifest", nobody.get("/v2/a/b/manifests/v1")).await.is(200);
    let metrics = site.gateway.metrics().await;
    assert!(
        metrics.sum("tidegate_reclaims_total", &[]) < 0.5,
        "counted when a reader comes back for the rest"
    );
    assert!(metrics.sum("tidegate_member_ejections_total", &[]) < 0.5);
    // Every answer is whole in the end, also those that had to wait.
    let mut readers = JoinSet::new();
    for answers in [&mut of_first, &mut of_second] {
        while let Some(answer) = wait::within("an answer", answers.join_next()).await {
            let mut answer = answer.expect("no panic");
            readers.spawn(async move { read_body(&mut answer).await });
        }
    }
    while let Some(read) = wait::within("a whole answer", readers.join_next()).await {
        assert!(read.expect("no panic") == blob.bytes, "other bytes");
    }
    let metrics = site.gateway.metrics().await;
    assert!(metrics.sum("tidegate_reclaims_total", &[]) > 0.5, "some of them gave their connection back");
    drop((first, second));
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_over_http_1_that_do_not_read_stop_nobody_either() {
    let blob = Blob::random(3 << 20);
    let member = member_with(&blob, &Gate::opened()).await;
    let mut site = site_with(&[&member]).await;
    let greedy =
        site.authorized(&["repository:a/b:pull"]).await.at_source([127, 0, 0, 2]).with_small_buffers();
    let path = format!("/v2/a/b/blobs/{}", blob.digest);
    let mut held = Vec::new();
    for _ in 0..PULLS_MAX {
        held.push(Download::begin(&greedy, &path).await);
    }
    let nobody = site.anonymous("a/b").await.at_source([127, 0, 0, 3]);
    for _ in 0..3 {
        let pulled = wait::within("a pull of somebody else", nobody.get(&path)).await;
        assert!(pulled.status == 200 && pulled.body == blob.bytes, "{}", pulled.status);
    }
    for download in held {
        assert!(read_whole(download).await == blob.bytes, "other bytes");
    }
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_taken_back_goes_on_when_its_turn_comes_however_long_that_takes() {
    let blob = Blob::random(3 << 20);
    let gate = Gate::closed();
    let member = member_with(&blob, &gate).await;
    let mut site = site_of(&[&member], |config| {
        config
            .rule("{ everybody: true, repository: \"**\", allow: [pull] }")
            .extra("coalesce: { enabled: false }")
            .extra(
                "upstream: { connections_max: 2, pulls_max: 2, queue_timeout: 500ms, head_timeout: 1h, first_byte_timeout: 1h, body_idle_timeout: 1h, body_stall_timeout: 1h }",
            )
    })
    .await;
    let greedy =
        site.authorized(&["repository:a/b:pull"]).await.at_source([127, 0, 0, 2]).with_small_buffers();
    let other = site.anonymous("a/b").await.at_source([127, 0, 0, 3]).with_small_buffers();
    let path = format!("/v2/a/b/blobs/{}", blob.digest);
    // One client has both connections: one for an answer that it does not read, one for an answer that the member
    // does not begin, and which can therefore not be taken back.
    let taken_back = Download::begin(&greedy, &path).await;
    let mut second = JoinSet::new();
    let waiting = greedy.clone();
    second.spawn(async move { waiting.get("/v2/a/b/manifests/v1").await });
    wait::until("the second request at the member", async || {
        member.requests().iter().any(|request| request.target.contains("/manifests/")).then_some(())
    })
    .await;
    let held = wait::within("the other client's turn", async {
        loop {
            let download = Download::begin(&other, &path).await;
            if download.response.status() == 200 {
                break download;
            }
        }
    })
    .await;
    let mut reader = JoinSet::new();
    reader.spawn(read_whole(taken_back));
    site.gateway.wait_for_metric("tidegate_reclaims_total", &[], 1.0).await;
    // Longer than one turn in the queue may take: others are refused meanwhile, more than once.
    for _ in 0..3 {
        let refused = greedy.get(&path).await;
        assert_eq!(refused.status, 504, "each of the two clients has its share");
    }
    assert!(reader.try_join_next().is_none(), "its turn has not come");
    gate.open();
    let second = wait::within("the second answer", second.join_next()).await.expect("a request");
    assert_eq!(second.expect("no panic").status, 200);
    let read = reader.join_next().await.expect("a reader").expect("no panic");
    assert!(read == blob.bytes, "other bytes");
    assert!(read_whole(held).await == blob.bytes, "other bytes");
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_ranges_at_once_are_answered_with_the_whole() {
    let blob = Blob::random(5000);
    let mut site = Site::start(&[crate::harness::site::MemberKind::Open]).await;
    let client = site.authorized(&["repository:a/b:pull,push"]).await;
    crate::harness::push::blob(&client, "a/b", &blob).await;
    let path = format!("/v2/a/b/blobs/{}", blob.digest);
    for (range, status, expected) in
        [("bytes=0-0,2-", 200, &blob.bytes[..]), ("bytes=10-19", 206, &blob.bytes[10..20])]
    {
        let request = client.request(Method::GET, &path).header("range", range).body(whole(""));
        let answer = client.send(request).await;
        assert!(answer.status == status && answer.body == expected, "{range}: {}", answer.status);
    }
    site.stop_gateway().await;
}
