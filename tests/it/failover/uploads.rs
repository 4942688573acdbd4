//! Members that acknowledge what they were not sent, and registries that name content otherwise without lying.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::site_of;
use crate::harness::client::TestClient;
use crate::harness::fake_member::{FakeMember, Recorded, answer};
use crate::harness::image::{Blob, Image, digest_of};
use crate::harness::push;
use crate::harness::site::{MemberKind, Site};

const SCOPE: &str = "repository:a/b:pull,push";
const OTHER: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";

/// What a member says that it took.
const RIGHT: u8 = 0;
const WRONG: u8 = 1;
const NOTHING: u8 = 2;

/// A member that takes every upload and says what the switch tells it to.
async fn member_that_says(what: &Arc<AtomicU8>) -> FakeMember {
    let what = Arc::clone(what);
    FakeMember::start(move |request: &Recorded| {
        let session = "/v2/a/b/blobs/uploads/u-1";
        let digest_of_query = request.target.split_once("digest=").map(|(_, digest)| digest.to_owned());
        let asked = digest_of_query.map(|digest| digest.replace("%3A", ":"));
        let said = |right: String| match what.load(Ordering::SeqCst) {
            RIGHT => Some(right),
            WRONG => Some(OTHER.to_owned()),
            _ => None,
        };
        let created = |right: String| {
            let said = said(right);
            let mut headers = vec![("location", "/v2/a/b/blobs/x")];
            headers.extend(said.as_deref().map(|digest| ("docker-content-digest", digest)));
            Some(answer(201, &headers, ""))
        };
        match request.method.as_str() {
            "POST" | "PUT" if asked.is_some() => created(asked.unwrap_or_default()),
            "POST" => Some(answer(202, &[("location", session), ("range", "0-0")], "")),
            "PATCH" => {
                let range = format!("0-{}", request.body.len() - 1);
                Some(answer(202, &[("location", session), ("range", &range)], ""))
            }
            "PUT" => created(digest_of(&request.body)),
            _ => None,
        }
    })
    .await
}

/// The last answers of an upload at once, one in a chunk, and a manifest.
async fn uploads(client: &TestClient, blob: &Blob, digest: &str) -> [u16; 3] {
    let whole = format!("/v2/a/b/blobs/uploads/?digest={digest}");
    let at_once = client.post(&whole, blob.bytes.clone()).await;
    let location = push::start(client, "a/b").await;
    let chunk = client.patch(&location, blob.bytes.clone());
    let chunk = chunk.await.is(202);
    let finish = push::end_of(&chunk.location(), digest);
    let finished = client.put(&finish, "application/octet-stream", "").await;
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = client.put("/v2/a/b/manifests/v1", kind, "{}").await;
    [at_once, finished, manifest].map(|answer| answer.status.as_u16())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_acknowledges_what_it_was_not_sent_is_reported_and_not_believed() {
    let what = Arc::new(AtomicU8::new(RIGHT));
    let member = member_that_says(&what).await;
    let mut site = site_of(&[&member], |config| config).await;
    let client = site.authorized(&[SCOPE]).await;
    let blob = Blob::random(20_000);
    assert_eq!(uploads(&client, &blob, &blob.digest).await, [201, 201, 201]);
    what.store(NOTHING, Ordering::SeqCst);
    assert_eq!(uploads(&client, &blob, &blob.digest).await, [201, 201, 201], "it says nothing wrong");
    let faults = async |site: &Site| {
        let metrics = site.gateway.metrics().await;
        metrics.sum("tidegate_content_faults_total", &["member=\"m0\"", "direction=\"upload\""])
    };
    assert!(faults(&site).await < 0.5);
    what.store(WRONG, Ordering::SeqCst);
    assert_eq!(uploads(&client, &blob, &blob.digest).await, [504, 504, 504]);
    assert!((faults(&site).await - 3.0).abs() < 0.5);
    let said = |line: &serde_json::Value| {
        let text = line["message"].as_str().unwrap_or_default();
        text.contains("acknowledged an upload") && line["acknowledged"] == OTHER && line["member"] == "m0"
    };
    site.gateway.wait_for_log("the report", said).await;
    // It takes the digest that it was told for bytes that have another one.
    what.store(RIGHT, Ordering::SeqCst);
    assert_eq!(uploads(&client, &blob, OTHER).await, [504, 504, 201]);
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_answers_a_sha512_push_with_its_own_sha256_does_not_lie() {
    let mut site = Site::start(&[MemberKind::Open]).await;
    let client = site.authorized(&[SCOPE]).await;
    let blob = Blob::random(30_000);
    let sha512 = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA512, &blob.bytes);
    let digest = format!("sha512:{}", data_encoding::HEXLOWER.encode(sha512.as_ref()));
    let location = push::start(&client, "a/b").await;
    let finished = push::finish(&client, &location, &digest, blob.bytes.clone()).await;
    assert_eq!(finished.header("docker-content-digest"), Some(blob.digest.as_str()));
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_is_too_large_is_refused_with_the_bound() {
    let mut site = Site::start_with(&[MemberKind::Open], |config| {
        config.extra("upstream: { manifest_bytes_max: 64KiB }")
    })
    .await;
    let client = site.authorized(&[SCOPE]).await;
    let manifest = vec![b' '; 70_000];
    let image = Image::random(&[100]);
    let refused = client.put("/v2/a/b/manifests/v1", image.manifest_type(), manifest.clone()).await;
    assert_eq!((refused.status.as_u16(), refused.error_code().as_deref()), (413, Some("SIZE_INVALID")));
    assert!(refused.text().contains("65536"), "{}", refused.text());
    assert!(site.members[0].requests_for("a/b").is_empty());
    site.stop_gateway().await;
}
