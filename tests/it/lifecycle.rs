//! Listeners and connections: certificates by name, protocol versions, deadlines, limits, and the end.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use crate::harness::clients::COMMAND_LIMIT;
use crate::harness::gateway::ListenerKind;
use crate::harness::image::Blob;
use crate::harness::pull::Download;
use crate::harness::site::{MemberKind, Site};
use crate::harness::{process, push, wait};

/// Restarts the site's gateway with its configuration changed by `change`.
async fn restart_with(site: &mut Site, change: impl FnOnce(String) -> String) {
    site.restart_with(&change(site.config.render())).await;
}

/// The certificate that is shown for a name, over one protocol version.
async fn shown(site: &Site, name: &str, version: &'static rustls::SupportedProtocolVersion) -> Vec<u8> {
    let mut roots = rustls::RootCertStore::empty();
    for cert in CertificateDer::pem_file_iter(&site.endpoint.ca_file).expect("an authority file") {
        roots.add(cert.expect("PEM")).expect("usable");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .expect("supported")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(site.gateway.address(ListenerKind::Tls)).await.expect("connected");
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("a handshake");
    stream.get_ref().1.peer_certificates().expect("a chain")[0].to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_picked_by_name_over_tls_12_and_13() {
    let mut site = Site::start(&[MemberKind::Open]).await;
    let other = site.certificates.leaf("other", &["other.example.com", "*.wild.example.com"]);
    let more = format!(", {{ cert: {}, key: {} }}] }}", other.cert.display(), other.key.display());
    restart_with(&mut site, |config| config.replacen("] }", &more, 1)).await;
    let der = |path: &std::path::Path| CertificateDer::from_pem_file(path).expect("PEM").to_vec();
    let (default, other) = (der(&site.dir().join("hub.crt")), der(&other.cert));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        assert_eq!(shown(&site, "127.0.0.1", version).await, default);
        assert_eq!(shown(&site, "other.example.com", version).await, other);
        assert_eq!(shown(&site, "a.wild.example.com", version).await, other);
    }
    site.stop_gateway().await;
}

/// Waits until the other side ends a connection on which nothing more is said. A reset ends it as well as a close.
async fn ended(mut stream: impl tokio::io::AsyncRead + Unpin) {
    let mut rest = Vec::new();
    drop(wait::within("the end of the connection", stream.read_to_end(&mut rest)).await);
}

/// When a connection began to stall: taken before it is opened, so that the gateway's own time for it begins later.
struct Stalled(Instant);

impl Stalled {
    fn begins() -> Self {
        Self(Instant::now())
    }

    fn took_at_least(&self, seconds: u64) {
        let took = self.0.elapsed();
        assert!(took >= Duration::from_secs(seconds), "{took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_handshakes_heads_and_resting_connections_are_ended_each_in_its_time() {
    let mut site = Site::start(&[MemberKind::Open]).await;
    // What ends a connection is told by the other deadlines being an hour away, not by how soon it comes.
    let limits = async |site: &mut Site, limits: &str| {
        restart_with(site, |config| format!("{config}limits: {{ {limits} }}\n")).await;
    };
    limits(&mut site, "handshake_timeout: 1s, header_timeout: 1h, keep_alive: 1h").await;
    let handshake = Stalled::begins();
    ended(site.client().raw_tcp().await).await;
    handshake.took_at_least(1);
    let metrics = site.gateway.metrics().await;
    assert!(metrics.sum("tidegate_tls_handshakes_failed_total", &[]) >= 1.0);

    limits(&mut site, "handshake_timeout: 1h, header_timeout: 2s, keep_alive: 1h").await;
    let head = Stalled::begins();
    let mut stream = site.client().raw_tls().await;
    stream.write_all(b"GET /v2/ HTTP/1.1\r\nHost: ").await.expect("sent");
    ended(stream).await;
    head.took_at_least(2);
    let metrics = site.gateway.metrics().await;
    assert!(metrics.sum("tidegate_connections_timed_out_total", &[]) >= 1.0);

    // A resting connection outlives the head's deadline, not its own.
    limits(&mut site, "handshake_timeout: 1h, header_timeout: 5s, keep_alive: 6s").await;
    let resting = Stalled::begins();
    let mut stream = site.client().raw_tls().await;
    let request = format!("GET /v2/ HTTP/1.1\r\nHost: {}\r\n\r\n", site.endpoint.authority);
    stream.write_all(request.as_bytes()).await.expect("sent");
    ended(stream).await;
    resting.took_at_least(6);
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_wait_until_one_ends() {
    let mut site = Site::start(&[MemberKind::Open]).await;
    // A worker holds a permit while it waits for its next connection, so the limit leaves one spare.
    restart_with(&mut site, |config| format!("{config}workers: 1\nlimits: {{ connections_max: 2 }}\n")).await;
    let client = site.client();
    let first = client.connect().await;
    let mut second = client.connect().await;
    let ping = client.request(Method::GET, "/v2/").empty();
    second.send(ping).await.is(401);
    let third = client.raw_tls();
    tokio::pin!(third);
    let waited = tokio::time::timeout(Duration::from_secs(1), &mut third).await;
    assert!(waited.is_err(), "a third connection is not served");
    drop(first);
    wait::within("the third connection", third).await;
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn running_requests_end_after_sigterm_and_new_ones_are_not_taken() {
    let mut site = Site::start(&[MemberKind::Open]).await;
    // However long the download takes, nothing may cut it.
    restart_with(&mut site, |config| format!("{config}shutdown: {{ grace_period: 1h }}\n")).await;
    let client = site.authorized(&["repository:a/b:pull,push"]).await;
    let blob = Blob::random(32 << 20);
    let mut download = Download::begin(&client, &push::blob(&client, "a/b", &blob).await).await;
    let first = download.next().await.expect("the first piece");
    site.gateway.terminate();
    wait::until("the listener to close", async || client.try_raw_tcp().await.is_err().then_some(())).await;
    assert_eq!(first + download.rest().await, blob.bytes.len());
    let status = site.gateway.daemon().wait_exit().await;
    assert!(status.success());
    assert!(
        site.gateway
            .find_log(|line| line["message"].as_str().is_some_and(|text| text.starts_with("drained")))
            .is_some()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_outlasts_the_grace_period_is_cut_and_reported() {
    let mut site = Site::start(&[MemberKind::Open]).await;
    restart_with(&mut site, |config| format!("{config}shutdown: {{ grace_period: 1s }}\n")).await;
    let client = site.authorized(&["repository:a/b:pull,push"]).await;
    let blob = Blob::random(32 << 20);
    let _download = Download::begin(&client, &push::blob(&client, "a/b", &blob).await).await;
    // The connections before it have to be gone, or they might be counted too.
    wait::until("the download to be the only connection", async || {
        let metrics = site.gateway.metrics().await;
        (metrics.sum("tidegate_connections", &[]) < 1.5).then_some(())
    })
    .await;
    site.gateway.terminate();
    let status = site.gateway.daemon().wait_exit().await;
    assert!(status.success());
    let cut = site.gateway.find_log(|line| {
        line["message"].as_str().is_some_and(|text| text.starts_with("the grace period is over"))
    });
    assert_eq!(cut.expect("reported")["connections"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_is_answered_without_a_body_over_both_protocols() {
    let mut site = Site::start(&[MemberKind::Open]).await;
    let login = format!("{}:{}", site.endpoint.user, site.endpoint.password);
    for protocol in ["--http1.1", "--http2"] {
        for (path, user, status) in [
            ("/v2/", None, "401"),
            ("/v2/", Some(login.as_str()), "200"),
            ("/v2/a/b/manifests/none", Some(login.as_str()), "404"),
            ("/nothing", None, "404"),
        ] {
            let mut curl = process::command("curl");
            curl.args([
                "--silent",
                "--show-error",
                "--head",
                protocol,
                "--write-out",
                "%{http_code}",
                "--cacert",
            ]);
            curl.arg(&site.endpoint.ca_file).args(["--output", "/dev/null"]);
            if let Some(user) = user {
                curl.args(["--user", user]);
            }
            curl.arg(format!("https://{}{path}", site.endpoint.authority));
            let said = process::run(curl, COMMAND_LIMIT).await;
            let said = said.unwrap_or_else(|error| panic!("{protocol} {path}: {error:#}"));
            assert_eq!(said.trim(), status, "{protocol} {path}");
        }
    }
    // Only then the whole access log is written.
    site.stop_gateway().await;
    let log = site.gateway.access_log();
    let broken = log.iter().find(|line| line.text("end") == "client_closed");
    assert!(broken.is_none(), "{broken:?}");
}
