//! Challenges and what stands before them: recordings 010-019f, 050-070, 365-369.

use http::Method;

use super::case::{BASIC, Case, run_shuffled};
use super::world::{As as _, Pair, bearer, bearer_challenge, pull_push};
use crate::harness::client::TestClient;

const NO_HEADER: &str = "authorize header needed to send HEAD to repository";

fn may_not(repository: &str, action: &str) -> String {
    format!("unauthorized to access repository: {repository}, action: {action}")
}

/// 010-019f, 365, 367-369.
#[tokio::test]
async fn without_credentials() {
    let pair = Pair::start().await;
    let (names, a) = (&pair.names, pair.a.client());
    let core = pair.a.core_client();
    let (app, team2_other) = (&names.app, &names.other);
    let digest = format!("sha256:{}", "e3b0c44298fc1c14".repeat(4));
    let foreign = TestClient::plain(pair.a.address()).with_host("reg.example.com");
    let manifest = format!("/v2/{app}/manifests/{}", names.tag);
    let both = format!("repository:{app}:pull,push repository:{team2_other}:pull");
    let mount = format!("/v2/{app}/blobs/uploads/?mount={digest}&from={team2_other}");
    let absent = &names.nosuch;
    let unauthorized = "unauthorized";
    let cases = vec![
        Case::get("010", &a, "/v2/")
            .refused(pair.challenge(""), unauthorized)
            .says("connection", "keep-alive"),
        Case::get("011", &core, "/v2/")
            .at_core()
            .refused(bearer_challenge(&pair.a.core_url(), ""), unauthorized),
        Case::get("012", &foreign, "/v2/")
            .with("x-forwarded-proto", "https")
            .with("x-forwarded-host", "reg.example.com")
            .refused(pair.challenge(""), unauthorized),
        Case::get("014", &a, "/v2")
            .page_of_nginx(301, "Moved Permanently")
            .says("location", format!("{}/v2/", pair.a.url())),
        Case::head("015", &a, "/v2/").refused(pair.challenge(""), unauthorized),
        Case::get("016", &a, &manifest).refused(pair.challenge(&format!("repository:{app}:pull")), NO_HEADER),
        Case::post("017", &a, format!("/v2/{app}/blobs/uploads/"))
            .refused(pair.challenge(&pull_push(app)), &may_not(app, "push")),
        Case::post("018", &a, mount).refused(pair.challenge(&both), &may_not(app, "push")),
        Case::get("019", &a, "/v2/_catalog").refused(BASIC, "unauthorized to list catalog"),
        Case::get("019b", &a, format!("/v2/{}/manifests/latest", names.shown))
            .refused(pair.challenge(&format!("repository:{}:pull", names.shown)), NO_HEADER),
        Case::head("019c", &a, &manifest)
            .refused(pair.challenge(&format!("repository:{app}:pull")), NO_HEADER),
        Case::delete("019d", &a, &manifest)
            .refused(pair.challenge(&format!("repository:{app}:delete")), &may_not(app, "delete")),
        Case::get("019e", &a, format!("/v2/{absent}/app/manifests/latest"))
            .refused(pair.challenge(&format!("repository:{absent}/app:pull")), NO_HEADER),
        Case::get("019f", &a, "/v1/_ping").page_of_nginx(404, "Not Found"),
        Case::new("367", Method::OPTIONS, &a, "/v2/").refused(pair.challenge(""), unauthorized),
        Case::get("368", &a, "/v2/")
            .with("x-request-id", "my-id-1")
            .refused(pair.challenge(""), unauthorized)
            .says("x-request-id", "my-id-1"),
    ];
    run_shuffled(names.seed, cases).await;
    let noslash = Case::get("365", &core, "/v2").at_core().refused("", "un-recognized request: GET /v2");
    let answer = noslash.says("vary", "Cookie").run().await;
    let cookies: Vec<_> = answer.headers.get_all("set-cookie").into_iter().collect();
    assert_eq!(cookies.len(), 2, "[365] a session and a cookie against forged requests: {cookies:?}");
}

