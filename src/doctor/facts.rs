//! What answers of registries and Harbor nodes say: challenges, versions, components, key ids, the
//! address that a node names itself by. Pure.

use data_encoding::BASE64URL_NOPAD;
use serde_json::Value;

use super::finding::{Code, Finding};
use crate::forwarding::hosts::Hosts;
use crate::upstream::HarborVersion;

/// The `service` in the challenge of every Harbor node.
const HARBOR_SERVICE: &str = "harbor-registry";
/// Components without which nothing can be pulled or pushed.
const NEEDED: [&str; 4] = ["core", "database", "redis", "registry"];

/// A parameter of a challenge, in quotes as every registry writes it.
pub(super) fn parameter<'a>(challenge: &'a str, name: &str) -> Option<&'a str> {
    let start = challenge.match_indices(name).map(|(at, _)| at).find(|at| {
        let (before, after) = (&challenge[..*at], &challenge[at + name.len()..]);
        before.ends_with([' ', ',']) && after.starts_with("=\"")
    })?;
    challenge[start + name.len() + 2..].split('"').next()
}

/// Whether a challenge is that of a Harbor node.
pub(super) fn is_harbor(challenge: &str) -> bool {
    parameter(challenge, "service") == Some(HARBOR_SERVICE)
}

/// Whether a challenge asks for a password.
pub(super) fn is_basic(challenge: &str) -> bool {
    challenge.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("basic"))
}

/// Scheme, host and port of a URL, without what comes after: it may be secret.
pub(super) fn origin(url: &str) -> Option<&str> {
    let host = url.find("://")? + 3;
    let end = url[host..].find(['/', '?', '#']).map_or(url.len(), |end| host + end);
    (end > host).then(|| &url[..end])
}

/// Whether a node names itself by an address that clients use.
pub(super) fn judge_address(named: &str, hosts: &Hosts) -> Option<Finding> {
    let named = origin(named)?;
    let (scheme, authority) = named.split_once("://")?;
    let own = hosts.url();
    let right_scheme = scheme.eq_ignore_ascii_case("https") == hosts.external_https();
    if hosts.find(authority).is_some() && right_scheme {
        return None;
    }
    Some(Finding::warning(
        Code::ExternalAddress,
        format!(
            "the node names itself {named}, and clients reach it by {own} (its `hostname` and `external_url`, EXT_ENDPOINT inside)"
        ),
        "nothing for docker and other registry clients: their logins and uploads go through Tidegate by its own address. The web pages show the other address in pull commands, and OIDC logins, webhooks and replication lead there",
        format!(
            "set `external_url: {own}` in the node's harbor.yml, and run its `prepare` and a restart, when it suits"
        ),
    ))
}

/// The major version in Harbor's own words, such as `v2.9.5-1a2b3c`.
pub(super) fn major(version: &str) -> Option<u64> {
    version.trim_start_matches('v').split('.').next()?.parse().ok()
}

/// Whether `harbor.version` fits what the node says.
pub(super) fn judge_version(configured: HarborVersion, says: &str) -> Option<Finding> {
    let configured = match configured {
        HarborVersion::One => 1,
        HarborVersion::Two => 2,
    };
    let says_major = major(says)?;
    (says_major != configured).then(|| {
        Finding::error(
            Code::HarborVersion,
            format!("the node runs Harbor {says}, and `harbor.version` is {configured}"),
            "probes, logins and tokens are made for the other version, and fail",
            format!("write `harbor: {{ version: {says_major} }}` at the pool"),
        )
    })
}

/// The components that are not healthy: those that are needed, and the others. `None` where the
/// answer is not Harbor's.
pub(super) fn sick_components(health: &Value) -> Option<(Vec<String>, Vec<String>)> {
    let components = health["components"].as_array()?;
    let sick = components.iter().filter(|component| component["status"] != "healthy");
    let names = sick.filter_map(|component| component["name"].as_str()).map(str::to_owned);
    Some(names.partition(|name| NEEDED.contains(&name.as_str())))
}

