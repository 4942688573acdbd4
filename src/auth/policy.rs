//! Policy: ordered rules, the first that matches decides, nothing matches means no.
//!
//! A rule matches on every condition it states.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

pub use super::pattern::{InvalidPattern, Pattern};
use super::subject::Subject;
use crate::registry::{Actions, RepositoryName, Resource, ResourceAccess};

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The subjects that it is about.
    pub subjects: SubjectMatch,
    /// From which addresses; empty means from anywhere.
    pub sources: Vec<IpNet>,
    /// Which repositories.
    pub repository: Pattern,
    /// What is granted there; empty denies.
    pub allow: Actions,
    /// Whether the list of all repositories may be read.
    pub catalog: bool,
    /// How a person finds the rule: `policy rule 2 (line 31)`.
    pub label: String,
}

/// The subjects that a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubjectMatch {
    /// Clients without credentials.
    Anonymous,
    /// Authenticated clients that meet every stated condition.
    Authenticated {
        /// Glob on the account name; `*` is any.
        user: Option<Pattern>,
        /// A group they are in.
        group: Option<String>,
        /// The provider that knows them.
        provider: Option<String>,
    },
    /// Every client, with or without credentials.
    Everybody,
}

/// What is known of the client when a rule is evaluated.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// Who it is.
    pub subject: &'a Subject,
    /// The groups that its provider names.
    pub groups: &'a [String],
    /// Where it comes from.
    pub source: IpAddr,
}

/// What the policy says, and which rule said it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision<'a> {
    /// The granted actions.
    pub actions: Actions,
    /// The deciding rule; `None` when no rule matched.
    pub rule: Option<&'a Rule>,
}

/// The ordered rules.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    rules: Vec<Rule>,
}

impl Policy {
    /// A policy of these rules, in this order.
    #[must_use]
    pub fn new(rules: Vec<Rule>) -> Self {
        Self { rules }
    }

