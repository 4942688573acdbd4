//! Rules 16 and 18: bodies are neither changed nor held back, and nobody waits longer than clients do.

use bytes::Bytes;
use http::Method;

use super::fixture::{FakeSite, bearer_of, hub, push_scope, with_parameter};
use crate::harness::client::chunked;
use crate::harness::config::ConfigBuilder;
use crate::harness::fake_member::{FakeMember, Recorded, Reply, answer};
use crate::harness::image::{Blob, digest_of};
use crate::harness::{push, wait};

#[tokio::test]
async fn rule_16_an_upload_reaches_the_member_while_it_is_being_sent() {
    let session = "/v2/t/app/blobs/uploads/session-1?_state=s";
    let member = FakeMember::start(move |request: &Recorded| {
        (request.method != "GET").then(|| answer(202, &[("location", session)], ""))
    })
    .await;
    let site = FakeSite::start(&[&member]).await;
    let alice = site.alice(&[&push_scope("t/app")]).await;
    let url = push::start(&alice, "t/app").await;
    let (chunks, body) = chunked();
    let request = alice.request(Method::PATCH, &url).body(body);
    let arrived = |bytes: usize| {
        let member = &member;
        async move {
            wait::until("a chunk at the member", async || {
                let patch = member.requests().into_iter().find(|request| request.method == "PATCH")?;
                (patch.body.len() == bytes && !patch.complete).then_some(())
            })
            .await;
        }
    };
    let steps = async {
        chunks.send(Bytes::from_static(b"first ")).await.expect("the body is read");
        arrived(6).await;
        chunks.send(Bytes::from_static(b"second")).await.expect("the body is read");
        arrived(12).await;
        drop(chunks);
    };
    let (answer, ()) = tokio::join!(alice.send(request), steps);
    answer.is(202);
    let patch = member.requests().pop().expect("the PATCH");
    assert_eq!((&patch.body[..], patch.complete), (&b"first second"[..], true));
    assert_eq!(patch.header("transfer-encoding").as_deref(), Some("chunked"), "no length was given");
}

#[tokio::test]
async fn rule_16_large_bodies_of_unknown_length_arrive_unchanged_both_ways() {
    let hub = hub().await;
    let blob = Blob::random(24 << 20);
    let bob = hub.bob(&[&push_scope("bob/large")]).await;
    let url = push::start(&bob, "bob/large").await;
    let (chunks, body) = chunked();
    let request = bob.request(Method::PATCH, &url).body(body);
    let feed = async {
        for chunk in blob.bytes.chunks(100_000) {
            chunks.send(Bytes::copy_from_slice(chunk)).await.expect("the body is read");
        }
        drop(chunks);
    };
    let (answer, ()) = tokio::join!(bob.send(request), feed);
    let answer = answer.is(202);
    assert_eq!(answer.header("range"), Some(format!("0-{}", blob.bytes.len() - 1).as_str()));
    let put = with_parameter(&answer.location(), "digest", &blob.digest);
    // A finished upload: the member has the very bytes.
    bob.put(&put, "application/octet-stream", "").await.is(201);
    let answer = bob.get(&format!("/v2/bob/large/blobs/{}", blob.digest)).await;
    assert!(answer.body[..] == blob.bytes[..], "other bytes came back");
}

