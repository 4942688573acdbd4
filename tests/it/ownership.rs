//! A gateway that runs as a user of its own, and commands that root runs beside it: what they write is readable for it, what they say
//! is true, and a file that it cannot read holds up nothing else.

use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::clients::COMMAND_LIMIT;
use crate::harness::config::{without_control_socket, without_user};
use crate::harness::gateway::{Gateway, replace_file, tidegate};
use crate::harness::process::{self, Finished};
use crate::harness::registry::StockRegistry;
use crate::harness::site::{MemberKind, Site};
use crate::harness::wait;

/// The user and group of the gateway; nobody on this machine has them.
const SERVICE: u32 = 47_110;

/// A path and everything below it.
fn everything(path: &Path) -> Vec<PathBuf> {
    let mut all = vec![path.to_owned()];
    if path.is_dir() {
        let entries = std::fs::read_dir(path).expect("a directory");
        all.extend(entries.flat_map(|entry| everything(&entry.expect("an entry").path())));
    }
    all
}

fn give(path: &Path, owner: u32) {
    for path in everything(path) {
        chown(&path, Some(owner), Some(owner)).expect("these tests run as root");
    }
}

/// Nothing below `path` belongs to anybody but the gateway's user.
#[track_caller]
fn assert_all_is_the_services(path: &Path) {
    for path in everything(path) {
        let metadata = std::fs::symlink_metadata(&path).expect("there");
        assert_eq!((metadata.uid(), metadata.gid()), (SERVICE, SERVICE), "{}", path.display());
    }
}

/// Starts the gateway of a site anew as a user of its own, to whom all its files belong.
async fn run_as_service(site: &mut Site, config: &str) {
    site.stop_gateway().await;
    std::fs::write(site.dir().join("tidegate.yaml"), config).expect("written");
    // Where this build is may be closed to others.
    let program = site.dir().join("tidegate");
    std::fs::copy(env!("CARGO_BIN_EXE_tidegate"), &program).expect("copied");
    for directory in ["keys", "seal"] {
        give(&site.dir().join(directory), SERVICE);
    }
    for entry in std::fs::read_dir(site.dir()).expect("a directory").flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            chown(entry.path(), Some(SERVICE), Some(SERVICE)).expect("these tests run as root");
        }
    }
    chown(site.dir(), Some(SERVICE), Some(SERVICE)).expect("these tests run as root");
    let mut command = process::command("setpriv");
    command.args(["--pdeathsig", "KILL", "--clear-groups"]);
    command.args([format!("--reuid={SERVICE}"), format!("--regid={SERVICE}")]);
    command.arg(program).arg("serve").arg("--config").arg(site.dir().join("tidegate.yaml"));
    site.gateway = Gateway::adopt(command, site.dir());
    site.gateway.wait_for_log("ready", |line| line["message"] == "ready").await;
}

/// A command that root runs with the configuration of the site.
async fn by_root(site: &Site, arguments: &[&str]) -> Finished {
    let mut command = tidegate(arguments);
    command.arg("--config").arg(site.dir().join("tidegate.yaml"));
    process::finish(command, COMMAND_LIMIT).await.expect("it runs")
}

