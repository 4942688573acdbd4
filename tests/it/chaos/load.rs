//! docker and skopeo, pulling and pushing until they are told to stop; each failure is kept with all that was said.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::schedule::Troubles;
use crate::harness::Result;
use crate::harness::clients::docker::{Docker, Dockerd};
use crate::harness::clients::skopeo::Skopeo;
use crate::harness::clients::{Endpoint, RealClient};
use crate::harness::image::Image;
use crate::harness::registry::StockRegistry;

/// Beyond what is verified before its head leaves, and below.
const LAYERS: [usize; 3] = [4_000_000, 300_000, 2_000];
/// A push that fails this often is not explained by any member.
const PUSHES_MAX: usize = 8;

/// One pull or push.
#[derive(Debug)]
struct Deed {
    client: &'static str,
    /// Each push has a repository of its own, by which it is found in the members' logs.
    repository: String,
    span: (Instant, Instant),
    result: Result<()>,
}

#[derive(Debug, Default)]
struct Deeds {
    pulls: Vec<Deed>,
    pushes: Vec<Deed>,
    /// Images that never arrived, however often they were pushed.
    lost: Vec<String>,
}

/// Clients at work.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    workers: JoinSet<Deeds>,
}

/// What all of them did.
#[derive(Debug, Default)]
pub(super) struct Outcome(Deeds);

impl Load {
    pub(super) async fn start(endpoint: &Endpoint, dockerd: &Arc<Dockerd>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut workers = JoinSet::new();
        let image = Image::random(&LAYERS);
        let mut first = Skopeo::new(endpoint);
        logged_in(&mut first).await;
        first.push(&image, "chaos/pulled", "v1").await.unwrap_or_else(|error| panic!("{error:#}"));
        for _ in 0..2 {
            let mut client = Skopeo::new(endpoint);
            logged_in(&mut client).await;
            workers.spawn(pull_on(client, image.clone(), Arc::clone(&stop)));
        }
        let mut docker = Docker::new(endpoint, dockerd);
        logged_in(&mut docker).await;
        workers.spawn(pull_on(docker, image, Arc::clone(&stop)));
        let (mut skopeo, mut docker) = (Skopeo::new(endpoint), Docker::new(endpoint, dockerd));
        logged_in(&mut skopeo).await;
        logged_in(&mut docker).await;
        workers.spawn(push_on(skopeo, Arc::clone(&stop)));
        workers.spawn(push_on(docker, Arc::clone(&stop)));
        Self { stop, workers }
    }

    /// Lets everybody finish what was begun.
    pub(super) async fn stop(mut self) -> Outcome {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Deeds::default();
        while let Some(done) = self.workers.join_next().await {
            let done = done.expect("a worker ends without a panic");
            all.pulls.extend(done.pulls);
            all.pushes.extend(done.pushes);
            all.lost.extend(done.lost);
        }
        Outcome(all)
    }
}

async fn logged_in(client: &mut impl RealClient) {
    client.login().await.unwrap_or_else(|error| panic!("{}: {error:#}", client.name()));
}

async fn pull_on<C: RealClient>(mut client: C, image: Image, stop: Arc<AtomicBool>) -> Deeds {
    let mut deeds = Deeds::default();
    while !stop.load(Ordering::SeqCst) {
        deeds.pulls.push(pull(&mut client, &image, "chaos/pulled").await);
    }
    deeds
}

async fn pull(client: &mut impl RealClient, image: &Image, repository: &str) -> Deed {
    let from = Instant::now();
    let result = client.pull(image, repository, "v1").await;
    let span = (from, Instant::now());
    Deed { client: client.name(), repository: repository.to_owned(), span, result }
}

/// Pushes one new image after the other, each again until it is there, and pulls what it pushed.
async fn push_on<C: RealClient>(mut client: C, stop: Arc<AtomicBool>) -> Deeds {
    let mut deeds = Deeds::default();
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let image = Image::random(&LAYERS);
        let mut arrived = false;
        for attempt in 0..PUSHES_MAX {
            let repository = format!("chaos/{}-{number}-{attempt}", client.name());
            let from = Instant::now();
            let result = client.push(&image, &repository, "v1").await;
            arrived = result.is_ok();
            let span = (from, Instant::now());
            deeds.pushes.push(Deed { client: client.name(), repository: repository.clone(), span, result });
            if arrived {
                deeds.pulls.push(pull(&mut client, &image, &repository).await);
                break;
            }
        }
        if !arrived {
            deeds.lost.push(format!("{} {number}", client.name()));
        }
    }
    deeds
}

impl Outcome {
    pub(super) fn pulls(&self) -> usize {
        self.0.pulls.len()
    }

    pub(super) fn pushes(&self) -> usize {
        self.0.pushes.len()
    }

    /// Every pull that failed, and every push that failed although the members of its uploads lived.
    pub(super) fn problems(&self, troubles: &Troubles, members: &[StockRegistry]) -> Vec<String> {
        let failed = |deeds: &'_ [Deed]| -> Vec<String> {
            let failed = deeds.iter().filter_map(|deed| Some((deed, deed.result.as_ref().err()?)));
            failed
                .map(|(deed, error)| format!("pull by {} of {}: {error:#}", deed.client, deed.repository))
                .collect()
        };
        let mut problems = failed(&self.0.pulls);
        for deed in &self.0.pushes {
            let Err(error) = &deed.result else { continue };
            // Whoever was asked anything of this push: a session's requests all go to one member.
            let writes = |member: &&StockRegistry| {
                let requests = member.requests_for(&deed.repository);
                requests.iter().any(|request| !matches!(request.method.as_str(), "GET" | "HEAD"))
            };
            let excused = members.iter().filter(writes).any(|member| troubles.met(member.name(), deed.span));
            if !excused {
                let (client, repository) = (deed.client, &deed.repository);
                problems.push(format!("push by {client} to {repository}, whose members lived: {error:#}"));
            }
        }
        problems.extend(self.0.lost.iter().map(|image| format!("never arrived: {image}")));
        problems
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |deeds: &[Deed]| {
            let failed = deeds.iter().filter(|deed| deed.result.is_err()).count();
            format!("{} of which {failed} failed", deeds.len())
        };
        write!(f, "pulls: {}; pushes: {}", count(&self.0.pulls), count(&self.0.pushes))
    }
}
