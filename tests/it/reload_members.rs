//! Reload of pools, members, limits and routes: what comes gets work, what goes ends its uploads, what stays notices nothing.

use serde_json::Value;

use crate::drain::{client_of, upload_at};
use crate::harness::gateway::{Gateway, replace_file};
use crate::harness::image::Blob;
use crate::harness::pull::Download;
use crate::harness::registry::StockRegistry;
use crate::harness::site::{MemberKind, Site};
use crate::harness::{push, wait};

async fn members(gateway: &Gateway) -> Vec<Value> {
    let status = gateway.status().await;
    let pools = status["pools"].as_array().expect("pools").clone();
    pools.iter().flat_map(|pool| pool["members"].as_array().expect("members").clone()).collect()
}

/// The configuration with other members in the place of one.
fn replaced(config: &str, gone: &str, members: &[&StockRegistry]) -> String {
    let entry = |line: &str| line.trim_start().starts_with(&format!("- {{ name: {gone},"));
    let new = |registry: &&StockRegistry| {
        format!("      - {{ name: {}, url: \"{}\", credential: none }}\n", registry.name(), registry.url())
    };
    let lines = config
        .lines()
        .map(|line| if entry(line) { members.iter().map(new).collect() } else { format!("{line}\n") });
    lines.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn members_come_and_go_by_a_reload_and_a_removed_ones_uploads_end_there() {
    let mut site = Site::start(&[MemberKind::Open, MemberKind::Open]).await;
    let third = StockRegistry::builder("member2").storage(&site.dir().join("storage")).start().await;
    let client = client_of(&site).await;
    let upload = upload_at(&site, &client, "member0").await;
    assert!(site.gateway.control(&["drain", "member1"]).await.status.success());
    // A certificate that is broken just now holds up nothing of this.
    let other = site.certificates.leaf("other", &["127.0.0.1"]);
    replace_file(&site.dir().join("hub.key"), &std::fs::read_to_string(&other.key).expect("a key"));

    let config = replaced(&site.config.render(), "member0", &[&third]);
    assert_eq!(site.gateway.reload_with(&config).await["message"], "reloaded");
    let shown = members(&site.gateway).await;
    let names: Vec<_> = shown.iter().map(|member| member["name"].as_str().expect("a name")).collect();
    assert_eq!(names, ["member2", "member1"], "{shown:?}");
    assert_eq!(shown[0]["state"], "healthy", "it was probed before it got work");
    assert_eq!(shown[1]["draining"], true, "a drain outlives a reload");
    // That each of the two serves shows while the other one is drained: which one serves a read is else up to how quick they were.
    let reads_at = async |member: &str| {
        let read = client.get("/v2/a/b0/tags/list").await.is(404);
        assert_eq!(site.gateway.served_by(&read).await, member);
    };
    reads_at("member2").await;
    assert!(site.gateway.control(&["undrain", "member1"]).await.status.success());
    assert!(site.gateway.control(&["drain", "member2"]).await.status.success());
    reads_at("member1").await;
    assert!(site.gateway.control(&["undrain", "member2"]).await.status.success());
    let healthy = |line: &&Value| line["message"] == "member is healthy" && line["member"] == "member1";
    assert_eq!(site.gateway.log_lines().iter().filter(healthy).count(), 1, "it went on as it was");

    // Nobody probes what is gone, and the upload that was begun there ends there.
    let probes = async |member: &str| {
        let metrics = site.gateway.metrics().await;
        metrics.sum("tidegate_probes_total", &[&format!("member=\"{member}\"")])
    };
    let (of_removed, of_other) = (probes("member0").await, probes("member1").await);
    wait::until("probes of the others", async || (probes("member1").await > of_other + 2.5).then_some(()))
        .await;
    assert!((probes("member0").await - of_removed).abs() < f64::EPSILON);
    let blob = Blob::random(10_000);
    let finished = push::finish(&client, &upload, &blob.digest, blob.bytes.clone()).await;
    assert_eq!(site.gateway.served_by(&finished).await, "member0");

    // A member that is not there is told from one that is, and the change is as whole as ever.
    let broken = config.replace("credential: none", "credential: nobody");
    let line = site.gateway.reload_with(&broken).await;
    assert!(line["message"].as_str().is_some_and(|text| text.starts_with("reload refused")), "{line}");
    assert_eq!(members(&site.gateway).await.len(), 2);
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_connection_limit_holds_for_the_next_request() {
    let mut site = Site::start_with(&[MemberKind::Open], |config| {
        config.pool_key("upstream: { connections_max: 8, queue_timeout: 1h, head_timeout: 1h }")
    })
    .await;
    let client = site.authorized(&["repository:a/b:pull,push"]).await;
    let blob = Blob::random(32 << 20);
    let path = push::blob(&client, "a/b", &blob).await;
    let mut slow = Vec::new();
    for _ in 0..2 {
        slow.push(Download::begin(&client, &path).await);
    }
    // Lower than what runs: nothing is cut, and nothing more begins.
    let lowered = site.config.render().replace("connections_max: 8", "connections_max: 1");
    assert_eq!(site.gateway.reload_with(&lowered).await["message"], "reloaded");
    assert_eq!(members(&site.gateway).await[0]["connections_max"], 1);
    let read = client.get("/v2/a/b/tags/list");
    tokio::pin!(read);
    let queued = wait::until("the read to queue up", async || {
        tokio::select! {
            answer = &mut read => panic!("served beyond the limit: {answer:?}"),
            shown = members(&site.gateway) => (shown[0]["queued"] == 1).then_some(()),
        }
    });
    queued.await;
    // What ran is not cut.
    let mut first = slow.pop().expect("the first of two");
    assert_eq!(first.rest().await, blob.bytes.len());
    drop(first);
    // One of two has ended, and the limit is one: the other still holds it.
    wait::until("the end of the first", async || {
        tokio::select! {
            answer = &mut read => panic!("served beyond the limit: {answer:?}"),
            shown = members(&site.gateway) => (shown[0]["connections"] == 1).then_some(()),
        }
    })
    .await;
    assert_eq!(site.gateway.reload_with(&site.config.render()).await["message"], "reloaded");
    // Served once the limit is higher; without a tag the list is unknown to some registries.
    let served = wait::within("the read", &mut read).await;
    assert!(matches!(served.status.as_u16(), 200 | 404), "{served}");
    drop(slow);
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_and_routes_come_by_a_reload() {
    let mut site = Site::start(&[MemberKind::Open]).await;
    let other = StockRegistry::builder("elsewhere").start().await;
    let client = site.authorized(&["repository:other/x:pull"]).await;
    let answer = client.get("/v2/other/x/tags/list").await.is(404);
    assert_eq!(site.gateway.served_by(&answer).await, "member0");
    let member = format!("{{ name: elsewhere, url: \"{}\" }}", other.url());
    let config = site.config.clone().further_pool(&format!("{{ name: other, members: [{member}] }}"));
    let config = config.first_route("{ repository: \"other/**\", pool: other }");
    assert_eq!(site.gateway.reload_with(&config.render()).await["message"], "reloaded");
    let answer = client.get("/v2/other/x/tags/list").await.is(404);
    assert_eq!(site.gateway.served_by(&answer).await, "elsewhere");
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_put_back_is_probed_before_it_gets_work() {
    let mut site = Site::start(&[MemberKind::Open, MemberKind::Open]).await;
    let client = client_of(&site).await;
    let config = site.config.render();
    let without = replaced(&config, "member1", &[]);
    assert_eq!(site.gateway.reload_with(&without).await["message"], "reloaded");
    // Nobody notices that: it is probed no more.
    site.members[1].kill();
    assert_eq!(site.gateway.reload_with(&config).await["message"], "reloaded");
    let shown = members(&site.gateway).await;
    assert_eq!(shown[1]["name"], "member1", "{shown:?}");
    assert_eq!(shown[1]["state"], "unhealthy", "{shown:?}");
    for _ in 0..20 {
        let read = client.get("/v2/a/b0/tags/list").await.is(404);
        assert_eq!(site.gateway.served_by(&read).await, "member0");
    }
    let metrics = site.gateway.metrics().await;
    assert!(metrics.sum("tidegate_retries_total", &[]).abs() < f64::EPSILON);
    site.stop_gateway().await;
}
