//! What a reload takes up, what it refuses, and that neither waits for the other.

use crate::harness::client::TestClient;
use crate::harness::config::without_user;
use crate::harness::gateway::{Gateway, replace_file};
use crate::harness::site::{MemberKind, Site};
use crate::harness::wait;

/// The certificate that a new connection is shown.
async fn shown_certificate(client: &TestClient) -> Vec<u8> {
    let stream = client.raw_tls().await;
    let chain = stream.get_ref().1.peer_certificates().expect("a chain");
    chain[0].to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_certificates_are_taken_up_and_broken_ones_refused_without_holding_up_the_policy() {
    let mut site =
        Site::start_with(&[MemberKind::Open], |config| config.extra("reload_interval: 200ms")).await;
    let client = site.client();
    let first = shown_certificate(&client).await;
    let leaf = site.certificates.leaf("second", &["127.0.0.1", "localhost"]);
    let (cert, key) = (site.dir().join("hub.crt"), site.dir().join("hub.key"));
    let current = [(&cert, "certificate"), (&key, "key")];
    for (path, what) in current {
        assert!(path.exists(), "the {what} in use is at {}", path.display());
    }
    // Half of the pair: refused, logged, counted, and the old one goes on.
    std::fs::copy(&leaf.key, &key).expect("copied");
    let refused = |line: &serde_json::Value| {
        line["message"].as_str().is_some_and(|text| text.starts_with("certificate refused"))
    };
    let line = site.gateway.wait_for_log("the refusal", refused).await;
    assert!(line["error"].as_str().is_some_and(|text| text.contains("hub.key")), "{line}");
    assert_eq!(shown_certificate(&client).await, first);
    let metrics = site.gateway.metrics().await;
    assert!(metrics.sum("tidegate_reloads_total", &["result=\"refused\""]) >= 1.0);
    // A policy that changes meanwhile takes effect all the same.
    let alice = site.authorized(&["repository:a/b:pull"]).await;
    alice.get("/v2/a/b/tags/list").await.is(404);
    let denied = site.config.clone().rule("{ user: \"*\", repository: \"other/**\", allow: [pull] }");
    assert_eq!(site.gateway.reload_with(&denied.render()).await["message"], "reloaded");
    let answer = alice.get("/v2/a/b/tags/list").await.is(401);
    assert!(answer.header("www-authenticate").expect("a challenge").contains("insufficient_scope"));
    // The other half: taken up by itself.
    std::fs::copy(&leaf.cert, &cert).expect("copied");
    wait::until("the new certificate", async || (shown_certificate(&client).await != first).then_some(()))
        .await;
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_htpasswd_file_is_taken_up_and_a_broken_one_refused() {
    let mut site = Site::start(&[MemberKind::Open]).await;
    site.stop_gateway().await;
    let file = site.dir().join("htpasswd");
    let line =
        |name: &str, password: &str| format!("{name}:{}\n", bcrypt::hash(password, 4).expect("hashed"));
    std::fs::write(&file, line("carol", "one")).expect("written");
    let config = site.config.render().replace("identity:\n", "identity:\n  - htpasswd: htpasswd\n");
    let config = format!("{config}reload_interval: 200ms\n");
    site.gateway = Gateway::start(&config, site.dir()).await;
    let client = site.client();
    let login =
        async |name: &str, password: &str| client.token_answer(name, password, &[]).await.status.as_u16();
    assert_eq!(login("carol", "one").await, 200);
    assert_eq!(
        login(&site.endpoint.user, &site.endpoint.password).await,
        200,
        "the next provider is asked too"
    );
    replace_file(&file, &line("carol", "two"));
    wait::until("the new password", async || (login("carol", "two").await == 200).then_some(())).await;
    assert_eq!(login("carol", "one").await, 401, "the old password is over");
    replace_file(&file, &format!("{}dave:{{SHA}}nope\n", line("carol", "three")));
    let refused = |line: &serde_json::Value| {
        line["message"].as_str().is_some_and(|text| text.starts_with("reload refused"))
    };
    let line = site.gateway.wait_for_log("the refusal", refused).await;
    let error = line["error"].as_str().unwrap_or_default();
    assert!(error.contains("htpasswd:2") && error.contains("htpasswd -B"), "{error}");
    assert_eq!(login("carol", "two").await, 200, "what was in force stays");
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_configuration_replaces_nothing_and_sections_that_need_a_restart_are_named() {
    let mut site = Site::start(&[MemberKind::Open]).await;
    let line = site.gateway.reload_with(&site.config.render().replace("allow: [", "alow: [")).await;
    assert!(line["message"].as_str().is_some_and(|text| text.starts_with("reload refused")), "{line}");
    let error = line["error"].as_str().unwrap_or_default();
    assert!(error.contains("policy[0].alow") && error.contains("allow"), "{error}");
    let client = site.authorized(&["repository:a/b:pull"]).await;
    client.get("/v2/a/b/tags/list").await.is(404);
    let more = site.config.clone().extra("shutdown: { lead_time: 1s }");
    assert_eq!(site.gateway.reload_with(&more.render()).await["message"], "reloaded");
    let named = site.gateway.find_log(|line| line["section"] == "shutdown");
    assert_eq!(named.expect("logged")["level"], "WARN");
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_was_removed_and_comes_back_gets_no_earlier_token_back() {
    let mut site = Site::start_with(&[MemberKind::Open], |config| {
        config.user("bob", "bobs password").extra("reload_interval: 1h")
    })
    .await;
    let all = site.config.render();
    let without_bob = without_user(&all, "bob");
    let (login, tags) = (("bob", "bobs password"), "/v2/a/b/tags/list");
    let log_in = async |site: &Site| site.client().token(login.0, login.1, &["repository:a/b:pull"]).await;
    let token = log_in(&site).await;
    let before = site.client().with_bearer(&token);
    let alice = site.authorized(&["repository:a/b:pull"]).await;
    before.get(tags).await.is(404);
    assert_eq!(site.gateway.reload_with(&without_bob).await["message"], "reloaded");
    before.get(tags).await.is(401);
    assert_eq!(site.gateway.reload_with(&all).await["message"], "reloaded");
    // It was given before the removal.
    let answer = before.get(tags).await.is(401);
    assert!(answer.header("www-authenticate").expect("a challenge").contains("invalid_token"));
    // A new login is another one: it counts from the second after the removal on.
    wait::until("bob to be back", async || {
        let client = site.client().with_bearer(&log_in(&site).await);
        (client.get(tags).await.status == 404).then_some(())
    })
    .await;
    // The removal concerns nobody else.
    alice.get(tags).await.is(404);
    // It is remembered beyond the end of the process.
    site.restart_with(&all).await;
    let before = site.client().with_bearer(&token);
    before.get(tags).await.is(401);
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pattern_with_many_wildcards_holds_up_nobody() {
    let pattern = format!("x/{}b", "*a".repeat(24));
    let mut site = Site::start_with(&[MemberKind::Open], |config| {
        config
            .rule(&format!("{{ everybody: true, repository: \"{pattern}\", allow: [pull] }}"))
            .rule("{ everybody: true, repository: \"x/**\", allow: [pull] }")
    })
    .await;
    // Trying every way in which the name could match would outlast any client.
    let name = format!("x/{}", "a".repeat(250));
    let answer = site.client().get(&format!("/service/token?scope=repository:{name}:pull")).await.is(200);
    let client = site.client().with_bearer(&answer.token());
    // The next rule allows it.
    client.get(&format!("/v2/{name}/tags/list")).await.is(404);
    site.stop_gateway().await;
}
