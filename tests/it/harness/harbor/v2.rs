//! `/v2` of core: who may do what, what core answers from its database, and what goes on to the registry behind it.

use http::Method;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST};

use super::HarborVersion;
use super::answer::{self, Answer};
use super::artifacts;
use super::core::CoreRequest;
use super::database::Action;
use super::identity::Caller;
use super::node::Node;

/// The longest name that the registry's cache of descriptors can take: it puts `docker.io/` before it.
const NAME_CHARS_CACHED: usize = 245;
const NAME_CHARS_MAX: usize = 255;
pub(super) const DATABASE_FAULT: &str = "failed to connect to `host=127.0.0.1 user=harbor database=registry`: server error (FATAL: \
     database \"registry\" is not currently accepting connections (SQLSTATE 55000))";

/// What a path below `/v2` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Base,
    Catalog,
    Tags { repository: String },
    Manifest { repository: String, reference: String },
    Blob { repository: String, digest: String },
    Uploads { repository: String, mount: Option<Mount> },
    Upload { repository: String },
    Referrers { repository: String, digest: String },
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) digest: String,
    pub(super) from: String,
}

impl Target {
    pub(super) fn parse(request: &CoreRequest) -> Self {
        let Some(rest) = request.path.strip_prefix("/v2/") else { return Self::Unknown };
        match rest {
            "" => return Self::Base,
            "_catalog" => return Self::Catalog,
            _ => {}
        }
        Self::of_repository(rest, request).unwrap_or(Self::Unknown)
    }

    fn of_repository(rest: &str, request: &CoreRequest) -> Option<Self> {
        if let Some(name) = rest.strip_suffix("/tags/list") {
            return repository(name).map(|repository| Self::Tags { repository });
        }
        if let Some((name, after)) = rest.rsplit_once("/blobs/uploads") {
            let repository = repository(name)?;
            return match after {
                "" | "/" => Some(Self::Uploads { repository, mount: mount(request) }),
                _ => Some(Self::Upload { repository }),
            };
        }
        let (before, last) = rest.rsplit_once('/')?;
        let (name, kind) = before.rsplit_once('/')?;
        let (repository, last) = (repository(name)?, last.to_owned());
        match kind {
            "manifests" if !last.is_empty() => Some(Self::Manifest { repository, reference: last }),
            "blobs" if is_digest(&last) => Some(Self::Blob { repository, digest: last }),
            "referrers" if is_digest(&last) => Some(Self::Referrers { repository, digest: last }),
            _ => None,
        }
    }

    pub(super) fn repository(&self) -> Option<&str> {
        match self {
            Self::Base | Self::Catalog | Self::Unknown => None,
            Self::Tags { repository }
            | Self::Manifest { repository, .. }
            | Self::Blob { repository, .. }
            | Self::Uploads { repository, .. }
            | Self::Upload { repository }
            | Self::Referrers { repository, .. } => Some(repository),
        }
    }
}

fn repository(name: &str) -> Option<String> {
    let fits = |part: &str| {
        let ends = |letter: Option<char>| letter.is_some_and(|letter| letter.is_ascii_alphanumeric());
        let letters = part.chars().all(|letter| {
            letter.is_ascii_lowercase() || letter.is_ascii_digit() || ['.', '_', '-'].contains(&letter)
        });
        letters && ends(part.chars().next()) && ends(part.chars().last())
    };
    name.split('/').all(fits).then(|| name.to_owned())
}

fn mount(request: &CoreRequest) -> Option<Mount> {
    let from = request.query("from").filter(|from| !from.is_empty())?;
    Some(Mount { digest: request.query("mount").unwrap_or_default(), from })
}

pub(super) fn is_digest(text: &str) -> bool {
    text.split_once(':').is_some_and(|(algorithm, hex)| {
        !algorithm.is_empty() && hex.len() >= 32 && hex.chars().all(|letter| letter.is_ascii_hexdigit())
    })
}

/// The project of a repository.
pub(super) fn project_of(repository: &str) -> &str {
    repository.split('/').next().unwrap_or_default()
}

/// Core needs a project in every name, and says so before it knows anybody.
pub(super) fn malformed(_request: &CoreRequest, target: &Target) -> Option<Answer> {
    let mount = match target {
        Target::Uploads { mount: Some(mount), .. } => Some(mount.from.as_str()),
        _ => None,
    };
    let bare = [target.repository(), mount].into_iter().flatten().find(|name| !name.contains('/'))?;
    Some(answer::error(400, "BAD_REQUEST", &format!("bad request: invalid repository name: {bare}")))
}

