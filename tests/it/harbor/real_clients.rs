//! docker and skopeo against Harbor nodes behind the gateway while others use it too: no correct client is ever refused, and whoever is
//! refused is told so in the words that users of Harbor know.
//!
//! For each kind of credential there are 200 logins, 50 pushes and 200 pulls, half of them with two nodes and half with three.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::ensure;

use super::fixture::{CREDENTIAL_KINDS, CredentialKind, HarborSite};
use crate::harness::client::basic;
use crate::harness::clients::docker::{Docker, Dockerd};
use crate::harness::clients::skopeo::Skopeo;
use crate::harness::clients::{Operation, RealClient};
use crate::harness::gateway::AccessLine;
use crate::harness::image::Image;
use crate::harness::{Result, pull, push};

/// What the clients of one site do in all.
const WHOLE: Work = Work { logins: 100, pushes: 25, pulls: 100 };
/// docker is one client of the six, with a fifth of the work.
const PUSHES_OF_DOCKER: usize = 5;
const PUSHES_OF_SKOPEO: usize = 4;
/// After each push.
const LOGINS_AND_PULLS: usize = 4;
/// How often everybody else comes.
const BEAT: Duration = Duration::from_millis(200);

/// How many commands of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Work {
    logins: usize,
    pushes: usize,
    pulls: usize,
}

impl Work {
    fn plus(self, other: Self) -> Self {
        Self {
            logins: self.logins + other.logins,
            pushes: self.pushes + other.pushes,
            pulls: self.pulls + other.pulls,
        }
    }

    fn commands(self) -> usize {
        self.logins + self.pushes + self.pulls
    }
}

/// Who was answered 401, and where: the client, the route, and the repository where it is about one.
type Refusals = BTreeMap<(String, String, String), usize>;

fn count(refusals: &mut Refusals, agent: &str, route: &str, repository: &str, times: usize) {
    *refusals.entry((agent.to_owned(), route.to_owned(), repository.to_owned())).or_default() += times;
}

/// One client: pushes, and after each push logs in and pulls four times, its own image and one that all of them share.
async fn work<C: RealClient>(mut client: C, repository: &str, pushes: usize, shared: &Image) -> Result<Work> {
    client.login().await?;
    let mut done = Work { logins: 1, ..Work::default() };
    for number in 0..pushes {
        let (image, tag) = (Image::random(&[4_000]), format!("v{number}"));
        client.push(&image, repository, &tag).await?;
        done.pushes += 1;
        for turn in 0..LOGINS_AND_PULLS {
            if turn % 2 == 0 {
                client.pull(&image, repository, &tag).await?;
            } else {
                client.pull(shared, "team/shared", "v1").await?;
            }
            done.pulls += 1;
            // The first login of all was before the first push.
            if done.logins < pushes * LOGINS_AND_PULLS {
                client.login().await?;
                done.logins += 1;
            }
        }
    }
    Ok(done)
}

/// What everybody else does meanwhile. Each answer is the right one; gives what of it was to be refused.
async fn others(site: &HarborSite, done: &AtomicBool) -> Result<Refusals> {
    let (accounts, plain, mut refused) = (&site.accounts, site.client(), Refusals::new());
    let mut beat = tokio::time::interval(BEAT);
    while !done.load(Ordering::Relaxed) {
        beat.tick().await;
        let anonymous = "/service/token?service=tidegate-test&scope=repository:pub/app:pull";
        let token = plain.try_get(anonymous).await?.ensure(200)?.try_json()?;
        let reader = plain.clone().with_bearer(token["token"].as_str().unwrap_or_default());
        pull::try_manifest(&reader, "pub/app", "v1").await?.ensure(200)?;
        plain.try_get("/v2/").await?.ensure(401)?;
        count(&mut refused, "other", "ping", "", 1);
        plain.clone().with_basic("alice", &accounts.alice).try_get("/v2/").await?.ensure(200)?;
        let carol = plain.clone().with_basic("carol", &accounts.carol);
        let user = carol.try_get("/api/v2.0/users/current").await?.ensure(200)?.try_json()?;
        ensure!(user["username"] == "carol", "somebody else: {user}");
        let scopes = ["repository:team/shared:pull", "repository:nowhere/app:pull"];
        let reader = plain.clone().with_bearer(&plain.try_token("carol", &accounts.carol, &scopes).await?);
        count(&mut refused, "other", "ping", "", 1);
        reader.try_get("/v2/team/shared/tags/list").await?.ensure(200)?;
        pull::try_manifest(&reader, "nowhere/app", "v1").await?.ensure(401)?;
        count(&mut refused, "other", "manifest", "nowhere/app", 1);
    }
    Ok(refused)
}

