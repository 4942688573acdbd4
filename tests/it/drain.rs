//! Drain of a member: no new work, running uploads to their end, progress to be seen, and back again.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::harness::client::{Answer, TestClient};
use crate::harness::gateway::{Gateway, tidegate};
use crate::harness::image::Blob;
use crate::harness::process::Daemon;
use crate::harness::site::{MemberKind, Site};
use crate::harness::{push, wait};

const BOTH: [MemberKind; 2] = [MemberKind::Open, MemberKind::Open];

/// What a member's entry of `/status` says.
async fn status_of(gateway: &Gateway, member: &str) -> Value {
    let status = gateway.status().await;
    let members = status["pools"][0]["members"].as_array().expect("members").clone();
    members.into_iter().find(|entry| entry["name"] == member).expect("the member")
}

async fn start_upload(client: &TestClient, repository: &str) -> Answer {
    client.post(&format!("/v2/{repository}/blobs/uploads/"), "").await.is(202)
}

/// Starts uploads until one is at `member`, and cancels the others.
pub(crate) async fn upload_at(site: &Site, client: &TestClient, member: &str) -> String {
    for number in 0..12 {
        let started = start_upload(client, &format!("a/b{number}")).await;
        if site.gateway.served_by(&started).await == member {
            return started.location();
        }
        client.delete(&started.location()).await.is(204);
    }
    panic!("no repository prefers {member}");
}

/// The client of a user with the right to push to each of the repositories here.
pub(crate) async fn client_of(site: &Site) -> TestClient {
    let scopes: Vec<String> = (0..12).map(|number| format!("repository:a/b{number}:pull,push")).collect();
    site.authorized(&scopes.iter().map(String::as_str).collect::<Vec<_>>()).await
}

/// The members that serve reads, upload starts and manifest PUTs, of which there are many.
async fn members_of_new_work(site: &Site, client: &TestClient) -> BTreeSet<String> {
    let mut members = BTreeSet::new();
    for number in 0..12 {
        // Which member a repository's writes prefer follows from its name.
        let repository = format!("a/b{number}");
        let read = client.get(&format!("/v2/{repository}/tags/list")).await;
        let put = format!("/v2/{repository}/manifests/t");
        let put = client.put(&put, "application/vnd.oci.image.manifest.v1+json", "{}").await;
        let started = start_upload(client, &repository).await;
        for answer in [&read, &put, &started] {
            members.insert(site.gateway.served_by(answer).await);
        }
        client.delete(&started.location()).await.is(204);
    }
    members
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_member_gets_no_new_work_while_its_uploads_go_on_to_their_end() {
    let mut site = Site::start(&BOTH).await;
    let client = client_of(&site).await;
    assert_eq!(members_of_new_work(&site, &client).await.len(), 2, "both members work");
    let upload = upload_at(&site, &client, "member0").await;
    assert_eq!(status_of(&site.gateway, "member0").await["open_uploads"], 1);

    let drained = site.gateway.control(&["drain", "member0"]).await;
    assert!(drained.status.success(), "{}", drained.stderr);
    assert!(drained.stdout.contains("member0 is draining"), "{}", drained.stdout);
    assert!(drained.stdout.contains("1 open upload sessions"), "{}", drained.stdout);
    assert_eq!(members_of_new_work(&site, &client).await, BTreeSet::from(["member1".to_owned()]));
    let status = status_of(&site.gateway, "member0").await;
    assert_eq!((&status["draining"], &status["state"]), (&Value::Bool(true), &Value::from("healthy")));
    let metrics = site.gateway.metrics().await;
    assert!((metrics.sum("tidegate_member_draining", &["member=\"member0\""]) - 1.0).abs() < f64::EPSILON);

    // Somebody waits for the end of the drain while the upload goes on.
    let mut waiting = tidegate(&["drain", "member0", "--wait", "--config"]);
    waiting.arg(site.dir().join("tidegate.yaml"));
    let logs = tempfile::tempdir().expect("a directory");
    let mut waiting = Daemon::start("drain", waiting, logs.path());
    wait::until("the drain's progress", async || waiting.stdout().contains("1 open").then_some(())).await;
    let blob = Blob::random(100_000);
    let half = blob.bytes.len() / 2;
    let patched = client.patch(&upload, blob.bytes[..half].to_vec()).await.is(202);
    assert_eq!(site.gateway.served_by(&patched).await, "member0");
    assert!(waiting.exit_status().is_none(), "the session has not ended");
    let rest = blob.bytes[half..].to_vec();
    let finished = push::finish(&client, &patched.location(), &blob.digest, rest).await;
    assert_eq!(site.gateway.served_by(&finished).await, "member0");
    assert!(waiting.wait_exit().await.success(), "{}", waiting.output_tail());
    assert!(waiting.stdout().contains("nothing is left there"), "{}", waiting.stdout());

    let undrained = site.gateway.control(&["undrain", "member0"]).await;
    assert!(undrained.status.success(), "{}", undrained.stderr);
    assert_eq!(members_of_new_work(&site, &client).await.len(), 2, "both members work again");
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_member_that_serves_is_drained_by_force_alone_and_unknown_names_are_listed() {
    let mut site = Site::start(&BOTH).await;
    let unknown = site.gateway.control(&["drain", "member7"]).await;
    assert_eq!(unknown.status.code(), Some(1));
    assert!(unknown.stderr.contains("member0, member1"), "{}", unknown.stderr);
    assert!(site.gateway.control(&["drain", "member0"]).await.status.success());
    let refused = site.gateway.control(&["drain", "member1"]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stderr.contains("the last member of pool main that serves"), "{}", refused.stderr);
    assert_eq!(status_of(&site.gateway, "member1").await["draining"], false);
    // Force is for those who know; nobody is turned away while a member lives.
    assert!(site.gateway.control(&["drain", "member1", "--force"]).await.status.success());
    let client = site.authorized(&["repository:a/b:pull"]).await;
    client.get("/v2/a/b/tags/list").await.is(404);
    site.stop_gateway().await;
}
