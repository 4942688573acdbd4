//! How a node is put together.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use super::behind::{Behind, Drains};
use super::keys::NodeKeys;
use super::node::{Memory, Node};
use super::server::Server;
use super::{Directory, HarborDatabase, HarborNode, HarborRedis, HarborVersion};
use crate::harness::client::basic;
use crate::harness::port::ReservedPort;
use crate::harness::random_secret;
use crate::harness::registry::{Access, StockRegistry};

/// What a node is started with. Whatever is not given, the node has of its own.
#[derive(Debug)]
pub(crate) struct HarborNodeBuilder {
    name: String,
    database: HarborDatabase,
    redis: HarborRedis,
    directory: Directory,
    storage: Option<PathBuf>,
    http_secret: String,
    csrf_key: String,
    external_endpoint: Option<String>,
    version: HarborVersion,
    portal_build: String,
}

impl HarborNodeBuilder {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            database: HarborDatabase::new(),
            redis: HarborRedis::new(),
            directory: Directory::new(),
            storage: None,
            // What every stock Harbor has.
            http_secret: "placeholder".to_owned(),
            csrf_key: random_secret(),
            external_endpoint: None,
            version: HarborVersion::V2_9,
            portal_build: random_secret()[..16].to_owned(),
        }
    }

    pub(crate) fn database(mut self, database: &HarborDatabase) -> Self {
        self.database = database.clone();
        self
    }

    pub(crate) fn redis(mut self, redis: &HarborRedis) -> Self {
        self.redis = redis.clone();
        self
    }

    pub(crate) fn directory(mut self, directory: &Directory) -> Self {
        self.directory = directory.clone();
        self
    }

    /// Where the registry behind keeps its blobs.
    pub(crate) fn storage(mut self, dir: &Path) -> Self {
        self.storage = Some(dir.to_owned());
        self
    }

    /// What the registry behind seals the state of uploads with.
    pub(crate) fn http_secret(mut self, secret: &str) -> Self {
        secret.clone_into(&mut self.http_secret);
        self
    }

    pub(crate) fn csrf_key(mut self, key: &str) -> Self {
        key.clone_into(&mut self.csrf_key);
        self
    }

    /// `EXT_ENDPOINT`; the node's own URL unless it is given.
    pub(crate) fn external_endpoint(mut self, url: &str) -> Self {
        self.external_endpoint = Some(url.trim_end_matches('/').to_owned());
        self
    }

    pub(crate) fn version(mut self, version: HarborVersion) -> Self {
        self.version = version;
        self
    }

    /// The hash in the names of the portal's files, which differs between versions.
    pub(crate) fn portal_build(mut self, build: &str) -> Self {
        build.clone_into(&mut self.portal_build);
        self
    }

    pub(crate) async fn start(self) -> HarborNode {
        let dir = TempDir::with_prefix("tidegate-harbor-").expect("a temporary directory");
        let (entry, core) = (ReservedPort::on_loopback(), ReservedPort::on_loopback());
        let endpoint = self.external_endpoint.unwrap_or_else(|| format!("http://{}", entry.address()));
        let keys = NodeKeys::install(dir.path());
        let (access, authorization) = match self.version {
            HarborVersion::V1_10 => {
                let access = Access::Token {
                    realm: format!("{endpoint}/service/token"),
                    service: "harbor-registry".to_owned(),
                    issuer: "harbor-token-issuer".to_owned(),
                    root_cert_bundle: keys.root_certificate_file().to_owned(),
                };
                (access, None)
            }
            _ => {
                let (user, password) = ("harbor_registry_user".to_owned(), random_secret());
                let authorization = basic(&user, &password);
                (Access::Htpasswd { user, password }, Some(authorization))
            }
        };
        let mut registry = StockRegistry::builder(&format!("{}-registry", self.name))
            .access(access)
            .http_secret(&self.http_secret);
        if let Some(storage) = &self.storage {
            registry = registry.storage(storage);
        }
        let registry = registry.start().await;
        let node = Arc::new(Node {
            version: self.version,
            database: self.database,
            redis: self.redis,
            directory: self.directory,
            keys,
            behind: Behind { address: registry.address(), authorization },
            endpoint,
            core_authority: core.address().to_string(),
            csrf_key: self.csrf_key,
            harbor_secret: random_secret(),
            portal_build: self.portal_build,
            drains: Drains::default(),
            memory: Memory::default(),
        });
        let server = Server::spawn(Arc::clone(&node), entry.address(), core.address());
        server.listen().await;
        HarborNode { name: self.name, entry, core, node, server, _registry: registry, _dir: dir }
    }
}
