//! The control socket: whose it is, and what becomes of one that is already there.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};

use crate::harness::config::without_control_socket;
use crate::harness::gateway::{Gateway, ListenerKind};
use crate::harness::site::{MemberKind, Site};

#[tokio::test(flavor = "multi_thread")]
async fn the_control_socket_is_its_users_alone_and_goes_with_the_process() {
    let mut site = Site::start(&[MemberKind::Open]).await;
    let socket = site.dir().join("control.sock");
    let file = std::fs::symlink_metadata(&socket).expect("beside the keys");
    assert!(file.file_type().is_socket());
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
    site.stop_gateway().await;
    assert!(!socket.exists(), "an ended gateway leaves no socket");
    let nobody = site.gateway.control(&["undrain", "member0"]).await;
    assert_eq!(nobody.status.code(), Some(1));
    assert!(nobody.stderr.contains("no gateway answers at"), "{}", nobody.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_processes_socket_is_replaced_and_a_live_ones_is_not() {
    let mut site = Site::start(&[MemberKind::Open]).await;
    // A second gateway with the same files: refused, and the first one keeps its socket.
    let other = tempfile::tempdir().expect("a directory");
    let listening = format!("address: \"{}\"", site.endpoint.authority);
    let config = site.config.render().replace(&listening, "address: \"127.0.0.1:0\"");
    let mut second = Gateway::spawn(&config, other.path());
    let status = second.daemon().wait_exit().await;
    assert_eq!(status.code(), Some(1));
    assert!(second.log_tail().contains("another running gateway answers"), "{}", second.log_tail());
    let answer = site.gateway.control(&["undrain", "member0"]).await;
    assert!(answer.status.success(), "{}", answer.stderr);
    // A power cut leaves the file behind.
    site.gateway.kill();
    assert!(site.dir().join("control.sock").exists());
    site.restart_gateway().await;
    let answer = site.gateway.control(&["undrain", "member0"]).await;
    assert!(answer.status.success(), "{}", answer.stderr);
    site.stop_gateway().await;
    // What is no socket is nobody's to remove.
    std::fs::write(site.dir().join("control.sock"), "precious").expect("written");
    let mut third = Gateway::spawn(&site.config.render(), site.dir());
    assert_eq!(third.daemon().wait_exit().await.code(), Some(1));
    assert!(third.log_tail().contains("is not a socket"), "{}", third.log_tail());
    assert_eq!(std::fs::read_to_string(site.dir().join("control.sock")).expect("there"), "precious");
    // Without a socket there is nobody to ask, which is said.
    let config = without_control_socket(&site.config.render());
    site.gateway = Gateway::start(&config, site.dir()).await;
    let nobody = site.gateway.control(&["undrain", "member0"]).await;
    assert!(nobody.stderr.contains("`admin.socket` is none"), "{}", nobody.stderr);
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_is_a_table_for_people_and_json_for_programs() {
    let mut site = Site::start(&[MemberKind::Open, MemberKind::Open]).await;
    assert!(site.gateway.control(&["drain", "member1"]).await.status.success());
    let table = site.gateway.control(&["status", "--once"]).await;
    assert!(table.status.success(), "{}", table.stderr);
    let state = |member: &str| {
        let row = table.stdout.lines().find(|line| line.trim_start().starts_with(member));
        row.and_then(|row| row.split_whitespace().nth(1)).unwrap_or_default().to_owned()
    };
    assert_eq!((&*state("member0"), &*state("member1")), ("healthy", "drained"), "{}", table.stdout);
    assert!(!table.stdout.contains('\u{1b}'), "no colours where nobody looks");
    let json = site.gateway.control(&["status", "--json"]).await;
    let status: serde_json::Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(status["pid"], site.gateway.pid());
    // The admin listener says the same.
    let address = site.gateway.address(ListenerKind::Admin).to_string();
    let read = site.gateway.control(&["status", "--json", "--admin", &address]).await;
    let read: serde_json::Value = serde_json::from_str(&read.stdout).expect("JSON");
    assert_eq!(read["pools"][0]["members"][1]["draining"], true, "{read}");
    site.stop_gateway().await;
    assert_eq!(site.gateway.control(&["status", "--once"]).await.status.code(), Some(1));
}
