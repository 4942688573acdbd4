//! Upgrade: another process takes the listening sockets over, and no client notices.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::harness::gateway::replace_file;
use crate::harness::image::Blob;
use crate::harness::port::ReservedPort;
use crate::harness::pull::Download;
use crate::harness::site::{MemberKind, Site};
use crate::harness::{push, wait};

/// How many upgrades; each takes about a second. The whole number is 20.
const UPGRADES: &str = "TIDEGATE_TEST_UPGRADES";
/// How often a connect begins: at most, for a storm that leaves the machine something; on a slow one they begin later.
const PACE: Duration = Duration::from_micros(500);
/// More connects than this never run at once.
const CONNECTS_AT_ONCE: usize = 1000;
/// How many connects that begin after each upgrade have to be answered before the next one.
const CONNECTS_EACH: usize = 200;

/// One connection with one request and its answer; what went wrong, in one word.
async fn ask(address: SocketAddr, request: Arc<str>) -> Result<(), String> {
    let kind = |step: &'static str| move |error: std::io::Error| format!("{step}: {}", error.kind());
    let mut stream = TcpStream::connect(address).await.map_err(kind("connect"))?;
    stream.write_all(request.as_bytes()).await.map_err(kind("send"))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.map_err(kind("receive"))?;
    let answer = String::from_utf8_lossy(&answer);
    let whole = answer.starts_with("HTTP/1.1 401 ") && answer.ends_with('}');
    if whole { Ok(()) } else { Err(format!("cut: {answer:?}")) }
}

/// What a storm of connects has come to, and its end.
#[derive(Default)]
struct Storm {
    begun: AtomicUsize,
    answered: AtomicUsize,
    over: AtomicBool,
}

