//! What the admin listener and the logs show, and what they never show.

use data_encoding::BASE64;
use http::Method;

use crate::harness::client::whole;
use crate::harness::image::Blob;
use crate::harness::site::{MemberKind, Site};
use crate::harness::{push, wait};

#[tokio::test(flavor = "multi_thread")]
async fn admin_tells_liveness_readiness_metrics_and_status() {
    let mut site = Site::start(&[MemberKind::Open, MemberKind::Basic]).await;
    let admin = site.gateway.admin();
    for (path, status) in
        [("/livez", 200), ("/readyz", 200), ("/metrics", 200), ("/status", 200), ("/other", 404)]
    {
        admin.get(path).await.is(status);
    }
    admin.post("/readyz", "").await.is(405);
    let client = site.authorized(&["repository:a/b:pull,push"]).await;
    client.get("/v2/a/b/manifests/none").await.is(404);
    let expected = "tidegate_requests_total{member=\"member";
    // A request is counted when its answer has ended, which its client may see first.
    let (text, line) = wait::until("the request to be counted", async || {
        let text = admin.get("/metrics").await.text();
        let counted = |line: &&str| line.starts_with(expected) && line.contains("status=\"404\"");
        let line = text.lines().find(counted)?.to_owned();
        Some((text, line))
    })
    .await;
    for name in [
        "tidegate_requests_total",
        "tidegate_request_duration_seconds_bucket",
        "tidegate_first_byte_seconds_bucket",
        "tidegate_body_bytes_total",
        "tidegate_requests_in_flight",
        "tidegate_member_state",
        "tidegate_probes_total",
        "tidegate_tokens_issued_total",
        "tidegate_certificate_expiry_timestamp_seconds",
        "tidegate_config_generation",
    ] {
        assert!(text.contains(&format!("\n{name}")), "{name} is missing");
    }
    assert!(
        line.contains("route=\"manifest\"")
            && line.contains("method=\"GET\"")
            && line.contains("pool=\"main\""),
        "{line}"
    );
    let status = admin.get("/status").await.json();
    assert_eq!(status["pools"][0]["members"][1]["state"], "healthy");
    for member in &mut site.members {
        member.kill();
    }
    wait::until("no member to serve", async || {
        let answer = admin.get("/readyz").await;
        (answer.status == 503 && answer.text().contains("main")).then_some(())
    })
    .await;
    admin.get("/livez").await.is(200);
    let refused = client.get("/v2/a/b/tags/list").await.is(504);
    assert_eq!(refused.error_code().as_deref(), Some("UNAVAILABLE"));
    // The ping needs no member.
    client.get("/v2/").await.is(200);
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_has_one_line_with_the_id_of_its_answer() {
    let mut site = Site::start(&[MemberKind::Open]).await;
    let client = site.authorized(&["repository:a/b:pull,push"]).await;
    let answer = client.get("/v2/a/b/manifests/v1").await.is(404);
    let id = answer.header("x-request-id").expect("an id").to_owned();
    let refused = client.get("/v2/other/x/manifests/v1").await.is(401);
    let refused_id = refused.json()["errors"][0]["detail"]["request_id"].as_str().expect("an id").to_owned();
    assert_eq!(refused.header("x-request-id"), Some(refused_id.as_str()));
    let lines = wait::until("both lines", async || {
        let log = site.gateway.access_log();
        let of =
            |id: &str| log.iter().filter(|line| line.text("request_id") == id).cloned().collect::<Vec<_>>();
        let (first, second) = (of(&id), of(&refused_id));
        (!first.is_empty() && !second.is_empty()).then_some((first, second))
    })
    .await;
    assert_eq!((lines.0.len(), lines.1.len()), (1, 1));
    let line = &lines.0[0];
    for (field, value) in [
        ("method", "GET"),
        ("route", "manifest"),
        ("subject", "users/alice"),
        ("repository", "a/b"),
        ("reference", "v1"),
        ("pool", "main"),
        ("member", "member0"),
        ("end", "done"),
        ("version", "http/1.1"),
    ] {
        assert_eq!(line.text(field), value, "{field}");
    }
    for field in ["auth_ms", "connect_ms", "first_byte_ms", "total_ms"] {
        assert!(line.0[field].as_f64().is_some_and(|time| time > 0.0), "{field}: {}", line.0);
    }
    assert_eq!(lines.1[0].text("end"), "denied");
    assert!(lines.1[0].0.get("member").is_none());
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_any_log_at_any_level() {
    let mut site = Site::start(&[MemberKind::Open, MemberKind::Basic, MemberKind::Token]).await;
    site.restart_with(&site.config.clone().log_filter("trace").render()).await;
    let scopes = ["repository:a/b:pull,push"];
    let token = site.client().token(&site.endpoint.user, &site.endpoint.password, &scopes).await;
    let client = site.client().with_bearer(&token);
    let mut secrets = vec![token, site.endpoint.password.clone(), "a wrong password".to_owned()];
    for _ in 0..6 {
        let blob = Blob::random(1000);
        let location = push::start(&client, "a/b").await;
        for parameter in location.split(['?', '&']).skip(1) {
            let value = parameter.split_once('=').expect("a value").1;
            secrets
                .push(percent_encoding::percent_decode_str(value).decode_utf8().expect("text").into_owned());
            secrets.push(value.to_owned());
        }
        push::finish(&client, &location, &blob.digest, blob.bytes.clone()).await;
    }
    let wrong = site.client().with_basic(&site.endpoint.user, "a wrong password");
    wrong.get("/v2/").await.is(401);
    let form = format!(
        "grant_type=password&service=tidegate-test&username=alice&password={}",
        site.endpoint.password
    );
    let request = site
        .client()
        .request(Method::POST, "/token")
        .header("content-type", "application/x-www-form-urlencoded");
    site.client().send(request.body(whole(form))).await.is(200);
    for member in &site.members {
        if let crate::harness::registry::Access::Htpasswd { user, password } = member.access() {
            secrets.push(BASE64.encode(format!("{user}:{password}").as_bytes()));
            secrets.push(password.clone());
        }
    }
    secrets.push(BASE64.encode(format!("{}:{}", site.endpoint.user, site.endpoint.password).as_bytes()));
    site.stop_gateway().await;
    let logs = format!("{}{}", site.gateway.daemon().stdout(), site.gateway.daemon().stderr());
    assert!(logs.len() > 10_000, "the filter lets everything through");
    for secret in secrets {
        let shown = logs.lines().find(|line| line.contains(&secret));
        assert!(shown.is_none(), "{secret} is in the log: {shown:?}");
    }
}
