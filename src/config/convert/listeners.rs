//! Listeners, their certificates, and the limits that all of them share.

use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::config::convert::{Context, Scope, address, to_usize};
use crate::config::document::KeyPath;
use crate::config::error::Fix;
use crate::config::file::{CertificatePair, File, Limits, Listener};
use crate::server::{
    CertificateFiles, ConnectionLimits, ListenerKind, ListenerSettings, ServerSettings, TlsSettings,
};

/// hyper needs this much for a request head.
const HEADER_BYTES_LEAST: u64 = 8 * 1024;
/// Bytes per second: eight bodies side by side on a line of 64 kbit/s move faster.
const BODY_RATE_MIN: u64 = 1024;
/// Two uploads at full speed over 25 ms and 100 Mbit/s.
const H2_WINDOW: u64 = 512 * 1024;
/// What every connection of h2 begins with (RFC 9113 6.9.2).
const H2_WINDOW_LEAST: u64 = 64 * 1024;

/// Listeners and limits.
pub(super) fn server(cx: &mut Context<'_>, file: &File) -> ServerSettings {
    let root = KeyPath::default();
    let path = root.key("listeners");
    if file.listeners.is_empty() {
        let fix = "add `listeners: [{ address: \"0.0.0.0:8443\", tls: { certificates: [{ cert: tls/hub.crt, key: tls/hub.key }] } }]`";
        cx.error(&path, "there is no listener", Fix::advice(fix));
    }
    let mut listeners: Vec<ListenerSettings> = Vec::new();
    for (at, listener) in file.listeners.iter().enumerate() {
        let path = path.index(at);
        let kind = kind(cx, &path, listener);
        let Some(address) = address::socket(cx, &path.key("address"), &listener.address) else {
            continue;
        };
        if address.port() != 0 && listeners.iter().any(|other| other.address == address) {
            let fix = "another port, or one listener with both lists of certificates";
            cx.error(
                &path.key("address"),
                format!("{address} is already the address of another listener"),
                Fix::write(fix),
            );
        }
        if let Some(kind) = kind {
            listeners.push(ListenerSettings { address, kind });
        }
    }
    let secure = file.listeners.iter().any(|listener| listener.tls.is_some());
    for (at, listener) in file.listeners.iter().enumerate() {
        if listener.redirect.is_some() && !secure {
            let fix = "add a listener with `tls:`, or remove `redirect` to serve plain HTTP behind a TLS terminator";
            cx.error(
                &path.index(at).key("redirect"),
                "there is no TLS listener to redirect to",
                Fix::advice(fix),
            );
        }
    }
    ServerSettings {
        workers: workers(cx, &root.key("workers"), file.workers),
        listeners,
        limits: connection_limits(cx, &root.key("limits"), &file.limits),
    }
}

/// One worker per core unless the file says otherwise.
pub(in crate::config) fn workers(cx: &mut Context<'_>, path: &KeyPath, workers: Option<u32>) -> usize {
    cx.count(path, workers, cores()) as usize
}

/// How many cores this process may use.
pub(super) fn cores() -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    u32::try_from(cores).unwrap_or(u32::MAX)
}

fn kind(cx: &mut Context<'_>, path: &KeyPath, listener: &Listener) -> Option<ListenerKind> {
    let plaintext = path.key("allow_plaintext_credentials");
    match (&listener.tls, listener.redirect) {
        (Some(_), Some(_)) => {
            let fix = "keep `tls` here and give `redirect: https` an address of its own, such as 0.0.0.0:80";
            cx.error(&path.key("redirect"), "a listener with TLS cannot redirect", Fix::advice(fix));
            None
        }
        (Some(_) | None, _)
            if listener.allow_plaintext_credentials.is_some()
                && (listener.tls.is_some() || listener.redirect.is_some()) =>
        {
            cx.error(
                &plaintext,
                "only a plain listener that does not redirect takes this key",
                Fix::advice("remove it"),
            );
            None
        }
        (Some(tls), None) => {
            let path = path.key("tls").key("certificates");
            if tls.certificates.is_empty() {
                cx.error(
                    &path,
                    "a TLS listener needs a certificate",
                    Fix::write("[{ cert: tls/hub.crt, key: tls/hub.key }]"),
                );
            }
            let pairs = tls.certificates.iter().enumerate();
            let certificates = pairs.map(|(at, pair)| certificate_pair(cx, &path.index(at), pair)).collect();
            Some(ListenerKind::Tls(TlsSettings { certificates }))
        }
        (None, Some(_)) => Some(ListenerKind::Redirect),
        (None, None) => Some(ListenerKind::Plain {
            allow_plaintext_credentials: listener.allow_plaintext_credentials.unwrap_or(false),
        }),
    }
}

/// Warns where passwords could be expected to work and will not.
pub(super) fn warn_of_plaintext(cx: &mut Context<'_>, file: &File) {
    let plain = |listener: &&Listener| listener.tls.is_none() && listener.redirect.is_none();
    if file.identity.is_empty() {
        return;
    }
    for (at, listener) in file.listeners.iter().enumerate().filter(|(_, listener)| plain(listener)) {
        let path = KeyPath::default().key("listeners").index(at);
        match listener.allow_plaintext_credentials {
            Some(true) => cx.warn(
                &path.key("allow_plaintext_credentials"),
                "passwords and tokens can be read on the way to this listener",
                Fix::advice("use it only behind a TLS terminator on the same machine or a trusted network"),
            ),
            Some(false) | None => cx.warn(
                &path,
                "credentials are refused on this plain listener, so only anonymous clients can use it",
                Fix::advice("add `tls:`, or `allow_plaintext_credentials: true` behind a TLS terminator"),
            ),
        }
    }
}