impl Storm {
    /// Connects until it is over; what went wrong how often.
    async fn run(self: Arc<Self>, address: SocketAddr, host: String) -> BTreeMap<String, u64> {
        let request = format!("GET /v2/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let request: Arc<str> = request.into();
        let mut tick = interval(PACE * 4);
        tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let (mut faults, mut tasks) = (BTreeMap::new(), JoinSet::new());
        let at_once = Arc::new(Semaphore::new(CONNECTS_AT_ONCE));
        while !self.over.load(Ordering::Acquire) {
            tick.tick().await;
            for _ in 0..4 {
                let permit = Arc::clone(&at_once).acquire_owned().await.expect("never closed");
                let (storm, request) = (Arc::clone(&self), Arc::clone(&request));
                self.begun.fetch_add(1, Ordering::AcqRel);
                tasks.spawn(async move {
                    let _permit = permit;
                    let outcome = wait::within("an answer", ask(address, request)).await;
                    storm.answered.fetch_add(1, Ordering::AcqRel);
                    outcome
                });
            }
            while let Some(outcome) = tasks.try_join_next() {
                count(&mut faults, outcome.expect("no panic"));
            }
        }
        while let Some(outcome) = tasks.join_next().await {
            count(&mut faults, outcome.expect("no panic"));
        }
        faults
    }

    /// Waits for the outcome of connects that begin from now on.
    async fn goes_on(&self) {
        // All of the earlier ones may come first.
        let enough = self.begun.load(Ordering::Acquire) + CONNECTS_EACH;
        wait::until("the connects to go on", async || {
            (self.answered.load(Ordering::Acquire) >= enough).then_some(())
        })
        .await;
    }
}

fn count(faults: &mut BTreeMap<String, u64>, outcome: Result<(), String>) {
    if let Err(fault) = outcome {
        *faults.entry(fault).or_default() += 1;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_connects_notices_nothing_of_upgrades() {
    let port = ReservedPort::on_loopback();
    let listener = format!("{{ address: \"{}\", allow_plaintext_credentials: true }}", port.address());
    let mut site = Site::start_with(&[MemberKind::Open], |config| {
        // Every connect is a line otherwise.
        config.listener(&listener).extra("workers: 2").log_filter("info")
    })
    .await;
    let upgrades = std::env::var(UPGRADES).ok().and_then(|number| number.parse().ok()).unwrap_or(5);
    let storm = Arc::new(Storm::default());
    let mut running = JoinSet::new();
    running.spawn(Arc::clone(&storm).run(port.address(), site.endpoint.authority.clone()));
    storm.goes_on().await;
    for number in 0..upgrades {
        // More workers than sockets, fewer, and as many.
        let config =
            site.config.render().replace("workers: 2", &format!("workers: {}", [3, 1, 2][number % 3]));
        replace_file(&site.dir().join("tidegate.yaml"), &config);
        let upgraded = site.gateway.upgrade().await;
        assert!(upgraded.status.success(), "upgrade {number}: {}{}", upgraded.stdout, upgraded.stderr);
        storm.goes_on().await;
    }
    storm.over.store(true, Ordering::Release);
    let faults = running.join_next().await.expect("a storm").expect("no panic");
    let connects = storm.answered.load(Ordering::Acquire);
    assert!(faults.is_empty(), "of {connects} connects during {upgrades} upgrades: {faults:?}");
    let taken_over = |line: &&serde_json::Value| {
        line["message"].as_str().is_some_and(|text| text.starts_with("another process has taken over"))
    };
    assert_eq!(site.gateway.log_lines().iter().filter(taken_over).count(), upgrades);
    site.gateway.stop_upgraded().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_ends_in_the_old_process_while_the_new_one_goes_on_with_uploads_and_drains() {
    let mut site = Site::start_with(&[MemberKind::Open, MemberKind::Open], |config| {
        // However long the download takes, nothing may cut it.
        config.extra("shutdown: { grace_period: 1h }")
    })
    .await;
    let client = site.authorized(&["repository:a/b:pull,push"]).await;
    let upload = push::start(&client, "a/b").await;
    let large = Blob::random(32 << 20);
    let mut download = Download::begin(&client, &push::blob(&client, "a/b", &large).await).await;
    assert!(site.gateway.control(&["drain", "member1"]).await.status.success());
    let before = site.gateway.status().await;

    let upgraded = site.gateway.upgrade().await;
    assert!(upgraded.status.success(), "{}{}", upgraded.stdout, upgraded.stderr);
    let status = site.gateway.status().await;
    assert_ne!(status["pid"], before["pid"], "the new process answers");
    assert_eq!(status["pools"][0]["members"][1]["draining"], true, "a drain goes on");
    let uploads = |at: usize| status["pools"][0]["members"][at]["open_uploads"].as_u64().expect("a number");
    assert_eq!(uploads(0) + uploads(1), 1, "the open session is known");
    assert!(
        site.gateway.control(&["undrain", "member1"]).await.status.success(),
        "the control socket is new"
    );
    // The old one is still there, for its download alone.
    assert!(site.gateway.daemon().exit_status().is_none());
    let blob = Blob::random(10_000);
    // A pin of the old process counts.
    push::finish(&client, &upload, &blob.digest, blob.bytes.clone()).await;
    assert_eq!(download.rest().await, large.bytes.len());
    assert!(site.gateway.daemon().wait_exit().await.success());
    client.get("/v2/a/b/tags/list").await.is(404);
    site.gateway.stop_upgraded().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_that_fails_leaves_the_old_one_as_it_was() {
    let mut site = Site::start(&[MemberKind::Open]).await;
    // A configuration that cannot be used is found before anything is started.
    let path = site.dir().join("tidegate.yaml");
    replace_file(&path, &site.config.render().replace("allow: [", "alow: ["));
    let refused = site.gateway.upgrade().await;
    assert_eq!(refused.status.code(), Some(2));
    assert!(refused.stderr.contains("policy[0].alow"), "{}", refused.stderr);
    // One that only fails when it is started: a further listener whose address somebody else has.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let listener = format!("{{ address: \"{}\" }}", taken.local_addr().expect("an address"));
    replace_file(&path, &site.config.clone().listener(&listener).render());
    let failed = site.gateway.upgrade().await;
    assert_eq!(failed.status.code(), Some(1));
    assert!(failed.stderr.contains("the running process goes on"), "{}", failed.stderr);
    assert!(failed.stderr.contains("listen on"), "{}", failed.stderr);
    let client = site.authorized(&["repository:a/b:pull"]).await;
    client.get("/v2/a/b/tags/list").await.is(404);
    site.gateway.admin().get("/readyz").await.is(200);
    // And then it works after all.
    drop(taken);
    let upgraded = site.gateway.upgrade().await;
    assert!(upgraded.status.success(), "{}{}", upgraded.stdout, upgraded.stderr);
    assert!(site.gateway.daemon().wait_exit().await.success());
    client.get("/v2/a/b/tags/list").await.is(404);
    site.gateway.stop_upgraded().await;
}
