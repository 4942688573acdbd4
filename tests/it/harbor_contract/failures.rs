//! One component of a node down at a time: recordings 219-229.

use super::api::{healthy, json_of};
use super::case::{BASIC, Case};
use super::world::{As as _, Pair, bearer, bearer_challenge, pull_push, token_target};
use crate::harness::harbor::HarborNode;

type Fault = fn(&HarborNode, bool);

/// A row of 219: what ping, `/v2/` without and with a password, tags with a token, an upload and a token request are answered.
const MATRIX: [(&str, Option<Fault>, [u16; 6]); 6] = [
    ("all up", None, [200, 401, 200, 404, 202, 200]),
    ("jobservice", Some(HarborNode::set_jobservice_gone), [200, 401, 200, 404, 202, 200]),
    ("registry", Some(HarborNode::set_registry_gone), [200, 401, 502, 404, 502, 200]),
    ("redis", Some(HarborNode::set_redis_gone), [200, 401, 200, 404, 202, 200]),
    ("database", Some(HarborNode::set_database_gone), [200, 401, 401, 401, 500, 401]),
    ("all up again", None, [200, 401, 200, 404, 202, 200]),
];

/// 219.
#[tokio::test]
async fn matrix() {
    let pair = Pair::start().await;
    let (names, app, node) = (&pair.names, &pair.names.app, &pair.a);
    let admin = node.login(&pair.admin());
    let token = bearer(node, &names.alice, &[&pull_push(app)]).await;
    for (row, fault, wanted) in MATRIX {
        if let Some(fault) = fault {
            fault(node, true);
        }
        let answers = [
            node.client().get("/api/v2.0/ping").await,
            node.client().get("/v2/").await,
            admin.get("/v2/").await,
            token.get(&format!("/v2/{app}/tags/list")).await,
            admin.post(&format!("/v2/{app}/blobs/uploads/"), "").await,
            admin.get(&token_target(&[])).await,
        ];
        let statuses = answers.map(|answer| answer.status.as_u16());
        assert_eq!(statuses, wanted, "[219] {row}");
        if let Some(fault) = fault {
            fault(node, false);
        }
    }
}

/// The components that `health` calls unhealthy; each says why.
async fn unhealthy(id: &str, node: &HarborNode) -> Vec<String> {
    let case = Case::get(id, &node.client(), "/api/v2.0/health").status(200);
    let health = json_of(&case.says("content-type", "application/json").run().await);
    assert_eq!(health["status"], "unhealthy", "[{id}] {health}");
    let components = health["components"].as_array().expect("a list");
    assert_eq!(components.len(), 7, "[{id}] {health}");
    let ill = components.iter().filter(|component| component["status"] != "healthy");
    ill.map(|component| {
        assert!(component["error"].is_string(), "[{id}] {component}");
        component["name"].as_str().expect("a name").to_owned()
    })
    .collect()
}

/// 220, 223, 227, 227b, 227g: always 200; what is wrong is inside.
#[tokio::test]
async fn health() {
    let pair = Pair::start().await;
    let node = &pair.a;
    node.set_jobservice_gone(true);
    let ill = unhealthy("220", node).await;
    assert!(ill.contains(&"jobservice".to_owned()) && !ill.contains(&"core".to_owned()), "[220] {ill:?}");
    node.set_registry_gone(true);
    let ill = unhealthy("223", node).await;
    assert!(["jobservice", "registry"].iter().all(|name| ill.contains(&(*name).to_owned())), "[223] {ill:?}");
    node.set_jobservice_gone(false);
    node.set_registry_gone(false);
    node.set_redis_gone(true);
    assert_eq!(unhealthy("227", node).await, ["jobservice", "redis"], "[227]");
    node.set_redis_gone(false);
    Case::get("227b", &node.client(), "/api/v2.0/health").status(200).text(healthy()).run().await;
    node.set_database_gone(true);
    assert_eq!(unhealthy("227g", node).await, ["database"], "[227g]");
}

/// 221, 222: nothing behind core.
#[tokio::test]
async fn no_registry() {
    let pair = Pair::start().await;
    let admin = pair.a.login(&pair.admin());
    pair.a.set_registry_gone(true);
    let bad = |case: Case| case.status(502).text("").lacks("content-type").says("content-length", "0");
    bad(Case::get("221", &admin, "/v2/")).run().await;
    bad(Case::post("222", &admin, format!("/v2/{}/blobs/uploads/", pair.names.app))).run().await;
}

/// 224-226: no redis. An upload begins and cannot go on.
#[tokio::test]
async fn no_redis() {
    let pair = Pair::start().await;
    let (app, node) = (&pair.names.app, &pair.a);
    let admin = node.login(&pair.admin());
    node.set_redis_gone(true);
    Case::get("224", &node.client(), "/api/v2.0/ping").status(200).text("Pong").run().await;
    Case::get("225", &admin, "/v2/").status(200).of_registry().text("{}").run().await;
    let at = super::uploads::start("225b", &admin, &node.url(), app).await;
    Case::patch("225c", &admin, at)
        .octets("hello")
        .error(500, "UNKNOWN", "internal server error")
        .lacks("docker-distribution-api-version")
        .run()
        .await;
    Case::get("226", &admin, token_target(&[])).status(200).run().await;
}

/// 227c-227i: no database. Right passwords are answered like wrong ones, only at once.
#[tokio::test]
async fn no_database() {
    let pair = Pair::start().await;
    let (names, app, node) = (&pair.names, &pair.names.app, &pair.a);
    let admin = node.login(&pair.admin());
    let token = bearer(node, &names.alice, &[&pull_push(app)]).await;
    node.set_database_gone(true);
    Case::get("227c", &node.client(), "/api/v2.0/ping").status(200).text("Pong").run().await;
    Case::get("227d", &admin, "/v2/").refused(BASIC, "unauthorized").run().await;
    let challenge = bearer_challenge(&pair.endpoint, "");
    Case::get("227e", &node.client(), "/v2/").refused(challenge, "unauthorized").run().await;
    Case::get("227f", &admin, token_target(&[])).status(401).text("").run().await;
    let answer = Case::get("227f2", &admin, token_target(&[&pull_push(app)])).status(200).run().await;
    let (_, claims) = super::case::token_parts(&answer);
    assert_eq!(
        (claims.get("sub"), &claims["access"][0]["actions"]),
        (None, &serde_json::json!([])),
        "[227f2]"
    );
    let tags =
        Case::get("227h", &token, format!("/v2/{app}/tags/list")).code(401, "UNAUTHORIZED").of_registry();
    let answer = tags.says("www-authenticate", "").run().await;
    assert!(answer.text().contains("SQLSTATE"), "[227h] {}", answer.text());
    node.set_database_gone(false);
    Case::get("227i", &admin, "/v2/").status(200).of_registry().text("{}").run().await;
}

/// 228, 229: core down behind its nginx, and back.
#[tokio::test]
async fn no_core() {
    let pair = Pair::start().await;
    pair.a.set_core_gone(true);
    Case::get("228", &pair.a.client(), "/v2/").page_of_nginx(502, "Bad Gateway").run().await;
    pair.a.set_core_gone(false);
    Case::get("229", &pair.a.client(), "/api/v2.0/ping").status(200).text("Pong").run().await;
}
