//! The real clients, one file each, and the one sequence of operations that every one of them goes through.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::Result;
use super::image::Image;

pub(crate) mod containers;
pub(crate) mod ctr;
pub(crate) mod curl_h2;
pub(crate) mod docker;
pub(crate) mod dxf;
pub(crate) mod skopeo;

/// The longest any one command of a client may take.
pub(crate) const COMMAND_LIMIT: Duration = Duration::from_secs(120);

/// A registry as a user knows it: a name, an authority to trust, a login.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    /// Host and port, as it stands in an image reference.
    pub(crate) authority: String,
    /// The file with the certificate of the authority to trust.
    pub(crate) ca_file: PathBuf,
    /// The directory that holds that file alone.
    pub(crate) ca_dir: PathBuf,
    pub(crate) user: String,
    pub(crate) password: String,
}

impl Endpoint {
    pub(crate) fn reference(&self, repository: &str, tag: &str) -> String {
        format!("{}/{repository}:{tag}", self.authority)
    }

    /// The arguments of `login` that podman, buildah and skopeo have in common.
    pub(crate) fn login_arguments(&self) -> [&str; 5] {
        ["--username", &self.user, "--password", &self.password, &self.authority]
    }
}

/// The operations every client goes through, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Login,
    Push,
    Pull,
    List,
    Delete,
    Logout,
}

pub(crate) const OPERATIONS: [Operation; 6] = [
    Operation::Login,
    Operation::Push,
    Operation::Pull,
    Operation::List,
    Operation::Delete,
    Operation::Logout,
];

/// What ran: which client in which version did what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) client: &'static str,
    pub(crate) version: String,
    pub(crate) scenario: &'static str,
}

/// A client as the suite drives it. Where the program has no command for an operation, the operation is done by its nearest real
/// means, and its scenario says so.
pub(crate) trait RealClient {
    fn name(&self) -> &'static str;

    async fn version(&self) -> Result<String>;

    /// The line of the report for this operation.
    fn scenario(&self, operation: Operation) -> &'static str;

    async fn login(&mut self) -> Result<()>;

    async fn push(&mut self, image: &Image, repository: &str, tag: &str) -> Result<()>;

    /// Pulls what [`Self::push`] pushed, with nothing of it left on the client's side, and checks that it is the same.
    async fn pull(&mut self, image: &Image, repository: &str, tag: &str) -> Result<()>;

    async fn list(&mut self, repository: &str) -> Result<Vec<String>>;

    async fn delete(&mut self, repository: &str, tag: &str) -> Result<()>;

    /// Forgets the login, and checks that it is gone.
    async fn logout(&mut self) -> Result<()>;
}

/// Takes `client` through all operations with a new image of several layers and tells what ran.
pub(crate) async fn exercise<C: RealClient>(client: &mut C, repository: &str) -> Result<Vec<Ran>> {
    let image = Image::random(&[3_000_000, 400_000, 700]);
    let version = client.version().await?;
    ensure!(version.contains(|c: char| c.is_ascii_digit()), "no version: {version:?}");
    let mut ran = Vec::new();
    for operation in OPERATIONS {
        let step = perform(client, operation, &image, repository).await;
        let scenario = client.scenario(operation);
        step.with_context(|| format!("{} {version}: {scenario}", client.name()))?;
        ran.push(Ran { client: client.name(), version: version.clone(), scenario });
    }
    Ok(ran)
}

async fn perform<C: RealClient>(
    client: &mut C,
    operation: Operation,
    image: &Image,
    repository: &str,
) -> Result<()> {
    match operation {
        Operation::Login => client.login().await,
        Operation::Push => client.push(image, repository, "v1").await,
        Operation::Pull => client.pull(image, repository, "v1").await,
        Operation::List => {
            let tags = client.list(repository).await?;
            ensure!(tags == ["v1"], "tags of {repository}: {tags:?}");
            Ok(())
        }
        Operation::Delete => client.delete(repository, "v1").await,
        Operation::Logout => client.logout().await,
    }
}

/// The last word of the first line, which is where most programs have their version.
fn last_word(text: &str) -> String {
    text.lines().next().and_then(|line| line.split_whitespace().last()).unwrap_or_default().to_owned()
}

/// Fails when a file where a client keeps its logins still holds one for `authority`.
fn ensure_forgotten(auth_file: &std::path::Path, authority: &str) -> Result<()> {
    let stored = std::fs::read_to_string(auth_file).unwrap_or_default();
    ensure!(!stored.contains(authority), "{} still holds a login for {authority}", auth_file.display());
    Ok(())
}
