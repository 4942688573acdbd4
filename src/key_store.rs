//! Key ring directories: one JSON file per key, mode 0600, written whole or not at all.
//!
//! `client-*.json` keys sign client tokens, `member-*.json` keys sign member tokens and carry the
//! certificate for `x5c`, `seal-*.json` keys seal upload pins. All may stand in one directory.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use data_encoding::BASE64;
use rcgen::{CertificateParams, DnType, KeyUsagePurpose};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};

use crate::auth::keys::{Algorithm, KeyError, KeyState, Ring, RingEntry, SigningKey};
use crate::auth::seal::{SECRET_BYTES, SealKey};
use crate::files;

/// Years that a member key's certificate is valid; registries check it on every token.
const CERTIFICATE_YEARS: i32 = 10;

/// Only the owner may read what is in a key directory.
const FILE_MODE: u32 = 0o600;

/// The file of revocations in a key directory. It ends otherwise than key files do.
const REVOCATIONS_FILE: &str = "revocations";

/// The file of users who were removed, which the gateway itself writes.
const REMOVALS_FILE: &str = "removals";

/// When each subject's earlier tokens ended, in seconds since the epoch.
pub type Revocations = BTreeMap<String, u64>;

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyUse {
    /// Signs the tokens of clients.
    Client,
    /// Signs the tokens for members.
    Member,
    /// Seals upload pins.
    Seal,
}

impl KeyUse {
    /// The word in file names.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Member => "member",
            Self::Seal => "seal",
        }
    }
}

/// A key as it stands in its file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    #[serde(rename = "use")]
    purpose: KeyUse,
    created_at: u64,
    activate_at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    private_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certificate: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

/// Why a key directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyStoreError {
    /// A file or directory cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A key file is broken.
    #[error("{path}: not a key file of `tidegate keys`: {problem}")]
    Broken {
        /// Which.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// Others than the owner may read a private key.
    #[error("{path}: others can read this private key (mode {mode:03o}); run: chmod 600 {path}")]
    Exposed {
        /// Which.
        path: String,
        /// Its mode.
        mode: u32,
    },
    /// There is none, and none may be made here.
    #[error(
        "no {purpose} key in {directory}, and with `replicas` above 1 keys are never made by themselves: run `tidegate keys generate --config FILE` once with this configuration, and give every replica the same files"
    )]
    NoKeys {
        /// What for.
        purpose: &'static str,
        /// Where.
        directory: String,
    },
    /// There were some, and there are none any more.
    #[error("no {purpose} key in {directory} any more")]
    KeysGone {
        /// What for.
        purpose: &'static str,
        /// Where.
        directory: String,
    },
    /// There is nothing to export.
    #[error("no member key in {0}: make one with `tidegate keys generate`, or start the gateway once")]
    NoMemberKey(String),
    /// A key cannot be made.
    #[error("a key cannot be made: {0}")]
    Key(#[from] KeyError),
    /// The certificate of a member key cannot be made.
    #[error("a member key's certificate cannot be made: {0}")]
    Certificate(#[from] rcgen::Error),
}

/// A key on disk, for `tidegate keys list`.
#[derive(Debug)]
pub struct ListedKey {
    /// What for.
    pub purpose: KeyUse,
    /// Its id.
    pub id: String,
    /// What it may do now.
    pub state: KeyState,
    /// When it begins to sign or seal, in seconds since the epoch.
    pub activate_at: u64,
    /// Its file.
    pub path: PathBuf,
}

/// Everything in the directories of a configuration.
#[derive(Debug)]
pub struct Keys {
    /// Keys of client tokens.
    pub client: Ring<SigningKey>,
    /// Keys of member tokens.
    pub member: Ring<SigningKey>,
    /// Keys of upload pins.
    pub seal: Ring<SealKey>,
}

/// How long keys verify and open after their successor took over, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// Client tokens: their lifetime, margin and the upload grace.
    pub client: u64,
    /// Upload pins: the upload grace.
    pub seal: u64,
}

/// Reads the keys of two directories, which may be one.
///
/// # Errors
/// [`KeyStoreError`] when a file is broken or may be read by others.
pub fn load(keys: &Path, seal_keys: &Path, retention: Retention) -> Result<Keys, KeyStoreError> {
    let mut client = Vec::new();
    let mut member = Vec::new();
    let mut seal = Vec::new();
    for (path, file) in read_files(keys)? {
        match file.purpose {
            KeyUse::Client => client.push(signing_entry(&path, &file)?),
            KeyUse::Member => member.push(signing_entry(&path, &file)?),
            KeyUse::Seal => {}
        }
    }
    for (path, file) in read_files(seal_keys)? {
        if file.purpose == KeyUse::Seal {
            seal.push(seal_entry(&path, &file)?);
        }
    }
    Ok(Keys {
        client: Ring::new(client, retention.client),
        // A member may trust an old key for as long as it is not restarted.
        member: Ring::new(member, u64::MAX),
        seal: Ring::new(seal, retention.seal),
    })
}