/// Opens a certificate and its key and holds them against each other.
pub(in crate::config) fn certificate_pair(
    cx: &mut Context<'_>,
    path: &KeyPath,
    pair: &CertificatePair,
) -> CertificateFiles {
    let files = CertificateFiles { cert: cx.resolve(&pair.cert), key: cx.resolve(&pair.key) };
    if matches!(cx.scope, Scope::Reload(_)) {
        return files;
    }
    let (cert_path, key_path) = (path.key("cert"), path.key("key"));
    let chain = cx.read(&cert_path, &pair.cert).and_then(|pem| certificates(cx, &cert_path, &pem));
    let key = cx.read(&key_path, &pair.key).and_then(|pem| private_key(cx, &key_path, &pem));
    if let (Some(chain), Some(key)) = (chain, key) {
        check_match(cx, &key_path, chain, key, &pair.cert);
    }
    files
}

/// The certificates of a PEM file; at least one.
pub(super) fn certificates(
    cx: &mut Context<'_>,
    path: &KeyPath,
    pem: &[u8],
) -> Option<Vec<CertificateDer<'static>>> {
    match CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>() {
        Ok(chain) if !chain.is_empty() => return Some(chain),
        Ok(_) if PrivateKeyDer::from_pem_slice(pem).is_ok() => {
            let fix = "name the certificate file here; `cert` and `key` may have changed places";
            cx.error(path, "the file holds a private key, not a certificate", Fix::advice(fix));
        }
        Ok(_) => {
            let fix = "name a PEM file with `-----BEGIN CERTIFICATE-----`, leaf certificate first";
            cx.error(path, "the file holds no PEM certificate", Fix::advice(fix));
        }
        Err(_) => {
            cx.error(path, "the file is broken PEM", Fix::advice("copy the whole certificate file again"))
        }
    }
    None
}

/// The private key of a PEM file.
pub(super) fn private_key(
    cx: &mut Context<'_>,
    path: &KeyPath,
    pem: &[u8],
) -> Option<PrivateKeyDer<'static>> {
    let text = String::from_utf8_lossy(pem);
    if text.contains("ENCRYPTED") {
        let fix =
            "remove the passphrase with `openssl pkey -in KEY -out NEW`, and protect the file by its mode";
        cx.error(path, "the private key is encrypted", Fix::advice(fix));
        return None;
    }
    let key = PrivateKeyDer::from_pem_slice(pem).ok();
    if key.is_none() {
        let fix = if text.contains("BEGIN CERTIFICATE") {
            "name the key file here; `cert` and `key` may have changed places"
        } else {
            "name a PEM file with `-----BEGIN PRIVATE KEY-----` (PKCS#8, PKCS#1 or SEC1)"
        };
        cx.error(path, "the file holds no PEM private key", Fix::advice(fix));
    }
    key
}

/// Whether the key belongs to the first certificate, and the certificate is in force.
pub(super) fn check_match(
    cx: &mut Context<'_>,
    path: &KeyPath,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    cert_file: &Path,
) {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let file = cert_file.display();
    if chain.first().is_some_and(is_not_in_force) {
        cx.warn(
            path,
            format!("the certificate of {file} has ended or has not begun"),
            Fix::advice("clients will refuse it; renew it, or check this machine's clock"),
        );
    }
    match CertifiedKey::from_der(chain, key, &provider) {
        Ok(_) => {}
        Err(rustls::Error::InconsistentKeys(_)) => {
            let fix = format!(
                "name the key that {file} was made for; the leaf certificate comes first in that file"
            );
            cx.error(
                path,
                format!("the private key does not belong to the first certificate of {file}"),
                Fix::advice(fix),
            );
        }
        Err(error) => {
            let fix = "use an ECDSA P-256, ECDSA P-384, Ed25519 or RSA key with an X.509 certificate";
            cx.error(path, format!("certificate and key cannot be used: {error}"), Fix::advice(fix));
        }
    }
}

fn is_not_in_force(certificate: &CertificateDer<'static>) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(_, certificate)| !certificate.validity().is_valid())
}

/// Limits of downstream connections.
pub(in crate::config) fn connection_limits(
    cx: &mut Context<'_>,
    path: &KeyPath,
    limits: &Limits,
) -> ConnectionLimits {
    let seconds = Duration::from_secs;
    let header_bytes =
        cx.size(&path.key("header_bytes_max"), limits.header_bytes_max, 64 * 1024, HEADER_BYTES_LEAST);
    ConnectionLimits {
        connections_max: cx.count(&path.key("connections_max"), limits.connections_max, 10_000) as usize,
        handshake_timeout: cx.duration(&path.key("handshake_timeout"), limits.handshake_timeout, seconds(10)),
        header_timeout: cx.duration(&path.key("header_timeout"), limits.header_timeout, seconds(30)),
        keep_alive: cx.duration(&path.key("keep_alive"), limits.keep_alive, seconds(75)),
        header_bytes_max: to_usize(header_bytes),
        body_rate_min: cx.size(&path.key("body_rate_min"), limits.body_rate_min, BODY_RATE_MIN, 0),
        h2_window_bytes: to_usize(cx.size(
            &path.key("h2_window"),
            limits.h2_window,
            H2_WINDOW,
            H2_WINDOW_LEAST,
        )),
        refused_body_bytes_max: cx.size(
            &path.key("refused_body_bytes_max"),
            limits.refused_body_bytes_max,
            1024 * 1024,
            1,
        ),
        refused_body_timeout: cx.duration(
            &path.key("refused_body_timeout"),
            limits.refused_body_timeout,
            seconds(2),
        ),
    }
}
