//! The command line: every subcommand, its exit code, and the words it says.

use std::process::Stdio;

use crate::harness::clients::COMMAND_LIMIT;
use crate::harness::gateway::{Gateway, tidegate};
use crate::harness::process::{self, Finished};
use crate::harness::registry::StockRegistry;
use crate::harness::site::{MemberKind, Site};

async fn run(arguments: &[&str]) -> Finished {
    process::finish(tidegate(arguments), COMMAND_LIMIT).await.expect("it runs")
}

/// Runs with `input` on standard input.
async fn run_with_input(arguments: &[&str], input: &str) -> Finished {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("input");
    std::fs::write(&file, input).expect("written");
    let mut command = tidegate(arguments);
    command.stdin(Stdio::from(std::fs::File::open(&file).expect("readable")));
    process::finish(command, COMMAND_LIMIT).await.expect("it runs")
}

#[tokio::test(flavor = "multi_thread")]
async fn help_names_every_subcommand_and_wrong_arguments_exit_with_2() {
    let help = run(&["--help"]).await;
    for word in [
        "serve",
        "check",
        "doctor",
        "drain",
        "undrain",
        "upgrade",
        "status",
        "keys",
        "hash-password",
        "policy",
        "revoke",
        "token",
    ] {
        assert!(help.stdout.contains(word), "{word}");
        assert!(run(&[word, "--help"]).await.status.success(), "{word} --help");
    }
    assert_eq!(run(&["nonsense"]).await.status.code(), Some(2));
    let missing = run(&["serve", "--config", "missing.yaml"]).await;
    assert_eq!(missing.status.code(), Some(2));
    assert!(missing.stderr.contains("missing.yaml"), "{}", missing.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn hashed_passwords_verify_and_unusable_ones_are_refused() {
    let hashed = run_with_input(&["hash-password", "--stdin", "--cost", "5"], "pass word\n").await;
    assert!(hashed.status.success());
    assert!(bcrypt::verify("pass word", hashed.stdout.trim()).expect("a hash"));
    for (input, word) in [("\n", "empty"), (&"x".repeat(73)[..], "72")] {
        let refused = run_with_input(&["hash-password", "--stdin"], input).await;
        assert_eq!(refused.status.code(), Some(2));
        assert!(refused.stderr.contains(word), "{}", refused.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_is_explained_by_its_deciding_rule() {
    let mut site = Site::start_with(&[MemberKind::Open], |config| {
        let config = config.rule("{ user: \"*\", repository: \"secret/**\", allow: [] }");
        config.rule("{ user: \"*\", repository: \"**\", allow: [pull, push] }")
    })
    .await;
    let file = site.dir().join("tidegate.yaml");
    let file = file.to_str().expect("a path");
    for (user, repository, action, code, words) in [
        ("alice", "a/b", "push", 0, "ALLOWED: users/alice push a/b"),
        ("users/alice", "secret/x", "pull", 1, "policy rule 1"),
        ("alice", "a/b", "delete", 1, "policy rule 2"),
        ("anonymous", "a/b", "pull", 1, "no rule matches"),
        ("alice", "a/b", "catalog", 1, "DENIED"),
        ("nobody", "a/b", "pull", 2, "no provider knows"),
        ("alice", "A/b", "pull", 2, "not a repository name"),
        ("alice", "a/b", "write", 2, "unknown action"),
    ] {
        let said = run(&["policy", "explain", user, repository, action, "--config", file]).await;
        assert_eq!(
            said.status.code(),
            Some(code),
            "{user} {repository} {action}: {}{}",
            said.stdout,
            said.stderr
        );
        assert!(format!("{}{}", said.stdout, said.stderr).contains(words), "{}{}", said.stdout, said.stderr);
    }
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_shown_and_checked_against_the_gateways_keys() {
    let mut site = Site::start(&[MemberKind::Open]).await;
    let scopes = ["repository:a/b:pull"];
    let token = site.client().token(&site.endpoint.user, &site.endpoint.password, &scopes).await;
    let file = site.dir().join("tidegate.yaml");
    let file = file.to_str().expect("a path");
    let valid = run(&["token", "inspect", &token, "--config", file]).await;
    assert_eq!(valid.status.code(), Some(0), "{}{}", valid.stdout, valid.stderr);
    assert!(
        valid.stdout.contains("VALID: users/alice") && valid.stdout.contains("\"a/b\""),
        "{}",
        valid.stdout
    );
    let forged = run_with_input(&["token", "inspect", "--config", file], &format!("{token}x")).await;
    assert_eq!(forged.status.code(), Some(1));
    assert!(forged.stdout.contains("REFUSED"), "{}", forged.stdout);
    assert_eq!(run(&["token", "inspect", "nonsense"]).await.status.code(), Some(2));
    site.stop_gateway().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_made_once_listed_and_never_made_where_replicas_would_differ() {
    let dir = tempfile::tempdir().expect("a directory");
    let keys = dir.path().join("keys");
    let keys = keys.to_str().expect("a path");
    assert_eq!(run(&["keys", "generate", "--dir", keys]).await.stdout.matches("made ").count(), 3);
    assert!(run(&["keys", "generate", "--dir", keys]).await.stdout.contains("already"));
    let rotated = run(&["keys", "rotate", "--dir", keys, "--only", "client", "--activate-after", "1h"]).await;
    assert!(rotated.status.success(), "{}", rotated.stderr);
    let listed = run(&["keys", "list", "--dir", keys]).await.stdout;
    assert_eq!((listed.matches("active").count(), listed.matches("pending").count()), (3, 1), "{listed}");
    assert!(run(&["keys", "export-bundle", "--dir", keys]).await.stdout.contains("BEGIN CERTIFICATE"));

    let mut site = Site::start(&[MemberKind::Open]).await;
    site.stop_gateway().await;
    let config = site.config.render().replace("tokens: { service", "tokens: { replicas: 2, service");
    let config =
        config.replace(&format!("{}/keys", site.dir().display()), &format!("{}/none", dir.path().display()));
    let file = dir.path().join("two-replicas.yaml");
    std::fs::write(&file, &config).expect("written");
    let checked = run(&["check", "--config", file.to_str().expect("a path")]).await;
    assert_eq!(checked.status.code(), Some(2), "check says what start would say");
    assert!(checked.stderr.contains("tidegate keys generate --config"), "{}", checked.stderr);
    let mut refused = Gateway::spawn(&config, site.dir());
    let status = refused.daemon().wait_exit().await;
    assert_eq!(status.code(), Some(1));
    assert!(refused.log_tail().contains("tidegate keys generate"), "{}", refused.log_tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn member_urls_alone_serve_nobody_and_say_how_to_let_the_first_user_in() {
    let member = StockRegistry::builder("member").start().await;
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let (data, url) = (data.to_str().expect("a path"), member.url());
    let any = "127.0.0.1:0";
    let arguments = ["serve", &url, "--data-dir", data, "--listen", any, "--admin-listen", any];
    let mut gateway = Gateway::spawn_with(&arguments, dir.path());
    let ready = |line: &serde_json::Value| line["message"] == "ready";
    gateway.wait_for_log("ready", ready).await;
    let words = |line: &serde_json::Value| {
        line["message"].as_str().is_some_and(|text| text.starts_with("all access is denied"))
    };
    let said = gateway.wait_for_log("how to add the first user", words).await;
    let said = said["message"].as_str().expect("text").to_owned();
    let certificate = dir.path().join("data/self-signed.crt");
    let client = gateway.client(&certificate).with_host("localhost");
    client.get("/v2/").await.is(401);
    client.clone().with_basic("admin", "admin").get("/v2/").await.is(401);
    gateway.admin().get("/readyz").await.is(200);
    gateway.stop().await;

    // What it said is a configuration that works, once the hash is in it.
    let written = std::fs::read_to_string(dir.path().join("data/first-user.yaml")).expect("written");
    assert!(said.ends_with(&written), "the log shows the file itself");
    let hash = bcrypt::hash("first", 4).expect("hashed");
    let config = written.replace("OUTPUT OF tidegate hash-password", &hash);
    let mut gateway = Gateway::start(&config, &dir.path().join("data")).await;
    let client = gateway.client(&certificate).with_host("localhost");
    let token = client.token("admin", "first", &["repository:a/b:pull"]).await;
    client.with_bearer(&token).get("/v2/a/b/tags/list").await.is(404);
    gateway.stop().await;
}
