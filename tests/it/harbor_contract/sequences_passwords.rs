//! Sequences that were not recorded, and follow from what was: passwords, locks, robots, the directory and CLI secrets.

use std::time::Duration;

use tokio::time::Instant;

use super::case::{BASIC, Case, token_parts};
use super::directory::Site;
use super::world::{As as _, Login, Pair, own_node, pull_push, token_target};
use crate::harness::client::TestClient;
use crate::harness::harbor::{AuthMode, DirectoryState, HarborNode, Role};
use crate::harness::wait;

const FROZEN: Duration = Duration::from_millis(1500);

/// Sends a wrong password and comes back when it has arrived. The answer is still to come.
async fn wrong_on_its_way(node: &HarborNode, name: &str) -> tokio::task::JoinSet<(u16, Instant)> {
    node.clear_requests();
    let client = node.client().with_basic(name, "wrong");
    let mut task = tokio::task::JoinSet::new();
    task.spawn(async move {
        let answer = client.get("/v2/").await;
        (answer.status.as_u16(), Instant::now())
    });
    wait::until("the wrong password arrives", async || (!node.requests().is_empty()).then_some(())).await;
    task
}

async fn status(client: &TestClient, target: &str) -> u16 {
    client.get(target).await.status.as_u16()
}

/// 1. A lock ends by itself, and the right password does again.
#[tokio::test]
async fn s01_the_lock_expires() {
    let pair = Pair::start().await;
    let alice = &pair.names.alice;
    let started = Instant::now();
    let mut wrong = wrong_on_its_way(&pair.a, &alice.name).await;
    assert_eq!(status(&pair.a.login(alice), "/v2/").await, 401);
    let (answered, at) = wrong.join_next().await.expect("it was asked").expect("no panic");
    assert_eq!(answered, 401);
    assert!(at - started >= FROZEN, "answered after {:?}", at - started);
    assert_eq!(status(&pair.a.login(alice), "/v2/").await, 200);
}

/// 2. The lock is in the memory of one node. 3. And of one name.
#[tokio::test]
async fn s02_s03_the_lock_is_of_one_node_and_name() {
    let pair = Pair::start().await;
    let (alice, carol) = (&pair.names.alice, &pair.names.carol);
    let mut wrong = wrong_on_its_way(&pair.a, &alice.name).await;
    assert_eq!(status(&pair.a.login(alice), "/v2/").await, 401, "locked here");
    assert_eq!(status(&pair.b.login(alice), "/v2/").await, 200, "not locked there");
    assert_eq!(status(&pair.a.login(carol), "/v2/").await, 200, "another name");
    wrong.join_next().await;
}

/// 4. The lock does not reach tokens that are there already. 5. Nor robots, whose secret is looked at first.
#[tokio::test]
async fn s04_s05_what_a_lock_does_not_reach() {
    let pair = Pair::start().await;
    let (alice, ci) = (&pair.names.alice, &pair.names.ci);
    let token = super::world::bearer(&pair.a, alice, &[&pull_push(&pair.names.app)]).await;
    let mut wrong = wrong_on_its_way(&pair.a, &alice.name).await;
    assert_eq!(status(&token, "/v2/").await, 200);
    wrong.join_next().await;
    let mut wrong = wrong_on_its_way(&pair.a, &ci.name).await;
    assert_eq!(status(&pair.a.login(ci), "/v2/").await, 200);
    wrong.join_next().await;
}

/// 6. A node that was restarted has forgotten its locks.
#[tokio::test]
async fn s06_a_restart_forgets_the_lock() {
    let pair = Pair::start().await;
    let alice = &pair.names.alice;
    let mut wrong = wrong_on_its_way(&pair.a, &alice.name).await;
    wrong.abort_all();
    assert_eq!(status(&pair.a.login(alice), "/v2/").await, 401);
    pair.a.kill().await;
    assert!(pair.a.client().try_get("/v2/").await.is_err(), "the port refuses");
    pair.a.restart().await;
    assert_eq!(status(&pair.a.login(alice), "/v2/").await, 200);
}

