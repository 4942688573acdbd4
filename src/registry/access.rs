//! Actions on named resources, and the scope strings that ask for them.
//!
//! Scope grammar: distribution `docs/content/spec/auth/scope.md`. Unknown types and actions are
//! ignored, as token servers must; the deprecated `(class)` is accepted and dropped.

use std::fmt;

use super::name::RepositoryName;

/// One thing that may be done to a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Read.
    Pull,
    /// Write.
    Push,
    /// Remove.
    Delete,
}

impl Action {
    /// All actions, in the order in which they are written.
    pub const ALL: [Self; 3] = [Self::Pull, Self::Push, Self::Delete];

    /// The word in scopes, tokens and configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
        }
    }

    /// The action of a word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == word)
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A set of actions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Actions(u8);

impl Actions {
    /// No action.
    pub const NONE: Self = Self(0);
    /// Every action, what `*` in a scope asks for.
    pub const ALL: Self = Self(0b111);
    /// What reading needs.
    pub const PULL: Self = Self(0b001);
    /// What writing needs: registries ask for both.
    pub const PULL_PUSH: Self = Self(0b011);
    /// What removing needs.
    pub const DELETE: Self = Self(0b100);

    /// Whether `action` is in the set.
    #[must_use]
    pub fn contains(self, action: Action) -> bool {
        self.0 & action.bit() != 0
    }

    /// Whether all of `other` is in the set.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether no action is in the set.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The actions that are in both.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The actions that are in either.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The set with `action`.
    #[must_use]
    pub fn with(self, action: Action) -> Self {
        Self(self.0 | action.bit())
    }

    /// The actions in writing order.
    pub fn iter(self) -> impl Iterator<Item = Action> {
        Action::ALL.into_iter().filter(move |action| self.contains(*action))
    }

    /// The set of a list of words; `*` is all, unknown words are ignored.
    pub fn from_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        words.into_iter().fold(Self::NONE, |set, word| match word {
            "*" => Self::ALL,
            _ => Action::from_word(word).map_or(set, |action| set.with(action)),
        })
    }
}

impl fmt::Display for Actions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, action) in self.iter().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            f.write_str(action.as_str())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Actions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{self}]")
    }
}

/// What access is granted on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Resource {
    /// One repository.
    Repository(RepositoryName),
    /// The list of all repositories, `registry:catalog:*`.
    Catalog,
}

/// Actions on one resource. For the catalog the only action is "all".
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ResourceAccess {
    /// The resource.
    pub resource: Resource,
    /// What may be done to it.
    pub actions: Actions,
}

impl ResourceAccess {
    /// The project of the repository, where it has one (see [`RepositoryName::project`]).
    #[must_use]
    pub fn project(&self) -> Option<&str> {
        match &self.resource {
            Resource::Repository(name) => name.project(),
            Resource::Catalog => None,
        }
    }

    /// Access to a repository.
    #[must_use]
    pub fn repository(name: RepositoryName, actions: Actions) -> Self {
        Self { resource: Resource::Repository(name), actions }
    }

    /// Access to the catalog.
    #[must_use]
    pub fn catalog() -> Self {
        Self { resource: Resource::Catalog, actions: Actions::ALL }
    }

