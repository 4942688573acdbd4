//! Routes: which pool a host and repository goes to; routes and pools that nothing reaches.

use crate::auth::policy::Pattern;
use crate::config::convert::{Context, address, policy};
use crate::config::document::KeyPath;
use crate::config::error::Fix;
use crate::config::file::{File, Route as RouteKeys};
use crate::config::suggest::nearest;
use crate::forwarding::hosts::AllowedHost;
use crate::routing::{Route, RouteTable};

/// The pattern of every repository.
const EVERYTHING: &str = "**";

/// All routes, in order. Without any, the only pool takes everything.
pub(super) fn table(cx: &mut Context<'_>, path: &KeyPath, file: &File) -> RouteTable {
    if file.routes.is_empty() {
        if file.pools.len() > 1 {
            let fix =
                "add `routes: [{ repository: \"team/**\", pool: NAME }, { repository: \"**\", pool: NAME }]`";
            cx.error(path, "there are several pools but no routes to tell them apart", Fix::advice(fix));
        }
        return RouteTable::new(
            Pattern::repository(EVERYTHING)
                .map(|repository| Route { host: None, repository, pool: 0 })
                .into_iter()
                .collect(),
        );
    }
    let mut routes: Vec<Route> = Vec::new();
    for (at, keys) in file.routes.iter().enumerate() {
        let path = path.index(at);
        let Some(route) = route(cx, &path, keys, file) else {
            continue;
        };
        let shadow = routes.iter().position(|earlier| takes_before(earlier, &route));
        if let Some(earlier) = shadow {
            let problem = format!("the route is never reached: route {} takes every repository", earlier + 1);
            cx.warn(&path, problem, Fix::advice("move it in front of that route, or remove it"));
        } else {
            routes.push(route);
        }
    }
    for (at, pool) in file.pools.iter().enumerate() {
        if !routes.iter().any(|route| route.pool == at) {
            let path = KeyPath::default().key("pools").index(at).key("name");
            let fix = format!(
                "add `- {{ repository: \"...\", pool: {} }}` to `routes`, or remove the pool",
                pool.name.escape_debug()
            );
            cx.warn(&path, format!("no route leads to the pool {:?}", pool.name), Fix::Advice(fix));
        }
    }
    RouteTable::new(routes)
}

fn route(cx: &mut Context<'_>, path: &KeyPath, keys: &RouteKeys, file: &File) -> Option<Route> {
    let pool = file.pools.iter().position(|pool| pool.name == keys.pool);
    if pool.is_none() {
        let names: Vec<&str> = file.pools.iter().map(|pool| pool.name.as_str()).collect();
        let fix = nearest(&keys.pool, names.iter().copied()).map_or_else(|| names.join(" | "), str::to_owned);
        cx.error(&path.key("pool"), format!("there is no pool {:?}", keys.pool), Fix::Write(fix));
    }
    let text = keys.repository.as_deref().unwrap_or(EVERYTHING);
    let repository_path = path.key("repository");
    let repository = policy::repository(cx, &repository_path, text);
    if text.contains("${user}") {
        cx.error(
            &repository_path,
            "routes do not know the user, so ${user} never matches",
            Fix::write("\"**\" or \"team/**\""),
        );
    }
    let host = match &keys.host {
        Some(host) => Some(route_host(cx, &path.key("host"), host, file)?),
        None => None,
    };
    Some(Route { host, repository: repository?, pool: pool? })
}

fn route_host(cx: &mut Context<'_>, path: &KeyPath, text: &str, file: &File) -> Option<String> {
    match AllowedHost::parse(text) {
        Ok(AllowedHost { name, port: None }) => {
            if !address::is_host_name(file, &name) {
                let fix = format!("add {name} to `hosts`, or correct the name");
                cx.warn(path, format!("clients cannot address the gateway as {name:?}"), Fix::Advice(fix));
            }
            Some(name)
        }
        Ok(AllowedHost { name, port: Some(_) }) => {
            cx.error(path, format!("{text:?} has a port; routes are chosen by name alone"), Fix::Write(name));
            None
        }
        Err(error) => {
            cx.error(path, format!("{text:?} is {error}"), Fix::write("hub.example.com"));
            None
        }
    }
}

fn takes_before(earlier: &Route, later: &Route) -> bool {
    earlier.repository.to_string() == EVERYTHING && (earlier.host.is_none() || earlier.host == later.host)
}
