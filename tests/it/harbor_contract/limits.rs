//! Quota, read only, immutable tags, `Expect`, and how long things may be: recordings 350-355, 363, 364, 450.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::case::Case;
use super::contents::{OCI, push_image};
use super::minted::{Mint, claims, entry};
use super::uploads::{random_bytes, session_at};
use super::world::{As as _, Pair, pull_push};
use crate::harness::client::TestClient;
use crate::harness::image::digest_of;

const READ_ONLY: &str = "The system is in read only mode. Any modification is prohibited.";

/// 350-355.
#[tokio::test]
async fn refusals_of_writes() {
    let pair = Pair::start().await;
    let (names, app, tag) = (&pair.names, &pair.names.app, &pair.names.tag);
    let admin = pair.a.login(&pair.admin());
    let image = push_image(&pair.a, &names.alice, app, tag).await;
    pair.database.set_quota_full(&names.team2, true);
    let tiny = format!("{}/app", names.team2);
    let at = super::uploads::start("350", &admin, &pair.a.url(), &tiny).await;
    let layer = random_bytes(3_000_772);
    let put = Case::put("351", &admin, format!("{at}&digest={}", digest_of(&layer))).octets(layer);
    let answer = put.code(403, "DENIED").lacks("docker-distribution-api-version").run().await;
    let text = answer.text();
    assert!(
        text.contains("adding 2.9 MiB of storage resource, which when updated to current usage of "),
        "{text}"
    );
    assert!(text.contains(" will exceed the configured upper limit of 1000 B."), "{text}");

    pair.database.set_read_only(true);
    let uploads = format!("/v2/{app}/blobs/uploads/");
    Case::post("352", &admin, &uploads).error(403, "DENIED", READ_ONLY).sets_no_sid().run().await;
    Case::get("353", &admin, format!("/v2/{app}/tags/list")).status(200).run().await;
    let target = super::world::token_target(&[&pull_push(app)]);
    Case::get("354", &pair.a.login(&names.alice), target).status(200).run().await;
    pair.database.set_read_only(false);

    let (_, short) = app.split_once('/').expect("a project");
    pair.database.make_immutable(&names.team, short, tag);
    let message = format!("Failed to process request due to '{short}:{tag}' configured as immutable.");
    Case::put("355", &admin, format!("/v2/{app}/manifests/{tag}"))
        .body(OCI, image.manifest)
        .error(412, "PRECONDITION", &message)
        .lacks("docker-distribution-api-version")
        .run()
        .await;
}

