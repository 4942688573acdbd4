//! Rule 13, the other side: an upload session's URL is good for its session, repository, subject and time, and for no other member.

use super::fixture::{FakeSite, assert_oci_error, hub, push_scope, with_parameter};
use crate::harness::client::TestClient;
use crate::harness::image::digest_of;
use crate::harness::registry::StockRegistry;
use crate::harness::site::{MemberKind, Site};
use crate::harness::{push, wait};

/// The session's URL with another value of one parameter.
fn with_changed(url: &str, name: &str, change: impl Fn(&str) -> String) -> String {
    let (path, query) = url.split_once('?').expect("a query");
    let pair = |pair: &str| match pair.split_once('=') {
        Some((key, value)) if key == name => format!("{key}={}", change(value)),
        _ => pair.to_owned(),
    };
    format!("{path}?{}", query.split('&').map(pair).collect::<Vec<_>>().join("&"))
}

/// The same text with another character at `at`.
fn flipped(text: &str, at: usize) -> String {
    let mut bytes = text.as_bytes().to_vec();
    bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
    String::from_utf8(bytes).expect("ASCII")
}

fn pin_length(url: &str) -> usize {
    url.split_once("_tg=").expect("a pin").1.split('&').next().expect("a value").len()
}

/// Insists that every way of using `url` is refused with this error.
async fn assert_refused(client: &TestClient, url: &str, status: u16, code: &str) {
    let put = with_parameter(url, "digest", &digest_of(b""));
    for answer in [
        client.patch(url, vec![1; 10]).await,
        client.get(url).await,
        client.put(&put, "application/octet-stream", "").await,
        client.delete(url).await,
    ] {
        assert_oci_error(&answer, status, code);
    }
}

/// Insists that the session lives and is at the beginning still, then ends it.
async fn assert_untouched(client: &TestClient, url: &str) {
    let answer = client.get(url).await.is(204);
    assert_eq!(answer.header("range"), Some("0-0"), "somebody has written to the session");
    client.delete(&answer.location()).await.is(204);
}

#[tokio::test]
async fn a_pin_with_a_changed_byte_or_without_its_value_is_refused_and_reaches_nobody() {
    let hub = hub().await;
    let bob = hub.bob(&[&push_scope("bob/pin-changed")]).await;
    let url = push::start(&bob, "bob/pin-changed").await;
    let length = pin_length(&url);
    for at in [0, 1, length / 2, length - 2] {
        let changed = with_changed(&url, "_tg", |pin| flipped(pin, at));
        assert_refused(&bob, &changed, 400, "BLOB_UPLOAD_INVALID").await;
    }
    for changed in [
        with_changed(&url, "_tg", |_| String::new()),
        with_changed(&url, "_tg", |pin| pin[..length - 1].to_owned()),
        with_changed(&url, "_tg", |pin| format!("{pin}A")),
        url.replace("_tg=", "_other="),
    ] {
        assert_refused(&bob, &changed, 400, "BLOB_UPLOAD_INVALID").await;
    }
    assert_untouched(&bob, &url).await;
    assert_eq!(methods_of(&hub.members_asked("bob/pin-changed/")), ["POST", "GET", "DELETE"]);
}

#[tokio::test]
async fn a_pin_of_another_repository_or_session_is_refused_and_reaches_nobody() {
    let hub = hub().await;
    let (here, there) = (push_scope("bob/pin-here"), push_scope("bob/pin-there"));
    let bob = hub.bob(&[&here, &there]).await;
    let url = push::start(&bob, "bob/pin-here").await;
    let other = push::start(&bob, "bob/pin-here").await;
    assert_refused(&bob, &url.replace("bob/pin-here", "bob/pin-there"), 400, "BLOB_UPLOAD_INVALID").await;
    let (path, _) = url.split_once('?').expect("a query");
    let (_, query_of_other) = other.split_once('?').expect("a query");
    assert_refused(&bob, &format!("{path}?{query_of_other}"), 400, "BLOB_UPLOAD_INVALID").await;
    assert_untouched(&bob, &url).await;
    assert_untouched(&bob, &other).await;
    assert_eq!(hub.members_asked("bob/pin-there/"), []);
    let asked = hub.members_asked("bob/pin-here/");
    let mut methods = methods_of(&asked);
    methods.sort_unstable();
    assert_eq!(methods, ["DELETE", "DELETE", "GET", "GET", "POST", "POST"]);
}