/// Somebody who does not know bob's password any more.
async fn wrong_passwords(site: &HarborSite, done: &AtomicBool) -> Result<Refusals> {
    let mut refused = Refusals::new();
    while !done.load(Ordering::Relaxed) {
        site.client().try_token_answer("bob", "wrong", &["repository:team/app:pull"]).await?.ensure(401)?;
        count(&mut refused, "other", "ping", "", 1);
        count(&mut refused, "other", "token", "", 1);
    }
    Ok(refused)
}

/// Every 401 of the access log.
fn refusals(log: &[AccessLine]) -> Refusals {
    let mut refusals = Refusals::new();
    for line in log.iter().filter(|line| line.status() == 401) {
        let agent = line.text("user_agent");
        let agent = ["docker", "skopeo"].into_iter().find(|name| agent.starts_with(name)).unwrap_or("other");
        count(&mut refusals, agent, line.route(), line.repository(), 1);
    }
    refusals
}

/// An image that everybody may pull, and one that the members of `team` may. Gives what was refused meanwhile: two challenges.
async fn push_shared(site: &HarborSite, shared: &Image) -> Refusals {
    let mut refused = Refusals::new();
    for (user, password, repository) in
        [("ci", &site.accounts.ci, "team/shared"), ("alice", &site.accounts.alice, "pub/app")]
    {
        let scope = format!("repository:{repository}:pull,push");
        let client = site.authorized(user, password, &[&scope]).await;
        count(&mut refused, "other", "ping", "", 1);
        push::image_by_patch(&client, repository, "v1", shared).await;
    }
    refused
}

/// Six clients at once do the whole work; gives that of docker and that of skopeo.
async fn clients(site: &HarborSite, shared: &Image) -> Result<(Work, Work)> {
    let (dockerd, accounts) = (Dockerd::shared().await, &site.accounts);
    let skopeo = |user: &str, password: &str| Skopeo::new(&site.endpoint_of(user, password));
    let (docker, a, b, c, d, e) = tokio::try_join!(
        work(Docker::new(&site.endpoint, &dockerd), "team/docker", PUSHES_OF_DOCKER, shared),
        work(skopeo("alice", &accounts.alice), "team2/alice", PUSHES_OF_SKOPEO, shared),
        work(skopeo("ci", &accounts.ci), "team/ci0", PUSHES_OF_SKOPEO, shared),
        work(skopeo("ci", &accounts.ci), "team2/ci1", PUSHES_OF_SKOPEO, shared),
        work(skopeo("robot$team+ci", &accounts.robot), "team/robot0", PUSHES_OF_SKOPEO, shared),
        work(skopeo("robot$team+ci", &accounts.robot), "team/robot1", PUSHES_OF_SKOPEO, shared),
    )?;
    Ok((docker, [a, b, c, d, e].into_iter().fold(Work::default(), Work::plus)))
}

async fn busy(nodes: usize, kind: CredentialKind) {
    let mut site = HarborSite::start(nodes, kind).await;
    let shared = Image::random(&[9_000, 300]);
    let mut expected = push_shared(&site, &shared).await;
    let done = AtomicBool::new(false);
    let clients = async {
        let ended = Box::pin(clients(&site, &shared)).await;
        done.store(true, Ordering::Relaxed);
        ended
    };
    let (ended, others, wrong) = tokio::join!(clients, others(&site, &done), wrong_passwords(&site, &done));
    let (docker, skopeo) = ended.unwrap_or_else(|error| panic!("{kind:?}: {error:#}"));
    assert_eq!(docker.plus(skopeo), WHOLE);

    // Each command of a client is told once where to get a token, and is never refused again.
    count(&mut expected, "docker", "ping", "", docker.commands());
    count(&mut expected, "skopeo", "ping", "", skopeo.commands());
    for meanwhile in [others, wrong] {
        let meanwhile = meanwhile.unwrap_or_else(|error| panic!("{kind:?}: {error:#}"));
        assert!(!meanwhile.is_empty(), "nobody else was there");
        for ((agent, route, repository), times) in meanwhile {
            count(&mut expected, &agent, &route, &repository, times);
        }
    }
    site.gateway.stop().await;
    let log = site.gateway.access_log();
    assert_eq!(refusals(&log), expected, "{kind:?}: the 401 of the access log");
    let faults: Vec<_> = log.iter().filter(|line| line.status() >= 500).collect();
    assert!(faults.is_empty(), "{kind:?}: {faults:?}");
    assert_eq!(refusals_of_correct_clients(&site), Vec::<String>::new(), "{kind:?}: at the nodes");
    for node in &site.nodes {
        let served = node.requests().into_iter().filter(|request| request.path().starts_with("/v2/team"));
        assert!(served.count() > 20, "{kind:?}: {} was left alone", node.name());
    }
}

