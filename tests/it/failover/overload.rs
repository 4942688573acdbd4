//! Ten times what a member can take: what is served is served soon, the rest is refused at once, and memory stays.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::site_of;
use crate::harness::client::TestClient;
use crate::harness::fake_member::{FakeMember, Gate, Recorded, answer, no_tags};
use crate::harness::wait;

const LIST: &str = "/v2/a/b/tags/list";

fn crowd(client: &TestClient, size: usize) -> JoinSet<(u16, bool, Instant)> {
    let mut crowd = JoinSet::new();
    for _ in 0..size {
        let client = client.clone();
        crowd.spawn(async move {
            let answer = client.get(LIST).await;
            (answer.status.as_u16(), answer.header("retry-after").is_some(), Instant::now())
        });
    }
    crowd
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_times_what_a_member_takes_is_bounded_and_the_rest_is_refused_at_once() {
    let gate = Gate::closed();
    let (behind, at_once) = (gate.clone(), Arc::new(AtomicUsize::new(0)));
    let seen = Arc::clone(&at_once);
    let member = FakeMember::start(move |request: &Recorded| {
        if request.is_probe() {
            return None;
        }
        seen.fetch_add(1, Ordering::SeqCst);
        Some(behind.holds(no_tags()))
    })
    .await;
    let mut site = site_of(&[&member], |config| {
        config.extra(
            "upstream: { connections_max: 8, pulls_max: 8, queue_max: 12, queue_timeout: 20s, first_byte_timeout: 20s }",
        )
    })
    .await;
    let client = site.authorized(&["repository:a/b:pull"]).await;
    let before = site.gateway.memory_kib("VmRSS");
    let mut readers = crowd(&client, 200);
    // Eight at the member, twelve in the queue; all others have their answer while those wait.
    let mut refused = 0;
    while refused < 180 {
        let (status, retry_after, _) = readers.join_next().await.expect("a reader").expect("no panic");
        assert_eq!((status, retry_after), (503, true));
        refused += 1;
    }
    // The refusals may be here before those that were let through have arrived.
    wait::until("all that the member takes", async || {
        let arrived = at_once.load(Ordering::SeqCst);
        assert!(arrived <= 8, "the member has no more than it can take: {arrived}");
        (arrived == 8).then_some(())
    })
    .await;
    let grown = site.gateway.memory_kib("VmRSS").saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB more for 200 requests");
    gate.open();
    while let Some(served) = readers.join_next().await {
        assert_eq!(served.expect("no panic").0, 200);
    }
    let metrics = site.gateway.metrics().await;
    assert!((metrics.sum("tidegate_queue_seconds_count", &["member=\"m0\""]) - 20.0).abs() < 0.5);
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_that_fill_a_member_leave_room_for_uploads_and_the_other_way_round() {
    let gate = Gate::closed();
    let behind = gate.clone();
    let member = FakeMember::start(move |request: &Recorded| match request.method.as_str() {
        _ if request.is_probe() => None,
        "GET" => Some(behind.holds(no_tags())),
        _ => Some(answer(202, &[("location", "/v2/a/b/blobs/uploads/u-1")], "")),
    })
    .await;
    let mut site = site_of(&[&member], |config| {
        config.extra(
            "upstream: { connections_max: 4, pulls_max: 3, queue_timeout: 20s, first_byte_timeout: 20s }",
        )
    })
    .await;
    let client = site.authorized(&["repository:a/b:pull,push"]).await;
    let mut readers = crowd(&client, 10);
    site.gateway.wait_for_metric("tidegate_member_connections", &["member=\"m0\""], 3.0).await;
    site.gateway.wait_for_metric("tidegate_requests_in_flight", &[], 10.0).await;
    for _ in 0..5 {
        client.post("/v2/a/b/blobs/uploads/", "").await.is(202);
    }
    gate.open();
    while let Some(served) = readers.join_next().await {
        assert_eq!(served.expect("no panic").0, 200);
    }
    site.stop_gateway().await;
}
