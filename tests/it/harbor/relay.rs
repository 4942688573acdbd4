//! What is special about sending the client's own password: it is asked for before a body, it is nowhere to be read, and reloads.

use super::fixture::{CredentialKind, HarborSite};
use crate::harness::client::basic;
use crate::harness::image::Blob;
use crate::harness::push;

const SCOPE: &str = "repository:team/app:pull,push";

#[tokio::test(flavor = "multi_thread")]
async fn before_a_body_is_streamed_the_node_is_asked_whether_it_takes_the_password() {
    let site = HarborSite::start(1, CredentialKind::Relay).await;
    let client = site.authorized("alice", &site.accounts.alice, &[SCOPE]).await;
    let blob = Blob::random(40_000);
    let location = push::start(&client, "team/app").await;
    site.nodes[0].clear_requests();
    let patched = client.patch(&location, blob.bytes.clone()).await.is(202);
    let alice = basic("alice", &site.accounts.alice);
    let seen = site.nodes[0].requests();
    let hers: Vec<String> = seen
        .iter()
        .filter(|request| request.header("authorization") == Some(&alice))
        .map(|request| format!("{} {}", request.method, request.path()))
        .collect();
    assert_eq!(hers.len(), 2, "{hers:?}");
    assert_eq!(hers[0], "GET /v2/");
    assert!(hers[1].starts_with("PATCH /v2/team/app/blobs/uploads/"), "{hers:?}");
    // A password that is refused there costs no byte of the body.
    site.accounts.database.set_password("alice", &crate::harness::random_secret());
    site.nodes[0].clear_requests();
    let location = patched.header("location").expect("a Location").to_owned();
    client.patch(&location, blob.bytes.clone()).await.is(401);
    let patches = site.nodes[0].requests().iter().filter(|request| request.method == "PATCH").count();
    assert_eq!(patches, 0, "the body went nowhere");
    site.accounts.database.set_password("alice", &site.accounts.alice);
    let patched = client.patch(&location, blob.bytes.clone()).await.is(202);
    let twice = Blob::new([blob.bytes.clone(), blob.bytes.clone()].concat());
    // Not a byte too many.
    push::finish(&client, &patched.location(), &twice.digest, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_are_in_no_log_no_file_and_no_readable_part_of_a_token() {
    for kind in [CredentialKind::Relay, CredentialKind::Exchange, CredentialKind::Token] {
        let debug = |config: crate::harness::config::ConfigBuilder| config.log_filter("debug");
        let site = HarborSite::start_with(1, kind, |node| node, debug).await;
        let password = &site.accounts.alice;
        let token = site.client().token("alice", password, &[SCOPE]).await;
        let client = site.client().with_bearer(&token);
        client.get("/v2/team/app/tags/list").await.is(404);
        site.client().with_basic("alice", password).get("/v2/").await.is(200);
        let encoded = basic("alice", password);
        let encoded = encoded.strip_prefix("Basic ").expect("a pair");
        let claims = token.split('.').nth(1).expect("claims").to_owned();
        let claims =
            String::from_utf8(data_encoding::BASE64URL_NOPAD.decode(claims.as_bytes()).expect("base64"))
                .expect("text");
        // Only where a member needs it does it travel at all.
        assert_eq!(claims.contains("\"secret\""), kind != CredentialKind::Token, "{kind:?}");
        assert!(token.len() < 4096, "{} bytes", token.len());
        let logs = site.gateway.log_tail();
        for text in [&logs, &claims] {
            assert!(!text.contains(password.as_str()) && !text.contains(encoded), "{kind:?}");
        }
        let mut files = vec![site.dir().to_owned()];
        while let Some(path) = files.pop() {
            if path.ends_with("storage") {
                continue;
            }
            if path.is_dir() {
                files.extend(
                    std::fs::read_dir(&path)
                        .expect("a directory")
                        .map(|entry| entry.expect("an entry").path()),
                );
            } else {
                let bytes = std::fs::read(&path).unwrap_or_default();
                assert!(!String::from_utf8_lossy(&bytes).contains(password.as_str()), "{}", path.display());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_keeps_harbor_as_it_was_started_and_takes_up_the_rest() {
    let site = HarborSite::start(2, CredentialKind::Token).await;
    let read = &["repository:team/app:pull,push"];
    let client = site.authorized("alice", &site.accounts.alice, read).await;
    client.post("/v2/team/app/blobs/uploads/", "").await.is(202);
    // A rule about them takes away what Harbor grants, at the next request; it can give nothing.
    let narrowed = site
        .config
        .clone()
        .rule("{ user: alice, provider: harbor, repository: \"team/**\", allow: [pull, delete] }");
    site.gateway.reload_with(&narrowed.render()).await;
    client.post("/v2/team/app/blobs/uploads/", "").await.is(401);
    client.get("/v2/team/app/tags/list").await.is(404);
    let digest = format!("sha256:{}", "0".repeat(64));
    let client = site.authorized("alice", &site.accounts.alice, &["repository:team/app:delete"]).await;
    let deleted = client.delete(&format!("/v2/team/app/manifests/{digest}")).await;
    assert_eq!(deleted.status, 401, "what Harbor does not grant no rule gives: {}", deleted.text());
    // Without the provider in the file nothing changes until a restart, and the log says so.
    let without = site.config.clone().without_providers().user("local", "x");
    site.gateway.reload_with(&without.render()).await;
    let said = |line: &serde_json::Value| line["section"] == "identity: harbor";
    site.gateway.wait_for_log("a restart is needed", said).await;
    site.client().token("alice", &site.accounts.alice, read).await;
}