/// 050-059: tokens of the node, of the other node, and of nobody.
#[tokio::test]
async fn bearer_tokens() {
    let pair = Pair::start().await;
    let names = &pair.names;
    let (app, other) = (&names.app, &names.other);
    let scope = pull_push(app);
    let alice_a = bearer(&pair.a, &names.alice, &[&scope]).await;
    let token_on = |client: &TestClient, to: &TestClient| {
        let request = client.request(Method::GET, "/").body(());
        let token = request.headers()["authorization"].to_str().expect("text").to_owned();
        to.clone().with_bearer(token.trim_start_matches("Bearer "))
    };
    let alice_b = bearer(&pair.b, &names.alice, &[&scope]).await;
    let (a_on_b, b_on_a) = (token_on(&alice_a, &pair.b.client()), token_on(&alice_b, &pair.a.client()));
    let bob = bearer(&pair.a, &names.bob, &[&scope]).await;
    let login_only = bearer(&pair.a, &pair.admin(), &[]).await;
    let anonymous = super::world::token_answer(&pair.a.client(), &[&scope]).await.token();
    let anonymous = pair.a.client().with_bearer(&anonymous);
    let (tags, uploads) = (format!("/v2/{app}/tags/list"), format!("/v2/{app}/blobs/uploads/"));
    let garbage = pair.a.client().with_bearer("abc.def.ghi");
    let cases = vec![
        Case::get("050", &alice_a, "/v2/").status(200).of_registry().text("{}"),
        Case::get("051", &a_on_b, "/v2/").refused(BASIC, "unauthorized"),
        Case::get("052", &a_on_b, &tags).forbidden(app, "pull"),
        Case::post("053", &a_on_b, &uploads).forbidden(app, "push"),
        Case::post("054", &b_on_a, &uploads).forbidden(app, "push"),
        Case::get("055", &garbage, "/v2/").refused(BASIC, "unauthorized"),
        Case::get("056", &bob, &tags).forbidden(app, "pull"),
        Case::get("057", &anonymous, "/v2/").refused(BASIC, "unauthorized"),
        Case::get("058", &alice_a, format!("/v2/{other}/tags/list")).forbidden(other, "pull"),
        Case::get("059", &login_only, &tags).forbidden(app, "pull"),
    ];
    run_shuffled(names.seed, cases).await;
}

/// 060-070, 366, 369: passwords instead of tokens.
#[tokio::test]
async fn basic_credentials() {
    let pair = Pair::start().await;
    let (names, admin) = (&pair.names, pair.admin());
    let app = &names.app;
    let (tags, uploads) = (format!("/v2/{app}/tags/list"), format!("/v2/{app}/blobs/uploads/"));
    let nobody = pair.a.client().with_basic("nobody", "wrong");
    let nobody2 = pair.a.client().with_basic("nobody2", "wrong");
    let catalog = bearer(&pair.a, &admin, &["registry:catalog:*"]).await;
    let started =
        |case: Case| case.status(202).of_registry().says("range", "0-0").says("content-length", "0");
    let cases = vec![
        Case::get("060", &pair.a.login(&admin), "/v2/").status(200).of_registry().text("{}"),
        Case::get("061", &pair.b.login(&admin), "/v2/").status(200).of_registry().text("{}"),
        started(Case::post("062", &pair.a.login(&names.alice), &uploads)),
        started(Case::post("063", &pair.a.login(&names.ci), &uploads)),
        Case::get("064", &pair.a.login(&admin), "/v2/_catalog")
            .status(200)
            .text("{\"repositories\":[]}\n")
            .lacks("docker-distribution-api-version"),
        Case::get("065", &pair.a.login(&names.alice), "/v2/_catalog")
            .refused(BASIC, "unauthorized to list catalog"),
        Case::get("066", &nobody, "/v2/").refused(BASIC, "unauthorized"),
        Case::get("067", &nobody2, &tags).forbidden(app, "pull"),
        Case::get("068", &pair.a.login(&names.bob), &tags).forbidden(app, "pull"),
        Case::get("069", &pair.a.client().with_basic("", ""), format!("/v2/{}/tags/list", names.shown))
            .error(404, "NOT_FOUND", &format!("repository {} not found", names.shown))
            .lacks("docker-distribution-api-version"),
        Case::get("070", &catalog, "/v2/_catalog").refused(BASIC, "unauthorized to list catalog"),
        Case::get("366", &pair.a.login(&admin), "/v2/foo/bar")
            .refused("", "un-recognized request: GET /v2/foo/bar"),
        Case::get("369", &pair.a.login(&admin), "//v2//_catalog").status(200).text("{\"repositories\":[]}\n"),
    ];
    run_shuffled(names.seed, cases).await;
}
