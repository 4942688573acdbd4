//! skopeo: has a command for every operation.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::Value;
use tempfile::TempDir;

use super::{COMMAND_LIMIT, Endpoint, Operation, RealClient, ensure_forgotten, last_word};
use crate::harness::Result;
use crate::harness::image::{Image, digest_of};
use crate::harness::process;

/// skopeo with a login file of its own.
#[derive(Debug)]
pub(crate) struct Skopeo {
    endpoint: Endpoint,
    auth_file: PathBuf,
    transport: Transport,
    dir: TempDir,
}

/// What skopeo is told about the way to the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    /// Certificates count, and only those of the endpoint's authority.
    Tls,
    /// As `--tls-verify=false`, with which skopeo goes on over plain HTTP where nobody speaks TLS.
    Plain,
}

impl Skopeo {
    pub(crate) fn new(endpoint: &Endpoint) -> Self {
        let dir = TempDir::with_prefix("tidegate-skopeo-").expect("a temporary directory");
        let auth_file = dir.path().join("auth.json");
        Self { endpoint: endpoint.clone(), auth_file, transport: Transport::Tls, dir }
    }

    /// skopeo for a registry without TLS.
    pub(crate) fn plain(endpoint: &Endpoint) -> Self {
        Self { transport: Transport::Plain, ..Self::new(endpoint) }
    }

    /// skopeo with the logins that another client of its family made.
    pub(crate) fn with_auth_file(endpoint: &Endpoint, auth_file: &Path) -> Self {
        Self { auth_file: auth_file.to_owned(), ..Self::new(endpoint) }
    }

    /// `side` is what the options of the transport begin with: `dest-`, `src-`, or nothing where there is one side only.
    fn command(&self, subcommand: &str, side: &str) -> Command {
        let mut command = process::command("skopeo");
        command.args([subcommand, "--authfile"]).arg(&self.auth_file);
        match self.transport {
            Transport::Tls => command.arg(format!("--{side}cert-dir")).arg(&self.endpoint.ca_dir),
            Transport::Plain => command.arg(format!("--{side}tls-verify=false")),
        };
        command
    }

    fn remote(&self, repository: &str, tag: &str) -> String {
        format!("docker://{}", self.endpoint.reference(repository, tag))
    }
}

impl RealClient for Skopeo {
    fn name(&self) -> &'static str {
        "skopeo"
    }

    async fn version(&self) -> Result<String> {
        let mut command = process::command("skopeo");
        command.arg("--version");
        Ok(last_word(&process::run(command, COMMAND_LIMIT).await?))
    }

    fn scenario(&self, operation: Operation) -> &'static str {
        match operation {
            Operation::Login => "login",
            Operation::Push => "push: copy from an OCI layout",
            Operation::Pull => "pull: copy to a directory",
            Operation::List => "list: list-tags",
            Operation::Delete => "delete",
            Operation::Logout => "logout",
        }
    }

    async fn login(&mut self) -> Result<()> {
        let mut command = self.command("login", "");
        command.args(self.endpoint.login_arguments());
        process::run(command, COMMAND_LIMIT).await?;
        Ok(())
    }

    async fn push(&mut self, image: &Image, repository: &str, tag: &str) -> Result<()> {
        let layout = TempDir::new_in(self.dir.path())?;
        image.write_oci_layout(layout.path(), tag);
        let mut command = self.command("copy", "dest-");
        command.args(["--quiet", "--preserve-digests", &format!("oci:{}:{tag}", layout.path().display())]);
        command.arg(self.remote(repository, tag));
        process::run(command, COMMAND_LIMIT).await?;
        Ok(())
    }

    async fn pull(&mut self, image: &Image, repository: &str, tag: &str) -> Result<()> {
        let target = TempDir::new_in(self.dir.path())?;
        let mut command = self.command("copy", "src-");
        command.args(["--quiet", &self.remote(repository, tag), &format!("dir:{}", target.path().display())]);
        process::run(command, COMMAND_LIMIT).await?;
        let manifest = std::fs::read(target.path().join("manifest.json"))?;
        ensure!(digest_of(&manifest) == image.manifest.digest, "the manifest is another one");
        for blob in image.blobs() {
            let hex = blob.digest.strip_prefix("sha256:").context("a sha256 digest")?;
            ensure!(
                digest_of(&std::fs::read(target.path().join(hex))?) == blob.digest,
                "blob {hex} is damaged"
            );
        }
        Ok(())
    }

    async fn list(&mut self, repository: &str) -> Result<Vec<String>> {
        let mut command = self.command("list-tags", "");
        command.arg(format!("docker://{}/{repository}", self.endpoint.authority));
        let answer: Value = serde_json::from_str(&process::run(command, COMMAND_LIMIT).await?)?;
        Ok(serde_json::from_value(answer["Tags"].clone())?)
    }

    async fn delete(&mut self, repository: &str, tag: &str) -> Result<()> {
        let mut command = self.command("delete", "");
        command.arg(self.remote(repository, tag));
        process::run(command, COMMAND_LIMIT).await?;
        Ok(())
    }

    async fn logout(&mut self) -> Result<()> {
        let mut command = process::command("skopeo");
        command.args(["logout", "--authfile"]).arg(&self.auth_file).arg(&self.endpoint.authority);
        process::run(command, COMMAND_LIMIT).await?;
        ensure_forgotten(&self.auth_file, &self.endpoint.authority)
    }
}
