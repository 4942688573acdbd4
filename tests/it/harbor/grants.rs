//! Whose word counts where: a right of one place opens nothing at another.

use http::Method;

use super::fixture::{CredentialKind, HarborSite};
use crate::harness::image::Image;
use crate::harness::registry::StockRegistry;
use crate::harness::{pull, push, wait};

#[tokio::test(flavor = "multi_thread")]
async fn what_the_policy_grants_under_one_host_opens_nothing_that_harbor_decides_under_another() {
    let plain = StockRegistry::builder("plain").start().await;
    let url = plain.url();
    // Under `localhost` everything goes to a plain registry, and anybody may pull there; under the address it goes to Harbor.
    let site = HarborSite::start_with(
        1,
        CredentialKind::Token,
        |node| node,
        |config| {
            config
                .extra("hosts: [localhost]")
                .rule("{ everybody: true, repository: \"**\", allow: [pull, push, catalog] }")
                .further_pool(&format!("{{ name: plain, members: [{{ name: plain, url: \"{url}\" }}] }}"))
                .first_route("{ host: localhost, repository: \"**\", pool: plain }")
        },
    )
    .await;
    let image = Image::random(&[9_000]);
    let alice = site.authorized("alice", &site.accounts.alice, &["repository:team/app:pull,push"]).await;
    push::image_by_patch(&alice, "team/app", "v1", &image).await;
    let port = site.endpoint.authority.rsplit_once(':').expect("a port").1.to_owned();
    let mirror = site.client().with_host(&format!("localhost:{port}"));
    let request =
        mirror.request(Method::GET, "/service/token?service=tidegate-test&scope=repository:team/app:pull");
    let answer = mirror.send(request.empty()).await;
    let token = answer.is(200).token();
    let there = pull::manifest(&mirror.with_bearer(&token), "team/app", "v1").await;
    assert_eq!(
        there.status,
        404,
        "it is good for the plain registry, which has no such image: {}",
        there.text()
    );
    for scope in ["repository:team/app:pull", "repository:other/app:push", "registry:catalog:*"] {
        let stolen = pull::manifest(&site.client().with_bearer(&token), "team/app", "v1").await;
        assert_eq!(stolen.status, 401, "{scope}: {}", stolen.text());
    }
    // The same with a name: bob may push to the plain registry, and has nothing in Harbor.
    let mirror = site.client().with_host(&format!("localhost:{port}"));
    let bob = mirror
        .token("bob", &site.accounts.bob, &["repository:team/app:pull,push", "registry:catalog:*"])
        .await;
    mirror.clone().with_bearer(&bob).get("/v2/_catalog").await.is(200);
    let at_harbor = site.client().with_bearer(&bob);
    at_harbor.get("/v2/_catalog").await.is(401);
    pull::manifest(&at_harbor, "team/app", "v1").await.is(401);
    at_harbor.post("/v2/team/app/blobs/uploads/", "").await.is(401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_was_taken_away_ends_although_its_owner_asks_for_others() {
    let short =
        |config: crate::harness::config::ConfigBuilder| config.extra("password_checks: { success_ttl: 3s }");
    let site = HarborSite::start_with(1, CredentialKind::Token, |node| node, short).await;
    let scope = "repository:team/app:pull,push";
    site.client().token("alice", &site.accounts.alice, &[scope]).await;
    site.accounts.database.revoke("alice", "team");
    // She goes on asking for what she may not have, which asks the nodes each time and proves her password anew. Would that renew the
    // right that she had, it would never end.
    wait::until("the right to end", async || {
        let client = site.authorized("alice", &site.accounts.alice, &["repository:other/x:pull"]).await;
        client.get("/v2/other/x/tags/list").await.is(401);
        let client = site.authorized("alice", &site.accounts.alice, &[scope]).await;
        (client.post("/v2/team/app/blobs/uploads/", "").await.status == 401).then_some(())
    })
    .await;
}
