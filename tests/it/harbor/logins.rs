//! Who gets in: users, robots, guests, strangers, and what each may do.

use super::content::{pull, push};
use super::fixture::{CREDENTIAL_KINDS, CredentialKind, HarborSite};
use crate::harness::image::Image;

#[tokio::test(flavor = "multi_thread")]
async fn users_and_robots_push_and_pull_with_every_kind_of_credential() {
    for kind in CREDENTIAL_KINDS {
        let site = HarborSite::start(2, kind).await;
        for (user, password) in [
            ("alice", &site.accounts.alice),
            ("robot$team+ci", &site.accounts.robot),
            ("ci", &site.accounts.ci),
        ] {
            let repository = format!("team/app-{}", &crate::harness::random_secret()[..8]);
            let scope = format!("repository:{repository}:pull,push");
            let image = Image::random(&[70_000, 500]);
            let client = site.authorized(user, password, &[&scope]).await;
            push(&client, &repository, "v1", &image).await.expect("pushed");
            for _ in 0..4 {
                pull(&client, &repository, "v1", &image).await.expect("pulled");
            }
        }
        assert_eq!(site.refusals_at_nodes(), Vec::<String>::new(), "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_not_is_refused_as_registry_clients_expect() {
    for kind in [CredentialKind::Token] {
        let site = HarborSite::start(2, kind).await;
        let accounts = &site.accounts;
        let wrong = site.client().token_answer("alice", "wrong", &["repository:team/app:pull"]).await;
        assert_eq!(wrong.expect("an answer").status, 401);
        for (user, password, scope) in [
            ("carol", &accounts.carol, "repository:team/app:push"),
            ("bob", &accounts.bob, "repository:team/app:pull"),
            ("alice", &accounts.alice, "repository:nowhere/app:pull"),
            ("robot$other+ci", &accounts.other_robot, "repository:team/app:pull"),
            ("alice", &accounts.alice, "repository:team/app:delete"),
        ] {
            let client = site.authorized(user, password, &[scope]).await;
            let (_, rest) = scope.split_once(':').expect("a scope");
            let (name, action) = rest.split_once(':').expect("a scope");
            let answer = match action {
                "push" => client.post(&format!("/v2/{name}/blobs/uploads/"), "").await,
                "delete" => client.delete(&format!("/v2/{name}/manifests/sha256:{}", "0".repeat(64))).await,
                _ => client.get(&format!("/v2/{name}/manifests/v1")).await,
            };
            let answer = answer.expect("an answer").expect(401).expect("a refusal");
            assert_eq!(answer.error_code().as_deref(), Some("DENIED"), "{user} {scope}");
            let challenge = answer.header("www-authenticate").expect("a challenge");
            assert!(
                challenge.starts_with("Bearer ") && challenge.contains("insufficient_scope"),
                "{challenge}"
            );
        }
    }
}
