//! Faults of Harbor nodes that show when they are compared, still by reading alone.

use super::fixture::{Nodes, ask};
use crate::harness::harbor::{HarborRedis, HarborVersion};

#[tokio::test(flavor = "multi_thread")]
async fn other_csrf_keys_and_sessions_of_their_own_are_seen_without_writing() {
    let site = Nodes::start_with(3, |number, node| match number {
        1 => node.csrf_key("another"),
        2 => node.redis(&HarborRedis::new()),
        _ => node,
    })
    .await;
    site.ask(&[]).await.ends_with(0).expect(&[("node1", "csrf_key"), ("node2", "sessions")]).says(&[
        "another CSRF key than node0",
        "CSRF token invalid",
        "does not know the sessions of node0",
    ]);
    assert!(site.methods().iter().all(|method| method == "GET"), "{:?}", site.methods());
    // Nodes that copy each other have their own of both.
    ask(&site.config.clone().storage("replicated"), site.dir.path(), &[]).await.ends_with(0).expect(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_different_versions_are_a_warning() {
    let site = Nodes::start_with(2, |number, node| match number {
        1 => node.version(HarborVersion::V2_11),
        _ => node,
    })
    .await;
    site.ask(&[])
        .await
        .ends_with(0)
        .expect(&[("node0", "versions_differ")])
        .says(&["v2.11.2 on node1; v2.9.5 on node0"]);
}