/// 7. The portal's login and Basic share one lock.
#[tokio::test]
async fn s07_the_login_form_locks_too() {
    let pair = Pair::start().await;
    let alice = &pair.names.alice;
    let client = pair.a.client();
    let wrong = Login { name: alice.name.clone(), password: "wrong".to_owned() };
    let mut browser = super::sessions::Browser::default();
    browser.keep(&client.post("/c/login", "").await);
    let form = super::sessions::Browser::form_of(&wrong);
    let login = Case::post("the form", &client, "/c/login").body(super::sessions::FORM, form);
    pair.a.clear_requests();
    let failed = browser.change(login).status(401).run();
    let meanwhile = async {
        wait::until("the form arrives", async || (!pair.a.requests().is_empty()).then_some(())).await;
        status(&pair.a.login(alice), "/v2/").await
    };
    let (_, locked) = tokio::join!(failed, meanwhile);
    assert_eq!(locked, 401);
}

/// 8. A robot's new secret counts at once, its old one no more; 9. its token goes on.
#[tokio::test]
async fn s08_s09_a_robot_gets_another_secret() {
    let pair = Pair::start().await;
    let ci = &pair.names.ci;
    let token = super::world::bearer(&pair.a, ci, &[&pull_push(&pair.names.app)]).await;
    pair.database.set_robot_secret(&ci.name, "Another1");
    assert_eq!(status(&pair.a.login(ci), "/v2/").await, 401);
    for node in [&pair.a, &pair.b] {
        assert_eq!(status(&node.client().with_basic(&ci.name, "Another1"), "/v2/").await, 200);
    }
    let uploads = format!("/v2/{}/blobs/uploads/", pair.names.app);
    Case::post("a token of before", &token, uploads).status(202).run().await;
}

/// 10. A changed password counts at once on every node of the database.
#[tokio::test]
async fn s10_a_password_changes() {
    let pair = Pair::start().await;
    let alice = &pair.names.alice;
    assert_eq!(status(&pair.b.login(alice), "/v2/").await, 200);
    pair.database.set_password(&alice.name, "Another1");
    assert_eq!(status(&pair.b.login(alice), "/v2/").await, 401);
    assert_eq!(status(&pair.b.client().with_basic(&alice.name, "Another1"), "/v2/").await, 200);
}

/// 11. A role that is taken away is gone for passwords at once, and for tokens when they are made anew.
#[tokio::test]
async fn s11_a_role_is_taken_away() {
    let pair = Pair::start().await;
    let (names, app) = (&pair.names, &pair.names.app);
    let token = super::world::bearer(&pair.a, &names.alice, &[&pull_push(app)]).await;
    pair.database.revoke(&names.alice.name, &names.team);
    let uploads = format!("/v2/{app}/blobs/uploads/");
    Case::post("Basic", &pair.a.login(&names.alice), &uploads).forbidden(app, "push").run().await;
    Case::post("the old token", &token, &uploads).status(202).run().await;
    let token = super::world::bearer(&pair.a, &names.alice, &[&pull_push(app)]).await;
    Case::post("a new token", &token, &uploads).forbidden(app, "push").run().await;
}

/// 12. A maintainer deletes, a developer does not; 13. an administrator's token has everything.
#[tokio::test]
async fn s12_s13_who_deletes() {
    let pair = Pair::start().await;
    let (names, app) = (&pair.names, &pair.names.app);
    let image = super::contents::push_image(&pair.a, &names.alice, app, &names.tag).await;
    let path = format!("/v2/{app}/manifests/{}", image.digest);
    Case::delete("a developer", &pair.a.login(&names.alice), &path).forbidden(app, "delete").run().await;
    let answer =
        Case::get("admin", &pair.a.login(&pair.admin()), token_target(&[&pull_push(app)])).status(200);
    let (_, claims) = token_parts(&answer.run().await);
    let actions = claims["access"][0]["actions"].as_array().expect("a list").clone();
    for action in ["pull", "push", "delete"] {
        assert!(actions.contains(&action.into()), "{actions:?}");
    }
    pair.database.grant(&names.bob.name, &names.team, Role::Maintainer);
    Case::delete("a maintainer", &pair.a.login(&names.bob), &path).status(202).run().await;
}

/// 14. The same name on two databases has two passwords.
#[tokio::test]
async fn s14_two_databases_two_passwords() {
    let pair = Pair::start().await;
    let (c, of_c) = own_node("c", &pair.names).await;
    let alice = &pair.names.alice;
    of_c.set_password(&alice.name, "Another1");
    assert_eq!(status(&pair.a.login(alice), "/v2/").await, 200);
    Case::get("on C", &c.login(alice), "/v2/").refused(BASIC, "unauthorized").run().await;
}