/// What the nodes refused with 401 and should not have: anything but bob's wrong password and the project that is not there.
fn refusals_of_correct_clients(site: &HarborSite) -> Vec<String> {
    let wrong = basic("bob", "wrong");
    let requests = site.nodes.iter().flat_map(crate::harness::harbor::HarborNode::requests);
    let refused = requests.filter(|request| {
        request.status == 401
            && request.header("authorization") != Some(&wrong)
            && !request.path().starts_with("/v2/nowhere/")
    });
    refused.map(|request| format!("{} {} {:?}", request.method, request.target, request.headers)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_correct_client_is_refused_by_two_nodes_with_minted_tokens() {
    Box::pin(busy(2, CredentialKind::Token)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_correct_client_is_refused_by_three_nodes_with_minted_tokens() {
    Box::pin(busy(3, CredentialKind::Token)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_correct_client_is_refused_by_two_nodes_with_exchanged_tokens() {
    Box::pin(busy(2, CredentialKind::Exchange)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_correct_client_is_refused_by_three_nodes_with_exchanged_tokens() {
    Box::pin(busy(3, CredentialKind::Exchange)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_correct_client_is_refused_by_two_nodes_with_relayed_passwords() {
    Box::pin(busy(2, CredentialKind::Relay)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_correct_client_is_refused_by_three_nodes_with_relayed_passwords() {
    Box::pin(busy(3, CredentialKind::Relay)).await;
}

/// What registries say to those who may not, and what clients pass on.
const DENIED: &str = "denied: requested access to the resource is denied";

/// The words of a client that was refused.
fn words<T>(ended: Result<T>) -> String {
    match ended {
        Ok(_) => panic!("it was let in"),
        Err(error) => format!("{error:#}"),
    }
}

async fn refuses(kind: CredentialKind, dockerd: &Arc<Dockerd>) {
    let site = HarborSite::start(2, kind).await;
    let (accounts, image) = (&site.accounts, Image::random(&[4_000]));
    let client = site.authorized("alice", &accounts.alice, &["repository:team/app:pull,push"]).await;
    push::image_by_patch(&client, "team/app", "v1", &image).await;

    let wrong = site.endpoint_of("alice", "wrong");
    let told = words(Docker::new(&wrong, dockerd).login().await);
    assert!(told.contains("unauthorized: unknown user or wrong password"), "{kind:?}: {told}");
    let told = words(Skopeo::new(&wrong).login().await);
    assert!(told.contains("invalid username/password"), "{kind:?}: {told}");

    for (user, password, repository, operation) in [
        ("carol", &accounts.carol, "team/app", Operation::Push),
        ("alice", &accounts.alice, "nowhere/app", Operation::Push),
        ("alice", &accounts.alice, "nowhere/app", Operation::Pull),
        ("robot$other+ci", &accounts.other_robot, "team/app", Operation::Push),
        ("robot$other+ci", &accounts.other_robot, "team/app", Operation::Pull),
    ] {
        let endpoint = site.endpoint_of(user, password);
        let (mut docker, mut skopeo) = (Docker::new(&endpoint, dockerd), Skopeo::new(&endpoint));
        docker.login().await.expect("a right password");
        skopeo.login().await.expect("a right password");
        let by_skopeo = if operation == Operation::Push {
            let by_docker = words(docker.push(&image, repository, "v2").await);
            assert!(by_docker.contains(&format!("\n{DENIED}")), "{kind:?} {user}: {by_docker}");
            skopeo.push(&image, repository, "v2").await
        } else {
            let by_docker = words(docker.pull(&image, repository, "v1").await);
            let name = format!("{}/{repository}", endpoint.authority);
            let told = format!(
                "pull access denied for {name}, repository does not exist or may require 'docker login': {DENIED}"
            );
            assert!(by_docker.contains(&told), "{kind:?} {user}: {by_docker}");
            skopeo.pull(&image, repository, "v1").await
        };
        let by_skopeo = words(by_skopeo);
        assert!(by_skopeo.contains(DENIED), "{kind:?} {user} {repository}: {by_skopeo}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_not_is_told_so_in_the_words_of_the_clients() {
    let dockerd = Dockerd::shared().await;
    for kind in CREDENTIAL_KINDS {
        refuses(kind, &dockerd).await;
    }
}
