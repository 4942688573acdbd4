//! Sequences that were not recorded, and follow from what was: clocks, other versions of Harbor (from their source), and contents.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::case::{BASIC, Case};
use super::contents::{OCI, push_image};
use super::minted::{Mint, claims, entry, now};
use super::world::{As as _, Names, Pair, bearer, bearer_challenge, pull_push, token_answer, token_target};
use crate::harness::client::TestClient;
use crate::harness::harbor::{HarborDatabase, HarborNode, HarborVersion};
use crate::harness::image::{Blob, digest_of};
use crate::harness::push;

/// One node of a version, with the accounts of this run.
struct One {
    names: Names,
    node: HarborNode,
    database: HarborDatabase,
    mint: Mint,
}

impl One {
    async fn of(version: HarborVersion) -> Self {
        let (names, database) = (Names::new(), HarborDatabase::new());
        names.fill(&database);
        let node = HarborNode::builder("one").version(version).database(&database).start().await;
        let mint = Mint::of(node.private_key_file());
        Self { names, node, database, mint }
    }

    /// A client with a minted token that may do everything with the repositories.
    fn minted(&self, repositories: &[&str], changes: &Value) -> TestClient {
        let access: Vec<_> =
            repositories.iter().map(|repository| entry(repository, &["pull", "push"])).collect();
        self.node.client().with_bearer(&self.mint.plain(&claims(&json!(access), changes)))
    }

    async fn upload(&self, id: &str, client: &TestClient, repository: &str, wanted: u16) {
        Case::post(id, client, format!("/v2/{repository}/blobs/uploads/")).status(wanted).run().await;
    }
}

/// 37. A token of a clock that is ahead: refused to the second by 2.9, taken within a minute by 2.11, and not beyond.
#[tokio::test]
async fn s37_clocks() {
    for (version, near) in
        [(HarborVersion::V2_0, 401), (HarborVersion::V2_9, 401), (HarborVersion::V2_11, 202)]
    {
        let one = One::of(version).await;
        let app = &one.names.app;
        for (seconds, wanted) in [(30, near), (90, 401)] {
            for claim in ["iat", "nbf"] {
                let client = one.minted(&[app], &json!({ claim: now() + seconds }));
                one.upload(&format!("{version:?} {claim} {seconds} s ahead"), &client, app, wanted).await;
            }
            let client = one.minted(&[app], &json!({ "exp": now() - seconds }));
            one.upload(&format!("{version:?} expired {seconds} s ago"), &client, app, wanted).await;
        }
    }
}

/// 38. A node whose clock is behind refuses what was just minted; its own tokens do. 39. One that is ahead makes tokens that others
/// with the same key refuse.
#[tokio::test]
async fn s38_s39_a_wrong_clock() {
    let pair = Pair::start().await;
    let (names, app) = (&pair.names, &pair.names.app);
    let mint = Mint::of(pair.a.private_key_file());
    let minted = mint.plain(&claims(&json!([entry(app, &["pull"])]), &Value::Null));
    pair.a.set_clock_offset(-60);
    Case::get("behind", &pair.a.client().with_bearer(&minted), "/v2/")
        .refused(BASIC, "unauthorized")
        .run()
        .await;
    let own = bearer(&pair.a, &names.alice, &[&pull_push(app)]).await;
    Case::get("its own", &own, "/v2/").status(200).run().await;
    pair.b.replace_private_key(&std::fs::read_to_string(pair.a.private_key_file()).expect("a key"));
    pair.a.set_clock_offset(120);
    let token = token_answer(&pair.a.login(&names.alice), &[&pull_push(app)]).await.token();
    let on_b = pair.b.client().with_bearer(&token);
    Case::get("ahead, on B", &on_b, "/v2/").refused(BASIC, "unauthorized").run().await;
}

/// 40. A token of half an hour ends after half an hour.
#[tokio::test]
async fn s40_tokens_expire() {
    let pair = Pair::start().await;
    let token = bearer(&pair.a, &pair.names.alice, &[&pull_push(&pair.names.app)]).await;
    pair.a.set_clock_offset(1795);
    Case::get("almost", &token, "/v2/").status(200).run().await;
    pair.a.set_clock_offset(1801);
    Case::get("over", &token, "/v2/").refused(BASIC, "unauthorized").run().await;
}