/// 15. A CLI secret does beside the password. 16. The mode shows in what everybody may know.
#[tokio::test]
async fn s15_s16_cli_secrets() {
    let pair = Pair::start().await;
    pair.database.set_cli_secret("oidc-user", "TheCliSecret1");
    let client = pair.a.client().with_basic("oidc-user", "TheCliSecret1");
    assert_eq!(status(&client, "/v2/").await, 200);
    let (_, claims) = token_parts(&client.get(&token_target(&[])).await);
    assert_eq!(claims["sub"], "oidc-user");
    let info = pair.a.client().get("/api/v2.0/systeminfo").await.json();
    assert_eq!(info["auth_mode"], "oidc_auth");
}

/// 17. Two tries of a directory that hangs both wait, and both are answered when it comes back.
#[tokio::test]
async fn s17_waiting_for_the_directory() {
    let site = Site::start().await;
    site.directory.set(DirectoryState::Hangs);
    let lalice = site.node.login(&site.lalice);
    let waiting = async { tokio::join!(lalice.get("/v2/"), lalice.get("/v2/")) };
    let back = async {
        let both = async || (site.node.requests().len() == 2).then_some(());
        wait::until("both arrive", both).await;
        assert!(site.node.requests().iter().all(|request| request.status == 0), "nobody is answered");
        site.directory.set(DirectoryState::Up);
    };
    let ((first, second), ()) = tokio::join!(waiting, back);
    assert_eq!([first, second].map(|answer| answer.status.as_u16()), [200, 200]);
}

/// 18. A robot with a wrong secret is taken for a user, and so waits for the directory.
#[tokio::test]
async fn s18_a_wrong_robot_is_a_user() {
    let site = Site::start().await;
    site.directory.set(DirectoryState::Hangs);
    let wrong = site.node.client().with_basic(&site.names.ci.name, "wrong");
    assert!(tokio::time::timeout(Duration::from_secs(2), wrong.get("/v2/")).await.is_err());
    site.directory.set(DirectoryState::Refuses);
    assert_eq!(status(&wrong, "/v2/").await, 401);
    let (_, claims) = token_parts(&site.node.login(&site.names.ci).get(&token_target(&[])).await);
    assert_eq!(claims["sub"].as_str(), Some(site.names.ci.name.as_str()));
}

/// 19. Two spellings of one directory user are two names to the lock.
#[tokio::test]
async fn s19_the_lock_is_of_the_spelling() {
    let site = Site::start().await;
    let mut wrong = wrong_on_its_way(&site.node, &site.lalice.name).await;
    assert_eq!(status(&site.node.login(&site.lalice), "/v2/").await, 401);
    let upper = Login { name: site.lalice.name.to_uppercase(), password: site.lalice.password.clone() };
    assert_eq!(status(&site.node.login(&upper), "/v2/").await, 200);
    wrong.join_next().await;
    site.database.set_auth_mode(AuthMode::Database);
    assert_eq!(status(&site.node.login(&site.lalice), "/v2/").await, 401, "nobody asks the directory now");
}

/// 64. Without its database a node answers a right password at once, and locks nothing: before a wrong one is answered elsewhere.
#[tokio::test]
async fn s64_a_database_fault_is_no_wrong_password() {
    let pair = Pair::start().await;
    let alice = &pair.names.alice;
    pair.a.set_database_gone(true);
    let mut wrong = wrong_on_its_way(&pair.b, &pair.names.bob.name).await;
    assert_eq!(status(&pair.a.login(alice), "/v2/").await, 401);
    pair.a.set_database_gone(false);
    assert_eq!(status(&pair.a.login(alice), "/v2/").await, 200);
    let answered = Instant::now();
    let (_, late) = wrong.join_next().await.expect("it was asked").expect("no panic");
    assert!(answered < late);
}

/// 65. Nor is a directory that refuses.
#[tokio::test]
async fn s65_a_directory_fault_is_no_wrong_password() {
    let site = Site::start().await;
    site.directory.set(DirectoryState::Refuses);
    let mut wrong = wrong_on_its_way(&site.node, &site.names.bob.name).await;
    assert_eq!(status(&site.node.login(&site.lalice), "/v2/").await, 401);
    site.directory.set(DirectoryState::Up);
    assert_eq!(status(&site.node.login(&site.lalice), "/v2/").await, 200);
    let answered = Instant::now();
    let (_, late) = wrong.join_next().await.expect("it was asked").expect("no panic");
    assert!(answered < late);
}
