//! What systemd passes and is told: sockets that it holds, and how the process stands.

use std::os::unix::net::UnixDatagram;

use crate::harness::gateway::{Gateway, ListenerKind};
use crate::harness::port::ReservedPort;
use crate::harness::site::{MemberKind, Site};
use crate::harness::{process, wait};

/// Listens at the addresses as systemd does, and becomes the gateway: the sockets are its descriptors from 3 on.
const ACTIVATE: &str = "
import os, socket, sys
count = int(sys.argv[1])
for at, address in enumerate(sys.argv[2:2 + count]):
    host, port = address.rsplit(':', 1)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, int(port)))
    listener.listen(64)
    os.dup2(listener.fileno(), 100 + at)
for at in range(count):
    os.dup2(100 + at, 3 + at, inheritable=True)
    os.close(100 + at)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(count))
os.execv(sys.argv[2 + count], sys.argv[2 + count:])
";

#[tokio::test(flavor = "multi_thread")]
async fn sockets_of_systemd_are_used_and_it_is_told_when_the_process_is_ready_and_ends() {
    let mut site = Site::start(&[MemberKind::Open]).await;
    site.stop_gateway().await;
    let told = site.dir().join("notify");
    let manager = UnixDatagram::bind(&told).expect("a socket");
    manager.set_nonblocking(true).expect("set");
    let message = async |what: &str| {
        wait::until(what, async || {
            let mut text = [0; 256];
            let length = manager.recv(&mut text).ok()?;
            Some(String::from_utf8_lossy(&text[..length]).into_owned())
        })
        .await
    };
    let config = site.dir().join("tidegate.yaml");
    let stray = ReservedPort::on_loopback();
    let addresses = [site.endpoint.authority.clone(), stray.address().to_string()];
    let mut command = process::command("python3");
    command.args(["-c", ACTIVATE, "2"]).args(&addresses).arg(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("serve").arg("--config").arg(&config).env("NOTIFY_SOCKET", &told);
    site.gateway = Gateway::adopt(command, site.dir());
    let ready = message("the word that it is ready").await;
    assert_eq!(ready, format!("READY=1\nMAINPID={}\n", site.gateway.pid()));
    let listening = |line: &serde_json::Value| line["message"] == "listening" && line["kind"] == "tls";
    let line = site.gateway.find_log(listening).expect("a listener");
    assert_eq!((&line["inherited"], line["address"].as_str()), (&true.into(), Some(&*addresses[0])));
    let unused = |line: &serde_json::Value| line["level"] == "ERROR" && line["address"] == *addresses[1];
    assert!(site.gateway.find_log(unused).is_some(), "a socket of no listener is an error");
    assert_eq!(site.gateway.address(ListenerKind::Tls).to_string(), addresses[0]);
    let client = site.authorized(&["repository:a/b:pull"]).await;
    for _ in 0..8 {
        client.get("/v2/a/b/tags/list").await.is(404);
    }
    // The next process is the one to watch, and the end of the one before is not that of the service.
    let upgraded = site.gateway.upgrade().await;
    assert!(upgraded.status.success(), "{}{}", upgraded.stdout, upgraded.stderr);
    let ready = message("the word of the new process").await;
    let status = site.gateway.status().await;
    assert_eq!(ready, format!("READY=1\nMAINPID={}\n", status["pid"]));
    site.gateway.stop_upgraded().await;
    assert_eq!(message("the word that it ends").await, "STOPPING=1\n");
}