/// What sick components mean.
pub(super) fn judge_health(needed: &[String], others: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    if needed.iter().any(|name| name == "database") {
        findings.push(Finding::error(
            Code::DatabaseDown,
            "the node has lost its database",
            "it answers 401 to right passwords; the node is taken out, so clients do not see it while others are left",
            "bring its PostgreSQL back, or the network to it; see core.log on the node",
        ));
    }
    let rest: Vec<_> = needed.iter().filter(|name| *name != "database").cloned().collect();
    if !rest.is_empty() {
        findings.push(Finding::error(
            Code::Unhealthy,
            format!("the node says that it is unhealthy: {}", rest.join(", ")),
            "pulls and pushes fail there; the node is taken out while others are left",
            "see the logs of these containers on the node (docker ps; docker logs)",
        ));
    }
    if !others.is_empty() {
        findings.push(Finding::warning(
            Code::ComponentDown,
            format!("the node says that these components are unhealthy: {}", others.join(", ")),
            "pulls and pushes work; scans, replication, garbage collection or the web pages may not",
            "see the logs of these containers on the node (docker ps; docker logs)",
        ));
    }
    findings
}

/// Whether an account looks like a robot's: robots are not locked by wrong passwords.
pub(super) fn is_robot(user: &str) -> bool {
    user.contains('$')
}

/// Whether an account is a robot's or the built-in administrator's, and so never a directory's.
pub(super) fn is_local_account(user: &str) -> bool {
    user == "admin" || is_robot(user)
}

/// Accounts of a directory make its faults look like the node's.
pub(super) fn judge_auth_mode(mode: &str, user: &str) -> Option<Finding> {
    let directory = match mode {
        "ldap_auth" => "LDAP",
        "oidc_auth" => "OIDC",
        "uaa_auth" => "UAA",
        "http_auth" => "an authentication proxy",
        _ => return None,
    };
    (!is_local_account(user)).then(|| {
        Finding::warning(
            Code::AccountInDirectory,
            format!("the node's users are of {directory}, and `harbor.account` {user:?} does not look like a robot"),
            "every probe asks the directory, and when that is down all nodes are taken out at once",
            "make a robot account (Administration, Robot Accounts) and name it in `harbor.account`, such as robot$tidegate",
        )
    })
}

/// Header and claims of a token, unchecked.
pub(super) fn token_parts(answer: &Value) -> Option<(Value, Value)> {
    let token = ["token", "access_token"]
        .iter()
        .find_map(|name| answer[*name].as_str().filter(|token| !token.is_empty()))?;
    let mut parts = token.split('.').map(|part| {
        let bytes = BASE64URL_NOPAD.decode(part.as_bytes()).ok()?;
        serde_json::from_slice::<Value>(&bytes).ok()
    });
    Some((parts.next()??, parts.next()??))
}

