//! Who gets in: users, robots, guests, strangers, and what each may do.

use http::Method;

use super::fixture::{CREDENTIAL_KINDS, CredentialKind, HarborSite};
use crate::harness::client::{basic, whole};
use crate::harness::harbor::{HarborNode, SeenRequest};
use crate::harness::image::Image;
use crate::harness::{pull, push};

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
            push::image_by_patch(&client, &repository, "v1", &image).await;
            for _ in 0..4 {
                pull::image(&client, &repository, "v1", &image).await;
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
        site.client().token_answer("alice", "wrong", &["repository:team/app:pull"]).await.is(401);
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
            let answer = answer.is(401);
            assert_eq!(answer.error_code().as_deref(), Some("DENIED"), "{user} {scope}");
            let challenge = answer.header("www-authenticate").expect("a challenge");
            assert!(
                challenge.starts_with("Bearer ") && challenge.contains("insufficient_scope"),
                "{challenge}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_no_account_can_have_is_wrong_and_asked_of_nobody() {
    let site =
        HarborSite::start_with(2, CredentialKind::Token, |node| node, |config| config.user("carl", "x"))
            .await;
    site.nodes.iter().for_each(HarborNode::clear_requests);
    let long = "a".repeat(300);
    let latin1 = data_encoding::BASE64.encode(b"al\xefce:secret");
    for authorization in [
        basic("al\0ice", "secret"),
        basic("carl\0", "x"),
        basic("alice\n", "secret"),
        basic("alice", "sec\0ret"),
        // bcrypt would take it for "x".
        basic("carl", "x\0x"),
        basic("alice", ""),
        basic("", "secret"),
        basic(&long, "secret"),
        format!("Basic {latin1}"),
    ] {
        let token = "/service/token?service=tidegate-test&scope=repository:team/app:pull";
        for target in ["/v2/", "/v2/team/app/tags/list", token, "/api/v2.0/users/current"] {
            let client = site.client();
            let request = client.request(Method::GET, target).header("authorization", &authorization);
            let answer = client.send(request.empty()).await;
            assert_eq!(answer.status, 401, "{authorization} {target}: {}", answer.text());
        }
    }
    let form = "grant_type=password&username=al%00ice&password=secret&service=tidegate-test&scope=repository:team/app:pull";
    let client = site.client();
    let request = client.request(Method::POST, "/service/token");
    let request = request.header("content-type", "application/x-www-form-urlencoded").body(whole(form));
    client.send(request).await.is(401);
    let probe = basic("robot$probe", &site.accounts.probe);
    let of_others = |request: &SeenRequest| {
        request.header("authorization").is_some_and(|value| value.starts_with("Basic ") && value != probe)
    };
    for node in &site.nodes {
        let seen: Vec<_> = node.requests().into_iter().filter(of_others).collect();
        assert!(seen.is_empty(), "{}: {seen:?}", node.name());
    }
    let alarm = site
        .gateway
        .find_log(|line| line["message"].as_str().is_some_and(|text| text.contains("cannot be judged")));
    assert!(alarm.is_none(), "{alarm:?}");
}
