//! Members that answer probes and fail requests; members that are out although they could serve; how often is tried again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::Instant;

use super::site_of;
use crate::harness::client::TestClient;
use crate::harness::fake_member::{FakeMember, Recorded, answer, no_tags};
use crate::harness::image::Blob;
use crate::harness::pull::Download;
use crate::harness::site::{MemberKind, Site};
use crate::harness::{push, wait};

const LIST: &str = "/v2/a/b/tags/list";
const SCOPE: &str = "repository:a/b:pull";

/// A member whose requests fail while the switch is on; its probes never do.
async fn member_that_fails(fails: &Arc<AtomicBool>) -> FakeMember {
    let fails = Arc::clone(fails);
    FakeMember::start(move |request: &Recorded| match (request.is_probe(), fails.load(Ordering::SeqCst)) {
        (true, _) => None,
        (false, true) => Some(answer(500, &[], "")),
        (false, false) => Some(no_tags()),
    })
    .await
}

async fn reads(client: &TestClient, how_many: usize, expected: u16) {
    for _ in 0..how_many {
        client.get(LIST).await.is(expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_fails_requests_is_out_for_a_time_although_its_probes_are_good() {
    let (sick, well) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let (one, two) = (member_that_fails(&sick).await, member_that_fails(&well).await);
    let mut site = site_of(&[&one, &two], |config| {
        config.health(
            "{ interval: 200ms, timeout: 20s, rise: 1, fall: 2, slow_start: 0s, ejection: { failures: 3, time: 1s } }",
        )
    })
    .await;
    let client = site.authorized(&[SCOPE]).await;
    // Each failed read is made again at the other member.
    wait::until("the ejection", async || {
        reads(&client, 5, 200).await;
        let metrics = site.gateway.metrics().await;
        (metrics.sum("tidegate_member_ejections_total", &["member=\"m0\""]) > 0.5).then_some(())
    })
    .await;
    let out = site.gateway.wait_for_log("a warning", |line| line["message"] == "member is out").await;
    assert_eq!((out["state"].as_str(), out["member"].as_str()), (Some("ejected"), Some("m0")), "{out}");
    assert!(out["reason"].as_str().is_some_and(|reason| reason.contains("500")), "{out}");
    assert!(out["out_for"].is_string(), "{out}");
    // Its probes are good; it comes back, and fails again, for longer. Meanwhile no client notices.
    wait::until("two more ejections", async || {
        reads(&client, 5, 200).await;
        let metrics = site.gateway.metrics().await;
        (metrics.sum("tidegate_member_ejections_total", &["member=\"m0\""]) > 2.5).then_some(())
    })
    .await;
    let before = one.requests().len();
    site.gateway.wait_for_state("m0", "ejected").await;
    reads(&client, 20, 200).await;
    assert!(one.requests().len() <= before + 1, "nothing goes to a member that is ejected");
    // The other one must not be ejected as well.
    well.store(true, Ordering::SeqCst);
    reads(&client, 10, 500).await;
    let metrics = site.gateway.metrics().await;
    assert!(
        metrics.sum("tidegate_member_ejections_total", &["member=\"m1\""]) < 0.5,
        "half of them is the most"
    );
    sick.store(false, Ordering::SeqCst);
    well.store(false, Ordering::SeqCst);
    site.gateway.wait_for_state("m0", "healthy").await;
    reads(&client, 10, 200).await;
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_fault_of_a_member_takes_none_out() {
    let member = FakeMember::start(|request: &Recorded| {
        if request.is_probe() {
            return None;
        }
        let status = match request.target.as_str() {
            "/v2/a/b/manifests/missing" => 404,
            "/v2/a/b/manifests/refused" => 405,
            _ => 416,
        };
        Some(answer(status, &[], "{}"))
    })
    .await;
    let other = FakeMember::start(|_: &Recorded| None).await;
    let mut site = site_of(&[&member, &other], |config| {
        config.health("{ interval: 200ms, timeout: 20s, rise: 1, fall: 2, ejection: { failures: 1 } }")
    })
    .await;
    let client = site.authorized(&["repository:a/b:pull,push"]).await;
    for _ in 0..20 {
        for target in ["missing", "refused", "odd"] {
            client.get(&format!("/v2/a/b/manifests/{target}")).await;
        }
        // A client that hangs up in the middle of a request.
        let mut connection = client.connect().await;
        let request = client.request(http::Method::GET, "/v2/a/b/manifests/odd");
        let request = request.empty();
        let asked = tokio::time::timeout(std::time::Duration::from_millis(1), connection.send_head(request));
        drop(asked.await);
    }
    let metrics = site.gateway.metrics().await;
    assert!(metrics.sum("tidegate_member_ejections_total", &[]) < 0.5);
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_is_down_is_asked_again_only_as_the_budget_allows() {
    let down = Arc::new(AtomicBool::new(true));
    let (one, two) = (member_that_fails(&down).await, member_that_fails(&down).await);
    let mut site = site_of(&[&one, &two], |config| {
        let config = config.extra("upstream: { retry_budget: { percent: 10, per_second: 1 } }");
        config.health("{ interval: 200ms, timeout: 20s, rise: 1, fall: 2, ejection: { failures: 1000000 } }")
    })
    .await;
    let client = site.authorized(&[SCOPE]).await;
    let began = Instant::now();
    reads(&client, 300, 500).await;
    let asked = (one.requests().len() + two.requests().len()) as u64;
    // What was saved up, a tenth of the requests, one a second, and one for rounding.
    let most = 300 + 20 + 30 + began.elapsed().as_secs() + 1;
    assert!(
        (321..=most).contains(&asked),
        "{asked} requests at the members for 300 of clients, at most {most}"
    );
    let metrics = site.gateway.metrics().await;
    assert!(metrics.sum("tidegate_retries_total", &["result=\"refused\""]) > 200.0);
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_used_when_no_other_member_answers_and_reads_try_members_that_are_out() {
    let (fails, well) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (primary, backup) = (member_that_fails(&fails).await, member_that_fails(&well).await);
    let mut site = Site::start_with(&[], |config| {
        config
            .member_at("primary", primary.url(), "none")
            .member_yaml(&format!("{{ name: backup, url: \"{}\", backup: true }}", backup.url()))
    })
    .await;
    let client = site.authorized(&[SCOPE]).await;
    reads(&client, 20, 200).await;
    assert!(backup.requests().is_empty(), "it has nothing to do while the other one serves");
    fails.store(true, Ordering::SeqCst);
    reads(&client, 20, 200).await;
    assert!(backup.requests().len() >= 20);
    site.stop_gateway().await;

    // All that is left is out by its probes, and could still read.
    let member = FakeMember::start(|request: &Recorded| {
        Some(if request.is_probe() { answer(503, &[], "") } else { no_tags() })
    })
    .await;
    let mut site = site_of(&[&member], |config| config).await;
    site.gateway.wait_for_state("m0", "unhealthy").await;
    let client = site.authorized(&["repository:a/b:pull,push"]).await;
    reads(&client, 3, 200).await;
    let write = client.post("/v2/a/b/blobs/uploads/", "").await;
    assert_eq!(write.status, 504, "no write goes to a member that is out");
    site.stop_gateway().await;
}

/// The time that a member has for the beginning of an answer is that of a configuration that says nothing. Everything else that
/// could end the wait for a frozen member is an hour away: the probes that would find it, and the limit of the whole request.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_of_a_frozen_member_goes_on_at_another_before_any_probe_has_found_it() {
    let mut site = Site::start_with(&[MemberKind::Open; 3], |config| {
        config
            .health("{ interval: 1h, timeout: 20s, rise: 1, fall: 2 }")
            .extra("upstream: { head_timeout: 1h, body_idle_timeout: 1h }")
    })
    .await;
    let client = site.authorized(&["repository:a/b:pull,push"]).await;
    let path = push::blob(&client, "a/b", &Blob::random(2_000_000)).await;
    // The member that this blob comes from.
    let served = site.gateway.served_by(&client.get(&path).await.is(200)).await;
    let number: usize = served.trim_start_matches("member").parse().expect("a number");
    site.members[number].freeze();
    let download = wait::within("the head of the answer", Download::begin(&client, &path)).await;
    assert_eq!(download.response.status(), 200);
    assert!(site.gateway.find_log(|line| line["message"] == "member is out").is_none());
    site.members[number].thaw();
    // An answer that is not read would hold the end up.
    drop(download);
    site.stop_gateway().await;
}
