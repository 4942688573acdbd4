//! Server certificates: picked by SNI, re-read when the files change. A broken pair is refused
//! and the one in use stays.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::settings::{CertificateFiles, TlsSettings};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long a self-signed certificate is valid; clients refuse much longer ones.
const SELF_SIGNED_FOR: Duration = Duration::from_secs(800 * 24 * 3600);

/// Why a certificate and key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read or is not PEM.
    #[error("{path}: {source}")]
    Pem {
        /// The file.
        path: String,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// The chain file holds no certificate.
    #[error("{0}: no certificate in the file")]
    Empty(String),
    /// The key is not the certificate's, or of an unknown kind.
    #[error("{cert} and {key}: {source}")]
    Pair {
        /// The chain's file.
        cert: String,
        /// The key's file.
        key: String,
        /// Why.
        source: rustls::Error,
    },
    /// TLS cannot be set up.
    #[error("{0}")]
    Rustls(#[from] rustls::Error),
    /// A self-signed certificate cannot be made.
    #[error("a self-signed certificate cannot be made: {0}")]
    Generate(#[from] rcgen::Error),
    /// A file cannot be written.
    #[error("{path}: {source}")]
    Write {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

/// A loaded certificate.
#[derive(Debug)]
struct Loaded {
    key: Arc<CertifiedKey>,
    names: Vec<String>,
    expires_at: i64,
    label: String,
}

#[derive(Debug)]
struct Table {
    by_name: HashMap<String, Arc<CertifiedKey>>,
    default: Arc<CertifiedKey>,
    expiries: Vec<(String, i64)>,
}

/// The certificates of one listener.
pub struct Certificates {
    files: Vec<CertificateFiles>,
    table: ArcSwap<Table>,
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Certificates {
    /// Reads the files of a listener.
    ///
    /// # Errors
    /// [`CertificateError`], naming the file.
    pub fn load(settings: &TlsSettings) -> Result<Arc<Self>, CertificateError> {
        let table = ArcSwap::from_pointee(load_table(&settings.certificates)?);
        Ok(Arc::new(Self { files: settings.certificates.clone(), table }))
    }

    /// Reads the files again. On an error what was there stays in use.
    ///
    /// # Errors
    /// [`CertificateError`], naming the file.
    pub fn reload(&self) -> Result<(), CertificateError> {
        self.table.store(Arc::new(load_table(&self.files)?));
        Ok(())
    }

    /// The files.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().flat_map(|pair| [pair.cert.as_path(), pair.key.as_path()])
    }

    /// When each certificate ends, in seconds since the epoch, by its first name.
    #[must_use]
    pub fn expiries(&self) -> Vec<(String, i64)> {
        self.table.load().expiries.clone()
    }

    /// TLS 1.2 and 1.3 with these certificates; h2 and http/1.1 by ALPN.
    ///
    /// # Errors
    /// [`CertificateError::Rustls`] when the provider lacks a protocol version.
    pub fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, CertificateError> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let table = self.table.load();
        let by_name = hello.server_name().and_then(|name| {
            let exact = table.by_name.get(name);
            exact.or_else(|| table.by_name.get(&format!("*.{}", name.split_once('.')?.1)))
        });
        Some(Arc::clone(by_name.unwrap_or(&table.default)))
    }
}

/// The one cryptographic provider.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn load_table(files: &[CertificateFiles]) -> Result<Table, CertificateError> {
    let loaded = files.iter().map(load_pair).collect::<Result<Vec<_>, _>>()?;
    let default = loaded
        .first()
        .map(|first| Arc::clone(&first.key))
        .ok_or_else(|| CertificateError::Empty("tls.certificates".to_owned()))?;
    let mut by_name = HashMap::new();
    for certificate in &loaded {
        for name in &certificate.names {
            by_name.entry(name.clone()).or_insert_with(|| Arc::clone(&certificate.key));
        }
    }
    let expiries =
        loaded.into_iter().map(|certificate| (certificate.label, certificate.expires_at)).collect();
    Ok(Table { by_name, default, expiries })
}

fn load_pair(files: &CertificateFiles) -> Result<Loaded, CertificateError> {
    let (cert, key_path) = (files.cert.display().to_string(), files.key.display().to_string());
    let pem_error = |path: &str| {
        let path = path.to_owned();
        move |source| CertificateError::Pem { path, source }
    };
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_file_iter(&files.cert).and_then(Iterator::collect).map_err(pem_error(&cert))?;
    let leaf = chain.first().cloned().ok_or_else(|| CertificateError::Empty(cert.clone()))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(pem_error(&key_path))?;
    // This compares the key with the certificate, so that a half-replaced pair is noticed.
    let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|source| CertificateError::Pair {
        cert: cert.clone(),
        key: key_path,
        source,
    })?;
    let (names, expires_at) = describe(&leaf);
    let label = names.first().cloned().unwrap_or(cert);
    Ok(Loaded { key: Arc::new(key), names, expires_at, label })
}

/// The DNS names and the end of a certificate.
fn describe(leaf: &CertificateDer<'_>) -> (Vec<String>, i64) {
    let Ok((_, certificate)) = X509Certificate::from_der(leaf) else { return (Vec::new(), 0) };
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let names = alternative.map(|names| &names.value.general_names);
    let dns = names.into_iter().flatten().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    (dns.collect(), certificate.validity().not_after.timestamp())
}

/// Makes a self-signed certificate for these names, unless the files are there already.
///
/// # Errors
/// [`CertificateError`] when it cannot be made or written.
pub fn generate_self_signed(names: &[String], files: &CertificateFiles) -> Result<bool, CertificateError> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;

    if files.cert.exists() && files.key.exists() {
        return Ok(false);
    }
    let key = rcgen::KeyPair::generate()?;
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, names.first().map_or("tidegate", String::as_str));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // A day's slack for clients whose clock is behind.
    params.not_before = SystemTime::now().checked_sub(DAY).unwrap_or(UNIX_EPOCH).into();
    params.not_after = (SystemTime::now() + SELF_SIGNED_FOR).into();
    let certificate = params.self_signed(&key)?;
    let write = |path: &PathBuf, text: &str, mode: u32| {
        let written =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path);
        written
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|source| CertificateError::Write { path: path.display().to_string(), source })
    };
    if let Some(parent) = files.cert.parent() {
        std::fs::create_dir_all(parent)
            .map_err(|source| CertificateError::Write { path: parent.display().to_string(), source })?;
    }
    write(&files.key, &key.serialize_pem(), 0o600)?;
    write(&files.cert, &certificate.pem(), 0o644)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(dir: &Path, name: &str) -> CertificateFiles {
        let files =
            CertificateFiles { cert: dir.join(format!("{name}.crt")), key: dir.join(format!("{name}.key")) };
        assert!(generate_self_signed(&[name.to_owned()], &files).expect("made"));
        files
    }

    #[test]
    fn a_half_replaced_pair_is_refused_and_the_old_one_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let files = pair(dir.path(), "a.example.com");
        let certificates =
            Certificates::load(&TlsSettings { certificates: vec![files.clone()] }).expect("loaded");
        let before = Arc::clone(&certificates.table.load().default);
        let other = pair(dir.path(), "b.example.com");
        std::fs::copy(&other.key, &files.key).expect("copied");
        let error = certificates.reload().expect_err("mismatch").to_string();
        assert!(error.contains("a.example.com.crt") && error.contains("a.example.com.key"), "{error}");
        assert!(Arc::ptr_eq(&before, &certificates.table.load().default));
        std::fs::copy(&other.cert, &files.cert).expect("copied");
        certificates.reload().expect("a pair again");
        assert_eq!(certificates.expiries()[0].0, "b.example.com");
    }

    #[test]
    fn missing_and_empty_files_are_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let files = CertificateFiles { cert: dir.path().join("x.crt"), key: dir.path().join("x.key") };
        let load = || Certificates::load(&TlsSettings { certificates: vec![files.clone()] });
        assert!(load().expect_err("missing").to_string().contains("x.crt"));
        std::fs::write(&files.cert, "").expect("written");
        assert!(load().expect_err("empty").to_string().contains("x.crt"));
    }
}