    /// The rules, in order.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// What `client` may do to `repository`, and why.
    #[must_use]
    pub fn decide(&self, client: Client<'_>, repository: &RepositoryName) -> Decision<'_> {
        let rule = self.rules.iter().find(|rule| {
            rule.is_about(client) && rule.repository.matches(repository.as_str(), client.subject.name())
        });
        Decision { actions: rule.map_or(Actions::NONE, |rule| rule.allow), rule }
    }

    /// Whether `client` may read the list of all repositories: the first rule about the client
    /// that covers every repository decides.
    #[must_use]
    pub fn decide_catalog(&self, client: Client<'_>) -> Decision<'_> {
        let rule =
            self.rules.iter().find(|rule| rule.is_about(client) && (rule.catalog || rule.is_full_denial()));
        let granted = rule.is_some_and(|rule| rule.catalog);
        Decision { actions: if granted { Actions::ALL } else { Actions::NONE }, rule }
    }

    /// The part of `wanted` that is granted; entries without any granted action are left out.
    #[must_use]
    pub fn grant(&self, client: Client<'_>, wanted: &[ResourceAccess]) -> Vec<ResourceAccess> {
        let granted = |access: &ResourceAccess| {
            let actions = access.actions.intersection(self.permitted(client, &access.resource));
            (!actions.is_empty()).then(|| ResourceAccess { resource: access.resource.clone(), actions })
        };
        wanted.iter().filter_map(granted).collect()
    }

    /// What is left of another party's decision on one resource: all of it, unless a rule is about
    /// this client and resource, and then only what the rule allows.
    #[must_use]
    pub fn narrowed(&self, client: Client<'_>, resource: &Resource) -> Actions {
        let decision = match resource {
            Resource::Repository(repository) => self.decide(client, repository),
            Resource::Catalog => self.decide_catalog(client),
        };
        decision.rule.map_or(Actions::ALL, |_| decision.actions)
    }

    /// Everything that is granted on one resource.
    #[must_use]
    pub fn permitted(&self, client: Client<'_>, resource: &Resource) -> Actions {
        match resource {
            Resource::Repository(repository) => self.decide(client, repository).actions,
            Resource::Catalog => self.decide_catalog(client).actions,
        }
    }
}

impl Rule {
    fn is_about(&self, client: Client<'_>) -> bool {
        let from = self.sources.is_empty() || self.sources.iter().any(|net| net.contains(&client.source));
        from && self.subjects.matches(client)
    }

    fn is_full_denial(&self) -> bool {
        self.allow.is_empty() && self.repository.is_everything()
    }
}

impl SubjectMatch {
    fn matches(&self, client: Client<'_>) -> bool {
        match self {
            Self::Everybody => true,
            Self::Anonymous => client.subject.is_anonymous(),
            Self::Authenticated { user, group, provider } => {
                !client.subject.is_anonymous()
                    && user.as_ref().is_none_or(|user| user.matches_account(client.subject.name()))
                    && group.as_ref().is_none_or(|group| client.groups.contains(group))
                    && provider.as_ref().is_none_or(|provider| provider == client.subject.provider())
            }
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let allow = if self.allow.is_empty() { "nothing".to_owned() } else { self.allow.to_string() };
        write!(f, "{}: on repository \"{}\" allow {allow}", self.label, self.repository)?;
        if self.catalog { f.write_str(" and the catalog") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(subjects: SubjectMatch, repository: &str, allow: Actions) -> Rule {
        let repository = Pattern::repository(repository).expect("a pattern");
        Rule { subjects, sources: Vec::new(), repository, allow, catalog: false, label: "rule".to_owned() }
    }

    fn user(glob: &str) -> SubjectMatch {
        SubjectMatch::Authenticated {
            user: Some(Pattern::account(glob).expect("a glob")),
            group: None,
            provider: None,
        }
    }

    #[test]
    fn the_first_matching_rule_decides_and_silence_denies() {
        let policy = Policy::new(vec![
            rule(user("eve"), "secret/**", Actions::NONE),
            rule(SubjectMatch::Anonymous, "public/**", Actions::PULL),
            rule(user("*"), "${user}/**", Actions::ALL),
            rule(user("e*"), "**", Actions::PULL),
        ]);
        let eve = Subject::new("users", "eve").expect("a name");
        let bob = Subject::new("users", "bob").expect("a name");
        for (subject, repository, expected) in [
            (&eve, "secret/x", ""),
            (&eve, "eve/x", "pull,push,delete"),
            (&eve, "bob/x", "pull"),
            (&bob, "bob/x", "pull,push,delete"),
            (&bob, "eve/x", ""),
            (&bob, "public/x", ""),
            (&Subject::anonymous(), "public/x", "pull"),
            (&Subject::anonymous(), "bob/x", ""),
        ] {
            let source = IpAddr::from([127, 0, 0, 1]);
            let repository = RepositoryName::try_from(repository).expect("a name");
            let decision = policy.decide(Client { subject, groups: &[], source }, &repository);
            assert_eq!(decision.actions.to_string(), expected, "{subject} on {repository}");
        }
    }

    #[test]
    fn groups_providers_and_source_addresses_are_all_required() {
        let mut only = rule(
            SubjectMatch::Authenticated {
                user: None,
                group: Some("ops".to_owned()),
                provider: Some("htpasswd".to_owned()),
            },
            "**",
            Actions::ALL,
        );
        only.sources = vec!["10.0.0.0/8".parse().expect("a network")];
        let policy = Policy::new(vec![only]);
        let repository = RepositoryName::try_from("a").expect("a name");
        let ops = ["ops".to_owned()];
        for (provider, groups, source, expected) in [
            ("htpasswd", &ops[..], [10, 1, 1, 1], true),
            ("users", &ops[..], [10, 1, 1, 1], false),
            ("htpasswd", &[][..], [10, 1, 1, 1], false),
            ("htpasswd", &ops[..], [11, 1, 1, 1], false),
        ] {
            let subject = Subject::new(provider, "eve").expect("a name");
            let client = Client { subject: &subject, groups, source: IpAddr::from(source) };
            assert_eq!(
                !policy.decide(client, &repository).actions.is_empty(),
                expected,
                "{provider} {groups:?} {source:?}"
            );
        }
    }
}
