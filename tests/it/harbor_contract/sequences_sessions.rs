//! Sequences that were not recorded, and follow from what was: browsers, sessions, logins at a provider, faults that come and go.

use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncReadExt as _;

use super::case::{BASIC, Case, cookie_of};
use super::sessions::Browser;
use super::world::{As as _, Pair, bearer, own_node, pull_push, token_target};
use crate::harness::harbor::AuthMode;

const CURRENT: &str = "/api/v2.0/users/current";

/// 20. A logout ends the session on the nodes of that redis, and means nothing to another node's own.
#[tokio::test]
async fn s20_logout_is_of_one_redis() {
    let pair = Pair::start().await;
    let (c, of_c) = own_node("c", &pair.names).await;
    let mut on_a = Browser::log_in(&pair.a.client(), &pair.admin()).await;
    let admin_c =
        super::world::Login { name: "admin".to_owned(), password: of_c.admin_password().to_owned() };
    let on_c = Browser::log_in(&c.client(), &admin_c).await;
    on_a.keep(
        &on_a
            .dress(Case::get("log out", &pair.a.client(), "/c/log_out"))
            .status(200)
            .clears_sid()
            .run()
            .await,
    );
    on_a.dress(Case::get("on B", &pair.b.client(), CURRENT)).status(401).run().await;
    on_c.dress(Case::get("on C", &c.client(), CURRENT)).status(200).sets_no_sid().run().await;
}

/// 21. A session cookie makes a right password useless for changes, on `/v2` and `/api` alike; 22. reading is not affected.
#[tokio::test]
async fn s21_s22_a_cookie_beside_a_password() {
    let pair = Pair::start().await;
    let browser = Browser::log_in(&pair.a.client(), &pair.admin()).await;
    let alice = pair.a.login(&pair.names.alice);
    for path in [format!("/v2/{}/blobs/uploads/", pair.names.app), "/api/v2.0/projects".to_owned()] {
        let case = browser.dress(Case::post("a write", &alice, path));
        case.error(403, "FORBIDDEN", "CSRF token invalid").sets_no_sid().run().await;
    }
    let case = browser.dress(Case::get("a read", &alice, CURRENT)).status(200).sets_no_sid();
    let user = case.run().await.json();
    assert_eq!(user["username"], json!(pair.names.alice.name), "the password comes before the session");
}

/// 23. A cookie that nobody knows is enough for the guard to look, and is replaced.
#[tokio::test]
async fn s23_an_unknown_session() {
    let pair = Pair::start().await;
    let case = Case::post("unknown sid", &pair.a.login(&pair.names.alice), "/api/v2.0/projects");
    case.with("cookie", "sid=nobody").error(403, "FORBIDDEN", "CSRF token invalid").sets_no_sid().run().await;
    Case::get("unknown sid", &pair.a.client(), "/v2/").with("cookie", "sid=nobody").status(401).run().await;
}

/// 24. Every request without a cookie makes a key in redis, and one with a valid cookie makes none.
#[tokio::test]
async fn s24_keys_in_redis() {
    let pair = Pair::start().await;
    let before = pair.redis.sessions();
    for path in ["/v2/", "/api/v2.0/ping", "/service/token?service=harbor-registry"] {
        pair.a.client().get(path).await;
    }
    assert_eq!(pair.redis.sessions(), before + 3);
    let answer = pair.a.client().get("/v2/").await;
    let sid = format!("sid={}", cookie_of(&answer, "sid").expect("a session"));
    let after = pair.redis.sessions();
    Case::get("with sid", &pair.b.client(), "/v2/").with("cookie", sid).status(401).sets_no_sid().run().await;
    pair.a.client().get("/index.html").await;
    assert_eq!(pair.redis.sessions(), after);
}

