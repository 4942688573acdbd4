//! Policy: ordered rules, the first that matches decides, nothing matches means no.
//!
//! A rule matches on every condition it states. Repository patterns know `*` (any characters
//! within one path segment) and `**` (any number of segments, also none in front of or behind
//! others); `${user}` stands for the account name, compared literally, so that no account name
//! can widen a rule.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::subject::Subject;
use crate::registry::{Actions, RepositoryName, Resource, ResourceAccess};

/// The word for the account name in a repository pattern.
const USER_PLACEHOLDER: &str = "${user}";

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Whom it is about.
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

/// Whom a rule is about.
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
    /// Everybody, with or without credentials.
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

    /// What is left of somebody else's decision on one resource: all of it, unless a rule is about
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

/// A glob over path segments.
#[derive(Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    /// `**`
    Any,
    /// Literals, `*` and placeholders within one segment.
    One(Vec<Piece>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Star,
    User,
}

/// Why a pattern was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    /// A segment mixes `**` with other text.
    #[error("`**` must stand alone between slashes, as in \"team/**\"")]
    DoubleStar,
    /// An unknown placeholder.
    #[error("unknown placeholder {0}: only ${{user}} is known")]
    Placeholder(String),
    /// Empty text or segment.
    #[error("empty pattern or path segment")]
    Empty,
    /// A character that can never match.
    #[error(
        "the character {0:?} can never match a name; only lower-case names exist, and `*`, `**` and ${{user}} are special"
    )]
    Character(char),
}

impl Pattern {
    /// Parses a repository pattern.
    ///
    /// # Errors
    /// [`InvalidPattern`], with what to write instead.
    pub fn repository(text: &str) -> Result<Self, InvalidPattern> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
        Self::parse(text, allowed)
    }

    /// Parses a glob on account names, without placeholders or slashes.
    ///
    /// # Errors
    /// [`InvalidPattern`], with what to write instead.
    pub fn account(text: &str) -> Result<Self, InvalidPattern> {
        let placeholder = text.find("${").map(|at| text[at..].to_owned());
        if let Some(placeholder) = placeholder {
            return Err(InvalidPattern::Placeholder(placeholder));
        }
        // A robot's name has a `$` in it, which means nothing else here.
        let mut pieces = Vec::new();
        for (at, literal) in text.split('*').enumerate() {
            if at > 0 {
                pieces.push(Piece::Star);
            }
            if let Some(wrong) = literal.chars().find(|c| c.is_control() || "/?[]\\:\" ".contains(*c)) {
                return Err(InvalidPattern::Character(wrong));
            }
            if !literal.is_empty() {
                pieces.push(Piece::Literal(literal.to_owned()));
            }
        }
        if text.is_empty() {
            return Err(InvalidPattern::Empty);
        }
        Ok(Self { text: text.to_owned(), segments: vec![Segment::One(pieces)] })
    }

    fn parse(text: &str, allowed: impl Fn(char) -> bool) -> Result<Self, InvalidPattern> {
        let segments =
            text.split('/').map(|segment| parse_segment(segment, &allowed)).collect::<Result<_, _>>()?;
        Ok(Self { text: text.to_owned(), segments })
    }

    /// Whether `name` matches, with `user` for the placeholder.
    #[must_use]
    pub fn matches(&self, name: &str, user: &str) -> bool {
        matches_segments(&self.segments, Some(name), user)
    }

    /// Whether an account name matches; a slash in it is a character like any other.
    #[must_use]
    pub fn matches_account(&self, name: &str) -> bool {
        match self.segments.as_slice() {
            [Segment::One(pieces)] => matches_pieces(pieces, name, ""),
            _ => self.matches(name, ""),
        }
    }

    fn is_everything(&self) -> bool {
        self.segments == [Segment::Any]
    }

    /// Whether the pattern is one literal name.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        self.segments.iter().all(|segment| match segment {
            Segment::Any => false,
            Segment::One(pieces) => pieces.iter().all(|piece| matches!(piece, Piece::Literal(_))),
        })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