/// What comes back for a head and no body yet.
async fn first_bytes(client: &TestClient, head: &str) -> String {
    let mut socket = client.raw_tcp().await;
    socket.write_all(head.as_bytes()).await.expect("written");
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    // Until the final answer's head is there.
    while !String::from_utf8_lossy(&answer).contains("401 Unauthorized") {
        let read = socket.read(&mut buffer).await.expect("bytes");
        assert!(read > 0, "the connection ended after {}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// 363: the node's nginx says 100 before anybody looks at credentials. 364: core itself does not.
#[tokio::test]
async fn expect_continue() {
    let pair = Pair::start().await;
    let head = |host: std::net::SocketAddr| {
        format!(
            "PATCH /v2/{}/blobs/uploads/00000000-0000-4000-8000-000000000000?_state=x HTTP/1.1\r\nHost: {host}\r\n\
             Expect: 100-continue\r\nContent-Type: application/octet-stream\r\nContent-Length: 1500386\r\n\r\n",
            pair.names.app
        )
    };
    let through_nginx = first_bytes(&pair.a.client(), &head(pair.a.address())).await;
    assert!(through_nginx.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 401 "), "[363] {through_nginx}");
    let at_core = first_bytes(&pair.a.core_client(), &head(pair.a.core_address())).await;
    assert!(at_core.starts_with("HTTP/1.1 401 "), "[364] {at_core}");
}

/// 450: names. Some 250 characters are too many for the registry's cache, and more for the registry.
#[tokio::test]
async fn long_names() {
    let pair = Pair::start().await;
    let (names, alice) = (&pair.names, pair.a.login(&pair.names.alice));
    let name = |length: usize| {
        let mut name = format!("{}/", names.team);
        while name.len() < length {
            name.push(if name.len() % 60 == 59 && name.len() + 1 < length { '/' } else { 'a' });
        }
        name
    };
    for length in [60, 128, 200, 245] {
        let case =
            Case::post(format!("450 {length}"), &alice, format!("/v2/{}/blobs/uploads/", name(length)));
        let answer = case.status(202).run().await;
        let at = session_at("450", &pair.a.url(), &name(length), &answer);
        // 403 to 828 bytes were recorded; the time inside is shorter when its digits end in zeros.
        assert!((370..900).contains(&at.len()), "[450] {length}: {} bytes", at.len());
    }
    for length in [247, 250, 255] {
        let case =
            Case::post(format!("450 {length}"), &alice, format!("/v2/{}/blobs/uploads/", name(length)));
        assert_eq!(case.status(500).run().await.text().trim(), "{}", "[450] {length}");
    }
    for length in [256, 300] {
        let case =
            Case::post(format!("450 {length}"), &alice, format!("/v2/{}/blobs/uploads/", name(length)));
        assert_eq!(case.status(500).run().await.error_code().as_deref(), Some("UNKNOWN"), "[450] {length}");
    }
}

/// 450: request lines. An additional parameter changes nothing and does not come back.
#[tokio::test]
async fn long_targets() {
    let pair = Pair::start().await;
    let (app, alice) = (&pair.names.app, pair.a.login(&pair.names.alice));
    let base = format!("/v2/{app}/tags/list?tg=");
    for (length, wanted) in [(1188, 404), (7488, 404), (8088, 404), (8488, 414), (16488, 414)] {
        let target = format!("{base}{}", "t".repeat(length - base.len()));
        let case = Case::get(format!("450 target of {length}"), &alice, target);
        let case = if wanted == 414 {
            case.page_of_nginx(414, "Request-URI Too Large")
        } else {
            case.status(wanted)
        };
        case.run().await;
    }
    let core = pair.a.core_client().with_basic(&pair.names.alice.name, &pair.names.alice.password);
    let target = format!("{base}{}", "t".repeat(16_000));
    Case::get("450 at core", &core, target).at_core().status(404).run().await;
    let body = random_bytes(100);
    let at = super::uploads::start("450", &alice, &pair.a.url(), app).await;
    let answer =
        Case::patch("450 tg", &alice, format!("{at}&tg=NODE-A")).octets(body.clone()).status(202).run().await;
    let at = session_at("450 tg", &pair.a.url(), app, &answer);
    assert!(!at.contains("tg="), "[450] {at}");
    let first = at.replacen('?', "?tg=NODE-A&", 1);
    Case::put("450 tg first", &alice, format!("{first}&digest={}", digest_of(&body)))
        .octets("")
        .status(201)
        .run()
        .await;
}

/// 450: headers, each and all together.
#[tokio::test]
async fn long_headers() {
    let pair = Pair::start().await;
    let mint = Mint::of(pair.a.private_key_file());
    let access = json!([entry(&pair.names.app, &["pull"])]);
    let token_of = |length: usize| {
        let at_least = mint.plain(&claims(&access, &json!({ "pad": "" }))).len();
        let pad = (length.saturating_sub(at_least)) * 3 / 4;
        mint.plain(&claims(&access, &json!({ "pad": "p".repeat(pad) })))
    };
    let too_large = "Request Header Or Cookie Too Large";
    for (length, fits) in
        [(2049, true), (6145, true), (8000, true), (8300, false), (16385, false), (65537, false)]
    {
        let token = token_of(length);
        let case =
            Case::get(format!("450 token of {}", token.len()), &pair.a.client().with_bearer(&token), "/v2/");
        if fits { case.status(200) } else { case.page_of_nginx(400, too_large) }.run().await;
        let core = pair.a.core_client().with_bearer(&token);
        Case::get(format!("450 {} at core", token.len()), &core, "/v2/").at_core().status(200).run().await;
    }
    // The recorded client put its token behind the other headers.
    let token = format!("Bearer {}", mint.plain(&claims(&access, &Value::Null)));
    let rows = [
        (4, 4000, true),
        (5, 4000, true),
        (6, 6000, false),
        (8, 4000, false),
        (5, 7500, false),
        (3, 8000, true),
    ];
    for (count, length, fits) in rows {
        let mut case = Case::get(format!("450 {count} x {length}"), &pair.a.client(), "/v2/");
        for number in 0..count {
            case = case.with(&format!("x-pad-{number}"), "h".repeat(length));
        }
        let case = case.with("authorization", &token);
        if fits { case.status(200) } else { case.page_of_nginx(400, too_large) }.run().await;
    }
}
