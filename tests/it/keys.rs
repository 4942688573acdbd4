//! Key rotation under load, and replicas that were given different keys.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::Context as _;
use data_encoding::BASE64URL_NOPAD;
use tokio::task::JoinSet;

use crate::harness::client::TestClient;
use crate::harness::clients::COMMAND_LIMIT;
use crate::harness::gateway::{Gateway, tidegate};
use crate::harness::image::Blob;
use crate::harness::site::{MemberKind, Site};
use crate::harness::{Result, process, push, wait};

fn kid_of(token: &str) -> Result<String> {
    let header = token.split('.').next().context("a token")?;
    let header: serde_json::Value = serde_json::from_slice(&BASE64URL_NOPAD.decode(header.as_bytes())?)?;
    header["kid"].as_str().map(str::to_owned).context("a kid")
}

/// A token from one replica, used at the other: a push of a small blob and its pull.
async fn push_and_pull(from: &TestClient, at: &TestClient, login: (&str, &str)) -> Result<String> {
    let token = from.try_token(login.0, login.1, &["repository:load/keys:pull,push"]).await?;
    let client = at.clone().with_bearer(&token);
    client.try_get("/v2/").await?.ensure(200)?;
    let blob = Blob::random(2000);
    let path = push::try_blob(&client, "load/keys", &blob).await?;
    let read = client.try_get(&path).await?.ensure(200)?;
    anyhow::ensure!(read.body == blob.bytes, "other bytes came back");
    kid_of(&token)
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_rotate_under_load_with_replicas_apart_and_a_member_that_is_not_restarted() {
    let kinds = [MemberKind::Token, MemberKind::Open];
    let mut site = Site::start_with(&kinds, |config| {
        config.extra("hosts: [\"127.0.0.1\"]").extra("reload_interval: 1h")
    })
    .await;
    let (mut second, _dir) = site.replica().await;
    let clients = [site.client(), second.client(&site.endpoint.ca_file)];
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::<[AtomicUsize; 4]>::default());
    let mut load = JoinSet::new();
    for number in 0..done.len() {
        let (from, at) = (clients[number % 2].clone(), clients[number / 2].clone());
        let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
        let (user, password) = (site.endpoint.user.clone(), site.endpoint.password.clone());
        load.spawn(async move {
            let mut kids = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let kid = push_and_pull(&from, &at, (&user, &password)).await;
                kids.push(kid.unwrap_or_else(|error| panic!("worker {number}: {error:#}")));
                done[number].fetch_add(1, Ordering::Relaxed);
            }
            kids.dedup();
            kids
        });
    }
    every_worker_goes_on(&*done).await;
    let file = site.dir().join("tidegate.yaml");
    let rotate = ["keys", "rotate", "--activate-after", "1h", "--config", file.to_str().expect("a path")];
    let said = process::run(tidegate(&rotate), COMMAND_LIMIT).await.expect("rotated");
    assert!(said.contains("rootcertbundle"), "{said}");
    // First one replica knows the new keys, and then both.
    assert_eq!(site.gateway.reload().await["message"], "reloaded");
    every_worker_goes_on(&*done).await;
    assert_eq!(second.reload().await["message"], "reloaded");
    every_worker_goes_on(&*done).await;
    // First the clock of one replica says that their time has come, and then that of both.
    activate_now(site.dir());
    assert_eq!(site.gateway.reload().await["message"], "reloaded");
    every_worker_goes_on(&*done).await;
    assert_eq!(second.reload().await["message"], "reloaded");
    let new_kid = wait::until("the new key to sign", async || {
        let token = clients[0].token(&site.endpoint.user, &site.endpoint.password, &[]).await;
        let kid = kid_of(&token).ok()?;
        let listed = process::run(tidegate(&["keys", "list", "--config", file.to_str()?]), COMMAND_LIMIT)
            .await
            .ok()?;
        let active = listed.lines().find(|line| line.contains(&kid) && line.contains("active"))?;
        let retired = listed.lines().any(|line| line.starts_with("client") && line.contains("retired"));
        (active.starts_with("client") && retired).then_some(kid)
    })
    .await;
    every_worker_goes_on(&*done).await;
    stop.store(true, Ordering::Relaxed);
    while let Some(kids) = load.join_next().await {
        let kids = kids.expect("no request failed");
        assert_eq!(kids.len(), 2, "first the old key, then the new one, and never back: {kids:?}");
        assert_eq!(kids[1], new_kid);
    }
    assert_no_refusals(&site, &second);
    second.stop().await;
    site.stop_gateway().await;
}

/// Waits until every worker has begun and ended work from now on: of its next five rounds only the first may have begun before.
async fn every_worker_goes_on(done: &[AtomicUsize]) {
    for (number, done) in done.iter().enumerate() {
        let before = done.load(Ordering::Relaxed);
        wait::until(&format!("worker {number} to go on"), async || {
            (done.load(Ordering::Relaxed) >= before + 5).then_some(())
        })
        .await;
    }
}

