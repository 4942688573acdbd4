//! Pushing by hand, as clients do it: a blob after the start of its upload, and an image of such blobs. The functions named `try_`
//! return what went wrong, the others panic with it.

use anyhow::Context as _;
use bytes::Bytes;

use super::Result;
use super::client::{Answer, TestClient};
use super::image::{Blob, Image};

const OCTETS: &str = "application/octet-stream";

/// The request that carries the bytes of a blob.
#[derive(Debug, Clone, Copy)]
enum Carrier {
    /// The PUT that ends the upload.
    Put,
    /// A PATCH before an empty PUT, as docker does it.
    Patch,
}

/// Starts an upload; the location of its session.
pub(crate) async fn start(client: &TestClient, repository: &str) -> String {
    sure(try_start(client, repository).await)
}

/// As [`start`], for callers that go on after a failure.
pub(crate) async fn try_start(client: &TestClient, repository: &str) -> Result<String> {
    session(&client.post(&format!("/v2/{repository}/blobs/uploads/"), "").await?.expect(202)?)
}

/// Path and query of the session's location, which registries send with their own address before it.
fn session(answer: &Answer) -> Result<String> {
    let location: http::Uri = answer.header("location").context("no Location")?.parse()?;
    Ok(location.path_and_query().context("a Location without a path")?.to_string())
}

/// Where the upload at `location` ends with this digest.
pub(crate) fn end_of(location: &str, digest: &str) -> String {
    format!("{location}&digest={digest}")
}

/// Ends the upload at `location` with the rest of its bytes.
pub(crate) async fn finish(
    client: &TestClient,
    location: &str,
    digest: &str,
    rest: impl Into<Bytes>,
) -> Answer {
    sure(try_finish(client, location, digest, rest).await)
}

/// As [`finish`], for callers that go on after a failure.
pub(crate) async fn try_finish(
    client: &TestClient,
    location: &str,
    digest: &str,
    rest: impl Into<Bytes>,
) -> Result<Answer> {
    client.put(&end_of(location, digest), OCTETS, rest).await?.expect(201)
}

/// Pushes a blob by POST and PUT; the path to read it from.
pub(crate) async fn blob(client: &TestClient, repository: &str, blob: &Blob) -> String {
    sure(try_blob(client, repository, blob).await)
}

/// As [`blob`], for callers that go on after a failure.
pub(crate) async fn try_blob(client: &TestClient, repository: &str, blob: &Blob) -> Result<String> {
    carried(client, repository, blob, Carrier::Put).await
}

/// As [`try_blob`], by POST, PATCH and PUT.
pub(crate) async fn try_blob_by_patch(client: &TestClient, repository: &str, blob: &Blob) -> Result<String> {
    carried(client, repository, blob, Carrier::Patch).await
}

async fn carried(client: &TestClient, repository: &str, blob: &Blob, carrier: Carrier) -> Result<String> {
    let location = try_start(client, repository).await?;
    match carrier {
        Carrier::Put => try_finish(client, &location, &blob.digest, blob.bytes.clone()).await?,
        Carrier::Patch => {
            let patched = client.patch(&location, blob.bytes.clone()).await?.expect(202)?;
            try_finish(client, &session(&patched)?, &blob.digest, "").await?
        }
    };
    Ok(format!("/v2/{repository}/blobs/{}", blob.digest))
}

/// Pushes the manifest of an image whose blobs are there.
pub(crate) async fn manifest(client: &TestClient, repository: &str, tag: &str, image: &Image) -> Answer {
    sure(try_manifest(client, repository, tag, image).await)
}

/// As [`manifest`], for callers that go on after a failure.
pub(crate) async fn try_manifest(
    client: &TestClient,
    repository: &str,
    tag: &str,
    image: &Image,
) -> Result<Answer> {
    let path = format!("/v2/{repository}/manifests/{tag}");
    client.put(&path, image.manifest_type(), image.manifest.bytes.clone()).await?.expect(201)
}

/// Pushes an image under a tag, each blob by POST and PUT.
pub(crate) async fn image(client: &TestClient, repository: &str, tag: &str, image: &Image) {
    sure(try_image(client, repository, tag, image).await);
}

/// As [`image`], for callers that go on after a failure.
pub(crate) async fn try_image(client: &TestClient, repository: &str, tag: &str, image: &Image) -> Result<()> {
    for each in image.blobs() {
        try_blob(client, repository, each).await?;
    }
    try_manifest(client, repository, tag, image).await.map(drop)
}

/// As [`image`], each blob by POST, PATCH and PUT.
pub(crate) async fn image_by_patch(client: &TestClient, repository: &str, tag: &str, image: &Image) {
    sure(try_image_by_patch(client, repository, tag, image).await);
}

/// As [`image_by_patch`], for callers that go on after a failure.
pub(crate) async fn try_image_by_patch(
    client: &TestClient,
    repository: &str,
    tag: &str,
    image: &Image,
) -> Result<()> {
    for each in image.blobs() {
        try_blob_by_patch(client, repository, each).await?;
    }
    try_manifest(client, repository, tag, image).await.map(drop)
}

fn sure<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{error:#}"))
}
