//! The edge towards clients: those that say nothing, read nothing, or read hardly anything, and what they may cost.

mod admin;
mod families;
mod memory;
mod silence;
mod slow_readers;

use crate::harness::client::TestClient;
use crate::harness::image::Blob;
use crate::harness::site::{MemberKind, Site};
use crate::harness::{push, wait};

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
    push::blob(&client, "public/x", &Blob::random(bytes)).await
}

/// Waits until a good client, which may have to wait for a place, is served.
async fn is_served(client: &TestClient) {
    wait::within("a good client to be served", client.get("/v2/")).await.is(401);
}
