//! The token keys of nodes: RSA of 4096 bits as Harbor's `prepare` makes them. They take a second each to make, so all nodes of the
//! test process lend them from one pool; two nodes that run at the same time never have the same one.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{self, KeyPair as _, UnparsedPublicKey};
use data_encoding::{BASE32_NOPAD, BASE64};

/// What an operator finds in a node's `secret/core` and `secret/keys`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct KeyFiles {
    private_key: String,
    root_certificate: String,
}

static FREE: Mutex<Vec<KeyFiles>> = Mutex::new(Vec::new());
static MADE: Mutex<usize> = Mutex::new(0);

/// A key taken from the pool, which gets it back on drop.
#[derive(Debug)]
pub(super) struct LentKey(KeyFiles);

impl LentKey {
    pub(super) fn take() -> Self {
        let free = FREE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Self(free.unwrap_or_else(KeyFiles::generate))
    }
}

impl Drop for LentKey {
    fn drop(&mut self) {
        FREE.lock().unwrap_or_else(PoisonError::into_inner).push(self.0.clone());
    }
}

impl KeyFiles {
    fn generate() -> Self {
        let pair = KeyPair::generate(KeySize::Rsa4096).expect("an RSA key");
        let pkcs8: Pkcs8V1Der<'_> = pair.as_der().expect("a key has a form");
        let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
        *made += 1;
        // OpenSSL 1 writes the one form, OpenSSL 3 the other; nodes of both kinds are out there.
        let private_key = if *made % 2 == 1 {
            pem("RSA PRIVATE KEY", pkcs1_within(pkcs8.as_ref()))
        } else {
            pem("PRIVATE KEY", pkcs8.as_ref())
        };
        Self { private_key, root_certificate: certificate_of(pkcs8.as_ref()) }
    }
}

fn certificate_of(pkcs8: &[u8]) -> String {
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(pkcs8.to_vec());
    let pair =
        rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&key, &rcgen::PKCS_RSA_SHA256).expect("a key pair");
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "harbor-token-issuer");
    params.self_signed(&pair).expect("a certificate").pem()
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let lines: Vec<_> =
        text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// The `RSAPrivateKey` inside a `PrivateKeyInfo`: after the version and the algorithm comes an octet string, whose content it is.
fn pkcs1_within(pkcs8: &[u8]) -> &[u8] {
    const BEFORE: [u8; 18] = [2, 1, 0, 0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 1, 5, 0];
    let inside = pkcs8.strip_prefix(&[0x30, 0x82]).expect("a long sequence");
    let octets = inside[2..].strip_prefix(&BEFORE).expect("an RSA key of version 0");
    octets.strip_prefix(&[4, 0x82]).expect("a long octet string").split_at(2).1
}

/// A key as core has it in its hands for one request.
#[derive(Debug)]
pub(super) struct TokenKey {
    pem: String,
    pair: KeyPair,
    pub(super) kid: String,
}

impl TokenKey {
    fn parse(pem: String) -> Option<Self> {
        let base64: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let der = BASE64.decode(base64.as_bytes()).ok()?;
        let pair = KeyPair::from_der(&der).or_else(|_| KeyPair::from_pkcs8(&der)).ok()?;
        let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().ok()?;
        let kid = libtrust_id(spki.as_ref());
        Some(Self { pem, pair, kid })
    }

    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair
            .sign(&signature::RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)
            .expect("RSA signs everything");
        signature
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let key = UnparsedPublicKey::new(&signature::RSA_PKCS1_2048_8192_SHA256, self.pair.public_key());
        key.verify(message, signature).is_ok()
    }
}

/// The first 30 bytes of the hash of the public key, in base32 by groups of four.
fn libtrust_id(spki: &[u8]) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, spki);
    let text = BASE32_NOPAD.encode(&hash.as_ref()[..30]);
    let groups: Vec<_> =
        text.as_bytes().chunks(4).map(|group| String::from_utf8_lossy(group).into_owned()).collect();
    groups.join(":")
}

/// The key files of a node. Core reads the private key anew for every request, so a replaced file counts at once.
#[derive(Debug)]
pub(super) struct NodeKeys {
    private_key: PathBuf,
    root_certificate: PathBuf,
    last: Mutex<Option<Arc<TokenKey>>>,
    _lent: Option<LentKey>,
}

impl NodeKeys {
    /// Writes the node's key files into `dir`.
    pub(super) fn install(dir: &Path) -> Self {
        let (private_key, root_certificate) = (dir.join("private_key.pem"), dir.join("root.crt"));
        let lent = LentKey::take();
        std::fs::write(&private_key, &lent.0.private_key).expect("a key file");
        std::fs::write(&root_certificate, &lent.0.root_certificate).expect("a certificate file");
        Self { private_key, root_certificate, last: Mutex::new(None), _lent: Some(lent) }
    }

    pub(super) fn private_key_file(&self) -> &Path {
        &self.private_key
    }

    pub(super) fn root_certificate_file(&self) -> &Path {
        &self.root_certificate
    }

    pub(super) fn replace(&self, pem: &str) {
        std::fs::write(&self.private_key, pem).expect("a key file");
    }

    pub(super) fn current(&self) -> Option<Arc<TokenKey>> {
        let pem = std::fs::read_to_string(&self.private_key).ok()?;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_none_or(|key| key.pem != pem) {
            *last = TokenKey::parse(pem).map(Arc::new);
        }
        last.clone()
    }
}
