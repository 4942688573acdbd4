//! What clients of a registry do, without a client program: the pull of a whole image.

use http::Method;

use crate::harness::Result;
use crate::harness::client::TestClient;
use crate::harness::image::Image;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Pulls a whole image, and checks every byte of it.
pub(crate) async fn pull(client: &TestClient, repository: &str, tag: &str, image: &Image) -> Result<()> {
    let manifest = manifest(client, repository, tag).await?.ensure(200)?;
    anyhow::ensure!(manifest.body == image.manifest.bytes, "another manifest");
    for blob in image.blobs() {
        let got = client.try_get(&format!("/v2/{repository}/blobs/{}", blob.digest)).await?.ensure(200)?;
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
    client.try_send(request.header("accept", MANIFEST).empty()).await
}
