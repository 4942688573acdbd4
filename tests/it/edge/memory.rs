//! What clients can make the gateway remember: the memory of the process, with clients that have hardly a buffer of their own.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{push_blob, site};
use crate::harness::client::{TestClient, basic};
use crate::harness::gateway::Gateway;
use crate::harness::raw_h2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, RawH2, SETTINGS, WINDOW_UPDATE, frame,
};
use crate::harness::site::Site;
use crate::harness::wait;

const KIB: usize = 1024;

/// The memory once it grows no more.
async fn settled_memory_kib(gateway: &Gateway) -> usize {
    let (mut last, mut equal) = (gateway.memory_kib("VmRSS"), 0);
    wait::until("the memory to grow no more", async || {
        let now = gateway.memory_kib("VmRSS");
        equal = if now <= last + 256 { equal + 1 } else { 0 };
        last = last.max(now);
        (equal >= 50).then_some(now)
    })
    .await
}

/// What one connection may cost, as the gateway itself says at its start.
fn bound_kib(gateway: &Gateway) -> usize {
    let line = gateway.find_log(|line| line["message"] == "memory bounds").expect("the bounds");
    let bytes = line["connection_bytes_max"].as_u64().expect("a number");
    usize::try_from(bytes).expect("a size") / KIB
}

/// Waits for so many requests under way.
async fn under_way(site: &Site, requests: usize) {
    wait::until("the requests to be under way", async || {
        let metrics = site.gateway.metrics().await;
        let number = metrics.sum("tidegate_requests_in_flight", &[]);
        (number >= f64::from(u32::try_from(requests).expect("few")) - 0.5).then_some(())
    })
    .await;
}

/// A gateway where so many may read at once, each by itself.
async fn reading_site() -> Site {
    let alone = "coalesce: { enabled: false }";
    site(&format!("{alone}\nupstream: {{ connections_max: 1000 }}\nlimits: {{ body_rate_min: 0 }}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_readers_over_http1_cost_little_each() {
    let mut site = reading_site().await;
    let target = push_blob(&site, 16 << 20).await;
    let client = site.anonymous("public/x").await;
    let before = settled_memory_kib(&site.gateway).await;
    let mut open = Vec::new();
    for _ in 0..READERS {
        let socket = client.small_tcp().await;
        let mut stream = client.tls_over(socket, Some("http/1.1")).await.expect("a handshake");
        let head = client.raw_head(&http::Method::GET, &target, "");
        stream.write_all(head.as_bytes()).await.expect("sent");
        open.push(stream);
    }
    under_way(&site, READERS).await;
    // What is read at first makes every buffer as large as it gets.
    let mut buffer = vec![0; 256 * KIB];
    for stream in &mut open {
        wait::within("the beginning of an answer", stream.read_exact(&mut buffer)).await.expect("read");
    }
    let each = settled_memory_kib(&site.gateway).await.saturating_sub(before) / READERS;
    println!("{each} KiB for a slow reader over HTTP/1.1");
    assert!(each <= 256, "{each} KiB for each of {READERS} slow readers");
    drop(open);
    site.stop_gateway().await;
}

const READERS: usize = 300;
const STREAMS: usize = 10;

#[tokio::test(flavor = "multi_thread")]
async fn slow_readers_over_h2_cost_little_each() {
    for window in [16, 65_535, 1 << 20] {
        let mut site = reading_site().await;
        let target = push_blob(&site, 16 << 20).await;
        let client = site.anonymous("public/x").await;
        let before = settled_memory_kib(&site.gateway).await;
        let mut open = Vec::new();
        for _ in 0..READERS / STREAMS {
            let socket = client.small_tcp().await;
            let mut connection = RawH2::open(&client, socket, window).await.expect("a connection");
            connection.open_window(0, 1 << 26).await.expect("sent");
            for number in 0..u32::try_from(STREAMS).expect("few") {
                connection.request(1 + 2 * number, END_STREAM, "GET", &target).await.expect("sent");
            }
            open.push(connection);
        }
        under_way(&site, READERS).await;
        let each = settled_memory_kib(&site.gateway).await.saturating_sub(before) / READERS;
        println!("{each} KiB for a slow reader over h2 with windows of {window} bytes");
        assert!(each <= 256, "{each} KiB for each of {READERS} slow readers");
        drop(open);
        site.stop_gateway().await;
    }
}

/// An h2 connection, and the windows that the gateway opens before it knows who is there.
async fn with_windows(client: &TestClient) -> (RawH2, usize, usize) {
    let socket = client.small_tcp().await;
    let mut connection = RawH2::open(client, socket, 65_535).await.expect("a connection");
    let (mut of_stream, mut of_connection) = (0, 0);
    while of_stream == 0 || of_connection == 0 {
        let next = connection.next().await.expect("a frame");
        if next.kind == SETTINGS && !next.is_ack() {
            let setting = next.payload.chunks(6).find(|setting| setting[..2] == [0, 4]).expect("a window");
            of_stream = u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]) as usize;
        }
        if next.kind == WINDOW_UPDATE {
            let more =
                u32::from_be_bytes([next.payload[0], next.payload[1], next.payload[2], next.payload[3]]);
            of_connection = 65_535 + more as usize;
        }
    }
    (connection, of_stream, of_connection)
}

