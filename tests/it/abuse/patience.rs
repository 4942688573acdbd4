//! An upload that ends with an empty request gets the time that its member needs to put it together.

use http::Method;
use tokio::task::JoinSet;

use crate::failover::site_of;
use crate::harness::fake_member::{FakeMember, Gate, Recorded, Reply, answer};
use crate::harness::image::Blob;
use crate::harness::{push, wait};

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_ends_with_an_empty_request_has_the_time_to_finish() {
    let gate = Gate::closed();
    let behind = gate.clone();
    let member = FakeMember::start(move |request: &Recorded| match request.method.as_str() {
        _ if request.is_probe() => None,
        "POST" => Some(answer(202, &[("location", "/v2/a/b/blobs/uploads/u-1")], "")),
        "PATCH" => Some(answer(202, &[("location", "/v2/a/b/blobs/uploads/u-1"), ("range", "0-99")], "")),
        "PUT" => Some(behind.holds(answer(201, &[], ""))),
        _ => Some(Reply::Silence),
    })
    .await;
    let mut site = site_of(&[&member], |config| {
        config.extra("upstream: { head_timeout: 1s, first_byte_timeout: 1s, finish_timeout: 900s }")
    })
    .await;
    let client = site.authorized(&["repository:a/b:pull,push"]).await;
    let blob = Blob::random(100);
    let location = push::start(&client, "a/b").await;
    let chunk = client.patch(&location, blob.bytes.clone()).await.is(202);
    let finish = push::end_of(&chunk.location(), &blob.digest);
    let mut tasks = JoinSet::new();
    let request = client.request(Method::PUT, &finish).empty();
    let finishing = client.clone();
    tasks.spawn(async move { finishing.send(request).await.status.as_u16() });
    wait::until("the member to have it", async || {
        member.requests().iter().any(|request| request.method == "PUT").then_some(())
    })
    .await;
    // By then the time of any other answer is over, twice.
    for _ in 0..2 {
        let silent = client.get("/v2/a/b/manifests/v1").await;
        assert_eq!(silent.status, 504, "the member says nothing to this");
    }
    assert!(tasks.try_join_next().is_none(), "the upload still has time");
    gate.open();
    assert_eq!(tasks.join_next().await.expect("a task").expect("no panic"), 201);
    site.stop_gateway().await;
}
