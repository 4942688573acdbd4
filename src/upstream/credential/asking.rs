//! What a credential is needed for, and what a request gets for it.

use http::HeaderValue;

use crate::auth::subject::Subject;
use crate::registry::ResourceAccess;
use crate::upstream::harbor::{ClientSecret, PasswordTurn};

/// The access that one request needs at a member: its own, and a mount's source.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct MemberAccess {
    /// What the request does.
    pub target: Option<ResourceAccess>,
    /// What a mount reads.
    pub source: Option<ResourceAccess>,
}

impl MemberAccess {
    /// Everything at once.
    pub fn entries(&self) -> impl Iterator<Item = &ResourceAccess> {
        self.target.iter().chain(&self.source)
    }

    /// As Harbor reads it: by project alone, and of two entries of one project only the later one.
    /// So each entry gets the actions of all entries of its project.
    pub(super) fn project_wide(&self) -> Self {
        let (Some(target), Some(source)) = (&self.target, &self.source) else { return self.clone() };
        if target.project().is_none() || target.project() != source.project() {
            return self.clone();
        }
        let actions = target.actions.union(source.actions);
        let with =
            |access: &ResourceAccess| Some(ResourceAccess { resource: access.resource.clone(), actions });
        Self { target: with(target), source: with(source) }
    }
}

/// A request that a credential is needed for.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// In whose name.
    pub subject: &'a Subject,
    /// The client's own name and password, where it is known.
    pub secret: Option<&'a ClientSecret>,
    /// What the request needs.
    pub access: &'a MemberAccess,
    /// Whether it has a body that can be sent only once, so that the credential has to be sure.
    pub streams: bool,
}

/// A member's credential for one request. While it lives no guess of the client's name is made at
/// the member; it is dropped when the member has judged it.
#[derive(Debug, Default)]
pub struct Authorization<'a> {
    /// The header; `None` for members without credential.
    pub header: Option<HeaderValue>,
    _turn: Option<PasswordTurn<'a>>,
}

impl From<HeaderValue> for Authorization<'_> {
    fn from(header: HeaderValue) -> Self {
        Self { header: Some(header), _turn: None }
    }
}

impl<'a> Authorization<'a> {
    /// No header of ours, in the turn of a client's own password.
    #[must_use]
    pub fn of_turn(turn: PasswordTurn<'a>) -> Self {
        Self { header: None, _turn: Some(turn) }
    }

    /// A client's own password, sent in the turn of its name.
    #[must_use]
    pub fn in_turn(header: HeaderValue, turn: PasswordTurn<'a>) -> Self {
        Self { header: Some(header), _turn: Some(turn) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Actions, RepositoryName};

    #[test]
    fn entries_of_one_harbor_project_get_the_actions_of_all_of_them() {
        let access = |name: &str, actions| {
            let name = RepositoryName::try_from(name).expect("a name");
            Some(ResourceAccess::repository(name, actions))
        };
        let (push, pull) = (Actions::PULL_PUSH, Actions::PULL);
        for (target, source, together) in [
            (access("team/app", push), access("team/base", pull), true),
            (access("team/app", push), access("other/base", pull), false),
            (access("app", push), access("base", pull), false),
            (access("team/app", push), None, false),
        ] {
            let given = MemberAccess { target: target.clone(), source: source.clone() };
            let wide = given.project_wide();
            let expected = if together {
                let source = source.map(|source| ResourceAccess { actions: push, ..source });
                MemberAccess { target, source }
            } else {
                given
            };
            assert_eq!(wide, expected);
        }
    }
}
