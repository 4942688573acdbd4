//! Rules 12 to 14: the URL of an upload session, the one member behind it, its cancel, and reading one's own writes.

use std::collections::BTreeSet;

use http::Method;

use super::fixture::{FakeSite, bearer_of, hub, push_scope, with_parameter};
use crate::harness::client::{Answer, TestClient};
use crate::harness::fake_member::{FakeMember, Recorded, answer};
use crate::harness::image::{Blob, Image};
use crate::harness::{push, wait};

const OCTETS: &str = "application/octet-stream";

/// The names of the query parameters of a session's URL.
fn parameters(location: &str) -> Vec<(String, String)> {
    let query = location.split_once('?').expect("a query").1;
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

/// The session's URL as docker's client makes it: parameters sorted, encoded anew, and one more.
fn reencoded(location: &str, digest: &str) -> String {
    let (path, _) = location.split_once('?').expect("a query");
    let mut all = parameters(location);
    all.push(("digest".to_owned(), digest.to_owned()));
    all.sort();
    format!("{path}?{}", form_urlencoded::Serializer::new(String::new()).extend_pairs(all).finish())
}

fn session_id(location: &str) -> String {
    let path = location.split('?').next().expect("a path");
    path.rsplit('/').next().expect("an id").to_owned()
}

#[track_caller]
fn assert_session_url(answer: &Answer, repository: &str) -> String {
    let url = answer.location();
    assert!(url.starts_with(&format!("/v2/{repository}/blobs/uploads/")), "not relative: {url}");
    let names: Vec<_> = parameters(&url).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["_state", "_tg"], "{url}");
    assert_eq!(answer.header("docker-upload-uuid"), Some(session_id(&url).as_str()));
    url
}

#[tokio::test]
async fn rule_12_location_is_relative_keeps_the_state_and_may_be_reencoded() {
    let hub = hub().await;
    let blob = Blob::random(10_000);
    let bob = hub.bob(&[&push_scope("bob/location")]).await;
    for _ in 0..6 {
        let answer = bob.post("/v2/bob/location/blobs/uploads/", "").await;
        let url = assert_session_url(&answer.is(202), "bob/location");
        let answer = bob.patch(&url, blob.bytes[..4000].to_vec()).await;
        let url = assert_session_url(&answer.is(202), "bob/location");
        let put = reencoded(&url, &blob.digest);
        let answer = bob.put(&put, OCTETS, blob.bytes[4000..].to_vec()).await.is(201);
        assert_eq!(answer.location(), format!("/v2/bob/location/blobs/{}", blob.digest));
        assert_eq!(answer.header("docker-content-digest"), Some(blob.digest.as_str()));
        bob.get(&answer.location()).await.is(200);
    }
}

