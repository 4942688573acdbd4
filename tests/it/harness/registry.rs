//! A stock registry: the real `docker-registry` of the distribution, with a configuration as an operator would write it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use tempfile::TempDir;

use super::certs::Leaf;
use super::port::ReservedPort;
use super::process::{self, Daemon};
use super::random_secret;

/// Whom the registry lets in.
#[derive(Debug, Clone)]
pub(crate) enum Access {
    Open,
    Htpasswd { user: String, password: String },
    Token { realm: String, service: String, issuer: String, root_cert_bundle: PathBuf },
}

impl Access {
    /// A generated user and password.
    pub(crate) fn generated_htpasswd() -> Self {
        Self::Htpasswd { user: "member-account".to_owned(), password: random_secret() }
    }
}

/// What a registry is started with.
#[derive(Debug)]
pub(crate) struct StockRegistryBuilder {
    name: String,
    storage: Option<PathBuf>,
    access: Access,
    client_authority: Option<PathBuf>,
    tls: Option<Leaf>,
    read_only: bool,
    http_secret: Option<String>,
}

/// One request as the registry's own access log tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LoggedRequest {
    pub(crate) method: String,
    /// Path and query as they arrived.
    pub(crate) target: String,
    pub(crate) status: u16,
}

/// A running registry; stopped, and its files removed, on drop.
#[derive(Debug)]
pub(crate) struct StockRegistry {
    name: String,
    port: ReservedPort,
    scheme: &'static str,
    access: Access,
    storage: PathBuf,
    config: PathBuf,
    daemon: Daemon,
    dir: TempDir,
}

impl StockRegistryBuilder {
    /// Keeps blobs in `dir`, which other registries may use too; without this the registry has storage of its own.
    pub(crate) fn storage(mut self, dir: &Path) -> Self {
        self.storage = Some(dir.to_owned());
        self
    }

    pub(crate) fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    pub(crate) fn tls(mut self, leaf: Leaf) -> Self {
        self.tls = Some(leaf);
        self
    }

    /// Takes only clients with a certificate of this authority.
    pub(crate) fn client_authority(mut self, authority: &Path) -> Self {
        self.client_authority = Some(authority.to_owned());
        self
    }

    /// Seals the state of uploads with this secret; registries that share it take each other's. Random unless it is given.
    pub(crate) fn http_secret(mut self, secret: &str) -> Self {
        self.http_secret = Some(secret.to_owned());
        self
    }

    /// Refuses every write with 405, as during a storage migration.
    pub(crate) fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    pub(crate) async fn start(self) -> StockRegistry {
        self.start_on(ReservedPort::on_loopback()).await
    }

    pub(crate) async fn start_on(self, port: ReservedPort) -> StockRegistry {
        let dir = TempDir::with_prefix("tidegate-registry-").expect("a temporary directory");
        let storage = self.storage.clone().unwrap_or_else(|| dir.path().join("storage"));
        let config = dir.path().join("config.json");
        std::fs::write(&config, self.render(dir.path(), &storage, port.address()))
            .expect("a configuration file");
        let daemon = spawn(&self.name, &config, dir.path());
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let access = self.access;
        let mut registry =
            StockRegistry { name: self.name, port, scheme, access, storage, config, daemon, dir };
        registry.wait_listening().await;
        registry
    }

