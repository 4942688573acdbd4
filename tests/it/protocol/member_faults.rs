//! What a member's failures and refusals become: codes that every client tries again, our own words, and never its challenge.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::fixture::{FakeSite, assert_oci_error, push_scope};
use crate::harness::client::{Answer, TestClient, basic};
use crate::harness::fake_member::{FakeMember, Recorded, Reply, answer};
use crate::harness::image::digest_of;
use crate::harness::port::ReservedPort;
use crate::harness::{push, wait};

/// Which member is asked first is chance.
const TRIES_MAX: u32 = 200;
const SESSION: &str = "/v2/t/app/blobs/uploads/session-1?_state=s";

/// Opens sessions, and answers everything else with `status` and words that no client should read.
fn fails_with(status: u16) -> impl Fn(&Recorded) -> Option<Reply> + Send + Sync {
    move |request| {
        if request.is_probe() {
            return None;
        }
        if request.target == "/v2/t/app/blobs/uploads/" {
            return Some(answer(202, &[("location", SESSION)], ""));
        }
        let headers = [
            ("content-type", "text/html"),
            ("retry-after", "3600"),
            ("www-authenticate", "Basic realm=\"m\""),
        ];
        Some(answer(status, &headers, "<html>the member's own words</html>"))
    }
}

/// One request of every kind.
async fn one_of_each(alice: &TestClient) -> Vec<(&'static str, Answer)> {
    let blob = format!("/v2/t/app/blobs/{}", digest_of(b"x"));
    let url = push::start(alice, "t/app").await;
    let put = push::end_of(&url, &digest_of(b"x"));
    vec![
        ("GET blob", alice.get(&blob).await),
        ("GET manifest", alice.get("/v2/t/app/manifests/v1").await),
        ("PUT manifest", alice.put("/v2/t/app/manifests/v1", "text/plain", "x").await),
        ("PATCH", alice.patch(&url, "x").await),
        ("PUT blob", alice.put(&put, "application/octet-stream", "x").await),
        ("DELETE blob", alice.delete(&blob).await),
    ]
}

#[tokio::test]
async fn member_failures_are_500_503_or_504_never_502_and_429_is_never_relayed() {
    for (status, expected) in
        [(500, 500), (502, 504), (503, 503), (504, 504), (507, 504), (520, 504), (429, 503)]
    {
        let member = FakeMember::start(fails_with(status)).await;
        let site = FakeSite::start(&[&member]).await;
        let alice = site.alice(&["repository:t/app:*"]).await;
        for (what, answer) in one_of_each(&alice).await {
            let seen = (answer.status.as_u16(), answer.error_code());
            assert_eq!(
                seen,
                (expected, Some("UNAVAILABLE".to_owned())),
                "{what} of a member that says {status}"
            );
            assert_oci_error(&answer, expected, "UNAVAILABLE");
            assert!(!answer.text().contains("own words"), "{what}: {}", answer.text());
            let wait = answer.header("retry-after");
            assert_eq!(wait.is_some(), expected == 503, "{what} {status}: {wait:?}");
            assert!(wait.is_none_or(|wait| wait == "2"), "the member's own {wait:?}");
            assert_eq!(answer.header("www-authenticate"), None, "{what} {status}");
        }
        let asked = |part: &str, method: &str| {
            let asked = member.requests();
            asked.iter().filter(|request| request.method == method && request.target.contains(part)).count()
        };
        assert_eq!((asked("session-1", "PATCH"), asked("session-1", "PUT")), (1, 1), "bytes were sent twice");
    }
}

/// Reads, each time with success, until a member was asked.
async fn read_until_asked(client: &TestClient, member: &FakeMember) {
    for _ in 0..TRIES_MAX {
        client.get("/v2/t/app/manifests/v1").await.is(200);
        if !member.requests().is_empty() {
            return;
        }
    }
    panic!("the member was never chosen");
}

#[tokio::test]
async fn a_read_is_answered_by_another_member_where_one_fails() {
    let bad = FakeMember::start(fails_with(502)).await;
    let good = FakeMember::start(|_: &Recorded| Some(answer(200, &[], "{}"))).await;
    let site = FakeSite::start(&[&bad, &good]).await;
    let alice = site.alice(&["repository:t/app:pull"]).await;
    read_until_asked(&alice, &bad).await;
}

#[tokio::test]
async fn no_reachable_member_is_504_for_every_kind_of_request() {
    let nobody = ReservedPort::on_loopback();
    let url = format!("http://{}", nobody.address());
    let site = FakeSite::start_with(|config| config.member_at("gone", &url, "none"), str::to_owned).await;
    // Logging in does not need members.
    let alice = site.alice(&[&push_scope("t/app")]).await;
    alice.get("/v2/").await.is(200);
    for answer in [
        alice.get("/v2/t/app/manifests/v1").await,
        alice.post("/v2/t/app/blobs/uploads/", "").await,
        alice.put("/v2/t/app/manifests/v1", "text/plain", "x").await,
        alice.get("/v2/t/app/tags/list").await,
    ] {
        assert_oci_error(&answer, 504, "UNAVAILABLE");
    }
}