fn parse_segment(segment: &str, allowed: &impl Fn(char) -> bool) -> Result<Segment, InvalidPattern> {
    if segment == "**" {
        return Ok(Segment::Any);
    }
    if segment.is_empty() {
        return Err(InvalidPattern::Empty);
    }
    if segment.contains("**") {
        return Err(InvalidPattern::DoubleStar);
    }
    let mut pieces = Vec::new();
    let mut rest = segment;
    while let Some(next) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix(USER_PLACEHOLDER) {
            pieces.push(Piece::User);
            rest = after;
        } else if let Some(after) = rest.strip_prefix('*') {
            pieces.push(Piece::Star);
            rest = after;
        } else if next == '$' {
            return Err(InvalidPattern::Placeholder(rest.to_owned()));
        } else {
            let end = rest.find(['*', '$']).unwrap_or(rest.len());
            let (literal, after) = rest.split_at(end);
            if let Some(wrong) = literal.chars().find(|c| !allowed(*c)) {
                return Err(InvalidPattern::Character(wrong));
            }
            pieces.push(Piece::Literal(literal.to_owned()));
            rest = after;
        }
    }
    Ok(Segment::One(pieces))
}

/// `name` is `None` once all its segments are used up.
fn matches_segments(segments: &[Segment], name: Option<&str>, user: &str) -> bool {
    let Some((segment, others)) = segments.split_first() else { return name.is_none() };
    let split = |name: &str| match name.split_once('/') {
        Some((head, tail)) => (head.len(), Some(tail.len())),
        None => (name.len(), None),
    };
    match segment {
        Segment::One(pieces) => {
            let Some(name) = name else { return false };
            let (head, tail) = split(name);
            let tail = tail.map(|length| &name[name.len() - length..]);
            matches_pieces(pieces, &name[..head], user) && matches_segments(others, tail, user)
        }
        Segment::Any => {
            let mut rest = name;
            loop {
                if matches_segments(others, rest, user) {
                    return true;
                }
                let Some(name) = rest else { return false };
                rest = name.split_once('/').map(|(_, tail)| tail);
            }
        }
    }
}

fn matches_pieces(pieces: &[Piece], text: &str, user: &str) -> bool {
    let Some((piece, others)) = pieces.split_first() else { return text.is_empty() };
    match piece {
        Piece::Literal(literal) => {
            text.strip_prefix(literal.as_str()).is_some_and(|rest| matches_pieces(others, rest, user))
        }
        // Anonymous has no name: the placeholder then matches nothing, not everything.
        Piece::User => {
            !user.is_empty() && text.strip_prefix(user).is_some_and(|rest| matches_pieces(others, rest, user))
        }
        Piece::Star => text
            .char_indices()
            .map(|(at, _)| at)
            .chain([text.len()])
            .any(|at| matches_pieces(others, &text[at..], user)),
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
    fn patterns_match_segments_and_never_read_account_names_as_patterns() {
        for (pattern, name, user, expected) in [
            ("**", "a/b/c", "", true),
            ("**", "a", "", true),
            ("a/**", "a/b", "", true),
            ("a/**", "a/b/c", "", true),
            ("a/**", "a", "", true),
            ("a/**", "ab/c", "", false),
            ("a/*", "a/b", "", true),
            ("a/*", "a/b/c", "", false),
            ("*", "a/b", "", false),
            ("*", "ab", "", true),
            ("a*c", "abbc", "", true),
            ("a*c", "abbd", "", false),
            ("**/x", "a/b/x", "", true),
            ("**/x", "x", "", true),
            ("a/**/z", "a/z", "", true),
            ("a/**/z", "a/b/c/z", "", true),
            ("a/**/z", "a/b", "", false),
            ("${user}/**", "eve/x", "eve", true),
            ("${user}/**", "adam/x", "eve", false),
            ("${user}/**", "x/y", "", false),
            ("ci-${user}", "ci-eve", "eve", true),
            ("${user}", "anything", "*", false),
        ] {
            let matches = Pattern::repository(pattern).expect("a pattern").matches(name, user);
            assert_eq!(matches, expected, "{pattern} on {name} for {user:?}");
        }
    }

    #[test]
    fn broken_patterns_are_refused() {
        for (text, expected) in [
            ("", InvalidPattern::Empty),
            ("a//b", InvalidPattern::Empty),
            ("a**", InvalidPattern::DoubleStar),
            ("${group}/x", InvalidPattern::Placeholder("${group}".to_owned())),
            ("Team/x", InvalidPattern::Character('T')),
            ("a?b", InvalidPattern::Character('?')),
        ] {
            assert_eq!(Pattern::repository(text), Err(expected), "{text:?}");
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
