//! From accept to the first complete request every protocol has a deadline, and a close in good order that has no effect is followed by
//! one without.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{is_served, site};
use crate::harness::client::TestClient;
use crate::harness::gateway::ListenerKind;
use crate::harness::raw_h2::{self, ACK, END_HEADERS, END_STREAM, HEADERS, PING, RawH2, frame, settings};
use crate::harness::wait;

/// Waits until the other side ends a connection, while `again` is sent now and then. A reset ends it as well as a close.
async fn ended(what: &str, mut stream: impl AsyncRead + AsyncWrite + Unpin, again: &[u8]) {
    let mut buffer = vec![0; 16 * 1024];
    let work = async {
        let mut pause = tokio::time::interval(Duration::from_millis(100));
        loop {
            tokio::select! {
                read = stream.read(&mut buffer) => if !matches!(read, Ok(1..)) { return },
                _ = pause.tick() => if !again.is_empty() && stream.write_all(again).await.is_err() { return },
            }
        }
    };
    wait::within(&format!("the end of a connection: {what}"), work).await;
}

/// What a client of h2 says after its TLS handshake and again and again, and no complete request among it.
fn incomplete_h2() -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let preface = raw_h2::PREFACE.to_vec();
    let ready = [preface.clone(), settings(65_535)].concat();
    let block = raw_h2::header_block(&[(":method", "GET"), (":scheme", "https"), (":path", "/v2/")]);
    let headers = frame(HEADERS, END_STREAM | END_HEADERS, 1, &block);
    let with = |more: &[u8]| [&ready, more].concat();
    vec![
        ("nothing", Vec::new(), Vec::new()),
        ("half a preface", preface[..10].to_vec(), Vec::new()),
        ("a preface without SETTINGS", preface.clone(), Vec::new()),
        ("SETTINGS and nothing", ready.clone(), Vec::new()),
        ("half a HEADERS frame", with(&headers[..12]), Vec::new()),
        ("HEADERS without their end", with(&frame(HEADERS, END_STREAM, 1, &block)), Vec::new()),
        ("PING after PING", ready.clone(), frame(PING, 0, 0, &[7; 8])),
        ("SETTINGS after SETTINGS", ready.clone(), settings(65_535)),
    ]
}

const DEADLINES: &str = "handshake_timeout: 1h, header_timeout: 2s, keep_alive: 1h";

#[tokio::test(flavor = "multi_thread")]
async fn h2_connections_without_a_complete_request_end_and_give_their_places_back() {
    let cases = incomplete_h2();
    let mut site = site(&format!("limits: {{ {DEADLINES}, connections_max: {} }}", cases.len())).await;
    let client = site.client();
    let mut open = Vec::new();
    for (what, first, again) in cases {
        let socket = client.raw_tcp().await;
        let mut connection = RawH2::silent(&client, socket).await.expect("a handshake");
        connection.send(&first).await.expect("sent");
        open.push((what, connection.stream, again));
    }
    // Every place is taken until one of them ends.
    is_served(&client).await;
    for (what, stream, again) in open {
        ended(what, stream, &again).await;
    }
    let metrics = site.gateway.metrics().await;
    assert!(metrics.sum("tidegate_connections_timed_out_total", &[]) >= 8.0);
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http1_connections_without_a_complete_request_end_and_give_their_places_back() {
    let mut site = site(&format!("limits: {{ {DEADLINES}, connections_max: 12 }}")).await;
    let (tls, plain) = (site.client(), site.gateway.plain_client());
    let redirect = TestClient::plain(site.gateway.address(ListenerKind::Redirect));
    let cases: [(&str, &[u8], &[u8]); 4] = [
        ("nothing", b"", b""),
        ("half a head", b"GET /v2/ HTTP/1.1\r\nHost: ", b""),
        ("a head that drips", b"GET /v2/ HTTP/1.1\r\nX: ", b"x"),
        ("half a preface of h2", &raw_h2::PREFACE[..14], b""),
    ];
    let mut open: Vec<(String, Box<dyn Stream>, &[u8])> = Vec::new();
    for (what, first, again) in cases {
        let socket = tls.raw_tcp().await;
        let over_tls = tls.tls_over(socket, Some("http/1.1")).await.expect("a handshake");
        let streams: [(&str, Box<dyn Stream>); 3] = [
            ("TLS", Box::new(over_tls)),
            ("plain", Box::new(plain.raw_tcp().await)),
            ("redirect", Box::new(redirect.raw_tcp().await)),
        ];
        for (listener, mut stream) in streams {
            stream.write_all(first).await.expect("sent");
            open.push((format!("{what}, {listener}"), stream, again));
        }
    }
    is_served(&tls).await;
    for (what, stream, again) in open {
        ended(&what, stream, again).await;
    }
    site.stop_gateway().await;
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// What the gateway's keep-alive PINGs hold.
const KEEP_ALIVE: [u8; 8] = [0x3b, 0x7c, 0xdb, 0x7a, 0x0b, 0x87, 0x16, 0xb4];

#[tokio::test(flavor = "multi_thread")]
async fn a_close_in_good_order_that_an_h2_client_does_not_confirm_is_an_abort() {
    let mut site = site("limits: { header_timeout: 2s, keep_alive: 1s }").await;
    let client = site.client();
    let socket = client.raw_tcp().await;
    let mut connection = RawH2::open(&client, socket, 65_535).await.expect("a connection");
    connection.request(1, END_STREAM, "GET", "/v2/").await.expect("sent");
    let mut leaving = false;
    // It answers the PING by which the gateway finds out whether it is still there, and not the one by which it is
    // asked whether it has seen that the connection ends.
    while let Ok(next) = connection.next_unanswered().await {
        leaving |= next.kind == raw_h2::GOAWAY;
        if next.kind == PING && next.payload == KEEP_ALIVE {
            drop(connection.send(&frame(PING, ACK, 0, &next.payload)).await);
        }
    }
    assert!(leaving, "the client was told to go");
    drop(connection);
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_do_not_hold_up_the_end_of_the_process() {
    let mut site = site("limits: { header_timeout: 3s }\nshutdown: { grace_period: 1h }").await;
    let client = site.client();
    let mut open = Vec::new();
    for (_, first, _) in incomplete_h2() {
        let socket = client.raw_tcp().await;
        let mut connection = RawH2::silent(&client, socket).await.expect("a handshake");
        connection.send(&first).await.expect("sent");
        open.push(connection);
    }
    site.gateway.terminate();
    let status = site.gateway.daemon().wait_exit().await;
    assert!(status.success());
    let cut = site.gateway.find_log(|line| {
        line["message"].as_str().is_some_and(|text| text.starts_with("the grace period is over"))
    });
    assert!(cut.is_none(), "{cut:?}");
    drop(open);
}
