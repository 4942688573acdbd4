//! Policy rules: which subject, from where, on which repositories, what; and rules that can never decide.

use ipnet::{IpNet, Ipv4Net};

use crate::auth::policy::{Pattern, Policy, Rule, SubjectMatch};
use crate::auth::subject::is_account_name;
use crate::config::convert::Context;
use crate::config::document::KeyPath;
use crate::config::error::Fix;
use crate::config::file::{File, PolicyRule};
use crate::config::suggest::nearest;
use crate::identity::{IdentitySettings, ProviderSettings};
use crate::registry::{Action, Actions};

/// The providers that this version knows, by the names that policy uses.
const PROVIDERS: [&str; 3] = ["users", "htpasswd", "harbor"];

/// The word that grants reading the list of all repositories.
const CATALOG: &str = "catalog";

/// The pattern of every repository.
const EVERYTHING: &str = "**";

/// All rules, in order.
pub(super) fn policy(
    cx: &mut Context<'_>,
    path: &KeyPath,
    file: &File,
    identity: &IdentitySettings,
) -> Policy {
    let mut rules: Vec<(usize, Rule)> = Vec::new();
    for (at, mirror) in file.policy.iter().enumerate() {
        let path = path.index(at);
        if let Some(rule) = rule(cx, &path, at, mirror, identity) {
            let shadow = rules
                .iter()
                .find(|(_, earlier)| decides_before(earlier, &rule))
                .map(|(earlier, _)| earlier + 1);
            if let Some(earlier) = shadow {
                let problem = format!(
                    "rule {} can never decide: rule {earlier} is about the same clients and every repository",
                    at + 1
                );
                cx.warn(
                    &path,
                    problem,
                    Fix::advice(format!("move it in front of rule {earlier}, or remove it")),
                );
            }
            rules.push((at, rule));
        }
    }
    Policy::new(rules.into_iter().map(|(_, rule)| rule).collect())
}

fn rule(
    cx: &mut Context<'_>,
    path: &KeyPath,
    at: usize,
    mirror: &PolicyRule,
    identity: &IdentitySettings,
) -> Option<Rule> {
    let subjects = subjects(cx, path, mirror, identity);
    let sources = mirror
        .sources
        .iter()
        .enumerate()
        .filter_map(|(at, text)| source(cx, &path.key("sources").index(at), text))
        .collect();
    let repository = repository(cx, &path.key("repository"), &mirror.repository);
    let (allow, catalog) = actions(cx, &path.key("allow"), &mirror.allow);
    let (subjects, repository) = (subjects?, repository?);
    if subjects == SubjectMatch::Anonymous && mirror.repository.contains("${user}") {
        cx.warn(
            &path.key("repository"),
            "anonymous clients have no name, so ${user} never matches",
            Fix::advice("use `user: \"*\"` instead"),
        );
    }
    let label = format!("policy rule {} (line {})", at + 1, cx.document.line(path));
    Some(Rule { subjects, sources, repository, allow, catalog, label })
}

/// A pattern on repositories.
pub(super) fn repository(cx: &mut Context<'_>, path: &KeyPath, text: &str) -> Option<Pattern> {
    match Pattern::repository(text) {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            let lower = text.to_ascii_lowercase();
            let fix = if Pattern::repository(&lower).is_ok() {
                Fix::Write(format!("{lower:?}"))
            } else {
                Fix::write("\"team/**\", \"team/*\", \"${user}/**\" or \"**\"")
            };
            cx.error(path, format!("{text:?} is not a repository pattern: {error}"), fix);
            None
        }
    }
}

