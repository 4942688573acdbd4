//! One installation that most protocol tests share: three stock members of three kinds, three kinds of listener, and clients with
//! different rights. Tests keep apart by repository names. And small steps that many tests take.

use std::sync::{Arc, Weak};

use http::header::HOST;
use http::{Method, Request};
use tempfile::TempDir;
use tokio::sync::Mutex;

use crate::harness::certs::Certificates;
use crate::harness::client::{Answer, TestClient, whole};
use crate::harness::config::ConfigBuilder;
use crate::harness::fake_member::FakeMember;
use crate::harness::gateway::Gateway;
use crate::harness::port::ReservedPort;
use crate::harness::random_secret;
use crate::harness::site::{MemberKind, Site};

/// The shared installation. `alice` may do everything, `bob` pushes to `bob/**` and pulls `shared/**`, and anybody pulls `public/**`.
pub(super) struct Hub {
    pub(super) site: Site,
    pub(super) bob_password: String,
}

/// The shared installation, started by the first test that needs it and stopped after the last one.
pub(super) async fn hub() -> Arc<Hub> {
    static SHARED: Mutex<Weak<Hub>> = Mutex::const_new(Weak::new());
    let mut shared = SHARED.lock().await;
    if let Some(running) = shared.upgrade() {
        return running;
    }
    let bob_password = random_secret();
    let adjust = |config: ConfigBuilder| {
        config
            .listener("{ address: \"127.0.0.1:0\" }")
            .listener("{ address: \"127.0.0.1:0\", redirect: https }")
            .user("bob", &bob_password)
            .rule("{ everybody: true, repository: \"public/**\", allow: [pull] }")
            .rule("{ user: alice, repository: \"**\", allow: [pull, push, delete, catalog] }")
            .rule("{ user: bob, repository: \"bob/**\", allow: [pull, push] }")
            .rule("{ user: bob, repository: \"shared/**\", allow: [pull] }")
            .extra("hosts: [localhost]")
            // The bound on a refused body that tests find is the one in bytes.
            .extra("limits: { refused_body_timeout: 1h }")
    };
    let kinds = [MemberKind::Open, MemberKind::Basic, MemberKind::Token];
    let site = Site::start_with(&kinds, adjust).await;
    let started = Arc::new(Hub { site, bob_password });
    *shared = Arc::downgrade(&started);
    started
}

impl Hub {
    /// Without credentials.
    pub(super) fn nobody(&self) -> TestClient {
        self.site.client()
    }

    pub(super) async fn alice(&self, scopes: &[&str]) -> TestClient {
        self.site.authorized(scopes).await
    }

    pub(super) async fn bob(&self, scopes: &[&str]) -> TestClient {
        let token = self.nobody().token("bob", &self.bob_password, scopes).await;
        self.nobody().with_bearer(&token)
    }

    pub(super) fn authority(&self) -> &str {
        &self.site.endpoint.authority
    }

    /// A request whose every header is the test's own.
    pub(super) async fn send(&self, method: Method, target: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::builder().method(method).uri(target);
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            request = request.header(HOST, self.authority());
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(whole("")).expect("a request");
        self.nobody().send(request).await
    }

    /// The names of the members that got a request whose target contains `part`, and with which method.
    pub(super) fn members_asked(&self, part: &str) -> Vec<(String, String)> {
        let asked = |member: &crate::harness::registry::StockRegistry| {
            let name = member.name().to_owned();
            let requests = member.requests().into_iter().filter(|request| request.target.contains(part));
            requests.map(move |request| (name.clone(), request.method)).collect::<Vec<_>>()
        };
        self.site.members.iter().flat_map(asked).collect()
    }
}

/// A gateway in front of scripted members.
pub(super) struct FakeSite {
    pub(super) gateway: Gateway,
    pub(super) certificates: Certificates,
    authority: String,
    password: String,
    _port: ReservedPort,
    _dir: TempDir,
}

impl FakeSite {
    /// With members `fake0`, `fake1`, ... that need no credential.
    pub(super) async fn start(members: &[&FakeMember]) -> Self {
        let add = |config: ConfigBuilder, (number, member): (usize, &&FakeMember)| {
            config.member_at(&format!("fake{number}"), member.url(), "none")
        };
        Self::start_with(|config| members.iter().enumerate().fold(config, add), str::to_owned).await
    }

    /// With a configuration that the test adjusts, as a builder and then as text.
    pub(super) async fn start_with(
        adjust: impl FnOnce(ConfigBuilder) -> ConfigBuilder,
        edit: impl FnOnce(&str) -> String,
    ) -> Self {
        let port = ReservedPort::on_loopback();
        let dir = TempDir::with_prefix("tidegate-fakes-").expect("a temporary directory");
        let certificates = Certificates::new(dir.path());
        let leaf = certificates.leaf("hub", &["127.0.0.1"]);
        let (authority, password) = (port.address().to_string(), random_secret());
        let config = ConfigBuilder::new(dir.path())
            .external_url(&format!("https://{authority}"))
            .tls_listener(port.address(), &leaf)
            .user("alice", &password);
        let text = edit(&adjust(config).render());
        let gateway = Gateway::start(&text, dir.path()).await;
        Self { gateway, certificates, authority, password, _port: port, _dir: dir }
    }

    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    pub(super) fn nobody(&self) -> TestClient {
        self.gateway.client(&self.certificates.authority()).with_host(&self.authority)
    }

    pub(super) async fn alice(&self, scopes: &[&str]) -> TestClient {
        let token = self.nobody().token("alice", &self.password, scopes).await;
        self.nobody().with_bearer(&token)
    }
}

/// The token for `scopes`, to be sent by hand.
pub(super) fn bearer_of(client: &TestClient) -> String {
    client.authorization().expect("a client with a token").to_owned()
}

/// `location` with one more query parameter.
pub(super) fn with_parameter(location: &str, name: &str, value: &str) -> String {
    format!("{location}&{name}={value}")
}

/// The scope that pushing to `repository` needs.
pub(super) fn push_scope(repository: &str) -> String {
    format!("repository:{repository}:pull,push")
}

/// Insists on this status and on one OCI error of this code, in the form that rule 5 asks for.
#[track_caller]
pub(super) fn assert_oci_error(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{:?} {}", answer.headers, answer.text());
    assert_eq!(answer.header("content-type"), Some("application/json"), "{}", answer.text());
    assert_eq!(answer.header("docker-distribution-api-version"), Some("registry/2.0"));
    let json = answer.json();
    let errors = json["errors"].as_array().expect("a list of errors");
    assert_eq!(errors.len(), 1, "{json}");
    assert_eq!(errors[0]["code"], code, "{json}");
    let message = errors[0]["message"].as_str().expect("a message");
    assert!(!message.is_empty(), "{json}");
    let id = errors[0]["detail"]["request_id"].as_str().expect("a request id");
    assert_eq!(answer.header("x-request-id"), Some(id));
}
