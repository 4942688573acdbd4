//! Broken configurations and what is said about them; the shipped examples; documents against the keys of `file.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

use super::document::{Node, Value};
use super::{Config, ConfigErrors, Document, Loaded, from_member_urls, load};
use crate::auth::keys::{Algorithm, SigningKey};
use crate::registry::RepositoryName;
use crate::server::ListenerKind;
use crate::upstream::CredentialSettings;

const BCRYPT: &str = "$2y$04$abcdefghijklmnopqrstuuIGt0pSvhDFFbRzDFTdnxyfX8CXc1gJe";

const MINIMAL: &str = "\
external_url: https://hub.example.com
listeners:
  - { address: \"127.0.0.1:0\" }
pools:
  - name: main
    members:
      - { name: a, url: \"http://10.0.0.1:5000\" }
";

/// A directory with the files that configurations name.
static RSA_KEY: LazyLock<String> =
    LazyLock::new(|| SigningKey::generate_pem(Algorithm::Rs256).expect("a key"));

fn directory() -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir_all(at("tls")).expect("a directory");
    std::fs::create_dir_all(at("secrets")).expect("a directory");
    for name in ["tls/hub", "tls/other", "tls/client", "tls/ca", "secrets/node2"] {
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new(vec!["hub.example.com".to_owned()])
            .expect("parameters")
            .self_signed(&key)
            .expect("a certificate");
        std::fs::write(at(&format!("{name}.crt")), certificate.pem()).expect("a file");
        std::fs::write(at(&format!("{name}.key")), key.serialize_pem()).expect("a file");
    }
    std::fs::write(at("secrets/ci.hash"), format!("{BCRYPT}\n")).expect("a file");
    std::fs::write(at("secrets/node1.password"), "s3cret\n").expect("a file");
    std::fs::write(at("secrets/harbor1.pem"), &*RSA_KEY).expect("a file");
    std::fs::write(at("secrets/robot.password"), "s3cret\n").expect("a file");
    std::fs::write(at("secrets/empty"), "\n").expect("a file");
    std::fs::write(at("htpasswd"), format!("# people\nalice:{BCRYPT}\n")).expect("a file");
    std::fs::write(at("old-htpasswd"), format!("alice:{BCRYPT}\nbob:$apr1$x$y\ncarol:{{SHA}}xyz\n"))
        .expect("a file");
    dir
}

fn load_text(dir: &Path, text: &str) -> Result<Loaded, ConfigErrors> {
    let path = dir.join("tidegate.yaml");
    std::fs::write(&path, text).expect("a file");
    load(&path)
}

fn good(dir: &Path, text: &str) -> Config {
    load_text(dir, text).unwrap_or_else(|errors| panic!("{errors}")).config
}

/// containerd gives up after 30 s without an answer, and a read has to have tried another member by then.
#[test]
fn without_a_word_members_have_less_time_than_clients() {
    let config = good(directory().path(), MINIMAL);
    let limits = &config.pools[0].limits;
    assert!(limits.head_timeout < Duration::from_secs(29), "{limits:?}");
    assert!(limits.first_byte_timeout * 2 < limits.head_timeout, "{limits:?}");
}

/// The minimal configuration with a text replaced or, where it does not occur, appended.
fn broken(find: &str, replacement: &str) -> String {
    if find.is_empty() { format!("{MINIMAL}{replacement}\n") } else { MINIMAL.replace(find, replacement) }
}

/// Change to [`MINIMAL`], line, key, what the message says.
type Case = (&'static str, &'static str, usize, &'static str, &'static [&'static str]);

const ADDRESS: &str = "{ address: \"127.0.0.1:0\" }";
const URL: &str = "url: \"http://10.0.0.1:5000\"";

#[rustfmt::skip]
const SHAPE: &[Case] = &[
    ("external_url", "extrenal_url", 1, "extrenal_url", &["unknown key", "write instead: external_url", "1 | extrenal_url: ***"]),
    ("external_url: https://hub.example.com", "hosts: []", 1, "external_url", &["is missing", "add `external_url: https://hub.example.com`"]),
    ("", "limits: { headers_max: 50 }", 8, "limits.headers_max", &["unknown key", "help: remove it; this is always 100 now"]),
    ("", "verify: { quarantine_entries_max: 5 }", 8, "verify.quarantine_entries_max", &["unknown key", "this is always 10000 now"]),
    ("", "workers: many", 8, "workers", &["\"many\" is not a whole number", "write instead: a number"]),
    ("", "workers: 99999999999", 8, "workers", &["too large", "write instead: a smaller number"]),
    ("", "limits: { keep_alive: 75 }", 8, "limits.keep_alive", &["\"75\" has no unit", "write instead: 75s"]),
    ("", "limits: { keep_alive: 8785h }", 8, "limits.keep_alive", &["longer than a year", "write instead: 8760h"]),
    ("", "limits: { keep_alive: 99999999999999999999h }", 8, "limits.keep_alive", &["longer than a year", "write instead: 8760h"]),
    ("", "limits: { keep_alive: soon }", 8, "limits.keep_alive", &["is not a duration", "write instead: 30s"]),
    ("", "limits: { header_bytes_max: big }", 8, "limits.header_bytes_max", &["is not a size", "64KiB"]),
    ("", "limits: { keep_alive: 5s, keep_alive: 6s }", 8, "limits.keep_alive", &["second time", "line 8", "remove one"]),
    ("", "log: { access_log: yes }", 8, "log.access_log", &["neither true nor false", "write instead: true"]),
    ("", "log: { format: jsn }", 8, "log.format", &["unknown word `jsn`", "write instead: json"]),
    ("", "identity: htpasswd", 8, "identity", &["where a list belongs", "write instead: [htpasswd]"]),
    ("", "identity:\n  - htpaswd: x", 9, "identity[0]", &["unknown word `htpaswd`", "write instead: htpasswd"]),
    ("", "policy:\n  - { user: \"*\", allow: [pull] }", 9, "policy[0].repository", &["is missing", "add `repository: \"**\"`"]),
    ("- { name: a, ", "- { ", 7, "pools[0].members[0].name", &["is missing", "add `name: node1`"]),
    ("", "a: b: c", 8, "", &["not valid YAML", "help: put quotes"]),
    ("", "hosts: [a", 8, "", &["not valid YAML", "help: close every"]),
    ("", "---\nlog: {}", 9, "", &["a second YAML document", "help: keep one document"]),
];

#[rustfmt::skip]
const MEANING: &[Case] = &[
    ("https://hub.example.com", "hub.example.com", 1, "external_url", &["has no scheme", "write instead: \"http://hub.example.com\" (or https://)"]),
    ("https://hub.example.com", "https://hub.example.com/v2/", 1, "external_url", &["has a path", "write instead: \"https://hub.example.com\""]),
    ("https://hub.example.com", "ftp://hub.example.com", 1, "external_url", &["unknown scheme", "http://hub.example.com"]),
    ("", "hosts: [\"https://b\"]", 8, "hosts[0]", &["not a host name", "write instead: b"]),
    (ADDRESS, "{ address: \":443\" }", 3, "listeners[0].address", &["not an IP address with a port", "0.0.0.0:443"]),
    (ADDRESS, "{ address: \"127.0.0.1:0\", redirect: https }", 3, "listeners[0].redirect", &["no TLS listener", "help: add a listener"]),
    ("  - { address: \"127.0.0.1:0\" }", "  - { address: \"1.2.3.4:1\" }\n  - { address: \"1.2.3.4:1\" }", 4, "listeners[1].address",
     &["already the address", "write instead: another port"]),
    (ADDRESS, "{ address: \"127.0.0.1:0\", tls: { certificates: [{ cert: tls/hub.crt, key: tls/other.key }] } }", 3, "listeners[0].tls.certificates[0].key",
     &["does not belong", "help: name the key"]),
    (ADDRESS, "{ address: \"127.0.0.1:0\", tls: { certificates: [{ cert: tls/hub.key, key: tls/hub.key }] } }", 3, "listeners[0].tls.certificates[0].cert",
     &["holds a private key", "changed places"]),
    (ADDRESS, "{ address: \"127.0.0.1:0\", tls: { certificates: [{ cert: nowhere.crt, key: tls/hub.key }] } }", 3, "listeners[0].tls.certificates[0].cert",
     &["nowhere.crt cannot be read", "help: name a file"]),
    (URL, "url: \"10.0.0.1:5000\"", 7, "pools[0].members[0].url", &["has no scheme", "write instead: \"http://10.0.0.1:5000\" (or https://)"]),
    (URL, "url: \"http://u:hidden@b\"", 7, "pools[0].members[0].url", &["do not belong in a URL", "help: write http://HOST:PORT"]),
    (URL, "url: \"http://b\", weight: 0", 7, "pools[0].members[0].weight", &["not between 1 and 100", "write instead: 1"]),
    (URL, "url: \"http://b\", tls: { ca_file: tls/ca.crt }", 7, "pools[0].members[0].tls", &["http member has no TLS", "https://"]),
    (URL, "url: \"http://b\", credential: relay", 7, "pools[0].members[0].credential", &["only a Harbor node takes", "write instead: none"]),
    (URL, "url: \"http://b\", credential: { basic: { user: a, password: { env: TIDEGATE_NO_SUCH_VARIABLE } } }", 7, "pools[0].members[0].credential.basic.password.env",
     &["not set", "{ file: PATH }"]),
    (URL, "url: \"http://b\", credential: { basic: { user: a, password: { file: secrets/empty } } }", 7, "pools[0].members[0].credential.basic.password.file",
     &["is empty", "write instead"]),
    (URL, "url: \"http://b\", credential: { token: { certificate: tls/ca.crt } }", 7, "pools[0].members[0].credential.token.certificate",
     &["without its key", "help: add `key: PATH`"]),
    (URL, "url: \"http://b\", kind: harbor", 7, "pools[0].members[0]", &["needs an account for probes", "help: add `harbor: {"]),
    (URL, "url: \"http://b\", account: { user: a, password: b }", 7, "pools[0].members[0].account", &["only Harbor nodes have", "help: write `kind: harbor`"]),
    ("    members:", "    harbor: { portal: false }\n    members:", 6, "pools[0].harbor", &["no member of this pool is a Harbor node", "help: write `kind: harbor`"]),
    ("    members:", "    kind: harbor\n    harbor: { version: 3, account: { user: a, password: b } }\n    credential: { token: { key: secrets/harbor1.pem } }\n    members:", 7, "pools[0].harbor.version", &["no Harbor 3", "write instead: 1 or 2"]),
    ("    members:", "    kind: harbor\n    harbor: { account: { user: a, password: b } }\n    credential: { token: {} }\n    members:", 10, "pools[0].members[0]", &["the key of this node", "help: add `credential: { token: { key: PATH } }`"]),
    ("    members:", "    kind: harbor\n    harbor: { account: { user: a, password: b } }\n    members:", 9, "pools[0].members[0]", &["serves nobody without a credential", "help: add `credential: exchange`"]),
    ("    members:", "    kind: harbor\n    harbor: { account: { user: a, password: b } }\n    credential: none\n    members:", 8, "pools[0].credential", &["would take everybody for one account", "write instead: exchange"]),
    ("    members:", "    kind: harbor\n    harbor: { version: 1, account: { user: a, password: b } }\n    credential: relay\n    members:", 8, "pools[0].credential", &["takes no passwords", "write instead: exchange"]),
    ("    members:", "    kind: harbor\n    harbor: { account: { user: a, password: b } }\n    credential: { token: { key: secrets/node2.key } }\n    members:", 8, "pools[0].credential.token.key", &["RSA keys only", "help: name a copy of the node's private_key.pem"]),
    ("    members:", "    kind: harbor\n    harbor: { account: { user: a, password: b } }\n    credential: exchange\n    members:", 5, "pools[0]", &["need clients whose passwords", "help: add `- harbor: { pool: main }`"]),
    ("pools:", "identity: [{ harbor: { pool: mein } }]\npools:", 4, "identity[0].harbor.pool", &["no pool \"mein\"", "write instead: main"]),
    ("pools:", "identity: [{ harbor: { pool: main } }]\npools:", 4, "identity[0].harbor.pool", &["no member of this pool is a Harbor node", "help: write `kind: harbor`"]),
    ("    members:", "    health: { rise: 0 }\n    members:", 6, "pools[0].health.rise", &["at least 1", "write instead: 2"]),
    ("    members:", "    health: { canary: busybox }\n    members:", 6, "pools[0].health.canary", &["does not name a manifest", "library/canary:1"]),
    ("", "      - { name: a, url: \"http://c\" }", 8, "pools[0].members[1].name", &["already a member \"a\"", "main-a"]),
    ("", "  - name: main\n    members: [{ name: b, url: \"http://b\" }]\nroutes: [{ pool: main }]", 8, "pools[1].name", &["already a pool", "main2"]),
    ("", "routes: [{ pool: mian }]", 8, "routes[0].pool", &["no pool \"mian\"", "write instead: main"]),
    ("", "routes: [{ repository: Team/x, pool: main }]", 8, "routes[0].repository", &["not a repository pattern", "write instead: \"team/x\""]),
    ("", "tokens: { lifetime: 500ms }", 8, "tokens.lifetime", &["at least one", "write instead: 1s"]),
    ("", "tokens: { lifetime: 48h }", 8, "tokens.lifetime", &["too long", "write instead: 24h"]),
    ("", "uploads: { grace: 0s }", 8, "uploads.grace", &["longer than zero", "write instead: 2h"]),
    ("", "limits: { header_bytes_max: 1KiB }", 8, "limits.header_bytes_max", &["at least 8", "write instead: 64KiB"]),
    ("", "log: { filter: \"=\" }", 8, "log.filter", &["not a log filter", "write instead: info"]),
    ("", "identity:\n  - htpasswd: htpasswd\n  - htpasswd: htpasswd", 10, "identity[1]", &["already a provider", "help: put its entries"]),
    ("", "password_checks: { success_ttl: 48h }", 8, "password_checks.success_ttl", &["longer than a day", "write instead: 5m"]),
    ("", "identity: [{ users: [{ name: \"a/b\", password_hash: { file: secrets/ci.hash } }] }]", 8, "identity[0].users[0].name",
     &["not an account name", "write instead: a name of 1 to 255"]),
    ("", "identity: [{ users: [{ name: a, password_hash: hidden }] }]", 8, "identity[0].users[0].password_hash",
     &["not a bcrypt hash", "help: run `tidegate hash-password`", "***"]),
    ("", "policy: [{ repository: a, allow: [pull] }]", 8, "policy[0]", &["does not say whom", "help: add `user: \"*\"`"]),
    ("", "policy: [{ anonymous: true, user: a, repository: a, allow: [pull] }]", 8, "policy[0].anonymous", &["excludes", "help: write one rule"]),
    ("", "policy: [{ everybody: true, repository: a, allow: [pul] }]", 8, "policy[0].allow[0]", &["not an action", "write instead: pull"]),
    ("", "policy: [{ everybody: true, repository: \"a**\", allow: [] }]", 8, "policy[0].repository",
     &["must stand alone", "write instead: \"team/**\""]),
    ("", "policy: [{ everybody: true, sources: [10.0.0.1/8], repository: a, allow: [] }]", 8, "policy[0].sources[0]",
     &["address bits", "write instead: \"10.0.0.0/8\""]),
    ("", "policy: [{ user: ldap/a, repository: a, allow: [] }]", 8, "policy[0].user", &["no provider \"ldap\"", "users/a, htpasswd/a or harbor/a"]),
];

#[test]
fn every_mistake_names_its_file_line_key_and_remedy() {
    let dir = directory();
    for (find, replacement, line, key, texts) in SHAPE.iter().chain(MEANING) {
        let errors = load_text(dir.path(), &broken(find, replacement)).expect_err(replacement);
        let rendered = errors.to_string();
        let [error] = errors.0.as_slice() else {
            panic!("{replacement}: one error expected, not\n{rendered}")
        };
        assert_eq!((error.line, error.key.as_str()), (*line, *key), "{replacement}\n{rendered}");
        let prefix = format!("{}:{line}:{}: ", dir.path().join("tidegate.yaml").display(), error.column);
        assert!(rendered.starts_with(&prefix), "{replacement}\n{rendered}");
        for text in *texts {
            assert!(rendered.contains(text), "{replacement}: no {text:?} in\n{rendered}");
        }
        assert!(!rendered.contains("hidden"), "{replacement}: a secret is shown in\n{rendered}");
    }
}

#[test]
fn an_error_is_rendered_with_its_line_and_a_caret() {
    let dir = directory();
    let errors = load_text(dir.path(), &broken(URL, "url: \"10.0.0.1:5000\"")).expect_err("no scheme");
    let expected = format!(
        "{}:7:25: pools[0].members[0].url: \"10.0.0.1:5000\" has no scheme
  |
7 |       - {{ name: a, url: \"10.0.0.1:5000\" }}
  |                         ^
  = write instead: \"http://10.0.0.1:5000\" (or https://)
",
        dir.path().join("tidegate.yaml").display()
    );
    assert_eq!(errors.to_string(), expected);
}

#[test]
fn all_mistakes_are_found_at_once() {
    let dir = directory();
    let shape = format!(
        "{MINIMAL}workers: x\nlog: {{ format: y, colour: z }}\nuploads: {{ grace: 5 }}\nuplaods: {{}}\npolicy: [{{ allow: 1 }}]\n"
    );
    let errors = load_text(dir.path(), &shape).expect_err("broken");
    let keys: Vec<_> = errors.0.iter().map(|error| error.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "workers",
            "log.format",
            "log.colour",
            "uploads.grace",
            "uplaods",
            "policy[0].repository",
            "policy[0].allow"
        ],
        "{errors}"
    );
    let meaning = format!(
        "{MINIMAL}tokens: {{ lifetime: 25h, replicas: 0 }}\nroutes: [{{ pool: x }}]\nadmin: {{ address: y }}\n"
    );
    let errors = load_text(dir.path(), &meaning).expect_err("broken");
    let keys: Vec<_> = errors.0.iter().map(|error| error.key.as_str()).collect();
    assert_eq!(keys, ["tokens.lifetime", "tokens.replicas", "routes[0].pool", "admin.address"], "{errors}");
}

#[test]
fn htpasswd_lines_with_other_schemes_are_refused_by_line() {
    let dir = directory();
    let errors = load_text(dir.path(), &broken("", "identity: [{ htpasswd: old-htpasswd }]"))
        .expect_err("other schemes");
    let rendered = errors.to_string();
    for text in [
        "old-htpasswd:2:1: identity[0].htpasswd",
        "MD5 (apr1)",
        "`htpasswd -B FILE bob`",
        "old-htpasswd:3:1",
        "SHA-1",
    ] {
        assert!(rendered.contains(text), "no {text:?} in\n{rendered}");
    }
    assert!(!rendered.contains("$apr1$") && !rendered.contains("xyz"), "{rendered}");
}

#[test]
fn a_user_whom_two_providers_can_know_must_be_told_apart() {
    let dir = directory();
    let identity = "identity:\n  - users: [{ name: alice, password_hash: { file: secrets/ci.hash } }]\n  - htpasswd: htpasswd\n";
    for (user, good) in
        [("alice", false), ("users/alice", true), ("htpasswd/alice", true), ("bob", true), ("ali*", true)]
    {
        let text =
            format!("{MINIMAL}{identity}policy: [{{ user: \"{user}\", repository: a, allow: [pull] }}]\n");
        match load_text(dir.path(), &text) {
            Ok(_) => assert!(good, "{user}"),
            Err(errors) => {
                assert!(
                    !good && errors.to_string().contains("write instead: users/alice or htpasswd/alice"),
                    "{user}: {errors}"
                );
            }
        }
    }
}

#[test]
fn no_secret_is_shown_wherever_the_mistake_is() {
    let dir = directory();
    for text in [
        "url: \"http://b\", credential: { basic: { usr: x, password: s3kr1t } }",
        "url: \"http://b\", credential: { basic: { user: x, passwrd: s3kr1t } }",
        "url: \"http://b\", credential: { basic: { user: x, password: [s3kr1t] } }",
        "url: \"http://b\", credential: { basic: { user: x, password: { s3kr1t } } }",
        "url: \"http://b\", credential: { basic: { user: x, password: { file: a, s3kr1t: b } } }",
        "url: \"http://b\", weight: 0, credential: { basic: { user: x, password: \"s3kr1t\" } }",
        "url: \"http://b\", credential: { basic: { user: x, password: 's3kr1t\" } }",
        "url: \"http://s3kr1t@b\"",
        "url: \"http://b\", credential: { bsic: { user: x, password: \"s3kr1t\" } }",
    ] {
        let errors = load_text(dir.path(), &broken(URL, text)).expect_err(text);
        assert!(!errors.to_string().contains("s3kr1t"), "{text}:\n{errors}");
        assert!(!format!("{errors:?}").contains("s3kr1t"), "{text}:\n{errors:?}");
    }
}

#[test]
fn questionable_configurations_are_warned_of_but_taken() {
    let dir = directory();
    let users = "identity: [{ htpasswd: htpasswd }]";
    for (text, key, expected) in [
        (users, "listeners[0]", "credentials are refused"),
        (
            "policy:\n  - { everybody: true, repository: \"**\", allow: [] }\n  - { anonymous: true, repository: a, allow: [pull] }",
            "policy[1]",
            "can never decide",
        ),
        (
            "policy: [{ group: ghosts, repository: a, allow: [pull] }]",
            "policy[0].group",
            "no user is in the group",
        ),
        ("policy: [{ user: ghost, repository: a, allow: [pull] }]", "policy[0].user", "no user has the name"),
        (
            "policy: [{ everybody: true, repository: a, allow: [push] }]",
            "policy[0].allow",
            "push without pull",
        ),
        ("routes: [{ pool: main }, { repository: a, pool: main }]", "routes[1]", "never reached"),
        ("routes: [{ host: other, pool: main }]", "routes[0].host", "cannot address"),
        (
            "  - { name: spare, members: [{ name: b, url: \"http://b\" }] }\nroutes: [{ pool: main }]",
            "pools[1].name",
            "no route leads",
        ),
    ] {
        let loaded =
            load_text(dir.path(), &broken("", text)).unwrap_or_else(|errors| panic!("{text}\n{errors}"));
        let [warning] = loaded.warnings.as_slice() else { panic!("{text}: {:?}", loaded.warnings) };
        assert_eq!(warning.key, key, "{text}");
        assert!(warning.to_string().contains(expected), "{text}: {warning}");
    }
}

#[test]
fn hashes_of_different_costs_and_costly_ones_are_warned_of() {
    let dir = directory();
    let hash = |cost: &str| format!("$2b${cost}${}", ".".repeat(53));
    for (costs, expected) in [
        (["10", "10"], None),
        (["04", "12"], Some("costs from 4 to 12")),
        (["16", "16"], Some("the cost 16")),
    ] {
        let [first, second] = costs.map(hash);
        std::fs::write(dir.path().join("mixed"), format!("alice:{first}\nbob:{second}\n")).expect("a file");
        let loaded = load_text(dir.path(), &broken("", "identity: [{ htpasswd: mixed }]"));
        let warnings = loaded.unwrap_or_else(|errors| panic!("{errors}")).warnings;
        let of_hashes = warnings.iter().find(|warning| warning.key == "identity").map(ToString::to_string);
        assert_eq!(of_hashes.is_some(), expected.is_some(), "{costs:?}: {warnings:?}");
        assert!(of_hashes.unwrap_or_default().contains(expected.unwrap_or_default()), "{costs:?}");
    }
}

#[test]
fn settings_have_the_documented_defaults() {
    let dir = directory();
    let config = good(dir.path(), MINIMAL);
    assert_eq!(config.hosts.primary(), "hub.example.com");
    assert_eq!(
        (config.tokens.service.as_str(), config.tokens.issuer.as_str()),
        ("hub.example.com", "tidegate")
    );
    assert_eq!(config.tokens.lifetime.as_secs(), 600);
    assert_eq!(config.uploads.grace.as_secs(), 7200);
    assert_eq!(config.admin.map(|admin| admin.address.to_string()).as_deref(), Some("127.0.0.1:9090"));
    assert_eq!(config.routes.pool_of("any", &RepositoryName::try_from("a/b").expect("a name")), Some(0));
    assert!(config.policy.rules().is_empty());
    assert!(matches!(config.pools[0].members[0].credential, CredentialSettings::None));
    assert!(matches!(
        config.server.listeners[0].kind,
        ListenerKind::Plain { allow_plaintext_credentials: false }
    ));
    assert!(good(dir.path(), &broken("", "admin: none")).admin.is_none());
    for (admin, socket) in [
        ("admin: { address: \"127.0.0.1:0\" }", Some("/var/lib/tidegate/control.sock")),
        ("admin: { socket: /run/t.sock }", Some("/run/t.sock")),
        ("admin: { socket: none }", None),
        ("tokens: { keys: /k/keys }", Some("/k/control.sock")),
    ] {
        let settings = good(dir.path(), &broken("", admin)).admin.expect("an admin listener");
        assert_eq!(settings.socket.as_deref(), socket.map(Path::new), "{admin}");
    }
    let long = format!("admin: {{ socket: /{} }}", "x".repeat(120));
    let errors = load_text(dir.path(), &broken("", &long)).expect_err("too long for a socket");
    assert!(errors.to_string().contains("at most 107"), "{errors}");
    let short = good(dir.path(), &broken("", "tokens: { lifetime: 2s, expiry_margin: 0s }"));
    assert_eq!((short.tokens.lifetime.as_secs(), short.tokens.expiry_margin.as_secs()), (2, 0));
}

#[test]
fn a_lifetime_that_clients_do_not_believe_is_a_warning() {
    let dir = directory();
    for (lifetime, warned) in [("59s", true), ("60s", false)] {
        let text = broken("", &format!("tokens: {{ lifetime: {lifetime} }}"));
        let loaded = load_text(dir.path(), &text).unwrap_or_else(|errors| panic!("{errors}"));
        let warnings: Vec<_> = loaded.warnings.iter().filter(|it| it.key == "tokens.lifetime").collect();
        assert_eq!(warnings.len(), usize::from(warned), "{lifetime}: {warnings:?}");
        assert!(warnings.iter().all(|it| it.to_string().contains("write instead: 60s")), "{warnings:?}");
    }
}

#[test]
fn logins_at_harbor_nodes_end_before_docker_gives_up_and_after_a_node_has_said_no() {
    let dir = directory();
    let pool = "    kind: harbor\n    credential: relay\n    harbor: { account: { user: a, password: b } }\n    members:";
    let text = MINIMAL.replace("    members:", pool);
    for (keys, words) in [
        ("", None),
        (", timeout: 14s, try_timeout: 3s", None),
        (", timeout: 15s", Some(["docker gives up after 15s", "write instead: 10s"])),
        (", try_timeout: 1s", Some(["takes 1.5s to refuse", "write instead: 5s"])),
        (" } }, { htpasswd: htpasswd", Some(["never asked", "help: put `harbor` last"])),
    ] {
        let end = if keys.ends_with("htpasswd") { "" } else { " }" };
        let text = format!("{text}identity: [{{ harbor: {{ pool: main{keys}{end} }}]\n");
        match (load_text(dir.path(), &text), words) {
            (Ok(loaded), None) => assert_eq!(loaded.config.identity.providers.len(), 1),
            (Err(errors), Some(words)) => {
                let said = errors.to_string();
                assert!(words.iter().all(|word| said.contains(word)), "{said}");
            }
            (result, _) => panic!("{keys}: {result:?}"),
        }
    }
}

#[test]
fn the_shipped_examples_are_good_and_name_their_files() {
    let dir = directory();
    for example in [include_str!("../../config/tidegate.yaml"), include_str!("../../config/reference.yaml")] {
        let loaded = load_text(dir.path(), example).unwrap_or_else(|errors| panic!("{errors}"));
        let watched: BTreeSet<PathBuf> = loaded.config.watched_files().into_iter().collect();
        for file in ["tls/hub.crt", "tls/hub.key", "htpasswd"] {
            assert!(watched.contains(&dir.path().join(file)), "{file} in {watched:?}");
        }
    }
    // The nodes' keys and the accounts of the example.
    for name in ["node1.private_key.pem", "node2.private_key.pem"] {
        std::fs::copy(dir.path().join("secrets/harbor1.pem"), dir.path().join("secrets").join(name))
            .expect("a file");
    }
    std::fs::write(dir.path().join("secrets/admin.password"), "s3cret").expect("a file");
    let harbor = load_text(dir.path(), include_str!("../../config/harbor.yaml"));
    let harbor = harbor.unwrap_or_else(|errors| panic!("{errors}"));
    assert!(harbor.warnings.is_empty(), "{:?}", harbor.warnings);
    assert!(harbor.config.watched_files().contains(&dir.path().join("secrets/node1.private_key.pem")));
    let text = include_str!("../../config/reference.yaml");
    let reference = good(dir.path(), text);
    let watched = reference.watched_files();
    for file in [
        "secrets/ci.hash",
        "secrets/node1.password",
        "secrets/node2.key",
        "secrets/node2.crt",
        "tls/ca.crt",
        "tls/client.key",
    ] {
        assert!(watched.contains(&dir.path().join(file)), "{file} in {watched:?}");
    }
    let line = 1 + text.lines().position(|line| line == "  - group: robots").expect("the rule");
    assert_eq!(reference.policy.rules()[2].label, format!("policy rule 3 (line {line})"));
    assert!(reference.policy.rules()[2].catalog);
}

#[test]
fn the_reference_file_shows_the_defaults() {
    let dir = directory();
    let (plain, reference) =
        (good(dir.path(), MINIMAL), good(dir.path(), include_str!("../../config/reference.yaml")));
    let show = |config: &Config| {
        let health = crate::upstream::HealthSettings { canary: None, ..config.pools[0].health.clone() };
        let checks = crate::identity::VerifyLimits { concurrency: 1, ..config.identity.limits.clone() };
        format!(
            "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
            config.server.limits,
            config.admin,
            config.tokens,
            config.uploads,
            checks,
            config.pools[0].limits,
            health,
            config.log,
            config.shutdown,
            config.reload_interval
        )
    };
    assert_eq!(show(&plain), show(&reference));
}

#[test]
fn member_urls_alone_make_a_configuration_without_access() {
    let dir = directory();
    let urls = ["http://a:5000", "https://b"].map(str::to_owned);
    let config = from_member_urls(&urls, dir.path()).unwrap_or_else(|errors| panic!("{errors}"));
    let members: Vec<_> =
        config.pools[0].members.iter().map(|member| (member.name.as_str(), member.address.port)).collect();
    assert_eq!(members, [("member1", 5000), ("member2", 443)]);
    assert!(config.policy.rules().is_empty() && config.identity.providers.is_empty());
    assert!(config.hosts.find("localhost:8443").is_some() && config.hosts.find("[::1]:8443").is_some());
    assert!(config.watched_files().contains(&dir.path().join("self-signed.crt")));
    let errors =
        from_member_urls(&["http://a".to_owned(), "b:5000".to_owned()], dir.path()).expect_err("no scheme");
    assert_eq!(
        errors.to_string(),
        "argument 2: \"b:5000\" has no scheme\n  = write instead: \"http://b:5000\" (or https://)\n"
    );
    assert!(from_member_urls(&[], dir.path()).is_err());
}

#[test]
fn no_input_makes_it_panic() {
    let dir = directory();
    let reference = include_str!("../../config/reference.yaml");
    for end in (0..reference.len()).step_by(97).filter(|end| reference.is_char_boundary(*end)) {
        let _ = load_text(dir.path(), &reference[..end]);
        let _ = load_text(dir.path(), &format!("{}\u{e9}: {{[", &reference[..end]));
    }
    let deep = "a: ".to_owned() + &"[".repeat(10_000);
    let bomb = "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e]\n";
    for text in [
        "",
        "~",
        "[]",
        "- a",
        "\0",
        "\u{feff}",
        "? {a: b}\n: c",
        "!!binary x",
        "a: !!int x",
        "%YAML 9.9\n---\na: 1",
        deep.as_str(),
        bomb,
    ] {
        assert!(load_text(dir.path(), text).is_err(), "{text:.40}");
    }
    assert!(load(dir.path()).is_err() && load(&dir.path().join("nowhere")).is_err());
}

/// The types of `file.rs`: name, and for every key its name and type.
fn mirror_types() -> BTreeMap<String, Vec<(String, String)>> {
    let mut types: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    let mut current: Option<String> = None;
    let source = concat!(include_str!("file.rs"), include_str!("file/pools.rs"));
    for line in source.replace("pub(in crate::config)", "pub(super)").lines() {
        if let Some(rest) =
            line.strip_prefix("pub(super) struct ").or_else(|| line.strip_prefix("pub(super) enum "))
        {
            let name = rest.trim_end_matches(" {").to_owned();
            types.insert(name.clone(), Vec::new());
            current = Some(name);
        } else if line == "}" {
            current = None;
        } else if let Some(name) = &current {
            let line = line.trim().trim_end_matches(',');
            let key = if let Some((key, kind)) =
                line.strip_prefix("pub(super) ").and_then(|field| field.split_once(": "))
            {
                Some((key.to_owned(), kind.to_owned()))
            } else if line.starts_with(|c: char| c.is_ascii_uppercase()) {
                let (variant, kind) = line.split_once('(').unwrap_or((line, ""));
                Some((variant.to_ascii_lowercase(), kind.trim_end_matches(')').to_owned()))
            } else {
                None
            };
            types.get_mut(name).expect("just made").extend(key);
        }
    }
    types
}

/// Every key path of the mirror; a type that stands in several places is followed in the first.
fn mirror_keys() -> Vec<String> {
    fn follow(
        types: &mut BTreeMap<String, Vec<(String, String)>>,
        name: &str,
        prefix: &str,
        keys: &mut Vec<String>,
    ) {
        let Some(fields) = types.remove(name) else {
            return;
        };
        for (key, kind) in fields {
            let list = if kind.starts_with("Vec<") { "[]" } else { "" };
            let inner = kind
                .trim_start_matches("Option<")
                .trim_start_matches("Vec<")
                .trim_start_matches("OrNone<")
                .trim_end_matches('>')
                .to_owned();
            if kind.is_empty() {
                continue;
            }
            keys.push(format!("{prefix}{key}"));
            follow(types, &inner, &format!("{prefix}{key}{list}."), keys);
        }
    }
    let mut types = mirror_types();
    let mut keys = Vec::new();
    follow(&mut types, "File", "", &mut keys);
    assert!(types.is_empty(), "types that no key leads to: {types:?}");
    keys
}

fn keys_of(node: &Node, prefix: &str, keys: &mut BTreeSet<String>) {
    match &node.value {
        Value::Null | Value::Scalar(_) => {}
        Value::Sequence(items) => {
            items.iter().for_each(|item| keys_of(item, &format!("{}[].", prefix.trim_end_matches('.')), keys))
        }
        Value::Mapping(entries) => {
            for entry in entries {
                keys.insert(format!("{prefix}{}", entry.key));
                keys_of(&entry.value, &format!("{prefix}{}.", entry.key), keys);
            }
        }
    }
}

#[test]
fn every_key_is_in_the_reference_file_and_in_the_documentation() {
    let source = include_str!("../../config/reference.yaml").to_owned();
    let document = Document::parse(PathBuf::from("reference.yaml"), source).expect("YAML");
    let mut shown = BTreeSet::new();
    keys_of(document.root(), "", &mut shown);
    let documented = include_str!("../../docs/configuration.md");
    let mirror = mirror_keys();
    assert!(
        mirror.len() > 100 && mirror.contains(&"pools[].members[].tls.client_certificate".to_owned()),
        "{mirror:?}"
    );
    for key in &mirror {
        // The reference file shows a member's credential, and not the same keys again at its pool.
        let member = key.replace("pools[].credential.", "pools[].members[].credential.");
        assert!(shown.contains(key) || shown.contains(&member), "config/reference.yaml lacks {key}");
        assert!(documented.contains(&format!("| `{key}` |")), "docs/configuration.md lacks {key}");
    }
    for row in documented.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')) {
        assert!(mirror.contains(&row.0.to_owned()), "docs/configuration.md has the unknown key {}", row.0);
    }
}