fn subjects(
    cx: &mut Context<'_>,
    path: &KeyPath,
    rule: &PolicyRule,
    identity: &IdentitySettings,
) -> Option<SubjectMatch> {
    for (key, value) in [("anonymous", rule.anonymous), ("everybody", rule.everybody)] {
        if value == Some(false) {
            cx.error(
                &path.key(key),
                format!("`{key}` is either true or not there"),
                Fix::advice("remove it"),
            );
            return None;
        }
    }
    let named = rule.user.is_some() || rule.group.is_some() || rule.provider.is_some();
    match (rule.anonymous.is_some(), rule.everybody.is_some(), named) {
        (false, false, false) => {
            let fix = "add `user: \"*\"` (everybody with a password), `anonymous: true`, `everybody: true`, `group: NAME` or `user: NAME`";
            cx.error(path, "the rule does not say whom it is about", Fix::advice(fix));
            None
        }
        (true, false, false) => Some(SubjectMatch::Anonymous),
        (false, true, false) => Some(SubjectMatch::Everybody),
        (false, false, true) => authenticated(cx, path, rule, identity),
        (anonymous, _, _) => {
            let key = if anonymous { "anonymous" } else { "everybody" };
            let fix = "write one rule for each, or `everybody: true` alone for all clients";
            cx.error(
                &path.key(key),
                format!("`{key}` excludes every other statement on whom the rule is about"),
                Fix::advice(fix),
            );
            None
        }
    }
}

fn authenticated(
    cx: &mut Context<'_>,
    path: &KeyPath,
    rule: &PolicyRule,
    identity: &IdentitySettings,
) -> Option<SubjectMatch> {
    let user_path = path.key("user");
    let (prefix, name) = match rule
        .user
        .as_deref()
        .map(|user| user.split_once('/').map_or((None, user), |(provider, name)| (Some(provider), name)))
    {
        Some((prefix, name)) => (prefix, Some(name)),
        None => (None, None),
    };
    if let (Some(prefix), Some(provider)) = (prefix, &rule.provider)
        && prefix != provider
    {
        let problem = format!("the user is of the provider {prefix:?}, but `provider` says {provider:?}");
        cx.error(
            &path.key("provider"),
            problem,
            Fix::advice("remove `provider`; the one in front of the user's name is enough"),
        );
        return None;
    }
    let provider_path = if prefix.is_some() { user_path.clone() } else { path.key("provider") };
    let provider = prefix.or(rule.provider.as_deref());
    if let Some(provider) = provider {
        check_provider(cx, &provider_path, provider, name.filter(|_| prefix.is_some()), identity)?;
    }
    let user = match name {
        Some(name) => Some(account(cx, &user_path, name)?),
        None => None,
    };
    if let (Some(name), Some(user)) = (name, &user)
        && user.is_literal()
    {
        check_user(cx, &user_path, name, provider, identity)?;
    }
    if let Some(group) = &rule.group {
        check_group(cx, &path.key("group"), group, identity);
    }
    Some(SubjectMatch::Authenticated {
        user,
        group: rule.group.clone(),
        provider: provider.map(str::to_owned),
    })
}

fn account(cx: &mut Context<'_>, path: &KeyPath, name: &str) -> Option<Pattern> {
    match Pattern::account(name) {
        // `**` and slashes only mean something in paths.
        Ok(pattern) if !name.contains("**") && !name.contains('/') => Some(pattern),
        Ok(_) | Err(_) => {
            let fix = "\"*\", \"ci-*\", NAME or PROVIDER/NAME";
            cx.error(
                path,
                format!("{name:?} is neither an account name nor a pattern of one"),
                Fix::write(fix),
            );
            None
        }
    }
}

