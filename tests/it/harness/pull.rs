//! Pulling by hand, as clients do it: a manifest, a whole image, and a download that the test reads when it wants to.

use anyhow::ensure;
use http::{Method, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::client::{Answer, Connection, TestClient, sure};
use super::image::Image;
use super::{Result, wait};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The answer to a GET of a manifest.
#[track_caller]
pub(crate) fn manifest(
    client: &TestClient,
    repository: &str,
    reference: &str,
) -> impl Future<Output = Answer> {
    sure(try_manifest(client, repository, reference))
}

/// As [`manifest`], for steps that return their error.
pub(crate) async fn try_manifest(client: &TestClient, repository: &str, reference: &str) -> Result<Answer> {
    let request = client.request(Method::GET, &format!("/v2/{repository}/manifests/{reference}"));
    client.try_send(request.header("accept", MANIFEST).empty()).await
}

/// Pulls a whole image, and checks every byte of it.
#[track_caller]
pub(crate) fn image(
    client: &TestClient,
    repository: &str,
    tag: &str,
    image: &Image,
) -> impl Future<Output = ()> {
    sure(try_image(client, repository, tag, image))
}

/// As [`image`], for callers that go on after a failure.
pub(crate) async fn try_image(client: &TestClient, repository: &str, tag: &str, image: &Image) -> Result<()> {
    let manifest = try_manifest(client, repository, tag).await?.ensure(200)?;
    ensure!(manifest.body == image.manifest.bytes, "another manifest: {manifest}");
    for blob in image.blobs() {
        let got = client.try_get(&format!("/v2/{repository}/blobs/{}", blob.digest)).await?.ensure(200)?;
        ensure!(got.body == blob.bytes, "another blob: {} bytes of {}", got.body.len(), got.request);
    }
    Ok(())
}

/// An answer whose head has come and whose body waits to be read; dropping it ends its connection.
#[derive(Debug)]
pub(crate) struct Download {
    pub(crate) response: Response<Incoming>,
    _connection: Connection,
}

impl Download {
    /// Asks on a connection of its own, and waits for the head of the answer.
    #[track_caller]
    pub(crate) fn begin(client: &TestClient, path: &str) -> impl Future<Output = Self> {
        sure(async move {
            let mut connection = client.try_connect().await?;
            let response = connection.try_send_head(client.request(Method::GET, path).empty()).await?;
            Ok(Self { response, _connection: connection })
        })
    }

    /// The bytes of the next piece; `None` after the last one.
    pub(crate) async fn next(&mut self) -> Option<usize> {
        let frame = wait::within("more of the download", self.response.frame()).await?;
        Some(frame.expect("the body does not break off").data_ref().expect("data").len())
    }

    /// Reads to the end; how many bytes that was.
    pub(crate) async fn rest(&mut self) -> usize {
        let mut bytes = 0;
        while let Some(piece) = self.next().await {
            bytes += piece;
        }
        bytes
    }
}
