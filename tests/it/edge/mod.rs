//! The edge towards clients: those that say nothing, read nothing, or read hardly anything, and what they may cost.

mod admin;
mod families;
mod memory;
mod silence;
mod slow_readers;

use crate::harness::client::TestClient;
use crate::harness::image::Blob;
use crate::harness::site::{MemberKind, Site};
use crate::harness::wait;

/// A gateway with one stock member, TLS, plain and redirect listeners, where anybody may pull, and these limits.
async fn site(extra: &str) -> Site {
    Site::start_with(&[MemberKind::Open], |config| {
        config
            .listener("{ address: \"127.0.0.1:0\", allow_plaintext_credentials: true }")
            .listener("{ address: \"127.0.0.1:0\", redirect: https }")
            .rule("{ user: \"*\", repository: \"**\", allow: [pull, push, delete] }")
            .rule("{ everybody: true, repository: \"public/**\", allow: [pull] }")
            .extra("workers: 1")
            .extra(extra)
    })
    .await
}

/// Pushes a blob to `public/x`, and returns where it is.
async fn push_blob(site: &Site, bytes: usize) -> String {
    let client = site.authorized(&["repository:public/x:pull,push"]).await;
    let blob = Blob::random(bytes);
    let started = client.post("/v2/public/x/blobs/uploads/", "").await.expect("sent");
    let started = started.expect(202).expect("accepted");
    let finish = format!("{}&digest={}", started.location(), blob.digest);
    let finished = client.put(&finish, "application/octet-stream", blob.bytes.clone()).await.expect("sent");
    finished.expect(201).expect("finished");
    format!("/v2/public/x/blobs/{}", blob.digest)
}

/// Waits until a good client, which may have to wait for a place, is served.
async fn is_served(client: &TestClient) {
    let answer = wait::within("a good client to be served", client.get("/v2/")).await;
    answer.expect("an answer").expect(401).expect("the challenge");
}