fn check_provider(
    cx: &mut Context<'_>,
    path: &KeyPath,
    provider: &str,
    name: Option<&str>,
    identity: &IdentitySettings,
) -> Option<()> {
    let suffix = name.map(|name| format!("/{name}")).unwrap_or_default();
    if !PROVIDERS.contains(&provider) {
        let fix = nearest(provider, PROVIDERS).map_or_else(
            || format!("users{suffix}, htpasswd{suffix} or harbor{suffix}"),
            |near| format!("{near}{suffix}"),
        );
        cx.error(path, format!("there is no provider {provider:?}"), Fix::Write(fix));
        return None;
    }
    let configured = identity.providers.iter().any(|settings| match settings {
        ProviderSettings::Users(_) => provider == "users",
        ProviderSettings::Htpasswd { .. } => provider == "htpasswd",
        ProviderSettings::Harbor(_) => provider == "harbor",
    });
    if !configured {
        cx.error(
            path,
            format!("`identity` has no provider {provider:?}"),
            Fix::Advice(format!("add `- {provider}: ...` to `identity`")),
        );
        return None;
    }
    Some(())
}

/// A user of one name can only be meant where one provider can know that name.
fn check_user(
    cx: &mut Context<'_>,
    path: &KeyPath,
    name: &str,
    provider: Option<&str>,
    identity: &IdentitySettings,
) -> Option<()> {
    let listed = identity.providers.iter().any(|provider| match provider {
        ProviderSettings::Users(users) => users.iter().any(|user| user.name == name),
        ProviderSettings::Htpasswd { .. } | ProviderSettings::Harbor(_) => false,
    });
    // The names that these know are not in the file.
    let others = identity.providers.iter().filter_map(|provider| match provider {
        ProviderSettings::Users(_) => None,
        ProviderSettings::Htpasswd { .. } => Some("htpasswd"),
        ProviderSettings::Harbor(_) => Some("harbor"),
    });
    let mut possible: Vec<&str> = listed.then_some("users").into_iter().chain(others).collect();
    match provider {
        None if possible.len() > 1 => {
            let problem = format!(
                "{} providers can know the user {name:?}, so nobody can tell which one is meant",
                possible.len()
            );
            let last = possible.pop().unwrap_or_default();
            let before: Vec<String> = possible.iter().map(|provider| format!("{provider}/{name}")).collect();
            cx.error(path, problem, Fix::Write(format!("{} or {last}/{name}", before.join(", "))));
            return None;
        }
        None if possible.is_empty() => warn_of_user(cx, path, name),
        Some("users") if !listed => warn_of_user(cx, path, name),
        None | Some(_) => {}
    }
    Some(())
}

fn warn_of_user(cx: &mut Context<'_>, path: &KeyPath, name: &str) {
    cx.warn(
        path,
        format!("no user has the name {name:?}"),
        Fix::advice("add the user to `identity`, or correct the name"),
    );
}

fn check_group(cx: &mut Context<'_>, path: &KeyPath, group: &str, identity: &IdentitySettings) {
    let groups = identity.providers.iter().flat_map(|provider| match provider {
        ProviderSettings::Users(users) => users.as_slice(),
        ProviderSettings::Htpasswd { .. } | ProviderSettings::Harbor(_) => &[],
    });
    let groups: Vec<&str> = groups.flat_map(|user| user.groups.iter().map(String::as_str)).collect();
    if !groups.contains(&group) {
        let fix = nearest(group, groups)
            .map_or_else(|| Fix::advice("add the group to a user's `groups`"), Fix::write);
        cx.warn(path, format!("no user is in the group {group:?}"), fix);
    }
}

fn source(cx: &mut Context<'_>, path: &KeyPath, text: &str) -> Option<IpNet> {
    match text.parse::<IpNet>() {
        Ok(net) if net == net.trunc() => return Some(canonical(net)),
        Ok(net) => {
            let problem = format!("{text:?} has address bits behind its prefix length");
            cx.error(path, problem, Fix::Write(format!("{:?}", net.trunc().to_string())));
        }
        Err(_) => {
            let fix = text.parse().map_or_else(
                |_| "\"10.0.0.0/8\"".to_owned(),
                |address: std::net::IpAddr| format!("{:?}", IpNet::from(address).to_string()),
            );
            cx.error(path, format!("{text:?} is not a network"), Fix::Write(fix));
        }
    }
    None
}

