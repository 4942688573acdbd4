//! Harbor nodes behind the gateway, with users, projects and robots as a team would have them.

use std::path::Path;

use tempfile::TempDir;

use crate::harness::certs::Certificates;
use crate::harness::client::TestClient;
use crate::harness::clients::Endpoint;
use crate::harness::config::ConfigBuilder;
use crate::harness::gateway::Gateway;
use crate::harness::harbor::{Directory, HarborDatabase, HarborNode, HarborNodeBuilder, HarborRedis, Role};
use crate::harness::port::ReservedPort;
use crate::harness::{random_secret, wait};

/// How the gateway authenticates itself to the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CredentialKind {
    Token,
    Exchange,
    Relay,
}

pub(crate) const CREDENTIAL_KINDS: [CredentialKind; 3] =
    [CredentialKind::Token, CredentialKind::Exchange, CredentialKind::Relay];

impl CredentialKind {
    /// As it stands in the configuration of this node.
    pub(crate) fn yaml(self, node: &HarborNode) -> String {
        match self {
            Self::Token => format!("{{ token: {{ key: {} }} }}", node.private_key_file().display()),
            Self::Exchange => "exchange".to_owned(),
            Self::Relay => "relay".to_owned(),
        }
    }
}

/// Who is who. Developer of `team` and `team2`, guest of `team`, nothing anywhere, and robots.
#[derive(Debug)]
pub(crate) struct Accounts {
    pub(crate) database: HarborDatabase,
    pub(crate) alice: String,
    pub(crate) bob: String,
    pub(crate) carol: String,
    pub(crate) ci: String,
    /// `robot$team+ci`.
    pub(crate) robot: String,
    /// `robot$other+ci`, of a project that nobody else is in.
    pub(crate) other_robot: String,
    /// `robot$probe`, of the gateway's probes.
    pub(crate) probe: String,
}

impl Accounts {
    pub(crate) fn new() -> Self {
        let accounts = Self {
            database: HarborDatabase::new(),
            alice: random_secret(),
            bob: random_secret(),
            carol: random_secret(),
            ci: random_secret(),
            robot: random_secret(),
            other_robot: random_secret(),
            probe: random_secret(),
        };
        accounts.fill(&accounts.database);
        accounts
    }

    /// The same accounts in the database of an independent node.
    pub(crate) fn fill(&self, database: &HarborDatabase) {
        for (name, password) in
            [("alice", &self.alice), ("bob", &self.bob), ("carol", &self.carol), ("ci", &self.ci)]
        {
            database.add_user(name, password);
        }
        for (project, public) in [("team", false), ("team2", false), ("other", false), ("pub", true)] {
            database.add_project(project, public);
        }
        for project in ["team", "team2"] {
            database.grant("alice", project, Role::Developer);
            database.grant("ci", project, Role::Maintainer);
        }
        database.grant("alice", "pub", Role::ProjectAdmin);
        database.grant("carol", "team", Role::Guest);
        database.add_robot("robot$team+ci", &self.robot, &[("team", &["pull", "push"])]);
        database.add_robot("robot$other+ci", &self.other_robot, &[("other", &["pull", "push"])]);
        database.add_robot("robot$probe", &self.probe, &[]);
    }
}

/// Nodes that share everything but their keys, and the gateway with TLS in front of them.
#[derive(Debug)]
pub(crate) struct HarborSite {
    pub(crate) gateway: Gateway,
    pub(crate) nodes: Vec<HarborNode>,
    pub(crate) accounts: Accounts,
    pub(crate) redis: HarborRedis,
    pub(crate) directory: Directory,
    /// How alice reaches the gateway.
    pub(crate) endpoint: Endpoint,
    /// What the gateway was started with.
    pub(crate) config: ConfigBuilder,
    kind: CredentialKind,
    _port: ReservedPort,
    dir: TempDir,
}

impl HarborSite {
    pub(crate) async fn start(nodes: usize, kind: CredentialKind) -> Self {
        Self::start_with(nodes, kind, |node| node, |config| config).await
    }

