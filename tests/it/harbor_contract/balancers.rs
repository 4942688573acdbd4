//! A plain round robin over two nodes, and replication to one: recordings 013, 300, 301, 330 in short, and the requests of 470.

use http::Method;
use serde_json::json;
use tempfile::TempDir;

use super::case::Case;
use super::contents::{OCI, push_image};
use super::world::{As as _, Names, Pair, pull_push, token_target};
use crate::harness::client::TestClient;
use crate::harness::harbor::{HarborDatabase, HarborNode, HarborRedis, PlainRoundRobin};
use crate::harness::image::Blob;
use crate::harness::push;

/// A and B behind a balancer, which is their external address.
struct Balanced {
    names: Names,
    balancer: PlainRoundRobin,
    _nodes: [HarborNode; 2],
    _storage: TempDir,
}

impl Balanced {
    async fn start() -> Self {
        let names = Names::new();
        let (database, redis) = (HarborDatabase::new(), HarborRedis::new());
        names.fill(&database);
        let storage = TempDir::with_prefix("tidegate-contract-").expect("a temporary directory");
        let mut balancer = PlainRoundRobin::reserve();
        let builder = |name: &str| {
            let builder = HarborNode::builder(name).database(&database).redis(&redis).storage(storage.path());
            builder.external_endpoint(&balancer.url())
        };
        let nodes = [builder("a").start().await, builder("b").start().await];
        balancer.start(&[&nodes[0], &nodes[1]]);
        Self { names, balancer, _nodes: nodes, _storage: storage }
    }

    fn client(&self) -> TestClient {
        TestClient::plain(self.balancer.address())
    }

    fn alice(&self) -> TestClient {
        self.client().with_basic(&self.names.alice.name, &self.names.alice.password)
    }
}

/// 013, 300: challenge, token, use. On an idle balancer the token is always used on the other node; one request in between, and it
/// always works.
#[tokio::test]
async fn tokens_of_the_other_node() {
    let site = Balanced::start().await;
    let challenge = super::world::bearer_challenge(&site.balancer.url(), "");
    Case::get("013", &site.client(), "/v2/").refused(challenge, "unauthorized").run().await;
    let target = token_target(&[&pull_push(&site.names.app)]);
    for (between, wanted) in [(0, 401), (1, 200)] {
        for _ in 0..20 {
            let token = site.alice().get(&target).await.token();
            let client = site.client().with_bearer(&token);
            for _ in 0..between {
                site.client().get("/api/v2.0/ping").await;
            }
            Case::get("300", &client, "/v2/").status(wanted).run().await;
        }
    }
}

/// 301, 330: a push by tokens fails at some step, one by passwords never does.
#[tokio::test]
async fn pushes() {
    let site = Balanced::start().await;
    let app = &site.names.app;
    let token = site.alice().get(&token_target(&[&pull_push(app)])).await.token();
    let client = site.client().with_bearer(&token);
    let mut statuses = Vec::new();
    for _ in 0..2 {
        let answer = client.post(&format!("/v2/{app}/blobs/uploads/"), "").await;
        statuses.push(answer.status.as_u16());
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [202, 401], "[301] every second request is at the other node");
    for _ in 0..3 {
        let path = push::blob(&site.alice(), app, &Blob::random(4000)).await;
        Case::head("330", &site.alice(), path).status(200).run().await;
    }
}

/// 470: what another Harbor asks of this one when it pushes to it, and when it pulls from it.
#[tokio::test]
async fn replication() {
    let pair = Pair::start().await;
    let (names, node, admin) = (&pair.names, &pair.a, pair.a.login(&pair.admin()));
    let repository = format!("{}/rep", names.team);
    let ask = |path: String| Case::get("470", &admin, path).status(200);
    ask("/api/version".to_owned()).text("{\"version\":\"v2.0\"}\n").run().await;
    ask("/api/v2.0/labels?scope=g".to_owned()).text("[]\n").run().await;
    let query = format!("q=name%3D%7B%27{}%27%7D&with_detail=false", names.team);
    let projects = ask(format!("/api/v2.0/projects?{query}")).run().await.json();
    assert_eq!(projects[0]["name"], json!(names.team), "[470] {projects}");
    Case::get("470", &node.client(), "/v2/").status(401).run().await;
    let tokens = async |actions: &str| {
        let scope = format!("repository:{repository}:{actions}");
        let answer = super::world::token_answer(&admin, &[&scope]).await;
        node.client().with_bearer(&answer.token())
    };
    let client = tokens("pull").await;
    Case::head("470", &client, format!("/v2/{repository}/manifests/v2"))
        .with("accept", OCI)
        .status(404)
        .run()
        .await;
    let client = tokens("pull,push").await;
    let mut digests = Vec::new();
    for length in [300, 500] {
        let blob = Blob::random(length);
        let digest = &blob.digest;
        Case::head("470", &client, format!("/v2/{repository}/blobs/{digest}")).status(404).run().await;
        let query = format!("q=blob_digest={digest}&page_size=1&page_number=1");
        ask(format!("/api/v2.0/repositories?{query}")).text("[]\n").run().await;
        push::blob(&client, &repository, &blob).await;
        digests.push(blob.digest);
    }
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI, "layers": [{ "mediaType": "a/b", "digest": digests[1], "size": 500 }],
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digests[0], "size": 300 },
    });
    let put = Case::new("470", Method::PUT, &client, format!("/v2/{repository}/manifests/v2"));
    put.body(OCI, manifest.to_string()).status(201).run().await;

    push_image(node, &names.alice, &names.app, &names.tag).await;
    ask(format!("/api/v2.0/projects?name={}", names.team)).run().await;
    let list = format!("/api/v2.0/projects/{}/repositories", names.team);
    let first = ask(list.clone()).says("x-total-count", "2").run().await.json();
    assert!(
        first.as_array().expect("a list").iter().any(|known| known["name"] == json!(repository)),
        "[470] {first}"
    );
    ask(format!("{list}?page=2&page_size=10")).text("[]\n").run().await;
    let query = "with_label=true&with_accessory=true";
    let artifacts = ask(format!("{list}/rep/artifacts?{query}")).run().await.json();
    assert_eq!(
        (&artifacts[0]["tags"][0]["name"], &artifacts[0]["accessories"]),
        (&json!("v2"), &json!(null)),
        "[470]"
    );
    let get = Case::get("470", &client, format!("/v2/{repository}/manifests/v2"));
    get.with("accept", OCI).status(200).text(manifest.to_string()).run().await;
}