#[tokio::test]
async fn a_pin_of_another_subject_is_refused_whatever_rights_that_one_has() {
    let hub = hub().await;
    let scope = push_scope("bob/pin-subject");
    let bob = hub.bob(&[&scope]).await;
    let url = push::start(&bob, "bob/pin-subject").await;
    for other in [
        hub.alice(&[&scope, "repository:bob/pin-subject:delete"]).await,
        hub.nobody().with_basic("alice", &hub.site.endpoint.password),
    ] {
        assert_refused(&other, &url, 400, "BLOB_UPLOAD_INVALID").await;
    }
    // The same subject, by its password.
    assert_untouched(&hub.nobody().with_basic("bob", &hub.bob_password), &url).await;
    assert_eq!(methods_of(&hub.members_asked("bob/pin-subject/")), ["POST", "GET", "DELETE"]);
}

/// The member's own seal is its own affair, and its answer an OCI error already.
#[tokio::test]
async fn a_changed_state_of_the_member_is_refused_by_the_pinned_member_alone() {
    let hub = hub().await;
    let bob = hub.bob(&[&push_scope("bob/pin-state")]).await;
    let url = push::start(&bob, "bob/pin-state").await;
    let changed = with_changed(&url, "_state", |state| flipped(state, 3));
    let answer = bob.patch(&changed, vec![1; 10]).await;
    // 404 is what docker-registry says with this code.
    assert_eq!((answer.status.as_u16(), answer.error_code().as_deref()), (404, Some("BLOB_UPLOAD_INVALID")));
    let asked = hub.members_asked("bob/pin-state/");
    assert_eq!(methods_of(&asked), ["POST", "PATCH"]);
    assert_eq!(asked[0].0, asked[1].0);
}

#[tokio::test]
async fn a_session_older_than_the_grace_is_404_upload_unknown() {
    let registry = StockRegistry::builder("member0").start().await;
    let site = FakeSite::start_with(
        |config| config.member(&registry),
        |text| text.replacen("/seal }", "/seal, grace: 1s }", 1),
    )
    .await;
    let alice = site.alice(&[&push_scope("t/grace")]).await;
    let url = push::start(&alice, "t/grace").await;
    wait::until("the end of the session", async || {
        let answer = alice.get(&url).await;
        (answer.status == 404).then_some(())
    })
    .await;
    let before = registry.requests_for("t/grace").len();
    assert_refused(&alice, &url, 404, "BLOB_UPLOAD_UNKNOWN").await;
    assert_eq!(registry.requests_for("t/grace").len(), before, "an expired session reached the member");
    // A new one is to be had at once.
    push::start(&alice, "t/grace").await;
}

/// The deadline is set at the start and does not move with the answers of the session.
#[tokio::test]
async fn a_session_does_not_live_longer_by_being_used() {
    let registry = StockRegistry::builder("member0").start().await;
    let site = FakeSite::start_with(
        |config| config.member(&registry),
        |text| text.replacen("/seal }", "/seal, grace: 2s }", 1),
    )
    .await;
    let alice = site.alice(&[&push_scope("t/grace")]).await;
    let mut url = push::start(&alice, "t/grace").await;
    wait::until("the end of a session in use", async || {
        let answer = alice.patch(&url, vec![1; 10]).await;
        if answer.status == 404 {
            return Some(());
        }
        url = answer.is(202).location();
        None
    })
    .await;
}

#[tokio::test]
async fn a_session_whose_member_is_gone_is_404_upload_unknown_and_no_other_member_is_asked() {
    let mut site = Site::start(&[MemberKind::Open, MemberKind::Open]).await;
    let alice = site.authorized(&[&push_scope("t/gone")]).await;
    let url = push::start(&alice, "t/gone").await;
    let pinned = wait::until("the member that opened the session", async || {
        site.members.iter().position(|member| !member.requests_for("t/gone").is_empty())
    })
    .await;
    site.members[pinned].kill();
    // First before, and then after the probes have noticed.
    assert_refused(&alice, &url, 404, "BLOB_UPLOAD_UNKNOWN").await;
    let name = site.members[pinned].name().to_owned();
    let is_out = |line: &serde_json::Value| line["message"] == "member is out" && line["member"] == *name;
    site.gateway.wait_for_log("the member is out", is_out).await;
    assert_refused(&alice, &url, 404, "BLOB_UPLOAD_UNKNOWN").await;
    assert_eq!(site.members[1 - pinned].requests_for("t/gone"), []);
    // What a client does then.
    push::start(&alice, "t/gone").await;
}

fn methods_of(asked: &[(String, String)]) -> Vec<&str> {
    asked.iter().map(|(_, method)| method.as_str()).collect()
}
