//! The admin listener where it is abused, or the process is out of descriptors.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::site;
use crate::harness::gateway::{Gateway, ListenerKind};
use crate::harness::process;
use crate::harness::wait;

#[tokio::test(flavor = "multi_thread")]
async fn probes_are_answered_while_slow_connections_hold_every_place() {
    let mut site = site("").await;
    let admin = site.gateway.admin();
    let mut open = Vec::new();
    for number in 0..200 {
        let mut socket = admin.small_tcp().await;
        // Some say nothing, some half a head, some ask for more and more and read nothing.
        let asked = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(400);
        let said: [&[u8]; 3] = [b"", b"GET /livez HTTP/1.1\r\n", &asked];
        socket.write_all(said[number % 3]).await.expect("sent");
        open.push(socket);
        if number % 20 == 0 {
            wait::within("an answer", admin.get("/livez")).await.is(200);
        }
    }
    // Those that are left end too, read or not.
    let mut ended = 0;
    for mut socket in open {
        let mut rest = Vec::new();
        drop(wait::within("the end of a connection", socket.read_to_end(&mut rest)).await);
        ended += 1;
    }
    assert_eq!(ended, 200);
    site.stop_gateway().await;
}

/// Asks once a second for as long as it is let.
async fn keeps_asking(mut socket: TcpStream) {
    let mut buffer = [0; 4096];
    loop {
        let asked = socket.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        if asked.is_err() || !matches!(socket.read(&mut buffer).await, Ok(1..)) {
            return;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_keep_asking_do_not_keep_their_places() {
    let mut site = site("").await;
    let admin = site.gateway.admin();
    let mut open = JoinSet::new();
    for _ in 0..64 {
        open.spawn(keeps_asking(admin.raw_tcp().await));
    }
    wait::within("an answer", admin.get("/livez")).await.is(200);
    drop(open);
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_addresses_localhost_and_listed_names_are_hosts_of_the_admin_listener() {
    let mut site = site("").await;
    site.stop_gateway().await;
    let config = site.config.render();
    let listed = "admin: { address: \"127.0.0.1:0\", hosts: [node1.example.com] }";
    let config = config.replace("admin: { address: \"127.0.0.1:0\" }", listed);
    site.gateway = Gateway::start(&config, site.dir()).await;
    let admin = site.gateway.admin();
    let port = site.gateway.address(ListenerKind::Admin).port();
    for (host, expected) in [
        (format!("127.0.0.1:{port}"), 200),
        (format!("localhost:{port}"), 200),
        ("node1.example.com".to_owned(), 200),
        (format!("rebound.example.com:{port}"), 421),
        ("hub.example.com".to_owned(), 421),
    ] {
        for target in ["/livez", "/readyz", "/metrics", "/status"] {
            let answer = admin.clone().with_host(&host).get(target).await;
            assert_eq!(answer.status.as_u16(), expected, "{host} {target}");
        }
    }
    site.stop_gateway().await;
}

/// Descriptors of the gateway in the test below.
const DESCRIPTORS: usize = 64;

#[tokio::test(flavor = "multi_thread")]
async fn without_descriptors_the_listeners_wait_and_then_go_on() {
    let mut site = site("").await;
    site.stop_gateway().await;
    let mut command = process::command("prlimit");
    command.arg(format!("--nofile={DESCRIPTORS}")).arg("--").arg(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["serve", "--config"]).arg(site.dir().join("tidegate.yaml"));
    site.gateway = Gateway::adopt(command, site.dir());
    site.gateway.wait_for_log("ready", |line| line["message"] == "ready").await;
    let (admin, control) = (site.gateway.admin(), site.dir().join("control.sock"));
    // Connections that nobody accepts wait in the kernel, so opening one never fails.
    let (mut at_admin, mut at_control) = (Vec::new(), Vec::new());
    for _ in 0..DESCRIPTORS {
        at_admin.push(admin.raw_tcp().await);
    }
    for _ in 0..8 {
        at_control.push(tokio::net::UnixStream::connect(&control).await.expect("connected"));
    }
    let refused = |line: &serde_json::Value| {
        line["message"].as_str().is_some_and(|text| text.contains("admin listener cannot be accepted"))
    };
    site.gateway.wait_for_log("the listener is out of descriptors", refused).await;
    drop((at_admin, at_control));
    let alive = wait::until("the admin listener to answer again", async || {
        tokio::time::timeout(Duration::from_secs(5), admin.try_get("/livez")).await.ok()?.ok()
    });
    alive.await.is(200);
    super::is_served(&site.client()).await;
    let status = site.gateway.control(&["status"]).await;
    status.success().expect("the control socket answers");
    site.stop_gateway().await;
}