#[tokio::test]
async fn rule_12_forwarding_headers_of_a_client_do_not_move_the_location() {
    let hub = hub().await;
    let bearer = bearer_of(&hub.bob(&[&push_scope("bob/forwarded")]).await);
    for _ in 0..6 {
        let headers = [
            ("authorization", bearer.as_str()),
            ("forwarded", "host=evil.example.com;proto=http"),
            ("x-forwarded-host", "evil.example.com"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-port", "80"),
            ("x-forwarded-prefix", "/evil"),
        ];
        let answer = hub.send(Method::POST, "/v2/bob/forwarded/blobs/uploads/", &headers).await;
        assert_session_url(&answer.is(202), "bob/forwarded");
    }
}

/// One whole session in pieces, with looks at its state in between. Returns its id.
async fn chunked_session(client: &TestClient, repository: &str, blob: &Blob) -> String {
    let mut url = push::start(client, repository).await;
    let id = session_id(&url);
    let third = blob.bytes.len() / 3;
    for (at, end) in [(0, third), (third, 2 * third)] {
        let answer = client.patch(&url, blob.bytes[at..end].to_vec()).await.is(202);
        assert_eq!(answer.header("range"), Some(format!("0-{}", end - 1).as_str()));
        url = assert_session_url(&answer, repository);
        let answer = client.get(&url).await.is(204);
        assert_eq!(answer.header("range"), Some(format!("0-{}", end - 1).as_str()));
        url = assert_session_url(&answer, repository);
    }
    let put = with_parameter(&url, "digest", &blob.digest);
    client.put(&put, OCTETS, blob.bytes[2 * third..].to_vec()).await.is(201);
    id
}

#[tokio::test]
async fn rule_13_all_requests_of_a_session_go_to_the_member_that_opened_it() {
    let hub = hub().await;
    let bob = hub.bob(&[&push_scope("bob/pinned")]).await;
    let blob = Blob::random(9000);
    let sessions = futures_util::future::join_all((0..12).map(async |_| {
        let id = chunked_session(&bob, "bob/pinned", &blob).await;
        // Its member's log line may come a moment after the answer.
        let asked = wait::try_until(async || {
            let asked = hub.members_asked(&id);
            (asked.len() >= 5).then_some(asked)
        });
        asked.await.expect("the session in a member's log")
    }));
    let mut used = BTreeSet::new();
    for asked in sessions.await {
        let methods: Vec<_> = asked.iter().map(|(_, method)| method.as_str()).collect();
        assert_eq!(methods, ["PATCH", "GET", "PATCH", "GET", "PUT"]);
        let members: BTreeSet<_> = asked.into_iter().map(|(member, _)| member).collect();
        assert_eq!(members.len(), 1, "one session, two members: {members:?}");
        used.extend(members);
    }
    assert!(used.len() > 1, "all sessions were at {used:?}, which proves nothing");
}

#[tokio::test]
async fn rule_13_a_session_is_cancelled_by_its_subject_without_the_delete_right() {
    let hub = hub().await;
    // Bob has no right to delete anything, and the member with tokens asks for one.
    // Which member a repository's uploads prefer follows from its name.
    let repositories: Vec<String> = (0..12).map(|number| format!("bob/c{number}")).collect();
    let scopes: Vec<String> = repositories.iter().map(|repository| push_scope(repository)).collect();
    let bob = hub.bob(&scopes.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut asked = BTreeSet::new();
    for repository in &repositories {
        let url = push::start(&bob, repository).await;
        let answer = bob.patch(&url, vec![0; 100]).await.is(202);
        let url = answer.location();
        let answer = bob.delete(&url).await.is(204);
        assert!(answer.body.is_empty());
        let answer = bob.get(&url).await;
        let seen = (answer.status.as_u16(), answer.error_code());
        assert_eq!(seen, (404, Some("BLOB_UPLOAD_UNKNOWN".to_owned())), "the member still has it");
        asked.extend(hub.members_asked(repository).into_iter().map(|(member, _)| member));
        if asked.len() == 3 {
            break;
        }
    }
    assert_eq!(asked.len(), 3, "not every kind of member had a session: {asked:?}");
}

/// A member that opens sessions and refuses to cancel them with `status`.
fn refuses_cancel(
    status: u16,
) -> impl Fn(&Recorded) -> Option<crate::harness::fake_member::Reply> + Send + Sync {
    move |request| match request.method.as_str() {
        "POST" => Some(answer(202, &[("location", "/v2/t/app/blobs/uploads/session-1?_state=s")], "")),
        "DELETE" => {
            let challenge = [("www-authenticate", "Basic realm=\"member\"")];
            Some(answer(status, &challenge, r#"{"errors":[{"code":"DENIED","message":"no"}]}"#))
        }
        _ => None,
    }
}

#[tokio::test]
async fn rule_13_a_cancel_that_the_member_refuses_is_204_all_the_same() {
    for status in [401, 403, 405] {
        let member = FakeMember::start(refuses_cancel(status)).await;
        let site = FakeSite::start(&[&member]).await;
        let alice = site.alice(&[&push_scope("t/app")]).await;
        let url = push::start(&alice, "t/app").await;
        let answer = alice.delete(&url).await;
        assert_eq!(answer.status, 204, "the member said {status}: {}", answer.text());
        assert_eq!((answer.header("www-authenticate"), answer.body.len()), (None, 0), "{status}");
    }
}

#[tokio::test]
async fn rule_14_what_was_just_written_is_there_at_once() {
    let hub = hub().await;
    let bob = hub.bob(&[&push_scope("bob/own-writes")]).await;
    for number in 0..12 {
        let image = Image::random(&[500]);
        for blob in image.blobs() {
            push::blob(&bob, "bob/own-writes", blob).await;
            let answer = bob.head(&format!("/v2/bob/own-writes/blobs/{}", blob.digest)).await.is(200);
            assert_eq!(answer.header("content-length"), Some(blob.bytes.len().to_string().as_str()));
        }
        // The blobs of this manifest are all there.
        let answer = push::manifest(&bob, "bob/own-writes", &format!("v{number}"), &image).await;
        assert_eq!(answer.location(), format!("/v2/bob/own-writes/manifests/{}", image.manifest.digest));
        for reference in [format!("v{number}"), image.manifest.digest.clone()] {
            let request = bob.request(Method::GET, &format!("/v2/bob/own-writes/manifests/{reference}"));
            let request = request.header("accept", image.manifest_type()).empty();
            let answer = bob.send(request).await.is(200);
            assert_eq!(&answer.body[..], &image.manifest.bytes[..]);
        }
    }
}
