//! TLS towards members: which authorities are trusted, which certificate is shown.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use super::settings::{MemberAddress, MemberTls};

/// Why TLS towards a member cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum MemberTlsError {
    /// A PEM file cannot be read.
    #[error("{path}: {source}")]
    Pem {
        /// The file.
        path: String,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// No authority is trusted.
    #[error("no certificate authority: set ca_file, or install the system's ca-certificates")]
    NoRoots,
    /// The server name cannot stand in a certificate.
    #[error("{0:?} is not a host name that a certificate can carry")]
    ServerName(String),
    /// rustls refused the settings.
    #[error("{0}")]
    Rustls(#[from] rustls::Error),
}

/// The connector and expected name for an https member; `None` for http.
///
/// # Errors
/// [`MemberTlsError`] when a file or name is unusable.
pub(super) fn build(
    address: &MemberAddress,
    settings: &MemberTls,
) -> Result<Option<(TlsConnector, ServerName<'static>)>, MemberTlsError> {
    if !address.https {
        return Ok(None);
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(settings)?);
    let config = match &settings.client_certificate {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates(certificate)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|source| pem_error(key, source))?;
            builder.with_client_auth_cert(chain, key)?
        }
    };
    let name = settings.server_name.clone().unwrap_or_else(|| address.host.clone());
    let name = ServerName::try_from(name.clone()).map_err(|_| MemberTlsError::ServerName(name))?;
    Ok(Some((TlsConnector::from(Arc::new(config)), name)))
}

fn roots(settings: &MemberTls) -> Result<RootCertStore, MemberTlsError> {
    let mut roots = RootCertStore::empty();
    match &settings.ca_file {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate)?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() { Err(MemberTlsError::NoRoots) } else { Ok(roots) }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, MemberTlsError> {
    CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|source| pem_error(path, source))
}

fn pem_error(path: &Path, source: rustls::pki_types::pem::Error) -> MemberTlsError {
    MemberTlsError::Pem { path: path.display().to_string(), source }
}
