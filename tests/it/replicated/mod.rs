//! Members that copy each other, late, behind two gateways: what was pushed is there, and a tag never goes back.

mod copier;
mod lists;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use copier::{Copier, Registries};
use tempfile::TempDir;

use crate::harness::client::TestClient;
use crate::harness::config::ConfigBuilder;
use crate::harness::gateway::Gateway;
use crate::harness::image::Image;
use crate::harness::registry::StockRegistry;
use crate::harness::site::Site;
use crate::harness::{pull, push, wait};

/// How late members copy each other at most, in seconds; the long form takes 20.
const LAG_VARIABLE: &str = "TIDEGATE_TEST_LAG_SECONDS";

/// Three registries with storage of their own, two gateways in front of them, and what copies.
struct Copies {
    site: Site,
    second: Gateway,
    registries: Registries,
    copier: Copier,
    seed: u64,
    _dir: TempDir,
}

impl Copies {
    async fn start(storage: &str, members: usize, seed: u64) -> Self {
        let mut registries = Vec::new();
        for number in 0..members {
            registries.push(StockRegistry::builder(&format!("node{number}")).start().await);
        }
        let with_members = |config: ConfigBuilder| registries.iter().fold(config, ConfigBuilder::member);
        let site = Site::start_with(&[], |config| {
            let config = with_members(config).storage(storage);
            let config = if storage == "replicated" {
                config.pool_key("write_failover: 5s").pool_key("read_your_writes: 2s")
            } else {
                config
            };
            config.health("{ interval: 200ms, timeout: 2s, rise: 1, fall: 2, slow_start: 0s }")
        })
        .await;
        let (second, dir) = site.replica().await;
        let lag = std::env::var(LAG_VARIABLE).ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(1.5);
        let registries = Arc::new(Mutex::new(registries.into_iter().map(Some).collect()));
        let copier = Copier::start(&registries, Duration::from_secs_f64(lag), seed);
        Self { site, second, registries, copier, seed, _dir: dir }
    }

    /// A client of each gateway.
    async fn clients(&self, scopes: &[&str]) -> [TestClient; 2] {
        let first = self.site.authorized(scopes).await;
        let endpoint = &self.site.endpoint;
        let token = self.site.client().token(&endpoint.user, &endpoint.password, scopes).await;
        let second = self.second.client(&endpoint.ca_file).with_host(&endpoint.authority);
        [first, second.with_bearer(&token)]
    }

    fn with_registry<T>(&self, number: usize, work: impl FnOnce(&mut StockRegistry) -> T) -> T {
        let mut registries = self.registries.lock().unwrap_or_else(PoisonError::into_inner);
        work(registries[number].as_mut().expect("it is not being restarted"))
    }

    /// The member that took the first, second, ... manifest of a repository through the first gateway.
    async fn writer_of(&self, repository: &str, number: usize) -> usize {
        let line = wait::until("the line of a push", async || {
            let mut log = self.site.gateway.access_log();
            log.retain(|line| line.method() == "PUT" && line.route() == "manifest" && line.status() == 201);
            log.into_iter().filter(|line| line.repository() == repository).nth(number - 1)
        });
        line.await.member().trim_start_matches("node").parse().expect("a number")
    }

    /// Starts a registry again on its port. The lock is not held meanwhile: the copier goes on.
    async fn restart(&self, number: usize) {
        let taken = self.registries.lock().unwrap_or_else(PoisonError::into_inner)[number].take();
        let mut registry = taken.expect("it is not being restarted");
        registry.restart().await;
        self.registries.lock().unwrap_or_else(PoisonError::into_inner)[number] = Some(registry);
    }

    async fn stop(mut self) {
        self.second.stop().await;
        self.site.stop_gateway().await;
    }
}

