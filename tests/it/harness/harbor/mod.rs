//! A stand-in for a Harbor node: nginx, core and portal written anew after recordings of Harbor v2.9.5, with a real stock registry
//! behind them. Nodes may share a database, a redis, a directory and a storage, or have their own, as real ones do.
//!
//! `tests/it/harbor_contract` holds it to what was recorded.

mod answer;
mod api;
mod artifacts;
mod behind;
mod builder;
mod core;
mod csrf;
mod database;
mod directory;
mod identity;
mod keys;
mod nginx;
mod node;
mod portal;
mod projects;
mod redis;
mod round_robin;
mod server;
mod tokens;
mod v1;
mod v2;
mod web;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

pub(crate) use builder::HarborNodeBuilder;
pub(crate) use database::{AuditEntry, AuthMode, HarborDatabase, Role};
pub(crate) use directory::{Directory, DirectoryState};
pub(crate) use node::SeenRequest;
pub(crate) use redis::HarborRedis;
pub(crate) use round_robin::PlainRoundRobin;

use super::client::TestClient;
use super::port::ReservedPort;
use super::registry::StockRegistry;

/// Which Harbor a node is. What differs between them is in the code by comparison; 2.9 is the one that was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum HarborVersion {
    /// The registry itself checks tokens; no token against forged requests; `/api` without a version.
    V1_10,
    V2_0,
    V2_9,
    /// Allows 60 seconds between clocks.
    V2_11,
    /// The realm has the request's `Host`.
    V2_14,
    /// Takes no token that is older than the project, or says no age.
    V2_15,
}

/// A running node; gone on drop.
#[derive(Debug)]
pub(crate) struct HarborNode {
    name: String,
    entry: ReservedPort,
    core: ReservedPort,
    node: Arc<node::Node>,
    server: server::Server,
    _registry: StockRegistry,
    _dir: TempDir,
}

impl HarborNode {
    pub(crate) fn builder(name: &str) -> HarborNodeBuilder {
        HarborNodeBuilder::new(name)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The node's nginx.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.entry.address()
    }

    /// Core without the nginx before it, which is what `CORE_URL` names.
    pub(crate) fn core_url(&self) -> String {
        format!("http://{}", self.core_address())
    }

    pub(crate) fn core_address(&self) -> SocketAddr {
        self.core.address()
    }

    /// A client of the node itself, for what the test does past the gateway.
    pub(crate) fn client(&self) -> TestClient {
        TestClient::plain(self.address())
    }

    pub(crate) fn core_client(&self) -> TestClient {
        TestClient::plain(self.core_address())
    }

    /// The key that signs the node's tokens, as an operator would copy it.
    pub(crate) fn private_key_file(&self) -> &Path {
        self.node.keys.private_key_file()
    }

    pub(crate) fn root_certificate_file(&self) -> &Path {
        self.node.keys.root_certificate_file()
    }

    /// Puts another key in the place of the node's; it counts from the next request on.
    pub(crate) fn replace_private_key(&self, pem: &str) {
        self.node.keys.replace(pem);
    }

    /// What Harbor's own services show each other. Core takes it from anybody.
    pub(crate) fn harbor_secret(&self) -> &str {
        &self.node.harbor_secret
    }

    /// Every request that reached the node's nginx, oldest first.
    pub(crate) fn requests(&self) -> Vec<SeenRequest> {
        self.node.requests()
    }

    pub(crate) fn clear_requests(&self) {
        self.node.clear_requests();
    }

    /// Ends nginx and core at once: connections are reset, the port refuses. [`Self::restart`] brings them back on the same port.
    pub(crate) async fn kill(&self) {
        self.server.stop().await;
    }

    pub(crate) async fn restart(&self) {
        self.server.stop().await;
        self.server.listen().await;
    }

    /// Freezes nginx and core: the kernel accepts connections, and nothing answers on any of them.
    pub(crate) fn freeze(&self) {
        self.server.freeze();
    }

    pub(crate) fn thaw(&self) {
        self.server.thaw();
    }

    /// Core is gone and nginx is there.
    pub(crate) fn set_core_gone(&self, gone: bool) {
        self.node.change_faults(|faults| faults.core_gone = gone);
    }

    pub(crate) fn set_database_gone(&self, gone: bool) {
        self.node.change_faults(|faults| faults.database_gone = gone);
    }

    pub(crate) fn set_redis_gone(&self, gone: bool) {
        self.node.change_faults(|faults| faults.redis_gone = gone);
    }

    pub(crate) fn set_registry_gone(&self, gone: bool) {
        self.node.change_faults(|faults| faults.registry_gone = gone);
    }

    pub(crate) fn set_jobservice_gone(&self, gone: bool) {
        self.node.change_faults(|faults| faults.jobservice_gone = gone);
    }

    /// How many seconds the node's clock is ahead of the test's, or behind it.
    pub(crate) fn set_clock_offset(&self, seconds: i64) {
        self.node.change_faults(|faults| faults.clock_offset = seconds);
    }

    /// How long the token service thinks before it answers.
    pub(crate) fn set_token_delay(&self, delay: Duration) {
        self.node.change_faults(|faults| faults.token_delay = delay);
    }
}
