//! Whose fault a failed request is: what a client asks for takes no healthy member out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::ejections;
use crate::failover::site_of;
use crate::harness::client::TestClient;
use crate::harness::fake_member::{FakeMember, Recorded, Reply, answer};
use crate::harness::site::{MemberKind, Site};

const EVERYBODY: &str = "{ everybody: true, repository: \"**\", allow: [pull] }";
const HEALTH: &str = "{ interval: 200ms, timeout: 20s, rise: 1, fall: 2, slow_start: 0s, ejection: { failures: 3, time: 1h } }";

async fn get(client: &TestClient, path: &str) -> u16 {
    client.get(path).await.status.as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn digests_that_no_registry_knows_are_refused_and_cost_no_member() {
    let mut site =
        Site::start_with(&[MemberKind::Open, MemberKind::Open], |config| config.rule(EVERYBODY)).await;
    let client = site.anonymous("a/b").await.at_source([127, 0, 0, 1]);
    let hex = "0123456789abcdef".repeat(4);
    for digest in [format!("blake3:{hex}"), format!("md5:{}", &hex[..32]), format!("sha256:{}", &hex[..32])] {
        for path in ["manifests", "blobs", "referrers"] {
            for _ in 0..10 {
                let refused = client.get(&format!("/v2/a/b/{path}/{digest}")).await;
                let code = refused.error_code();
                assert_eq!(
                    (refused.status.as_u16(), code.as_deref()),
                    (400, Some("DIGEST_INVALID")),
                    "{path}"
                );
            }
        }
    }
    assert!(site.members.iter().all(|member| member.requests_for("a/b").is_empty()));
    // Long names are names.
    let name = "a".repeat(255);
    assert_eq!(
        get(
            &site.authorized(&[&format!("repository:{name}:pull")]).await,
            &format!("/v2/{name}/manifests/v1")
        )
        .await,
        404
    );
    assert!(ejections(&site.gateway, &[]).await < 0.5);
    site.stop_gateway().await;
}

/// A member that fails at the paths with this word in them, and answers everything else.
async fn fails_at(word: &'static str) -> FakeMember {
    FakeMember::start(move |request: &Recorded| {
        if request.is_probe() {
            return None;
        }
        Some(if request.target.contains(word) { answer(500, &[], "") } else { answer(200, &[], "{}") })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_everywhere_is_nobodys_fault_and_one_client_takes_out_one_member() {
    // So many that half of them, the most that are ejected at once, is more than this test ejects.
    let members = [
        fails_at("-m0").await,
        fails_at("-m1").await,
        fails_at("-m2").await,
        fails_at("never").await,
        fails_at("never").await,
        fails_at("never").await,
    ];
    let everywhere: Vec<FakeMember> = vec![fails_at("everywhere").await, fails_at("everywhere").await];
    let mut site =
        site_of(&everywhere.iter().collect::<Vec<_>>(), |config| config.rule(EVERYBODY).health(HEALTH)).await;
    let client = site.anonymous("a/b").await.at_source([127, 0, 0, 1]);
    for _ in 0..20 {
        assert_eq!(get(&client, "/v2/a/b/manifests/everywhere").await, 500);
    }
    assert!(ejections(&site.gateway, &[]).await < 0.5, "another member did no better");
    site.stop_gateway().await;

    let mut site = site_of(&members.iter().collect::<Vec<_>>(), |config| {
        config.rule(EVERYBODY).health(HEALTH).extra("upstream: { retry_budget: { per_second: 1000 } }")
    })
    .await;
    let (client, other) = (
        site.anonymous("a/b").await.at_source([127, 0, 0, 2]),
        site.anonymous("a/b").await.at_source([127, 0, 0, 3]),
    );
    // Asks for what a member fails at until it has failed often enough to be ejected; returns whether it was.
    let ask = async |client: &TestClient, number: usize| {
        let word = format!("-m{number}");
        let label = format!("member=\"m{number}\"");
        let failed = || members[number].requests().iter().filter(|it| it.target.contains(&word)).count();
        let before = failed();
        while failed() < before + 5 && ejections(&site.gateway, &[&label]).await < 0.5 {
            let status = get(client, &format!("/v2/a/b/manifests/x{word}")).await;
            assert_eq!(status, 200, "a member does better");
        }
        ejections(&site.gateway, &[&label]).await > 0.5
    };
    assert!(ask(&client, 0).await, "it fails where others do better");
    assert!(!ask(&client, 1).await, "one client, one member");
    assert!(ask(&other, 1).await, "another client finds the same");
    assert!(!ask(&client, 2).await && !ask(&other, 2).await, "both have taken out one already");
    site.stop_gateway().await;
}

fn upload_started() -> Reply {
    answer(202, &[("location", "/v2/a/b/blobs/uploads/u-1")], "")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ejected_member_with_good_probes_does_everything_before_a_client_is_refused() {
    let (fails, gone) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let (sick, dead) = (Arc::clone(&fails), Arc::clone(&gone));
    let one = FakeMember::start(move |request: &Recorded| match request.method.as_str() {
        _ if request.is_probe() => None,
        _ if sick.load(Ordering::SeqCst) => Some(answer(500, &[], "")),
        "POST" => Some(upload_started()),
        _ => Some(answer(200, &[], "{}")),
    })
    .await;
    let two = FakeMember::start(move |request: &Recorded| {
        match (dead.load(Ordering::SeqCst), request.is_probe()) {
            (true, _) => Some(answer(503, &[], "")),
            (false, true) => None,
            (false, false) => Some(answer(200, &[], "{}")),
        }
    })
    .await;
    let mut site = site_of(&[&one, &two], |config| config.health(HEALTH)).await;
    let client = site.authorized(&["repository:a/b:pull,push"]).await;
    crate::harness::wait::until("the ejection", async || {
        assert_eq!(get(&client, "/v2/a/b/manifests/v1").await, 200);
        (ejections(&site.gateway, &["member=\"m0\""]).await > 0.5).then_some(())
    })
    .await;
    // While another one serves, nothing goes there.
    fails.store(false, Ordering::SeqCst);
    let before = one.requests().len();
    for _ in 0..20 {
        assert_eq!(get(&client, "/v2/a/b/manifests/v1").await, 200);
    }
    assert_eq!(one.requests().len(), before);
    gone.store(true, Ordering::SeqCst);
    site.gateway.wait_for_state("m1", "unhealthy").await;
    assert_eq!(get(&client, "/v2/a/b/manifests/v1").await, 200);
    client.post("/v2/a/b/blobs/uploads/", "").await.is(202);
    site.stop_gateway().await;
}
