//! Faults of plain registries that reading shows: network, TLS, credentials, clocks.

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::fixture::{Told, ask, config};

use crate::harness::certs::{Certificates, Leaf};
use crate::harness::clients::COMMAND_LIMIT;
use crate::harness::fake_member::{FakeMember, answer};
use crate::harness::gateway::tidegate;
use crate::harness::process;
use crate::harness::registry::{Access, StockRegistry};
use crate::harness::site::export_member_bundle;

fn temporary() -> TempDir {
    TempDir::with_prefix("tidegate-doctor-").expect("a temporary directory")
}

/// Asks about one member at `url`.
async fn ask_about(url: &str, more: &str, arguments: &[&str]) -> Told {
    let dir = temporary();
    let config = config(dir.path()).member_yaml(&format!("{{ name: node1, url: \"{url}\"{more} }}"));
    ask(&config, dir.path(), arguments).await
}

#[tokio::test(flavor = "multi_thread")]
async fn all_is_well_nothing_is_said_and_only_get_reaches_the_members() {
    let dir = temporary();
    let keys = dir.path().join("keys");
    let bundle = export_member_bundle(dir.path(), &keys).await;
    let token = Access::Token {
        realm: "https://nobody.invalid/token".to_owned(),
        service: "the-registry".to_owned(),
        issuer: "tidegate".to_owned(),
        root_cert_bundle: bundle,
    };
    let certificates = Certificates::new(dir.path());
    let leaf = certificates.leaf("registry.internal", &["registry.internal"]);
    let one = StockRegistry::builder("one").access(Access::generated_htpasswd()).start().await;
    let two = StockRegistry::builder("two").access(token).start().await;
    let three = StockRegistry::builder("three").tls(leaf).start().await;
    let tls = format!(
        "{{ name: three, url: \"{}\", tls: {{ ca_file: {}, server_name: registry.internal }} }}",
        three.url(),
        certificates.authority().display()
    );
    let config = config(dir.path()).member(&one).member(&two).member_yaml(&tls);
    let told = ask(&config, dir.path(), &[]).await;
    told.ends_with(0)
        .expect(&[])
        .says(&["ok       reachable, credential, clock", "3 member(s): 0 error(s), 0 warning(s)"]);
    let Access::Htpasswd { password, .. } = one.access() else { panic!("it has a password") };
    told.hides(&[password, "Basic ", "Bearer ey"]);
    assert_eq!(told.json["summary"]["members"], 3);
    assert_eq!(told.json["members"][2]["url"], three.url());
    for registry in [&one, &two, &three] {
        let methods: Vec<_> = registry.requests().into_iter().map(|request| request.method).collect();
        assert!(!methods.is_empty() && methods.iter().all(|method| method == "GET"), "{methods:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_cannot_be_reached_are_told_apart() {
    let nobody = crate::harness::port::ReservedPort::on_loopback();
    ask_about(&format!("http://{}", nobody.address()), "", &[])
        .await
        .ends_with(1)
        .expect(&[("node1", "connection_refused")])
        .says(&["the connection was refused", "fix: start the member"]);
    ask_about("http://nobody.invalid:5000", "", &[])
        .await
        .ends_with(1)
        .expect(&[("node1", "host_unknown")])
        .says(&["fix: correct the host in `url`"]);
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", silent.local_addr().expect("an address"));
    ask_about(&url, "", &["--timeout", "300ms"])
        .await
        .ends_with(1)
        .expect(&[("node1", "timeout")])
        .says(&["did not answer GET /v2/ in time", "--timeout"]);
}

/// A port with TLS behind it that is closed as soon as something else than TLS comes, and what serves it.
async fn closing_tls(leaf: &Leaf) -> (std::net::SocketAddr, JoinSet<()>) {
    let certificates = CertificateDer::pem_file_iter(&leaf.cert).expect("a file");
    let certificates = certificates.collect::<Result<_, _>>().expect("certificates");
    let key = PrivateKeyDer::from_pem_file(&leaf.key).expect("a key");
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .expect("a certificate and its key");
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.expect("a connection");
            let mut first = [0];
            if matches!(socket.peek(&mut first).await, Ok(1)) && first[0] == 0x16 {
                drop(acceptor.accept(socket).await);
            }
        }
    });
    (address, serving)
}

