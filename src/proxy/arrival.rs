//! A request as it arrives: under which host, over what kind of connection, and which settings are in force for it.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::header::{AUTHORIZATION, HOST};
use http::request;
use tokio::time::Instant;

use super::error::GatewayError;
use super::realm::Realm;
use crate::forwarding::hosts::{Authority, Hosts};
use crate::forwarding::readable::{keep_readable, text};
use crate::forwarding::request::Via;
use crate::snapshot::Snapshot;
use crate::token_service::{Place, TOKEN_PATHS, TokenRequestError};
use crate::upstream::Topology;

/// The connection that a request came on.
#[derive(Debug, Clone)]
pub struct ConnectionInfo {
    /// The worker that serves it.
    pub worker: usize,
    /// The client's address.
    pub peer: SocketAddr,
    /// Whether it is TLS.
    pub tls: bool,
    /// Whether credentials may be sent on it.
    pub credentials_allowed: bool,
}

/// A request before anything is decided about it.
pub(super) struct Arrival {
    /// The request's id.
    pub id: Arc<str>,
    /// When its head had come.
    pub at: Instant,
    pub connection: ConnectionInfo,
    pub head: request::Parts,
    /// Host and port that the client came to.
    pub authority: Authority,
    /// Whether the client sees https.
    pub https: bool,
    /// Pools and routes, the same ones to the end of the request.
    pub topology: Arc<Topology>,
    /// Identities, policy and keys, the same ones to the end of the request.
    pub state: Arc<Snapshot>,
}

impl Arrival {
    /// Where the client is, as far as grants depend on it.
    pub(super) fn place(&self) -> Place<'_> {
        Place { host: self.authority.name(), topology: &self.topology }
    }

    /// Where the client gets its tokens.
    pub(super) fn realm<'a>(&'a self, service: &'a str) -> Realm<'a> {
        Realm { https: self.https, authority: &self.authority.text, service }
    }

    /// What members are told of the client's side.
    pub(super) fn via(&self) -> Via<'_> {
        Via {
            client: self.connection.peer.ip(),
            https: self.https,
            authority: &self.authority.text,
            request_id: &self.id,
        }
    }
}

/// Lets requests arrive: knows the host names that are served, and what is in force.
pub(super) struct Arrivals {
    pub hosts: Hosts,
    pub topology: Arc<ArcSwap<Topology>>,
    pub state: Arc<ArcSwap<Snapshot>>,
}

impl Arrivals {
    /// Makes sure that the headers can be read, checks the `Host` against the list, and refuses credentials on a
    /// connection that others can read.
    pub(super) fn arrive(
        &self,
        id: Arc<str>,
        at: Instant,
        mut head: request::Parts,
        connection: ConnectionInfo,
    ) -> Result<Arrival, GatewayError> {
        keep_readable(&mut head.headers)?;
        let host = match head.uri.authority() {
            Some(authority) => Some(authority.as_str()),
            None => {
                let mut hosts = head.headers.get_all(HOST).iter();
                let host = hosts.next().map(text);
                host.filter(|_| hosts.next().is_none())
            }
        };
        let authority = host.and_then(|host| self.hosts.find(host)).ok_or(GatewayError::UnknownHost)?;
        let https = connection.tls || self.hosts.external_https();
        if head.headers.contains_key(AUTHORIZATION) && !connection.credentials_allowed {
            // Clients of the token endpoint take a 403 for the end of the world.
            if TOKEN_PATHS.contains(&head.uri.path()) {
                return Err(TokenRequestError::Plaintext.into());
            }
            return Err(GatewayError::PlaintextCredentials);
        }
        let (topology, state) = (self.topology.load_full(), self.state.load_full());
        Ok(Arrival { id, at, connection, head, authority, https, topology, state })
    }
}