/// Makes the first key of each use that is missing, where that is allowed.
///
/// # Errors
/// [`KeyStoreError::NoKeys`] with more than one replica.
pub fn ensure(
    keys: &Path,
    seal_keys: &Path,
    algorithm: Algorithm,
    replicas: u32,
    now: u64,
) -> Result<Vec<PathBuf>, KeyStoreError> {
    let mut made = Vec::new();
    for (directory, purpose) in [(keys, KeyUse::Client), (keys, KeyUse::Member), (seal_keys, KeyUse::Seal)] {
        if read_files(directory)?.iter().any(|(_, file)| file.purpose == purpose) {
            continue;
        }
        if replicas > 1 {
            let directory = directory.display().to_string();
            return Err(KeyStoreError::NoKeys { purpose: purpose.as_str(), directory });
        }
        made.push(generate(directory, purpose, algorithm, now, now)?);
    }
    Ok(made)
}

/// Makes a key that begins to sign at `activate_at`. Returns its file.
///
/// # Errors
/// [`KeyStoreError`] when it cannot be made or written.
pub fn generate(
    directory: &Path,
    purpose: KeyUse,
    algorithm: Algorithm,
    now: u64,
    activate_at: u64,
) -> Result<PathBuf, KeyStoreError> {
    let mut file =
        KeyFile { purpose, created_at: now, activate_at, private_key: None, certificate: None, secret: None };
    let id = match purpose {
        KeyUse::Client => {
            let pem = SigningKey::generate_pem(algorithm)?;
            let id = SigningKey::from_pem(pem.as_bytes(), None)?.thumbprint().to_owned();
            file.private_key = Some(pem);
            id
        }
        KeyUse::Member => {
            // Every stock registry takes RS256; 3.x miscounts the thumbprint of some EC keys.
            let pem = SigningKey::generate_pem(Algorithm::Rs256)?;
            let id = SigningKey::from_pem(pem.as_bytes(), None)?.thumbprint().to_owned();
            file.certificate = Some(self_signed(&pem, now)?);
            file.private_key = Some(pem);
            id
        }
        KeyUse::Seal => {
            let secret: [u8; SECRET_BYTES] = rand::random();
            file.secret = Some(BASE64.encode(&secret));
            SealKey::new(&secret).id()
        }
    };
    write_file(directory, &format!("{}-{activate_at}-{}.json", purpose.as_str(), &id[..8]), &file)
}

/// Every key of a directory with its state.
///
/// # Errors
/// [`KeyStoreError`] when a file is broken.
pub fn list(directory: &Path, retention: Retention, now: u64) -> Result<Vec<ListedKey>, KeyStoreError> {
    let keys = load(directory, directory, retention)?;
    let files = read_files(directory)?;
    let mut listed = Vec::new();
    for (path, file) in files {
        let (id, state) = match file.purpose {
            KeyUse::Client => state_of(
                &keys.client,
                signing_entry(&path, &file)?.key.thumbprint(),
                SigningKey::thumbprint,
                now,
            ),
            KeyUse::Member => state_of(
                &keys.member,
                signing_entry(&path, &file)?.key.thumbprint(),
                SigningKey::thumbprint,
                now,
            ),
            KeyUse::Seal => {
                let id = seal_entry(&path, &file)?.key.id();
                let at = keys.seal.entries().iter().position(|entry| entry.key.id() == id).unwrap_or(0);
                (id, keys.seal.state(at, now))
            }
        };
        listed.push(ListedKey { purpose: file.purpose, id, state, activate_at: file.activate_at, path });
    }
    listed.sort_by(|a, b| (a.purpose.as_str(), a.activate_at).cmp(&(b.purpose.as_str(), b.activate_at)));
    Ok(listed)
}

/// The certificates of all member keys, PEM, for a member's `rootcertbundle`.
///
/// # Errors
/// [`KeyStoreError`] when a file is broken or there is no member key.
pub fn export_bundle(directory: &Path) -> Result<String, KeyStoreError> {
    let files = read_files(directory)?;
    let certificates = files.iter().filter(|(_, file)| file.purpose == KeyUse::Member);
    let bundle: String = certificates.filter_map(|(_, file)| file.certificate.as_deref()).collect();
    if bundle.is_empty() {
        return Err(KeyStoreError::NoMemberKey(directory.display().to_string()));
    }
    Ok(bundle)
}

