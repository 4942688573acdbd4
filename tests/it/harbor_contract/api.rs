//! The API, the portal and what core has no page for: recordings 200-214, 361.

use serde_json::{Value, json};

use super::case::{Case, run_shuffled};
use super::world::{As as _, Pair};
use crate::harness::client::Answer;

const JSON: &str = "application/json";

/// The kind of each value: what a program that reads it relies on.
pub(super) fn shape(value: &Value) -> Value {
    match value {
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), shape(value))).collect(),
        Value::Array(list) => list.iter().map(shape).collect(),
        Value::String(_) => "string".into(),
        Value::Number(_) => "number".into(),
        Value::Bool(_) => "bool".into(),
        Value::Null => Value::Null,
    }
}

pub(super) fn json_of(answer: &Answer) -> Value {
    answer.json()
}

pub(super) fn healthy() -> String {
    let names = ["core", "database", "jobservice", "portal", "redis", "registry", "registryctl"];
    let components = names.map(|name| format!("{{\"name\":\"{name}\",\"status\":\"healthy\"}}"));
    format!("{{\"components\":[{}],\"status\":\"healthy\"}}\n", components.join(","))
}

fn system_info_short() -> Value {
    json!({
        "auth_mode": "db_auth", "banner_message": "", "harbor_version": "v2.9.5", "primary_auth_mode": false,
        "self_registration": false,
    })
}

/// 200-208, 210-214.
#[tokio::test]
async fn single_answers() {
    let pair = Pair::start().await;
    let (names, anyone) = (&pair.names, pair.a.client());
    let alice = pair.a.login(&names.alice);
    let not_found = |case: Case| case.status(404).says("content-type", "text/html; charset=utf-8");
    let no_certificate = "resource not found: cert not found in path: /etc/core/ca/ca.crt";
    let head = "method HEAD is not allowed, but [GET] are";
    let cases = vec![
        Case::get("200", &anyone, "/api/v2.0/ping")
            .status(200)
            .text("Pong")
            .says("content-type", "text/plain"),
        Case::get("201", &anyone, "/api/v2.0/health").status(200).text(healthy()).says("content-type", JSON),
        not_found(Case::get("204", &anyone, "/api/health")),
        Case::get("205", &anyone, "/api/version")
            .status(200)
            .text("{\"version\":\"v2.0\"}\n")
            .says("content-type", "text/plain; charset=utf-8"),
        Case::get("206", &anyone, "/api/v2.0/users/current")
            .error(401, "UNAUTHORIZED", "unauthorized")
            .lacks("www-authenticate"),
        Case::get("207", &alice, "/api/v2.0/users").error(403, "FORBIDDEN", &names.alice.name),
        Case::get("208", &alice, "/api/v2.0/projects/4711").error(403, "FORBIDDEN", "forbidden"),
        Case::get("210", &anyone, "/").portal("text/html"),
        Case::get("211", &anyone, "/foo").portal("text/html"),
        not_found(Case::get("212", &anyone, "/service/foo")),
        Case::head("213", &anyone, "/api/v2.0/ping").error(405, "METHOD_NOT_ALLOWED", head),
        Case::get("214", &anyone, "/api/v2.0/systeminfo/getcert").error(404, "NOT_FOUND", no_certificate),
    ];
    run_shuffled(names.seed, cases).await;
    let answer = Case::get("204", &anyone, "/api/health").status(404).run().await;
    assert!(answer.text().contains("<title>404 - Page Not Found</title>"), "[204] {}", answer.text());
    // 213 has a length, from which the text in the table was taken: 97.
    let answer = Case::head("213", &anyone, "/api/v2.0/ping").status(405).run().await;
    assert_eq!(answer.header("content-length"), Some("97"), "[213]");
}

/// 202, 203: what everybody may know of the system, and what a user may.
#[tokio::test]
async fn system_information() {
    let pair = Pair::start().await;
    let anyone = Case::get("202", &pair.a.client(), "/api/v2.0/systeminfo").says("content-type", JSON);
    assert_eq!(json_of(&anyone.status(200).run().await), system_info_short(), "[202]");
    let admin = Case::get("203", &pair.a.login(&pair.admin()), "/api/v2.0/systeminfo").status(200);
    let mut info = json_of(&admin.run().await);
    let time = info.as_object_mut().expect("an object").remove("current_time");
    assert!(
        time.is_some_and(|time| time.as_str().is_some_and(|time| time.len() == 24)),
        "[203] to the millisecond"
    );
    let mut wanted = system_info_short();
    for (key, value) in [
        ("external_url", json!(pair.endpoint)),
        ("has_ca_root", json!(false)),
        ("notification_enable", json!(true)),
        ("project_creation_restriction", json!("everyone")),
        ("read_only", json!(false)),
        ("registry_storage_provider_name", json!("filesystem")),
        ("registry_url", json!(pair.endpoint.trim_start_matches("http://"))),
    ] {
        wanted[key] = value;
    }
    assert_eq!(info, wanted, "[203]");
}

/// 209, 361: pages of projects; never compressed.
#[tokio::test]
async fn project_list() {
    let pair = Pair::start().await;
    let admin = pair.a.login(&pair.admin());
    let first = Case::get("209", &admin, "/api/v2.0/projects?page=1&page_size=1")
        .status(200)
        .says("content-type", JSON)
        .says("x-total-count", "4")
        .says("link", "</api/v2.0/projects?page=2&page_size=1>; rel=\"next\"");
    let list = json_of(&first.run().await);
    let time = "string";
    let wanted = json!([{
        "creation_time": time, "current_user_role_id": "number", "current_user_role_ids": ["number"],
        "cve_allowlist": {
            "creation_time": time, "id": "number", "items": [], "project_id": "number", "update_time": time,
        },
        "metadata": { "public": "string" }, "name": "string", "owner_id": "number", "owner_name": "string",
        "project_id": "number", "repo_count": "number", "update_time": time,
    }]);
    assert_eq!(shape(&list), wanted, "[209]");
    assert_eq!(
        (&list[0]["name"], &list[0]["metadata"]["public"]),
        (&json!("library"), &json!("true")),
        "[209]"
    );
    let all = Case::get("361", &admin, "/api/v2.0/projects")
        .with("accept-encoding", "gzip")
        .status(200)
        .says("x-total-count", "4")
        .lacks("link")
        .lacks("content-encoding");
    assert_eq!(json_of(&all.run().await).as_array().map(Vec::len), Some(4), "[361]");
}
