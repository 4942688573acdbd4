//! Pools, members and routes that are in force together. A request loads them once; a reload puts
//! others in their place, in which members that did not change are the same ones.

use std::sync::Arc;

use super::Pool;
use super::pools::Pools;
use crate::registry::{RepositoryName, Resource};
use crate::routing::RouteTable;

/// Pools and routes of one configuration.
pub struct Topology {
    /// The pools and their members.
    pub pools: Pools,
    /// Which pool serves what.
    pub routes: RouteTable,
}

impl Topology {
    /// The pool of a repository, or the one whose catalog the host shows.
    #[must_use]
    pub fn pool_of(&self, host: &str, repository: Option<&RepositoryName>) -> Option<&Arc<Pool>> {
        let pool = match repository {
            Some(repository) => self.routes.pool_of(host, repository),
            None => self.routes.catalog_pool(host),
        };
        pool.and_then(|pool| self.pools.get(pool))
    }

    /// The pool of a resource.
    #[must_use]
    pub fn pool_of_resource(&self, host: &str, resource: &Resource) -> Option<&Arc<Pool>> {
        match resource {
            Resource::Repository(repository) => self.pool_of(host, Some(repository)),
            Resource::Catalog => self.pool_of(host, None),
        }
    }

    /// Comes into force: members that are kept are bounded as the settings say now, and metrics
    /// tell what is so. Nothing of this can fail.
    pub fn take_effect(&self, before: &Self) {
        for pool in self.pools.all() {
            for member in &pool.members {
                member.connections.set_limits(&pool.limits);
                member.publish_state();
            }
        }
        for member in before.pools.members() {
            if self.pools.member(member.name.as_str()).is_none_or(|placed| placed.member.pool != member.pool)
            {
                member.metrics.clear();
            }
        }
        for retired in self.pools.retired() {
            retired.metrics.clear();
        }
    }
}
