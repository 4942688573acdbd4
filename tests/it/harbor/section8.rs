//! What makes a refusal across nodes impossible, sentence by sentence: own challenges and tokens, own tokens only, a credential for
//! the node that gets the request, the node's challenge replaced, and a refused credential judged before anybody hears of it.

use std::time::{Duration, SystemTime};

use data_encoding::BASE64URL_NOPAD;
use http::Method;

use super::fixture::{CREDENTIAL_KINDS, CredentialKind, HarborSite};
use crate::harness::client::{basic, challenge_parameter};
use crate::harness::harbor::{HarborNode, HarborNodeBuilder, HarborVersion, Role};
use crate::harness::image::{Blob, Image};
use crate::harness::{pull, push, wait};

const SCOPE: &str = "repository:team/app:pull,push";

/// A part of a token: 0 the header, 1 the claims.
fn part(token: &str, at: usize) -> serde_json::Value {
    let text = token.split('.').nth(at).expect("a token has three parts");
    serde_json::from_slice(&BASE64URL_NOPAD.decode(text.as_bytes()).expect("base64url")).expect("JSON")
}

/// A token as the node itself gives it.
async fn token_of(node: &HarborNode, user: &str, password: &str) -> String {
    let target = "/service/token?service=harbor-registry&scope=repository:team/app:pull,push";
    let answer = node.client().with_basic(user, password).get(target).await;
    answer.is(200).token()
}

