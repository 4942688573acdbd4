//! Clients of IPv4 at listeners for both families: who they are for policy, logs and members.

use tempfile::TempDir;

use crate::harness::certs::Certificates;
use crate::harness::client::TestClient;
use crate::harness::config::ConfigBuilder;
use crate::harness::fake_member::{FakeMember, answer};
use crate::harness::gateway::{Gateway, ListenerKind};
use crate::harness::port::ReservedPort;
use crate::harness::wait;

/// A gateway on these addresses, where whoever comes from 127.0.0.0/8 is denied what everybody else may pull.
async fn gateway(dir: &TempDir, addresses: &[String], member: &FakeMember) -> Gateway {
    let mut config = ConfigBuilder::new(dir.path())
        .external_url("https://localhost")
        .rule("{ everybody: true, sources: [127.0.0.0/8], repository: \"secret/**\", allow: [] }")
        .rule("{ everybody: true, repository: \"**\", allow: [pull] }")
        .member_at("fake", member.url(), "none")
        .extra("hosts: [\"127.0.0.1\", \"[::1]\"]");
    for address in addresses {
        let credentials = "allow_plaintext_credentials: true";
        config = config.listener(&format!("{{ address: \"{address}\", {credentials} }}"));
    }
    Gateway::start(&config.render(), dir.path()).await
}

/// What a client at this address gets of a repository, with the token that it gets for it.
async fn status_of(client: &TestClient, repository: &str) -> u16 {
    let client = client.anonymous(repository).await;
    let answer = client.get(&format!("/v2/{repository}/manifests/latest")).await;
    answer.status.as_u16()
}

#[tokio::test]
async fn sources_hold_for_clients_of_ipv4_at_a_listener_for_both_families() {
    let dir = TempDir::new().expect("a directory");
    let _certificates = Certificates::new(dir.path());
    let member = FakeMember::start(|request| {
        let kind = ("content-type", "application/vnd.oci.image.manifest.v1+json");
        request.target.ends_with("/manifests/latest").then(|| answer(200, &[kind], "{}"))
    })
    .await;
    let mut gateway = gateway(&dir, &["[::]:0".to_owned()], &member).await;
    let port = gateway.address(ListenerKind::Plain).port();
    let over_v4 = TestClient::plain(([127, 0, 0, 1], port).into());
    let over_v6 = TestClient::plain(std::net::SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port)));
    assert_eq!(status_of(&over_v4, "public/x").await, 200, "[::] alone takes IPv4 too");
    assert_eq!(status_of(&over_v6, "secret/x").await, 200);
    assert_eq!(status_of(&over_v4, "secret/x").await, 401, "denied to 127.0.0.0/8");
    let forwarded: Vec<_> =
        member.requests().iter().filter_map(|request| request.header("x-forwarded-for")).collect();
    assert_eq!(forwarded, ["127.0.0.1", "::1"]);
    let logged = wait::until("the lines of the requests", async || {
        let lines = gateway.access_log();
        let of_v4 = lines.iter().filter(|line| line.text("client").starts_with("127.0.0.1:")).count();
        (lines.len() == 6 && of_v4 == 4).then_some(lines)
    });
    assert!(logged.await.iter().all(|line| !line.text("client").contains("ffff")));
    gateway.stop().await;
}

#[tokio::test]
async fn both_wildcard_addresses_can_be_listed_with_one_port() {
    let dir = TempDir::new().expect("a directory");
    let member = FakeMember::start(|_| None).await;
    let port = ReservedPort::on("0.0.0.0".parse().expect("an address")).number();
    for order in [["0.0.0.0", "[::]"], ["[::]", "0.0.0.0"]] {
        let addresses = order.map(|address| format!("{address}:{port}"));
        let mut gateway = gateway(&dir, &addresses, &member).await;
        for address in [format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
            let client = TestClient::plain(address.parse().expect("an address"));
            client.get("/v2/").await.is(401);
        }
        gateway.stop().await;
    }
}