    /// JSON is YAML, so the configuration needs no template and no quoting rules.
    fn render(&self, dir: &Path, storage: &Path, address: SocketAddr) -> String {
        let secret = self.http_secret.clone().unwrap_or_else(random_secret);
        let mut http = serde_json::json!({ "addr": address, "secret": secret });
        if let Some(leaf) = &self.tls {
            http["tls"] = serde_json::json!({ "certificate": leaf.cert, "key": leaf.key });
            if let Some(authority) = &self.client_authority {
                http["tls"]["clientcas"] = serde_json::json!([authority]);
            }
        }
        let mut config = serde_json::json!({
            "version": "0.1",
            "log": { "level": "info" },
            "storage": {
                "filesystem": { "rootdirectory": storage },
                "delete": { "enabled": true },
                // No descriptor cache: it would not see what the other members of a shared storage do.
                "maintenance": { "uploadpurging": { "enabled": false }, "readonly": { "enabled": self.read_only } },
            },
            "http": http,
        });
        match &self.access {
            Access::Open => {}
            Access::Htpasswd { user, password } => {
                let path = dir.join("htpasswd");
                let hash = bcrypt::hash(password, 4).expect("a bcrypt hash");
                std::fs::write(&path, format!("{user}:{hash}\n")).expect("a password file");
                config["auth"] = serde_json::json!({ "htpasswd": { "realm": "member", "path": path } });
            }
            Access::Token { realm, service, issuer, root_cert_bundle } => {
                let token = serde_json::json!({
                    "realm": realm, "service": service, "issuer": issuer, "rootcertbundle": root_cert_bundle,
                });
                config["auth"] = serde_json::json!({ "token": token });
            }
        }
        serde_json::to_string_pretty(&config).expect("JSON values serialise")
    }
}

impl StockRegistry {
    pub(crate) fn builder(name: &str) -> StockRegistryBuilder {
        StockRegistryBuilder {
            name: name.to_owned(),
            storage: None,
            access: Access::Open,
            tls: None,
            client_authority: None,
            read_only: false,
            http_secret: None,
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address())
    }

    pub(crate) fn access(&self) -> &Access {
        &self.access
    }

    /// Where the blobs are, for tests that damage or remove them.
    pub(crate) fn storage(&self) -> &Path {
        &self.storage
    }

    /// Ends it at once, as a power cut would; [`Self::restart`] brings it back on the same port.
    pub(crate) fn kill(&mut self) {
        self.daemon.kill();
    }

    /// Freezes it: connections are still accepted by the kernel, and nothing answers.
    pub(crate) fn freeze(&self) {
        self.daemon.signal(Signal::STOP);
    }

    pub(crate) fn thaw(&self) {
        self.daemon.signal(Signal::CONT);
    }

    /// Starts it again with the same configuration on the same port, after [`Self::kill`] or while it runs.
    pub(crate) async fn restart(&mut self) {
        self.daemon.kill();
        self.daemon = spawn(&self.name, &self.config, self.dir.path());
        self.wait_listening().await;
    }

    /// Every request it answered since it was first started, oldest first. A request is logged when its answer has ended.
    pub(crate) fn requests(&self) -> Vec<LoggedRequest> {
        self.daemon.stdout().lines().filter_map(parse_log_line).collect()
    }

    /// The requests that belong to one repository.
    pub(crate) fn requests_for(&self, repository: &str) -> Vec<LoggedRequest> {
        let prefix = format!("/v2/{repository}/");
        self.requests().into_iter().filter(|request| request.target.starts_with(&prefix)).collect()
    }

    /// Everything else it said, for the message of a failure.
    pub(crate) fn log(&self) -> String {
        self.daemon.output_tail()
    }

    async fn wait_listening(&mut self) {
        let address = self.address();
        let listens = async || tokio::net::TcpStream::connect(address).await.is_ok();
        self.daemon.wait_ready(listens).await;
    }
}

fn spawn(name: &str, config: &Path, dir: &Path) -> Daemon {
    let mut command = process::command("docker-registry");
    command.arg("serve").arg(config);
    // Settings from the environment would override the file.
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("REGISTRY_") {
            command.env_remove(key);
        }
    }
    Daemon::start(name, command, dir)
}

/// `127.0.0.1 - - [22/Nov/2026:19:34:40 +0000] "GET /v2/ HTTP/1.1" 200 2 "" "curl/7.88.1"`
fn parse_log_line(line: &str) -> Option<LoggedRequest> {
    let mut quoted = line.split('"').skip(1);
    let mut request = quoted.next()?.split(' ');
    let status = quoted.next()?.split_whitespace().next()?.parse().ok()?;
    Some(LoggedRequest { method: request.next()?.to_owned(), target: request.next()?.to_owned(), status })
}
