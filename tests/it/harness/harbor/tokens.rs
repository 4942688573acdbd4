//! Core's registry tokens: the service that issues them, and what it takes of those that come back. Access is by project, the last
//! entry of a project counts, and nobody looks at the key id.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::BASE64URL_NOPAD;
use http::Method;
use rand::seq::SliceRandom as _;
use serde::Deserialize;
use serde_json::{Value, json};

use super::HarborVersion;
use super::answer::{self, Answer};
use super::core::CoreRequest;
use super::database::{Action, HarborDatabase};
use super::identity::Caller;
use super::node::Node;
use crate::harness::random_secret;

const SERVICE: &str = "harbor-registry";
const ISSUER: &str = "harbor-token-issuer";
const LIFETIME: u64 = 1800;
/// What newer versions allow between clocks, and between a project's creation and a token's issue.
const LEEWAY: f64 = 60.0;

/// What a token that was taken says.
#[derive(Debug, Clone)]
pub(super) struct TokenAccess {
    pub(super) subject: Option<String>,
    issued_at: Option<f64>,
    projects: HashMap<String, HashSet<Action>>,
}

impl TokenAccess {
    pub(super) fn allows(&self, project: &str, action: Action) -> bool {
        self.projects.get(project).is_some_and(|actions| actions.contains(&action))
    }