    /// The resource type in tokens.
    #[must_use]
    pub fn type_word(&self) -> &'static str {
        match self.resource {
            Resource::Repository(_) => "repository",
            Resource::Catalog => "registry",
        }
    }

    /// The resource name in tokens.
    #[must_use]
    pub fn name(&self) -> &str {
        match &self.resource {
            Resource::Repository(name) => name.as_str(),
            Resource::Catalog => "catalog",
        }
    }

    /// The action words in tokens.
    #[must_use]
    pub fn action_words(&self) -> Vec<&'static str> {
        match self.resource {
            Resource::Repository(_) => self.actions.iter().map(Action::as_str).collect(),
            Resource::Catalog if self.actions.is_empty() => Vec::new(),
            Resource::Catalog => vec!["*"],
        }
    }

    /// Reads one entry of a token's `access` claim. `None`: a type or name we do not know.
    pub fn from_claim<'a>(
        type_word: &str,
        name: &str,
        actions: impl IntoIterator<Item = &'a str>,
    ) -> Option<Self> {
        match type_word {
            "repository" => {
                let name = RepositoryName::try_from(name).ok()?;
                Some(Self::repository(name, Actions::from_words(actions)))
            }
            "registry" if name == "catalog" => {
                let all = actions.into_iter().any(|word| word == "*");
                Some(Self {
                    resource: Resource::Catalog,
                    actions: if all { Actions::ALL } else { Actions::NONE },
                })
            }
            _ => None,
        }
    }

    /// Parses one `type:name:action,action` scope. `None`: unknown or malformed, to be ignored.
    #[must_use]
    pub fn parse_scope(scope: &str) -> Option<Self> {
        let (type_and_class, rest) = scope.split_once(':')?;
        let (name, actions) = rest.rsplit_once(':')?;
        let type_word = type_and_class.split_once('(').map_or(type_and_class, |(word, _)| word);
        Self::from_claim(type_word, name, actions.split(','))
    }
}

impl fmt::Display for ResourceAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.resource {
            Resource::Repository(name) => write!(f, "repository:{name}:{}", self.actions),
            Resource::Catalog => f.write_str("registry:catalog:*"),
        }
    }
}

/// Parses any number of scope parameters, each a space-separated list, and merges entries of the
/// same resource. At most `scopes_max` distinct resources; `None` beyond that.
pub fn parse_scopes<'a>(
    parameters: impl IntoIterator<Item = &'a str>,
    scopes_max: usize,
) -> Option<Vec<ResourceAccess>> {
    let mut wanted: Vec<ResourceAccess> = Vec::new();
    let mut seen = 0;
    for scope in parameters.into_iter().flat_map(|parameter| parameter.split(' ')) {
        if scope.is_empty() {
            continue;
        }
        seen += 1;
        if seen > scopes_max {
            return None;
        }
        let Some(access) = ResourceAccess::parse_scope(scope) else { continue };
        match wanted.iter_mut().find(|entry| entry.resource == access.resource) {
            Some(entry) => entry.actions = entry.actions.union(access.actions),
            None => wanted.push(access),
        }
    }
    Some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_read_in_every_spelling_clients_use() {
        for (scope, expected) in [
            ("repository:a/b:pull,push", Some("repository:a/b:pull,push")),
            ("repository:a/b:push,pull", Some("repository:a/b:pull,push")),
            ("repository(plugin):a/b:pull", Some("repository:a/b:pull")),
            ("repository:a/b:*", Some("repository:a/b:pull,push,delete")),
            ("repository:a/b:pull,scanner-pull", Some("repository:a/b:pull")),
            ("repository:a/b:", Some("repository:a/b:")),
            ("registry:catalog:*", Some("registry:catalog:*")),
            ("registry:other:*", None),
            ("repository:host:5000/a:pull", None),
            ("repository:a/b", None),
            ("nonsense", None),
            ("", None),
            ("*", None),
        ] {
            let parsed = ResourceAccess::parse_scope(scope).map(|access| access.to_string());
            assert_eq!(parsed.as_deref(), expected, "{scope:?}");
        }
    }

    #[test]
    fn repeated_and_space_joined_scopes_are_merged() {
        let wanted =
            parse_scopes(["repository:a:pull repository:b:pull", "repository:a:push", "junk", ""], 64);
        let wanted: Vec<_> = wanted.expect("within the limit").iter().map(ToString::to_string).collect();
        assert_eq!(wanted, ["repository:a:pull,push", "repository:b:pull"]);
    }

    #[test]
    fn more_scopes_than_allowed_are_refused() {
        let many = vec!["repository:a:pull"; 65].join(" ");
        assert!(parse_scopes([many.as_str()], 64).is_none());
    }
}
