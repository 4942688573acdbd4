//! Databases, directories and nodes that go away, and come back.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::JoinSet;

use super::fixture::{CREDENTIAL_KINDS, CredentialKind, HarborSite};
use crate::harness::config::ConfigBuilder;
use crate::harness::harbor::{DirectoryState, HarborNode};
use crate::harness::image::Image;
use crate::harness::{pull, push, random_secret, wait};

const SCOPE: &str = "repository:team/app:pull,push";

#[tokio::test(flavor = "multi_thread")]
async fn no_client_sees_that_a_node_has_lost_its_database() {
    // Side by side: most of it is waiting.
    join_all(CREDENTIAL_KINDS.map(|kind| async move {
        let site = HarborSite::start(2, kind).await;
        let image = Image::random(&[30_000]);
        let client = site.authorized("alice", &site.accounts.alice, &[SCOPE]).await;
        push::image_by_patch(&client, "team/app", "v1", &image).await;
        site.wait_for_health(&[true, true]).await;
        site.nodes[0].set_database_gone(true);
        let go_on = async |rounds: usize| {
            for round in 0..rounds {
                // Known ones and new ones, logins and pulls, from the first moment on.
                let (user, password) = [
                    ("alice", &site.accounts.alice),
                    ("robot$team+ci", &site.accounts.robot),
                    ("carol", &site.accounts.carol),
                ][round % 3];
                let client = site.authorized(user, password, &["repository:team/app:pull"]).await;
                pull::image(&client, "team/app", "v1", &image).await;
            }
        };
        go_on(9).await;
        site.wait_for_health(&[false, true]).await;
        go_on(3).await;
        // Harbor looks at its components every ten seconds; then the alarm names the one.
        site.gateway
            .wait_for_log("the alarm names the database", |line| {
                line["member"] == "node0"
                    && line["reason"].as_str().is_some_and(|reason| reason.contains("database"))
            })
            .await;
        site.nodes[0].set_database_gone(false);
        site.wait_for_health(&[true, true]).await;
        go_on(3).await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_down_or_hangs_takes_no_node_out() {
    // Earlier than is usual, and not so early that a busy machine fails good logins.
    let early = |config: ConfigBuilder| {
        config.without_providers().provider("{ harbor: { pool: main, timeout: 6s } }")
    };
    let site = HarborSite::start_with(2, CredentialKind::Token, |node| node, early).await;
    let accounts = &site.accounts;
    let (early, late) = (random_secret(), random_secret());
    accounts.database.add_directory_user("Early", &early);
    accounts.database.add_directory_user("late", &late);
    accounts.database.set_auth_mode(crate::harness::harbor::AuthMode::Ldap);
    // Typed in another way than the directory writes it.
    site.client().token("eaRLy", &early, &[]).await;
    for state in [DirectoryState::Refuses, DirectoryState::Hangs] {
        site.directory.set(state);
        // Nothing but the provider's own limit, which has to be below the 15 s that docker waits, answers while the directory hangs.
        let refused = site.client().token_answer("late", &late, &[]).await.is(503);
        assert!(refused.header("retry-after").is_some(), "{state:?}");
        // Who was right within the last minutes is still in, and robots and local accounts never depend on the directory.
        site.client().token("eaRLy", &early, &[]).await;
        site.client().token("robot$team+ci", &accounts.robot, &[SCOPE]).await;
        let alarm = |line: &serde_json::Value| {
            line["problem"].as_str().is_some_and(|text| text.contains("directory"))
        };
        site.gateway.wait_for_log("the alarm names the directory", alarm).await;
        assert_eq!(site.health().await, [true, true], "{state:?}");
    }
    site.directory.set(DirectoryState::Up);
    site.client().token("late", &late, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_that_are_cut_off_come_no_faster_than_wrong_ones() {
    let early = |config: ConfigBuilder| {
        config.without_providers().provider("{ harbor: { pool: main, timeout: 6s } }")
    };
    let site = HarborSite::start_with(2, CredentialKind::Token, |node| node, early).await;
    site.accounts.database.add_directory_user("late", &random_secret());
    site.accounts.database.set_auth_mode(crate::harness::harbor::AuthMode::Ldap);
    site.directory.set(DirectoryState::Hangs);
    let asked = || {
        let at_nodes = site.nodes.iter().flat_map(HarborNode::requests);
        at_nodes.filter(|request| request.path() == "/service/token").count()
    };
    let guess = || {
        let client = site.client();
        async move { client.token_answer("late", &random_secret(), &[]).await.is(503) }
    };
    let mut guesses = JoinSet::new();
    guesses.spawn(guess());
    wait::until("a node judges the first guess", async || (asked() > 0).then_some(())).await;
    // Each would have its turn for the moment that its own wait ends later than the one before.
    for _ in 0..3 {
        guesses.spawn(guess());
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    guesses.join_all().await;
    assert!(asked() <= site.nodes.len(), "only the first guess is judged, by each node once: {}", asked());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_pulls_of_unknown_projects_and_refused_cancels_change_no_members_state() {
    let site = HarborSite::start(2, CredentialKind::Token).await;
    site.wait_for_health(&[true, true]).await;
    let client = site.authorized("alice", &site.accounts.alice, &[SCOPE]).await;
    for number in 0..1000 {
        if number % 10 == 0 {
            let location = push::start(&client, "team/app").await;
            // A developer may not delete; the session is forgotten all the same.
            client.delete(&location).await.is(204);
        } else {
            let unknown = format!("unknown{number}/app");
            pull::manifest(&client, &unknown, "v1").await.is(401);
        }
    }
    assert_eq!(site.health().await, [true, true]);
    let lost = |line: &serde_json::Value| line["message"] == "member is out";
    assert!(site.gateway.find_log(lost).is_none(), "nobody was out in between");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_redis_or_registry_is_out_and_one_without_jobservice_is_not() {
    let site = HarborSite::start(2, CredentialKind::Token).await;
    site.wait_for_health(&[true, true]).await;
    site.nodes[0].set_redis_gone(true);
    site.wait_for_health(&[false, true]).await;
    site.nodes[0].set_redis_gone(false);
    site.wait_for_health(&[true, true]).await;
    site.nodes[0].set_registry_gone(true);
    site.wait_for_health(&[false, true]).await;
    site.nodes[0].set_registry_gone(false);
    site.wait_for_health(&[true, true]).await;
    site.nodes[0].set_jobservice_gone(true);
    // A node that is found sick is out after two probes.
    let probes =
        || site.nodes[0].requests().iter().filter(|request| request.path().ends_with("/health")).count();
    let before = probes();
    wait::until("five probes of the node", async || (probes() >= before + 5).then_some(())).await;
    assert_eq!(site.health().await, [true, true], "nobody needs that to pull or push");
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_questions_make_one_session_at_a_node() {
    let site = HarborSite::start(1, CredentialKind::Token).await;
    wait::until("ten probes", async || {
        let probes =
            site.nodes[0].requests().iter().filter(|request| request.target.ends_with("/health")).count();
        (probes > 10).then_some(())
    })
    .await;
    assert!(site.redis.sessions() <= 3, "{} sessions", site.redis.sessions());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_not_the_nodes_is_a_fault_of_the_member_that_says_so() {
    let site = HarborSite::start(2, CredentialKind::Token).await;
    site.wait_for_health(&[true, true]).await;
    // As when an operator has taken the other node's key by mistake, or the node was given a new one.
    let other = std::fs::read_to_string(site.nodes[1].private_key_file()).expect("a key");
    let own = std::fs::read_to_string(site.nodes[0].private_key_file()).expect("a key");
    site.nodes[0].replace_private_key(&other);
    let client = site.authorized("alice", &site.accounts.alice, &[SCOPE]).await;
    for _ in 0..10 {
        client.get("/v2/team/app/tags/list").await.is(404);
    }
    let said = |line: &serde_json::Value| {
        let reason = line["reason"].as_str().unwrap_or_default();
        line["member"] == "node0" && reason.contains("the configured key is not the node's private_key.pem")
    };
    site.gateway.wait_for_log("what is wrong", said).await;
    assert_eq!(site.health().await, [false, true]);
    site.nodes[0].replace_private_key(&own);
    site.wait_for_health(&[true, true]).await;
    // A probe finds it too, before any client comes.
    site.nodes[0].replace_private_key(&other);
    site.wait_for_health(&[false, true]).await;
}
