//! What a port speaks, found by trying the other protocol.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::reach::{Spoken, says_wants_tls};
use crate::upstream::{Door, Question, QuestionError};

/// Tries the other protocol at a member's port, to tell what the port speaks.
pub(super) async fn what_is_spoken(door: &Door, deadline: Instant) -> Spoken {
    let tls = match &door.tls {
        Some(_) => None,
        None => stranger(&door.address.host),
    };
    let wants_tls = tls.is_some();
    let other = Door { tls, ..door.clone() };
    match other.ask(Question::get("/v2/"), deadline).await {
        // A certificate that is not trusted is still one.
        Err(QuestionError::Tls(rustls::Error::InvalidCertificate(_))) => Spoken::Tls,
        Ok(_) if wants_tls => Spoken::Tls,
        // Many servers say in plain HTTP that they want TLS.
        Ok(reply) if says_wants_tls(reply.status, &reply.body, None) => Spoken::Tls,
        Ok(_) => Spoken::Http,
        Err(_) => Spoken::Neither,
    }
}

/// Speaks TLS and trusts nobody, to see whether the other side has a certificate at all.
fn stranger(host: &str) -> Option<(TlsConnector, ServerName<'static>)> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .ok()?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).ok()?;
    Some((TlsConnector::from(Arc::new(config)), name))
}
