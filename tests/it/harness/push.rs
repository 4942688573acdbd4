//! Pushing by hand, as clients do it: a blob after the start of its upload, and an image of such blobs. The functions named `try_`
//! return what went wrong, the others panic with it.

use anyhow::Context as _;
use bytes::Bytes;

use super::Result;
use super::client::{Answer, TestClient, sure};
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
#[track_caller]
pub(crate) fn start(client: &TestClient, repository: &str) -> impl Future<Output = String> {
    sure(try_start(client, repository))
}

/// As [`start`], for callers that go on after a failure.
pub(crate) async fn try_start(client: &TestClient, repository: &str) -> Result<String> {
    session(&client.try_post(&format!("/v2/{repository}/blobs/uploads/"), "").await?.ensure(202)?)
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
#[track_caller]
pub(crate) fn finish(
    client: &TestClient,
    location: &str,
    digest: &str,
    rest: impl Into<Bytes>,
) -> impl Future<Output = Answer> {
    sure(try_finish(client, location, digest, rest))
}

/// As [`finish`], for callers that go on after a failure.
pub(crate) async fn try_finish(
    client: &TestClient,
    location: &str,
    digest: &str,
    rest: impl Into<Bytes>,
) -> Result<Answer> {
    client.try_put(&end_of(location, digest), OCTETS, rest).await?.ensure(201)
}

/// Pushes a blob by POST and PUT; the path to read it from.
#[track_caller]
pub(crate) fn blob(client: &TestClient, repository: &str, blob: &Blob) -> impl Future<Output = String> {
    sure(try_blob(client, repository, blob))
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
            let patched = client.try_patch(&location, blob.bytes.clone()).await?.ensure(202)?;
            try_finish(client, &session(&patched)?, &blob.digest, "").await?
        }
    };
    Ok(format!("/v2/{repository}/blobs/{}", blob.digest))
}

/// Pushes the manifest of an image whose blobs are there.
#[track_caller]
pub(crate) fn manifest(
    client: &TestClient,
    repository: &str,
    tag: &str,
    image: &Image,
) -> impl Future<Output = Answer> {
    sure(try_manifest(client, repository, tag, image))
}

/// As [`manifest`], for callers that go on after a failure.
pub(crate) async fn try_manifest(
    client: &TestClient,
    repository: &str,
    tag: &str,
    image: &Image,
) -> Result<Answer> {
    let path = format!("/v2/{repository}/manifests/{tag}");
    client.try_put(&path, image.manifest_type(), image.manifest.bytes.clone()).await?.ensure(201)
}

/// Pushes an image under a tag, each blob by POST and PUT.
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
    for each in image.blobs() {
        try_blob(client, repository, each).await?;
    }
    try_manifest(client, repository, tag, image).await.map(drop)
}

/// As [`image`], each blob by POST, PATCH and PUT.
#[track_caller]
pub(crate) fn image_by_patch(
    client: &TestClient,
    repository: &str,
    tag: &str,
    image: &Image,
) -> impl Future<Output = ()> {
    sure(try_image_by_patch(client, repository, tag, image))
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
