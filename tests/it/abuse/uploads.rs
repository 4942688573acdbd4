//! Uploads are verified to their end, however many were begun and given up before.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::failover::site_of;
use crate::harness::fake_member::{FakeMember, Recorded, answer};
use crate::harness::image::Blob;
use crate::harness::push;

const TRACKED_MAX: usize = 4;

/// A member that opens sessions and takes everything for what it is told.
async fn credulous_member() -> FakeMember {
    let number = Arc::new(AtomicUsize::new(0));
    FakeMember::start(move |request: &Recorded| {
        let path = request.target.split('?').next().unwrap_or_default().to_owned();
        match request.method.as_str() {
            "POST" => {
                let session = format!("/v2/a/b/blobs/uploads/u-{}", number.fetch_add(1, Ordering::SeqCst));
                Some(answer(202, &[("location", &session), ("range", "0-0")], ""))
            }
            "PATCH" => {
                let range = format!("0-{}", request.body.len() - 1);
                Some(answer(202, &[("location", &path), ("range", &range)], ""))
            }
            "PUT" if path.ends_with("u-gone") => Some(answer(404, &[], "")),
            "PUT" => Some(answer(201, &[], "")),
            "DELETE" => Some(answer(204, &[], "")),
            _ => None,
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_sessions_leave_the_next_upload_verified_and_too_many_open_ones_are_counted() {
    let member = credulous_member().await;
    let mut site = site_of(&[&member], |config| config.uploads(&format!("tracked_max: {TRACKED_MAX}"))).await;
    let client = site.authorized(&["repository:a/b:pull,push"]).await;
    let evicted = async || {
        let metrics = site.gateway.metrics().await;
        metrics.sum("tidegate_upload_hashes_evicted_total", &[])
    };
    let (blob, other) = (Blob::random(1000), Blob::random(10).digest);
    let upload_as = async |digest: &str| {
        let location = push::start(&client, "a/b").await;
        let chunk = client.patch(&location, blob.bytes.clone()).await.is(202);
        let finish = push::end_of(&chunk.location(), digest);
        client.put(&finish, "application/octet-stream", "").await.status.as_u16()
    };
    for _ in 0..5 * TRACKED_MAX {
        let location = push::start(&client, "a/b").await;
        client.delete(&location).await.is(204);
    }
    assert_eq!(upload_as(&other).await, 504, "the member took something else");
    assert_eq!(upload_as(&blob.digest).await, 201);
    assert!(evicted().await < 0.5, "nothing was forgotten that was open");
    // Left open, they push each other out, which is counted and said; what comes now is still verified.
    for _ in 0..3 * TRACKED_MAX {
        push::start(&client, "a/b").await;
    }
    assert_eq!(upload_as(&other).await, 504);
    site.gateway.wait_for_metric("tidegate_upload_hashes_evicted_total", &[], 1.0).await;
    let said = |line: &serde_json::Value| {
        line["message"].as_str().is_some_and(|text| text.contains("uploads.tracked_max"))
    };
    site.gateway.wait_for_log("the warning", said).await;
    site.stop_gateway().await;
}
