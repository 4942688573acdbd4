//! What other members took while a home was out, where members copy each other: until the home has
//! it too, the home's word on those tags counts for nothing.

use std::collections::HashSet;
use std::time::Duration;

use dashmap::DashMap;
use moka::sync::Cache;

use crate::random::monotonic_ms;
use crate::registry::{RepositoryName, Tag};
use crate::upstream::name::MemberName;

/// Tags of one repository that are remembered; pushes of further ones wait for the home.
const TAGS_MAX: usize = 256;
/// A push that has come to no tag for so long has been given up, in milliseconds.
const UNTAGGED_FOR_MS: u64 = 10 * 60 * 1000;
/// For so long members that disagree about a tag are not asked about it again.
const DISAGREED_FOR: Duration = Duration::from_secs(1);
/// The member that took the writes to a repository, and which tags.
#[derive(Debug, Clone)]
pub struct StandIn {
    /// The member.
    pub member: MemberName,
    /// Tags that were written there, and that the home is not known to have.
    pub tags: HashSet<Tag>,
    /// Whether a push has come as far as a tag; before that there is nothing to compare.
    tagged: bool,
    /// When it was last written to, by [`monotonic_ms`].
    written_ms: u64,
}

impl StandIn {
    /// Whether the home has everything, or there is nothing that it could lack.
    fn is_over(&self) -> bool {
        let age = monotonic_ms().saturating_sub(self.written_ms);
        self.tags.is_empty() && (self.tagged || age > UNTAGGED_FOR_MS)
    }
}

/// What was written while homes were out.
#[derive(Debug)]
pub struct StandIns {
    records: DashMap<RepositoryName, StandIn>,
    records_max: u64,
    /// Tags about which a returned home and the others agree, with the number of the return.
    agreed: Cache<(RepositoryName, Tag, u64), ()>,
    /// Tags about which they did not a moment ago: a crowd that wants one asks the members once.
    disagreed: Cache<(RepositoryName, Tag), ()>,
}

impl StandIns {
    /// Remembers so many repositories, and so many tags that are agreed on.
    #[must_use]
    pub fn new(entries_max: u64) -> Self {
        let disagreed = Cache::builder().max_capacity(entries_max).time_to_live(DISAGREED_FOR).build();
        Self { records: DashMap::new(), records_max: entries_max, agreed: Cache::new(entries_max), disagreed }
    }

    /// The member that took the writes to a repository.
    #[must_use]
    pub fn of(&self, repository: &RepositoryName) -> Option<StandIn> {
        // Nearly always there is none.
        if self.records.is_empty() {
            return None;
        }
        self.records.remove_if(repository, |_, record| record.is_over());
        self.records.get(repository).map(|record| record.clone())
    }

    /// Some of the repositories that are not settled.
    #[must_use]
    pub fn some(&self, most: usize) -> Vec<(RepositoryName, StandIn)> {
        self.records.retain(|_, record| !record.is_over());
        self.records.iter().take(most).map(|entry| (entry.key().clone(), entry.value().clone())).collect()
    }

    /// How many repositories were written to elsewhere than at their home, and are not settled yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Whether a write can be remembered; else it has to wait for the home.
    #[must_use]
    pub fn has_room(&self, repository: &RepositoryName, tag: Option<&Tag>) -> bool {
        match self.records.get(repository) {
            None => (self.records.len() as u64) < self.records_max,
            Some(record) => record.tags.len() < TAGS_MAX || tag.is_none_or(|tag| record.tags.contains(tag)),
        }
    }

    /// A member takes a write for a home that is out.
    pub fn note(&self, repository: &RepositoryName, member: &MemberName, tag: Option<&Tag>) {
        let mut record = self.records.entry(repository.clone()).or_insert_with(|| StandIn {
            member: member.clone(),
            tags: HashSet::new(),
            tagged: false,
            written_ms: 0,
        });
        record.written_ms = monotonic_ms();
        if let Some(tag) = tag {
            record.tagged = true;
            record.tags.insert(tag.clone());
        }
    }

    /// The home has this tag as the others have it.
    pub fn agree(&self, repository: &RepositoryName, tag: &Tag, home_returns: u64) {
        self.agreed.insert((repository.clone(), tag.clone(), home_returns), ());
        if let Some(mut record) = self.records.get_mut(repository) {
            record.tags.remove(tag);
        }
        self.records.remove_if(repository, |_, record| record.is_over());
    }

    /// The home has another one, or none.
    pub fn disagree(&self, repository: &RepositoryName, tag: &Tag) {
        self.disagreed.insert((repository.clone(), tag.clone()), ());
    }

    /// Whether that was seen a moment ago.
    #[must_use]
    pub fn disagreed_lately(&self, repository: &RepositoryName, tag: &Tag) -> bool {
        self.disagreed.contains_key(&(repository.clone(), tag.clone()))
    }

    /// Whether that is known since the home's last return.
    #[must_use]
    pub fn is_agreed(&self, repository: &RepositoryName, tag: &Tag, home_returns: u64) -> bool {
        self.agreed.contains_key(&(repository.clone(), tag.clone(), home_returns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_ends_when_the_home_has_every_tag() {
        let stand_ins = StandIns::new(1);
        let name = |text: &str| RepositoryName::try_from(text).expect("a name");
        let tag = |text: &str| Tag::try_from(text).expect("a tag");
        let member = MemberName::try_from("node2").expect("a name");
        assert!(stand_ins.of(&name("a/b")).is_none());
        stand_ins.note(&name("a/b"), &member, None);
        stand_ins.note(&name("a/b"), &member, Some(&tag("v1")));
        stand_ins.note(&name("a/b"), &member, Some(&tag("v2")));
        assert!(stand_ins.has_room(&name("a/b"), None) && !stand_ins.has_room(&name("a/c"), None));
        for number in 0..TAGS_MAX - 2 {
            stand_ins.note(&name("a/b"), &member, Some(&tag(&format!("t{number}"))));
        }
        assert!(stand_ins.has_room(&name("a/b"), Some(&tag("v1"))));
        assert!(!stand_ins.has_room(&name("a/b"), Some(&tag("one-too-many"))));
        for number in 0..TAGS_MAX - 2 {
            stand_ins.agree(&name("a/b"), &tag(&format!("t{number}")), 1);
        }
        stand_ins.agree(&name("a/b"), &tag("v1"), 1);
        assert!(stand_ins.is_agreed(&name("a/b"), &tag("v1"), 1));
        assert!(!stand_ins.is_agreed(&name("a/b"), &tag("v1"), 2), "another return is another question");
        assert_eq!(stand_ins.of(&name("a/b")).expect("a record").tags, HashSet::from([tag("v2")]));
        stand_ins.agree(&name("a/b"), &tag("v2"), 1);
        assert!(stand_ins.of(&name("a/b")).is_none());
    }
}
