//! What clients of a registry do, without a client program: push and pull of whole images.

use http::Method;

use crate::harness::Result;
use crate::harness::client::{TestClient, whole};
use crate::harness::image::{Blob, Image};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Pushes an image: its blobs, then the manifest.
pub(crate) async fn push(client: &TestClient, repository: &str, tag: &str, image: &Image) -> Result<()> {
    for blob in image.blobs() {
        upload(client, repository, blob).await?;
    }
    let target = format!("/v2/{repository}/manifests/{tag}");
    client.put(&target, image.manifest_type(), image.manifest.bytes.clone()).await?.expect(201)?;
    Ok(())
}

/// Uploads one blob in the way of docker: POST, PATCH, PUT.
pub(crate) async fn upload(client: &TestClient, repository: &str, blob: &Blob) -> Result<()> {
    let location = start(client, repository).await?;
    let patched = client.patch(&location, blob.bytes.clone()).await?.expect(202)?;
    let location = patched.header("location").expect("a Location").to_owned();
    finish(client, &location, blob).await
}

/// Starts an upload; gives its URL.
pub(crate) async fn start(client: &TestClient, repository: &str) -> Result<String> {
    let start = client.post(&format!("/v2/{repository}/blobs/uploads/"), "").await?.expect(202)?;
    Ok(start.header("location").expect("a Location").to_owned())
}

pub(crate) async fn finish(client: &TestClient, location: &str, blob: &Blob) -> Result<()> {
    let target = format!("{location}&digest={}", blob.digest);
    client.put(&target, "application/octet-stream", "").await?.expect(201)?;
    Ok(())
}

/// Pulls a whole image, and checks every byte of it.
pub(crate) async fn pull(client: &TestClient, repository: &str, tag: &str, image: &Image) -> Result<()> {
    let manifest = manifest(client, repository, tag).await?.expect(200)?;
    anyhow::ensure!(manifest.body == image.manifest.bytes, "another manifest");
    for blob in image.blobs() {
        let got = client.get(&format!("/v2/{repository}/blobs/{}", blob.digest)).await?.expect(200)?;
        anyhow::ensure!(got.body == blob.bytes, "another blob");
    }
    Ok(())
}

pub(crate) async fn manifest(
    client: &TestClient,
    repository: &str,
    reference: &str,
) -> Result<crate::harness::client::Answer> {
    let request = client.request(Method::GET, &format!("/v2/{repository}/manifests/{reference}"));
    client.send(request.header("accept", MANIFEST).body(whole(""))?).await
}
