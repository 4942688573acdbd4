//! `tidegate check` says of a broken configuration which file, line and key is wrong and what to write instead.

use std::path::Path;
use std::process::{Command, Output};

use super::harness::certs::Certificates;

const GOOD: &str = "\
external_url: https://hub.example.com
listeners:
  - address: \"127.0.0.1:0\"
    tls: { certificates: [{ cert: hub.crt, key: hub.key }] }
identity:
  - htpasswd: htpasswd
policy:
  - { user: \"*\", repository: \"**\", allow: [pull] }
pools:
  - name: main
    members:
      - { name: a, url: \"http://10.0.0.1:5000\" }
";

/// What is replaced in [`GOOD`], by what, and the line, key and remedy that are printed.
type Case = (&'static str, &'static str, usize, &'static str, &'static str);

#[rustfmt::skip]
const CASES: [Case; 24] = [
    ("external_url", "external_ulr", 1, "external_ulr", "write instead: external_url"),
    ("external_url: https://hub.example.com", "hosts: []", 1, "external_url", "add `external_url: https://hub.example.com`"),
    ("https://hub.example.com", "hub.example.com", 1, "external_url", "write instead: \"http://hub.example.com\" (or https://)"),
    ("https://hub.example.com", "https://hub.example.com/v2", 1, "external_url", "write instead: \"https://hub.example.com\""),
    ("\"127.0.0.1:0\"", "\":8443\"", 3, "listeners[0].address", "write instead: \"0.0.0.0:8443\""),
    ("cert: hub.crt", "cert: lost.crt", 4, "listeners[0].tls.certificates[0].cert", "help: name a file that Tidegate's user can read"),
    ("key: hub.key", "key: other.key", 4, "listeners[0].tls.certificates[0].key", "help: name the key that hub.crt was made for"),
    ("cert: hub.crt, key: hub.key", "cert: hub.key, key: hub.crt", 4, "listeners[0].tls.certificates[0].cert", "may have changed places"),
    ("tls:", "redirect: https\n    tls:", 4, "listeners[0].redirect", "help: keep `tls` here"),
    ("htpasswd: htpasswd", "htpaswd: htpasswd", 6, "identity[0]", "write instead: htpasswd"),
    ("user: \"*\"", "anonymous: true, user: \"*\"", 8, "policy[0].anonymous", "help: write one rule for each"),
    ("user: \"*\", ", "", 8, "policy[0]", "help: add `user: \"*\"`"),
    ("allow: [pull]", "allow: [pul]", 8, "policy[0].allow[0]", "write instead: pull"),
    ("allow: [pull]", "allow: pull", 8, "policy[0].allow", "write instead: [pull]"),
    ("repository: \"**\"", "repository: \"${group}/**\"", 8, "policy[0].repository", "write instead: \"team/**\""),
    ("allow: [pull]", "allow: [pull], sources: [here]", 8, "policy[0].sources[0]", "write instead: \"10.0.0.0/8\""),
    ("http://10.0.0.1:5000", "10.0.0.1:5000", 12, "pools[0].members[0].url", "write instead: \"http://10.0.0.1:5000\" (or https://)"),
    ("- { name: a, ", "- { ", 12, "pools[0].members[0].name", "add `name: node1`"),
    (":5000\" }", ":5000\", weight: 1000 }", 12, "pools[0].members[0].weight", "write instead: 1"),
    (":5000\" }", ":5000\", credential: relay }", 12, "pools[0].members[0].credential", "write instead: none"),
    ("    members:", "    kind: harbour\n    members:", 11, "pools[0].kind", "write instead: harbor"),
    ("    members:", "    health: { interval: 5 }\n    members:", 11, "pools[0].health.interval", "write instead: 5s"),
    ("external_url", "tokens: { lifetime: 48h }\nexternal_url", 1, "tokens.lifetime", "write instead: 24h"),
    ("external_url", "routes: [{ pool: mian }]\nexternal_url", 1, "routes[0].pool", "write instead: main"),
];

fn check(config: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["check", "--config"]).arg(config).output().expect("tidegate can be started")
}

/// The files that [`GOOD`] and its broken forms name.
fn write_files(dir: &Path) {
    let certificates = Certificates::new(dir);
    certificates.leaf("hub", &["hub.example.com"]);
    certificates.leaf("other", &["hub.example.com"]);
    let hash = bcrypt::hash("password", 4).expect("a bcrypt hash");
    std::fs::write(dir.join("htpasswd"), format!("alice:{hash}\n")).expect("an htpasswd file");
}

#[test]
fn a_broken_configuration_is_refused_with_file_line_key_and_remedy() {
    let dir = tempfile::tempdir().expect("a directory");
    write_files(dir.path());
    let config = dir.path().join("tidegate.yaml");
    for (find, replacement, line, key, remedy) in CASES {
        let text = GOOD.replacen(find, replacement, 1);
        assert_ne!(text, GOOD, "{find:?} does not occur");
        std::fs::write(&config, text).expect("a configuration file");
        let output = check(&config);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{replacement}:\n{said}");
        let place = format!("{}:{line}:", config.display());
        let about = format!(" {key}: ");
        for expected in [place.as_str(), about.as_str(), remedy] {
            assert!(said.contains(expected), "{replacement}: no {expected:?} in\n{said}");
        }
    }
}

#[test]
fn a_wrong_htpasswd_line_is_named_in_its_own_file() {
    let dir = tempfile::tempdir().expect("a directory");
    write_files(dir.path());
    let htpasswd = dir.path().join("htpasswd");
    std::fs::write(&htpasswd, "# people\nbob:$apr1$abc$def\n").expect("an htpasswd file");
    let config = dir.path().join("tidegate.yaml");
    std::fs::write(&config, GOOD).expect("a configuration file");
    let output = check(&config);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    let place = format!("{}:2:1: identity[0].htpasswd: ", htpasswd.display());
    for expected in [place.as_str(), "htpasswd -B FILE bob"] {
        assert!(said.contains(expected), "no {expected:?} in\n{said}");
    }
}

#[test]
fn a_good_configuration_is_confirmed() {
    let dir = tempfile::tempdir().expect("a directory");
    write_files(dir.path());
    let config = dir.path().join("tidegate.yaml");
    std::fs::write(&config, GOOD).expect("a configuration file");
    let output = check(&config);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("ok: "), "{output:?}");
}

