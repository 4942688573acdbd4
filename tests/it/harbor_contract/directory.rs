//! A node whose users are in a directory: recordings 410-414. They were made at core, which makes no difference to these answers.

use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::case::{BASIC, Case, token_parts};
use super::world::{As as _, Login, Names, bearer, pull_push, token_target};
use crate::harness::harbor::{Directory, DirectoryState, HarborDatabase, HarborNode, Role};

/// Longer than any answer takes that comes at all, and shorter than anybody waits.
const NO_ANSWER: Duration = Duration::from_secs(3);

pub(super) struct Site {
    pub(super) names: Names,
    pub(super) node: HarborNode,
    pub(super) database: HarborDatabase,
    pub(super) directory: Directory,
    /// Developer of `team`.
    pub(super) lalice: Login,
    /// Written with capitals in the directory.
    pub(super) lcaps: Login,
    _storage: TempDir,
}

impl Site {
    pub(super) async fn start() -> Self {
        let names = Names::new();
        let (database, directory) = (HarborDatabase::new(), Directory::new());
        names.fill(&database);
        let lalice = Login { name: format!("l{}", names.alice.name), password: "Right1".to_owned() };
        let lcaps = Login { name: format!("LC{}", names.bob.name), password: "Right2".to_owned() };
        for login in [&lalice, &lcaps] {
            database.add_directory_user(&login.name, &login.password);
        }
        database.grant(&lalice.name, &names.team, Role::Developer);
        let storage = TempDir::with_prefix("tidegate-contract-").expect("a temporary directory");
        let builder =
            HarborNode::builder("l").database(&database).directory(&directory).storage(storage.path());
        let node = builder.start().await;
        Self { names, node, database, directory, lalice, lcaps, _storage: storage }
    }
}

async fn subject_and_actions(id: &str, site: &Site, login: &Login) -> (Value, Value) {
    let case = Case::get(id, &site.node.login(login), token_target(&[&pull_push(&site.names.app)]));
    let (_, mut claims) = token_parts(&case.status(200).run().await);
    let actions = claims["access"][0]["actions"].as_array_mut().expect("a list");
    actions.sort_by_key(Value::to_string);
    (claims["sub"].clone(), claims["access"][0]["actions"].clone())
}

/// 410-413b and the names of 414.
#[tokio::test]
async fn logins() {
    let site = Site::start().await;
    let (names, lalice) = (&site.names, &site.lalice);
    let admin = site.node.client().with_basic("admin", site.database.admin_password());
    let set = Case::put("410", &admin, "/api/v2.0/configurations")
        .body("application/json", "{\"auth_mode\":\"ldap_auth\"}");
    set.status(200).text("").run().await;
    let both = json!(["pull", "push"]);
    for id in ["411", "412"] {
        assert_eq!(
            subject_and_actions(id, &site, lalice).await,
            (json!(lalice.name), both.clone()),
            "[{id}]"
        );
    }
    Case::get("413", &site.node.login(lalice), "/v2/").status(200).of_registry().text("{}").run().await;
    let upload = Case::post("413b", &site.node.login(lalice), format!("/v2/{}/blobs/uploads/", names.app));
    upload.status(202).of_registry().run().await;
    let typed = |login: &Login, name: String| Login { name, password: login.password.clone() };
    let upper = typed(lalice, lalice.name.to_uppercase());
    assert_eq!(
        subject_and_actions("414", &site, &upper).await.0,
        json!(lalice.name),
        "[414] as in the directory"
    );
    let lower = typed(&site.lcaps, site.lcaps.name.to_lowercase());
    assert_eq!(subject_and_actions("414", &site, &lower).await, (json!(site.lcaps.name), json!([])), "[414]");
}

