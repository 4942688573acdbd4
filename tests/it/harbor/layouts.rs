//! Harbor 1.x, nodes without a common database, and pools that mix Harbor with plain registries.

use futures_util::future::join_all;
use tempfile::TempDir;

use super::fixture::{Accounts, CredentialKind, HarborSite, harbor_section};
use crate::harness::certs::Certificates;
use crate::harness::client::TestClient;
use crate::harness::config::ConfigBuilder;
use crate::harness::gateway::Gateway;
use crate::harness::harbor::{HarborDatabase, HarborNode, HarborVersion, Role};
use crate::harness::image::Image;
use crate::harness::port::ReservedPort;
use crate::harness::registry::StockRegistry;
use crate::harness::{pull, push, random_secret, wait};

/// Nodes that share nothing, each with its own database of the same users and projects, and the gateway in front of them.
struct Independent {
    gateway: Gateway,
    nodes: Vec<HarborNode>,
    databases: Vec<HarborDatabase>,
    accounts: Accounts,
    certificates: Certificates,
    authority: String,
    _port: ReservedPort,
    _dir: TempDir,
}

impl Independent {
    async fn start(kind: CredentialKind) -> Self {
        Self::start_with(kind, "").await
    }

    /// With further keys of the provider.
    async fn start_with(kind: CredentialKind, provider: &str) -> Self {
        let port = ReservedPort::on_loopback();
        let dir = TempDir::with_prefix("tidegate-independent-").expect("a temporary directory");
        let certificates = Certificates::new(dir.path());
        let leaf = certificates.leaf("hub", &["127.0.0.1"]);
        let authority = format!("127.0.0.1:{}", port.number());
        let accounts = Accounts::new();
        let mut config = ConfigBuilder::new(dir.path())
            .external_url(&format!("https://{authority}"))
            .tls_listener(port.address(), &leaf)
            .provider(&format!("{{ harbor: {{ pool: main{provider} }} }}"))
            .storage("replicated")
            .pool_key("kind: harbor")
            .pool_key(&harbor_section(&accounts, ""));
        let (mut nodes, mut databases) = (Vec::new(), Vec::new());
        for number in 0..2 {
            let database = HarborDatabase::new();
            accounts.fill(&database);
            let node = HarborNode::builder(&format!("node{number}")).database(&database).start().await;
            let (name, url, credential) = (node.name(), node.url(), kind.yaml(&node));
            // Robots of the same name have another secret on every node.
            let probe = random_secret();
            database.set_robot_secret("robot$probe", &probe);
            config = config.member_yaml(&format!(
                "{{ name: {name}, url: \"{url}\", credential: {credential}, account: {{ user: \"robot$probe\", password: \"{probe}\" }} }}"
            ));
            nodes.push(node);
            databases.push(database);
        }
        let gateway = Gateway::start(&config.render(), dir.path()).await;
        Self { gateway, nodes, databases, accounts, certificates, authority, _port: port, _dir: dir }
    }

    fn client(&self) -> TestClient {
        self.gateway.client(&self.certificates.authority()).with_host(&self.authority)
    }

