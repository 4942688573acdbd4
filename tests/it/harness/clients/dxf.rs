//! dxf (python-dxf), which works on single blobs and calls tags aliases. It stores no login: `dxf auth` prints a token, which the next
//! calls take from the environment.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, ensure};
use tempfile::TempDir;

use super::curl_h2::CurlH2;
use super::{COMMAND_LIMIT, Endpoint, Operation, RealClient};
use crate::harness::Result;
use crate::harness::image::{Image, digest_of};
use crate::harness::process;

/// dxf from the virtual environment that `tests/scripts/install.sh` makes.
#[derive(Debug)]
pub(crate) struct Dxf {
    endpoint: Endpoint,
    dir: TempDir,
}

impl Dxf {
    pub(crate) fn new(endpoint: &Endpoint) -> Self {
        let dir = TempDir::with_prefix("tidegate-dxf-").expect("a temporary directory");
        Self { endpoint: endpoint.clone(), dir }
    }

    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = process::command(tool("dxf")?.to_str().context("a readable path")?);
        command.env("DXF_HOST", &self.endpoint.authority).env("DXF_TLSVERIFY", &self.endpoint.ca_file);
        command.env("DXF_USERNAME", &self.endpoint.user).env("DXF_PASSWORD", &self.endpoint.password);
        command.args(arguments);
        Ok(command)
    }

    async fn run(&self, arguments: &[&str]) -> Result<String> {
        process::run(self.command(arguments)?, COMMAND_LIMIT).await
    }
}

/// A program of the virtual environment. Cargo's own directory for test files is `TARGET/tmp`.
fn tool(name: &str) -> Result<PathBuf> {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let tool = target.parent().context("the target directory")?.join("test-tools/venv/bin").join(name);
    ensure!(tool.exists(), "{} is missing: run tests/scripts/install.sh", tool.display());
    Ok(tool)
}

impl RealClient for Dxf {
    fn name(&self) -> &'static str {
        "dxf"
    }

    async fn version(&self) -> Result<String> {
        let mut command = process::command(tool("python")?.to_str().context("a readable path")?);
        command.args(["-c", "import importlib.metadata as m; print(m.version('python-dxf'))"]);
        Ok(process::run(command, COMMAND_LIMIT).await?.trim().to_owned())
    }

    fn scenario(&self, operation: Operation) -> &'static str {
        match operation {
            Operation::Login => "login: auth",
            Operation::Push => "push: push-blob for each layer, set-alias",
            Operation::Pull => "pull: get-alias, pull-blob for each layer",
            Operation::List => "list: list-aliases",
            Operation::Delete => "delete: del-alias",
            Operation::Logout => "logout: nothing is stored, a call without credentials is refused",
        }
    }

    async fn login(&mut self) -> Result<()> {
        self.run(&["auth", "tests/dxf-login", "pull", "push"]).await?;
        Ok(())
    }

    async fn push(&mut self, image: &Image, repository: &str, tag: &str) -> Result<()> {
        let file = self.dir.path().join("blob");
        let mut arguments = vec!["set-alias", repository, tag];
        for layer in &image.layers {
            std::fs::write(&file, &layer.bytes)?;
            let told =
                self.run(&["push-blob", repository, file.to_str().context("a readable path")?]).await?;
            ensure!(told.trim() == layer.digest, "dxf pushed {told}, not {}", layer.digest);
            arguments.push(&layer.digest);
        }
        self.run(&arguments).await?;
        Ok(())
    }

    async fn pull(&mut self, image: &Image, repository: &str, tag: &str) -> Result<()> {
        let listed = self.run(&["get-alias", repository, tag]).await?;
        let expected: Vec<_> = image.layers.iter().map(|layer| layer.digest.as_str()).collect();
        ensure!(listed.lines().collect::<Vec<_>>() == expected, "the alias names {listed}");
        let file = self.dir.path().join("pulled");
        for digest in expected {
            let mut command = self.command(&["pull-blob", repository, digest])?;
            // Blobs are not text, so they do not pass through `run`.
            command.stdout(std::fs::File::create(&file)?);
            process::run_to_files(command, COMMAND_LIMIT).await?.success()?;
            ensure!(digest_of(&std::fs::read(&file)?) == digest, "blob {digest} is damaged");
        }
        Ok(())
    }

    async fn list(&mut self, repository: &str) -> Result<Vec<String>> {
        Ok(self.run(&["list-aliases", repository]).await?.lines().map(str::to_owned).collect())
    }

    async fn delete(&mut self, repository: &str, tag: &str) -> Result<()> {
        self.run(&["del-alias", repository, tag]).await?;
        Ok(())
    }

    async fn logout(&mut self) -> Result<()> {
        CurlH2::new(&self.endpoint).ensure_refused().await
    }
}