/// 25. A session does not survive redis. 26. While redis is away nobody is logged in.
#[tokio::test]
async fn s25_s26_redis_forgets() {
    let pair = Pair::start().await;
    let browser = Browser::log_in(&pair.a.client(), &pair.admin()).await;
    pair.a.set_redis_gone(true);
    browser.dress(Case::get("no redis", &pair.a.client(), CURRENT)).status(401).run().await;
    browser.dress(Case::get("B has it", &pair.b.client(), CURRENT)).status(200).sets_no_sid().run().await;
    pair.a.set_redis_gone(false);
    browser.dress(Case::get("it is back", &pair.a.client(), CURRENT)).status(200).sets_no_sid().run().await;
    pair.redis.flush();
    browser.dress(Case::get("flushed", &pair.a.client(), CURRENT)).status(401).run().await;
}

/// 27. A login at the provider comes back to whoever has the session: any node of the redis; 28. not to another; 29. not twice.
#[tokio::test]
async fn s27_s29_login_at_a_provider() {
    let pair = Pair::start().await;
    pair.database.set_auth_mode(AuthMode::Oidc);
    let (c, _) = own_node("c", &pair.names).await;
    let begin = Case::get("begin", &pair.a.client(), "/c/oidc/login").status(302).run().await;
    let mut browser = Browser::default();
    browser.keep(&begin);
    let location: http::Uri = begin.header("location").expect("a provider").parse().expect("a URL");
    let query = location.query().unwrap_or_default();
    let value = |name: &str| {
        let mut pairs = form_urlencoded::parse(query.as_bytes());
        pairs.find(|(known, _)| known == name).map(|(_, value)| value.into_owned()).expect("a parameter")
    };
    assert_eq!(value("redirect_uri"), format!("{}/c/oidc/callback", pair.endpoint));
    let back = format!("/c/oidc/callback?code={}&state={}", pair.names.alice.name, value("state"));
    let strange = browser.dress(Case::get("on C", &c.client(), &back));
    strange.error(400, "BAD_REQUEST", "State mismatch.").run().await;
    let answer = browser.dress(Case::get("on B", &pair.b.client(), &back)).status(302).says("location", "/");
    browser.keep(&answer.run().await);
    let user =
        browser.dress(Case::get("who", &pair.a.client(), CURRENT)).status(200).sets_no_sid().run().await;
    assert_eq!(user.json()["username"], json!(pair.names.alice.name));
    let again = browser.dress(Case::get("twice", &pair.a.client(), &back)).sets_no_sid();
    again.error(400, "BAD_REQUEST", "State mismatch.").run().await;
}

/// 30. The database goes and comes back: the same password, no lock, and sessions that were there.
#[tokio::test]
async fn s30_the_database_comes_back() {
    let pair = Pair::start().await;
    let (alice, app) = (pair.a.login(&pair.names.alice), &pair.names.app);
    let token = bearer(&pair.a, &pair.names.alice, &[&pull_push(app)]).await;
    for _ in 0..2 {
        pair.a.set_database_gone(true);
        Case::get("gone", &alice, "/v2/").refused(BASIC, "unauthorized").run().await;
        Case::get("a token", &token, "/v2/").status(200).run().await;
        let other = pair.b.login(&pair.names.alice);
        Case::get("B has it", &other, "/v2/").status(200).run().await;
        pair.a.set_database_gone(false);
        Case::get("back", &alice, "/v2/").status(200).run().await;
    }
}

/// 31. Without the database an upload that was begun is refused, and goes on afterwards.
#[tokio::test]
async fn s31_an_upload_across_a_database_fault() {
    let pair = Pair::start().await;
    let (admin, app) = (pair.a.login(&pair.admin()), &pair.names.app);
    let at = super::uploads::start("start", &admin, &pair.a.url(), app).await;
    pair.a.set_database_gone(true);
    let answer =
        Case::patch("no database", &admin, &at).octets("hello").code(401, "UNAUTHORIZED").run().await;
    assert_eq!(answer.header("www-authenticate"), Some(""), "the fault is named, and no challenge made");
    pair.a.set_database_gone(false);
    Case::patch("back", &admin, &at).octets("hello").status(202).says("range", "0-4").run().await;
}