#[test]
fn passwords_in_urls_are_not_shown_and_limits_are_called_limits() {
    let dir = tempfile::tempdir().expect("a directory");
    write_files(dir.path());
    let config = dir.path().join("tidegate.yaml");
    let mut deep = String::from("log: ");
    deep.push_str(&"[".repeat(40));
    deep.push_str(&"]".repeat(40));
    let aliases = "x0: &x0 [a, b, c, d, e, f, g, h, i, j]\nx1: &x1 [*x0, *x0, *x0, *x0, *x0, *x0, *x0, *x0, *x0, *x0]\nx2: &x2 [*x1, *x1, *x1, *x1, *x1, *x1, *x1, *x1, *x1, *x1]\nx3: &x3 [*x2, *x2, *x2, *x2, *x2, *x2, *x2, *x2, *x2, *x2]\nx4: [*x3, *x3, *x3, *x3, *x3, *x3, *x3, *x3, *x3, *x3]\n";
    for (find, replacement, expected) in [
        // The mistake is beside the URL, in it, and in what is no URL at all.
        ("name: a, url: \"http://10", "name: A_b!, url: \"http://ci:hunter2@10", "pools[0].members[0].name"),
        ("5000\" }", "5000\", wieght: 1, url: \"http://ci:hunter2@10.0.0.9\" }", "***"),
        ("https://hub.example.com", "https://ci:hunter2@hub.example.com", "external_url"),
        ("    members:", "    kind: \"http://ci:hunter2@10.0.0.2/\"\n    members:", "pools[0].kind"),
        ("external_url", &format!("{deep}\nexternal_url"), "too much for one file"),
        ("external_url", &format!("{aliases}external_url"), "too much for one file"),
        (
            "external_url",
            "reload_interval: 999999999999h\nexternal_url",
            "reload_interval: \"999999999999h\" is longer than a year",
        ),
        ("external_url", "tokens: { lifetime: 99999999999999999999999s }\nexternal_url", "tokens.lifetime"),
        ("external_url", "uploads: { grace: 8800h }\nexternal_url", "write instead: 8760h"),
    ] {
        assert!(GOOD.contains(find), "{find}");
        std::fs::write(&config, GOOD.replacen(find, replacement, 1)).expect("written");
        let output = check(&config);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{replacement}: {said}");
        assert!(said.contains(expected), "{replacement}: {said}");
        assert!(!said.contains("hunter2"), "{replacement}: {said}");
        assert!(!said.contains("document begins here"), "{replacement}: {said}");
    }
}
