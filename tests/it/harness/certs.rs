//! A certificate authority for one test, and the server certificates it signs.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};

/// Certificates on disk, as the gateway's configuration and the clients want them.
#[derive(Debug)]
pub(crate) struct Certificates {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: PathBuf,
}

/// A server certificate and its key, in PEM files.
#[derive(Debug, Clone)]
pub(crate) struct Leaf {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Certificates {
    /// Makes an authority and writes its certificate to `dir/ca/ca.crt`. That directory holds nothing else, so that it can be
    /// handed to clients that want a directory of trusted authorities.
    pub(crate) fn new(dir: &Path) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Tidegate test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key for the authority");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a self-signed authority");
        std::fs::create_dir_all(dir.join("ca")).expect("a directory for the authority");
        std::fs::write(dir.join("ca/ca.crt"), issuer.pem()).expect("the authority's certificate on disk");
        Self { issuer, dir: dir.to_owned() }
    }

    /// The directory that holds `ca.crt` alone.
    pub(crate) fn authority_dir(&self) -> PathBuf {
        self.dir.join("ca")
    }

    pub(crate) fn authority(&self) -> PathBuf {
        self.dir.join("ca/ca.crt")
    }

    /// Signs a certificate for `names` (DNS names or addresses) and writes it as `NAME.crt` and `NAME.key`. Writing the same name
    /// again replaces the files, as an operator's renewal does.
    pub(crate) fn leaf(&self, name: &str, names: &[&str]) -> Leaf {
        self.sign(name, names, |_| {})
    }

    /// The same, of long ago.
    pub(crate) fn expired_leaf(&self, name: &str, names: &[&str]) -> Leaf {
        self.sign(name, names, |params| {
            params.not_before = rcgen::date_time_ymd(2001, 1, 1);
            params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        })
    }

    fn sign(&self, name: &str, names: &[&str], adjust: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("valid names");
        params.distinguished_name.push(DnType::CommonName, name);
        adjust(&mut params);
        let key = KeyPair::generate().expect("a key for the leaf");
        let cert = params.signed_by(&key, &self.issuer).expect("a signed certificate");
        let leaf =
            Leaf { cert: self.dir.join(format!("{name}.crt")), key: self.dir.join(format!("{name}.key")) };
        std::fs::write(&leaf.cert, cert.pem()).expect("the certificate on disk");
        std::fs::write(&leaf.key, key.serialize_pem()).expect("the key on disk");
        leaf
    }
}
