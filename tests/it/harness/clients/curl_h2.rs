//! curl over HTTP/2: the protocol by hand, with an upload in several chunks. Other clients without a command for an operation borrow
//! it from here.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::Value;
use tempfile::TempDir;

use super::{COMMAND_LIMIT, Endpoint, Operation, RealClient};
use crate::harness::Result;
use crate::harness::client::{basic, challenge_parameter};
use crate::harness::image::{Blob, Image, digest_of};
use crate::harness::process;

const CHUNK_COUNT: usize = 3;

/// curl; what it is allowed to do is asked for per repository, with the user's name and password.
#[derive(Debug)]
pub(crate) struct CurlH2 {
    endpoint: Endpoint,
    authorization: Option<String>,
    dir: TempDir,
}

struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: PathBuf,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn bytes(&self) -> Result<Vec<u8>> {
        Ok(std::fs::read(&self.body)?)
    }

    fn json(&self) -> Result<Value> {
        Ok(serde_json::from_slice(&self.bytes()?)?)
    }

    fn expect(self, status: u16) -> Result<Self> {
        let body = String::from_utf8_lossy(&self.bytes()?).into_owned();
        ensure!(self.status == status, "wanted {status}, got {} {:?} {body}", self.status, self.headers);
        Ok(self)
    }
}

impl CurlH2 {
    pub(crate) fn new(endpoint: &Endpoint) -> Self {
        let dir = TempDir::with_prefix("tidegate-curl-").expect("a temporary directory");
        Self { endpoint: endpoint.clone(), authorization: None, dir }
    }

    /// Does what the challenge of `/v2/` asks for: a token for `scope` from the realm, or Basic on every call.
    pub(crate) async fn authorize(&mut self, scope: Option<&str>) -> Result<()> {
        self.authorization = None;
        let challenge = self.call("GET", "/v2/", &[]).await?.expect(401)?;
        let challenge = challenge.header("www-authenticate").context("a 401 without a challenge")?.to_owned();
        let password = basic(&self.endpoint.user, &self.endpoint.password);
        if !challenge.starts_with("Bearer ") {
            self.authorization = Some(password);
            return Ok(());
        }
        let realm = challenge_parameter(&challenge, "realm").context("no realm")?;
        let service = challenge_parameter(&challenge, "service").context("no service")?;
        let mut arguments =
            vec!["--get".to_owned(), "--header".to_owned(), format!("Authorization: {password}")];
        arguments.extend(["--data-urlencode".to_owned(), format!("service={service}")]);
        if let Some(scope) = scope {
            arguments.extend(["--data-urlencode".to_owned(), format!("scope={scope}")]);
        }
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let answer = self.call("GET", &realm, &arguments).await?.expect(200)?.json()?;
        let token = answer["token"].as_str().context("no token in the answer")?;
        self.authorization = Some(format!("Bearer {token}"));
        Ok(())
    }

    /// The tags of a repository, with a new token.
    pub(crate) async fn tags(&mut self, repository: &str) -> Result<Vec<String>> {
        self.authorize(Some(&format!("repository:{repository}:pull"))).await?;
        let answer =
            self.call("GET", &format!("/v2/{repository}/tags/list"), &[]).await?.expect(200)?.json()?;
        Ok(serde_json::from_value(answer["tags"].clone())?)
    }

    /// Deletes the manifest behind a tag, with a new token.
    pub(crate) async fn delete_tag(&mut self, repository: &str, tag: &str) -> Result<()> {
        self.authorize(Some(&format!("repository:{repository}:pull,delete"))).await?;
        let accept = "Accept: application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";
        let target = format!("/v2/{repository}/manifests/{tag}");
        let head = self.call("HEAD", &target, &["--head", "--header", accept]).await?.expect(200)?;
        let digest = head.header("docker-content-digest").context("no digest")?.to_owned();
        self.call("DELETE", &format!("/v2/{repository}/manifests/{digest}"), &[]).await?.expect(202)?;
        self.call("HEAD", &target, &["--head", "--header", accept]).await?.expect(404)?;
        Ok(())
    }

    /// A call without any credential has to be refused.
    pub(crate) async fn ensure_refused(&mut self) -> Result<()> {
        self.authorization = None;
        let refused = self.call("GET", "/v2/", &[]).await?.expect(401)?;
        ensure!(refused.header("www-authenticate").is_some(), "a 401 without a challenge");
        Ok(())
    }

