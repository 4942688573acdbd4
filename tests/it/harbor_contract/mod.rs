//! Holds the stand-in for Harbor nodes to what was recorded of real ones.

use crate::harness::harbor::{
    AuditEntry, AuthMode, Directory, DirectoryState, HarborDatabase, HarborNode, PlainRoundRobin, Role,
};
use crate::harness::random_secret;

#[tokio::test]
async fn smoke() {
    let database = HarborDatabase::new();
    let alice = random_secret();
    database.add_user("alice", &alice);
    database.add_project("team", false);
    database.grant("alice", "team", Role::Developer);
    let node = HarborNode::builder("a").database(&database).start().await;
    let answer = node.client().get("/v2/").await.expect("an answer");
    println!("{:?} {}", answer.headers, answer.text());
    assert_eq!(answer.status, 401);
    let answer = node.client().with_basic("alice", &alice).get("/v2/").await.expect("an answer");
    println!("{:?} {}", answer.headers, answer.text());
    assert_eq!(answer.status, 200);
    let answer = node
        .client()
        .with_basic("alice", &alice)
        .get("/service/token?service=harbor-registry&scope=repository:team/x:pull")
        .await
        .expect("an answer");
    println!("{:?} {}", answer.headers, answer.text());
    let token = answer.json().unwrap()["token"].as_str().unwrap().to_owned();
    let answer =
        node.client().with_bearer(&token).post("/v2/team/x/blobs/uploads/", "").await.expect("an answer");
    println!("{:?} {:?} {}", answer.status, answer.headers, answer.text());
    let _ = (
        AuthMode::Ldap,
        Directory::new(),
        DirectoryState::Up,
        PlainRoundRobin::reserve(),
        None::<AuditEntry>,
    );
}
