//! What is remembered of a name and password that were right.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::auth::subject::Subject;
use crate::registry::{Actions, Resource, ResourceAccess};
use crate::upstream::MemberName;

/// Actions by project, with the time at which a node said so: Harbor knows no finer rights.
#[derive(Debug, Clone, Default)]
pub(super) struct Grants {
    by_place: HashMap<String, (Actions, Option<Instant>)>,
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
    match (&access.resource, access.project()) {
        (Resource::Catalog, _) => String::from("*"),
        (Resource::Repository(_), Some(project)) => format!("{project}/"),
        (Resource::Repository(name), None) => name.as_str().to_owned(),
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
        *entry = (entry.0.union(actions), Some(Instant::now()));
    }

    pub(super) fn join(&mut self, others: Self) {
        if self.by_place.len() + others.by_place.len() > PLACES_MAX {
            self.by_place.clear();
        }
        self.by_place.extend(others.by_place);
    }

    /// What is granted, if it was said within the last `ttl`.
    fn of(&self, wanted: &ResourceAccess, now: Instant, ttl: Duration) -> Actions {
        match self.by_place.get(&place_of(wanted)) {
            Some((actions, Some(said))) if now.saturating_duration_since(*said) <= ttl => *actions,
            Some(_) | None => Actions::NONE,
        }
    }
}

impl Known {
    /// What a node just said, with what was said before of projects that it was not asked about;
    /// that keeps its own age.
    pub(super) fn new(subject: Subject, at: MemberName, grants: Grants, before: Option<&Arc<Self>>) -> Self {
        let mut all = before.map(|before| before.grants.clone()).unwrap_or_default();
        all.join(grants);
        Self { subject, at, grants: all }
    }

    /// All of `wanted`, where all of it is known to be granted. What is not granted is asked anew
    /// each time, so that a new right counts at once.
    pub(super) fn granted(
        &self,
        wanted: &[ResourceAccess],
        now: Instant,
        ttl: Duration,
    ) -> Option<Vec<ResourceAccess>> {
        let covers = |access: &ResourceAccess| self.grants.of(access, now, ttl).covers(access.actions);
        wanted.iter().all(covers).then(|| wanted.to_vec())
    }

    /// The part of `wanted` that is granted.
    pub(super) fn of(&self, wanted: &[ResourceAccess], now: Instant, ttl: Duration) -> Vec<ResourceAccess> {
        wanted.iter().filter_map(|access| limited(access, self.grants.of(access, now, ttl))).collect()
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

    const TTL: Duration = Duration::from_mins(5);

    #[tokio::test(start_paused = true)]
    async fn rights_are_those_of_the_project_and_only_what_is_granted_is_remembered() {
        let first =
            known(&[("team/app", Actions::PULL_PUSH), ("none/x", Actions::NONE), ("x", Actions::PULL)], None);
        let granted = |known: &Known, wanted: &[ResourceAccess]| known.granted(wanted, Instant::now(), TTL);
        let wanted = [access("team/other", Actions::PULL)];
        assert_eq!(granted(&first, &wanted), Some(wanted.to_vec()));
        for missing in
            [access("team/app", Actions::ALL), access("none/x", Actions::PULL), access("x/y", Actions::PULL)]
        {
            assert_eq!(granted(&first, std::slice::from_ref(&missing)), None, "{missing}");
        }
        let both = [access("team/app", Actions::ALL), access("none/x", Actions::PULL)];
        assert_eq!(first.of(&both, Instant::now(), TTL), [access("team/app", Actions::PULL_PUSH)]);
        // A later word on one project replaces the earlier one and leaves the others alone.
        let second = known(&[("team/app", Actions::PULL)], Some(&first));
        assert_eq!(granted(&second, &[access("team/app", Actions::PULL_PUSH)]), None);
        assert!(granted(&second, &[access("x", Actions::PULL)]).is_some());
        assert_eq!(granted(&first, &[]), Some(Vec::new()), "a login asks for nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn a_right_ends_by_its_own_age_however_often_others_are_asked_about() {
        let mut all = known(&[("team/app", Actions::PULL_PUSH)], None);
        for _ in 0..4 {
            tokio::time::advance(TTL / 3).await;
            all = known(&[("other/x", Actions::NONE)], Some(&all));
        }
        assert_eq!(all.granted(&[access("team/app", Actions::PULL)], Instant::now(), TTL), None);
    }
}