/// Why a node refuses the token that we mint, while it takes its account: by the `kid` of its own
/// tokens and that of the configured key.
pub(super) fn judge_refused_token(own_kid: &str, node_kid: Option<&str>, skew: i64) -> Finding {
    let effect = "every pull and push is refused there; the node is taken out";
    match node_kid {
        Some(node_kid) if node_kid != own_kid => Finding::error(
            Code::NodeKey,
            format!(
                "the configured key is not the node's: the node signs with key {node_kid}, and `credential.token.key` is {own_kid}"
            ),
            effect,
            "copy the node's own private_key.pem (/data/secret/core/private_key.pem on the node, unless `data_volume` says otherwise) to the file of `credential.token.key`; each node has its own",
        ),
        _ => {
            let because = match (node_kid, skew) {
                (Some(_), 0) => "the key is right and the clocks agree",
                (Some(_), _) => "the key is right, and the clocks are apart",
                (None, 0) => "the node does not show its own key",
                (None, _) => "the node does not show its own key, and the clocks are apart",
            };
            Finding::error(
                Code::TokenRefused,
                format!("the node refuses the token that we mint, and takes its account: {because}"),
                effect,
                if skew == 0 {
                    "see core.log on the node for why; `credential.token.issuer` and `audience` have to be left out for Harbor"
                } else {
                    "synchronise the clocks of both machines"
                },
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;
    use crate::forwarding::hosts::AllowedHost;
    use serde_json::json;

    #[test]
    fn challenges_are_read() {
        let harbor =
            r#"Bearer realm="https://h/service/token",service="harbor-registry",scope="repository:a/b:pull""#;
        let own = r#"Bearer realm="https://h/token",my-service="x",service="hub""#;
        for (challenge, name, expected) in [
            (harbor, "realm", Some("https://h/service/token")),
            (harbor, "service", Some("harbor-registry")),
            (harbor, "error", None),
            (own, "service", Some("hub")),
            (r#"Basic realm="member""#, "realm", Some("member")),
            ("", "realm", None),
        ] {
            assert_eq!(parameter(challenge, name), expected, "{challenge} {name}");
        }
        assert!(is_harbor(harbor) && !is_harbor(own));
        assert!(is_basic("basic realm=\"x\"") && !is_basic(own) && !is_basic(""));
    }

    #[test]
    fn the_address_of_a_node_is_one_that_clients_use_or_is_said() {
        let host = |text| AllowedHost::parse(text).expect("a host");
        let hosts = Hosts::new(host("hub.example.com"), vec![host("old.example.com:8443")], true);
        for (named, well) in [
            ("https://hub.example.com", true),
            ("https://hub.example.com:443/service/token", true),
            ("https://OLD.example.com:8443/service/token", true),
            ("http://hub.example.com", false),
            ("https://harbor1.example.com/service/token", false),
            ("https://old.example.com", false),
            ("nonsense", true),
        ] {
            assert_eq!(judge_address(named, &hosts).is_none(), well, "{named}");
        }
        let said = judge_address("https://10.0.0.1/x?signature=secret", &hosts).expect("another");
        assert!(said.problem.contains("names itself https://10.0.0.1,"), "{}", said.problem);
        assert!(said.fix.contains("https://hub.example.com"), "{}", said.fix);
    }

    #[test]
    fn versions_and_components_are_judged() {
        for (configured, says, well) in [
            (HarborVersion::Two, "v2.9.5-lab", true),
            (HarborVersion::Two, "v1.10.19", false),
            (HarborVersion::One, "v1.10.19", true),
            (HarborVersion::One, "v2.0.6", false),
            (HarborVersion::Two, "dev", true),
        ] {
            assert_eq!(judge_version(configured, says).is_none(), well, "{says}");
        }
        let component = |name: &str, status: &str| json!({ "name": name, "status": status });
        let health = json!({ "components": [
            component("core", "healthy"), component("redis", "unhealthy"), component("database", "unhealthy"),
            component("jobservice", "unhealthy"),
        ] });
        let (needed, others) = sick_components(&health).expect("components");
        assert_eq!(
            (needed.clone(), others.clone()),
            (vec!["redis".to_owned(), "database".to_owned()], vec!["jobservice".to_owned()])
        );
        let findings = judge_health(&needed, &others);
        let codes: Vec<_> = findings.iter().map(|finding| (finding.code, finding.level)).collect();
        let expected = [
            (Code::DatabaseDown, Level::Error),
            (Code::Unhealthy, Level::Error),
            (Code::ComponentDown, Level::Warning),
        ];
        assert_eq!(codes, expected);
        assert!(sick_components(&json!({})).is_none());
    }

    #[test]
    fn accounts_of_directories_are_told_by_mode_and_name() {
        for (mode, user, well) in [
            ("db_auth", "probe", true),
            ("ldap_auth", "robot$probe", true),
            ("ldap_auth", "admin", true),
            ("ldap_auth", "probe", false),
            ("oidc_auth", "probe", false),
        ] {
            assert_eq!(judge_auth_mode(mode, user).is_none(), well, "{mode} {user}");
        }
    }

    #[test]
    fn a_refused_token_is_the_keys_or_the_clocks_fault() {
        for (node_kid, skew, code, words) in [
            (Some("B"), 0, Code::NodeKey, "signs with key B, and `credential.token.key` is A"),
            (Some("B"), 50, Code::NodeKey, "not the node's"),
            (Some("A"), 50, Code::TokenRefused, "the key is right, and the clocks are apart"),
            (Some("A"), 0, Code::TokenRefused, "the clocks agree"),
            (None, 0, Code::TokenRefused, "does not show"),
        ] {
            let finding = judge_refused_token("A", node_kid, skew);
            assert_eq!(finding.code, code);
            assert!(finding.problem.contains(words), "{}", finding.problem);
        }
    }

    #[test]
    fn tokens_are_opened_without_their_signature() {
        let part = |value: Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let token = format!("{}.{}.x", part(json!({ "kid": "A" })), part(json!({ "iat": 5 })));
        let (header, claims) = token_parts(&json!({ "token": token, "access_token": "" })).expect("a token");
        assert_eq!((header["kid"].as_str(), claims["iat"].as_u64()), (Some("A"), Some(5)));
        assert!(token_parts(&json!({ "token": "a.b.c" })).is_none() && token_parts(&json!({})).is_none());
    }
}