/// A member that wants a password and, once `refuses` is set, answers 401 to it too; or to everything but its probes.
fn guarded(
    refuses: &Arc<AtomicBool>,
    probes_too: bool,
) -> impl Fn(&Recorded) -> Option<Reply> + Send + Sync + use<> {
    let refuses = Arc::clone(refuses);
    let challenge = "Bearer realm=\"https://member.internal.example.com/token\",service=\"member\"";
    move |request| {
        let refused = refuses.load(Ordering::SeqCst) && (probes_too || !request.is_probe());
        let known = request.header("authorization") == Some(basic("account", "secret"));
        if refused || !known {
            let headers = [("www-authenticate", challenge), ("www-authenticate", "Basic realm=\"member\"")];
            return Some(answer(401, &headers, r#"{"errors":[{"code":"UNAUTHORIZED","message":"member"}]}"#));
        }
        Some(answer(200, &[], "{}"))
    }
}

const ACCOUNT: &str = "{ basic: { user: account, password: \"secret\" } }";

#[tokio::test]
async fn a_member_that_refuses_our_credential_is_out_and_the_client_never_learns_of_it() {
    let (never, later) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let good = FakeMember::start(guarded(&never, true)).await;
    let bad = FakeMember::start(guarded(&later, true)).await;
    let site = FakeSite::start_with(
        |config| config.member_at("good", good.url(), ACCOUNT).member_at("bad", bad.url(), ACCOUNT),
        // So that it is a request that finds out, not a probe.
        |text| text.replacen("interval: 500ms", "interval: 1h", 1),
    )
    .await;
    let alice = site.alice(&["repository:t/app:pull"]).await;
    // One probe before the gateway is ready and one when it is; the next comes in an hour.
    wait::until("the last probe for now", async || {
        let metrics = site.gateway.metrics().await;
        (metrics.sum("tidegate_probes_total", &["member=\"bad\""]) > 1.5).then_some(())
    })
    .await;
    later.store(true, Ordering::SeqCst);
    read_until_asked(&alice, &bad).await;
    let is_out = |line: &serde_json::Value| line["message"] == "member is out" && line["member"] == "bad";
    let line = site.gateway.wait_for_log("the member is out", is_out).await;
    assert_eq!(line["state"], "credential_fault", "{line}");
    alice.get("/v2/t/app/manifests/v1").await.is(200);
}

#[tokio::test]
async fn a_member_that_refuses_the_target_is_our_own_insufficient_scope() {
    let always = Arc::new(AtomicBool::new(true));
    let member = FakeMember::start(guarded(&always, false)).await;
    let site =
        FakeSite::start_with(|config| config.member_at("only", member.url(), ACCOUNT), str::to_owned).await;
    let alice = site.alice(&[&push_scope("t/app")]).await;
    let realm = site.nobody().get("/v2/").await;
    let expected = format!(
        "{},scope=\"repository:t/app:pull\",error=\"insufficient_scope\"",
        realm.header("www-authenticate").expect("a challenge")
    );
    let answer = alice.get("/v2/t/app/manifests/v1").await;
    assert_oci_error(&answer, 401, "DENIED");
    let challenges: Vec<_> = answer.headers.get_all("www-authenticate").iter().collect();
    assert_eq!(challenges, [expected.as_str()]);
    // The member itself is well.
    assert_eq!(site.gateway.find_log(|line| line["message"] == "member is out"), None);
}

/// The right was in the token that we minted, so there is no such thing.
#[tokio::test]
async fn a_member_that_refuses_our_token_for_one_target_is_404_for_a_read() {
    let member = FakeMember::start(|request: &Recorded| {
        (!request.is_probe()).then(|| answer(401, &[("www-authenticate", "Basic realm=\"harbor\"")], "{}"))
    })
    .await;
    let credential = "{ token: { audience: harbor-registry } }";
    let site =
        FakeSite::start_with(|config| config.member_at("only", member.url(), credential), str::to_owned)
            .await;
    let alice = site.alice(&["repository:t/app:pull"]).await;
    let answer = alice.get("/v2/t/app/manifests/v1").await;
    assert_oci_error(&answer, 404, "NAME_UNKNOWN");
    assert_eq!(answer.header("www-authenticate"), None);
    assert_eq!(member.requests().len(), 2, "once more with a new token, and not again");
}