/// 414: the lock, by the name as it was typed; and its end.
#[tokio::test]
async fn lock() {
    let site = Site::start().await;
    let target = token_target(&[&pull_push(&site.names.app)]);
    let tries = [
        (site.lalice.name.clone(), "wrong", target.clone(), 200),
        (site.lcaps.name.clone(), "wrong", token_target(&[]), 401),
        ("unknown".to_owned(), "x", target, 200),
        (site.lalice.name.to_uppercase(), "", "/v2/".to_owned(), 401),
    ];
    let started = tokio::time::Instant::now();
    let clients: Vec<_> =
        tries.iter().map(|(name, password, ..)| site.node.client().with_basic(name, password)).collect();
    let all = tries.iter().zip(&clients).map(|((_, _, target, wanted), client)| async move {
        let answer = Case::get("414 wrong", client, target).status(*wanted).run().await;
        assert!(started.elapsed() >= Duration::from_millis(1500), "[414] after {:?}", started.elapsed());
        answer
    });
    futures_util::future::join_all(all).await;
    // The delay is as long as the lock, so the answer is also its end.
    assert_eq!(
        subject_and_actions("414 at once after", &site, &site.lalice).await.0,
        json!(site.lalice.name)
    );
}

/// 414: the directory accepts and never answers.
#[tokio::test]
async fn hangs() {
    let site = Site::start().await;
    let (node, names) = (&site.node, &site.names);
    let token = bearer(node, &site.lalice, &[&pull_push(&names.app)]).await;
    site.directory.set(DirectoryState::Hangs);
    let lalice = node.login(&site.lalice);
    let waiting =
        ["/v2/".to_owned(), token_target(&[]), token_target(&[&pull_push(&names.app)])].map(|target| {
            let lalice = lalice.clone();
            async move { tokio::time::timeout(NO_ANSWER, lalice.get(&target)).await.is_err() }
        });
    let others = async {
        let admin = node.client().with_basic("admin", site.database.admin_password());
        Case::get("414 robot", &node.login(&names.ci), "/v2/").status(200).run().await;
        Case::get("414 admin", &admin, "/v2/").status(200).run().await;
        Case::get("414 token", &token, format!("/v2/{}/tags/list", names.app)).status(404).run().await;
        let health = Case::get("414 health", &node.client(), "/api/v2.0/health");
        health.status(200).text(super::api::healthy()).run().await;
    };
    let (waited, ()) = tokio::join!(futures_util::future::join_all(waiting), others);
    assert_eq!(waited, [true; 3], "[414] a directory user waits");
    site.directory.set(DirectoryState::Up);
    Case::get("414 resumed", &lalice, "/v2/").status(200).run().await;
}

/// 414: nobody listens there. Everything fails at once, and nothing says so.
#[tokio::test]
async fn refuses() {
    let site = Site::start().await;
    let (node, names, app) = (&site.node, &site.names, &site.names.app);
    let lalice = node.login(&site.lalice);
    let token = bearer(node, &site.lalice, &[&pull_push(app)]).await;
    site.directory.set(DirectoryState::Refuses);
    Case::get("414 ping", &lalice, "/v2/").refused(BASIC, "unauthorized").run().await;
    Case::post("414 upload", &lalice, format!("/v2/{app}/blobs/uploads/")).forbidden(app, "push").run().await;
    let powerless = (Value::Null, json!([]));
    assert_eq!(subject_and_actions("414 scope", &site, &site.lalice).await, powerless);
    Case::get("414 no scope", &lalice, token_target(&[])).status(401).text("").run().await;
    Case::get("414 api", &lalice, "/api/v2.0/users/current")
        .error(401, "UNAUTHORIZED", "unauthorized")
        .run()
        .await;
    assert_eq!(subject_and_actions("414 robot", &site, &names.ci).await.0, json!(names.ci.name));
    Case::get("414 token", &token, format!("/v2/{app}/tags/list")).status(404).run().await;
    site.directory.set(DirectoryState::Up);
    // No lock was left behind.
    Case::get("414 back", &lalice, "/v2/").status(200).run().await;
}
