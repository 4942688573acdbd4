//! What only early versions have, from their source: in Harbor 1.10 core hands `/v2` to the registry as it comes, and the registry
//! itself checks tokens with the node's `root.crt`; up to 2.7 there are Helm charts beside images.

use http::Method;

use super::answer::{self, Answer};
use super::core::CoreRequest;
use super::database::Action;
use super::identity::Caller;
use super::node::Node;

pub(super) async fn proxy(node: &Node, request: CoreRequest) -> Answer {
    if node.faults().registry_gone {
        return answer::empty(502);
    }
    let target = request.target();
    node.behind.forward_or_502((request.method, &target), request.headers, request.body).await
}

/// `/chartrepo/` and `/api/chartrepo/`: an empty repository of charts for each project, which takes charts and forgets them.
pub(super) fn charts(node: &Node, request: &CoreRequest, caller: &Caller) -> Answer {
    let rest = request.path.trim_start_matches("/api").trim_start_matches("/chartrepo/");
    if rest == "health" {
        return answer::content(200, answer::JSON_UTF8, "{\"healthy\":true}");
    }
    let (project, rest) = rest.split_once('/').unwrap_or((rest, ""));
    let action = if request.method == Method::GET { Action::Pull } else { Action::Push };
    if !caller.may(&node.database, project, action) {
        let mut answer = answer::error(401, "UNAUTHORIZED", "UnAuthorized");
        answer::set(&mut answer, "www-authenticate", "Basic realm=\"harbor\"");
        return answer;
    }
    match (&request.method, rest) {
        (&Method::GET, "index.yaml") => {
            answer::content(200, "application/x-yaml", "apiVersion: v1\nentries: {}\n")
        }
        (&Method::GET, "charts") => answer::content(200, answer::JSON_UTF8, "[]"),
        (&Method::POST, "charts") => answer::content(201, answer::JSON_UTF8, "{\"saved\":true}"),
        _ => answer::page_not_found(),
    }
}
