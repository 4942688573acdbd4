//! `/api/v2.0/projects` of core: listed to everybody as far as they may look, created and changed by those who may.

use std::time::SystemTime;

use http::Method;
use serde_json::Value;

use super::answer::{self, Answer};
use super::api::{artifact_json, forbidden, page, project_json, repositories, unauthorized};
use super::core::CoreRequest;
use super::database::{Action, Project, Role};
use super::identity::Caller;
use super::node::Node;

const BODY_BYTES_MAX: usize = 64 << 10;

pub(super) async fn answer(node: &Node, request: CoreRequest, parts: &[&str], caller: &Caller) -> Answer {
    match (&request.method, parts) {
        (&Method::GET, []) => list(node, &request, caller),
        (&Method::HEAD, []) => exists(node, &request, caller),
        (&Method::POST, []) => create(node, request, caller).await,
        (_, [name, rest @ ..]) => {
            let name = (*name).to_owned();
            let rest: Vec<String> = rest.iter().map(|part| (*part).to_owned()).collect();
            in_project(node, request, (&name, &rest), caller).await
        }
        _ => answer::page_not_found(),
    }
}

fn role_of(node: &Node, caller: &Caller, project: &str) -> Option<u8> {
    let name = caller.name()?;
    let role =
        if caller.is_admin() { Some(Role::ProjectAdmin) } else { node.database.role_of(name, project) };
    role.filter(|_| !matches!(caller, Caller::Service)).map(Role::id)
}

fn repository_count(node: &Node, project: &str) -> usize {
    let data = node.database.data();
    data.repositories.keys().filter(|name| super::v2::project_of(name) == project).count()
}

fn described(node: &Node, project: &Project, caller: &Caller) -> Value {
    project_json(project, role_of(node, caller, &project.name), repository_count(node, &project.name))
}

/// `name=team`, or `q=name={'team'}` as replication writes it.
fn wanted_names(request: &CoreRequest) -> Option<String> {
    if let Some(name) = request.query("name") {
        return Some(name);
    }
    let q = request.query("q")?;
    let (_, value) = q.split_once("name=")?;
    Some(value.trim_matches(['~', '{', '}', '\'', '"', '(', ')']).to_owned())
}

fn list(node: &Node, request: &CoreRequest, caller: &Caller) -> Answer {
    let all = node.database.data().projects.clone();
    let wanted = wanted_names(request);
    let listed: Vec<_> = all
        .iter()
        .filter(|project| wanted.as_ref().is_none_or(|wanted| project.name.contains(wanted.as_str())))
        .filter(|project| caller.may(&node.database, &project.name, Action::Pull))
        .map(|project| described(node, project, caller))
        .collect();
    page(request, &listed)
}

fn exists(node: &Node, request: &CoreRequest, caller: &Caller) -> Answer {
    if !caller.is_authenticated() {
        return unauthorized();
    }
    let name = request.query("project_name").unwrap_or_default();
    match node.database.find_project(&name) {
        Some(_) => answer::empty(200),
        None => answer::error(404, "NOT_FOUND", &format!("project {name} not found")),
    }
}

async fn create(node: &Node, request: CoreRequest, caller: &Caller) -> Answer {
    let Some(owner) = caller.name() else { return unauthorized() };
    let body = request.body.read(BODY_BYTES_MAX).await.unwrap_or_default();
    let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
    let name = asked["project_name"].as_str().unwrap_or_default();
    let fits =
        |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || "._-".contains(letter);
    if name.is_empty() || !name.chars().all(fits) {
        return answer::error(
            400,
            "BAD_REQUEST",
            "bad request: project name is not in lower case or contains illegal characters",
        );
    }
    if node.database.find_project(name).is_some() {
        return answer::error(409, "CONFLICT", &format!("The project named {name} already exists"));
    }
    let public =
        asked["metadata"]["public"].as_str() == Some("true") || asked["public"].as_bool() == Some(true);
    let id = node.database.create_project(name, public, SystemTime::now(), owner);
    let mut answer = answer::empty(201);
    answer::set(&mut answer, "location", &format!("/api/v2.0/projects/{id}"));
    answer
}

