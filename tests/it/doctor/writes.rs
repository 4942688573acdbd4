//! Faults that only writing shows, and that nothing is left of it.

use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

use super::fixture::{Nodes, ask, config};
use crate::harbor::fixture::CredentialKind;
use crate::harness::fake_member::{FakeMember, Recorded, Reply, answer};
use crate::harness::harbor::{HarborDatabase, HarborNodeBuilder};
use crate::harness::registry::{StockRegistry, StockRegistryBuilder};

const WRITE: &[&str] = &["--write-probes"];
const IN_TEAM: &[&str] = &["--write-probes", "--repository", "team/tidegate-doctor"];

fn temporary() -> TempDir {
    TempDir::with_prefix("tidegate-doctor-").expect("a temporary directory")
}

/// Two registries, each adjusted by its number.
async fn two(
    dir: &TempDir,
    adjust: impl Fn(usize, StockRegistryBuilder) -> StockRegistryBuilder,
) -> [StockRegistry; 2] {
    let start = async |number: usize| {
        let builder = StockRegistry::builder(&format!("node{number}"))
            .storage(&dir.path().join("storage"))
            .http_secret("the same");
        adjust(number, builder).start().await
    };
    [start(0).await, start(1).await]
}

#[tokio::test(flavor = "multi_thread")]
async fn registries_that_share_everything_are_well_and_nothing_is_left() {
    let dir = temporary();
    let registries = two(&dir, |_, registry| registry).await;
    let config = config(dir.path()).member(&registries[0]).member(&registries[1]);
    let told = ask(&config, dir.path(), WRITE).await;
    told.ends_with(0).expect(&[]).says(&["takes writes", "http.secret, same content, redirects"]);
    for registry in &registries {
        let writes = registry.requests_for("tidegate-doctor/probe");
        assert!(writes.iter().any(|request| request.method == "POST"), "{writes:?}");
        let elsewhere = registry.requests().into_iter().filter(|request| request.method != "GET");
        assert_eq!(elsewhere.count(), writes.iter().filter(|request| request.method != "GET").count());
    }
    // What no repository names any more, the registry's garbage collection removes; and of an upload
    // that is over it leaves the state of its hash by itself.
    let mut find = std::process::Command::new("find");
    find.arg(dir.path().join("storage/docker/registry/v2/repositories"));
    find.args(["-type", "f", "-not", "-path", "*/hashstates/*"]);
    let left = String::from_utf8(find.output().expect("find runs").stdout).expect("text");
    assert_eq!(left, "", "tags, links to blobs and manifests, and uploads that are open are files");
    let tags = crate::harness::client::TestClient::plain(registries[0].address());
    let tags = tags.get("/v2/tidegate-doctor/probe/tags/list").await.text();
    assert!(!tags.contains("tidegate-doctor-"), "{tags}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_http_secret_and_another_storage_are_told_apart() {
    let dir = temporary();
    let registries = two(&dir, |number, registry| registry.http_secret(&format!("secret {number}"))).await;
    let members = config(dir.path()).member(&registries[0]).member(&registries[1]);
    ask(&members, dir.path(), &[]).await.ends_with(0).expect(&[]);
    ask(&members, dir.path(), WRITE)
        .await
        .ends_with(0)
        .expect(&[("node1", "http_secret")])
        .says(&[
            "another `http.secret` than that of node0",
            "nothing through Tidegate",
            "REGISTRY_HTTP_SECRET",
        ])
        .hides(&["secret 0", "secret 1"]);
    let other = dir.path().join("other");
    let registries =
        two(&dir, |number, registry| if number == 1 { registry.storage(&other) } else { registry }).await;
    let members = config(dir.path()).member(&registries[0]).member(&registries[1]);
    ask(&members, dir.path(), WRITE)
        .await
        .ends_with(1)
        .expect(&[("node1", "storage")])
        .says(&["does not see the storage of node0", "manifest unknown"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_registry_is_said() {
    let dir = temporary();
    let registries =
        two(&dir, |number, registry| if number == 1 { registry.read_only() } else { registry }).await;
    let members = config(dir.path()).member(&registries[0]).member(&registries[1]);
    ask(&members, dir.path(), WRITE)
        .await
        .ends_with(1)
        .expect(&[("node1", "read_only")])
        .says(&["storage.maintenance.readonly.enabled: false"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_share_everything_are_well_and_nothing_is_left() {
    let site = Nodes::start(2).await;
    for kind in [CredentialKind::Token, CredentialKind::Relay] {
        let rights: &[(&str, &[&str])] = &[("team", &["pull", "push", "delete"])];
        site.accounts.database.add_robot("robot$probe", &site.accounts.probe, rights);
        let told = ask(&site.config_with(kind), site.dir.path(), IN_TEAM).await;
        told.ends_with(0).expect(&[]).says(&["sessions, CSRF key", "same content"]);
    }
    let client = site.nodes[1].client().with_basic("admin", site.accounts.database.admin_password());
    let tags = client.get("/v2/team/tidegate-doctor/tags/list").await.text();
    assert!(!tags.contains("tidegate-doctor-"), "{tags}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_that_is_missing_and_rights_that_are_missing_are_told_apart() {
    let site = Nodes::start(1).await;
    site.ask(WRITE)
        .await
        .ends_with(1)
        .expect(&[("node0", "probe_refused")])
        .says(&["there is no project \"tidegate-doctor\"", "--repository PROJECT/tidegate-doctor"]);
    let relay = site.config_with(CredentialKind::Relay);
    ask(&relay, site.dir.path(), IN_TEAM)
        .await
        .ends_with(1)
        .expect(&[("node0", "probe_refused")])
        .says(&["give `harbor.account` the rights to push, pull and delete in the project \"team\""]);
    // Enough to write, and not to remove.
    let rights: &[(&str, &[&str])] = &[("team", &["pull", "push"])];
    site.accounts.database.add_robot("robot$probe", &site.accounts.probe, rights);
    let told = ask(&relay, site.dir.path(), IN_TEAM).await;
    told.ends_with(0).says(&["could not be removed"]);
    assert!(told.findings().iter().all(|(_, code)| code == "leftover"), "{}", told.text);
    site.accounts.database.set_read_only(true);
    ask(&relay, site.dir.path(), IN_TEAM).await.ends_with(1).expect(&[("node0", "read_only")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_on_another_database_are_told_apart() {
    let own = HarborDatabase::new();
    let site =
        Nodes::start_with(2, |number, node| if number == 1 { node.database(&own) } else { node }).await;
    site.accounts.fill(&own);
    // The administrators have another password each, and are not what is looked at here.
    let config = site
        .config
        .render()
        .replace(", catalog_account: { user: admin", ", catalog_account: { user: \"robot$probe\"");
    let config = config.replace(site.accounts.database.admin_password(), &site.accounts.probe);
    let file = site.dir.path().join("databases.yaml");
    std::fs::write(&file, config).expect("written");
    let mut arguments = vec!["doctor", "--config", file.to_str().expect("a path")];
    arguments.extend(IN_TEAM);
    let command = crate::harness::gateway::tidegate(&arguments);
    let said = crate::harness::process::finish(command, crate::harness::clients::COMMAND_LIMIT).await;
    let said = said.expect("it runs").stdout;
    assert!(said.contains("does not see the database of node0") && said.contains("(database)"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_on_another_storage_are_told_apart() {
    let other = TempDir::with_prefix("tidegate-other-").expect("a temporary directory");
    let on_other = |number: usize, node: HarborNodeBuilder| {
        if number == 1 { node.storage(other.path()) } else { node }
    };
    let site = Nodes::start_with(2, on_other).await;
    site.ask(IN_TEAM).await.ends_with(1).expect(&[("node1", "storage")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_with_another_http_secret_are_told_apart() {
    let site = Nodes::start_with(2, |number, node| node.http_secret(&format!("secret {number}"))).await;
    site.ask(IN_TEAM).await.ends_with(0).expect(&[("node1", "http_secret")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_copy_each_other_are_written_to_one_by_one() {
    let site = Nodes::start(2).await;
    let config = site.config.clone().storage("replicated");
    ask(&config, site.dir.path(), IN_TEAM).await.ends_with(0).expect(&[]);
    let manifests = site.nodes.iter().flat_map(crate::harness::harbor::HarborNode::requests);
    assert_eq!(manifests.filter(|request| request.target.contains("/manifests/")).count(), 0);
}

/// A registry that answers blobs with a redirect, and forbids deletion.
fn redirecting(request: &Recorded) -> Option<Reply> {
    static SESSIONS: AtomicUsize = AtomicUsize::new(0);
    let location = || {
        format!(
            "/v2/tidegate-doctor/probe/blobs/uploads/{}?_state=x",
            SESSIONS.fetch_add(1, Ordering::Relaxed)
        )
    };
    let to = "https://bucket.s3.example.com/blob?X-Amz-Signature=the-signature";
    Some(match (request.method.as_str(), request.target.as_str()) {
        ("POST" | "PATCH", _) => answer(202, &[("location", &location())], ""),
        ("PUT", _) => answer(201, &[], ""),
        ("GET", target) if target.contains("/blobs/sha256") => answer(307, &[("location", to)], ""),
        ("GET", target) if target.contains("/uploads/") => answer(204, &[], ""),
        ("GET", _) => answer(200, &[], "{}"),
        ("DELETE", target) if target.contains("/uploads/") => answer(204, &[], ""),
        _ => answer(405, &[], r#"{"errors":[{"code":"UNSUPPORTED"}]}"#),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_to_storage_and_remains_are_warnings() {
    let (one, other) = (FakeMember::start(redirecting).await, FakeMember::start(redirecting).await);
    let dir = temporary();
    let members =
        config(dir.path()).member_at("one", one.url(), "none").member_at("two", other.url(), "none");
    ask(&members, dir.path(), WRITE)
        .await
        .ends_with(0)
        .expect(&[("one", "storage_redirect"), ("one", "leftover"), ("two", "storage_redirect")])
        .says(&["a redirect to https://bucket.s3.example.com —", "storage.delete.enabled"])
        .hides(&["the-signature"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_fails_half_way_is_said_and_cleared_away() {
    let full = FakeMember::start(|request| match request.method.as_str() {
        "PUT" => Some(answer(500, &[], r#"{"errors":[{"code":"UNKNOWN"}]}"#)),
        _ => redirecting(request),
    })
    .await;
    let dir = temporary();
    let members = config(dir.path()).member_at("one", full.url(), "none");
    ask(&members, dir.path(), WRITE)
        .await
        .ends_with(1)
        .expect(&[("one", "probe_failed")])
        .says(&["the blob of a probe could not be finished: it answered 500 Internal Server Error UNKNOWN"]);
    let cancelled = full.requests().into_iter().filter(|request| request.method == "DELETE");
    // Each run: the upload that shows that there can be one, and the one that failed.
    assert_eq!(cancelled.count(), 4);
}
