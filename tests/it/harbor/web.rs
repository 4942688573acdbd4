//! The rest of Harbor through the same address: pages, API, login, and what must never be reached.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{Method, header};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::fixture::{CredentialKind, HarborSite};
use crate::harness::client::{Answer, TestClient, whole};
use crate::harness::harbor::{AuthMode, HarborNode, HarborNodeBuilder, HarborRedis, SeenRequest};
use crate::harness::{random_secret, wait};

/// A browser without a screen: it keeps cookies, and the CSRF token as the portal does.
#[derive(Debug, Clone)]
struct Browser {
    client: TestClient,
    cookies: BTreeMap<String, String>,
    csrf: Option<String>,
}

impl Browser {
    fn new(client: TestClient) -> Self {
        Self { client, cookies: BTreeMap::new(), csrf: None }
    }

    async fn send(&mut self, method: Method, target: &str, (kind, body): (&str, &str)) -> Answer {
        let mut request = self.client.request(method.clone(), target);
        if !self.cookies.is_empty() {
            let pairs: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
            request = request.header(header::COOKIE, pairs.join("; "));
        }
        if let Some(csrf) = self.csrf.as_ref().filter(|_| method != Method::GET) {
            request = request.header("x-harbor-csrf-token", csrf);
        }
        let request = request.header(header::CONTENT_TYPE, kind).body(whole(body.to_owned()));
        let answer = self.client.send(request).await;
        for cookie in answer.headers.get_all(header::SET_COOKIE) {
            let cookie = cookie.to_str().expect("text");
            let (name, value) =
                cookie.split(';').next().and_then(|pair| pair.split_once('=')).expect("a pair");
            assert!(cookie.contains("Secure"), "{cookie}");
            self.cookies.insert(name.to_owned(), value.to_owned());
        }
        if let Some(token) = answer.header("x-harbor-csrf-token") {
            self.csrf = Some(token.to_owned());
        }
        answer
    }

    async fn get(&mut self, target: &str) -> Answer {
        self.send(Method::GET, target, ("text/plain", "")).await
    }

    /// What the portal does: once more after a 403, with the token that came with it.
    async fn post(&mut self, target: &str, kind: &str, body: &str) -> Answer {
        let answer = self.send(Method::POST, target, (kind, body)).await;
        if answer.status == 403 { self.send(Method::POST, target, (kind, body)).await } else { answer }
    }

    async fn log_in(&mut self, user: &str, password: &str) -> Answer {
        let form = format!("principal={user}&password={password}");
        self.post("/c/login", "application/x-www-form-urlencoded", &form).await
    }

    async fn create_project(&mut self) -> u16 {
        let body = format!("{{\"project_name\":\"p{}\",\"metadata\":{{}}}}", &random_secret()[..8]);
        self.post("/api/v2.0/projects", "application/json", &body).await.status.as_u16()
    }

    async fn user(&mut self) -> Option<String> {
        let answer = self.get("/api/v2.0/users/current").await;
        (answer.status == 200).then(|| answer.json()["username"].as_str().expect("a name").to_owned())
    }
}

