//! Somebody guesses passwords of an account that others use. Harbor locks the name for a second and a half after each wrong one, and
//! refuses the right one meanwhile; behind the gateway nobody may notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use data_encoding::BASE64;
use futures_util::future::join_all;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::fixture::{CREDENTIAL_KINDS, CredentialKind, HarborSite};
use crate::harness::client::basic;
use crate::harness::harbor::{HarborNode, SeenRequest};
use crate::harness::image::Image;
use crate::harness::{pull, push, random_secret, wait};

/// Wrong passwords for `ci`, five a second, until it is dropped. Each is answered, and never with a token.
fn guess(site: &HarborSite) -> JoinSet<usize> {
    let client = site.client();
    let mut guesser = JoinSet::new();
    guesser.spawn(async move {
        let mut running: JoinSet<u16> = JoinSet::new();
        let mut beat = tokio::time::interval(Duration::from_millis(200));
        let mut guesses = 0;
        loop {
            beat.tick().await;
            let client = client.clone();
            running.spawn(async move {
                let answer = client.token_answer("ci", &random_secret(), &["repository:team/app:pull"]).await;
                answer.status.as_u16()
            });
            guesses += 1;
            while let Some(answered) = running.try_join_next() {
                let status = answered.expect("no panic");
                // Wrong, or not even tried because too many wait.
                assert!(status == 401 || status == 503, "{status}");
            }
            if guesses == usize::MAX {
                return guesses;
            }
        }
    });
    guesser
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guesser_costs_the_account_no_failure_with_any_kind_of_credential() {
    // Side by side: most of it is waiting.
    join_all(CREDENTIAL_KINDS.map(|kind| async move {
        let site = HarborSite::start(2, kind).await;
        let login = site.client().token("ci", &site.accounts.ci, &[]).await;
        drop(login);
        let mut guesser = guess(&site);
        let right = basic("ci", &site.accounts.ci);
        let is_guess = |request: &SeenRequest| {
            let password = request.header("authorization").and_then(|value| value.strip_prefix("Basic "));
            let typed = password.and_then(|value| BASE64.decode(value.as_bytes()).ok());
            typed.is_some_and(|typed| typed.starts_with(b"ci:"))
                && request.header("authorization") != Some(&right)
        };
        let guessed = || site.nodes.iter().flat_map(HarborNode::requests).filter(is_guess).count();
        let mut rounds = 0;
        // Each guess that a node judges locks the name there, and more than one lock has to have come and gone.
        while rounds < 6 || guessed() < 2 {
            let repository = format!("team/app-{}", &random_secret()[..8]);
            let scope = format!("repository:{repository}:pull,push");
            let image = Image::random(&[20_000, 500]);
            let client = site.authorized("ci", &site.accounts.ci, &[&scope]).await;
            push::image_by_patch(&client, &repository, "v1", &image).await;
            pull::image(&client, &repository, "v1", &image).await;
            rounds += 1;
        }
        assert!(
            guesser.try_join_next().is_none(),
            "{kind:?}: the guesser still guesses, and got nothing but refusals"
        );
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_at_a_node_itself_are_waited_out() {
    // Somebody who goes past the gateway locks the name at one node; a login through the gateway is right all the same.
    let site = HarborSite::start(1, CredentialKind::Token).await;
    for _ in 0..3 {
        let direct = site.nodes[0].client().with_basic("ci", "wrong");
        let mut locking = JoinSet::new();
        locking.spawn(async move { direct.get("/v2/").await.status.as_u16() });
        wait::until("the wrong password arrives", async || {
            let arrived = |request: &SeenRequest| {
                request.header("authorization").is_some_and(|value| value == basic("ci", "wrong"))
            };
            site.nodes[0].requests().iter().any(arrived).then_some(())
        })
        .await;
        site.client().token("ci", &site.accounts.ci, &["repository:team/app:pull"]).await;
        assert_eq!(locking.join_next().await.expect("one").expect("no panic"), 401);
        site.nodes[0].clear_requests();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guesser_multiplies_nothing() {
    let site = HarborSite::start(2, CredentialKind::Token).await;
    let started = Instant::now();
    let mut guesses = JoinSet::new();
    for _ in 0..40 {
        let client = site.client();
        guesses
            .spawn(async move { client.token_answer("alice", &random_secret(), &[]).await.status.as_u16() });
    }
    let answers = guesses.join_all().await;
    assert!(answers.iter().all(|status| [401, 503].contains(status)), "{answers:?}");
    assert!(answers.contains(&503), "most were not even tried");
    let at_nodes = site.nodes.iter().flat_map(HarborNode::requests);
    let tried = at_nodes.filter(|request| request.path() == "/service/token").count() as u64;
    // One at a time for the name and address, three seconds apart after each wrong one.
    assert!(tried <= 1 + started.elapsed().as_secs() / 3, "{tried} in {:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guesser_who_hangs_up_early_waits_like_any_other() {
    let site = HarborSite::start(2, CredentialKind::Token).await;
    let asked = || {
        let at_nodes = site.nodes.iter().flat_map(HarborNode::requests);
        at_nodes.filter(|request| request.path() == "/service/token").count() as u64
    };
    let started = Instant::now();
    for turn in 0..30 {
        let client = site.client();
        let mut guess = JoinSet::new();
        guess.spawn(async move { client.try_token_answer("alice", &random_secret(), &[]).await.is_ok() });
        if turn == 0 {
            wait::until("a node judges the first one", async || (asked() > 0).then_some(())).await;
        }
        tokio::time::sleep(Duration::from_millis(60)).await;
        // The connection is gone before any node has said anything.
        guess.shutdown().await;
    }
    let tried = asked();
    assert!(tried <= 1 + started.elapsed().as_secs() / 3, "{tried} in {:?}", started.elapsed());
    // The owner of the name is not kept out.
    site.client().token("alice", &site.accounts.alice, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_guessed_at_the_api_hinder_nobody() {
    let site = HarborSite::start(2, CredentialKind::Relay).await;
    site.client().token("ci", &site.accounts.ci, &[]).await;
    let client = site.client();
    let guesses = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&guesses);
    let mut guesser = JoinSet::new();
    guesser.spawn(async move {
        loop {
            let client = client.clone().with_basic("ci", &random_secret());
            let status = client.get("/api/v2.0/users/current").await.status.as_u16();
            assert!([401, 503].contains(&status), "{status}");
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    let mut rounds = 0;
    while rounds < 5 || guesses.load(Ordering::Relaxed) < 3 {
        let repository = format!("team/app-{}", &random_secret()[..8]);
        let image = Image::random(&[9_000]);
        let client =
            site.authorized("ci", &site.accounts.ci, &[&format!("repository:{repository}:pull,push")]).await;
        push::image_by_patch(&client, &repository, "v1", &image).await;
        pull::image(&client, &repository, "v1", &image).await;
        let api = site.client().with_basic("ci", &site.accounts.ci);
        api.get("/api/v2.0/users/current").await.is(200);
        rounds += 1;
    }
    assert!(guesser.try_join_next().is_none(), "the guesser still guesses");
    let pages = site.nodes.iter().flat_map(HarborNode::requests);
    let reached =
        pages.filter(|request| request.path() == "/api/v2.0/users/current" && request.status == 401);
    assert_eq!(reached.count(), 0, "no unproven password reaches a node's API");
}
