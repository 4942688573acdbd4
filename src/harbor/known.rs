//! What is remembered of a name and password that were right.

use std::collections::HashMap;
use std::sync::Arc;

use crate::auth::subject::Subject;
use crate::registry::{Actions, Resource, ResourceAccess};
use crate::upstream::MemberName;

/// Actions by project: Harbor knows no finer rights.
#[derive(Debug, Clone, Default)]
pub(super) struct Grants {
    by_place: HashMap<String, Actions>,
}

/// A name and password that were right.
#[derive(Debug)]
pub(super) struct Known {
    pub subject: Subject,
    /// The node that said so.
    pub at: MemberName,
    grants: Grants,
}

/// Most projects that are remembered of one account.
const PLACES_MAX: usize = 256;

/// What rights are kept by: the project with its slash, the whole name where there is no project,
/// a word that is no name for the catalog.
pub(super) fn place_of(access: &ResourceAccess) -> String {
    match &access.resource {
        Resource::Catalog => String::from("*"),
        Resource::Repository(name) => match name.as_str().split_once('/') {
            Some((project, _)) => format!("{project}/"),
            None => name.as_str().to_owned(),
        },
    }
}

/// The part of `wanted` that `actions` allow, if any.
pub(super) fn limited(wanted: &ResourceAccess, actions: Actions) -> Option<ResourceAccess> {
    let actions = wanted.actions.intersection(actions);
    (!actions.is_empty()).then(|| ResourceAccess { resource: wanted.resource.clone(), actions })
}

impl Grants {
    pub(super) fn add(&mut self, access: &ResourceAccess, actions: Actions) {
        let place = place_of(access);
        if self.by_place.len() >= PLACES_MAX && !self.by_place.contains_key(&place) {
            self.by_place.clear();
        }
        let entry = self.by_place.entry(place).or_default();
        *entry = entry.union(actions);
    }

    pub(super) fn covers(&self, wanted: &ResourceAccess) -> bool {
        self.of(wanted).covers(wanted.actions)
    }

    fn of(&self, wanted: &ResourceAccess) -> Actions {
        self.by_place.get(&place_of(wanted)).copied().unwrap_or_default()
    }
}

impl Known {
    /// What a node just said, with what was known before of projects that it was not asked about.
    pub(super) fn new(subject: Subject, at: MemberName, grants: Grants, before: Option<&Arc<Self>>) -> Self {
        let mut all = before.map(|before| before.grants.clone()).unwrap_or_default();
        if all.by_place.len() + grants.by_place.len() > PLACES_MAX {
            all.by_place.clear();
        }
        all.by_place.extend(grants.by_place);
        Self { subject, at, grants: all }
    }

    /// All of `wanted`, where all of it is known to be granted. What is not granted is asked anew
    /// each time, so that a new right counts at once.
    pub(super) fn granted(&self, wanted: &[ResourceAccess]) -> Option<Vec<ResourceAccess>> {
        wanted.iter().all(|access| self.grants.covers(access)).then(|| wanted.to_vec())
    }

    /// The part of `wanted` that is granted.
    pub(super) fn of(&self, wanted: &[ResourceAccess]) -> Vec<ResourceAccess> {
        wanted.iter().filter_map(|access| limited(access, self.grants.of(access))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::RepositoryName;

    fn access(name: &str, actions: Actions) -> ResourceAccess {
        ResourceAccess::repository(RepositoryName::try_from(name).expect("a name"), actions)
    }

    fn known(grants: &[(&str, Actions)], before: Option<&Arc<Known>>) -> Arc<Known> {
        let mut all = Grants::default();
        for (name, actions) in grants {
            all.add(&access(name, Actions::ALL), *actions);
        }
        let at = MemberName::try_from("node1").expect("a name");
        let subject = Subject::new("harbor", "alice").expect("a name");
        Arc::new(Known::new(subject, at, all, before))
    }

    #[test]
    fn rights_are_those_of_the_project_and_only_what_is_granted_is_remembered() {
        let first =
            known(&[("team/app", Actions::PULL_PUSH), ("none/x", Actions::NONE), ("x", Actions::PULL)], None);
        let wanted = [access("team/other", Actions::PULL)];
        assert_eq!(first.granted(&wanted), Some(wanted.to_vec()));
        for missing in
            [access("team/app", Actions::ALL), access("none/x", Actions::PULL), access("x/y", Actions::PULL)]
        {
            assert_eq!(first.granted(std::slice::from_ref(&missing)), None, "{missing}");
        }
        let part = first.of(&[access("team/app", Actions::ALL), access("none/x", Actions::PULL)]);
        assert_eq!(part, [access("team/app", Actions::PULL_PUSH)]);
        // A later word on one project replaces the earlier one and leaves the others alone.
        let second = known(&[("team/app", Actions::PULL)], Some(&first));
        assert_eq!(second.granted(&[access("team/app", Actions::PULL_PUSH)]), None);
        assert!(second.granted(&[access("x", Actions::PULL)]).is_some());
        assert_eq!(first.granted(&[]), Some(Vec::new()), "a login asks for nothing");
    }
}
