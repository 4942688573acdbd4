//! Faults of single Harbor nodes that reading shows.

use super::fixture::{Nodes, ask, config};
use crate::harbor::fixture::{CREDENTIAL_KINDS, CredentialKind};
use crate::harness::fake_member::{FakeMember, answer};
use crate::harness::harbor::{AuthMode, HarborVersion};
use crate::harness::registry::StockRegistry;

#[tokio::test(flavor = "multi_thread")]
async fn all_is_well_nothing_is_said_and_only_get_reaches_the_nodes() {
    let site = Nodes::start(2).await;
    for kind in CREDENTIAL_KINDS {
        let told = ask(&site.config_with(kind), site.dir.path(), &[]).await;
        told.ends_with(0).expect(&[]).says(&[
            "reachable, version, health, account, takes writes, external address, catalog account, credential, clock",
            "sessions, CSRF key",
            "2 member(s): 0 error(s), 0 warning(s)",
        ]);
        told.hides(&[&site.accounts.probe, site.accounts.database.admin_password(), "sid=", "Bearer ey"]);
    }
    assert!(site.methods().iter().all(|method| method == "GET"), "{:?}", site.methods());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_account_and_a_lost_database_are_told_apart() {
    let site = Nodes::start(2).await;
    site.nodes[0].set_database_gone(true);
    site.ask(&[])
        .await
        .ends_with(1)
        .expect(&[("node0", "database_down")])
        .says(&["the node has lost its database", "account not checked: the node has lost its database"]);
    site.nodes[0].set_database_gone(false);
    site.accounts.database.set_robot_secret("robot$probe", "another");
    site.ask(&[])
        .await
        .ends_with(1)
        .expect(&[("node0", "account_refused"), ("node1", "account_refused")])
        .says(&["the node is well, and refuses the name or password of `harbor.account` (\"robot$probe\")"])
        .hides(&[&site.accounts.probe, "another"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_one_independent_node_refuses_needs_one_of_its_own() {
    let own = crate::harness::harbor::HarborDatabase::new();
    let site =
        Nodes::start_with(2, |number, node| if number == 1 { node.database(&own) } else { node }).await;
    site.accounts.fill(&own);
    own.set_robot_secret("robot$probe", "the secret of this node");
    let config = site.config.clone().storage("replicated");
    ask(&config, site.dir.path(), &[])
        .await
        .ends_with(1)
        .expect(&[("node1", "account_refused")])
        .says(&["give this member an `account` of its own"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_account_of_the_catalog_is_looked_at_too() {
    let site = Nodes::start(1).await;
    let right = site.config.render();
    for (user, password, code) in [
        ("admin", "wrong".to_owned(), "catalog_account_refused"),
        ("alice", site.accounts.alice.clone(), "catalog_account_rights"),
    ] {
        let admin = format!("user: admin, password: \"{}\"", site.accounts.database.admin_password());
        let other = format!("user: {user}, password: \"{password}\"");
        assert!(right.contains(&admin), "{right}");
        let said = site.ask_text(&right.replace(&admin, &other)).await;
        assert!(said.contains(&format!("({code})")), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_of_a_directory_is_a_warning() {
    let site = Nodes::start(1).await;
    site.accounts.database.add_directory_user("prober", "password of prober");
    site.accounts.database.set_auth_mode(AuthMode::Ldap);
    site.ask(&[]).await.ends_with(0).expect(&[]);
    let text = site.config.render();
    let robot = format!("user: \"robot$probe\", password: \"{}\"", site.accounts.probe);
    assert!(text.contains(&robot), "{text}");
    let said = site.ask_text(&text.replace(&robot, "user: prober, password: \"password of prober\"")).await;
    assert!(said.contains("users are of LDAP") && said.contains("(account_in_directory)"), "{said}");
    assert!(said.contains("0 error(s), 1 warning(s)"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_not_the_nodes_is_named_beside_the_nodes_own() {
    let site = Nodes::start(2).await;
    // Both members with the key of the first.
    let key = CredentialKind::Token.yaml(&site.nodes[0]);
    let config = site.config_with(CredentialKind::Token).render();
    let said = site.ask_text(&config.replace(&CredentialKind::Token.yaml(&site.nodes[1]), &key)).await;
    let kid = async |node: &crate::harness::harbor::HarborNode| {
        let token = node.client().with_basic("robot$probe", &site.accounts.probe);
        let token = token.get("/service/token?service=harbor-registry").await;
        let token = token.token();
        let header = token.split('.').next().expect("a header").to_owned();
        let header = data_encoding::BASE64URL_NOPAD.decode(header.as_bytes()).expect("base64url");
        serde_json::from_slice::<serde_json::Value>(&header).expect("JSON")["kid"]
            .as_str()
            .expect("a kid")
            .to_owned()
    };
    let (one, two) = (kid(&site.nodes[0]).await, kid(&site.nodes[1]).await);
    let expected = format!("the node signs with key {two}, and `credential.token.key` is {one}");
    assert!(said.contains(&expected) && said.contains("private_key.pem"), "{said}");
    assert!(said.contains("1 error(s)"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_behind_ours_is_why_the_right_key_does_not_help() {
    let site = Nodes::start(2).await;
    site.nodes[1].set_clock_offset(-100);
    site.ask(&[])
        .await
        .ends_with(1)
        .expect(&[("node1", "token_refused"), ("node1", "clock")])
        .says(&["the key is right, and the clocks are apart", "s behind ours"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_names_another_address_is_a_warning() {
    for version in [HarborVersion::V2_9, HarborVersion::V2_14] {
        let site = Nodes::start_with(1, |_, node| {
            node.version(version).external_endpoint("http://harbor1.internal")
        })
        .await;
        site.ask(&[]).await.ends_with(0).expect(&[("node0", "external_address")]).says(&[
            "the node names itself http://harbor1.internal, and clients reach it by https://hub.example.com",
            "nothing for docker",
            "external_url: https://hub.example.com",
        ]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sick_components_and_read_only_mode_are_said_by_name() {
    let site = Nodes::start(1).await;
    site.nodes[0].set_jobservice_gone(true);
    site.ask(&[])
        .await
        .ends_with(0)
        .expect(&[("node0", "component_down")])
        .says(&["jobservice, registryctl"]);
    site.nodes[0].set_jobservice_gone(false);
    site.nodes[0].set_redis_gone(true);
    site.ask(&[]).await.ends_with(1).says(&["unhealthy: redis"]);
    site.nodes[0].set_redis_gone(false);
    site.accounts.database.set_read_only(true);
    site.ask(&[])
        .await
        .ends_with(1)
        .expect(&[("node0", "read_only")])
        .says(&["read-only mode", "403 DENIED"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn kinds_and_versions_that_are_not_what_is_configured_are_said() {
    let site = Nodes::start(1).await;
    let node = &site.nodes[0];
    let as_registry = config(site.dir.path()).member_at("node0", &node.url(), "none");
    ask(&as_registry, site.dir.path(), &[])
        .await
        .ends_with(1)
        .expect(&[("node0", "is_harbor")])
        .says(&["write `kind: harbor`"]);
    let registry = StockRegistry::builder("registry").start().await;
    let text = site.config.render().replace(&node.url(), &registry.url());
    let said = site.ask_text(&text).await;
    assert!(said.contains("(not_harbor)"), "{said}");
    let old = Nodes::start_with(1, |_, node| node.version(HarborVersion::V1_10)).await;
    old.ask(&[])
        .await
        .ends_with(1)
        .expect(&[("node0", "harbor_version")])
        .says(&["the node runs Harbor v1.10.19, and `harbor.version` is 2", "harbor: { version: 1 }"]);
    let right = old.config.render().replace("harbor: { account", "harbor: { version: 1, account");
    let said = old.ask_text(&right).await;
    assert!(said.contains("0 error(s), 0 warning(s)"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_says_cannot_steer_the_terminal() {
    let node = FakeMember::start(|request| {
        let challenge = "Bearer realm=\"https://h/service/token\",service=\"harbor-registry\"";
        Some(match request.target.as_str() {
            "/v2/" => answer(401, &[("www-authenticate", challenge)], ""),
            "/api/v2.0/systeminfo" => {
                answer(200, &[], r#"{"harbor_version":"v1.\u001b[31mred","auth_mode":"db_auth"}"#)
            }
            _ => answer(404, &[], ""),
        })
    })
    .await;
    let site = Nodes::start(1).await;
    let said = site.ask_text(&site.config.render().replace(&site.nodes[0].url(), node.url())).await;
    assert!(said.contains("(harbor_version)") && !said.contains('\u{1b}'), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_service_that_fails_is_said_where_it_is_needed() {
    let node = FakeMember::start(|request| {
        let challenge = "Bearer realm=\"https://hub.example.com/service/token\",service=\"harbor-registry\"";
        Some(match request.target.as_str() {
            "/v2/" if request.header("authorization").is_none() => {
                answer(401, &[("www-authenticate", challenge)], "")
            }
            "/v2/" | "/v2/_catalog?n=1" => answer(200, &[], "{}"),
            "/api/v2.0/health" => answer(200, &[], r#"{"components":[],"status":"healthy"}"#),
            "/api/v2.0/systeminfo" => answer(200, &[], r#"{"auth_mode":"db_auth","read_only":false}"#),
            _ => answer(500, &[], ""),
        })
    })
    .await;
    let site = Nodes::start(1).await;
    for (kind, code) in [(CredentialKind::Exchange, Some("(token_service)")), (CredentialKind::Relay, None)] {
        let config = site.config_with(kind).render().replace(&site.nodes[0].url(), node.url());
        let said = site.ask_text(&config).await;
        let errors = usize::from(code.is_some());
        assert!(said.contains(&format!("{errors} error(s), 0 warning(s)")), "{said}");
        assert!(code.is_none_or(|code| said.contains(code)), "{said}");
    }
}