/// Brings the hour forward at which the pending keys below `dir` begin to sign, as if it had passed: how long the steps of this test
/// take does not matter then.
fn activate_now(dir: &Path) {
    for ring in ["keys", "seal"] {
        let ring = dir.join(ring);
        for file in std::fs::read_dir(&ring).expect("a key ring") {
            let path = file.expect("a file").path();
            let mut key: serde_json::Value =
                serde_json::from_slice(&std::fs::read(&path).expect("readable")).expect("JSON");
            let created_at = key["created_at"].as_u64().expect("a time");
            if key["activate_at"].as_u64().expect("a time") > created_at {
                // Later than the keys before, and over by now or in a moment.
                key["activate_at"] = (created_at + 1).into();
                let mut beside = tempfile::NamedTempFile::new_in(&ring).expect("a file of the owner alone");
                beside.write_all(key.to_string().as_bytes()).expect("written");
                beside.persist(&path).expect("the file in its place");
            }
        }
    }
}

/// No member refused a request, and the gateways refused nothing but the first request without a token.
fn assert_no_refusals(site: &Site, second: &Gateway) {
    for member in &site.members {
        let requests = member.requests_for("load/keys");
        assert!(!requests.is_empty(), "{} served nothing", member.name());
        let refused: Vec<_> = requests.iter().filter(|request| request.status == 401).collect();
        assert!(refused.is_empty(), "{}: {refused:?}", member.name());
    }
    for gateway in [&site.gateway, second] {
        let log = gateway.access_log();
        let refused = log.iter().filter(|line| line.status() == 401 && line.route() != "ping");
        assert_eq!(refused.count(), 0);
        let out = gateway.find_log(|line| line["message"] == "member is out");
        assert!(out.is_none(), "{out:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_with_different_keys_say_so_in_words() {
    let mut site =
        Site::start_with(&[MemberKind::Open], |config| config.extra("hosts: [\"127.0.0.1\"]")).await;
    let own = tempfile::TempDir::with_prefix("tidegate-keys-").expect("a temporary directory");
    let config = site
        .config
        .render()
        .replace(&format!("{}/keys", site.dir().display()), &format!("{}/keys", own.path().display()));
    let (mut second, _dir) = site.replica_with(&config).await;
    let token = site.client().token(&site.endpoint.user, &site.endpoint.password, &[]).await;
    let stranger = second.client(&site.endpoint.ca_file).with_bearer(&token);
    let answer = stranger.get("/v2/").await.is(401);
    assert!(answer.header("www-authenticate").expect("a challenge").contains("error=\"invalid_token\""));
    let says = |line: &serde_json::Value| {
        line["message"].as_str().is_some_and(|text| text.contains("another replica has other keys"))
    };
    let line = second.wait_for_log("another replica has other keys", says).await;
    assert_eq!(line["level"], "ERROR");
    assert_eq!(line["kid"].as_str(), Some(kid_of(&token).expect("a kid").as_str()));
    let metrics = second.metrics().await;
    assert!((metrics.sum("tidegate_foreign_key_tokens_total", &[]) - 1.0).abs() < f64::EPSILON);
    // What anybody can make up is refused without that alarm, and leaves nothing in the log.
    for made_up in made_up_tokens(&token) {
        let junk = second.client(&site.endpoint.ca_file).with_bearer(&made_up);
        junk.get("/v2/").await.is(401);
    }
    assert_eq!(second.log_lines().iter().filter(|line| says(line)).count(), 1);
    let metrics = second.metrics().await;
    assert!((metrics.sum("tidegate_foreign_key_tokens_total", &[]) - 1.0).abs() < f64::EPSILON);
    let longest = second.log_lines().iter().map(|line| line.to_string().len()).max().expect("lines");
    assert!(longest < 4096, "a line of {longest} bytes");
    second.stop().await;
    site.stop_gateway().await;
}

/// Tokens without a signature, or with something in its place, that name our issuer and all else as `token` does.
fn made_up_tokens(token: &str) -> Vec<String> {
    let parts: Vec<&str> = token.split('.').collect();
    let [header, claims, signature] = parts.as_slice() else { panic!("three parts") };
    let kid = kid_of(token).expect("a kid");
    let header_of = |alg: &str, kid: &str| {
        BASE64URL_NOPAD
            .encode(serde_json::json!({ "alg": alg, "kid": kid, "typ": "JWT" }).to_string().as_bytes())
    };
    let other = BASE64URL_NOPAD.encode(&[7; 32]);
    let issuer_alone = BASE64URL_NOPAD.encode(br#"{"iss":"tidegate"}"#);
    vec![
        "a.b.c".to_owned(),
        format!("{}.{claims}.", header_of("none", &other)),
        format!("{}.{claims}.{signature}", header_of("none", &other)),
        format!("{}.{claims}.{signature}", header_of("ES256", &"k".repeat(8000))),
        format!("{}.{claims}.{signature}", header_of("ES256", &format!("{kid}x"))),
        format!("{}.{claims}.c2hvcnQ", header_of("ES256", &other)),
        format!("{}.{issuer_alone}.{signature}", header_of("ES256", &other)),
        format!("{header}.{issuer_alone}."),
    ]
}
