//! Who and what the exchanges are about, under names of this run, and the nodes that were recorded: A and B with a common database,
//! redis and storage; C and D with everything of their own.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tempfile::TempDir;

use crate::harness::client::{Answer, TestClient};
use crate::harness::harbor::{HarborDatabase, HarborNode, HarborNodeBuilder, HarborRedis, Role};

/// Digits and letters for names.
const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// A name and what it is proved with.
#[derive(Debug, Clone)]
pub(super) struct Login {
    pub(super) name: String,
    pub(super) password: String,
}

/// The recorded accounts and projects under names of this run.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) seed: u64,
    /// Developer of `team` and `team2`, administrator of `public`.
    pub(super) alice: Login,
    /// Member of nothing.
    pub(super) bob: Login,
    /// Guest of `team`.
    pub(super) carol: Login,
    /// A robot of `team` that pulls and pushes.
    pub(super) ci: Login,
    /// A robot of the whole system that pulls and pushes everywhere.
    pub(super) sysci: Login,
    pub(super) team: String,
    pub(super) team2: String,
    pub(super) public: String,
    /// A project that nobody made.
    pub(super) nosuch: String,
    /// Repositories of `team`, `team2` and `public`.
    pub(super) app: String,
    pub(super) other: String,
    pub(super) shown: String,
    pub(super) tag: String,
}

impl Names {
    #[expect(clippy::print_stdout, reason = "the seed is to be seen when a test fails")]
    pub(super) fn new() -> Self {
        let seed = std::env::var("CONTRACT_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(rand::random);
        println!("CONTRACT_SEED={seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let mut word = |prefix: &str| {
            let letters = (0..8).map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())]));
            format!("{prefix}{}", letters.collect::<String>())
        };
        let mut login = |prefix: &str| Login { name: word(prefix), password: word("Pw1") };
        let (alice, bob, carol) = (login("a"), login("b"), login("c"));
        let (mut ci, sysci) = (login("ci"), login("robot$s"));
        let (team, team2, public, nosuch) = (word("t"), word("u"), word("p"), word("n"));
        ci.name = format!("robot${team}+{}", ci.name);
        let (app, other) = (format!("{team}/{}", word("app")), format!("{team2}/{}", word("other")));
        let shown = format!("{public}/{}", word("app"));
        let tag = word("v");
        Self { seed, alice, bob, carol, ci, sysci, team, team2, public, nosuch, app, other, shown, tag }
    }

    /// Adds everybody and everything to a database.
    pub(super) fn fill(&self, database: &HarborDatabase) {
        for login in [&self.alice, &self.bob, &self.carol] {
            database.add_user(&login.name, &login.password);
        }
        for (project, public) in [(&self.team, false), (&self.team2, false), (&self.public, true)] {
            database.add_project(project, public);
        }
        database.grant(&self.alice.name, &self.team, Role::Developer);
        database.grant(&self.alice.name, &self.team2, Role::Developer);
        database.grant(&self.alice.name, &self.public, Role::ProjectAdmin);
        database.grant(&self.carol.name, &self.team, Role::Guest);
        database.add_robot(&self.ci.name, &self.ci.password, &[(&self.team, &["pull", "push"])]);
        database.add_robot(&self.sysci.name, &self.sysci.password, &[("*", &["pull", "push"])]);
    }
}

/// A and B of the recordings, behind a balancer that is only a name.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) names: Names,
    pub(super) a: HarborNode,
    pub(super) b: HarborNode,
    pub(super) database: HarborDatabase,
    pub(super) redis: HarborRedis,
    pub(super) endpoint: String,
    _storage: TempDir,
}

impl Pair {
    pub(super) async fn start() -> Self {
        Self::start_with("http://registry.example.test:8080", |builder| builder, |builder| builder).await
    }

    /// With differences of each node.
    pub(super) async fn start_with(
        endpoint: &str,
        adjust_a: impl FnOnce(HarborNodeBuilder) -> HarborNodeBuilder,
        adjust_b: impl FnOnce(HarborNodeBuilder) -> HarborNodeBuilder,
    ) -> Self {
        let names = Names::new();
        let (database, redis) = (HarborDatabase::new(), HarborRedis::new());
        names.fill(&database);
        let storage = TempDir::with_prefix("tidegate-contract-").expect("a temporary directory");
        let builder = |name: &str| {
            HarborNode::builder(name)
                .database(&database)
                .redis(&redis)
                .storage(storage.path())
                .csrf_key("the same key on both nodes")
                .external_endpoint(endpoint)
        };
        let a = adjust_a(builder("a")).start().await;
        let b = adjust_b(builder("b")).start().await;
        let endpoint = endpoint.to_owned();
        Self { names, a, b, database, redis, endpoint, _storage: storage }
    }

    pub(super) fn admin(&self) -> Login {
        Login { name: "admin".to_owned(), password: self.database.admin_password().to_owned() }
    }

    /// The challenge of whoever brings no credential.
    pub(super) fn challenge(&self, scope: &str) -> String {
        bearer_challenge(&self.endpoint, scope)
    }
}

pub(super) fn bearer_challenge(endpoint: &str, scope: &str) -> String {
    let scope = if scope.is_empty() { String::new() } else { format!(",scope=\"{scope}\"") };
    format!("Bearer realm=\"{endpoint}/service/token\",service=\"harbor-registry\"{scope}")
}

/// One node with everything of its own, but with the same accounts: `admin` has another password on each.
pub(super) async fn own_node(name: &str, names: &Names) -> (HarborNode, HarborDatabase) {
    let database = HarborDatabase::new();
    names.fill(&database);
    let node = HarborNode::builder(name).database(&database).start().await;
    (node, database)
}

pub(super) trait As {
    /// The same client with this login on every request.
    fn login(&self, login: &Login) -> TestClient;
}

impl As for HarborNode {
    fn login(&self, login: &Login) -> TestClient {
        self.client().with_basic(&login.name, &login.password)
    }
}

/// The target of the token service for some scopes.
pub(super) fn token_target(scopes: &[&str]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("service", "harbor-registry");
    for scope in scopes {
        query.append_pair("scope", scope);
    }
    format!("/service/token?{}", query.finish())
}

pub(super) async fn token_answer(client: &TestClient, scopes: &[&str]) -> Answer {
    let answer = client.get(&token_target(scopes)).await;
    answer.is(200)
}

/// A client of `node` with a token of it for `login`.
pub(super) async fn bearer(node: &HarborNode, login: &Login, scopes: &[&str]) -> TestClient {
    let answer = token_answer(&node.login(login), scopes).await;
    node.client().with_bearer(&answer.token())
}

pub(super) fn pull_push(repository: &str) -> String {
    format!("repository:{repository}:pull,push")
}
