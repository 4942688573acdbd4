//! Uploads on one node and across two: recordings 100-119b, 160-165, 170-178.

use bytes::Bytes;
use data_encoding::BASE64URL;

use super::case::Case;
use super::world::{As as _, Pair, bearer, own_node, pull_push};
use crate::harness::client::{Answer, TestClient};
use crate::harness::image::{Blob, digest_of};

/// A part of a blob, of a length as recorded.
pub(super) const PART_BYTES: usize = 1_500_386;

pub(super) fn random_bytes(length: usize) -> Bytes {
    Blob::random(length).bytes.into()
}

/// Path and query of the `Location`, after a look at its form: absolute, the session's id in it and in its own header, sealed state.
pub(super) fn session_at(id: &str, base: &str, repository: &str, answer: &Answer) -> String {
    let location = answer.header("location").unwrap_or_else(|| panic!("[{id}] no Location"));
    let uuid = answer.header("docker-upload-uuid").unwrap_or_else(|| panic!("[{id}] no upload id"));
    let start = format!("{base}/v2/{repository}/blobs/uploads/{uuid}?_state=");
    let state =
        location.strip_prefix(&start).unwrap_or_else(|| panic!("[{id}] {location} instead of {start}"));
    let state = percent_encoding::percent_decode_str(state).decode_utf8_lossy().into_owned();
    let state = BASE64URL.decode(state.as_bytes()).unwrap_or_else(|error| panic!("[{id}] {state}: {error}"));
    let sealed: serde_json::Value = serde_json::from_slice(&state[32..]).expect("JSON after a MAC");
    assert_eq!((&sealed["Name"], &sealed["UUID"]), (&repository.into(), &uuid.into()), "[{id}]");
    assert!(sealed["Offset"].is_u64() && sealed["StartedAt"].is_string(), "[{id}] {sealed}");
    location.strip_prefix(base).expect("it was there").to_owned()
}

pub(super) async fn start(id: &str, client: &TestClient, base: &str, repository: &str) -> String {
    let case = Case::post(id, client, format!("/v2/{repository}/blobs/uploads/"));
    let answer = accepted(case, "0-0").run().await;
    session_at(id, base, repository, &answer)
}

/// 202 with a session that has this much.
fn accepted(case: Case, range: &str) -> Case {
    case.status(202).of_registry().says("range", range).says("content-length", "0").lacks("content-type")
}

/// 201 with the blob's own place.
fn created(case: Case, base: &str, repository: &str, digest: &str) -> Case {
    case.status(201)
        .of_registry()
        .says("docker-content-digest", digest)
        .says("location", format!("{base}/v2/{repository}/blobs/{digest}"))
        .says("content-length", "0")
}

/// A session that the registry does not believe in. Only some of its answers have details.
fn invalid(case: Case) -> Case {
    case.code(404, "BLOB_UPLOAD_INVALID").of_registry()
}

/// 100-107, 176-178: one session on two nodes with one storage, each with its own tokens.
#[tokio::test]
async fn one_session_on_two_nodes() {
    let pair = Pair::start().await;
    let (names, app) = (&pair.names, &pair.names.app);
    let (on_a, on_b) = (pair.a.url(), pair.b.url());
    let scope = pull_push(app);
    let a = bearer(&pair.a, &names.alice, &[&scope]).await;
    let b = bearer(&pair.b, &names.alice, &[&scope]).await;
    let (first, second) = (random_bytes(PART_BYTES), random_bytes(PART_BYTES));
    let whole = [first.clone(), second.clone()].concat();
    let digest = digest_of(&whole);
    let at = start("100", &a, &on_a, app).await;
    let answer = accepted(Case::patch("101", &a, &at).octets(first), "0-1500385").run().await;
    let at = session_at("101", &on_a, app, &answer);
    for (id, client, base) in [("102", &a, &on_a), ("103", &b, &on_b)] {
        let case = Case::get(id, client, &at).status(204).of_registry().says("range", "0-1500385");
        let answer = case.lacks("content-length").text("").run().await;
        session_at(id, base, app, &answer);
    }
    let answer = accepted(Case::patch("104", &b, &at).octets(second), "0-3000771").run().await;
    let at = session_at("104", &on_b, app, &answer);
    let commit = Case::put("105", &a, format!("{at}&digest={digest}"));
    created(commit, &on_a, app, &digest).run().await;
    Case::head("106", &b, format!("/v2/{app}/blobs/{digest}"))
        .status(200)
        .of_registry()
        .says("content-length", "3000772")
        .says("content-type", "application/octet-stream")
        .says("accept-ranges", "bytes")
        .says("cache-control", "max-age=31536000")
        .says("docker-content-digest", &digest)
        .says("etag", format!("\"{digest}\""))
        .run()
        .await;
    let finished = Case::patch("107", &b, &at).octets("x").code(404, "BLOB_UPLOAD_UNKNOWN");
    finished.of_registry().run().await;

    let config = random_bytes(212);
    let digest = digest_of(&config);
    let at = start("176", &a, &on_a, app).await;
    let answer = accepted(Case::patch("177", &a, &at).octets(config), "0-211").run().await;
    let at = session_at("177", &on_a, app, &answer);
    let commit = Case::put("178", &b, format!("{at}&digest={digest}")).octets("");
    created(commit, &on_b, app, &digest).run().await;
}