/// Ends every token that was issued to `subject` (`provider/name`) until now.
///
/// # Errors
/// [`KeyStoreError`] when the file is broken or cannot be written.
pub fn revoke(directory: &Path, subject: &str, now: u64) -> Result<(), KeyStoreError> {
    let mut revocations = revocations(directory)?;
    revocations.insert(subject.to_owned(), now);
    write_file(directory, REVOCATIONS_FILE, &revocations).map(drop)
}

/// The revocations of a key directory.
///
/// # Errors
/// [`KeyStoreError`] when the file is broken.
pub fn revocations(directory: &Path) -> Result<Revocations, KeyStoreError> {
    read_times(&directory.join(REVOCATIONS_FILE))
}

/// The users who were removed, and when.
///
/// # Errors
/// [`KeyStoreError`] when the file is broken.
pub fn removals(directory: &Path) -> Result<Revocations, KeyStoreError> {
    read_times(&directory.join(REMOVALS_FILE))
}

/// Keeps the users who were removed beyond the end of the process.
///
/// # Errors
/// [`KeyStoreError`] when the file cannot be written.
pub fn keep_removals(directory: &Path, removals: &Revocations) -> Result<(), KeyStoreError> {
    write_file(directory, REMOVALS_FILE, removals).map(drop)
}

fn read_times(path: &Path) -> Result<Revocations, KeyStoreError> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map_err(|error| broken(path, error.to_string())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Revocations::new()),
        Err(source) => Err(KeyStoreError::Io { path: path.display().to_string(), source }),
    }
}

/// Whether a gateway could start with these directories: every file is usable and, where keys are
/// never made by themselves, there is one of each use.
///
/// # Errors
/// [`KeyStoreError`], as at start.
pub fn check(keys: &Path, seal_keys: &Path, replicas: u32) -> Result<(), KeyStoreError> {
    load(keys, seal_keys, Retention { client: 0, seal: 0 })?;
    let uses = [(keys, KeyUse::Client), (keys, KeyUse::Member), (seal_keys, KeyUse::Seal)];
    for (directory, purpose) in uses {
        let missing = !read_files(directory)?.iter().any(|(_, file)| file.purpose == purpose);
        if missing && replicas > 1 {
            let directory = directory.display().to_string();
            return Err(KeyStoreError::NoKeys { purpose: purpose.as_str(), directory });
        }
    }
    Ok(())
}

/// What changes when a key file is added, changed or removed: names and times of all key files.
#[must_use]
pub fn fingerprint(directories: &[&Path]) -> Vec<(PathBuf, Option<std::time::SystemTime>, u64)> {
    let mut seen = Vec::new();
    for directory in directories {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            // What the gateway itself writes there is no change.
            if entry
                .file_name()
                .to_str()
                .is_some_and(|name| name.trim_start_matches('.').starts_with(REMOVALS_FILE))
            {
                continue;
            }
            if let Ok(metadata) = fs::metadata(entry.path()) {
                seen.push((entry.path(), metadata.modified().ok(), metadata.len()));
            }
        }
    }
    seen.sort();
    seen
}

fn state_of<K>(ring: &Ring<K>, id: &str, id_of: impl Fn(&K) -> &str, now: u64) -> (String, KeyState) {
    let at = ring.entries().iter().position(|entry| id_of(&entry.key) == id).unwrap_or(0);
    (id.to_owned(), ring.state(at, now))
}

fn read_files(directory: &Path) -> Result<Vec<(PathBuf, KeyFile)>, KeyStoreError> {
    let io_error = |path: &Path, source| KeyStoreError::Io { path: path.display().to_string(), source };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error(directory, error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| io_error(directory, error))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !name.ends_with(".json") || name.starts_with('.') {
            continue;
        }
        let mode = fs::metadata(&path).map_err(|error| io_error(&path, error))?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyStoreError::Exposed { path: path.display().to_string(), mode });
        }
        let text = fs::read(&path).map_err(|error| io_error(&path, error))?;
        let file = serde_json::from_slice(&text).map_err(|error| broken(&path, error.to_string()))?;
        files.push((path, file));
    }
    files.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(files)
}

fn broken(path: &Path, problem: String) -> KeyStoreError {
    KeyStoreError::Broken { path: path.display().to_string(), problem }
}

