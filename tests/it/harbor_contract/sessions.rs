//! Logins of browsers and the guard against forged requests: recordings 230-244, 400a-r and 401a-s. TLS in front of the node, which
//! those were recorded with, is the `X-Forwarded-Proto` that it sends.

use http::Method;
use serde_json::json;

use super::api::{json_of, shape};
use super::case::{Case, cookie_of};
use super::world::{Login, Pair, bearer_challenge, own_node, token_target};
use crate::harness::client::{Answer, TestClient};

pub(super) const FORM: &str = "application/x-www-form-urlencoded";
const TOKEN: &str = "x-harbor-csrf-token";
const REFUSED: &str = "CSRF token invalid";

/// What a browser keeps of the answers.
#[derive(Debug, Clone, Default)]
pub(super) struct Browser {
    sid: Option<String>,
    csrf: Option<String>,
    /// The token of the last answer that had one.
    pub(super) token: Option<String>,
}

impl Browser {
    pub(super) fn keep(&mut self, answer: &Answer) {
        for (name, place) in [("sid", &mut self.sid), ("_gorilla_csrf", &mut self.csrf)] {
            if let Some(value) = cookie_of(answer, name) {
                *place = (!value.is_empty()).then_some(value);
            }
        }
        if let Some(token) = answer.header(TOKEN) {
            self.token = Some(token.to_owned());
        }
    }

    pub(super) fn cookies(&self) -> String {
        let named =
            |name: &str, value: &Option<String>| value.as_ref().map(|value| format!("{name}={value}"));
        let all = [named("_gorilla_csrf", &self.csrf), named("sid", &self.sid)];
        all.into_iter().flatten().collect::<Vec<_>>().join("; ")
    }

    /// Adds what a browser sends by itself.
    pub(super) fn dress(&self, case: Case) -> Case {
        let cookies = self.cookies();
        if cookies.is_empty() { case } else { case.with("cookie", cookies) }
    }

    /// Adds the token too, as the portal does for everything that changes something.
    pub(super) fn change(&self, case: Case) -> Case {
        let case = self.dress(case);
        match &self.token {
            Some(token) => case.with(TOKEN, token),
            None => case,
        }
    }

    pub(super) fn form_of(login: &Login) -> String {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("principal", &login.name).append_pair("password", &login.password).finish()
    }

    /// Gets a token and logs in.
    pub(super) async fn log_in(client: &TestClient, login: &Login) -> Self {
        let mut browser = Self::default();
        let form = Self::form_of(login);
        let first = Case::post("a first login", client, "/c/login").body(FORM, form.clone());
        browser.keep(&first.error(403, "FORBIDDEN", REFUSED).sets_no_sid().run().await);
        let case = browser.change(Case::post("the login", client, "/c/login").body(FORM, form));
        browser.keep(&case.status(200).text("").says("vary", "Cookie").run().await);
        browser
    }
}

fn guard_cookie(answer: &Answer) -> Option<&str> {
    let mut cookies =
        answer.headers.get_all("set-cookie").into_iter().filter_map(|cookie| cookie.to_str().ok());
    cookies.find(|cookie| cookie.starts_with("_gorilla_csrf="))
}

/// A refusal of the guard: it has the token that would do, and a new cookie where there was none of this node.
fn refused(case: Case) -> Case {
    case.error(403, "FORBIDDEN", REFUSED).sets_no_sid().lacks("vary")
}

fn is_user(answer: &Answer, name: &str) {
    let user = json_of(answer);
    let wanted = json!({
        "admin_role_in_auth": "bool", "comment": "string", "creation_time": "string", "realname": "string",
        "sysadmin_flag": "bool", "update_time": "string", "user_id": "number", "username": "string",
    });
    assert_eq!(shape(&user), wanted);
    assert_eq!(user["username"], name);
}

const CURRENT: &str = "/api/v2.0/users/current";
const PROJECTS: &str = "/api/v2.0/projects";

fn project(name: &str) -> String {
    json!({ "project_name": name, "metadata": { "public": "false" } }).to_string()
}