impl Drop for Copies {
    #[expect(clippy::print_stderr, reason = "this is the report of a failed test")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the seed of the copier's delays was {}", self.seed);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_through_one_gateway_is_there_through_the_other_and_what_is_deleted_is_not() {
    let seed = rand::random::<u64>();
    let copies = Copies::start("replicated", 3, seed).await;
    let names: Vec<String> = (0..6).map(|number| format!("team/app{number}")).collect();
    let scopes: Vec<String> =
        names.iter().map(|name| format!("repository:{name}:pull,push,delete")).collect();
    let clients = copies.clients(&scopes.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for (number, name) in names.iter().enumerate() {
        let (one, other) = (&clients[number % 2], &clients[(number + 1) % 2]);
        // New, overwritten, and overwritten through the other gateway: always the newest, at once.
        for client in [one, one, other] {
            let image = Image::random(&[3_000, 2_000]);
            push::image(client, name, "latest", &image).await;
            pull::image(one, name, "latest", &image).await;
            pull::image(other, name, "latest", &image).await;
        }
        let image = Image::random(&[1_000]);
        push::image(one, name, "gone", &image).await;
        let manifest = format!("/v2/{name}/manifests/{}", image.manifest.digest);
        other.delete(&manifest).await.is(202);
        for client in &clients {
            assert_eq!(pull::manifest(client, name, "gone").await.status, 404, "{seed}: {name}");
        }
    }
    copies.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_was_moved_while_its_home_was_down_does_not_move_back() {
    let seed = rand::random::<u64>();
    let copies = Copies::start("replicated", 3, seed).await;
    let scope = "repository:team/app:pull,push,delete";
    let clients = copies.clients(&[scope]).await;
    let (v1, v2) = (Image::random(&[3_000]), Image::random(&[3_000]));
    push::image(&clients[0], "team/app", "latest", &v1).await;
    push::image(&clients[0], "team/app", "stays", &v1).await;
    copies.copier.has_caught_up().await;
    let home = copies.writer_of("team/app", 2).await;
    copies.with_registry(home, StockRegistry::kill);
    // Reads go on: through the gateway that has just written it as soon as that is a while ago. Writes wait for the time that
    // the file says, and then somebody else takes them.
    pull::image(&clients[1], "team/app", "latest", &v1).await;
    wait::until("reads through the gateway that wrote", async || {
        let answer = pull::manifest(&clients[0], "team/app", "latest").await;
        assert!(matches!(answer.status.as_u16(), 200 | 503 | 504), "{seed}: {}", answer.status);
        (answer.status == 200).then_some(())
    })
    .await;
    pull::image(&clients[0], "team/app", "latest", &v1).await;
    let refused = clients[0].post("/v2/team/app/blobs/uploads/", "").await;
    assert_eq!((refused.status.as_u16(), refused.error_code().as_deref()), (503, Some("UNAVAILABLE")));
    wait::until("somebody to stand in", async || {
        push::try_image(&clients[0], "team/app", "latest", &v2).await.ok()
    })
    .await;
    let stand_in = copies.writer_of("team/app", 3).await;
    assert_ne!(stand_in, home);
    pull::image(&clients[0], "team/app", "latest", &v2).await;
    pull::image(&clients[1], "team/app", "latest", &v2).await;
    // A delete is nobody else's.
    let manifest = format!("/v2/team/app/manifests/{}", v1.manifest.digest);
    clients[0].delete(&manifest).await.is(503);

    copies.restart(home).await;
    // The home is back with v1. Until it has v2 as well, each answer is v2 or an error.
    let (mut agreed, mut refused) = ([0; 2], 0);
    wait::until("both gateways to take the home's word again", async || {
        for (at, client) in clients.iter().enumerate() {
            let answer = pull::manifest(client, "team/app", "latest").await;
            match answer.status.as_u16() {
                200 => assert!(answer.body == v2.manifest.bytes, "{seed}: gateway {at} gave an older tag"),
                503 => refused += 1,
                other => panic!("{seed}: gateway {at} answered {other}"),
            }
            // Once the home is asked alone, it has v2.
            let log = if at == 0 { copies.site.gateway.access_log() } else { copies.second.access_log() };
            let last = log.iter().rfind(|line| line.route() == "manifest" && line.method() == "GET");
            if last.is_some_and(|line| line.member() == format!("node{home}") && line.status() == 200) {
                agreed[at] += 1;
            }
        }
        agreed.iter().all(|agreed| *agreed > 3).then_some(())
    })
    .await;
    for client in &clients {
        pull::image(client, "team/app", "latest", &v2).await;
        pull::image(client, "team/app", "stays", &v1).await;
    }
    // From now on the home takes writes again.
    let v3 = Image::random(&[3_000]);
    push::image(&clients[0], "team/app", "latest", &v3).await;
    assert_eq!(copies.writer_of("team/app", 4).await, home);
    pull::image(&clients[1], "team/app", "latest", &v3).await;
    copies.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_that_shows_new_files_late_hurts_nobody() {
    let seed = rand::random::<u64>();
    let copies = Copies::start("shared", 2, seed).await;
    let names: Vec<String> = (0..8).map(|number| format!("team/app{number}")).collect();
    let scopes: Vec<String> = names.iter().map(|name| format!("repository:{name}:pull,push")).collect();
    let clients = copies.clients(&scopes.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for name in &names {
        let image = Image::random(&[3_000, 1_000]);
        push::image(&clients[0], name, "v1", &image).await;
        for client in &clients {
            pull::image(client, name, "v1", &image).await;
            let head = client.request(http::Method::HEAD, &format!("/v2/{name}/manifests/v1"));
            client.send(head.header("accept", image.manifest_type()).empty()).await.is(200);
        }
        // Overwritten: whoever pushed sees the newest.
        let image = Image::random(&[2_000]);
        push::image(&clients[0], name, "v1", &image).await;
        pull::image(&clients[0], name, "v1", &image).await;
    }
    let found = copies.second.metrics().await;
    let found = found.sum("tidegate_confirmations_total", &["result=\"found\""]);
    assert!(found > 0.5, "no member was late, which proves nothing");
    copies.stop().await;
}
