//! `/api` of core: what the portal, replication and probes ask for. Version 1.10 has the same below `/api` without a version.

use std::time::SystemTime;

use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::HarborVersion;
use super::answer::{self, Answer};
use super::core::CoreRequest;
use super::database::{Artifact, Project, Repository};
use super::identity::Caller;
use super::node::Node;
use super::projects;
use super::v1;

/// What there is to ask for, whether one may or not.
const PLACES: [&str; 9] = [
    "audit-logs",
    "configurations",
    "labels",
    "projects",
    "repositories",
    "search",
    "statistics",
    "systeminfo",
    "users",
];
const NO_TIME: &str = "0001-01-01T00:00:00.000Z";

pub(super) async fn answer(node: &Node, request: CoreRequest, caller: &Caller) -> Answer {
    let is_v1 = node.version == HarborVersion::V1_10;
    if request.path == "/api/version" && !is_v1 {
        return answer::content(200, "text/plain; charset=utf-8", "{\"version\":\"v2.0\"}\n");
    }
    if request.path.starts_with("/api/internal/") {
        return internal(caller);
    }
    if request.path.starts_with("/api/chartrepo/") && node.version <= HarborVersion::V2_0 {
        return v1::charts(node, &request, caller);
    }
    let prefix = if is_v1 { "/api/" } else { "/api/v2.0/" };
    let Some(rest) = request.path.strip_prefix(prefix).map(str::to_owned) else {
        return answer::page_not_found();
    };
    let parts: Vec<&str> = rest.split('/').filter(|part| !part.is_empty()).collect();
    match (&request.method, parts.as_slice()) {
        (&Method::GET, ["ping"]) => return answer::content(200, "text/plain", "Pong"),
        (_, ["ping"]) => return method_not_allowed(&request.method),
        (&Method::GET, ["health"]) => return health(node),
        (&Method::GET, ["systeminfo"]) => return system_info(node, caller),
        (&Method::GET, ["systeminfo", "getcert"]) => {
            let message = "resource not found: cert not found in path: /etc/core/ca/ca.crt";
            return answer::error(404, "NOT_FOUND", message);
        }
        (&Method::GET, ["internalconfig"]) => return internal_config(node, caller),
        (_, [first, ..]) if PLACES.contains(first) => {}
        _ if is_v1 => return answer::page_not_found(),
        _ => return answer::error(404, "NOT_FOUND", &format!("path {} was not found", request.path)),
    }
    // An anonymous caller may look around, but not one whose credential did not do.
    if request.headers.contains_key("authorization") && !caller.is_authenticated() {
        return unauthorized();
    }
    if node.faults().database_gone {
        return answer::internal_error();
    }
    known_to_all(node, request, &parts, caller).await
}

async fn known_to_all(node: &Node, request: CoreRequest, parts: &[&str], caller: &Caller) -> Answer {
    match parts {
        ["projects", ..] => projects::answer(node, request, &parts[1..], caller).await,
        ["search"] => search(node, &request, caller),
        _ if !caller.is_authenticated() => unauthorized(),
        ["users", "current"] => current_user(node, caller),
        ["users"] => users(node, &request, caller),
        ["statistics"] => {
            answer::json(&json!({ "total_project_count": node.database.data().projects.len() }))
        }
        ["labels"] => page(&request, &[]),
        ["repositories"] => repositories(node, &request, caller, None),
        ["audit-logs"] => audit_logs(node, &request, caller),
        ["configurations"] => configurations(node, &request, caller),
        _ => answer::error(404, "NOT_FOUND", &format!("path {} was not found", request.path)),
    }
}

pub(super) fn unauthorized() -> Answer {
    answer::error(401, "UNAUTHORIZED", "unauthorized")
}

pub(super) fn forbidden(message: &str) -> Answer {
    answer::error(403, "FORBIDDEN", message)
}

fn method_not_allowed(method: &Method) -> Answer {
    let message = format!("method {method} is not allowed, but [GET] are");
    answer::error(405, "METHOD_NOT_ALLOWED", &message)
}

fn internal(caller: &Caller) -> Answer {
    match caller {
        caller if caller.is_admin() => answer::empty(200),
        caller if caller.is_authenticated() => forbidden(caller.name().unwrap_or_default()),
        _ => answer::error(401, "UNAUTHORIZED", "UnAuthorized"),
    }
}

/// Only for Harbor's own services, and for everybody who has their secret: all passwords in the clear.
fn internal_config(node: &Node, caller: &Caller) -> Answer {
    if !matches!(caller, Caller::Service) {
        let message = "only internal service is allowed to call this API";
        return answer::error(401, "UNAUTHORIZED", message);
    }
    let entry = |editable: bool, value: &str| json!({ "editable": editable, "value": value });
    answer::json(&json!({
        "admin_initial_password": entry(true, node.database.admin_password()),
        "auth_mode": entry(false, node.database.data().auth_mode.name()),
        "ext_endpoint": entry(false, &node.endpoint),
    }))
}

