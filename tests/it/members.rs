//! Members that die, freeze, come back, refuse, or are not what they should be.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::harness::certs::Certificates;
use crate::harness::client::TestClient;
use crate::harness::config::ConfigBuilder;
use crate::harness::fake_member::{FakeMember, answer};
use crate::harness::gateway::{AccessLine, Gateway};
use crate::harness::image::{Blob, Image};
use crate::harness::registry::{Access, StockRegistry};
use crate::harness::site::{MemberKind, Site};
use crate::harness::{push, wait};

const THREE: [MemberKind; 3] = [MemberKind::Open, MemberKind::Basic, MemberKind::Token];
/// How the test with a frozen member probes: what is frozen shows only by a probe that runs out of time, and a live member, however
/// busy the machine is, has to answer within that time.
const FREEZING: &str = "{ interval: 500ms, timeout: 5s, rise: 1, fall: 2 }";

/// Readers that never stop asking for one blob until told to; each failure is a panic. They ask by
/// HEAD: what happens to an answer whose body a member stops in the middle is not decided here.
struct Load {
    stop: Arc<AtomicBool>,
    reads: Arc<AtomicUsize>,
    /// Stands in the `User-Agent` of the requests that begin from now on, which the access log repeats.
    phase: Arc<AtomicUsize>,
    readers: JoinSet<()>,
}

