//! Which host and scheme the registry writes into `Location`: recordings 180-190.

use super::case::Case;
use super::world::{As as _, Pair};
use crate::harness::client::TestClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

struct Row {
    id: &'static str,
    host: Option<&'static str>,
    headers: &'static [(&'static str, &'static str)],
    /// Nothing for the node's own address.
    base: Option<&'static str>,
}

const PUBLIC: Option<&str> = Some("reg.example.com");
const HTTPS: (&str, &str) = ("x-forwarded-proto", "https");
const FORWARDED: (&str, &str) = ("forwarded", "proto=https;host=fwd.example.com");

const TABLE: [Row; 10] = [
    Row { id: "180", host: None, headers: &[], base: None },
    Row { id: "181", host: None, headers: &[HTTPS], base: Some("https://") },
    Row { id: "182", host: PUBLIC, headers: &[], base: Some("http://reg.example.com") },
    Row { id: "183", host: PUBLIC, headers: &[HTTPS], base: Some("https://reg.example.com") },
    Row {
        id: "184",
        host: PUBLIC,
        headers: &[("x-forwarded-host", "pub.example.com"), HTTPS],
        base: Some("https://pub.example.com"),
    },
    Row { id: "185", host: PUBLIC, headers: &[HTTPS], base: Some("https://reg.example.com") },
    Row {
        id: "186",
        host: PUBLIC,
        headers: &[HTTPS, ("x-forwarded-port", "8443")],
        base: Some("https://reg.example.com"),
    },
    Row { id: "187", host: PUBLIC, headers: &[FORWARDED], base: Some("https://fwd.example.com") },
    Row {
        id: "188",
        host: PUBLIC,
        headers: &[("x-forwarded-prefix", "/h")],
        base: Some("http://reg.example.com"),
    },
    Row {
        id: "190",
        host: PUBLIC,
        headers: &[FORWARDED, ("x-forwarded-host", "xfh.example.com"), ("x-forwarded-proto", "http")],
        base: Some("https://fwd.example.com"),
    },
];

/// 180-188, 190.
#[tokio::test]
async fn by_headers() {
    let pair = Pair::start().await;
    let (app, alice) = (&pair.names.app, &pair.names.alice);
    for row in TABLE {
        let at_core = row.id == "185";
        let address = if at_core { pair.a.core_address() } else { pair.a.address() };
        let mut client = TestClient::plain(address).with_basic(&alice.name, &alice.password);
        if let Some(host) = row.host {
            client = client.with_host(host);
        }
        let mut case = Case::post(row.id, &client, format!("/v2/{app}/blobs/uploads/")).status(202);
        for (name, value) in row.headers {
            case = case.with(name, *value);
        }
        let base = match row.base {
            None => pair.a.url(),
            Some("https://") => pair.a.url().replace("http://", "https://"),
            Some(base) => base.to_owned(),
        };
        let answer = if at_core { case.at_core() } else { case }.run().await;
        super::uploads::session_at(row.id, &base, app, &answer);
    }
}

/// 189: HTTP/1.0. The connection ends with the answer.
#[tokio::test]
async fn http_1_0() {
    let pair = Pair::start().await;
    let (app, alice) = (&pair.names.app, &pair.names.alice);
    let authorization = crate::harness::client::basic(&alice.name, &alice.password);
    let host = pair.a.address();
    let mut socket = pair.a.login(alice).raw_tcp().await;
    let request = format!(
        "POST /v2/{app}/blobs/uploads/ HTTP/1.0\r\nHost: {host}\r\nAuthorization: {authorization}\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await.expect("written");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("an end");
    assert!(
        answer.contains(" 202 Accepted\r\n") && answer.contains("\r\nConnection: close\r\n"),
        "[189] {answer}"
    );
    assert!(
        answer.contains(&format!("\r\nLocation: http://{host}/v2/{app}/blobs/uploads/")),
        "[189] {answer}"
    );
}
