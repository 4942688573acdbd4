//! ctr with a containerd of its own. ctr has no login, list or delete; it takes the user and password with every call.

use std::path::Path;
use std::process::Command;

use anyhow::ensure;
use tempfile::TempDir;

use super::curl_h2::CurlH2;
use super::{COMMAND_LIMIT, Endpoint, Operation, RealClient, last_word};
use crate::harness::Result;
use crate::harness::image::Image;
use crate::harness::process::{self, Daemon};

/// A running containerd and the ctr that talks to it; stopped on drop.
#[derive(Debug)]
pub(crate) struct Ctr {
    endpoint: Endpoint,
    daemon: Daemon,
    dir: TempDir,
}

impl Drop for Ctr {
    fn drop(&mut self) {
        self.daemon.kill_isolated();
    }
}

impl Ctr {
    pub(crate) async fn start(endpoint: &Endpoint) -> Self {
        let dir = TempDir::with_prefix("tidegate-ctr-").expect("a temporary directory");
        std::fs::write(dir.path().join("containerd.toml"), containerd_config(dir.path()))
            .expect("a configuration file");
        write_hosts(dir.path(), endpoint);
        let mut command = process::isolated_command("containerd", false);
        command.arg("--config").arg(dir.path().join("containerd.toml"));
        let mut daemon = Daemon::start("containerd", command, dir.path());
        let answers = async || {
            let command = ctr(dir.path(), &["version"]);
            process::run(command, COMMAND_LIMIT).await.is_ok()
        };
        daemon.wait_ready(answers).await;
        Self { endpoint: endpoint.clone(), daemon, dir }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        ctr(self.dir.path(), arguments)
    }

    fn remote_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(arguments);
        command.args([
            "--user",
            &format!("{}:{}", self.endpoint.user, self.endpoint.password),
            "--hosts-dir",
        ]);
        command.arg(self.dir.path().join("hosts"));
        command
    }
}

/// The command line that talks to the daemon whose files are in `dir`.
fn ctr(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = process::command("ctr");
    command.arg("--address").arg(dir.join("containerd.sock"));
    command.args(["--namespace", "tests"]).args(arguments);
    command
}

/// Only the plugins that pushes and pulls need; the others look for devices and networks of the machine.
fn containerd_config(dir: &Path) -> String {
    let dir = dir.display();
    let snapshotters = ["aufs", "btrfs", "devmapper", "overlayfs", "zfs"];
    let disabled: String =
        snapshotters.iter().map(|name| format!("\"io.containerd.snapshotter.v1.{name}\", ")).collect();
    format!(
        "version = 2
root = \"{dir}/root\"
state = \"{dir}/state\"
disabled_plugins = [{disabled}\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]
[grpc]
address = \"{dir}/containerd.sock\"
[ttrpc]
address = \"{dir}/containerd.sock.ttrpc\"
"
    )
}

/// containerd's `certs.d`: a directory named for the host with what to trust there.
fn write_hosts(dir: &Path, endpoint: &Endpoint) {
    let hosts = dir.join("hosts").join(&endpoint.authority);
    std::fs::create_dir_all(&hosts).expect("a directory");
    let (authority, ca) = (&endpoint.authority, endpoint.ca_file.display());
    let text = format!("server = \"https://{authority}\"\n[host.\"https://{authority}\"]\nca = \"{ca}\"\n");
    std::fs::write(hosts.join("hosts.toml"), text).expect("a hosts file");
}

impl RealClient for Ctr {
    fn name(&self) -> &'static str {
        "ctr"
    }

    async fn version(&self) -> Result<String> {
        let mut command = process::command("ctr");
        command.arg("--version");
        Ok(last_word(&process::run(command, COMMAND_LIMIT).await?))
    }

    fn scenario(&self, operation: Operation) -> &'static str {
        match operation {
            Operation::Login => "login: curl (ctr has none, it takes --user with every call)",
            Operation::Push => "push: images push --user",
            Operation::Pull => "pull: images pull --user",
            Operation::List => "list: curl (ctr has no command for it)",
            Operation::Delete => "delete: curl (ctr has no command for it)",
            Operation::Logout => "logout: nothing is stored, a call without credentials is refused",
        }
    }

    async fn login(&mut self) -> Result<()> {
        CurlH2::new(&self.endpoint).login().await
    }

    async fn push(&mut self, image: &Image, repository: &str, tag: &str) -> Result<()> {
        let base = format!("{}/{repository}", self.endpoint.authority);
        let reference = self.endpoint.reference(repository, tag);
        let archive = image.write_oci_archive(&self.dir.path().join("image.tar"), tag);
        let mut command =
            self.command(&["images", "import", "--snapshotter", "native", "--base-name", &base]);
        command.arg(&archive);
        process::run(command, COMMAND_LIMIT).await?;
        let mut command = self.remote_command(&["images", "push"]);
        command.arg(&reference);
        process::run(command, COMMAND_LIMIT).await?;
        // Nothing may be left for the pull to find; `--sync` waits for the garbage collector.
        process::run(self.command(&["images", "rm", "--sync", &reference]), COMMAND_LIMIT).await?;
        let left = process::run(self.command(&["content", "ls", "--quiet"]), COMMAND_LIMIT).await?;
        ensure!(left.trim().is_empty(), "containerd still has {left}");
        Ok(())
    }

    async fn pull(&mut self, image: &Image, repository: &str, tag: &str) -> Result<()> {
        let mut command = self.remote_command(&["images", "pull", "--snapshotter", "native"]);
        command.arg(self.endpoint.reference(repository, tag));
        process::run(command, COMMAND_LIMIT).await?;
        let images = process::run(self.command(&["images", "ls"]), COMMAND_LIMIT).await?;
        ensure!(images.contains(&image.manifest.digest), "{} is not among {images}", image.manifest.digest);
        Ok(())
    }

    async fn list(&mut self, repository: &str) -> Result<Vec<String>> {
        CurlH2::new(&self.endpoint).tags(repository).await
    }

    async fn delete(&mut self, repository: &str, tag: &str) -> Result<()> {
        CurlH2::new(&self.endpoint).delete_tag(repository, tag).await
    }

    async fn logout(&mut self) -> Result<()> {
        CurlH2::new(&self.endpoint).ensure_refused().await
    }
}
