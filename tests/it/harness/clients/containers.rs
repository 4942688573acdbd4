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

/// podman or buildah with storage and logins of its own.
#[derive(Debug)]
pub(crate) struct Containers {
    program: Program,
    endpoint: Endpoint,
    auth_file: PathBuf,
    dir: TempDir,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Program {
    Podman,
    Buildah,
}

impl Containers {
    pub(crate) fn podman(endpoint: &Endpoint) -> Self {
        Self::new(Program::Podman, endpoint)
    }

    pub(crate) fn buildah(endpoint: &Endpoint) -> Self {
        Self::new(Program::Buildah, endpoint)
    }

    fn new(program: Program, endpoint: &Endpoint) -> Self {
        let dir = TempDir::with_prefix("tidegate-containers-").expect("a temporary directory");
        let auth_file = dir.path().join("auth.json");
        Self { program, endpoint: endpoint.clone(), auth_file, dir }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = process::command(self.name());
        command.args(["--storage-driver", "vfs", "--root"]).arg(self.dir.path().join("root"));
        command.arg("--runroot").arg(self.dir.path().join("run"));
        if self.program == Program::Podman {
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

    fn skopeo(&self) -> Skopeo {
        Skopeo::with_auth_file(&self.endpoint, &self.auth_file)
    }
}

/// An image's id is the digest of its configuration, which names the digest of every layer.
fn ensure_image_id(id: &str, image: &Image) -> Result<()> {
    ensure!(image.config.digest.ends_with(id.trim()) && !id.trim().is_empty(), "image {id} is another one");
    Ok(())
}

impl RealClient for Containers {
    fn name(&self) -> &'static str {
        match self.program {
            Program::Podman => "podman",
            Program::Buildah => "buildah",
        }
    }

    fn scenario(&self, operation: Operation) -> &'static str {
        match (operation, self.program) {
            (Operation::Login, _) => "login",
            (Operation::Push, _) => "push",
            (Operation::Pull, _) => "pull",
            (Operation::List, Program::Podman) => "list: search --list-tags",
            (Operation::List, Program::Buildah) => {
                "list: skopeo with buildah's login (buildah has no command for it)"
            }
            (Operation::Delete, Program::Podman) => {
                "delete: skopeo with podman's login (podman has no command for it)"
            }
            (Operation::Delete, Program::Buildah) => {
                "delete: skopeo with buildah's login (buildah has no command for it)"
            }
            (Operation::Logout, _) => "logout",
        }
    }

    async fn version(&self) -> Result<String> {
        let mut command = process::command(self.name());
        command.arg("--version");
        let text = process::run(command, COMMAND_LIMIT).await?;
        Ok(text.split_whitespace().nth(2).context("no version")?.to_owned())
    }

    async fn login(&mut self) -> Result<()> {
        let mut command = self.remote_command(&["login"]);
        command.args(self.endpoint.login_arguments());
        process::run(command, COMMAND_LIMIT).await?;
        Ok(())
    }

    async fn push(&mut self, image: &Image, repository: &str, tag: &str) -> Result<()> {
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

    async fn pull(&mut self, image: &Image, repository: &str, tag: &str) -> Result<()> {
        let mut command = self.remote_command(&["pull", "--quiet"]);
        command.arg(self.endpoint.reference(repository, tag));
        let id = process::run(command, COMMAND_LIMIT).await?;
        ensure_image_id(&id, image)
    }

    async fn logout(&mut self) -> Result<()> {
        let mut command = self.command(&["logout", "--authfile"]);
        command.arg(&self.auth_file).arg(&self.endpoint.authority);
        process::run(command, COMMAND_LIMIT).await?;
        ensure_forgotten(&self.auth_file, &self.endpoint.authority)
    }

    async fn list(&mut self, repository: &str) -> Result<Vec<String>> {
        if self.program == Program::Buildah {
            return self.skopeo().list(repository).await;
        }
        let mut command = self.command(&["search", "--list-tags", "--authfile"]);
        command.arg(&self.auth_file).arg(format!("{}/{repository}", self.endpoint.authority));
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
        self.skopeo().delete(repository, tag).await
    }
}