fn health(node: &Node) -> Answer {
    let faults = node.faults();
    let refused = |port: &str| {
        format!(
            "failed to check health: Get \"http://{port}/\": dial tcp {port}: connect: connection refused"
        )
    };
    let database = "failed to run SQL \"SELECT 1\": failed to connect to `host=127.0.0.1 user=harbor \
                    database=registry`: server error (SQLSTATE 55000)";
    let redis = "dial tcp 127.0.0.1:6379: connect: connection refused";
    let components = [
        ("core", None),
        ("database", faults.database_gone.then(|| database.to_owned())),
        ("jobservice", (faults.jobservice_gone || faults.redis_gone).then(|| refused("jobservice:8080"))),
        ("portal", None),
        ("redis", faults.redis_gone.then(|| redis.to_owned())),
        ("registry", faults.registry_gone.then(|| refused("registry:5000"))),
        ("registryctl", faults.jobservice_gone.then(|| refused("registryctl:8080"))),
    ];
    let is_well = components.iter().all(|(_, error)| error.is_none());
    let status = |well: bool| if well { "healthy" } else { "unhealthy" };
    let components: Vec<_> = components
        .into_iter()
        .map(|(name, error)| match error {
            Some(error) => json!({ "name": name, "status": status(false), "error": error }),
            None => json!({ "name": name, "status": status(true) }),
        })
        .collect();
    answer::json(&json!({ "components": components, "status": status(is_well) }))
}

fn harbor_version(version: HarborVersion) -> &'static str {
    match version {
        HarborVersion::V1_10 => "v1.10.19",
        HarborVersion::V2_0 => "v2.0.6",
        HarborVersion::V2_9 => "v2.9.5",
        HarborVersion::V2_11 => "v2.11.2",
        HarborVersion::V2_14 => "v2.14.0",
        HarborVersion::V2_15 => "v2.15.2",
    }
}

fn system_info(node: &Node, caller: &Caller) -> Answer {
    let data = node.database.data();
    let mut info = json!({
        "auth_mode": data.auth_mode.name(), "banner_message": "", "primary_auth_mode": false,
        "harbor_version": harbor_version(node.version), "self_registration": false,
    });
    if caller.is_authenticated() {
        let host = node.endpoint.split_once("://").map_or("", |(_, host)| host);
        for (key, value) in [
            ("current_time", json!(time(SystemTime::now()))),
            ("external_url", json!(node.endpoint)),
            ("has_ca_root", json!(false)),
            ("notification_enable", json!(true)),
            ("project_creation_restriction", json!("everyone")),
            ("read_only", json!(data.read_only)),
            ("registry_storage_provider_name", json!("filesystem")),
            ("registry_url", json!(host)),
        ] {
            info[key] = value;
        }
    }
    answer::json(&info)
}

