//! Upload sessions: pinned to their member across restarts and replicas, and outliving their bearer.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Method;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng};
use tokio::sync::{RwLock, Semaphore};
use tokio::task::JoinSet;

use crate::harness::client::{TestClient, whole};
use crate::harness::clients::COMMAND_LIMIT;
use crate::harness::config::without_user;
use crate::harness::fake_member::{FakeMember, Recorded, Reply, answer};
use crate::harness::gateway::Gateway;
use crate::harness::image::{Blob, Image};
use crate::harness::site::{MemberKind, Site};
use crate::harness::{Result, push, wait};

const THREE: [MemberKind; 3] = [MemberKind::Open, MemberKind::Basic, MemberKind::Token];
/// How many uploads, and how many of them at once.
const UPLOADS: usize = 200;
const AT_ONCE: usize = 8;

/// The two replicas, as the uploads see them. A restart takes the lock alone.
struct Replicas {
    clients: RwLock<Vec<TestClient>>,
}

impl Replicas {
    async fn send(
        &self,
        rng: &mut StdRng,
        method: Method,
        target: &str,
        body: Vec<u8>,
    ) -> Result<crate::harness::client::Answer> {
        let clients = self.clients.read().await;
        let client = &clients[rng.random_range(0..clients.len())];
        let request = client.request(method, target).header("content-type", "application/octet-stream");
        client.try_send(request.body(whole(body))).await
    }
}

