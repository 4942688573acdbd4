//! A whole installation: stock members that share one storage, and the gateway with TLS in front of them.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::certs::Certificates;
use super::client::TestClient;
use super::clients::{COMMAND_LIMIT, Endpoint};
use super::config::{ConfigBuilder, without_control_socket};
use super::gateway::{Gateway, tidegate};
use super::port::ReservedPort;
use super::process;
use super::random_secret;
use super::registry::{Access, StockRegistry};

/// How a member protects itself, and so which credential the gateway needs for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemberKind {
    Open,
    Basic,
    Token,
}

/// A running installation. What is inside may be stopped, replaced and looked at by the test.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) gateway: Gateway,
    pub(crate) members: Vec<StockRegistry>,
    /// The one user, who may do everything, and how clients reach the gateway.
    pub(crate) endpoint: Endpoint,
    pub(crate) certificates: Certificates,
    /// What the gateway was started with, to be changed for a reload.
    pub(crate) config: ConfigBuilder,
    _port: ReservedPort,
    dir: TempDir,
}

impl Site {
    /// Starts one member for each of `kinds` and the gateway.
    pub(crate) async fn start(kinds: &[MemberKind]) -> Self {
        Self::start_with(kinds, |config| config).await
    }

    /// As [`Self::start`], with a configuration that the test adjusts first.
    pub(crate) async fn start_with(
        kinds: &[MemberKind],
        adjust: impl FnOnce(ConfigBuilder) -> ConfigBuilder,
    ) -> Self {
        let port = ReservedPort::on_loopback();
        Self::start_at(port, "127.0.0.1", kinds, adjust).await
    }

    /// As [`Self::start_with`], listening on `port` under the name `host`.
    pub(crate) async fn start_at(
        port: ReservedPort,
        host: &str,
        kinds: &[MemberKind],
        adjust: impl FnOnce(ConfigBuilder) -> ConfigBuilder,
    ) -> Self {
        let dir = TempDir::with_prefix("tidegate-site-").expect("a temporary directory");
        let certificates = Certificates::new(dir.path());
        let leaf = certificates.leaf("hub", &[host, &port.address().ip().to_string(), "localhost"]);
        let authority = format!("{host}:{}", port.number());
        let endpoint = Endpoint {
            authority: authority.clone(),
            ca_file: certificates.authority(),
            ca_dir: certificates.authority_dir(),
            user: "alice".to_owned(),
            password: random_secret(),
        };
        let mut config = ConfigBuilder::new(dir.path())
            .external_url(&format!("https://{authority}"))
            .tls_listener(port.address(), &leaf)
            .user(&endpoint.user, &endpoint.password);
        let members = start_members(kinds, dir.path(), &config.keys_dir()).await;
        for member in &members {
            config = config.member(member);
        }
        let config = adjust(config);
        let gateway = Gateway::start(&config.render(), dir.path()).await;
        Self { gateway, members, endpoint, certificates, config, _port: port, dir }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A client of the gateway without credentials.
    pub(crate) fn client(&self) -> TestClient {
        self.gateway.client(&self.endpoint.ca_file).with_host(&self.endpoint.authority)
    }

    /// A client of the gateway with the user's token for `scopes`.
    pub(crate) async fn authorized(&self, scopes: &[&str]) -> TestClient {
        let client = self.client();
        let token = client.token(&self.endpoint.user, &self.endpoint.password, scopes).await;
        client.with_bearer(&token)
    }

    /// A client of the gateway without an account, with the token for pulls of `repository` that anybody gets.
    pub(crate) async fn anonymous(&self, repository: &str) -> TestClient {
        self.client().anonymous(repository).await
    }

    /// Ends the gateway as an operator would, and insists on a clean end.
    pub(crate) async fn stop_gateway(&mut self) {
        self.gateway.stop().await;
    }

    /// Starts the gateway anew with another configuration.
    pub(crate) async fn restart_with(&mut self, config: &str) {
        self.stop_gateway().await;
        self.gateway = Gateway::start(config, self.dir.path()).await;
    }

    /// A second gateway with the same keys and members, on a port of its own.
    pub(crate) async fn replica(&self) -> (Gateway, TempDir) {
        self.replica_with(&self.config.render()).await
    }

    /// As [`Self::replica`], with another configuration.
    pub(crate) async fn replica_with(&self, config: &str) -> (Gateway, TempDir) {
        let dir = TempDir::with_prefix("tidegate-replica-").expect("a temporary directory");
        let listening = format!("address: \"{}\"", self.endpoint.authority);
        let config = config.replace(&listening, "address: \"127.0.0.1:0\"");
        (Gateway::start(&without_control_socket(&config), dir.path()).await, dir)
    }

    /// Starts the gateway anew with the same files, after it was stopped or killed.
    pub(crate) async fn restart_gateway(&mut self) {
        self.gateway = Gateway::start(&self.config.render(), self.dir.path()).await;
    }
}

impl Drop for Site {
    /// A failed test shows what the gateway and the members said before their files are removed.
    #[expect(clippy::print_stderr, reason = "this is the report of a failed test")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.gateway.log_tail());
            for member in &self.members {
                eprintln!("{}", member.log());
            }
        }
    }
}

async fn start_members(kinds: &[MemberKind], dir: &Path, keys: &Path) -> Vec<StockRegistry> {
    let mut members = Vec::new();
    for (number, kind) in kinds.iter().enumerate() {
        let access = match kind {
            MemberKind::Open => Access::Open,
            MemberKind::Basic => Access::generated_htpasswd(),
            MemberKind::Token => token_access(dir, keys, number).await,
        };
        let builder =
            StockRegistry::builder(&format!("member{number}")).storage(&dir.join("storage")).access(access);
        members.push(builder.start().await);
    }
    members
}

/// Access by tokens that only this gateway can sign: its member key, as the operator exports it for `rootcertbundle`.
async fn token_access(dir: &Path, keys: &Path, number: usize) -> Access {
    let bundle = export_member_bundle(dir, keys).await;
    Access::Token {
        realm: "https://nobody.invalid/token".to_owned(),
        service: format!("member{number}-registry"),
        issuer: "tidegate".to_owned(),
        root_cert_bundle: bundle,
    }
}

/// Makes the key ring with the gateway's own command where there is none, and exports the certificates of its member keys.
pub(crate) async fn export_member_bundle(dir: &Path, keys: &Path) -> PathBuf {
    let keys_text = keys.to_str().expect("a readable path");
    if !keys.exists() {
        let generate = process::run(tidegate(&["keys", "generate", "--dir", keys_text]), COMMAND_LIMIT).await;
        generate.unwrap_or_else(|error| panic!("{error:#}"));
    }
    let exported =
        process::run(tidegate(&["keys", "export-bundle", "--dir", keys_text]), COMMAND_LIMIT).await;
    let bundle = dir.join("member-keys.pem");
    std::fs::write(&bundle, exported.unwrap_or_else(|error| panic!("{error:#}"))).expect("a bundle on disk");
    bundle
}