#[tokio::test(flavor = "multi_thread")]
async fn challenges_are_the_gateways_own_and_name_its_public_url() {
    let site = HarborSite::start(2, CredentialKind::Token).await;
    for target in ["/v2/", "/v2/team/app/manifests/v1", "/v2/pub/app/tags/list", "/v2/_catalog"] {
        let answer = site.client().get(target).await.is(401);
        let challenges: Vec<_> = answer.headers.get_all("www-authenticate").iter().collect();
        assert_eq!(challenges.len(), 1, "{target}");
        let challenge = challenges[0].to_str().expect("text");
        let realm = challenge_parameter(challenge, "realm").expect("a realm");
        assert_eq!(realm, format!("https://{}/service/token", site.endpoint.authority));
        assert_eq!(challenge_parameter(challenge, "service").as_deref(), Some("tidegate-test"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_the_gateways_own_whatever_a_node_says_in_its_challenge() {
    // The nodes name another address; nobody ever goes there.
    let elsewhere = |node: HarborNodeBuilder| node.external_endpoint("http://192.0.2.1");
    for kind in CREDENTIAL_KINDS {
        let site = HarborSite::start_with(2, kind, elsewhere, |config| config).await;
        let token = site.client().token("alice", &site.accounts.alice, &[SCOPE]).await;
        let (header, claims) = (part(&token, 0), part(&token, 1));
        assert_eq!(
            (&header["alg"], &claims["iss"], &claims["aud"]),
            (&"ES256".into(), &"tidegate".into(), &"tidegate-test".into())
        );
        assert_eq!(
            (&claims["sub"], &claims["provider"], &claims["use"]),
            (&"alice".into(), &"harbor".into(), &"client".into())
        );
        assert!(!token.contains(&site.accounts.alice) && !claims.to_string().contains(&site.accounts.alice));
        let image = Image::random(&[9_000]);
        let client = site.client().with_bearer(&token);
        push::image_by_patch(&client, "team/app", "v1", &image).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_own_tokens_are_accepted() {
    let site = HarborSite::start(2, CredentialKind::Exchange).await;
    for node in &site.nodes {
        let token = token_of(node, "alice", &site.accounts.alice).await;
        let direct = node.client().with_bearer(&token).get("/v2/").await;
        assert_eq!(direct.status, 200, "the node itself takes it");
        let answer = site.client().with_bearer(&token).get("/v2/").await.is(401);
        let challenge = answer.header("www-authenticate").expect("a challenge").to_owned();
        assert!(challenge.starts_with("Bearer ") && challenge.contains("invalid_token"), "{challenge}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_has_the_credential_of_the_node_that_gets_it() {
    for kind in CREDENTIAL_KINDS {
        let site = HarborSite::start(3, kind).await;
        // Which node a blob comes from follows from its digest: of forty, each node has some.
        let image = Image::random(&[200; 40]);
        let client = site.authorized("alice", &site.accounts.alice, &[SCOPE]).await;
        push::image_by_patch(&client, "team/app", "v1", &image).await;
        for _ in 0..3 {
            pull::image(&client, "team/app", "v1", &image).await;
        }
        for node in &site.nodes {
            let kid = part(&token_of(node, "alice", &site.accounts.alice).await, 0)["kid"].clone();
            let requests = node.requests();
            let ours = requests.iter().filter(|request| request.path().starts_with("/v2/team/app/"));
            let mut seen = 0;
            for request in ours {
                seen += 1;
                assert_eq!(request.status / 100, 2, "{} {}", request.method, request.target);
                let value = request.header("authorization").expect("a credential");
                match kind {
                    CredentialKind::Relay => assert_eq!(value, basic("alice", &site.accounts.alice)),
                    CredentialKind::Token | CredentialKind::Exchange => {
                        let token = value
                            .strip_prefix("Bearer ")
                            .expect("a token, with the scheme as Harbor reads it");
                        assert_eq!(part(token, 0)["kid"], kid, "{kind:?}: signed by this node's key");
                        // The audit log of the node has the real user.
                        assert_eq!(part(token, 1)["sub"], "alice");
                    }
                }
            }
            assert!(seen > 0, "{kind:?}: {} was never asked", node.name());
        }
        let audit = site.accounts.database.audit();
        assert!(
            audit.iter().any(|entry| entry.username == "alice" && entry.resource.contains("team/app")),
            "{audit:?}"
        );
        assert!(audit.iter().all(|entry| entry.username != "robot$probe"), "{audit:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nodes_challenge_never_reaches_a_client() {
    for kind in CREDENTIAL_KINDS {
        let site = HarborSite::start(2, kind).await;
        // A right that ends after our token was given: the node refuses with `Basic realm="harbor"`.
        let client = site.authorized("alice", &site.accounts.alice, &[SCOPE]).await;
        site.accounts.database.remove_project("team");
        let answers = [
            client.get("/v2/team/app/tags/list").await,
            client.post("/v2/team/app/blobs/uploads/", "").await,
            pull::manifest(&client, "team/app", "v1").await,
        ];
        for answer in answers {
            assert!(matches!(answer.status.as_u16(), 401 | 404), "{kind:?}: {}", answer.text());
            for challenge in answer.headers.get_all("www-authenticate") {
                let challenge = challenge.to_str().expect("text");
                assert!(
                    challenge.starts_with("Bearer ") && challenge.contains(&site.endpoint.authority),
                    "{challenge}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_of_a_node_is_dropped_and_the_request_made_once_more() {
    let site = HarborSite::start(1, CredentialKind::Exchange).await;
    let image = Image::random(&[9_000]);
    let client = site.authorized("alice", &site.accounts.alice, &[SCOPE]).await;
    push::image_by_patch(&client, "team/app", "v1", &image).await;
    pull::image(&client, "team/app", "v1", &image).await;
    // The node gets another key: what it signed before, it refuses from now on.
    let other = HarborSite::start(1, CredentialKind::Token).await;
    site.nodes[0]
        .replace_private_key(&std::fs::read_to_string(other.nodes[0].private_key_file()).expect("a key"));
    site.nodes[0].clear_requests();
    pull::image(&client, "team/app", "v1", &image).await;
    let refused = site.nodes[0].requests().iter().filter(|request| request.status == 401).count();
    assert_eq!(refused, 1, "one token of this access was stale, and only its first use was refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_under_a_body_that_is_gone_is_a_fault_of_the_node_and_no_401() {
    let site = HarborSite::start(1, CredentialKind::Exchange).await;
    let client = site.authorized("alice", &site.accounts.alice, &[SCOPE]).await;
    let blob = Blob::random(50_000);
    let location = push::start(&client, "team/app").await;
    let other = HarborSite::start(1, CredentialKind::Token).await;
    site.nodes[0]
        .replace_private_key(&std::fs::read_to_string(other.nodes[0].private_key_file()).expect("a key"));
    let answer = client.patch(&location, blob.bytes.clone()).await;
    assert_eq!(answer.status, 504, "try again, not: you may not: {}", answer.text());
    // docker starts over; the token is new by now.
    let location = push::start(&client, "team/app").await;
    let patched = client.patch(&location, blob.bytes.clone()).await.is(202);
    push::finish(&client, &patched.location(), &blob.digest, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_was_changed_is_refused_as_wrong_and_not_as_a_fault() {
    for kind in [CredentialKind::Exchange, CredentialKind::Relay] {
        let site = HarborSite::start(2, kind).await;
        let client = site.authorized("alice", &site.accounts.alice, &[SCOPE]).await;
        site.accounts.database.set_password("alice", &crate::harness::random_secret());
        // Relay asks the node with each request; exchange when it needs a new token.
        let answer = client.get("/v2/team/app/tags/list").await.is(401);
        let challenge = answer.header("www-authenticate").expect("a challenge");
        assert!(challenge.contains("invalid_token"), "{kind:?}: {challenge}");
        // Nobody's health suffers.
        let lost = |line: &serde_json::Value| line["message"] == "member is out";
        assert!(site.gateway.find_log(lost).is_none(), "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_token_cannot_do_goes_by_the_configured_account_and_only_for_whom_harbor_allows_it() {
    for kind in CREDENTIAL_KINDS {
        let site = HarborSite::start(2, kind).await;
        let image = Image::random(&[9_000]);
        let client = site.authorized("alice", &site.accounts.alice, &[SCOPE]).await;
        push::image_by_patch(&client, "team/app", "v1", &image).await;
        let admin = site.accounts.database.admin_password().to_owned();
        let client = site.authorized("admin", &admin, &["registry:catalog:*"]).await;
        let listed = client.get("/v2/_catalog").await.is(200);
        assert_eq!(listed.json()["repositories"], serde_json::json!(["team/app"]), "{kind:?}");
        let client = site.authorized("alice", &site.accounts.alice, &["registry:catalog:*"]).await;
        client.get("/v2/_catalog").await.is(401);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_public_is_anybodys_and_nothing_else() {
    for kind in CREDENTIAL_KINDS {
        let site = HarborSite::start(2, kind).await;
        let image = Image::random(&[9_000]);
        let scope = "repository:pub/app:pull,push";
        let client = site.authorized("alice", &site.accounts.alice, &[scope]).await;
        push::image_by_patch(&client, "pub/app", "v1", &image).await;
        let anonymous = |scope: &str| {
            let request = site
                .client()
                .request(Method::GET, &format!("/service/token?service=tidegate-test&scope={scope}"));
            request.empty()
        };
        let token = async |scope: &str| {
            let answer = site.client().send(anonymous(scope)).await.is(200);
            answer.token()
        };
        let client = site.client().with_bearer(&token(scope).await);
        for _ in 0..4 {
            pull::image(&client, "pub/app", "v1", &image).await;
        }
        client.post("/v2/pub/app/blobs/uploads/", "").await.is(401);
        let client = site.client().with_bearer(&token("repository:team/app:pull").await);
        client.get("/v2/team/app/tags/list").await.is(401);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_that_is_younger_than_the_tokens_for_it_is_served_at_once() {
    let newest = |node: HarborNodeBuilder| node.version(HarborVersion::V2_15);
    let site = HarborSite::start_with(1, CredentialKind::Token, newest, |config| config).await;
    let image = Image::random(&[9_000]);
    let client = site.authorized("ci", &site.accounts.ci, &[SCOPE]).await;
    push::image_by_patch(&client, "team/app", "v1", &image).await;
    pull::image(&client, "team/app", "v1", &image).await;
    let remembered = SystemTime::now();
    // A token of more than 20 s is too old for a body that can be sent once; nothing but time makes one so old.
    wait::until("the remembered tokens to be older than that", async || {
        (remembered.elapsed().ok()? >= Duration::from_secs(22)).then_some(())
    })
    .await;
    // Harbor 2.15 takes no token that was made more than a minute before the project. Ours are dated back by half of that, so a
    // project of this time is too young for the remembered ones, and old enough for those that are made now.
    let created = remembered + Duration::from_secs(32);
    site.accounts.database.remove_project("team");
    site.accounts.database.add_project_at("team", false, created);
    site.accounts.database.grant("ci", "team", Role::Maintainer);
    site.nodes[0].clear_requests();
    // A body that can be sent once has a token that is surely young enough.
    push::manifest(&client, "team/app", "v2", &image).await;
    assert_eq!(site.refusals_at_nodes(), Vec::<String>::new());
    pull::image(&client, "team/app", "v2", &image).await;
    assert_eq!(site.refusals_at_nodes().len(), 1);
}
