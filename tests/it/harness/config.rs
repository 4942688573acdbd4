//! Configuration files for the gateway under test, written as the text an operator would write.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::certs::Leaf;
use super::registry::{Access, StockRegistry};

/// Collects the parts of a configuration; [`Self::render`] gives the YAML. What a test does not mention has the value that most
/// tests want: loopback, port 0, quick probes, JSON logs, everything allowed to every known user. A dead member refuses probes at
/// once; the time that an answer may take only bounds how slow a live one may be, so it is long.
#[derive(Debug, Clone)]
pub(crate) struct ConfigBuilder {
    dir: PathBuf,
    external_url: String,
    listeners: Vec<String>,
    service: String,
    tokens: String,
    uploads: String,
    users: Vec<String>,
    policy: Vec<String>,
    storage: String,
    pool: String,
    providers: Vec<String>,
    members: Vec<String>,
    health: String,
    log_filter: String,
    further_pools: Vec<String>,
    first_routes: Vec<String>,
    extra: String,
}

impl ConfigBuilder {
    /// Keeps keys and seals below `dir`.
    pub(crate) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            external_url: "https://127.0.0.1".to_owned(),
            listeners: Vec::new(),
            service: "tidegate-test".to_owned(),
            tokens: String::new(),
            uploads: String::new(),
            users: Vec::new(),
            policy: Vec::new(),
            storage: "shared".to_owned(),
            pool: String::new(),
            providers: Vec::new(),
            members: Vec::new(),
            health: "{ interval: 500ms, timeout: 20s, rise: 1, fall: 2 }".to_owned(),
            log_filter: "info".to_owned(),
            further_pools: Vec::new(),
            first_routes: Vec::new(),
            extra: String::new(),
        }
    }

    pub(crate) fn keys_dir(&self) -> PathBuf {
        self.dir.join("keys")
    }

    pub(crate) fn external_url(mut self, url: &str) -> Self {
        url.clone_into(&mut self.external_url);
        self
    }

    pub(crate) fn tls_listener(self, address: impl std::fmt::Display, leaf: &Leaf) -> Self {
        let (cert, key) = (leaf.cert.display(), leaf.key.display());
        self.listener(&format!(
            "{{ address: \"{address}\", tls: {{ certificates: [{{ cert: {cert}, key: {key} }}] }} }}"
        ))
    }

    /// Any listener, as a YAML flow mapping.
    pub(crate) fn listener(mut self, yaml: &str) -> Self {
        self.listeners.push(yaml.to_owned());
        self
    }

    /// Further keys of `tokens`, as they stand in a YAML flow mapping.
    pub(crate) fn tokens(mut self, yaml: &str) -> Self {
        self.tokens = format!("{yaml}, ");
        self
    }

    /// Further keys of `uploads`, as they stand in a YAML flow mapping.
    pub(crate) fn uploads(mut self, yaml: &str) -> Self {
        self.uploads = format!("{yaml}, ");
        self
    }

    /// A user with a real, cheap bcrypt hash.
    pub(crate) fn user(mut self, name: &str, password: &str) -> Self {
        let hash = bcrypt::hash(password, 4).expect("a bcrypt hash");
        self.users.push(format!("{{ name: {name}, password_hash: \"{hash}\" }}"));
        self
    }

    /// A policy rule as a YAML flow mapping. Without any, every user may do everything.
    pub(crate) fn rule(mut self, yaml: &str) -> Self {
        self.policy.push(yaml.to_owned());
        self
    }

    pub(crate) fn storage(mut self, kind: &str) -> Self {
        kind.clone_into(&mut self.storage);
        self
    }

    /// Further keys of the pool, one line each.
    pub(crate) fn pool_key(mut self, yaml: &str) -> Self {
        writeln!(self.pool, "    {yaml}").expect("a String can be written to");
        self
    }

    /// Changes a text in the further keys of the pool.
    pub(crate) fn replace_pool_key(mut self, find: &str, replacement: &str) -> Self {
        assert!(self.pool.contains(find), "{}", self.pool);
        self.pool = self.pool.replace(find, replacement);
        self
    }

    /// One more pool, as a YAML flow mapping.
    pub(crate) fn further_pool(mut self, yaml: &str) -> Self {
        self.further_pools.push(yaml.to_owned());
        self
    }

    /// A route before that of the main pool, as a YAML flow mapping.
    pub(crate) fn first_route(mut self, yaml: &str) -> Self {
        self.first_routes.push(yaml.to_owned());
        self
    }

    pub(crate) fn without_providers(mut self) -> Self {
        self.providers.clear();
        self
    }

    /// What is logged; `info` unless it is given.
    pub(crate) fn log_filter(mut self, filter: &str) -> Self {
        filter.clone_into(&mut self.log_filter);
        self
    }

    /// A further provider of identities, as a YAML flow mapping.
    pub(crate) fn provider(mut self, yaml: &str) -> Self {
        self.providers.push(yaml.to_owned());
        self
    }

    /// A member as a YAML flow mapping.
    pub(crate) fn member_yaml(mut self, yaml: &str) -> Self {
        self.members.push(yaml.to_owned());
        self
    }

    /// A member with the credential that its own access control asks for.
    pub(crate) fn member(self, registry: &StockRegistry) -> Self {
        let credential = match registry.access() {
            Access::Open => "none".to_owned(),
            Access::Htpasswd { user, password } => {
                format!("{{ basic: {{ user: {user}, password: \"{password}\" }} }}")
            }
            Access::Token { service, .. } => format!("{{ token: {{ audience: \"{service}\" }} }}"),
        };
        self.member_at(registry.name(), &registry.url(), &credential)
    }

    pub(crate) fn member_at(mut self, name: &str, url: &str, credential: &str) -> Self {
        self.members.push(format!("{{ name: {name}, url: \"{url}\", credential: {credential} }}"));
        self
    }

    pub(crate) fn health(mut self, yaml: &str) -> Self {
        yaml.clone_into(&mut self.health);
        self
    }

    /// Further top-level keys, as they are to stand in the file.
    pub(crate) fn extra(mut self, yaml: &str) -> Self {
        writeln!(self.extra, "{yaml}").expect("a String can be written to");
        self
    }

    pub(crate) fn render(&self) -> String {
        let every_user = vec!["{ user: \"*\", repository: \"**\", allow: [pull, push, delete] }".to_owned()];
        let policy = if self.policy.is_empty() { &every_user } else { &self.policy };
        let (dir, url, service) = (self.dir.display(), &self.external_url, &self.service);
        let (storage, health, extra) = (&self.storage, &self.health, &self.extra);
        let (listeners, users, policy) = (items(2, &self.listeners), items(6, &self.users), items(2, policy));
        let members = items(6, &self.members);
        let users = if users.is_empty() { users } else { format!("  - users:\n{users}") };
        let identity = users + &items(2, &self.providers);
        let identity = if identity.is_empty() { "  []\n".to_owned() } else { identity };
        let (further_pools, first_routes) = (items(2, &self.further_pools), items(2, &self.first_routes));
        let (pool, tokens, log_filter) = (&self.pool, &self.tokens, &self.log_filter);
        let uploads = &self.uploads;
        format!(
            "external_url: {url}
listeners:
{listeners}admin: {{ address: \"127.0.0.1:0\" }}
tokens: {{ {tokens}service: {service}, issuer: tidegate, keys: {dir}/keys }}
uploads: {{ {uploads}seal_keys: {dir}/seal }}
identity:
{identity}policy:
{policy}pools:
  - name: main
    storage: {storage}
{pool}    members:
{members}    health: {health}
{further_pools}routes:
{first_routes}  - {{ repository: \"**\", pool: main }}
log: {{ format: json, filter: {log_filter} }}
{extra}"
        )
    }
}

/// A configuration without the control socket, which is beside the keys: two gateways with the same keys need that of one of them.
pub(crate) fn without_control_socket(config: &str) -> String {
    config.replace("admin: { ", "admin: { socket: none, ")
}

/// A configuration without one of its users.
pub(crate) fn without_user(config: &str, name: &str) -> String {
    let entry = format!("name: {name}");
    config.lines().filter(|line| !line.contains(&entry)).map(|line| format!("{line}\n")).collect()
}

fn items(indent: usize, items: &[String]) -> String {
    items.iter().map(|item| format!("{:indent$}- {item}\n", "")).collect()
}