#[tokio::test]
async fn rule_16_nothing_is_compressed_whatever_the_client_would_take() {
    let hub = hub().await;
    let blob = Blob::new(vec![b'a'; 200_000]);
    let bob = hub.bob(&[&push_scope("bob/plain")]).await;
    push::blob(&bob, "bob/plain", &blob).await;
    let bearer = bearer_of(&bob);
    let target = format!("/v2/bob/plain/blobs/{}", blob.digest);
    for encodings in ["zstd,gzip,deflate", "gzip", "br;q=1.0, *;q=0.1"] {
        let headers = [("authorization", bearer.as_str()), ("accept-encoding", encodings)];
        let answer = hub.send(Method::GET, &target, &headers).await.is(200);
        assert_eq!(
            (answer.header("content-encoding"), answer.header("content-length")),
            (None, Some("200000"))
        );
        assert!(answer.body[..] == blob.bytes[..], "{encodings}: other bytes");
    }
    // Nor is the member asked for it.
    let member = FakeMember::start(|_: &Recorded| Some(answer(200, &[], "{}"))).await;
    let site = FakeSite::start(&[&member]).await;
    let alice = site.alice(&["repository:t/app:pull"]).await;
    let request = alice.request(Method::GET, "/v2/t/app/manifests/v1").header("accept-encoding", "zstd,gzip");
    alice.send(request.empty()).await;
    assert_eq!(member.requests()[0].header("accept-encoding").as_deref(), Some("identity"));
}

#[tokio::test]
async fn rule_18_a_silent_member_costs_the_time_to_a_first_byte_and_no_answer() {
    let silent = FakeMember::start(silence).await;
    let good = FakeMember::start(|_: &Recorded| Some(answer(200, &[], "{}"))).await;
    let site = FakeSite::start_with(
        |config| {
            // By its weight the silent member is asked first.
            let config = config.member_at("silent", silent.url(), "none, weight: 100");
            let config = config.member_at("good", good.url(), "none");
            config.extra("upstream: { first_byte_timeout: 1s, head_timeout: 1h }")
        },
        str::to_owned,
    )
    .await;
    let alice = site.alice(&["repository:t/app:pull"]).await;
    alice.get("/v2/t/app/manifests/v1").await.is(200);
    wait::until("the request at the silent member", async || (!silent.requests().is_empty()).then_some(()))
        .await;
}

fn silence(request: &Recorded) -> Option<Reply> {
    (!request.is_probe()).then_some(Reply::Silence)
}

/// A gateway in front of two silent members, which waits for their answers for `head_timeout`.
async fn in_front_of_silence(members: &[FakeMember; 2], head_timeout: &str) -> FakeSite {
    let add = |config: ConfigBuilder| {
        let config = config.member_at("fake0", members[0].url(), "none");
        let config = config.member_at("fake1", members[1].url(), "none");
        config.extra(&format!("upstream: {{ first_byte_timeout: 1h, head_timeout: {head_timeout} }}"))
    };
    FakeSite::start_with(add, str::to_owned).await
}

#[tokio::test]
async fn rule_18_silent_members_are_504_after_the_head_timeout() {
    let members = [FakeMember::start(silence).await, FakeMember::start(silence).await];
    let site = in_front_of_silence(&members, "1s").await;
    let alice = site.alice(&[&push_scope("t/app")]).await;
    let blob = format!("/v2/t/app/blobs/{}", digest_of(b"x"));
    let (read, start, put) = tokio::join!(
        alice.get(&blob),
        alice.post("/v2/t/app/blobs/uploads/", ""),
        alice.put("/v2/t/app/manifests/v1", "text/plain", "x"),
    );
    for answer in [read, start, put] {
        super::fixture::assert_oci_error(&answer, 504, "UNAVAILABLE");
    }
}

#[tokio::test]
async fn rule_18_tokens_do_not_wait_for_silent_members() {
    let members = [FakeMember::start(silence).await, FakeMember::start(silence).await];
    let site = in_front_of_silence(&members, "1h").await;
    let alice = site.alice(&[&push_scope("t/app")]).await;
    let login = async {
        wait::until("a read that waits", async || {
            members.iter().any(|member| !member.requests().is_empty()).then_some(())
        })
        .await;
        let anybody = alice.clone().without_credentials();
        anybody.get("/v2/").await.is(401);
        site.alice(&["repository:t/app:pull"]).await;
    };
    tokio::select! {
        answer = alice.get("/v2/t/app/manifests/v1") => panic!("nobody answered {answer:?}"),
        () = login => {}
    }
}
