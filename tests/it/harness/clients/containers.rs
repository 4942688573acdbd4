//! podman and buildah: the same library below, two programs; neither can delete in a registry, and buildah cannot list.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, ensure};
use tempfile::TempDir;

use super::skopeo::Skopeo;
use super::{COMMAND_LIMIT, Endpoint, Operation, RealClient, ensure_forgotten};
use crate::harness::Result;
use crate::harness::image::Image;
use crate::harness::process;

/// podman with storage and logins of its own.
#[derive(Debug)]
pub(crate) struct Podman(Program);

/// buildah with storage and logins of its own.
#[derive(Debug)]
pub(crate) struct Buildah(Program);

#[derive(Debug)]
struct Program {
    name: &'static str,
    endpoint: Endpoint,
    auth_file: PathBuf,
    dir: TempDir,
}

impl Program {
    fn new(name: &'static str, endpoint: &Endpoint) -> Self {
        let dir = TempDir::with_prefix(format!("tidegate-{name}-")).expect("a temporary directory");
        let auth_file = dir.path().join("auth.json");
        Self { name, endpoint: endpoint.clone(), auth_file, dir }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = process::command(self.name);
        command.args(["--storage-driver", "vfs", "--root"]).arg(self.dir.path().join("root"));
        command.arg("--runroot").arg(self.dir.path().join("run"));
        if self.name == "podman" {
            command.arg("--tmpdir").arg(self.dir.path().join("tmp"));
            command.args(["--cgroup-manager", "cgroupfs", "--events-backend", "none"]);
        }
        // `podman search` has no option for it, and the Go library reads this.
        command.env("SSL_CERT_FILE", &self.endpoint.ca_file);
        command.args(arguments);
        command
    }

    fn remote_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(arguments);
        command.arg("--authfile").arg(&self.auth_file).arg("--cert-dir").arg(&self.endpoint.ca_dir);
        command
    }

    async fn version(&self) -> Result<String> {
        let mut command = process::command(self.name);
        command.arg("--version");
        let text = process::run(command, COMMAND_LIMIT).await?;
        Ok(text.split_whitespace().nth(2).context("no version")?.to_owned())
    }

    async fn login(&self) -> Result<()> {
        let mut command = self.remote_command(&["login"]);
        command.args(self.endpoint.login_arguments());
        process::run(command, COMMAND_LIMIT).await?;
        Ok(())
    }

    async fn push(&self, image: &Image, repository: &str, tag: &str) -> Result<()> {
        let reference = self.endpoint.reference(repository, tag);
        let archive = image.write_docker_archive(&self.dir.path().join("image.tar"), &reference);
        let source = format!("docker-archive:{}", archive.display());
        let id = process::run(self.command(&["pull", "--quiet", &source]), COMMAND_LIMIT).await?;
        ensure_image_id(&id, image)?;
        let mut command = self.remote_command(&["push", "--quiet"]);
        command.args([id.trim(), &format!("docker://{reference}")]);
        process::run(command, COMMAND_LIMIT).await?;
        process::run(self.command(&["rmi", "--force", id.trim()]), COMMAND_LIMIT).await?;
        Ok(())
    }

    async fn pull(&self, image: &Image, repository: &str, tag: &str) -> Result<()> {
        let mut command = self.remote_command(&["pull", "--quiet"]);
        command.arg(self.endpoint.reference(repository, tag));
        let id = process::run(command, COMMAND_LIMIT).await?;
        ensure_image_id(&id, image)
    }

    fn skopeo(&self) -> Skopeo {
        Skopeo::with_auth_file(&self.endpoint, &self.auth_file)
    }

    async fn logout(&self) -> Result<()> {
        let mut command = self.command(&["logout", "--authfile"]);
        command.arg(&self.auth_file).arg(&self.endpoint.authority);
        process::run(command, COMMAND_LIMIT).await?;
        ensure_forgotten(&self.auth_file, &self.endpoint.authority)
    }
}

/// An image's id is the digest of its configuration, which names the digest of every layer.
fn ensure_image_id(id: &str, image: &Image) -> Result<()> {
    ensure!(image.config.digest.ends_with(id.trim()) && !id.trim().is_empty(), "image {id} is another one");
    Ok(())
}

impl Podman {
    pub(crate) fn new(endpoint: &Endpoint) -> Self {
        Self(Program::new("podman", endpoint))
    }
}

impl RealClient for Podman {
    fn name(&self) -> &'static str {
        self.0.name
    }

    async fn version(&self) -> Result<String> {
        self.0.version().await
    }

    fn scenario(operation: Operation) -> &'static str {
        match operation {
            Operation::Login => "login",
            Operation::Push => "push",
            Operation::Pull => "pull",
            Operation::List => "list: search --list-tags",
            Operation::Delete => "delete: skopeo with podman's login (podman has no command for it)",
            Operation::Logout => "logout",
        }
    }

    async fn login(&mut self) -> Result<()> {
        self.0.login().await
    }

    async fn push(&mut self, image: &Image, repository: &str, tag: &str) -> Result<()> {
        self.0.push(image, repository, tag).await
    }

    async fn pull(&mut self, image: &Image, repository: &str, tag: &str) -> Result<()> {
        self.0.pull(image, repository, tag).await
    }

    async fn list(&mut self, repository: &str) -> Result<Vec<String>> {
        let mut command = self.0.command(&["search", "--list-tags", "--authfile"]);
        command.arg(&self.0.auth_file).arg(format!("{}/{repository}", self.0.endpoint.authority));
        let tags = process::run(command, COMMAND_LIMIT).await?;
        // A table with a line of titles; the tag is the second column.
        Ok(tags
            .lines()
            .skip(1)
            .filter_map(|line| line.split_whitespace().nth(1))
            .map(str::to_owned)
            .collect())
    }

    async fn delete(&mut self, repository: &str, tag: &str) -> Result<()> {
        self.0.skopeo().delete(repository, tag).await
    }

    async fn logout(&mut self) -> Result<()> {
        self.0.logout().await
    }
}

impl Buildah {
    pub(crate) fn new(endpoint: &Endpoint) -> Self {
        Self(Program::new("buildah", endpoint))
    }
}

impl RealClient for Buildah {
    fn name(&self) -> &'static str {
        self.0.name
    }

    async fn version(&self) -> Result<String> {
        self.0.version().await
    }

    fn scenario(operation: Operation) -> &'static str {
        match operation {
            Operation::Login => "login",
            Operation::Push => "push",
            Operation::Pull => "pull",
            Operation::List => "list: skopeo with buildah's login (buildah has no command for it)",
            Operation::Delete => "delete: skopeo with buildah's login (buildah has no command for it)",
            Operation::Logout => "logout",
        }
    }

    async fn login(&mut self) -> Result<()> {
        self.0.login().await
    }

    async fn push(&mut self, image: &Image, repository: &str, tag: &str) -> Result<()> {
        self.0.push(image, repository, tag).await
    }

    async fn pull(&mut self, image: &Image, repository: &str, tag: &str) -> Result<()> {
        self.0.pull(image, repository, tag).await
    }

    async fn list(&mut self, repository: &str) -> Result<Vec<String>> {
        self.0.skopeo().list(repository).await
    }

    async fn delete(&mut self, repository: &str, tag: &str) -> Result<()> {
        self.0.skopeo().delete(repository, tag).await
    }

    async fn logout(&mut self) -> Result<()> {
        self.0.logout().await
    }
}