    async fn authorized(&self, user: &str, password: &str, scopes: &[&str]) -> TestClient {
        let token = self.client().token(user, password, scopes).await;
        self.client().with_bearer(&token)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_without_a_common_database_have_a_home_for_each_project() {
    // Side by side: most of it is waiting.
    join_all([CredentialKind::Token, CredentialKind::Exchange, CredentialKind::Relay].map(
        |kind| async move {
            let site = Independent::start(kind).await;
            let mut homes = Vec::new();
            for project in ["team", "team2", "other", "pub"] {
                for database in &site.databases {
                    database.grant("ci", project, Role::Maintainer);
                }
                let repository = format!("{project}/app");
                let scope = format!("repository:{repository}:pull,push");
                let image = Image::random(&[9_000, 500]);
                let client = site.authorized("ci", &site.accounts.ci, &[&scope]).await;
                push::image_by_patch(&client, &repository, "v1", &image).await;
                for _ in 0..3 {
                    pull::image(&client, &repository, "v1", &image).await;
                }
                // Who may only pull looks everywhere before a digest is missing.
                let reader = site
                    .authorized("ci", &site.accounts.ci, &[&format!("repository:{repository}:pull")])
                    .await;
                pull::image(&reader, &repository, "v1", &image).await;
                let digest = &image.manifest.digest;
                let held: Vec<bool> = {
                    let mut held = Vec::new();
                    for node in &site.nodes {
                        let client = node.client().with_basic("ci", &site.accounts.ci);
                        held.push(pull::manifest(&client, &repository, digest).await.status == 200);
                    }
                    held
                };
                assert_eq!(held.iter().filter(|held| **held).count(), 1, "{kind:?} {project}: {held:?}");
                homes.push((repository, image, held[1]));
            }
            // The home is down: reads go to the others, writes say when to come back.
            let (repository, image, second) = &homes[0];
            let home = &site.nodes[usize::from(*second)];
            let client = site
                .authorized("ci", &site.accounts.ci, &[&format!("repository:{repository}:pull,push")])
                .await;
            home.kill().await;
            wait::until("the home is out", async || {
                let answer = client.post(&format!("/v2/{repository}/blobs/uploads/"), "").await;
                (answer.status == 503).then_some(())
            })
            .await;
            // What was pushed a moment ago is not unknown, and no older one is given for it.
            let missing = pull::manifest(&client, repository, "v1").await;
            assert_eq!(missing.status, 503, "the other node has no copy in this test: {}", missing.text());
            assert!(missing.text().contains("newest"), "{}", missing.text());
            home.restart().await;
            wait::until("the home is back", async || {
                pull::try_image(&client, repository, "v1", image).await.ok()
            })
            .await;
        },
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_one_node_alone_knows_gets_in_and_works() {
    let site = Independent::start_with(CredentialKind::Token, ", foreign_accounts: true").await;
    let secret = random_secret();
    for (number, database) in site.databases.iter().enumerate() {
        let name = format!("robot$only{number}");
        database.add_robot(&name, &secret, &[("team", &["pull", "push"]), ("team2", &["pull", "push"])]);
    }
    let gets_in = async |number: usize| {
        let name = format!("robot$only{number}");
        for project in ["team", "team2"] {
            let repository = format!("{project}/app{number}");
            let scope = format!("repository:{repository}:pull,push");
            let image = Image::random(&[9_000]);
            let client = site.authorized(&name, &secret, &[&scope]).await;
            push::image_by_patch(&client, &repository, "v1", &image).await;
            pull::image(&client, &repository, "v1", &image).await;
        }
        // Wrong everywhere is wrong.
        site.client().token_answer(&name, "wrong", &[]).await.is(401);
    };
    // Side by side: a node takes its time to say no.
    join_all((0..2).map(gets_in)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_grants_counts_for_nothing_at_the_home_of_a_project() {
    let site = Independent::start(CredentialKind::Token).await;
    let (both, one) = (random_secret(), random_secret());
    let image = Image::random(&[9_000]);
    for number in 0..4 {
        let project = format!("secret{number}");
        // The project is at one node; at the other one somebody makes one of the same name and is its administrator there. Which of the
        // two is the project's home, its name says.
        for (database, admin) in [(&site.databases[0], "mallory"), (&site.databases[1], "eve")] {
            database.add_project(&project, false);
            for (name, password) in [("mallory", &both), ("eve", &both)] {
                database.add_user(name, password);
            }
            database.grant(admin, &project, Role::ProjectAdmin);
        }
        // Known at the second node alone.
        site.databases[1].add_user("only-there", &one);
        site.databases[1].grant("only-there", &project, Role::ProjectAdmin);
        let scope = format!("repository:{project}/app:pull,push");
        let mut pushed = Vec::new();
        for (user, password) in [("mallory", &both), ("eve", &both), ("only-there", &one)] {
            let client = site.authorized(user, password, &[&scope]).await;
            if push::try_image_by_patch(&client, &format!("{project}/app"), "v1", &image).await.is_ok() {
                pushed.push(user);
            }
        }
        assert!(pushed == ["mallory"] || pushed == ["eve", "only-there"], "{project}: {pushed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn harbor_1_is_served_by_its_own_tokens() {
    for kind in [CredentialKind::Token, CredentialKind::Exchange] {
        let first = |node: crate::harness::harbor::HarborNodeBuilder| node.version(HarborVersion::V1_10);
        let site = HarborSite::start_with(2, kind, first, |config| {
            config.replace_pool_key("harbor: { ", "harbor: { version: 1, ")
        })
        .await;
        for (user, password) in [("alice", &site.accounts.alice), ("robot$team+ci", &site.accounts.robot)] {
            let image = Image::random(&[9_000, 500]);
            let client = site.authorized(user, password, &["repository:team/app:pull,push"]).await;
            push::image_by_patch(&client, "team/app", "v1", &image).await;
            for _ in 0..6 {
                pull::image(&client, "team/app", "v1", &image).await;
            }
        }
        let guest = site.authorized("carol", &site.accounts.carol, &["repository:team/app:pull,push"]).await;
        guest.post("/v2/team/app/blobs/uploads/", "").await.is(401);
        let api = site.client().with_basic("alice", &site.accounts.alice);
        api.get("/api/users/current").await.is(200);
        api.get("/api/internal/configurations").await.is(404);
        let admin = site.accounts.database.admin_password().to_owned();
        let client = site.authorized("admin", &admin, &["registry:catalog:*"]).await;
        let listed = client.get("/v2/_catalog").await.is(200);
        assert_eq!(listed.json()["repositories"], serde_json::json!(["team/app"]), "{kind:?}");
        site.nodes[0].set_database_gone(true);
        site.gateway
            .wait_for_log("the node is out", |line| {
                line["message"] == "member is out" && line["member"] == "node0"
            })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_may_mix_harbor_nodes_and_plain_registries() {
    let plain = StockRegistry::builder("plain");
    let storage = TempDir::with_prefix("tidegate-mixed-").expect("a temporary directory");
    let plain = plain.storage(storage.path()).start().await;
    let shared = |node: crate::harness::harbor::HarborNodeBuilder| node.storage(storage.path());
    let url = plain.url();
    let site = HarborSite::start_with(1, CredentialKind::Exchange, shared, |config| {
        // One member of two is too few for reads, which then also try the one that is out: last.
        let health = "{ interval: 500ms, timeout: 20s, rise: 1, fall: 2, panic_percent: 90 }";
        let plain = format!("{{ name: plain, url: \"{url}\", kind: registry, credential: none }}");
        config.health(health).member_yaml(&plain)
    })
    .await;
    // Which member a blob comes from follows from its digest: of forty, each has some.
    let image = Image::random(&[200; 40]);
    let client = site.authorized("alice", &site.accounts.alice, &["repository:team/app:pull,push"]).await;
    push::image_by_patch(&client, "team/app", "v1", &image).await;
    for _ in 0..2 {
        pull::image(&client, "team/app", "v1", &image).await;
    }
    for member in ["node0", "plain"] {
        wait::until(&format!("a line of {member}"), async || {
            let lines = site.gateway.access_log();
            lines.iter().any(|line| line.member() == member && line.status() == 200).then_some(())
        })
        .await;
    }
    // Pushes go to Harbor, which keeps a list of what it has.
    let lines = site.gateway.access_log();
    let writes = lines.iter().filter(|line| !["GET", "HEAD"].contains(&line.method()));
    for line in writes.filter(|line| line.repository() == "team/app") {
        assert_eq!(line.member(), "node0", "{line:?}");
    }
    // Rights are Harbor's for both, and pages come from Harbor alone.
    let stranger = site.authorized("bob", &site.accounts.bob, &["repository:team/app:pull"]).await;
    for _ in 0..4 {
        pull::manifest(&stranger, "team/app", "v1").await.is(401);
        site.client().get("/api/v2.0/ping").await.is(200);
    }
    // Without any node, what the registry has can still be pulled, and nothing pushed. Harbor keeps tags to itself.
    site.nodes[0].kill().await;
    let digest = &image.manifest.digest;
    wait::until("pulled from the registry", async || {
        pull::try_image(&client, "team/app", digest, &image).await.ok()
    })
    .await;
    client.post("/v2/team/app/blobs/uploads/", "").await.is(504);
    // A node that is known to be out is not asked before the registry that serves.
    site.gateway.wait_for_state("node0", "unhealthy").await;
    let retries = async || site.gateway.metrics().await.sum("tidegate_retries_total", &[]);
    let before = retries().await;
    for _ in 0..5 {
        let answer = pull::manifest(&client, "team/app", digest).await.is(200);
        assert_eq!(site.gateway.served_by(&answer).await, "plain");
    }
    assert!((retries().await - before).abs() < f64::EPSILON);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_harbor_replicates_through_the_gateway_in_both_directions() {
    let site = HarborSite::start(2, CredentialKind::Token).await;
    // The requests that a Harbor makes when it pushes to, and pulls from, a registry endpoint: recordings 470.
    let (user, password) = ("ci", &site.accounts.ci);
    let api = site.client().with_basic(user, password);
    api.get("/api/version").await.is(200);
    api.get("/api/v2.0/labels?scope=g").await.is(200);
    api.get("/api/v2.0/projects?q=name%3Dteam").await.is(200);
    let challenge = site.client().get("/v2/").await.is(401);
    assert!(challenge.header("www-authenticate").expect("a challenge").starts_with("Bearer "));
    let answer = site.client().token_answer(user, password, &["repository:team/app:pull,push"]).await.is(200);
    let (token, answer) = (answer.token(), answer.json());
    // Without these Harbor asks for a new token before every single request.
    assert!(answer["expires_in"].as_u64().is_some_and(|life| life >= 60), "{answer}");
    let issued: jiff::Timestamp = answer["issued_at"].as_str().expect("a time").parse().expect("RFC 3339");
    assert!(jiff::Timestamp::now().duration_since(issued).as_secs() < 60, "{answer}");
    let client = site.client().with_bearer(&token);
    let image = Image::random(&[9_000, 500]);
    for blob in image.blobs() {
        client.head(&format!("/v2/team/app/blobs/{}", blob.digest)).await.is(404);
        let query = format!("/api/v2.0/repositories?q=blob_digest%3D{}", blob.digest);
        api.get(&query).await.is(200);
        // Harbor sends the whole blob in one PUT.
        push::blob(&client, "team/app", blob).await;
    }
    push::manifest(&client, "team/app", "v1", &image).await;
    // The other direction: lists by the API, several Accept lines, manifests and blobs.
    api.get("/api/v2.0/projects/team/repositories?page=1&page_size=100").await.is(200);
    let list = "/api/v2.0/projects/team/repositories/app/artifacts?with_label=true&with_accessory=true&with_tag=true";
    api.get(list).await.is(200);
    let request = client
        .request(http::Method::GET, "/v2/team/app/manifests/v1")
        .header("accept", image.manifest_type())
        .header("accept", "application/vnd.docker.distribution.manifest.list.v2+json");
    let got = client.send(request.empty()).await;
    assert_eq!(got.is(200).body, image.manifest.bytes);
    pull::image(&client, "team/app", "v1", &image).await;
    assert_eq!(site.refusals_at_nodes(), Vec::<String>::new());
}
