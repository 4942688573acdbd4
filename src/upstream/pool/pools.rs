//! All pools and their members, and those that were taken out and may still have upload sessions.

use std::collections::HashMap;
use std::sync::Arc;

use super::Pool;
use crate::upstream::member::Member;

/// Every pool, in the order of the configuration.
pub struct Pools {
    pub(super) pools: Vec<Arc<Pool>>,
    pub(super) by_member: HashMap<String, (usize, Arc<Member>)>,
    pub(super) retired: Vec<Retired>,
}

/// A member that was taken out of the configuration. Its upload sessions still go on there.
pub(super) struct Retired {
    /// By then every pin that names it has ended, seconds since the epoch.
    pub until: u64,
    pub pool: Arc<Pool>,
    pub member: Arc<Member>,
}

/// A member and where it is.
pub struct Placed<'a> {
    /// The pool it is in, or was.
    pub pool: &'a Arc<Pool>,
    /// The member.
    pub member: &'a Arc<Member>,
    /// Whether it was taken out of the configuration.
    pub retired: bool,
}

impl Pools {
    /// The pool at a position of the configuration.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&Arc<Pool>> {
        self.pools.get(index)
    }

    /// Every pool.
    #[must_use]
    pub fn all(&self) -> &[Arc<Pool>] {
        &self.pools
    }

    /// Every member of every pool.
    pub fn members(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.pools.iter().flat_map(|pool| &pool.members)
    }

    /// A member by its name, also one that was taken out.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<Placed<'_>> {
        if let Some((pool, member)) = self.by_member.get(name) {
            return Some(Placed { pool: self.pools.get(*pool)?, member, retired: false });
        }
        let retired = self.retired.iter().find(|retired| retired.member.name.as_str() == name)?;
        Some(Placed { pool: &retired.pool, member: &retired.member, retired: true })
    }

    /// The members that were taken out and may still have upload sessions.
    pub fn retired(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.retired.iter().map(|retired| &retired.member)
    }

    /// Whether any member needs the clients' own passwords.
    #[must_use]
    pub fn need_passwords(&self) -> bool {
        self.pools.iter().any(|pool| pool.needs_passwords)
    }
}