/// One thing that a request needs a right for.
struct Need<'a> {
    repository: &'a str,
    action: Action,
}

impl Need<'_> {
    fn scope(&self) -> String {
        let actions = if self.action == Action::Push { "pull,push" } else { self.action.name() };
        format!("repository:{}:{actions}", self.repository)
    }
}

fn needs<'a>(request: &CoreRequest, target: &'a Target) -> Vec<Need<'a>> {
    let Some(repository) = target.repository() else { return Vec::new() };
    let action = match request.method {
        Method::GET | Method::HEAD => Action::Pull,
        Method::DELETE => Action::Delete,
        _ => Action::Push,
    };
    let mut needs = vec![Need { repository, action }];
    if let Target::Uploads { mount: Some(mount), .. } = target {
        needs.push(Need { repository: &mount.from, action: Action::Pull });
    }
    needs
}

pub(super) async fn answer(node: &Node, request: CoreRequest, target: Target, caller: &Caller) -> Answer {
    if let Some(refusal) = refusal(node, &request, &target, caller) {
        return refusal;
    }
    if is_eaten_form(&request) {
        // beego has read the form before the proxy could: what goes on is shorter than its announced length.
        return answer::empty(502);
    }
    let cached = NAME_CHARS_CACHED + 1..=NAME_CHARS_MAX;
    if target.repository().is_some_and(|name| cached.contains(&name.len())) && request.method == Method::POST
    {
        return answer::content(500, answer::JSON_UTF8, "{}");
    }
    artifacts::answer(node, request, target, caller).await
}

fn is_eaten_form(request: &CoreRequest) -> bool {
    let writes = [Method::POST, Method::PUT, Method::PATCH].contains(&request.method);
    let is_form = request
        .header(CONTENT_TYPE.as_str())
        .is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
    writes && is_form && request.header(CONTENT_LENGTH.as_str()).is_some_and(|length| length != "0")
}

fn refusal(node: &Node, request: &CoreRequest, target: &Target, caller: &Caller) -> Option<Answer> {
    let needs = needs(request, target);
    let refuse =
        |message: &str| Some(answer::v2_unauthorized(&challenge(node, request, target, &needs), message));
    match target {
        Target::Unknown => {
            let message = format!("un-recognized request: {} {}", request.method, request.path);
            return Some(answer::v2_unauthorized("", &message));
        }
        Target::Base if !caller.is_authenticated() => return refuse("unauthorized"),
        Target::Catalog if !caller.is_admin() => return refuse("unauthorized to list catalog"),
        _ => {}
    }
    for need in &needs {
        let reads = [Method::GET, Method::HEAD].contains(&request.method);
        if reads && request.headers.get(AUTHORIZATION).is_none() {
            return refuse("authorize header needed to send HEAD to repository");
        }
        if node.faults().database_gone {
            return Some(answer::v2_unauthorized("", DATABASE_FAULT));
        }
        let project = project_of(need.repository);
        let Some(known) = node.database.find_project(project) else {
            return Some(answer::v2_unauthorized("", &format!("project {project} not found")));
        };
        let is_older = match caller {
            Caller::Token(token) if node.version >= HarborVersion::V2_15 => !token.may_know(known.created),
            _ => false,
        };
        if is_older || !caller.may(&node.database, project, need.action) {
            let (name, action) = (need.repository, need.action.name());
            return refuse(&format!("unauthorized to access repository: {name}, action: {action}"));
        }
    }
    None
}

/// Whoever sent a credential that did not do is asked for a password, whatever it was.
fn challenge(node: &Node, request: &CoreRequest, target: &Target, needs: &[Need<'_>]) -> String {
    if request.headers.get(AUTHORIZATION).is_some_and(|value| !value.is_empty()) || *target == Target::Catalog
    {
        return "Basic realm=\"harbor\"".to_owned();
    }
    let scopes: Vec<_> = needs.iter().map(Need::scope).collect();
    let scope = if scopes.is_empty() { String::new() } else { format!(",scope=\"{}\"", scopes.join(" ")) };
    format!(
        "Bearer realm=\"{}/service/token\",service=\"harbor-registry\"{scope}",
        token_endpoint(node, request)
    )
}

fn token_endpoint(node: &Node, request: &CoreRequest) -> String {
    let host = request.header(HOST.as_str()).unwrap_or_default();
    if host == node.core_authority {
        return format!("http://{}", node.core_authority);
    }
    if node.version < HarborVersion::V2_14 {
        return node.endpoint.clone();
    }
    let scheme = node.endpoint.split("://").next().unwrap_or_default();
    format!("{scheme}://{host}")
}
