//! Which pool a host and repository goes to: ordered routes, the first that matches decides.

use crate::auth::policy::Pattern;
use crate::registry::RepositoryName;

/// One route. `pool` is an index into the configuration's pools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Only for this host name (without port); `None` is every host.
    pub host: Option<String>,
    /// Which repositories.
    pub repository: Pattern,
    /// Index of the pool.
    pub pool: usize,
}

/// The ordered routes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RouteTable {
    routes: Vec<Route>,
}

impl RouteTable {
    /// A table of these routes, in this order.
    #[must_use]
    pub fn new(routes: Vec<Route>) -> Self {
        Self { routes }
    }

    /// The pool of a repository, as an index.
    #[must_use]
    pub fn pool_of(&self, host: &str, repository: &RepositoryName) -> Option<usize> {
        self.for_host(host)
            .find(|route| route.repository.matches(repository.as_str(), ""))
            .map(|route| route.pool)
    }

    /// The pool whose catalog a host shows: that of the first route of the host.
    #[must_use]
    pub fn catalog_pool(&self, host: &str) -> Option<usize> {
        self.for_host(host).next().map(|route| route.pool)
    }

    /// Every pool that a host leads to, in the order of its routes.
    pub fn pools_of<'a>(&'a self, host: &'a str) -> impl Iterator<Item = usize> + 'a {
        self.for_host(host).map(|route| route.pool)
    }

    fn for_host<'a>(&'a self, host: &'a str) -> impl Iterator<Item = &'a Route> {
        self.routes.iter().filter(move |route| route.host.as_deref().is_none_or(|only| only == host))
    }
}