fn signing_entry(path: &Path, file: &KeyFile) -> Result<RingEntry<SigningKey>, KeyStoreError> {
    let pem = file.private_key.as_deref().ok_or_else(|| broken(path, "private_key is missing".to_owned()))?;
    let certificate = match &file.certificate {
        None => None,
        Some(pem) => Some(
            CertificateDer::from_pem_slice(pem.as_bytes())
                .map_err(|_| broken(path, "certificate is not a PEM certificate".to_owned()))?,
        ),
    };
    let key = SigningKey::from_pem(pem.as_bytes(), certificate.as_deref())
        .map_err(|error| broken(path, error.to_string()))?;
    Ok(RingEntry { key: Arc::new(key), activate_at: file.activate_at })
}

fn seal_entry(path: &Path, file: &KeyFile) -> Result<RingEntry<SealKey>, KeyStoreError> {
    let secret = file.secret.as_deref().and_then(|secret| BASE64.decode(secret.as_bytes()).ok());
    let secret: [u8; SECRET_BYTES] = secret
        .and_then(|secret| secret.try_into().ok())
        .ok_or_else(|| broken(path, format!("secret is not {SECRET_BYTES} bytes of base64")))?;
    Ok(RingEntry { key: Arc::new(SealKey::new(&secret)), activate_at: file.activate_at })
}

fn self_signed(private_key: &str, now: u64) -> Result<String, KeyStoreError> {
    let key = rcgen::KeyPair::from_pem(private_key)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "tidegate member key");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // A day's slack for members whose clock is behind.
    let year = jiff::Timestamp::from_second(i64::try_from(now).unwrap_or(0))
        .map_or(2026, |time| i32::from(time.to_zoned(jiff::tz::TimeZone::UTC).year()));
    params.not_before = rcgen::date_time_ymd(year - 1, 1, 1);
    params.not_after = rcgen::date_time_ymd(year + CERTIFICATE_YEARS, 1, 1);
    Ok(params.self_signed(&key)?.pem())
}

fn write_file(directory: &Path, name: &str, content: &impl Serialize) -> Result<PathBuf, KeyStoreError> {
    let io_error = |path: &Path, source| KeyStoreError::Io { path: path.display().to_string(), source };
    files::make_directory(directory).map_err(|error| io_error(directory, error))?;
    let path = directory.join(name);
    let text = serde_json::to_vec_pretty(content).map_err(|error| io_error(&path, error.into()))?;
    files::write(&path, &text, FILE_MODE).map_err(|error| io_error(&path, error))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETENTION: Retention = Retention { client: 100, seal: 100 };

    #[test]
    fn the_first_keys_are_made_only_for_a_single_replica() {
        let dir = tempfile::tempdir().expect("a directory");
        let (keys, seal) = (dir.path().join("keys"), dir.path().join("seal"));
        let refused = ensure(&keys, &seal, Algorithm::Es256, 2, 0).expect_err("two replicas");
        assert!(refused.to_string().contains("tidegate keys generate"), "{refused}");
        assert_eq!(ensure(&keys, &seal, Algorithm::Es256, 1, 0).expect("made").len(), 3);
        assert!(ensure(&keys, &seal, Algorithm::Es256, 2, 0).expect("there").is_empty());
        let loaded = load(&keys, &seal, RETENTION).expect("loaded");
        assert!(loaded.client.active(0).is_some() && loaded.seal.active(0).is_some());
        assert!(loaded.member.active(0).expect("a member key").certificate().is_some());
        let mode = fs::metadata(&keys).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn a_new_key_waits_for_its_time_and_the_bundle_has_it_before() {
        let dir = tempfile::tempdir().expect("a directory");
        generate(dir.path(), KeyUse::Member, Algorithm::Rs256, 0, 0).expect("made");
        generate(dir.path(), KeyUse::Member, Algorithm::Rs256, 10, 50).expect("made");
        let states = |now| -> Vec<_> {
            let listed = list(dir.path(), RETENTION, now).expect("listed");
            listed.iter().map(|key| key.state.as_str()).collect()
        };
        assert_eq!(states(49), ["active", "pending"]);
        assert_eq!(states(50), ["retired", "active"]);
        assert_eq!(export_bundle(dir.path()).expect("a bundle").matches("BEGIN CERTIFICATE").count(), 2);
    }

    #[test]
    fn broken_and_exposed_files_are_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = generate(dir.path(), KeyUse::Seal, Algorithm::Es256, 0, 0).expect("made");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("set");
        let error = load(dir.path(), dir.path(), RETENTION).expect_err("exposed").to_string();
        assert!(error.contains("chmod 600") && error.contains("644"), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("set");
        fs::write(&path, "{}").expect("written");
        let error = load(dir.path(), dir.path(), RETENTION).expect_err("broken").to_string();
        assert!(error.contains(path.to_str().expect("text")), "{error}");
    }
}