/// Begins an upload with a wrong password, so that its body waits while the password does.
async fn begin_upload(connection: &mut RawH2, stream: u32, password: &str) {
    let authorization = basic("slow", password);
    let block = connection.head("POST", "/v2/public/x/blobs/uploads/", &[("authorization", &authorization)]);
    connection.send(&frame(HEADERS, END_HEADERS, stream, &block)).await.expect("sent");
}

/// Passwords are checked one after the other, each taking its time, so that nobody is let in meanwhile.
async fn queueing_site() -> Site {
    let hash = bcrypt::hash("right", 14).expect("a hash");
    let mut site = site("password_checks: { concurrency: 1, queue_max: 10000, failure_ttl: 0s }").await;
    site.stop_gateway().await;
    let users = "identity:\n  - users:\n";
    let slow = format!("{users}      - {{ name: slow, password_hash: \"{hash}\" }}\n");
    let config = site.config.render().replacen(users, &slow, 1);
    site.gateway = Gateway::start(&config, site.dir()).await;
    site
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_wait_for_a_password_cost_no_more_than_the_window() {
    const CONNECTIONS: usize = 60;
    let mut site = queueing_site().await;
    let client = site.client();
    let before = settled_memory_kib(&site.gateway).await;
    let (mut open, mut window_kib) = (Vec::new(), 0);
    for number in 0..CONNECTIONS {
        let (mut connection, of_stream, of_connection) = with_windows(&client).await;
        window_kib = of_connection / KIB;
        let mut left = of_connection;
        for stream in 0..4 {
            begin_upload(&mut connection, 1 + 2 * stream, &format!("{number}x{stream}")).await;
            let mut of_this = of_stream.min(left);
            left -= of_this;
            while of_this > 0 {
                let piece = of_this.min(16 * KIB);
                connection.send(&frame(DATA, 0, 1 + 2 * stream, &vec![0; piece])).await.expect("sent");
                of_this -= piece;
            }
        }
        open.push(connection);
    }
    let each = settled_memory_kib(&site.gateway).await.saturating_sub(before) / CONNECTIONS;
    println!("{each} KiB for an h2 connection that fills its window of {window_kib} KiB");
    assert!(window_kib <= 512, "{window_kib} KiB");
    assert!(each <= bound_kib(&site.gateway), "{each} KiB for each of {CONNECTIONS} connections");
    drop(open);
    site.gateway.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn tiny_frames_cost_no_more_than_large_ones() {
    const CONNECTIONS: usize = 20;
    let mut site = queueing_site().await;
    let client = site.client();
    let before = settled_memory_kib(&site.gateway).await;
    let mut open = Vec::new();
    for number in 0..CONNECTIONS {
        let (mut connection, of_stream, _) = with_windows(&client).await;
        begin_upload(&mut connection, 1, &number.to_string()).await;
        let frames = frame(DATA, 0, 1, b"x").repeat(4096);
        // It may end such a connection at any time.
        for _ in 0..of_stream / 4096 {
            if connection.send(&frames).await.is_err() {
                break;
            }
        }
        open.push(connection);
    }
    let each = settled_memory_kib(&site.gateway).await.saturating_sub(before) / CONNECTIONS;
    println!("{each} KiB for an h2 connection that sends a byte a frame");
    assert!(each <= bound_kib(&site.gateway), "{each} KiB for each of {CONNECTIONS} connections");
    drop(open);
    site.gateway.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn large_heads_cost_no_more_than_the_bound() {
    const CONNECTIONS: usize = 20;
    let mut site = queueing_site().await;
    let client = site.client();
    let before = settled_memory_kib(&site.gateway).await;
    let mut open = Vec::new();
    let filler = "x".repeat(1000);
    for number in 0..CONNECTIONS {
        let (mut connection, _, _) = with_windows(&client).await;
        for stream in 0..100 {
            let authorization = basic("slow", &format!("{number}x{stream}"));
            let names: Vec<_> = (0..55).map(|header| format!("x-{header}")).collect();
            let mut headers = vec![("authorization", authorization.as_str())];
            headers.extend(names.iter().map(|name| (name.as_str(), filler.as_str())));
            let block = connection.head("POST", "/v2/public/x/blobs/uploads/", &headers);
            let mut parts = block.chunks(16 * KIB).peekable();
            let (mut kind, mut sent) = (HEADERS, Vec::new());
            while let Some(part) = parts.next() {
                let flags = if parts.peek().is_none() { END_HEADERS } else { 0 };
                sent.extend(frame(kind, flags, 1 + 2 * stream, part));
                kind = CONTINUATION;
            }
            connection.send(&sent).await.expect("sent");
        }
        open.push(connection);
    }
    let each = settled_memory_kib(&site.gateway).await.saturating_sub(before) / CONNECTIONS;
    println!("{each} KiB for an h2 connection with a hundred large heads");
    assert!(each <= bound_kib(&site.gateway), "{each} KiB for each of {CONNECTIONS} connections");
    drop(open);
    site.gateway.kill();
}