/// The names of the nodes that pages and API requests reached since the last look.
pub(super) fn nodes_asked(site: &HarborSite) -> Vec<String> {
    let pages = |request: &SeenRequest| {
        !request.target.starts_with("/v2")
            && !request.target.ends_with("/health")
            && !request.target.starts_with("/service")
    };
    let asked = site.nodes.iter().filter(|node| node.requests().iter().any(pages));
    let names = asked.map(|node| node.name().to_owned()).collect();
    site.nodes.iter().for_each(HarborNode::clear_requests);
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_stays_at_one_node_and_goes_on_at_another_when_it_dies() {
    // CSRF keys differ, as the nodes' own installer makes them: without affinity every second write is refused.
    let site = HarborSite::start(3, CredentialKind::Token).await;
    let mut browser = Browser::new(site.client());
    browser.get("/").await.is(200);
    browser.log_in("alice", &site.accounts.alice).await.is(200);
    for _ in 0..10 {
        assert_eq!(browser.user().await.as_deref(), Some("alice"));
        assert_eq!(browser.create_project().await, 201);
    }
    let asked = nodes_asked(&site);
    assert_eq!(asked.len(), 1, "{asked:?}");
    // Only the sealed name of the node keeps it there: another browser may be elsewhere, and a changed cookie counts for nothing.
    let node = site.nodes.iter().find(|node| node.name() == asked[0]).expect("one of them");
    node.kill().await;
    assert_eq!(browser.user().await.as_deref(), Some("alice"), "the session is in the common redis");
    assert_eq!(browser.create_project().await, 201, "the portal heals the CSRF token by itself");
    let after = nodes_asked(&site);
    assert!(after.len() == 1 && after != asked, "{asked:?} {after:?}");
    // It stays there, also when the first one is back.
    node.restart().await;
    for _ in 0..5 {
        assert_eq!(browser.create_project().await, 201);
    }
    assert_eq!(nodes_asked(&site), after);
    browser.get("/c/log_out").await.is(200);
    assert_eq!(browser.user().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn during_an_upgrade_a_browser_gets_the_files_of_the_node_that_gave_it_the_page() {
    let site = HarborSite::start(2, CredentialKind::Token).await;
    for _ in 0..12 {
        let mut browser = Browser::new(site.client());
        let page = browser.get("/harbor/projects").await.text();
        let script = page.split('"').find(|part| part.starts_with("main.")).expect("a script").to_owned();
        for _ in 0..4 {
            let file = browser.get(&format!("/{script}")).await;
            let kind = file.header("content-type").expect("a type");
            assert!(
                kind.contains("javascript"),
                "{kind}: a node with other files answers with its first page"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_with_a_third_party_ends_at_the_node_where_it_began() {
    // Each node keeps what it awaits in a redis of its own.
    let alone = |node: HarborNodeBuilder| node.redis(&HarborRedis::new());
    let site = HarborSite::start_with(3, CredentialKind::Token, alone, |config| config).await;
    site.accounts.database.set_auth_mode(AuthMode::Oidc);
    for _ in 0..6 {
        let mut browser = Browser::new(site.client());
        let begun = browser.get("/c/oidc/login").await.is(302);
        let away: http::Uri = begun.header("location").expect("a Location").parse().expect("a URL");
        let query = away.query().expect("a state");
        let state = query.split('&').find(|pair| pair.starts_with("state=")).expect("a state");
        browser.get(&format!("/c/oidc/callback?code=x&{state}")).await.is(302);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_harbors_own_is_not_served() {
    let site = HarborSite::start(2, CredentialKind::Token).await;
    let admin = site.client().with_basic("admin", site.accounts.database.admin_password());
    site.nodes.iter().for_each(HarborNode::clear_requests);
    for target in [
        "/service/notifications/tasks/1",
        "/service/notifications/jobs/scan/x",
        "/Service/notifications/tasks/1",
        "/%73ervice/notifications/tasks/1",
        "/service/other",
        "/v1/_ping",
        "/api/internal/configurations",
        "/api/v2.0/internalconfig",
        "/api/%69nternal/syncregistry",
        "/metrics",
        "/api/ping",
    ] {
        let answer = admin.get(target).await;
        assert_eq!(answer.status, 404, "{target}: {}", answer.text());
    }
    for target in [
        "//service/notifications/tasks/1",
        "/c/../service/notifications/tasks/1",
        "/api/..%2fservice/notifications/tasks/1",
    ] {
        let answer = admin.get(target).await;
        assert_eq!(answer.status, 400, "{target}: {}", answer.text());
    }
    admin.post("/harbor/projects", "").await.is(405);
    assert_eq!(nodes_asked(&site), Vec::<String>::new(), "no node saw any of them");
}

#[tokio::test(flavor = "multi_thread")]
async fn harbors_own_secret_upgrades_and_forwarded_headers_end_at_the_edge() {
    let site = HarborSite::start(1, CredentialKind::Token).await;
    let node = &site.nodes[0];
    let secret = format!("Harbor-Secret {}", node.harbor_secret());
    let send = async |target: &str, name: &str, value: &str| {
        let request = site.client().request(Method::GET, target).header(name, value).body(whole(""));
        site.client().send(request).await
    };
    // The node itself would take it.
    let request = node.client().request(Method::GET, "/v2/_catalog").header("authorization", &secret);
    node.client().send(request.empty()).await.is(200);
    node.clear_requests();
    for target in
        ["/v2/_catalog", "/v2/", "/api/v2.0/configurations", "/api/v2.0/users/current", "/service/token"]
    {
        for value in [secret.clone(), secret.to_lowercase()] {
            let answer = send(target, "authorization", &value).await;
            assert_eq!(answer.status, 400, "{target}: {}", answer.text());
        }
    }
    send("/api/v2.0/ping", "upgrade", "websocket").await.is(400);
    assert_eq!(nodes_asked(&site), Vec::<String>::new());
    let request = site
        .client()
        .request(Method::GET, "/api/v2.0/systeminfo")
        .header("forwarded", "host=evil;proto=http")
        .header("x-forwarded-host", "evil")
        .header("x-forwarded-proto", "gopher")
        .header("x-real-ip", "10.9.9.9");
    site.client().send(request.empty()).await.is(200);
    let seen = node
        .requests()
        .into_iter()
        .find(|request| request.path() == "/api/v2.0/systeminfo")
        .expect("it came");
    assert_eq!(seen.header("forwarded"), None);
    assert_eq!(seen.header("x-real-ip"), None);
    assert_eq!(seen.header("host"), Some(site.endpoint.authority.as_str()));
    assert_eq!(seen.header("x-forwarded-host"), Some(site.endpoint.authority.as_str()));
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn cookies_end_at_the_edge_of_the_registry_and_of_the_token_endpoint() {
    let site = HarborSite::start(1, CredentialKind::Exchange).await;
    let mut browser = Browser::new(site.client());
    browser.log_in("alice", &site.accounts.alice).await.is(200);
    site.nodes[0].clear_requests();
    // The node would take the session for a login on both.
    for target in ["/v2/", "/service/token?service=tidegate-test", "/v2/team/app/tags/list"] {
        let answer = browser.get(target).await;
        assert_eq!(answer.status, 401, "{target}");
        assert_eq!(answer.header("set-cookie"), None, "{target}");
    }
    let client = site.authorized("alice", &site.accounts.alice, &["repository:team/app:pull"]).await;
    let request = client.request(Method::GET, "/v2/team/app/tags/list").header("cookie", "sid=stolen");
    let answer = client.send(request.empty()).await;
    assert_eq!((answer.status.as_u16(), answer.header("set-cookie")), (404, None), "{}", answer.text());
    let seen = site.nodes[0].requests();
    let asked = seen.iter().filter(|request| request.path() == "/v2/team/app/tags/list");
    for request in asked {
        assert_eq!(request.header("cookie"), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_takes_basic_and_needs_no_cookie() {
    let site = HarborSite::start(2, CredentialKind::Token).await;
    let client = site.client().with_basic("alice", &site.accounts.alice);
    // Which node is asked is chance.
    let mut asked = std::collections::BTreeSet::new();
    for number in 0..200 {
        if number >= 6 && asked.len() == 2 {
            break;
        }
        let answer = client.get("/api/v2.0/users/current").await.is(200);
        assert_eq!(answer.json()["username"], "alice");
        let ours = answer
            .headers
            .get_all("set-cookie")
            .iter()
            .any(|cookie| cookie.to_str().expect("text").starts_with("tidegate_node"));
        assert!(!ours, "a client that logs in with every request is kept nowhere");
        asked.extend(nodes_asked(&site));
    }
    assert_eq!(asked.len(), 2, "both nodes are asked");
    site.client().with_basic("alice", "wrong").get("/api/v2.0/users/current").await.is(401);
    // A node that has lost its database refuses everybody; that is not the client's to see.
    site.nodes[0].set_database_gone(true);
    for _ in 0..20 {
        client.get("/api/v2.0/users/current").await.is(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guesser_of_forms_who_hangs_up_early_waits_like_any_other() {
    let site = HarborSite::start(1, CredentialKind::Token).await;
    let kind = "application/x-www-form-urlencoded";
    let mut browser = Browser::new(site.client());
    browser.send(Method::POST, "/c/login", (kind, "")).await.is(403);
    site.nodes[0].clear_requests();
    let judged = || {
        let seen = site.nodes[0].requests();
        seen.iter().filter(|request| request.path() == "/c/login").count() as u64
    };
    let started = Instant::now();
    for turn in 0..20 {
        let mut browser = Browser { client: site.client(), ..browser.clone() };
        let form = format!("principal=alice&password={}", random_secret());
        let mut guess = JoinSet::new();
        guess.spawn(async move { browser.send(Method::POST, "/c/login", (kind, &form)).await });
        if turn == 0 {
            wait::until("the node judges the first one", async || (judged() > 0).then_some(())).await;
        }
        tokio::time::sleep(Duration::from_millis(60)).await;
        // The connection is gone before the node has said anything.
        guess.shutdown().await;
    }
    let tried = judged();
    assert!(tried <= 1 + started.elapsed().as_secs() / 3, "{tried} in {:?}", started.elapsed());
    // The owner of the name is not kept out.
    browser.log_in("alice", &site.accounts.alice).await.is(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_that_does_not_come_keeps_nobodys_login_waiting() {
    let site = HarborSite::start(1, CredentialKind::Token).await;
    let form = "content-type: application/x-www-form-urlencoded\r\ncontent-length: 60\r\n";
    let mut hanging = Vec::new();
    for target in ["/c/anything", "/c/login", "/c/reset"] {
        let mut one = site.client().hang(Method::POST, target, form).await;
        one.send(b"principal=al").await;
        hanging.push(one);
    }
    assert_eq!(nodes_asked(&site), Vec::<String>::new(), "no node has a form before it is whole");
    for _ in 0..2 {
        let mut browser = Browser::new(site.client());
        assert_eq!(browser.log_in("alice", &site.accounts.alice).await.status, 200, "from the same address");
    }
    // One that comes after all is a form like any other.
    let mut late = hanging.remove(0);
    late.send("x".repeat(48).as_bytes()).await;
    assert_eq!(late.status().await, 403, "for want of a CSRF token");
    // And none is larger than a form can be.
    let large = format!("principal={}&password=x", "a".repeat(70_000));
    let mut browser = Browser::new(site.client());
    browser.send(Method::POST, "/c/login", ("application/x-www-form-urlencoded", &large)).await.is(413);
}