/// 230-242: a login on A, used on both nodes of one redis, unknown on another.
#[tokio::test]
async fn one_login_on_two_nodes() {
    let pair = Pair::start().await;
    let (a, b, admin) = (pair.a.client(), pair.b.client(), pair.admin());
    let (c, _) = own_node("c", &pair.names).await;
    let mut browser = Browser::default();
    let form = Browser::form_of(&admin);
    let answer = refused(Case::post("230", &a, "/c/login").body(FORM, form.clone())).run().await;
    let cookie = guard_cookie(&answer).expect("[230] a cookie");
    assert!(
        cookie.ends_with("; Max-Age=43200; HttpOnly; SameSite=Strict")
            && cookie.contains("; Path=/; Expires=")
    );
    browser.keep(&answer);
    let info = browser.dress(Case::get("231", &a, "/api/v2.0/systeminfo")).status(200).lacks(TOKEN);
    browser.keep(&info.run().await);
    let before = browser.cookies();
    let login = browser.change(Case::post("232", &a, "/c/login").body(FORM, form)).status(200).text("");
    browser.keep(&login.says("vary", "Cookie").run().await);
    assert_ne!(browser.cookies(), before, "[232] the session has another key after a login");

    let seen =
        |id: &str, client: &TestClient| Case::get(id, client, CURRENT).sets_no_sid().says("vary", "Cookie");
    for (id, client) in [("233", &a), ("234", &b)] {
        let answer = browser.dress(seen(id, client)).status(200).run().await;
        is_user(&answer, "admin");
        assert!(
            guard_cookie(&answer).is_none() && answer.header(TOKEN).is_some_and(|token| token.len() == 88),
            "[{id}]"
        );
        browser.keep(&answer);
    }
    for (id, client) in [("235", &a), ("236", &b)] {
        let case = Case::post(id, client, PROJECTS).body("application/json", project(&format!("p{id}")));
        let answer = browser.change(case).status(201).text("").sets_no_sid().run().await;
        let location = answer.header("location").unwrap_or_default();
        assert!(location.starts_with("/api/v2.0/projects/"), "[{id}] {location}");
    }
    let bare = Case::post("237", &a, PROJECTS).body("application/json", project("p237"));
    let answer = refused(browser.dress(bare)).run().await;
    assert!(guard_cookie(&answer).is_none(), "[237] the cookie is good, only the token is missing");
    let v2 = browser.dress(Case::get("238", &a, "/v2/")).status(200).of_registry().sets_no_sid();
    v2.text("{}").run().await;
    let token = browser.dress(Case::get("238b", &a, token_target(&[]))).status(200).sets_no_sid();
    let (_, claims) = super::case::token_parts(&token.run().await);
    assert_eq!(claims["sub"], "admin", "[238b]");
    let stranger = browser.dress(Case::get("239", &c.client(), CURRENT));
    let answer = stranger.error(401, "UNAUTHORIZED", "unauthorized").run().await;
    assert!(guard_cookie(&answer).is_some(), "[239] another key makes another cookie");
    let wrong = Login { name: "admin".to_owned(), password: "nope".to_owned() };
    let case = browser.change(Case::post("240", &a, "/c/login").body(FORM, Browser::form_of(&wrong)));
    case.status(401).text("").sets_no_sid().lacks("content-type").run().await;
    browser.dress(Case::get("241", &a, "/c/log_out")).status(200).text("").clears_sid().run().await;
    let after = browser.dress(Case::get("242", &b, CURRENT)).error(401, "UNAUTHORIZED", "unauthorized");
    after.run().await;
}

/// 243, 244: another `CSRF_KEY` on B, as `prepare` makes it: the login counts, changes do not, until the portal has B's token.
#[tokio::test]
async fn another_csrf_key() {
    let other = |builder: crate::harness::harbor::HarborNodeBuilder| builder.csrf_key("another key");
    let pair = Pair::start_with("http://registry.example.test", |builder| builder, other).await;
    let mut browser = Browser::log_in(&pair.a.client(), &pair.admin()).await;
    let b = pair.b.client();
    let answer = browser.dress(Case::get("243", &b, CURRENT)).status(200).sets_no_sid().run().await;
    is_user(&answer, "admin");
    assert!(guard_cookie(&answer).is_some(), "[243]");
    let case = Case::post("244", &b, PROJECTS).body("application/json", project("p244"));
    let answer = refused(browser.change(case)).run().await;
    assert!(guard_cookie(&answer).is_some(), "[244]");
    browser.keep(&answer);
    let again = Case::post("244 again", &b, PROJECTS).body("application/json", project("p244"));
    browser.change(again).status(201).sets_no_sid().run().await;
}

