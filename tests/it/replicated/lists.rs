//! Lists of tags and repositories of members that copy each other: those of all, in pages that follow on each other.

use std::collections::BTreeSet;

use crate::failover::site_of;
use crate::harness::client::TestClient;
use crate::harness::fake_member::{FakeMember, Recorded, answer};
use crate::harness::image::Image;
use crate::harness::push;
use crate::harness::registry::StockRegistry;
use crate::harness::site::Site;

/// Follows the links of a list to its end; the entries in order.
async fn follow(client: &TestClient, path: &str, key: &str) -> Vec<String> {
    let (mut entries, mut next) = (Vec::new(), Some(path.to_owned()));
    while let Some(path) = next {
        let answer = client.get(&path).await.is(200);
        let page = answer.json();
        let page: Vec<String> = page[key]
            .as_array()
            .expect("a list")
            .iter()
            .map(|it| it.as_str().expect("text").to_owned())
            .collect();
        assert!(entries.len() < 200, "the links lead in a circle: {entries:?}");
        entries.extend(page);
        next = answer.header("link").map(|link| {
            let target = link.strip_prefix('<').and_then(|link| link.split_once(">; rel=\"next\""));
            target.expect("a link to the next page").0.to_owned()
        });
    }
    entries
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_those_of_all_members_and_their_pages_follow_on_each_other() {
    let mut members = Vec::new();
    for number in 0..3 {
        members.push(StockRegistry::builder(&format!("node{number}")).start().await);
    }
    let image = Image::random(&[500]);
    let (mut tags, mut names) = (BTreeSet::new(), BTreeSet::new());
    for (number, member) in members.iter().enumerate() {
        let client = TestClient::plain(member.address());
        // Some at one member only, some at several.
        let at_this = (0..12).filter(|tag| tag % 3 == number || tag % 5 == 0);
        for tag in at_this.map(|tag| format!("v{tag}")) {
            push::image(&client, "team/app", &tag, &image).await;
            tags.insert(tag);
        }
        for name in [format!("only/at{number}"), "team/app".to_owned(), format!("team/app-{number}")] {
            push::image(&client, &name, "v0", &image).await;
            names.insert(name);
        }
    }
    let mut site = Site::start_with(&[], |config| {
        let config =
            members.iter().fold(config, |config, member| config.member(member)).storage("replicated");
        config.rule("{ user: \"*\", repository: \"**\", allow: [pull, push, delete, catalog] }")
    })
    .await;
    let client = site.authorized(&["repository:team/app:pull", "registry:catalog:*"]).await;
    let tags: Vec<String> = tags.into_iter().collect();
    for pages in ["", "?n=1", "?n=5", "?n=1000"] {
        assert_eq!(follow(&client, &format!("/v2/team/app/tags/list{pages}"), "tags").await, tags, "{pages}");
        let catalog = follow(&client, &format!("/v2/_catalog{pages}"), "repositories").await;
        assert_eq!(catalog.iter().cloned().collect::<BTreeSet<_>>(), names, "{pages}");
        assert_eq!(catalog.len(), names.len(), "{pages}: each once");
    }
    // One that is down takes only its own from the lists.
    members[2].kill();
    site.gateway.wait_for_state("node2", "unhealthy").await;
    let tags = follow(&client, "/v2/team/app/tags/list", "tags").await;
    assert!(tags.contains(&"v0".to_owned()) && !tags.contains(&"v2".to_owned()), "{tags:?}");
    let unknown = site.authorized(&["repository:no/such:pull"]).await.get("/v2/no/such/tags/list").await;
    assert_eq!((unknown.status.as_u16(), unknown.error_code().as_deref()), (404, Some("NAME_UNKNOWN")));
    site.stop_gateway().await;
}

/// A member that knows the gateway, and says 401 to every list of this repository.
async fn knows_nothing_of(repository: &'static str) -> FakeMember {
    FakeMember::start(move |request: &Recorded| {
        if request.is_probe() {
            return None;
        }
        let refuses = request.target.starts_with(&format!("/v2/{repository}/"));
        let challenge =
            [("www-authenticate", "Bearer realm=\"http://inner.example/token\",service=\"inner\"")];
        let list = r#"{"name":"a/b","tags":["v1"]}"#;
        Some(match refuses {
            true => answer(401, &challenge, ""),
            false => answer(200, &[("content-type", "application/json")], list),
        })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_one_member_is_not_the_answer_to_a_list_of_all() {
    let (one, two) = (knows_nothing_of("c/d").await, knows_nothing_of("nothing").await);
    for credential in ["{ token: {} }", "{ basic: { user: gateway, password: x } }"] {
        let mut site = site_of(&[], |config| {
            config.storage("replicated").member_at("m0", one.url(), credential).member_at(
                "m1",
                two.url(),
                credential,
            )
        })
        .await;
        let client = site.authorized(&["repository:c/d:pull"]).await;
        let list = client.get("/v2/c/d/tags/list").await.is(200);
        assert_eq!(list.json()["tags"], serde_json::json!(["v1"]), "{credential}");
        site.stop_gateway().await;
    }
    // Refused by all of them, it is a challenge that leads to the gateway's own token endpoint.
    let basic = "{ basic: { user: gateway, password: x } }";
    let three = knows_nothing_of("c/d").await;
    let mut site = site_of(&[], |config| {
        config.storage("replicated").member_at("m0", one.url(), basic).member_at("m1", three.url(), basic)
    })
    .await;
    let client = site.authorized(&["repository:c/d:pull"]).await;
    let refused = client.get("/v2/c/d/tags/list").await.is(401);
    let realm = format!(
        "Bearer realm=\"https://{}/service/token\",service=\"tidegate-test\"",
        site.endpoint.authority
    );
    let challenge = refused.header("www-authenticate").unwrap_or_default();
    assert!(challenge.starts_with(&realm), "{challenge}");
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_that_are_merged_take_no_more_memory_than_there_is() {
    // Three of them are more than the least budget for answers, and much less than the usual one.
    let tags: Vec<String> = (0..60_000).map(|number| format!("\"v{number:048}\"")).collect();
    let list = format!("{{\"name\":\"a/b\",\"tags\":[{}]}}", tags.join(","));
    let mut members = Vec::new();
    for _ in 0..3 {
        let list = list.clone();
        members.push(
            FakeMember::start(move |request: &Recorded| {
                request.target.contains("/tags/list").then(|| answer(200, &[], list.clone()))
            })
            .await,
        );
    }
    for (memory, expected) in [("8MiB", 503), ("64MiB", 200)] {
        let extra = format!("verify: {{ buffer_bytes_max: {memory} }}");
        let named: Vec<_> = members.iter().collect();
        let mut site = site_of(&named, |config| config.storage("replicated").extra(&extra)).await;
        let answer =
            site.authorized(&["repository:a/b:pull"]).await.get("/v2/a/b/tags/list").await.is(expected);
        match expected {
            200 => assert_eq!(answer.json()["tags"].as_array().map(Vec::len), Some(60_000)),
            _ => assert_eq!(answer.error_code().as_deref(), Some("UNAVAILABLE"), "{answer:?}"),
        }
        site.stop_gateway().await;
    }
}