/// 41. 2.15 refuses a token that is older than the project by more than a minute; 42. and one without an age; 43. 2.14 takes both.
#[tokio::test]
async fn s41_s43_projects_younger_than_tokens() {
    for (version, wanted) in [(HarborVersion::V2_15, 401), (HarborVersion::V2_14, 202)] {
        let one = One::of(version).await;
        let (old, young) = ("oldproject/app", "youngproject/app");
        one.database.add_project_at("oldproject", false, SystemTime::now() - Duration::from_secs(3600));
        one.database.add_project("youngproject", false);
        let issued = json!({ "iat": now() - 120 });
        let client = one.minted(&[old, young], &issued);
        one.upload("an old project", &client, old, 202).await;
        one.upload("a young project", &client, young, wanted).await;
        let recent = one.minted(&[young], &json!({ "iat": now() - 50 }));
        one.upload("within a minute", &recent, young, 202).await;
        let ageless = one.minted(&[old], &json!({ "iat": null }));
        one.upload("no age", &ageless, old, wanted).await;
        Case::get("no age, no project", &ageless, "/v2/").status(200).run().await;
    }
}

/// 44. 2.15 looks at the source of a mount in the same way.
#[tokio::test]
async fn s44_the_source_of_a_mount() {
    let one = One::of(HarborVersion::V2_15).await;
    one.database.add_project_at("oldproject", false, SystemTime::now() - Duration::from_secs(3600));
    let admin = one.node.client().with_basic("admin", one.database.admin_password());
    let blob = Blob::random(100);
    push::blob(&admin, &one.names.app, &blob).await;
    let target = format!("/v2/oldproject/app/blobs/uploads/?mount={}&from={}", blob.digest, one.names.app);
    let both = ["oldproject/app", one.names.app.as_str()];
    let old = one.minted(&both, &json!({ "iat": now() - 120 }));
    Case::post("an old token", &old, &target).forbidden(&one.names.app, "pull").run().await;
    Case::post("a new one", &one.minted(&both, &Value::Null), &target).status(201).run().await;
}

/// 45. The realm of 2.14 is at the host that was asked; 46. with the scheme of the external address.
#[tokio::test]
async fn s45_s46_the_realm_of_later_versions() {
    let names = Names::new();
    let node = HarborNode::builder("one")
        .version(HarborVersion::V2_14)
        .external_endpoint("https://registry.example.test")
        .start()
        .await;
    println!("{}", names.seed);
    for host in ["hub.example.org", "hub.example.org:8443"] {
        let client = node.client().with_host(host);
        let challenge = bearer_challenge(&format!("https://{host}"), "");
        Case::get("2.14", &client, "/v2/").refused(challenge, "unauthorized").run().await;
    }
}

/// 47. Harbor 1.10: the registry asks for a token, takes its node's, and calls another's invalid; 48. a password is not looked at.
#[tokio::test]
async fn s47_s48_harbor_1() {
    let one = One::of(HarborVersion::V1_10).await;
    let other = One::of(HarborVersion::V1_10).await;
    let (names, app) = (&one.names, &one.names.app);
    let realm = format!("Bearer realm=\"{}/service/token\",service=\"harbor-registry\"", one.node.url());
    let answer = one.node.client().get("/v2/").await;
    assert_eq!((answer.status.as_u16(), answer.header("www-authenticate")), (401, Some(realm.as_str())));
    let answer = one.node.login(&names.alice).get("/v2/").await;
    assert_eq!((answer.status.as_u16(), answer.header("www-authenticate")), (401, Some(realm.as_str())));
    let scope = pull_push(app);
    let own = bearer(&one.node, &names.alice, &[&scope]).await;
    one.upload("its own token", &own, app, 202).await;
    let uploads = format!("/v2/{app}/blobs/uploads/");
    let token = token_answer(&one.node.login(&names.alice), &[&scope]).await.token();
    let foreign = other.node.client().with_bearer(&token);
    let answer = foreign.post(&uploads, "").await;
    let challenge = answer.header("www-authenticate").unwrap_or_default();
    assert!(answer.status == 401 && challenge.ends_with(",error=\"invalid_token\""), "{challenge}");
}