/// Clients of IPv4 are known by their IPv4 address, also where a rule writes their network as IPv6 (RFC 4291 2.5.5.2).
fn canonical(net: IpNet) -> IpNet {
    let IpNet::V6(mapped) = net else { return net };
    let address = mapped.addr().to_ipv4_mapped();
    let prefix = mapped.prefix_len().checked_sub(96);
    let canonical = address.zip(prefix).and_then(|(address, prefix)| Ipv4Net::new(address, prefix).ok());
    canonical.map_or(net, IpNet::V4)
}

fn actions(cx: &mut Context<'_>, path: &KeyPath, words: &[String]) -> (Actions, bool) {
    let (mut allow, mut catalog) = (Actions::NONE, false);
    let known = || Action::ALL.into_iter().map(Action::as_str).chain([CATALOG]);
    for (at, word) in words.iter().enumerate() {
        match Action::from_word(word) {
            Some(action) => allow = allow.with(action),
            None if word == CATALOG => catalog = true,
            None => {
                let synonym = match word.to_ascii_lowercase().as_str() {
                    "*" | "all" | "admin" => Some("pull, push, delete"),
                    "read" | "get" | "r" => Some("pull"),
                    "write" | "put" | "w" => Some("pull, push"),
                    "remove" | "rm" => Some("delete"),
                    _ => nearest(word, known()),
                };
                let fix = synonym.map_or_else(|| known().collect::<Vec<_>>().join(" | "), str::to_owned);
                cx.error(&path.index(at), format!("{word:?} is not an action"), Fix::Write(fix));
            }
        }
    }
    if allow.contains(Action::Push) && !allow.contains(Action::Pull) {
        cx.warn(
            path,
            "push without pull: every client that pushes asks for both",
            Fix::write("[pull, push]"),
        );
    }
    (allow, catalog)
}

/// Whether `earlier` leaves nothing for `later` to decide.
fn decides_before(earlier: &Rule, later: &Rule) -> bool {
    let catalog = !later.catalog || earlier.catalog || earlier.allow.is_empty();
    let sources = earlier.sources.is_empty() || earlier.sources == later.sources;
    earlier.repository.to_string() == EVERYTHING
        && catalog
        && sources
        && is_wider(&earlier.subjects, &later.subjects)
}

/// Whether every client that meets `narrow` meets `wide`.
fn is_wider(wide: &SubjectMatch, narrow: &SubjectMatch) -> bool {
    match (wide, narrow) {
        (SubjectMatch::Everybody, _) | (SubjectMatch::Anonymous, SubjectMatch::Anonymous) => true,
        (
            SubjectMatch::Authenticated { user, group, provider },
            SubjectMatch::Authenticated { user: narrow_user, group: narrow_group, provider: narrow_provider },
        ) => {
            user.as_ref().is_none_or(|user| user.to_string() == "*" || Some(user) == narrow_user.as_ref())
                && group.as_ref().is_none_or(|group| Some(group) == narrow_group.as_ref())
                && provider.as_ref().is_none_or(|provider| Some(provider) == narrow_provider.as_ref())
        }
        (SubjectMatch::Anonymous | SubjectMatch::Authenticated { .. }, _) => false,
    }
}

/// Whether a name in a member's credential can be sent as Basic.
pub(super) fn is_basic_user(name: &str) -> bool {
    is_account_name(name) || (name.contains('$') && is_account_name(&name.replace('$', "")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_of_ipv4_are_the_same_in_both_spellings() {
        for (text, expected) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.1.2.3/128", "10.1.2.3/32"),
            ("::ffff:0.0.0.0/96", "0.0.0.0/0"),
            ("::ffff:0:0/95", "::fffe:0:0/95"),
            ("fd00::/8", "fd00::/8"),
        ] {
            let net: IpNet = text.parse().expect("a network");
            assert_eq!(canonical(net.trunc()).to_string(), expected, "{text}");
        }
    }
}
