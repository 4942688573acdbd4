//! Rules 10 and 11: mounts that may not be, or cannot be, become plain uploads, which every client copes with.

use super::fixture::{FakeSite, assert_oci_error, hub, push_scope, with_parameter};
use crate::harness::client::TestClient;
use crate::harness::fake_member::{FakeMember, answer};
use crate::harness::image::{Blob, digest_of};
use crate::harness::push;

fn mount_target(repository: &str, digest: &str, from: &str) -> String {
    format!("/v2/{repository}/blobs/uploads/?mount={digest}&from={from}")
}

/// Insists on an upload session that works to its end.
async fn assert_plain_upload(client: &TestClient, target: &str, blob: &Blob) {
    let answer = client.post(target, "").await.is(202);
    let put = with_parameter(&answer.location(), "digest", &blob.digest);
    client.put(&put, "application/octet-stream", blob.bytes.clone()).await.is(201);
}

#[tokio::test]
async fn rule_10_mount_from_an_unreadable_source_is_202_and_leaks_nothing() {
    let hub = hub().await;
    let secret = Blob::random(5000);
    push::blob(&hub.alice(&[&push_scope("alice/mount10")]).await, "alice/mount10", &secret).await;
    // Not granted by the policy, though asked for; and not in the token, though granted.
    let target = mount_target("bob/mount10", &secret.digest, "alice/mount10");
    let bob = hub.bob(&[&push_scope("bob/mount10"), "repository:alice/mount10:pull"]).await;
    let answer = bob.post(&target, "").await.is(202);
    assert!(answer.location().starts_with("/v2/bob/mount10/blobs/uploads/"), "{answer:?}");
    let answer = bob.head(&format!("/v2/bob/mount10/blobs/{}", secret.digest)).await;
    assert_eq!(answer.status, 404, "the blob was mounted all the same");
    let narrow = hub.alice(&[&push_scope("alice/mount10-other")]).await;
    let target_of_alice = mount_target("alice/mount10-other", &secret.digest, "alice/mount10");
    narrow.post(&target_of_alice, "").await.is(202);
    // No member was asked for the mount at all.
    for member in &hub.site.members {
        for request in
            member.requests_for("bob/mount10").iter().chain(&member.requests_for("alice/mount10-other"))
        {
            assert!(!request.target.contains("from=") && !request.target.contains("mount="), "{request:?}");
        }
    }
    assert_plain_upload(&bob, &target, &secret).await;
}

#[tokio::test]
async fn rule_10_mount_from_a_readable_source_is_201() {
    let hub = hub().await;
    let blob = Blob::random(5000);
    push::blob(&hub.alice(&[&push_scope("shared/mount10")]).await, "shared/mount10", &blob).await;
    let bob = hub.bob(&[&push_scope("bob/mount201"), "repository:shared/mount10:pull"]).await;
    // More often than there are members, so that every kind of member mounts.
    for number in 0..6 {
        let repository = format!("bob/mount201/{number}");
        let scopes = [push_scope(&repository), "repository:shared/mount10:pull".to_owned()];
        let bob = hub.bob(&scopes.each_ref().map(String::as_str)).await;
        let answer = bob.post(&mount_target(&repository, &blob.digest, "shared/mount10"), "").await.is(201);
        assert_eq!(answer.location(), format!("/v2/{repository}/blobs/{}", blob.digest));
        assert_eq!(answer.header("docker-content-digest"), Some(blob.digest.as_str()));
        let pulled = bob.get(&answer.location()).await.is(200);
        assert_eq!(&pulled.body[..], &blob.bytes[..]);
    }
    // By a password, whose rights are the policy's.
    let by_password = hub.nobody().with_basic("bob", &hub.bob_password);
    by_password.post(&mount_target("bob/mount201", &blob.digest, "shared/mount10"), "").await.is(201);
    drop(bob);
}

#[tokio::test]
async fn rule_10_without_the_right_to_the_target_a_mount_is_401_with_both_scopes() {
    let hub = hub().await;
    let bob = hub.bob(&[]).await;
    let target = mount_target("bob/mount-401", &digest_of(b"x"), "shared/x");
    let answer = bob.post(&target, "").await;
    assert_oci_error(&answer, 401, "DENIED");
    let challenge = answer.header("www-authenticate").expect("a challenge");
    let expected =
        "scope=\"repository:bob/mount-401:pull,push repository:shared/x:pull\",error=\"insufficient_scope\"";
    assert!(challenge.ends_with(expected), "{challenge}");
}

#[tokio::test]
async fn rule_11_mount_of_a_blob_that_is_not_there_is_202() {
    let hub = hub().await;
    let bob = hub.bob(&[&push_scope("bob/mount11"), "repository:shared/none:pull"]).await;
    for _ in 0..6 {
        let blob = Blob::random(100);
        assert_plain_upload(&bob, &mount_target("bob/mount11", &blob.digest, "shared/none"), &blob).await;
    }
}

#[tokio::test]
async fn rule_11_mount_without_from_is_202() {
    let hub = hub().await;
    let blob = Blob::random(100);
    let alice = hub.alice(&[&push_scope("alice/mount11")]).await;
    push::blob(&alice, "alice/mount11", &blob).await;
    // Not even where the blob is in reach: whose it is, nobody said.
    assert_plain_upload(&alice, &format!("/v2/alice/mount11/blobs/uploads/?mount={}", blob.digest), &blob)
        .await;
}

#[tokio::test]
async fn rule_11_mount_from_another_pool_is_202() {
    let uploads = |repository: &'static str| {
        move |request: &crate::harness::fake_member::Recorded| {
            let session = format!("/v2/{repository}/blobs/uploads/session-1?_state=x");
            (request.method == "POST").then(|| answer(202, &[("location", &session)], ""))
        }
    };
    let here = FakeMember::start(uploads("here/app")).await;
    let there = FakeMember::start(|_| Some(answer(200, &[], "{}"))).await;
    let second = format!(
        "  - name: there\n    credential: none\n    members: [{{ name: there0, url: \"{}\" }}]\nroutes:\n  - {{ repository: \"there/**\", pool: there }}",
        there.url()
    );
    let site = FakeSite::start_with(
        |config| config.member_at("here0", here.url(), "none"),
        |text| text.replacen("routes:", &second, 1),
    )
    .await;
    let alice = site.alice(&[&push_scope("here/app"), "repository:there/app:pull"]).await;
    let target = mount_target("here/app", &digest_of(b"x"), "there/app");
    alice.post(&target, "").await.is(202);
    let asked: Vec<_> = here.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(asked, ["/v2/here/app/blobs/uploads/"], "the other pool's repository is not named here");
    assert!(there.requests().is_empty());
}