impl Load {
    fn start(client: &TestClient, path: &str) -> Self {
        let (stop, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let phase = Arc::new(AtomicUsize::new(0));
        let mut readers = JoinSet::new();
        for _ in 0..4 {
            let (client, path) = (client.clone(), path.to_owned());
            let (stop, reads, phase) = (Arc::clone(&stop), Arc::clone(&reads), Arc::clone(&phase));
            readers.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let request = client.request(http::Method::HEAD, &path);
                    let request = request.header("user-agent", user_agent(phase.load(Ordering::SeqCst)));
                    let request = request.empty();
                    client.send(request).await.is(200);
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Self { stop, reads, phase, readers }
    }

    /// Begins a new phase and returns the lines of a hundred requests that began in it.
    async fn later_lines(&self, gateway: &Gateway) -> Vec<AccessLine> {
        let agent = user_agent(self.phase.fetch_add(1, Ordering::SeqCst) + 1);
        wait::until("a hundred later requests", async || {
            let mut log = gateway.access_log();
            log.retain(|line| line.text("user_agent") == agent);
            (log.len() >= 100).then_some(log)
        })
        .await
    }

    async fn goes_on(&self, reads: usize) {
        let before = self.reads.load(Ordering::Relaxed);
        wait::until("the load to go on", async || {
            (self.reads.load(Ordering::Relaxed) >= before + reads).then_some(())
        })
        .await;
    }

    async fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(reader) = self.readers.join_next().await {
            reader.expect("no read failed");
        }
    }
}

fn user_agent(phase: usize) -> String {
    format!("load/{phase}")
}

/// How many of the answered requests came from a member.
fn served_by(gateway: &Gateway, member: &str) -> usize {
    gateway.access_log().iter().filter(|line| line.member() == member).count()
}

/// Once a member is out and what was under way there has ended, nothing is sent to it any more:
/// every request is answered by the first member that is tried.
async fn assert_left_alone(site: &Site, load: &Load, member: &str) {
    let label = format!("member=\"{member}\"");
    wait::until("what was under way to end", async || {
        let metrics = site.gateway.metrics().await;
        (metrics.sum("tidegate_member_requests_in_flight", &[&label]) < 0.5).then_some(())
    })
    .await;
    for line in load.later_lines(&site.gateway).await {
        assert!(line.member() != member && line.0["tries"] == 1, "{}", line.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_killed_frozen_or_back_is_followed_under_load() {
    let mut site = Site::start_with(&THREE, |config| config.health(FREEZING)).await;
    let client = site.authorized(&["repository:a/b:pull,push"]).await;
    let path = push::blob(&client, "a/b", &Blob::random(20_000)).await;
    let load = Load::start(&client, &path);
    load.goes_on(100).await;

    wait::until("member0 to serve", async || (served_by(&site.gateway, "member0") > 0).then_some(())).await;
    site.members[0].kill();
    site.gateway.wait_for_state("member0", "unhealthy").await;
    assert_left_alone(&site, &load, "member0").await;

    site.members[1].freeze();
    site.gateway.wait_for_state("member1", "unhealthy").await;
    assert_left_alone(&site, &load, "member1").await;

    site.members[0].restart().await;
    site.members[1].thaw();
    for member in ["member0", "member1"] {
        site.gateway.wait_for_state(member, "healthy").await;
    }
    for (member, others) in [("member0", ["member1", "member2"]), ("member1", ["member0", "member2"])] {
        // One whose first answer took long is else not chosen before that has faded.
        for other in others {
            site.gateway.control(&["drain", other]).await.success().expect("drained");
        }
        let served = served_by(&site.gateway, member);
        wait::until("work to come back", async || {
            (served_by(&site.gateway, member) > served + 10).then_some(())
        })
        .await;
        for other in others {
            site.gateway.control(&["undrain", other]).await.success().expect("undrained");
        }
    }
    load.stop().await;
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_refusals_of_a_member_change_no_state() {
    let probes = Arc::new(AtomicUsize::new(0));
    let member = FakeMember::start({
        let probes = Arc::clone(&probes);
        move |request| {
            let right = request.header("authorization").is_some();
            if request.is_probe() {
                probes.fetch_add(1, Ordering::Relaxed);
                return Some(if right {
                    answer(200, &[], "{}")
                } else {
                    answer(401, &[("www-authenticate", "Basic realm=\"x\"")], "")
                });
            }
            let challenge = [("www-authenticate", "Basic realm=\"harbor\"")];
            request.target.contains("/secret").then(|| answer(401, &challenge, "no"))
        }
    })
    .await;
    let mut site = Site::start_with(&[], |config| {
        let config = config.health("{ interval: 1h, timeout: 20s, rise: 1, fall: 2 }");
        config.member_at("strict", member.url(), "{ basic: { user: svc, password: right } }")
    })
    .await;
    let client = site.authorized(&["repository:secret/x:pull"]).await;
    let (before, began) = (probes.load(Ordering::Relaxed), Instant::now());
    let mut work = JoinSet::new();
    for _ in 0..8 {
        let client = client.clone();
        work.spawn(async move {
            let mut connection = client.connect().await;
            for _ in 0..125 {
                let request = client.request(http::Method::GET, "/v2/secret/x/manifests/v1");
                let request = request.empty();
                let refused = connection.send(request).await.is(401);
                let challenges: Vec<_> = refused.headers.get_all("www-authenticate").iter().collect();
                assert_eq!(challenges.len(), 1);
                let challenge = challenges[0].to_str().expect("text");
                assert!(
                    challenge.starts_with("Bearer ") && challenge.contains("insufficient_scope"),
                    "{challenge}"
                );
            }
        });
    }
    while let Some(done) = work.join_next().await {
        done.expect("every request was refused as it should be");
    }
    assert_eq!(member.requests().len(), 1000);
    // One control a second, and perhaps the first probes of all.
    let (controls, seconds) = (probes.load(Ordering::Relaxed) - before, began.elapsed().as_secs());
    assert!(controls as u64 <= seconds + 5, "{controls} probes for a thousand refusals in {seconds} s");
    let changes = site.gateway.log_lines().into_iter().filter(|line| line["message"] == "member is out");
    assert_eq!(changes.count(), 0);
    let metrics = site.gateway.metrics().await;
    assert!(metrics.sum("tidegate_member_state", &["member=\"strict\"", "state=\"healthy\""]) > 0.5);
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_with_a_wrong_credential_is_out_and_named_and_the_others_serve() {
    let mut site = Site::start_with(&[MemberKind::Open], |config| config).await;
    let strict = StockRegistry::builder("strict")
        .storage(site.members[0].storage())
        .access(Access::generated_htpasswd());
    let strict = strict.start().await;
    let config =
        site.config.clone().member_at("strict", &strict.url(), "{ basic: { user: svc, password: wrong } }");
    site.restart_with(&config.render()).await;
    site.gateway.wait_for_state("strict", "credential_fault").await;
    let is_out = |line: &serde_json::Value| line["message"] == "member is out" && line["member"] == "strict";
    let out = site.gateway.wait_for_log("the member is out", is_out).await;
    let reason = out["reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason.contains("401 to our own credential"), "{reason}");
    let client = site.authorized(&["repository:a/b:pull,push"]).await;
    for _ in 0..5 {
        push::blob(&client, "a/b", &Blob::random(1000)).await;
    }
    assert!(strict.requests_for("a/b").is_empty());
    // One member is enough.
    site.gateway.admin().get("/readyz").await.is(200);
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn https_members_are_checked_by_authority_and_name_and_shown_our_certificate() {
    let dir = tempfile::tempdir().expect("a directory");
    let certificates = Certificates::new(dir.path());
    let leaf = certificates.leaf("registry", &["registry.internal"]);
    let ours = certificates.leaf("gateway", &["gateway.internal"]);
    let ca = certificates.authority();
    let member = StockRegistry::builder("tls").tls(leaf).client_authority(&ca).start().await;
    let (ca, cert, key) = (ca.display(), ours.cert.display(), ours.key.display());
    let certificate = format!("client_certificate: {{ cert: {cert}, key: {key} }}");
    let mut site = Site::start_with(&[], |config| {
        [
            ("trusted", format!("ca_file: {ca}, server_name: registry.internal, {certificate}")),
            ("unnamed", format!("ca_file: {ca}, {certificate}")),
            ("stranger", format!("ca_file: {ca}, server_name: registry.internal")),
        ]
        .iter()
        .fold(config, |config, (name, tls)| {
            config.member_at(name, &member.url(), &format!("none, tls: {{ {tls} }}"))
        })
    })
    .await;
    site.gateway.wait_for_state("trusted", "healthy").await;
    site.gateway.wait_for_state("unnamed", "unhealthy").await;
    site.gateway.wait_for_state("stranger", "unhealthy").await;
    let status = site.gateway.status().await;
    let problem = status["pools"][0]["members"][1]["last_problem"].as_str().unwrap_or_default().to_owned();
    assert!(problem.contains("certificate"), "{problem}");
    let client = site.authorized(&["repository:a/b:pull,push"]).await;
    let path = push::blob(&client, "a/b", &Blob::random(50_000)).await;
    client.get(&path).await.is(200);
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_cannot_read_the_canary_is_out() {
    let (good, empty) =
        (StockRegistry::builder("good").start().await, StockRegistry::builder("empty").start().await);
    let image = Image::random(&[1000]);
    let direct = TestClient::plain(good.address());
    push::image(&direct, "canary/image", "1", &image).await;
    let mut site = Site::start_with(&[], |config| {
        config
            .member(&good)
            .member(&empty)
            .health("{ interval: 500ms, timeout: 20s, rise: 1, fall: 2, canary: \"canary/image:1\" }")
    })
    .await;
    site.gateway.wait_for_state("good", "healthy").await;
    site.gateway.wait_for_state("empty", "unhealthy").await;
    let is_out = |line: &serde_json::Value| line["message"] == "member is out" && line["member"] == "empty";
    let out = site.gateway.wait_for_log("the member is out", is_out).await;
    assert!(out["reason"].as_str().unwrap_or_default().contains("canary"), "{out}");
    site.stop_gateway().await;
}

/// A member that counts the requests that it has at once, and takes its time.
async fn counting_member(at_once: Arc<AtomicUsize>, most: Arc<AtomicUsize>) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (socket, _) = listener.accept().await.expect("accepts");
            let (at_once, most) = (Arc::clone(&at_once), Arc::clone(&most));
            connections.spawn(async move {
                let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let (at_once, most) = (Arc::clone(&at_once), Arc::clone(&most));
                    async move {
                        if request.uri().path() != "/v2/" {
                            let now = at_once.fetch_add(1, Ordering::SeqCst) + 1;
                            most.fetch_max(now, Ordering::SeqCst);
                            tokio::time::sleep(Duration::from_millis(5)).await;
                            at_once.fetch_sub(1, Ordering::SeqCst);
                        }
                        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"{}"))))
                    }
                });
                drop(http1::Builder::new().serve_connection(TokioIo::new(socket), service).await);
            });
        }
    });
    (url, tasks)
}