/// 49. The API of 1.10 has no version in its paths; 50. nothing is guarded against forged requests.
#[tokio::test]
async fn s49_s50_the_api_of_harbor_1() {
    let one = One::of(HarborVersion::V1_10).await;
    let client = one.node.client();
    Case::get("ping", &client, "/api/ping").status(200).text("Pong").run().await;
    for path in ["/api/health", "/api/systeminfo", "/api/projects"] {
        Case::get("1.10", &client, path).status(200).run().await;
    }
    for path in ["/api/v2.0/ping", "/api/version"] {
        Case::get("1.10", &client, path).status(404).run().await;
    }
    Case::get("1.10", &client, "/chartrepo/library/index.yaml").status(200).run().await;
    let charts = format!("/api/chartrepo/{}/charts", one.names.team);
    Case::post("1.10", &client, &charts).error(401, "UNAUTHORIZED", "UnAuthorized").run().await;
    Case::post("1.10", &one.node.login(&one.names.alice), &charts).status(201).run().await;
    let form = super::sessions::Browser::form_of(&one.names.alice);
    let login = Case::post("1.10", &client, "/c/login").body(super::sessions::FORM, form).status(200);
    let answer = login.lacks("x-harbor-csrf-token").run().await;
    let sid = format!("sid={}", super::case::cookie_of(&answer, "sid").expect("a session"));
    let user =
        Case::get("1.10", &client, "/api/users/current").with("cookie", &sid).status(200).sets_no_sid();
    assert_eq!(user.run().await.json()["username"], json!(one.names.alice.name));
    let create = Case::post("1.10", &client, "/api/projects").with("cookie", &sid).sets_no_sid();
    create.body("application/json", "{\"project_name\":\"fresh\"}").status(201).run().await;
}

/// 51. Two entries of one project: whichever comes last counts, in either order.
#[tokio::test]
async fn s51_the_last_entry_counts() {
    let one = One::of(HarborVersion::V2_9).await;
    let app = &one.names.app;
    for (order, wanted) in [([["push"], ["pull"]], 401), ([["pull"], ["push"]], 202)] {
        let access: Vec<_> = order.iter().map(|actions| entry(app, actions)).collect();
        let token = one.mint.plain(&claims(&json!(access), &Value::Null));
        one.upload("two entries", &one.node.client().with_bearer(&token), app, wanted).await;
    }
}

/// 52. A tag moves to another manifest, and the first is still there by its digest; 53. a page of tags has a link to the next.
#[tokio::test]
async fn s52_s53_tags() {
    let pair = Pair::start().await;
    let (names, app) = (&pair.names, &pair.names.app);
    let first = push_image(&pair.a, &names.alice, app, "latest").await;
    let second = push_image(&pair.b, &names.alice, app, "latest").await;
    let alice = pair.a.login(&names.alice);
    for (reference, digest) in [("latest", &second.digest), (first.digest.as_str(), &first.digest)] {
        let case =
            Case::get(reference, &alice, format!("/v2/{app}/manifests/{reference}")).with("accept", OCI);
        case.status(200).says("docker-content-digest", digest).run().await;
    }
    push_image(&pair.a, &names.alice, app, "other").await;
    let tags = format!("/v2/{app}/tags/list");
    let page = Case::get("a page", &alice, format!("{tags}?n=1")).status(200);
    let link = format!("<{tags}?last=latest&n=1>; rel=\"next\"");
    page.text(format!("{{\"name\":\"{app}\",\"tags\":[\"latest\"]}}\n")).says("link", link).run().await;
    let rest = Case::get("the rest", &alice, format!("{tags}?last=latest&n=1")).status(200);
    rest.text(format!("{{\"name\":\"{app}\",\"tags\":[\"other\"]}}\n")).lacks("link").run().await;
}