/// One upload in chunks of random size, each through a replica chosen by chance.
async fn upload_in_chunks(replicas: &Replicas, seed: u64) -> Result<()> {
    let mut rng = StdRng::seed_from_u64(seed);
    let blob = Blob::random(rng.random_range(1..200_000));
    let repository = format!("load/r{}", seed % 10);
    let start = format!("/v2/{repository}/blobs/uploads/");
    let started = replicas.send(&mut rng, Method::POST, &start, Vec::new()).await?.ensure(202)?;
    let mut target = started.location();
    let mut sent = 0;
    while sent < blob.bytes.len() {
        let end = blob.bytes.len().min(sent + rng.random_range(1..80_000));
        let chunk = blob.bytes[sent..end].to_vec();
        let answer = replicas.send(&mut rng, Method::PATCH, &target, chunk).await?.ensure(202)?;
        assert_eq!(answer.header("range"), Some(format!("0-{}", end - 1).as_str()));
        target = answer.location();
        sent = end;
    }
    let finish = push::end_of(&target, &blob.digest);
    let answer = replicas.send(&mut rng, Method::PUT, &finish, Vec::new()).await?.ensure(201)?;
    assert_eq!(answer.header("docker-content-digest"), Some(blob.digest.as_str()));
    let read = replicas
        .send(&mut rng, Method::GET, &format!("/v2/{repository}/blobs/{}", blob.digest), Vec::new())
        .await?
        .ensure(200)?;
    anyhow::ensure!(read.body == blob.bytes, "other bytes came back");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_interleaved_uploads_stay_on_their_members_across_a_restart_and_two_replicas() {
    let mut site = Site::start_with(&THREE, |config| config.extra("hosts: [\"127.0.0.1\"]")).await;
    let (mut second, _dir) = site.replica().await;
    let scopes: Vec<String> = (0..10).map(|at| format!("repository:load/r{at}:pull,push")).collect();
    let scopes: Vec<&str> = scopes.iter().map(String::as_str).collect();
    let token = site.client().token(&site.endpoint.user, &site.endpoint.password, &scopes).await;
    let clients = |site: &Site, second: &Gateway| {
        vec![site.client().with_bearer(&token), second.client(&site.endpoint.ca_file).with_bearer(&token)]
    };
    let replicas = Arc::new(Replicas { clients: RwLock::new(clients(&site, &second)) });
    let (seed, at_once) = (rand::random::<u32>(), Arc::new(Semaphore::new(AT_ONCE)));
    let mut uploads = JoinSet::new();
    for number in 0..UPLOADS {
        let (replicas, at_once) = (Arc::clone(&replicas), Arc::clone(&at_once));
        uploads.spawn(async move {
            let _turn = at_once.acquire().await.expect("never closed");
            let seed = u64::from(seed) + number as u64;
            upload_in_chunks(&replicas, seed)
                .await
                .map_err(|error| format!("upload with seed {seed}: {error:#}"))
        });
    }
    for done in 0..UPLOADS {
        if done == UPLOADS / 2 {
            // No request is on its way while the lock is held, but eight sessions are open.
            let mut shared = replicas.clients.write().await;
            site.stop_gateway().await;
            site.restart_gateway().await;
            *shared = clients(&site, &second);
        }
        let ended = uploads.join_next().await.expect("as many as were started").expect("no panic");
        ended.unwrap_or_else(|problem| panic!("{problem}"));
    }
    assert_each_session_has_one_member(&site);
    for gateway in [&site.gateway, &second] {
        assert_eq!(gateway.metrics().await.sum("tidegate_upload_pins_total", &["event=\"refused\""]), 0.0);
    }
    second.stop().await;
    site.stop_gateway().await;
}

fn assert_each_session_has_one_member(site: &Site) {
    let mut members_of: HashMap<String, HashSet<String>> = HashMap::new();
    for member in &site.members {
        for request in member.requests() {
            let Some((_, id)) = request.target.split_once("/blobs/uploads/") else { continue };
            let id = id.split('?').next().unwrap_or_default();
            if !id.is_empty() {
                members_of.entry(id.to_owned()).or_default().insert(member.name().to_owned());
            }
        }
    }
    assert!(members_of.len() >= UPLOADS, "{} sessions were seen", members_of.len());
    let used: HashSet<_> = members_of.values().flatten().collect();
    assert_eq!(used.len(), 3, "every member has sessions");
    let split: Vec<_> = members_of.iter().filter(|(_, members)| members.len() != 1).collect();
    assert!(split.is_empty(), "sessions on two members: {split:?}");
}

/// The site's configuration with tokens that end two seconds after they were issued.
fn with_short_tokens(site: &Site) -> String {
    let short = "tokens: { lifetime: 2s, expiry_margin: 0s, service";
    site.config.render().replace("tokens: { service", short)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bearer_that_ends_in_the_middle_of_an_upload_still_finishes_it_and_nothing_else() {
    let mut site = Site::start(&THREE).await;
    site.restart_with(&with_short_tokens(&site)).await;
    let client = site.authorized(&["repository:a/b:pull,push,delete"]).await;
    // How soon the bearer ends after these is the machine's affair, so the same user does them by password.
    let password = site.client().with_basic(&site.endpoint.user, &site.endpoint.password);
    let blob = Blob::random(100_000);
    let (target, other) = (push::start(&password, "a/b").await, push::start(&password, "a/b").await);
    let half = password.patch(&target, blob.bytes[..50_000].to_vec()).await.is(202);
    wait::until("the token to end", async || {
        let answer = client.get("/v2/").await;
        (answer.status == 401).then_some(())
    })
    .await;
    for (method, target) in [
        (Method::GET, "/v2/".to_owned()),
        (Method::GET, "/v2/a/b/tags/list".to_owned()),
        (Method::HEAD, format!("/v2/a/b/blobs/{}", blob.digest)),
        (Method::POST, "/v2/a/b/blobs/uploads/".to_owned()),
        (Method::PUT, "/v2/a/b/manifests/v1".to_owned()),
    ] {
        let request = client.request(method.clone(), &target).empty();
        let answer = client.send(request).await.is(401);
        let challenge = answer.header("www-authenticate").expect("a challenge");
        assert!(challenge.contains("error=\"invalid_token\""), "{method} {target}: {challenge}");
    }
    let target = half.location();
    let status = client.get(&target).await.is(204);
    assert_eq!(status.header("range"), Some("0-49999"));
    let rest = client.patch(&target, blob.bytes[50_000..].to_vec()).await.is(202);
    push::finish(&client, &rest.location(), &blob.digest, "").await;
    client.delete(&other).await.is(204);
    let metrics = site.gateway.metrics().await;
    assert!(metrics.sum("tidegate_upload_grace_requests_total", &[]) >= 4.0);
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_user_and_a_revoked_token_are_refused_inside_an_open_upload() {
    let mut site = Site::start_with(&THREE, |config| config.user("bob", "bobs password")).await;
    let scopes = ["repository:a/b:pull,push"];
    let bob = site.client().token("bob", "bobs password", &scopes).await;
    let bob = site.client().with_bearer(&bob);
    let alice = site.authorized(&scopes).await;
    let mut targets = Vec::new();
    for client in [&alice, &bob] {
        targets.push(push::start(client, "a/b").await);
    }
    // Somebody else's session is nobody else's.
    let refused = alice.patch(&targets[1], "x").await.is(400);
    assert_eq!(refused.error_code().as_deref(), Some("BLOB_UPLOAD_INVALID"));
    let without_bob = without_user(&site.config.render(), "bob");
    assert_eq!(site.gateway.reload_with(&without_bob).await["message"], "reloaded");
    let refused = bob.patch(&targets[1], "x").await.is(401);
    assert!(refused.header("www-authenticate").expect("a challenge").contains("invalid_token"));
    alice.patch(&targets[0], "x").await.is(202);
    let file = site.dir().join("tidegate.yaml");
    let revoke = crate::harness::gateway::tidegate(&[
        "revoke",
        "users/alice",
        "--config",
        file.to_str().expect("a path"),
    ]);
    let said = crate::harness::process::run(revoke, COMMAND_LIMIT).await.expect("revoked");
    assert!(said.contains("users/alice"), "{said}");
    site.gateway.reload().await;
    alice.get(&targets[0]).await.is(401);
    site.stop_gateway().await;
}

/// Opens one session and takes its bytes, and fails its probes once it is `ill`.
fn takes_uploads(ill: &Arc<AtomicBool>) -> impl Fn(&Recorded) -> Option<Reply> + Send + Sync + use<> {
    let ill = Arc::clone(ill);
    move |request| match request.method.as_str() {
        "POST" | "PATCH" => {
            Some(answer(202, &[("location", "/v2/a/b/blobs/uploads/session-1?_state=s")], ""))
        }
        _ => (request.is_probe() && ill.load(Ordering::SeqCst)).then(|| answer(500, &[], "")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_member_is_out_is_unknown_at_once_so_that_the_client_starts_over() {
    let ill = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let members =
        [FakeMember::start(takes_uploads(&ill[0])).await, FakeMember::start(takes_uploads(&ill[1])).await];
    let mut site = Site::start_with(&[], |config| {
        config.member_at("fake0", members[0].url(), "none").member_at("fake1", members[1].url(), "none")
    })
    .await;
    let client = site.authorized(&["repository:a/b:pull,push"]).await;
    let target = push::start(&client, "a/b").await;
    let holder = members.iter().position(|member| !member.requests().is_empty());
    let holder = holder.expect("one of them opened it");
    // It would still take requests, so that only its state tells that it is gone.
    ill[holder].store(true, Ordering::SeqCst);
    let name = format!("fake{holder}");
    let out =
        |line: &serde_json::Value| line["message"] == "member is out" && line["member"] == name.as_str();
    site.gateway.wait_for_log("the ill member to be out", out).await;
    let gone = client.patch(&target, "x").await.is(404);
    assert_eq!(gone.error_code().as_deref(), Some("BLOB_UPLOAD_UNKNOWN"));
    let again = push::start(&client, "a/b").await;
    client.patch(&again, "x").await.is(202);
    let methods = |member: &FakeMember| -> Vec<_> {
        member.requests().into_iter().map(|request| request.method).collect()
    };
    assert_eq!(methods(&members[holder]), ["POST"]);
    assert_eq!(methods(&members[1 - holder]), ["POST", "PATCH"]);
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_begin_takes_no_connection_and_no_memory() {
    let mut site = Site::start_with(&[MemberKind::Open], |config| {
        config
            .extra("upstream: { connections_max: 4, pulls_max: 3, uploads_max: 1, queue_timeout: 1s }")
            .extra("verify: { buffer_bytes_max: 8MiB }")
    })
    .await;
    let client = site.authorized(&["repository:a/b:pull,push"]).await;
    // More of each than there is room for: the one connection for uploads, and the memory of a few manifests.
    let mut hanging = Vec::new();
    for _ in 0..3 {
        let target = push::start(&client, "a/b").await;
        let octets = "content-type: application/octet-stream\r\ncontent-length: 5\r\n";
        let one = client.hang(Method::PATCH, &target, octets).await;
        hanging.push(one);
    }
    let mut manifests = Vec::new();
    for _ in 0..8 {
        let head = "content-type: application/vnd.oci.image.manifest.v1+json\r\ncontent-length: 2097152\r\n";
        let target = "/v2/a/b/manifests/late";
        manifests.push(client.hang(Method::PUT, target, head).await);
    }
    let image = Image::random(&[2000]);
    push::image(&client, "a/b", "now", &image).await;
    for one in &mut hanging {
        one.send(b"bytes").await;
    }
    for one in hanging {
        assert_eq!(one.status().await, 202, "the bytes that came late");
    }
    drop(manifests);
    site.stop_gateway().await;
}