    /// With nodes and a configuration that the test adjusts first.
    pub(crate) async fn start_with(
        count: usize,
        kind: CredentialKind,
        adjust_node: impl Fn(HarborNodeBuilder) -> HarborNodeBuilder,
        adjust: impl FnOnce(ConfigBuilder) -> ConfigBuilder,
    ) -> Self {
        let port = ReservedPort::on_loopback();
        let dir = TempDir::with_prefix("tidegate-harbor-site-").expect("a temporary directory");
        let certificates = Certificates::new(dir.path());
        let leaf = certificates.leaf("hub", &["127.0.0.1", "localhost"]);
        let authority = format!("127.0.0.1:{}", port.number());
        let accounts = Accounts::new();
        let (redis, directory) = (HarborRedis::new(), Directory::new());
        let mut nodes = Vec::new();
        for number in 0..count {
            let builder = HarborNode::builder(&format!("node{number}"))
                .database(&accounts.database)
                .redis(&redis)
                .directory(&directory)
                .storage(&dir.path().join("storage"))
                .external_endpoint(&format!("https://{authority}"));
            nodes.push(adjust_node(builder).start().await);
        }
        let endpoint = Endpoint {
            authority: authority.clone(),
            ca_file: certificates.authority(),
            ca_dir: certificates.authority_dir(),
            user: "alice".to_owned(),
            password: accounts.alice.clone(),
        };
        let mut config = ConfigBuilder::new(dir.path())
            .external_url(&format!("https://{authority}"))
            .tls_listener(port.address(), &leaf)
            .provider("{ harbor: { pool: main } }")
            .pool_key("kind: harbor")
            .pool_key(&harbor_section(&accounts, ""));
        for node in &nodes {
            config = config.member_at(node.name(), &node.url(), &kind.yaml(node));
        }
        let config = adjust(config);
        let gateway = Gateway::start(&config.render(), dir.path()).await;
        Self { gateway, nodes, accounts, redis, directory, endpoint, config, kind, _port: port, dir }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// How an account reaches the gateway with docker, skopeo and the like.
    pub(crate) fn endpoint_of(&self, user: &str, password: &str) -> Endpoint {
        Endpoint { user: user.to_owned(), password: password.to_owned(), ..self.endpoint.clone() }
    }

    pub(crate) fn client(&self) -> TestClient {
        self.gateway.client(&self.endpoint.ca_file).with_host(&self.endpoint.authority)
    }

    /// A client with a token of the gateway.
    pub(crate) async fn authorized(&self, user: &str, password: &str, scopes: &[&str]) -> TestClient {
        let client = self.client();
        let token = client.token(user, password, scopes).await;
        client.with_bearer(&token)
    }

    /// Which nodes are healthy, as the metrics tell it.
    pub(crate) async fn health(&self) -> Vec<bool> {
        let metrics = self.gateway.metrics().await;
        let is_healthy = |node: &HarborNode| {
            let label = format!("member=\"{}\"", node.name());
            metrics.sum("tidegate_member_state", &[&label, "state=\"healthy\""]) > 0.5
        };
        self.nodes.iter().map(is_healthy).collect()
    }

    /// Waits until exactly these nodes are healthy.
    pub(crate) async fn wait_for_health(&self, expected: &[bool]) {
        wait::until(&format!("the health of the nodes to be {expected:?}"), async || {
            (self.health().await == expected).then_some(())
        })
        .await;
    }

    /// Requests of clients that a node answered 401, told by what came with them: probes excepted.
    pub(crate) fn refusals_at_nodes(&self) -> Vec<String> {
        let refused =
            self.nodes.iter().flat_map(HarborNode::requests).filter(|request| request.status == 401);
        refused.map(|request| format!("{} {}", request.method, request.target)).collect()
    }
}

/// The `harbor` section of a pool.
pub(crate) fn harbor_section(accounts: &Accounts, more: &str) -> String {
    format!(
        "harbor: {{ account: {{ user: \"robot$probe\", password: \"{}\" }}, catalog_account: {{ user: admin, password: \"{}\" }}{more} }}",
        accounts.probe,
        accounts.database.admin_password()
    )
}

impl Drop for HarborSite {
    /// A failed test shows which credentials the nodes were sent, and what the gateway said before its files are removed.
    #[expect(clippy::print_stderr, reason = "this is the report of a failed test")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("credentials: {:?}\n{}", self.kind, self.gateway.log_tail());
        }
    }
}