/// A time as Harbor writes it, to the millisecond.
pub(super) fn time(at: SystemTime) -> String {
    let at = Timestamp::try_from(at).expect("a time in range");
    at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

fn user_json(user: &super::database::User) -> Value {
    let comment = if user.admin { "admin user" } else { "" };
    json!({
        "admin_role_in_auth": false, "comment": comment, "creation_time": time(user.created),
        "realname": user.name, "sysadmin_flag": user.admin, "update_time": time(user.created),
        "user_id": user.id, "username": user.name,
    })
}

fn current_user(node: &Node, caller: &Caller) -> Answer {
    match caller {
        Caller::User { name, .. } => match node.database.find_user(name) {
            Some(user) => answer::json(&user_json(&user)),
            None => unauthorized(),
        },
        _ => unauthorized(),
    }
}

fn users(node: &Node, request: &CoreRequest, caller: &Caller) -> Answer {
    if !caller.is_admin() {
        return forbidden(caller.name().unwrap_or_default());
    }
    let users: Vec<_> = node.database.data().users.iter().map(user_json).collect();
    page(request, &users)
}

pub(super) fn project_json(project: &Project, role: Option<u8>, repositories: usize) -> Value {
    let mut json = json!({
        "creation_time": time(project.created), "current_user_role_ids": role.map(|role| [role]),
        "cve_allowlist": {
            "creation_time": NO_TIME, "id": project.id, "items": [], "project_id": project.id, "update_time": NO_TIME,
        },
        "metadata": { "public": project.public.to_string() }, "name": project.name, "owner_id": 1,
        "owner_name": project.owner, "project_id": project.id, "repo_count": repositories,
        "update_time": time(project.created),
    });
    if let Some(role) = role {
        json["current_user_role_id"] = role.into();
    }
    json
}

/// One page of `all`, with the headers that tell how many there are and where the next page is.
pub(super) fn page(request: &CoreRequest, all: &[Value]) -> Answer {
    let number = |name: &str, default: usize| {
        request.query(name).and_then(|text| text.parse::<usize>().ok()).filter(|n| *n > 0).unwrap_or(default)
    };
    let (page, size) = (number("page", 1), number("page_size", 10));
    let from = all.len().min((page - 1) * size);
    let to = all.len().min(from + size);
    let mut answer = answer::json(&Value::Array(all[from..to].to_vec()));
    answer::set(&mut answer, "x-total-count", &all.len().to_string());
    let link =
        |page: usize, rel: &str| format!("<{}?page={page}&page_size={size}>; rel=\"{rel}\"", request.path);
    let mut links = Vec::new();
    if page > 1 {
        links.push(link(page - 1, "prev"));
    }
    if to < all.len() {
        links.push(link(page + 1, "next"));
    }
    if !links.is_empty() {
        answer::set(&mut answer, "link", &links.join(" , "));
    }
    answer
}

fn repository_json(node: &Node, name: &str, repository: &Repository) -> Value {
    let project = node.database.find_project(super::v2::project_of(name)).map_or(0, |project| project.id);
    json!({
        "artifact_count": repository.artifacts.len(), "id": repository.id, "name": name, "project_id": project,
        "pull_count": 0,
    })
}

/// The repositories that the caller may pull from, of one project or of all.
pub(super) fn repositories(
    node: &Node,
    request: &CoreRequest,
    caller: &Caller,
    project: Option<&str>,
) -> Answer {
    let all = node.database.data().repositories.clone();
    // Replication asks where a blob is that it could mount; no repository of these nodes offers one.
    let by_blob = request.query("q").is_some_and(|q| q.contains("blob_digest="));
    let listed: Vec<_> = all
        .iter()
        .filter(|(_, repository)| !by_blob && !repository.artifacts.is_empty())
        .filter(|(name, _)| {
            let own = super::v2::project_of(name);
            project.is_none_or(|project| project == own)
                && caller.may(&node.database, own, super::database::Action::Pull)
        })
        .map(|(name, repository)| repository_json(node, name, repository))
        .collect();
    page(request, &listed)
}

pub(super) fn artifact_json(digest: &str, artifact: &Artifact) -> Value {
    let tags: Vec<_> = artifact
        .tags
        .iter()
        .map(|tag| json!({ "name": tag, "artifact_id": artifact.id, "push_time": time(artifact.pushed) }))
        .collect();
    json!({
        "digest": digest, "id": artifact.id, "manifest_media_type": artifact.media_type, "size": artifact.size,
        "push_time": time(artifact.pushed), "tags": tags, "type": "IMAGE", "labels": null, "accessories": null,
    })
}

fn search(node: &Node, request: &CoreRequest, caller: &Caller) -> Answer {
    let wanted = request.query("q").unwrap_or_default();
    let may = |project: &str| caller.may(&node.database, project, super::database::Action::Pull);
    let data = node.database.data();
    let (projects, repositories) = (data.projects.clone(), data.repositories.clone());
    drop(data);
    let projects: Vec<_> = projects
        .iter()
        .filter(|project| project.name.contains(&wanted) && may(&project.name))
        .map(|project| project_json(project, None, 0))
        .collect();
    let repositories: Vec<_> = repositories
        .iter()
        .filter(|(name, _)| name.contains(&wanted) && may(super::v2::project_of(name)))
        .map(|(name, repository)| {
            let project = super::v2::project_of(name);
            let known = node.database.find_project(project);
            json!({
                "artifact_count": repository.artifacts.len(), "project_name": project, "pull_count": 0,
                "project_id": known.as_ref().map(|known| known.id),
                "project_public": known.is_some_and(|known| known.public), "repository_name": name,
            })
        })
        .collect();
    answer::json(&json!({ "project": projects, "repository": repositories }))
}

fn audit_logs(node: &Node, request: &CoreRequest, caller: &Caller) -> Answer {
    if !caller.is_admin() {
        return forbidden(caller.name().unwrap_or_default());
    }
    let audit = node.database.data().audit.clone();
    let newest_first: Vec<_> = audit
        .iter()
        .enumerate()
        .rev()
        .map(|(at, (when, entry))| {
            let mut json = json!({
                "id": at + 1, "op_time": time(*when), "operation": entry.operation, "resource": entry.resource,
                "resource_type": "artifact",
            });
            if !entry.username.is_empty() {
                json["username"] = entry.username.as_str().into();
            }
            json
        })
        .collect();
    page(request, &newest_first)
}

fn configurations(node: &Node, request: &CoreRequest, caller: &Caller) -> Answer {
    if !caller.is_admin() {
        return forbidden(caller.name().unwrap_or_default());
    }
    if request.method == Method::PUT {
        return answer::empty(200);
    }
    let entry = |editable: bool, value: Value| json!({ "editable": editable, "value": value });
    let data = node.database.data();
    answer::json(&json!({
        "auth_mode": entry(false, data.auth_mode.name().into()), "read_only": entry(true, data.read_only.into()),
        "token_expiration": entry(true, 30.into()), "self_registration": entry(true, false.into()),
    }))
}