#[tokio::test(flavor = "multi_thread")]
async fn max_connections_is_exact_over_all_workers_and_nobody_starves() {
    let (at_once, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (url, _tasks) = counting_member(Arc::clone(&at_once), Arc::clone(&most)).await;
    let mut site = Site::start_with(&[], |config| {
        let config = config.member_at("narrow", &url, "none").extra("workers: 4");
        config.extra("upstream: { connections_max: 1, queue_timeout: 20s, first_byte_timeout: 20s }")
    })
    .await;
    let client = site.authorized(&["repository:a/b:pull"]).await;
    let mut work = JoinSet::new();
    for _ in 0..16 {
        let client = client.clone();
        work.spawn(async move {
            for _ in 0..20 {
                client.get("/v2/a/b/tags/list").await.is(200);
            }
        });
    }
    while let Some(done) = work.join_next().await {
        done.expect("every request is served");
    }
    assert_eq!(most.load(Ordering::SeqCst), 1, "the member never sees two");
    let metrics = site.gateway.metrics().await;
    assert!(metrics.sum("tidegate_member_connections", &["member=\"narrow\""]) <= 1.0);
    site.stop_gateway().await;
}

/// A member that reads a request, notes its method, and hangs up; only probes are answered.
async fn hanging_up_member(seen: Arc<Mutex<Vec<String>>>) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.expect("accepts");
            let mut request = [0; 16 * 1024];
            // Small requests come in one piece.
            let length = socket.read(&mut request).await.unwrap_or_default();
            let head = String::from_utf8_lossy(&request[..length]).into_owned();
            if head.starts_with("GET /v2/ ") {
                let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
                drop(socket.write_all(answer.as_bytes()).await);
            } else if let Some((method, _)) = head.split_once(' ') {
                seen.lock().expect("not poisoned").push(method.to_owned());
            }
        }
    });
    (url, tasks)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_may_have_reached_a_member_is_made_once_and_a_read_or_a_manifest_goes_on_to_the_next() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (one, _one) = hanging_up_member(Arc::clone(&seen)).await;
    let (two, _two) = hanging_up_member(Arc::clone(&seen)).await;
    let good = StockRegistry::builder("good").start().await;
    let start = async |members: &[(&str, &str)]| {
        let join = |config, (name, url): &(&str, &str)| ConfigBuilder::member_at(config, name, url, "none");
        Site::start_with(&[], |config| members.iter().fold(config, join)).await
    };
    let mut site = start(&[("one", &one), ("two", &two)]).await;
    let client = site.authorized(&["repository:a/b:pull,push,delete"]).await;
    let manifest = "application/vnd.oci.image.manifest.v1+json";
    client.put("/v2/a/b/manifests/v1", manifest, "{}").await.is(504);
    client.delete("/v2/a/b/manifests/v1").await.is(504);
    let blob = Blob::random(100);
    let whole = format!("/v2/a/b/blobs/uploads/?digest={}", blob.digest);
    client.post(&whole, blob.bytes.clone()).await.is(504);
    let writes = seen.lock().expect("not poisoned").clone();
    // A manifest says the same however often it is said.
    assert_eq!(writes, ["PUT", "PUT", "DELETE", "POST"]);
    client.get("/v2/a/b/tags/list").await.is(504);
    let all = seen.lock().expect("not poisoned").len();
    assert_eq!(all, 6, "a read is asked of both");
    site.stop_gateway().await;

    // A read is asked of the next member, whichever comes first.
    let mut site = start(&[("one", &one), ("good", &good.url())]).await;
    let client = site.authorized(&["repository:a/b:pull"]).await;
    for _ in 0..6 {
        client.get("/v2/a/b/tags/list").await.is(404);
    }
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_on_a_read_is_neither_sent_nor_announced_to_the_member() {
    let member =
        FakeMember::start(|request| request.target.starts_with("/v2/a/").then(|| answer(200, &[], "{}")))
            .await;
    let mut site = Site::start_with(&[], |config| config.member_at("fake", member.url(), "none")).await;
    let client = site.authorized(&["repository:a/b:pull,push,delete"]).await;
    for method in [http::Method::GET, http::Method::DELETE] {
        let path = if method == http::Method::GET { "/v2/a/b/tags/list" } else { "/v2/a/b/manifests/v1" };
        let body = if method == http::Method::GET { "hello" } else { "" };
        let request = client.request(method.clone(), path).body(crate::harness::client::whole(body));
        client.send(request).await.is(200);
    }
    for request in member.requests() {
        assert!(request.complete && request.body.is_empty(), "{request:?}");
        assert_eq!(request.header("content-length"), None, "{request:?}");
        assert_eq!(request.header("transfer-encoding"), None, "{request:?}");
    }
    assert_eq!(member.requests().len(), 2);
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_wants_a_credential_and_has_none_costs_no_client_a_401() {
    let challenge = [("www-authenticate", "Basic realm=\"x\"")];
    let strict = FakeMember::start(move |_| Some(answer(401, &challenge, ""))).await;
    let good = StockRegistry::builder("good").start().await;
    let mut site = Site::start_with(&[], |config| {
        config.member_at("strict", strict.url(), "none").member_at("good", &good.url(), "none")
    })
    .await;
    // Which member a repository's uploads prefer follows from its name.
    let repositories: Vec<String> = (0..30).map(|number| format!("a/b{number}")).collect();
    let scopes: Vec<String> =
        repositories.iter().map(|repository| format!("repository:{repository}:pull,push")).collect();
    let client = site.authorized(&scopes.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for repository in &repositories {
        push::blob(&client, repository, &Blob::random(1000)).await;
        if strict.requests().len() > 2 {
            break;
        }
    }
    assert!(strict.requests().len() > 2, "it was asked, and more than once");
    // Only then the whole log is written.
    site.stop_gateway().await;
    let warned = |line: &serde_json::Value| {
        line["message"].as_str().is_some_and(|text| text.contains("no credential is configured"))
    };
    assert_eq!(site.gateway.log_lines().iter().filter(|line| warned(line)).count(), 1);
}