fn refuses(section: &str) -> impl Fn(&Value) -> bool {
    move |line| {
        line["section"] == section
            && line["message"].as_str().is_some_and(|text| text.starts_with("reload refused"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_root_writes_is_the_gateways_and_a_revocation_is_in_force_when_the_command_says_so() {
    let mut site = Site::start_with(&[MemberKind::Open], |config| config.extra("reload_interval: 1h")).await;
    let config = site.config.render();
    run_as_service(&mut site, &config).await;
    let alice = site.authorized(&["repository:a/b:pull"]).await;
    // Allowed, and not there.
    alice.get("/v2/a/b/tags/list").await.is(404);
    let rotated = by_root(&site, &["keys", "rotate"]).await.success().expect("rotated");
    assert_eq!(rotated.stderr, "", "no file that the gateway may not read");
    let revoked = by_root(&site, &["revoke", "users/alice"]).await.success().expect("revoked");
    assert!(revoked.stdout.contains("the running gateway refuses"), "{}", revoked.stdout);
    alice.get("/v2/a/b/tags/list").await.is(401);
    for directory in ["keys", "seal"] {
        assert_all_is_the_services(&site.dir().join(directory));
    }
    assert_eq!(site.gateway.reload().await["message"], "reloaded");
    let listed = by_root(&site, &["keys", "list"]).await.success().expect("listed");
    assert_eq!(listed.stdout.matches("pending").count(), 3, "{}", listed.stdout);
    site.stop_gateway().await;
    // Without a gateway the command says when the revocation counts.
    let later = by_root(&site, &["revoke", "users/alice"]).await.success().expect("revoked");
    assert!(later.stdout.contains("no gateway runs at"), "{}", later.stdout);
    // Where nobody can be asked, nothing is promised.
    let silent = without_control_socket(&config);
    std::fs::write(site.dir().join("tidegate.yaml"), silent).expect("written");
    let unknown = by_root(&site, &["revoke", "users/alice"]).await;
    assert_eq!(unknown.status.code(), Some(1));
    assert!(unknown.stderr.contains("NOT known to be in force"), "{}", unknown.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_file_holds_up_its_own_section_alone_and_is_tried_again() {
    let mut site = Site::start_with(&[MemberKind::Open], |config| {
        config.user("bob", "bobs password").extra("reload_interval: 200ms")
    })
    .await;
    let config = site.config.render();
    run_as_service(&mut site, &config).await;
    let alice = site.authorized(&["repository:a/b:pull"]).await;
    let bob = site.client().token("bob", "bobs password", &["repository:a/b:pull"]).await;
    let bob = site.client().with_bearer(&bob);
    bob.get("/v2/a/b/tags/list").await.is(404);
    // A key that root has put there, and a directory in which root's files stay root's.
    let keys = site.dir().join("keys");
    let foreign = keys.join("client-9999999999-00000000.json");
    std::fs::copy(everything(&keys).iter().find(|path| path.is_file()).expect("a key"), &foreign)
        .expect("copied");
    chown(&foreign, Some(0), Some(0)).expect("given");
    let line = site.gateway.wait_for_log("the refusal of the keys", refuses("keys")).await;
    assert!(line["error"].as_str().is_some_and(|text| text.contains("client-9999999999")), "{line}");
    chown(&keys, Some(0), Some(0)).expect("given");
    std::fs::set_permissions(&keys, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    // A removed user and a changed policy do not wait for it.
    let without_bob = without_user(&config, "bob");
    replace_file(&site.dir().join("tidegate.yaml"), &without_bob);
    wait::until("bob to be refused", async || {
        (bob.get("/v2/a/b/tags/list").await.status == 401).then_some(())
    })
    .await;
    // The command does not say that a revocation is in force which the gateway cannot read.
    let revoked = by_root(&site, &["revoke", "users/alice"]).await;
    assert_eq!(revoked.status.code(), Some(1), "{}{}", revoked.stdout, revoked.stderr);
    assert!(revoked.stderr.contains("NOT known to be in force"), "{}", revoked.stderr);
    assert!(
        revoked.stderr.contains("revocations: ") && revoked.stderr.contains("keys: "),
        "{}",
        revoked.stderr
    );
    // What was in force stays.
    alice.get("/v2/a/b/tags/list").await.is(404);
    let status = site.gateway.status().await;
    assert_eq!(status["reload_refused"], serde_json::json!(["keys", "revocations"]), "{status}");
    assert!(
        !status.to_string().contains("client-9999999999"),
        "names of files are not for everybody: {status}"
    );
    let table = site.gateway.control(&["status", "--once"]).await.success().expect("answered");
    assert!(table.stdout.contains("reload refused: revocations"), "{}", table.stdout);
    // What was refused is tried again: no file's time changes here.
    give(&keys, SERVICE);
    wait::until("the revocation to be in force", async || {
        (alice.get("/v2/a/b/tags/list").await.status == 401).then_some(())
    })
    .await;
    wait::until("nothing to be refused", async || {
        let status = site.gateway.status().await;
        (status["reload_refused"] == serde_json::json!([])).then_some(())
    })
    .await;
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_start_by_root_leaves_behind_belongs_to_the_owner_of_the_directory() {
    let member = StockRegistry::builder("member").start().await;
    let dir = tempfile::tempdir().expect("a directory");
    let home = dir.path().join("home");
    std::fs::create_dir(&home).expect("made");
    chown(&home, Some(SERVICE), Some(SERVICE)).expect("these tests run as root");
    let data = home.join("data");
    let (path, url, any) = (data.to_str().expect("a path"), member.url(), "127.0.0.1:0");
    let arguments = ["serve", &url, "--data-dir", path, "--listen", any, "--admin-listen", any];
    let mut gateway = Gateway::spawn_with(&arguments, dir.path());
    gateway.wait_for_log("ready", |line| line["message"] == "ready").await;
    gateway.stop().await;
    assert!(data.join("first-user.yaml").exists() && data.join("self-signed.key").exists());
    assert_all_is_the_services(&data);
}