async fn in_project(
    node: &Node,
    request: CoreRequest,
    (name, rest): (&str, &[String]),
    caller: &Caller,
) -> Answer {
    let id = name.parse::<u64>().ok().filter(|_| request.header("x-is-resource-name") != Some("true"));
    let known = node
        .database
        .data()
        .projects
        .iter()
        .find(|project| project.name == name || Some(project.id) == id)
        .cloned();
    let may_look = |project: &Project| caller.may(&node.database, &project.name, Action::Pull);
    // Whoever may not know a project is not told whether it exists.
    let project = match known {
        Some(project) if may_look(&project) => project,
        None if caller.is_admin() => {
            return answer::error(404, "NOT_FOUND", &format!("project {name} not found"));
        }
        _ if caller.is_authenticated() => return forbidden("forbidden"),
        _ => return unauthorized(),
    };
    let is_master = caller.is_admin()
        || caller.name().and_then(|user| node.database.role_of(user, &project.name))
            == Some(Role::ProjectAdmin);
    match (&request.method, rest) {
        (&Method::GET, []) => answer::json(&described(node, &project, caller)),
        (&Method::PUT | &Method::DELETE, []) if !is_master => forbidden("forbidden"),
        (&Method::PUT, []) => change(node, request, &project).await,
        (&Method::DELETE, []) if repository_count(node, &project.name) > 0 => {
            let message = format!("the project {} contains repositories, can not be deleted", project.name);
            answer::error(412, "PRECONDITION", &message)
        }
        (&Method::DELETE, []) => {
            node.database.remove_project(&project.name);
            answer::empty(200)
        }
        (&Method::GET, [one]) if one == "repositories" => {
            repositories(node, &request, caller, Some(&project.name))
        }
        (_, [first, repository, third, rest @ ..]) if first == "repositories" && third == "artifacts" => {
            // A slash in a repository's name arrives encoded, or as nginx has left it.
            artifacts(node, &request, (&format!("{}/{repository}", project.name), rest), caller)
        }
        _ => answer::error(404, "NOT_FOUND", &format!("path {} was not found", request.path)),
    }
}

async fn change(node: &Node, request: CoreRequest, project: &Project) -> Answer {
    let body = request.body.read(BODY_BYTES_MAX).await.unwrap_or_default();
    let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
    if let Some(public) = asked["metadata"]["public"].as_str() {
        node.database.set_public(&project.name, public == "true");
    }
    answer::empty(200)
}

fn artifacts(
    node: &Node,
    request: &CoreRequest,
    (repository, rest): (&str, &[String]),
    caller: &Caller,
) -> Answer {
    let known = node.database.data().repositories.get(repository).cloned().unwrap_or_default();
    match (&request.method, rest) {
        (&Method::GET, []) => {
            let all: Vec<_> =
                known.artifacts.iter().map(|(digest, artifact)| artifact_json(digest, artifact)).collect();
            page(request, &all)
        }
        (&Method::GET, [reference]) => match node.database.resolve(repository, reference) {
            Some(digest) => answer::json(&artifact_json(&digest, &known.artifacts[&digest])),
            None => answer::error(404, "NOT_FOUND", &format!("artifact {repository}:{reference} not found")),
        },
        (&Method::DELETE, [reference]) => {
            let project = super::v2::project_of(repository);
            if !caller.may(&node.database, project, Action::Delete) {
                return forbidden("forbidden");
            }
            match node.database.resolve(repository, reference) {
                Some(digest) => {
                    node.database.remove_artifact(repository, &digest);
                    answer::empty(200)
                }
                None => {
                    answer::error(404, "NOT_FOUND", &format!("artifact {repository}:{reference} not found"))
                }
            }
        }
        _ => answer::page_not_found(),
    }
}