/// 400a-r, 401a-s: behind TLS. The cookie of the guard is `Secure` by the scheme of `EXT_ENDPOINT` alone, and no page is asked where
/// the request comes from.
#[tokio::test]
async fn behind_tls() {
    for (series, endpoint) in
        [("400", "http://registry.example.test:8080"), ("401", "https://registry.example.test")]
    {
        let pair = Pair::start_with(endpoint, |builder| builder, |builder| builder).await;
        one_series(series, &pair).await;
    }
}

async fn one_series(series: &str, pair: &Pair) {
    let id = |letter: &str| format!("{series}{letter}");
    let (client, admin) = (pair.a.client().with_host("registry.example.test"), pair.admin());
    let tls = |case: Case| case.with("x-forwarded-proto", "https");
    let name = format!("tls{series}");
    let path = format!("{PROJECTS}/{name}");
    let public = json!({ "metadata": { "public": "false" } }).to_string();
    let mut browser = Browser::default();
    browser.keep(&tls(Case::get(id("a"), &client, "/api/v2.0/systeminfo")).status(200).run().await);
    let form = Browser::form_of(&admin);
    let case = browser.dress(tls(Case::post(id("b"), &client, "/c/login").body(FORM, form.clone())));
    let answer = refused(case).run().await;
    let is_secure =
        guard_cookie(&answer).is_some_and(|cookie| cookie.contains("; HttpOnly; Secure; SameSite=Strict"));
    assert_eq!(is_secure, series == "401", "[{series}b] {:?}", guard_cookie(&answer));
    browser.keep(&answer);
    let origin = |case: Case, site: &str| case.with("origin", site).with("referer", format!("{site}/x"));
    let own = "https://registry.example.test";
    let case = origin(tls(Case::post(id("c"), &client, "/c/login").body(FORM, form)), own);
    browser.keep(&browser.change(case).status(200).text("").run().await);
    let answer =
        browser.dress(tls(Case::get(id("d"), &client, CURRENT))).status(200).sets_no_sid().run().await;
    is_user(&answer, "admin");
    browser.keep(&answer);
    let create = |letter: &str| {
        let case = tls(Case::post(id(letter), &client, PROJECTS).body("application/json", project(&name)));
        browser.change(origin(case, own)).sets_no_sid()
    };
    create("e").status(201).run().await;
    create("e").error(409, "CONFLICT", &format!("The project named {name} already exists")).run().await;

    let put = |letter: &str, client: &TestClient| {
        Case::put(id(letter), client, &path).body("application/json", public.clone()).sets_no_sid()
    };
    let done = |case: Case| case.status(200).text("").says("vary", "Cookie");
    done(browser.change(tls(put("f", &client)))).run().await;
    done(browser.change(origin(tls(put("g", &client)), "https://evil.test"))).run().await;
    done(browser.change(origin(put("h", &pair.a.client()), own))).run().await;
    let with_cookies = |case: Case, cookies: String| {
        case.with("cookie", cookies).with(TOKEN, browser.token.clone().expect("a token"))
    };
    done(with_cookies(put("i", &client), format!("{}; __csrf=zzz", browser.cookies()))).run().await;
    let sid = browser.sid.clone().expect("a session");
    refused(with_cookies(put("j", &client), format!("sid={sid}; __csrf=zzz"))).run().await;
    done(browser.change(put("k", &client))).run().await;
    done(browser.change(put("k", &client))).run().await;

    let basic = client.clone().with_basic(&admin.name, &admin.password);
    refused(browser.dress(put("m", &basic))).run().await;
    let own_request = Case::put(id("n"), &basic, &path).body("application/json", public.clone());
    own_request.status(200).text("").lacks(TOKEN).lacks("vary").run().await;
    let upload = Case::post(id("o"), &client, format!("/v2/{}/blobs/uploads/", pair.names.app));
    refused(browser.dress(upload)).run().await;
    let delete = Case::new(id("p"), Method::DELETE, &client, &path).status(200).text("").sets_no_sid();
    browser.change(delete).run().await;
    browser.dress(Case::get(id("q"), &client, "/c/log_out")).status(200).clears_sid().run().await;
    let challenge = bearer_challenge(&pair.endpoint, "");
    tls(Case::get(id("r"), &client, "/v2/")).refused(challenge, "unauthorized").run().await;
    let plain = Case::post(id("s"), &pair.a.client(), "/c/login").body(FORM, Browser::form_of(&admin));
    let answer = refused(plain).run().await;
    let is_secure = guard_cookie(&answer).is_some_and(|cookie| cookie.contains("; Secure;"));
    assert_eq!(is_secure, series == "401", "[{series}s]");
}
