//! Which paths answer from outside, through the node's nginx and at core: recording 460.

use http::Method;

use super::case::{Case, run_shuffled};
use super::world::{As as _, Pair};
use crate::harness::client::TestClient;

/// What an answer is known by.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// A page of nginx.
    Nginx(u16, &'static str),
    /// Core's page for what it does not have.
    Page,
    Error(u16, &'static str, &'static str),
    Status(u16),
    Portal,
    Forged,
}

use Kind::{Error, Forged, Nginx, Page, Portal, Status};

const GONE: Kind = Nginx(404, "Not Found");
const UNKNOWN: Kind = Error(500, "UNKNOWN", "internal server error");
const NO_LOGIN: Kind = Error(401, "UNAUTHORIZED", "UnAuthorized");
const INTERNAL: Kind = Error(401, "UNAUTHORIZED", "only internal service is allowed to call this API");
const NOT_OIDC: Kind = Error(412, "PRECONDITION_FAILED", "auth mode: db_auth is not OIDC based");
const NOT_PROXY: Kind = Error(412, "PRECONDITION_FAILED", "the auth mode db_auth does not support this flow");

/// Method, path, through nginx, at core.
const TABLE: [(&str, &str, Kind, Kind); 44] = [
    ("POST", "/service/notifications/tasks/999999", GONE, UNKNOWN),
    ("POST", "/service//notifications/tasks/999999", GONE, UNKNOWN),
    ("POST", "/service/./notifications/tasks/999999", GONE, UNKNOWN),
    ("POST", "/service/x/../notifications/tasks/999999", GONE, UNKNOWN),
    ("POST", "/service/%6eotifications/tasks/999999", GONE, UNKNOWN),
    ("POST", "/service%2fnotifications/tasks/999999", GONE, UNKNOWN),
    ("POST", "/service/Notifications/tasks/999999", Page, Page),
    ("POST", "/c/../service/notifications/tasks/999999", GONE, Forged),
    ("POST", "/c//..//service/notifications/tasks/999999", GONE, Forged),
    ("POST", "/c/%2e%2e/service/notifications/tasks/999999", GONE, Forged),
    ("POST", "/api/..%2fservice/notifications/tasks/999999", GONE, UNKNOWN),
    ("POST", "/v2/../service/notifications/tasks/999999", GONE, UNKNOWN),
    ("POST", "/service/notifications/jobs/scan/x", GONE, Status(200)),
    ("POST", "/service/notifications/schedules/999999", GONE, UNKNOWN),
    ("POST", "/api/internal/renameadmin", NO_LOGIN, NO_LOGIN),
    ("POST", "/api/internal/syncquota", NO_LOGIN, NO_LOGIN),
    ("GET", "/api/v2.0/internalconfig", INTERNAL, INTERNAL),
    ("GET", "/api/version", Status(200), Status(200)),
    ("GET", "/api/v2.0/systeminfo", Status(200), Status(200)),
    ("GET", "/api/v2.0/systeminfo/getcert", Status(404), Status(404)),
    ("GET", "/api/v2.0/health", Status(200), Status(200)),
    ("GET", "/api/v2.0/statistics", Status(401), Status(401)),
    ("GET", "/api/v2.0/projects", Status(200), Status(200)),
    ("GET", "/api/v2.0/search?q=app", Status(200), Status(200)),
    ("POST", "/c/userExists", Forged, Forged),
    ("GET", "/c/login", Page, Page),
    ("GET", "/c/oidc/login", NOT_OIDC, NOT_OIDC),
    ("GET", "/c/authproxy/redirect", NOT_PROXY, NOT_PROXY),
    ("GET", "/metrics", Portal, Page),
    ("GET", "/debug/pprof/", Portal, Page),
    ("GET", "/v1/_ping", GONE, Page),
    ("GET", "/chartrepo/team/index.yaml", Portal, Page),
    ("GET", "/api/chartrepo/health", Page, Page),
    // The recorded portal was a stub with one page; a real one has these files, and the contract is that core has not.
    ("GET", "/swagger.json", Status(200), Page),
    ("GET", "/setting.json", Status(200), Page),
    ("GET", "/devcenter-api-2.0", Portal, Page),
    ("GET", "/harbor/projects", Portal, Page),
    ("GET", "/account/sign-in", Portal, Page),
    ("OPTIONS", "/v2/", Error(401, "UNAUTHORIZED", "unauthorized: unauthorized"), Status(401)),
    ("TRACE", "/v2/", Nginx(405, "Not Allowed"), Status(401)),
    ("GET", "/v2/%2e%2e/%2e%2e/x", Nginx(400, "Bad Request"), Page),
    ("GET", "/c", Nginx(301, "Moved Permanently"), Page),
    ("GET", "/api", Nginx(301, "Moved Permanently"), Page),
    ("GET", "/service", Nginx(301, "Moved Permanently"), Page),
];