#[tokio::test(flavor = "multi_thread")]
async fn http_and_https_mixed_up_is_said_in_both_directions() {
    let dir = temporary();
    let leaf = Certificates::new(dir.path()).leaf("registry", &["127.0.0.1"]);
    let with_tls = StockRegistry::builder("tls").tls(leaf).start().await;
    let plain = StockRegistry::builder("plain").start().await;
    ask_about(&with_tls.url().replace("https:", "http:"), "", &[])
        .await
        .ends_with(1)
        .expect(&[("node1", "speaks_tls")])
        .says(&["says http, and the member speaks https", &format!("write `url: {}`", with_tls.url())]);
    ask_about(&plain.url().replace("http:", "https:"), "", &[])
        .await
        .ends_with(1)
        .expect(&[("node1", "speaks_http")])
        .says(&["server gave HTTP response to HTTPS client", &format!("write `url: {}`", plain.url())]);
    // A member that only sends browsers over to https.
    let moved =
        FakeMember::start(|_| Some(answer(301, &[("location", "https://hub.example.com/v2/")], ""))).await;
    ask_about(moved.url(), "", &[])
        .await
        .expect(&[("node1", "speaks_tls")])
        .says(&["only sends those who ask over to https://hub.example.com"]);
    // TLS that closes without a word on those who do not speak it.
    let leaf = Certificates::new(dir.path()).leaf("closing", &["registry.internal"]);
    let (closing, _serving) = closing_tls(&leaf).await;
    ask_about(&format!("http://{closing}"), "", &[]).await.expect(&[("node1", "speaks_tls")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_judged_with_what_to_write() {
    let dir = temporary();
    let certificates = Certificates::new(dir.path());
    let ca = format!(", tls: {{ ca_file: {} }}", certificates.authority().display());
    let other =
        StockRegistry::builder("other").tls(certificates.leaf("a", &["registry.internal"])).start().await;
    ask_about(&other.url(), "", &[])
        .await
        .ends_with(1)
        .expect(&[("node1", "certificate_authority")])
        .says(&["fix: set `tls: { ca_file: PATH }`"]);
    ask_about(&other.url(), &ca, &[])
        .await
        .ends_with(1)
        .expect(&[("node1", "certificate_name")])
        .says(&["it carries registry.internal", "server_name: registry.internal"]);
    let old = StockRegistry::builder("old").tls(certificates.expired_leaf("b", &["127.0.0.1"])).start().await;
    ask_about(&old.url(), &ca, &[])
        .await
        .ends_with(1)
        .expect(&[("node1", "certificate_time")])
        .says(&["has expired"]);
    let closed = StockRegistry::builder("closed")
        .tls(certificates.leaf("c", &["127.0.0.1"]))
        .client_authority(&certificates.authority())
        .start()
        .await;
    ask_about(&closed.url(), &ca, &[])
        .await
        .ends_with(1)
        .expect(&[("node1", "client_certificate")])
        .says(&["client_certificate: { cert: PATH, key: PATH }"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_and_missing_credentials_are_said_and_no_secret_is_shown() {
    let registry = StockRegistry::builder("one").access(Access::generated_htpasswd()).start().await;
    ask_about(&registry.url(), ", credential: { basic: { user: tidegate, password: wrong-password } }", &[])
        .await
        .ends_with(1)
        .expect(&[("node1", "credential_refused")])
        .says(&[
            "refuses the name or password of `credential.basic` (\"tidegate\")",
            "state credential_fault",
        ])
        .hides(&["wrong-password", "dGlkZWdhdGU6d3Jvbmc"]);
    ask_about(&registry.url(), "", &[])
        .await
        .ends_with(1)
        .expect(&[("node1", "credential_missing")])
        .says(&["set `credential: { basic:"]);
    let open = StockRegistry::builder("open").start().await;
    ask_about(&open.url(), ", credential: { basic: { user: tidegate, password: p } }", &[])
        .await
        .ends_with(0)
        .expect(&[("node1", "member_open")])
        .says(&["warning  the member serves everybody"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn minted_tokens_that_a_registry_refuses_are_explained() {
    let dir = temporary();
    let keys = dir.path().join("keys");
    let bundle = export_member_bundle(dir.path(), &keys).await;
    let access = |service: &str, issuer: &str, bundle: &std::path::Path| Access::Token {
        realm: "https://nobody.invalid/token".to_owned(),
        service: service.to_owned(),
        issuer: issuer.to_owned(),
        root_cert_bundle: bundle.to_owned(),
    };
    let registry =
        StockRegistry::builder("one").access(access("the-registry", "tidegate", &bundle)).start().await;
    let ask_with = async |credential: &str, url: &str| {
        ask(&config(dir.path()).member_at("one", url, credential), dir.path(), &[]).await
    };
    ask_with("{ token: { audience: another } }", &registry.url())
        .await
        .ends_with(1)
        .expect(&[("one", "token_audience")])
        .says(&["wants tokens for the service \"the-registry\"", "write `audience: \"the-registry\"`"]);
    let issuer = StockRegistry::builder("two").access(access("s", "somebody", &bundle)).start().await;
    ask_with("{ token: { audience: s } }", &issuer.url())
        .await
        .expect(&[("one", "token_refused")])
        .says(&["its `issuer` has to be \"tidegate\"", "rootcertbundle"]);
    ask_with("none", &registry.url())
        .await
        .expect(&[("one", "credential_missing")])
        .says(&["audience: \"the-registry\""]);
    let htpasswd = StockRegistry::builder("three").access(Access::generated_htpasswd()).start().await;
    ask_with("{ token: { audience: s } }", &htpasswd.url())
        .await
        .expect(&[("one", "token_refused")])
        .says(&["wants a password, and `credential` is `token`"]);
    // A new key that the registry has not been told of. Keys are dated by the second: in that of the first one it would not be newer.
    let second = || jiff::Timestamp::now().as_second();
    let before = second();
    crate::harness::wait::until("the next second", async || (second() > before).then_some(())).await;
    let rotate = ["keys", "rotate", "--only", "member", "--activate-after", "0s", "--dir"];
    let mut rotate = rotate.to_vec();
    rotate.push(keys.to_str().expect("a path"));
    process::run(tidegate(&rotate), COMMAND_LIMIT).await.expect("a new key");
    ask_with("{ token: { audience: the-registry } }", &registry.url())
        .await
        .ends_with(0)
        .expect(&[("one", "token_key_old")])
        .says(&["under an older member key", "export-bundle"]);
    std::fs::remove_dir_all(&keys).expect("removed");
    ask_with("{ token: { audience: the-registry } }", &registry.url())
        .await
        .expect(&[("one", "token_key_missing")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_registry_is_said() {
    let web = FakeMember::start(|_| Some(answer(404, &[], "not here"))).await;
    ask_about(web.url(), "", &[]).await.ends_with(1).expect(&[("node1", "not_a_registry")]);
    let sick = FakeMember::start(|_| Some(answer(503, &[], ""))).await;
    ask_about(sick.url(), "", &[]).await.ends_with(1).expect(&[("node1", "member_fails")]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let server = std::thread::spawn(move || {
        // Twice in words and in JSON, each with a second look for TLS.
        for socket in listener.incoming().take(4).flatten() {
            let _ = std::io::Write::write_all(&mut &socket, b"SSH-2.0-OpenSSH_9.2\r\n");
        }
    });
    ask_about(&url, "", &["--timeout", "2s"]).await.ends_with(1).expect(&[("node1", "not_http")]);
    server.join().expect("four connections");
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_are_apart_are_said_with_direction_and_seconds() {
    let at = |offset: i64| {
        move |_: &crate::harness::fake_member::Recorded| {
            let now = jiff::Timestamp::now().as_second() + offset;
            let now = jiff::Timestamp::from_second(now).expect("a time");
            let date = now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
            Some(answer(200, &[("date", &date)], "{}"))
        }
    };
    let behind = FakeMember::start(at(-3600)).await;
    ask_about(behind.url(), "", &[]).await.ends_with(1).expect(&[("node1", "clock")]).says(&[
        "s behind ours",
        "no leeway",
        "chrony",
    ]);
    let ahead = FakeMember::start(at(20)).await;
    ask_about(ahead.url(), "", &[])
        .await
        .ends_with(0)
        .expect(&[("node1", "clock")])
        .says(&["s ahead of ours"]);
    let (one, two) = (FakeMember::start(at(4)).await, FakeMember::start(at(-4)).await);
    let dir = temporary();
    let config = config(dir.path()).member_at("one", one.url(), "none").member_at("two", two.url(), "none");
    ask(&config, dir.path(), &[])
        .await
        .ends_with(0)
        .expect(&[("one", "clocks_differ")])
        .says(&["that of two"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unusable_configuration_or_argument_ends_with_2() {
    let dir = temporary();
    ask(&config(dir.path()), dir.path(), &[]).await.ends_with(2).says(&["the pool has no members"]);
    let some = config(dir.path()).member_at("one", "http://127.0.0.1:1", "none");
    for arguments in
        [["--timeout", "1y"], ["--timeout", "soon"], ["--repository", "UPPER"], ["--repository", "a/b"]]
    {
        ask(&some, dir.path(), &arguments).await.ends_with(2);
    }
}
