//! Pushing by hand, as clients do it: a blob in one piece after a start, and an image of such blobs.

use super::Result;
use super::client::TestClient;
use super::image::{Blob, Image};

/// Starts an upload; the place where it goes on.
pub(crate) async fn start(client: &TestClient, repository: &str) -> Result<String> {
    let started = client.post(&format!("/v2/{repository}/blobs/uploads/"), "").await?.expect(202)?;
    Ok(started.location())
}

/// Pushes a blob.
pub(crate) async fn blob(client: &TestClient, repository: &str, blob: &Blob) -> Result<()> {
    let target = format!("{}&digest={}", start(client, repository).await?, blob.digest);
    client.put(&target, "application/octet-stream", blob.bytes.clone()).await?.expect(201)?;
    Ok(())
}

/// Pushes an image under a tag.
pub(crate) async fn image(client: &TestClient, repository: &str, tag: &str, image: &Image) -> Result<()> {
    for each in image.blobs() {
        blob(client, repository, each).await?;
    }
    let path = format!("/v2/{repository}/manifests/{tag}");
    client.put(&path, image.manifest_type(), image.manifest.bytes.clone()).await?.expect(201)?;
    Ok(())
}
