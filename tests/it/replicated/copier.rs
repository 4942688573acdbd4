//! What copies members to each other, late, as replication between registries does: it follows each registry's own log, and some
//! time after a push or a delete there it does the same at the others, again and again until they are up.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::harness::Result;
use crate::harness::client::TestClient;
use crate::harness::image::Blob;
use crate::harness::push;
use crate::harness::registry::{LoggedRequest, StockRegistry};

/// Marks the copier's own requests in the registries' logs.
const MARK: &str = "copier=1";
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
const MANIFEST_TYPES: &str =
    "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json";

/// The registries, which the copier looks at and the test stops and starts; `None` for one that is being restarted.
pub(super) type Registries = Arc<Mutex<Vec<Option<StockRegistry>>>>;

/// Copies until it is dropped.
pub(super) struct Copier {
    _tasks: JoinSet<()>,
    /// How much is on its way.
    pending: watch::Sender<usize>,
}

/// Something to be done at the others.
#[derive(Debug, Clone)]
struct Event {
    from: usize,
    repository: String,
    /// Tag or digest.
    reference: String,
    deletes: bool,
}

impl Copier {
    /// Copies with a lag of up to `lag_max`.
    pub(super) fn start(registries: &Registries, lag_max: Duration, seed: u64) -> Self {
        let pending = watch::Sender::new(0);
        let mut tasks = JoinSet::new();
        tasks.spawn(follow(Arc::clone(registries), lag_max, seed, pending.clone()));
        Self { _tasks: tasks, pending }
    }

    /// Waits until nothing is on its way.
    pub(super) async fn has_caught_up(&self) {
        // What was just logged is seen at the next look.
        let mut pending = self.pending.subscribe();
        for _ in 0..3 {
            tokio::time::sleep(LOOK_INTERVAL).await;
            pending.wait_for(|pending| *pending == 0).await.expect("the copier runs");
        }
    }
}

fn addresses(registries: &Registries) -> Vec<TestClient> {
    let registries = registries.lock().unwrap_or_else(PoisonError::into_inner);
    registries.iter().flatten().map(|registry| TestClient::plain(registry.address())).collect()
}

async fn follow(registries: Registries, lag_max: Duration, seed: u64, pending: watch::Sender<usize>) {
    let clients = addresses(&registries);
    let mut rng = StdRng::seed_from_u64(seed);
    let mut seen = vec![0; clients.len()];
    let mut work = JoinSet::new();
    loop {
        let logs: Vec<Option<Vec<LoggedRequest>>> = {
            let registries = registries.lock().unwrap_or_else(PoisonError::into_inner);
            registries.iter().map(|registry| registry.as_ref().map(StockRegistry::requests)).collect()
        };
        for (from, log) in logs.into_iter().enumerate().filter_map(|(from, log)| Some((from, log?))) {
            let new = log.get(seen[from]..).unwrap_or_default().to_vec();
            seen[from] = log.len();
            for event in new.iter().filter_map(|request| event_of(from, request)) {
                let lag = lag_max.mul_f64(rng.random_range(0.0..1.0));
                pending.send_modify(|pending| *pending += 1);
                let (clients, pending) = (clients.clone(), pending.clone());
                work.spawn(async move {
                    tokio::time::sleep(lag).await;
                    let others = clients.iter().enumerate().filter(|(to, _)| *to != event.from);
                    for (_, client) in others {
                        while copy(&clients[event.from], client, &event).await.is_err() {
                            // One of them is down; what a replication does then is try again.
                            tokio::time::sleep(LOOK_INTERVAL * 4).await;
                        }
                    }
                    pending.send_modify(|pending| *pending -= 1);
                });
            }
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

fn event_of(from: usize, request: &LoggedRequest) -> Option<Event> {
    let target = request.target.strip_prefix("/v2/")?;
    if target.contains(MARK) {
        return None;
    }
    let (repository, reference) = target.split_once("/manifests/")?;
    let deletes = match (request.method.as_str(), request.status) {
        ("PUT", 201) => false,
        ("DELETE", 202) => true,
        _ => return None,
    };
    Some(Event { from, repository: repository.to_owned(), reference: reference.to_owned(), deletes })
}

async fn copy(from: &TestClient, to: &TestClient, event: &Event) -> Result<()> {
    let Event { repository, reference, deletes, .. } = event;
    let manifest = format!("/v2/{repository}/manifests/{reference}");
    if *deletes {
        let answer = to.try_delete(&format!("{manifest}?{MARK}")).await?;
        anyhow::ensure!(matches!(answer.status.as_u16(), 202 | 404), "{}", answer.status);
        return Ok(());
    }
    let request = from.request(http::Method::GET, &manifest).header("accept", MANIFEST_TYPES);
    let read = from.try_send(request.empty()).await?;
    if read.status == 404 {
        // It was deleted meanwhile.
        return Ok(());
    }
    let read = read.ensure(200)?;
    let described: Value = serde_json::from_slice(&read.body)?;
    let layers = described["layers"].as_array().into_iter().flatten();
    for blob in layers.chain(std::iter::once(&described["config"])) {
        let digest = blob["digest"].as_str().unwrap_or_default();
        let path = format!("/v2/{repository}/blobs/{digest}");
        if to.try_head(&path).await?.status == 200 {
            continue;
        }
        let bytes = from.try_get(&path).await?.ensure(200)?.body;
        push::try_blob(to, repository, &Blob::new(bytes.to_vec())).await?;
    }
    let kind = read.header("content-type").unwrap_or_default().to_owned();
    to.try_put(&format!("{manifest}?{MARK}"), &kind, read.body.clone()).await?.ensure(201)?;
    Ok(())
}