    /// One call; `target` is a path or a whole URL. It fails unless the answer came over HTTP/2.
    async fn call(&self, method: &str, target: &str, arguments: &[&str]) -> Result<Reply> {
        let url = if target.starts_with('/') {
            format!("https://{}{target}", self.endpoint.authority)
        } else {
            target.to_owned()
        };
        let (head, body) = (self.dir.path().join("head"), self.dir.path().join("body"));
        // curl makes no file for an answer without a body, and the last call's must not be taken for it.
        std::fs::write(&body, "")?;
        let mut command = self.curl();
        command
            .args(["--request", method, "--write-out", "%{http_version} %{http_code}", "--dump-header"])
            .arg(&head);
        command.arg("--output").arg(&body).args(arguments);
        if let Some(value) = &self.authorization {
            command.args(["--header", &format!("Authorization: {value}")]);
        }
        command.arg(&url);
        let told = process::run(command, COMMAND_LIMIT).await?;
        let (version, status) = told.split_once(' ').context("curl tells version and status")?;
        ensure!(version == "2", "{method} {url} was answered over HTTP/{version}");
        let head = std::fs::read_to_string(&head)?;
        let headers = head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.into(), value.into()));
        Ok(Reply { status: status.parse()?, headers: headers.collect(), body })
    }

    fn curl(&self) -> Command {
        let mut command = process::command("curl");
        command.args(["--disable", "--http2", "--silent", "--show-error", "--noproxy", "*", "--cacert"]);
        command.arg(&self.endpoint.ca_file);
        command
    }

    async fn upload_in_chunks(&self, repository: &str, blob: &Blob) -> Result<()> {
        let uploads = format!("/v2/{repository}/blobs/uploads/");
        let started = self.call("POST", &uploads, &["--data", ""]).await?.expect(202)?;
        let mut location = started.header("location").context("no location")?.to_owned();
        let chunk_file = self.dir.path().join("chunk");
        let mut sent = 0;
        for chunk in blob.bytes.chunks(blob.bytes.len().div_ceil(CHUNK_COUNT)) {
            std::fs::write(&chunk_file, chunk)?;
            let last = sent + chunk.len() - 1;
            let range = format!("Content-Range: {sent}-{last}");
            let data = format!("@{}", chunk_file.display());
            let octets = "Content-Type: application/octet-stream";
            let arguments = ["--header", &range, "--header", octets, "--data-binary", &data];
            let accepted = self.call("PATCH", &location, &arguments).await?.expect(202)?;
            ensure!(
                accepted.header("range") == Some(&format!("0-{last}")),
                "range is {:?}",
                accepted.header("range")
            );
            accepted.header("location").context("no location")?.clone_into(&mut location);
            sent += chunk.len();
        }
        let separator = if location.contains('?') { '&' } else { '?' };
        let target = format!("{location}{separator}digest={}", blob.digest);
        let stored = self.call("PUT", &target, &["--data", ""]).await?.expect(201)?;
        ensure!(stored.header("docker-content-digest") == Some(&blob.digest), "another digest was stored");
        Ok(())
    }
}

impl RealClient for CurlH2 {
    fn name(&self) -> &'static str {
        "curl-h2"
    }

    async fn version(&self) -> Result<String> {
        let mut command = process::command("curl");
        command.arg("--version");
        let text = process::run(command, COMMAND_LIMIT).await?;
        Ok(text.split_whitespace().nth(1).context("no version")?.to_owned())
    }

    fn scenario(&self, operation: Operation) -> &'static str {
        match operation {
            Operation::Login => "login: a token without scope, and /v2/ with it",
            Operation::Push => "push: every blob in three PATCHes",
            Operation::Pull => "pull: manifest and blobs by GET",
            Operation::List => "list: GET tags/list",
            Operation::Delete => "delete: DELETE by digest",
            Operation::Logout => "logout: nothing is stored, a call without credentials is refused",
        }
    }

    async fn login(&mut self) -> Result<()> {
        self.authorize(None).await?;
        self.call("GET", "/v2/", &[]).await?.expect(200)?;
        Ok(())
    }

    async fn push(&mut self, image: &Image, repository: &str, tag: &str) -> Result<()> {
        self.authorize(Some(&format!("repository:{repository}:pull,push"))).await?;
        for blob in image.blobs() {
            self.upload_in_chunks(repository, blob).await?;
        }
        let file = self.dir.path().join("manifest");
        std::fs::write(&file, &image.manifest.bytes)?;
        let content_type = format!("Content-Type: {}", image.manifest_type());
        let data = format!("@{}", file.display());
        let target = format!("/v2/{repository}/manifests/{tag}");
        self.call("PUT", &target, &["--header", &content_type, "--data-binary", &data]).await?.expect(201)?;
        Ok(())
    }

    async fn pull(&mut self, image: &Image, repository: &str, tag: &str) -> Result<()> {
        self.authorize(Some(&format!("repository:{repository}:pull"))).await?;
        let accept = format!("Accept: {}", image.manifest_type());
        let manifest = self
            .call("GET", &format!("/v2/{repository}/manifests/{tag}"), &["--header", &accept])
            .await?
            .expect(200)?;
        ensure!(digest_of(&manifest.bytes()?) == image.manifest.digest, "the manifest is another one");
        for blob in image.blobs() {
            let answer = self
                .call("GET", &format!("/v2/{repository}/blobs/{}", blob.digest), &[])
                .await?
                .expect(200)?;
            ensure!(digest_of(&answer.bytes()?) == blob.digest, "blob {} is damaged", blob.digest);
        }
        Ok(())
    }

    async fn list(&mut self, repository: &str) -> Result<Vec<String>> {
        self.tags(repository).await
    }

    async fn delete(&mut self, repository: &str, tag: &str) -> Result<()> {
        self.delete_tag(repository, tag).await
    }

    async fn logout(&mut self) -> Result<()> {
        self.ensure_refused().await
    }
}