/// 32. A frozen node accepts and says nothing, and answers what it was asked when it goes on.
#[tokio::test]
async fn s32_frozen() {
    let pair = Pair::start().await;
    pair.a.freeze();
    let client = pair.a.client();
    let mut waiting = tokio::task::JoinSet::new();
    waiting.spawn(async move { client.get("/api/v2.0/ping").await.status.as_u16() });
    let early = tokio::time::timeout(Duration::from_millis(500), waiting.join_next()).await;
    assert!(early.is_err(), "{early:?}");
    pair.a.thaw();
    assert_eq!(waiting.join_next().await.expect("it was asked").expect("no panic"), 200);
}

/// 61. A node that is killed while it is frozen never answers what it was asked; 62. and is well after a restart.
#[tokio::test]
async fn s61_s62_killed_while_frozen() {
    let pair = Pair::start().await;
    pair.a.freeze();
    let client = pair.a.client();
    let mut waiting = tokio::task::JoinSet::new();
    waiting.spawn(async move { client.try_get("/api/v2.0/ping").await.is_err() });
    let early = tokio::time::timeout(Duration::from_millis(300), waiting.join_next()).await;
    assert!(early.is_err(), "{early:?}");
    pair.a.kill().await;
    assert!(waiting.join_next().await.expect("it was asked").expect("no panic"), "it was answered");
    pair.a.restart().await;
    Case::get("back", &pair.a.client(), "/api/v2.0/ping").status(200).text("Pong").run().await;
}

/// 33. A killed node resets its connections, and its port refuses until it is back.
#[tokio::test]
async fn s33_killed() {
    let pair = Pair::start().await;
    let mut socket = pair.a.client().raw_tcp().await;
    // A request that is being answered, so that the connection is surely accepted.
    pair.a.client().get("/v2/").await;
    pair.a.kill().await;
    let error = socket.read(&mut [0; 10]).await.expect_err("no orderly end");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(pair.a.client().try_raw_tcp().await.is_err());
    pair.a.restart().await;
    Case::get("back", &pair.a.client(), "/api/v2.0/ping").status(200).text("Pong").run().await;
}

/// 34. A slow token service is slow for tokens alone.
#[tokio::test]
async fn s34_a_slow_token_service() {
    let pair = Pair::start().await;
    pair.a.set_token_delay(Duration::from_millis(600));
    let alice = pair.a.login(&pair.names.alice);
    let slow = async {
        Case::get("slow", &alice, token_target(&[])).status(200).run().await;
        tokio::time::Instant::now()
    };
    let quick = async {
        Case::get("quick", &alice, "/v2/").status(200).run().await;
        tokio::time::Instant::now()
    };
    let (slow, quick) = tokio::join!(slow, quick);
    assert!(quick < slow);
}

/// 35. What a node has seen: order, status, headers; and nothing after it was told to forget.
#[tokio::test]
async fn s35_what_was_asked() {
    let pair = Pair::start().await;
    pair.a.client().get("/v2/?n=1").await;
    pair.a.login(&pair.names.alice).head("/v2/").await;
    let seen: Vec<_> =
        pair.a.requests().iter().map(|one| (one.method.clone(), one.target.clone(), one.status)).collect();
    assert_eq!(seen, [("GET".into(), "/v2/?n=1".into(), 401), ("HEAD".into(), "/v2/".into(), 200)]);
    assert!(pair.a.requests()[1].header("authorization").is_some_and(|value| value.starts_with("Basic ")));
    pair.a.clear_requests();
    assert!(pair.a.requests().is_empty() && pair.b.requests().is_empty());
}

/// 36. A TLS greeting is answered in HTTP, as nginx does, and plain HTTP works afterwards.
#[tokio::test]
async fn s36_a_tls_greeting() {
    use tokio::io::AsyncWriteExt as _;
    let pair = Pair::start().await;
    let mut socket = pair.a.client().raw_tcp().await;
    socket.write_all(&[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]).await.expect("written");
    let mut answer = Vec::new();
    // nginx does not read the rest, so the end may be a reset.
    let _ = socket.read_to_end(&mut answer).await;
    assert!(String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 400 Bad Request\r\n"));
    Case::get("plain", &pair.a.client(), "/v2/").status(401).run().await;
}