/// 108-119b: whole blobs, ranges, and sessions that are not believed.
#[tokio::test]
async fn one_node() {
    let pair = Pair::start().await;
    let (names, app, base) = (&pair.names, &pair.names.app, pair.a.url());
    let alice = bearer(&pair.a, &names.alice, &[&pull_push(app)]).await;
    let config = random_bytes(212);
    let digest = digest_of(&config);
    let nowhere = format!("/v2/{app}/blobs/uploads/00000000-0000-4000-8000-000000000000");
    invalid(Case::get("108", &alice, nowhere)).run().await;

    let stale = start("109", &alice, &base, app).await;
    accepted(Case::patch("109a", &alice, &stale).octets("hello"), "0-4").run().await;
    invalid(Case::patch("109b", &alice, &stale).octets("hello")).run().await;

    let mono = format!("/v2/{app}/blobs/uploads/?digest={digest}");
    let answer = accepted(Case::post("110", &alice, mono).octets(config.clone()), "0-0").run().await;
    session_at("110", &base, app, &answer);
    let at = start("111", &alice, &base, app).await;
    let commit = Case::put("112", &alice, format!("{at}&digest={digest}")).octets(config);
    created(commit, &base, app, &digest).run().await;

    let at = start("113", &alice, &base, app).await;
    let ranged = |id: &str, at: &str| {
        let case = Case::patch(id, &alice, at).octets(random_bytes(PART_BYTES));
        case.with("content-range", "0-1500385")
    };
    let answer = accepted(ranged("114", &at), "0-1500385").run().await;
    let at = session_at("114", &base, app, &answer);
    let answer = accepted(ranged("115", &at), "0-3000771").run().await;
    let at = session_at("115", &base, app, &answer);
    Case::delete("116", &alice, &at).forbidden(app, "delete").run().await;

    let at = start("117", &alice, &base, app).await;
    let other = digest_of(b"something else");
    let case = Case::put("118", &alice, format!("{at}&digest={other}")).octets("hello");
    case.code(400, "DIGEST_INVALID").of_registry().run().await;
    let at = start("117b", &alice, &base, app).await;
    let form = "application/x-www-form-urlencoded";
    let eaten = Case::put("118x", &alice, format!("{at}&digest={other}")).body(form, "hello");
    eaten.status(502).text("").lacks("content-type").lacks("docker-distribution-api-version").run().await;
    let (path, state) = at.split_once('?').expect("a state");
    invalid(Case::put("119", &alice, format!("{path}?digest={other}")).octets("hello")).run().await;
    let tampered = format!("{path}?{}", state.replacen("_state=", "_state=AAAA", 1));
    invalid(Case::patch("119b", &alice, tampered).octets("hello")).run().await;
}

/// 116b: an administrator cancels; a stale state does not do for that either.
#[tokio::test]
async fn cancelled() {
    let pair = Pair::start().await;
    let (app, base, admin) = (&pair.names.app, pair.a.url(), pair.a.login(&pair.admin()));
    let stale = start("116b", &admin, &base, app).await;
    let answer = accepted(Case::patch("116b", &admin, &stale).octets("hello"), "0-4").run().await;
    let at = session_at("116b", &base, app, &answer);
    invalid(Case::delete("116b", &admin, &stale)).run().await;
    Case::delete("116b with the last state", &admin, &at).status(204).run().await;
}

/// 160-165: another `http.secret` on B. The session stays usable on A.
#[tokio::test]
async fn another_secret() {
    let other = |builder: crate::harness::harbor::HarborNodeBuilder| builder.http_secret("another one");
    let pair = Pair::start_with("http://registry.example.test", |builder| builder, other).await;
    let (names, app, base) = (&pair.names, &pair.names.app, pair.a.url());
    let scope = pull_push(app);
    let a = bearer(&pair.a, &names.alice, &[&scope]).await;
    let b = bearer(&pair.b, &names.alice, &[&scope]).await;
    let (first, second) = (random_bytes(PART_BYTES), random_bytes(PART_BYTES));
    let digest = digest_of(&[first.clone(), second.clone()].concat());
    let at = start("160", &a, &base, app).await;
    let answer = accepted(Case::patch("161", &a, &at).octets(first), "0-1500385").run().await;
    let at = session_at("161", &base, app, &answer);
    invalid(Case::patch("162", &b, &at).octets(second.clone())).run().await;
    invalid(Case::put("163", &b, format!("{at}&digest={digest}")).octets(second.clone())).run().await;
    invalid(Case::get("164", &b, &at)).run().await;
    let commit = Case::put("165", &a, format!("{at}&digest={digest}")).octets(second);
    created(commit, &base, app, &digest).run().await;
}

/// 170-175: nodes with their own storage.
#[tokio::test]
async fn own_storage() {
    let pair = Pair::start().await;
    let (names, app) = (&pair.names, &pair.names.app);
    let (c, _) = own_node("c", names).await;
    let (d, _) = own_node("d", names).await;
    let scope = pull_push(app);
    let on_c = bearer(&c, &names.alice, &[&scope]).await;
    let on_d = bearer(&d, &names.alice, &[&scope]).await;
    let (first, second) = (random_bytes(PART_BYTES), random_bytes(PART_BYTES));
    let digest = digest_of(&[first.clone(), second.clone()].concat());
    let at = start("170", &on_c, &c.url(), app).await;
    let answer = accepted(Case::patch("171", &on_c, &at).octets(first), "0-1500385").run().await;
    let at = session_at("171", &c.url(), app, &answer);
    let gone = |case: Case| case.code(404, "BLOB_UPLOAD_UNKNOWN").of_registry();
    gone(Case::patch("172", &on_d, &at).octets(second.clone())).run().await;
    gone(Case::put("173", &on_d, format!("{at}&digest={digest}")).octets(second.clone())).run().await;
    let commit = Case::put("174", &on_c, format!("{at}&digest={digest}")).octets(second);
    created(commit, &c.url(), app, &digest).run().await;
    Case::head("175", &on_d, format!("/v2/{app}/blobs/{digest}"))
        .error(404, "NOT_FOUND", &format!("blob {digest} not found"))
        .lacks("docker-distribution-api-version")
        .run()
        .await;
}