fn expect(case: Case, kind: Kind) -> Case {
    match kind {
        Nginx(status, title) => case.page_of_nginx(status, title),
        Page => case.status(404).says("content-type", "text/html; charset=utf-8"),
        Error(status, code, message) => case.error(status, code, message),
        Status(status) => case.status(status),
        Portal => case.portal("text/html"),
        Forged => case.error(403, "FORBIDDEN", "CSRF token invalid").sets_no_sid(),
    }
}

/// Paths that core answers through its guard have two cookies, and the paths of the portal none.
fn case(client: &TestClient, (method, path): (&str, &str), kind: Kind) -> Case {
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    let case = expect(Case::new(format!("460 {method} {path}"), method, client, path), kind);
    if matches!(path, "/swagger.json" | "/setting.json") && matches!(kind, Status(_)) {
        return case.portal("application/json");
    }
    case
}

#[tokio::test]
async fn from_outside() {
    let pair = Pair::start().await;
    let client = pair.a.client();
    let cases =
        TABLE.iter().map(|(method, path, outside, _)| case(&client, (method, path), *outside)).collect();
    run_shuffled(pair.names.seed, cases).await;
}

#[tokio::test]
async fn at_core() {
    let pair = Pair::start().await;
    let client = pair.a.core_client();
    let cases =
        TABLE.iter().map(|(method, path, _, core)| case(&client, (method, path), *core).at_core()).collect();
    run_shuffled(pair.names.seed, cases).await;
}

/// The rows of 460 with an administrator, and with the secret that Harbor's own services share.
#[tokio::test]
async fn with_power() {
    let pair = Pair::start().await;
    let (admin, a) = (pair.a.login(&pair.admin()), pair.a.client());
    expect(Case::get("460 admin", &admin, "/api/v2.0/internalconfig"), INTERNAL).run().await;
    for path in ["/api/v2.0/health", "/api/v2.0/systeminfo"] {
        Case::get("460 admin", &admin, path).status(200).run().await;
    }
    let secret = format!("Harbor-Secret {}", pair.a.harbor_secret());
    let case =
        Case::get("460 secret", &a, "/api/v2.0/internalconfig").with("authorization", &secret).status(200);
    let config = case.run().await.json();
    assert_eq!(
        config["admin_initial_password"]["value"],
        pair.database.admin_password(),
        "[460] in the clear"
    );
    for path in ["/api/v2.0/users", "/api/v2.0/projects"] {
        let case = Case::get("460 secret", &a, path).with("authorization", &secret).status(200);
        assert!(case.run().await.json().is_array(), "[460] {path}");
    }
}

/// The portal's own files: names with the build, and the first page for the files of another build.
#[tokio::test]
async fn portal_files() {
    let pair = Pair::start_with(
        "http://registry.example.test",
        |builder| builder.portal_build("aaaa1111"),
        |builder| builder.portal_build("bbbb2222"),
    )
    .await;
    let a = pair.a.client();
    let index = Case::get("210", &a, "/").portal("text/html").run().await;
    assert!(index.text().contains("main.aaaa1111.js"), "{}", index.text());
    assert!(index.header("cache-control").is_some_and(|value| value.contains("no-store")));
    Case::get("own build", &a, "/main.aaaa1111.js").portal("application/javascript").run().await;
    Case::get("other build", &a, "/main.bbbb2222.js").portal("text/html").text(index.text()).run().await;
    Case::post("no form", &a, "/harbor/projects").page_of_nginx(405, "Not Allowed").run().await;
}
