//! docker with a daemon of its own. The daemon runs in its own process and mount namespaces, so that it neither sees the machine's
//! `/etc/docker` nor leaves anything behind, and in its own network namespace where a test wants it to be another host.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Weak};

use anyhow::{Context, ensure};
use tempfile::TempDir;
use tokio::sync::Mutex;

use super::curl_h2::CurlH2;
use super::{COMMAND_LIMIT, Endpoint, Operation, RealClient, ensure_forgotten};
use crate::harness::Result;
use crate::harness::image::Image;
use crate::harness::process::{self, Daemon};

/// Puts the test's own `/etc/docker` and `/etc/hosts` in place, inside the daemon's mount namespace, before the daemon starts.
const ENTER: &str =
    r#"mount --bind "$1" /etc/docker && mount --bind "$2" /etc/hosts && shift 2 && exec "$@""#;

/// Where the daemon finds the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    /// The machine's, where docker takes any certificate from 127.0.0.0/8.
    Shared,
    /// One of its own, which the test has to connect.
    Own,
}

/// A running dockerd; stopped, and its files removed, on drop.
#[derive(Debug)]
pub(crate) struct Dockerd {
    daemon: Daemon,
    dir: TempDir,
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        self.daemon.kill_isolated();
    }
}

impl Dockerd {
    /// The daemon that tests share. It is started when the first of them wants it and stopped when the last one is done with it.
    pub(crate) async fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Dockerd>> = Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(running) = shared.upgrade() {
            return running;
        }
        let started = Arc::new(Self::start(Network::Shared, "").await);
        *shared = Arc::downgrade(&started);
        started
    }

    /// Starts a daemon whose `/etc/hosts` has the line `host` besides those of the machine.
    pub(crate) async fn start(network: Network, host: &str) -> Self {
        assert!(
            Path::new("/etc/docker").is_dir(),
            "no /etc/docker to mount over: run tests/scripts/install.sh"
        );
        let dir = TempDir::with_prefix("tidegate-dockerd-").expect("a temporary directory");
        std::fs::create_dir(dir.path().join("etc-docker")).expect("a directory");
        let known = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        std::fs::write(dir.path().join("hosts"), format!("{known}\n{host}\n")).expect("a hosts file");
        let mut command = process::isolated_command("sh", network == Network::Own);
        command.args(["-c", ENTER, "sh"]).arg(dir.path().join("etc-docker")).arg(dir.path().join("hosts"));
        command.args([
            "dockerd",
            "--bridge=none",
            "--iptables=false",
            "--ip6tables=false",
            "--storage-driver=vfs",
        ]);
        command
            .arg("--data-root")
            .arg(dir.path().join("data"))
            .arg("--exec-root")
            .arg(dir.path().join("exec"));
        command.arg("--pidfile").arg(dir.path().join("pid"));
        command.args(["--host", &socket_url(dir.path())]);
        let mut daemon = Daemon::start("dockerd", command, dir.path());
        let config = dir.path().join("probe");
        let answers = async || {
            let command = docker(dir.path(), &config, &["version"]);
            process::run(command, COMMAND_LIMIT).await.is_ok()
        };
        daemon.wait_ready(answers).await;
        Self { daemon, dir }
    }

    /// The process whose network namespace is the daemon's.
    pub(crate) fn namespace_pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// Lets the daemon trust the authorities of `ca_dir` for this host, as the documentation tells users to do.
    pub(crate) fn trust(&self, authority: &str, ca_file: &Path) {
        let dir = self.dir.path().join("etc-docker/certs.d").join(authority);
        std::fs::create_dir_all(&dir).expect("a directory");
        std::fs::copy(ca_file, dir.join("ca.crt")).expect("a copy of the authority");
    }
}

/// The command line that talks to the daemon whose files are in `dir`, with the logins in `config`.
fn docker(dir: &Path, config: &Path, arguments: &[&str]) -> Command {
    let mut command = process::command("docker");
    command.arg("--config").arg(config).args(["--host", &socket_url(dir)]).args(arguments);
    command.env_remove("DOCKER_CONTEXT").env_remove("DOCKER_HOST");
    command
}

fn socket_url(dir: &Path) -> String {
    format!("unix://{}", dir.join("docker.sock").display())
}

/// The docker command line with logins of its own.
#[derive(Debug)]
pub(crate) struct Docker {
    endpoint: Endpoint,
    dockerd: Arc<Dockerd>,
    config: PathBuf,
    dir: TempDir,
}

impl Docker {
    pub(crate) fn new(endpoint: &Endpoint, dockerd: &Arc<Dockerd>) -> Self {
        let dir = TempDir::with_prefix("tidegate-docker-").expect("a temporary directory");
        let config = dir.path().join("config");
        Self { endpoint: endpoint.clone(), dockerd: Arc::clone(dockerd), config, dir }
    }

    async fn run(&self, arguments: &[&str]) -> Result<String> {
        process::run(docker(self.dockerd.dir.path(), &self.config, arguments), COMMAND_LIMIT).await
    }
}

impl RealClient for Docker {
    fn name(&self) -> &'static str {
        "docker"
    }

    /// The versions of the command line and of the daemon, which does the work.
    async fn version(&self) -> Result<String> {
        let told = self
            .run(&["version", "--format", "{{.Client.Version}} with dockerd {{.Server.Version}}"])
            .await?;
        Ok(told.trim().to_owned())
    }

    fn scenario(&self, operation: Operation) -> &'static str {
        match operation {
            Operation::Login => "login",
            Operation::Push => "push",
            Operation::Pull => "pull",
            Operation::List => "list: curl (docker has no command for it)",
            Operation::Delete => "delete: curl (docker has no command for it)",
            Operation::Logout => "logout",
        }
    }

    async fn login(&mut self) -> Result<()> {
        let Endpoint { user, password, authority, .. } = &self.endpoint;
        self.run(&["login", "--username", user, "--password", password, authority]).await?;
        Ok(())
    }

    async fn push(&mut self, image: &Image, repository: &str, tag: &str) -> Result<()> {
        let reference = self.endpoint.reference(repository, tag);
        let archive = image.write_docker_archive(&self.dir.path().join("image.tar"), &reference);
        self.run(&["load", "--input", archive.to_str().context("a readable path")?]).await?;
        let told = self.run(&["push", &reference]).await?;
        ensure!(told.contains("digest: sha256:"), "no digest in {told}");
        self.run(&["rmi", "--force", &reference]).await?;
        Ok(())
    }

    async fn pull(&mut self, image: &Image, repository: &str, tag: &str) -> Result<()> {
        let reference = self.endpoint.reference(repository, tag);
        let told = self.run(&["pull", &reference]).await?;
        ensure!(told.contains("Downloaded newer image"), "nothing was pulled: {told}");
        // An image's id is the digest of its configuration, which names the digest of every layer.
        let id = self.run(&["image", "inspect", "--format", "{{.Id}}", &reference]).await?;
        ensure!(id.trim() == image.config.digest, "image {id} is another one");
        self.run(&["rmi", "--force", &reference]).await?;
        Ok(())
    }

    async fn list(&mut self, repository: &str) -> Result<Vec<String>> {
        CurlH2::new(&self.endpoint).tags(repository).await
    }

    async fn delete(&mut self, repository: &str, tag: &str) -> Result<()> {
        CurlH2::new(&self.endpoint).delete_tag(repository, tag).await
    }

    async fn logout(&mut self) -> Result<()> {
        self.run(&["logout", &self.endpoint.authority]).await?;
        ensure_forgotten(&self.config.join("config.json"), &self.endpoint.authority)
    }
}