/// 54. Read only ends as it began; 55. a quota is of one project, and does not stop the small requests.
#[tokio::test]
async fn s54_s55_writes_come_back() {
    let pair = Pair::start().await;
    let (names, alice) = (&pair.names, pair.a.login(&pair.names.alice));
    let uploads = |repository: &str| format!("/v2/{repository}/blobs/uploads/");
    pair.database.set_read_only(true);
    Case::post("read only", &alice, uploads(&names.app)).code(403, "DENIED").sets_no_sid().run().await;
    Case::get("a token", &alice, token_target(&[])).status(200).run().await;
    pair.database.set_read_only(false);
    Case::post("writes again", &alice, uploads(&names.app)).status(202).run().await;
    pair.database.set_quota_full(&names.team2, true);
    push::blob(&alice, &names.app, &Blob::random(10)).await;
    let at = super::uploads::start("full", &alice, &pair.a.url(), &names.other).await;
    let answer = Case::patch("full", &alice, &at).octets("hello").status(202).run().await;
    let at = super::uploads::session_at("full", &pair.a.url(), &names.other, &answer);
    let digest = digest_of(b"hello");
    Case::put("full", &alice, format!("{at}&digest={digest}")).code(403, "DENIED").run().await;
    pair.database.set_quota_full(&names.team2, false);
    Case::put("room again", &alice, format!("{at}&digest={digest}")).status(201).run().await;
}

/// 56. An immutable tag can be pushed once; 57. other tags of the repository are not affected.
#[tokio::test]
async fn s56_s57_immutable_tags() {
    let pair = Pair::start().await;
    let (names, app) = (&pair.names, &pair.names.app);
    let (_, short) = app.split_once('/').expect("a project");
    pair.database.make_immutable(&names.team, short, "v1");
    let image = push_image(&pair.a, &names.alice, app, "v1").await;
    let put = |tag: &str| {
        let case = Case::put(tag, &pair.b.login(&names.alice), format!("/v2/{app}/manifests/{tag}"));
        case.body(OCI, image.manifest.clone())
    };
    put("v1").code(412, "PRECONDITION").run().await;
    put("v2").status(201).run().await;
}

/// 58. A name of 246 characters: with `docker.io/` before it it is one too long.
#[tokio::test]
async fn s58_the_first_name_that_is_too_long() {
    let one = One::of(HarborVersion::V2_9).await;
    let name = |length: usize| {
        let start = format!("{}/", one.names.team);
        format!("{start}{}", "a".repeat(length - start.len()))
    };
    let alice = one.node.login(&one.names.alice);
    one.upload("245", &alice, &name(245), 202).await;
    one.upload("246", &alice, &name(246), 500).await;
}

/// 59. A project that was made with Basic is there for tokens and on the other node at once; 60. and gone when it is deleted.
#[tokio::test]
async fn s59_s60_projects_come_and_go() {
    let pair = Pair::start().await;
    let (alice, name) = (pair.a.login(&pair.names.alice), format!("{}new", pair.names.team));
    let body = json!({ "project_name": name }).to_string();
    let create = Case::post("create", &alice, "/api/v2.0/projects").body("application/json", body);
    create.status(201).lacks("x-harbor-csrf-token").run().await;
    let exists = format!("/api/v2.0/projects?project_name={name}");
    Case::head("exists", &pair.b.login(&pair.names.alice), &exists).status(200).run().await;
    let token = bearer(&pair.b, &pair.names.alice, &[&pull_push(&format!("{name}/app"))]).await;
    Case::post("use", &token, format!("/v2/{name}/app/blobs/uploads/")).status(202).run().await;
    Case::delete("delete", &alice, format!("/api/v2.0/projects/{name}")).status(200).run().await;
    Case::head("gone", &alice, &exists).status(404).run().await;
    let message = format!("project {name} not found");
    Case::get("gone", &token, format!("/v2/{name}/app/tags/list")).refused("", &message).run().await;
}
