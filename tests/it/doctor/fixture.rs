//! Runs the doctor on a configuration and reads what it says.

use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::harbor::fixture::{Accounts, CredentialKind, harbor_section};
use crate::harness::clients::COMMAND_LIMIT;
use crate::harness::config::ConfigBuilder;
use crate::harness::gateway::tidegate;
use crate::harness::harbor::{HarborNode, HarborNodeBuilder, HarborRedis};
use crate::harness::process;

/// What clients type in these tests.
pub(super) const EXTERNAL_URL: &str = "https://hub.example.com";

/// What the doctor has said of a configuration, once in words and once in JSON.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) text: String,
    pub(super) json: Value,
    pub(super) code: Option<i32>,
}

/// A configuration without members.
pub(super) fn config(dir: &Path) -> ConfigBuilder {
    ConfigBuilder::new(dir)
        .external_url(EXTERNAL_URL)
        .listener("{ address: \"127.0.0.1:0\", allow_plaintext_credentials: true }")
        .user("alice", "password of alice")
}

/// Asks the doctor, in words and in JSON, and insists that both say the same.
pub(super) async fn ask(config: &ConfigBuilder, dir: &Path, arguments: &[&str]) -> Told {
    let file = dir.join("doctor.yaml");
    std::fs::write(&file, config.render()).expect("a configuration file");
    let mut command = vec!["doctor", "--config", file.to_str().expect("a path")];
    command.extend(arguments);
    let words = process::finish(tidegate(&command), COMMAND_LIMIT).await.expect("it runs");
    command.push("--json");
    let json = process::finish(tidegate(&command), COMMAND_LIMIT).await.expect("it runs");
    let text = format!("{}{}", words.stdout, words.stderr);
    assert_eq!(words.status.code(), json.status.code(), "{text}{}{}", json.stdout, json.stderr);
    let json = serde_json::from_str(&json.stdout).unwrap_or_default();
    let told = Told { text, json, code: words.status.code() };
    for (_, code) in told.findings() {
        assert!(told.text.contains(&format!("({code})")), "{code} is only in the JSON\n{}", told.text);
    }
    told
}

impl Told {
    /// Member and code of every finding.
    pub(super) fn findings(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let members = self.json["members"].as_array().into_iter().flatten();
        let of = |member: &Value| {
            let findings = member["findings"].as_array().cloned().unwrap_or_default();
            findings
                .iter()
                .map(|finding| (text(&member["member"]), text(&finding["code"])))
                .collect::<Vec<_>>()
        };
        members.flat_map(of).collect()
    }

    /// Insists on exactly these findings, as `(member, code)`.
    pub(super) fn expect(&self, expected: &[(&str, &str)]) -> &Self {
        let found = self.findings();
        let found: Vec<_> = found.iter().map(|(member, code)| (member.as_str(), code.as_str())).collect();
        assert_eq!(found, expected, "{}", self.text);
        self
    }

    /// Insists on the code that the program ends with.
    pub(super) fn ends_with(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "{}", self.text);
        self
    }

    /// Insists on these words.
    pub(super) fn says(&self, words: &[&str]) -> &Self {
        for words in words {
            assert!(self.text.contains(words), "{words:?} is not in:\n{}", self.text);
        }
        self
    }

    /// Insists that nothing secret is shown.
    pub(super) fn hides(&self, secrets: &[&str]) -> &Self {
        for secret in secrets {
            assert!(!self.text.contains(secret) && !self.json.to_string().contains(secret), "{}", self.text);
        }
        self
    }
}

/// Harbor nodes of one pool, with accounts, and the configuration that names them.
#[derive(Debug)]
pub(super) struct Nodes {
    pub(super) nodes: Vec<HarborNode>,
    pub(super) accounts: Accounts,
    pub(super) config: ConfigBuilder,
    pub(super) dir: TempDir,
}

impl Nodes {
    /// Nodes that share everything but their keys, as they should.
    pub(super) async fn start(count: usize) -> Self {
        Self::start_with(count, |_, node| node).await
    }

    /// The same, each adjusted by its number.
    pub(super) async fn start_with(
        count: usize,
        adjust: impl Fn(usize, HarborNodeBuilder) -> HarborNodeBuilder,
    ) -> Self {
        let dir = TempDir::with_prefix("tidegate-doctor-").expect("a temporary directory");
        let (accounts, redis) = (Accounts::new(), HarborRedis::new());
        let mut nodes = Vec::new();
        for number in 0..count {
            let builder = HarborNode::builder(&format!("node{number}"))
                .database(&accounts.database)
                .redis(&redis)
                .csrf_key("the same on every node")
                .storage(&dir.path().join("storage"))
                .external_endpoint(EXTERNAL_URL);
            nodes.push(adjust(number, builder).start().await);
        }
        let config = config_of(dir.path(), &accounts, &nodes, CredentialKind::Token);
        Self { nodes, accounts, config, dir }
    }

    /// The same nodes with another kind of credential.
    pub(super) fn config_with(&self, kind: CredentialKind) -> ConfigBuilder {
        config_of(self.dir.path(), &self.accounts, &self.nodes, kind)
    }

    pub(super) async fn ask(&self, arguments: &[&str]) -> Told {
        ask(&self.config, self.dir.path(), arguments).await
    }

    /// What is said of a configuration as text.
    pub(super) async fn ask_text(&self, config: &str) -> String {
        let file = self.dir.path().join("changed.yaml");
        std::fs::write(&file, config).expect("a configuration file");
        let command = tidegate(&["doctor", "--config", file.to_str().expect("a path")]);
        let said = process::finish(command, COMMAND_LIMIT).await.expect("it runs");
        format!("{}{}", said.stdout, said.stderr)
    }

    /// Methods of every request that has reached a node.
    pub(super) fn methods(&self) -> Vec<String> {
        self.nodes.iter().flat_map(HarborNode::requests).map(|request| request.method).collect()
    }
}

fn config_of(dir: &Path, accounts: &Accounts, nodes: &[HarborNode], kind: CredentialKind) -> ConfigBuilder {
    let mut config = config(dir)
        .provider("{ harbor: { pool: main } }")
        .pool_key("kind: harbor")
        .pool_key(&harbor_section(accounts, ""));
    for node in nodes {
        config = config.member_at(node.name(), &node.url(), &kind.yaml(node));
    }
    config
}