    /// Harbor 2.15 takes no token that is older than the project, or of no age: another project may have had the name.
    pub(super) fn may_know(&self, created: SystemTime) -> bool {
        let created = created.duration_since(UNIX_EPOCH).map_or(0.0, |age| age.as_secs_f64().floor());
        self.issued_at.is_some_and(|issued_at| issued_at + LEEWAY >= created)
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
struct Claims {
    iss: Option<String>,
    sub: Option<String>,
    aud: Option<Audience>,
    exp: Option<f64>,
    nbf: Option<f64>,
    iat: Option<f64>,
    /// Nobody looks at it, but it must be a string for the claims to be read at all.
    #[serde(rename = "jti")]
    _jti: Option<String>,
    access: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    name: String,
    actions: Option<Vec<String>>,
}

/// What a Bearer token of a request to `/v2` says, if it is one of this node's key.
pub(super) fn verify(node: &Node, token: &str) -> Option<TokenAccess> {
    let mut parts = token.split('.');
    let (header, claims, signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let decode = |part: &str| BASE64URL_NOPAD.decode(part.as_bytes()).ok();
    if serde_json::from_slice::<Header>(&decode(header)?).ok()?.alg != "RS256" {
        return None;
    }
    let signed = &token[..header.len() + 1 + claims.len()];
    if !node.keys.current()?.verifies(signed.as_bytes(), &decode(signature)?) {
        return None;
    }
    let claims: Claims = serde_json::from_slice(&decode(claims)?).ok()?;
    is_valid(node, &claims).then(|| access_of(claims))
}

fn is_valid(node: &Node, claims: &Claims) -> bool {
    let now = node.unix_now_exact();
    let leeway = if node.version >= HarborVersion::V2_11 { LEEWAY } else { 0.0 };
    let for_us = match &claims.aud {
        Some(Audience::One(one)) => one == SERVICE,
        Some(Audience::Many(many)) => many.iter().any(|one| one == SERVICE),
        None => false,
    };
    let not_before = |time: Option<f64>| time.is_none_or(|time| now + leeway >= time);
    claims.iss.as_deref() == Some(ISSUER)
        && for_us
        && claims.exp.is_none_or(|exp| now < exp + leeway)
        && not_before(claims.nbf)
        && not_before(claims.iat)
}

fn access_of(claims: Claims) -> TokenAccess {
    let mut projects = HashMap::new();
    for entry in claims.access.unwrap_or_default() {
        if entry.kind != "repository" {
            continue;
        }
        let project = entry.name.split('/').next().unwrap_or_default().to_owned();
        let mut actions = HashSet::new();
        for action in entry.actions.unwrap_or_default() {
            if action == "*" {
                actions.extend([Action::Pull, Action::Push, Action::Delete]);
            }
            actions.extend(Action::parse(&action));
        }
        projects.insert(project, actions);
    }
    TokenAccess { subject: claims.sub.filter(|sub| !sub.is_empty()), issued_at: claims.iat, projects }
}

/// `/service/token`.
pub(super) async fn serve(node: &Node, request: &CoreRequest, caller: &Caller) -> Answer {
    if request.method != Method::GET {
        let mut answer = answer::plain(405, "Method Not Allowed\n");
        answer::set(&mut answer, "x-content-type-options", "nosniff");
        return answer;
    }
    tokio::time::sleep(node.faults().token_delay).await;
    let service = request.query("service").unwrap_or_default();
    if service != SERVICE {
        return answer::plain(400, &format!("Unable to handle service: {service}"));
    }
    let scopes: Vec<String> = request
        .queries("scope")
        .iter()
        .flat_map(|scope| scope.split(' ').map(str::to_owned).collect::<Vec<_>>())
        .filter(|scope| !scope.is_empty())
        .collect();
    if !caller.is_authenticated() && scopes.is_empty() {
        return answer::empty(401);
    }
    let database = (!node.faults().database_gone).then_some(&node.database);
    let access: Vec<_> = scopes.iter().map(|scope| granted(database, caller, scope)).collect();
    // Without a scope the list is not empty, it is not there.
    let access = if access.is_empty() { Value::Null } else { Value::Array(access) };
    match mint(node, caller.name(), &access) {
        Some(body) => answer::content(200, answer::JSON_UTF8, body),
        None => answer::internal_error(),
    }
}

/// Everything the caller may do there, whatever the scope asks for.
fn granted(database: Option<&HarborDatabase>, caller: &Caller, scope: &str) -> Value {
    let parts: Vec<_> = scope.split(':').collect();
    let kind = parts[0];
    let name = if parts.len() > 2 { parts[1..parts.len() - 1].join(":") } else { parts[1..].join(":") };
    let asked = if parts.len() > 2 { parts[parts.len() - 1] } else { "" };
    let mut actions: Vec<&str> = match (kind, name.split_once('/'), database) {
        ("repository", Some((project, _)), Some(database)) if database.find_project(project).is_some() => {
            let allowed = Action::ALL.into_iter().filter(|action| caller.may(database, project, *action));
            allowed.map(Action::name).collect()
        }
        ("registry", _, Some(_)) if name == "catalog" && caller.is_admin() => {
            asked.split(',').filter(|action| !action.is_empty()).collect()
        }
        _ => Vec::new(),
    };
    // Core walks through a map, so the order means nothing, and nobody should rely on it.
    actions.shuffle(&mut rand::rng());
    json!({ "type": kind, "name": name, "actions": actions })
}

fn mint(node: &Node, subject: Option<&str>, access: &Value) -> Option<String> {
    let key = node.keys.current()?;
    let now = node.unix_now();
    let mut claims = json!({
        "iss": ISSUER, "aud": SERVICE, "exp": now + LIFETIME, "nbf": now, "iat": now,
        "jti": random_secret()[..16], "access": access,
    });
    if let Some(subject) = subject {
        claims["sub"] = subject.into();
    }
    let header = json!({ "alg": "RS256", "kid": key.kid, "typ": "JWT" });
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let signed = format!("{}.{}", part(&header), part(&claims));
    let signature = BASE64URL_NOPAD.encode(&key.sign(signed.as_bytes()));
    let issued_at = jiff::Timestamp::try_from(UNIX_EPOCH + Duration::from_secs(now)).ok()?;
    // Written by hand for the order of the keys, and for the access token that is there and empty.
    Some(format!(
        r#"{{"token":"{signed}.{signature}","access_token":"","expires_in":{LIFETIME},"issued_at":"{issued_at}"}}"#
    ))
}
