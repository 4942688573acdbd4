//! The serde mirror of the configuration file: the same shape, nothing checked beyond types, unknown keys refused.
//!
//! Defaults are in `convert`; `docs/configuration.md` and `config/reference.yaml` name every key, which a test holds true.

mod pools;

use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

pub(super) use pools::*;

use super::decode::SECTION_OR_NONE;
use super::value::{HumanDuration, OrNone, Secret, Size};

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    /// What clients type: `https://host[:port]`.
    pub(super) external_url: String,
    /// Further names under which clients may address the gateway.
    #[serde(default)]
    pub(super) hosts: Vec<String>,
    /// How many workers, each with its own runtime; one per core.
    pub(super) workers: Option<u32>,
    /// Where to listen.
    #[serde(default)]
    pub(super) listeners: Vec<Listener>,
    /// Bounds on downstream connections.
    #[serde(default)]
    pub(super) limits: Limits,
    /// The admin listener and the control socket, or `none`.
    pub(super) admin: Option<OrNone<Admin>>,
    /// Client tokens.
    #[serde(default)]
    pub(super) tokens: Tokens,
    /// Upload sessions.
    #[serde(default)]
    pub(super) uploads: Uploads,
    /// Identity providers, asked in this order.
    #[serde(default)]
    pub(super) identity: Vec<Provider>,
    /// Bounds on password checks.
    #[serde(default)]
    pub(super) password_checks: PasswordChecks,
    /// Who may do what; the first rule that matches decides.
    #[serde(default)]
    pub(super) policy: Vec<PolicyRule>,
    /// Bounds on upstream connections, for pools that say nothing else.
    #[serde(default)]
    pub(super) upstream: Upstream,
    /// Members that serve the same content.
    #[serde(default)]
    pub(super) pools: Vec<Pool>,
    /// Which pool a repository goes to; the first route that matches decides.
    #[serde(default)]
    pub(super) routes: Vec<Route>,
    /// How content is verified on its way.
    #[serde(default)]
    pub(super) verify: Verify,
    /// How reads of the same are shared.
    #[serde(default)]
    pub(super) coalesce: Coalesce,
    /// Logs.
    #[serde(default)]
    pub(super) log: Log,
    /// How the process ends.
    #[serde(default)]
    pub(super) shutdown: Shutdown,
    /// How often files are looked at for changes.
    pub(super) reload_interval: Option<HumanDuration>,
}

/// One address to listen on.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listener {
    /// Address and port.
    pub(super) address: String,
    /// HTTPS with these certificates.
    pub(super) tls: Option<Tls>,
    /// Answer with a redirect only.
    pub(super) redirect: Option<Redirect>,
    /// Take credentials on a plain listener.
    pub(super) allow_plaintext_credentials: Option<bool>,
}

/// TLS of a listener.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tls {
    /// The certificates that SNI picks from; the first is the fallback.
    pub(super) certificates: Vec<CertificatePair>,
}

/// A certificate chain and its key.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CertificatePair {
    /// PEM file with the chain, leaf first.
    pub(super) cert: PathBuf,
    /// PEM file with the private key.
    pub(super) key: PathBuf,
}

/// Where a redirect listener sends clients.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Redirect {
    /// To the same place under https.
    Https,
}

/// Bounds on downstream connections.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    /// Most connections at once.
    pub(super) connections_max: Option<u32>,
    /// A TLS handshake takes at most this long.
    pub(super) handshake_timeout: Option<HumanDuration>,
    /// A request's head arrives within this.
    pub(super) header_timeout: Option<HumanDuration>,
    /// A connection without a request is closed after this.
    pub(super) keep_alive: Option<HumanDuration>,
    /// Largest request head.
    pub(super) header_bytes_max: Option<Size>,
    /// Bytes per second that a body moves at least.
    pub(super) body_rate_min: Option<Size>,
    /// What one h2 connection may send before it is read.
    pub(super) h2_window: Option<Size>,
    /// How much of a refused request's body is read.
    pub(super) refused_body_bytes_max: Option<Size>,
    /// How long a refused request's body is read.
    pub(super) refused_body_timeout: Option<HumanDuration>,
}

/// Where the admin listener and the control socket are.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Admin {
    /// Where the admin listener is.
    pub(super) address: Option<String>,
    /// Names by which it may be asked, besides addresses and `localhost`.
    #[serde(default)]
    pub(super) hosts: Vec<String>,
    /// The control socket, or `none`.
    pub(super) socket: Option<PathBuf>,
}

/// Client tokens.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tokens {
    /// `service` of challenges and `aud` of client tokens.
    pub(super) service: Option<String>,
    /// `iss` of client tokens.
    pub(super) issuer: Option<String>,
    /// What signs client tokens.
    pub(super) algorithm: Option<TokenAlgorithm>,
    /// The announced lifetime.
    pub(super) lifetime: Option<HumanDuration>,
    /// How much later a token really ends.
    pub(super) expiry_margin: Option<HumanDuration>,
    /// Directory of the key ring.
    pub(super) keys: Option<PathBuf>,
    /// How long a new key is only published.
    pub(super) activate_after: Option<HumanDuration>,
    /// How many gateways share the keys.
    pub(super) replicas: Option<u32>,
    /// How many tokens are remembered.
    pub(super) cache_entries_max: Option<u32>,
}

/// What signs client tokens.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum TokenAlgorithm {
    /// ECDSA on P-256.
    Es256,
    /// RSA.
    Rs256,
}

/// Upload sessions.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Uploads {
    /// Directory of the seal keys.
    pub(super) seal_keys: Option<PathBuf>,
    /// How long a session may go on after its start.
    pub(super) grace: Option<HumanDuration>,
    /// How many open sessions are counted.
    pub(super) tracked_max: Option<u32>,
}

/// One identity provider.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Provider {
    /// Users of this file.
    Users(Vec<User>),
    /// An htpasswd file.
    Htpasswd(PathBuf),
    /// The nodes of a Harbor pool.
    Harbor(HarborProvider),
}

/// Accounts that Harbor knows.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HarborProvider {
    /// The pool whose nodes are asked.
    pub(super) pool: String,
    /// A login is answered within this.
    pub(super) timeout: Option<HumanDuration>,
    /// One node is given this long.
    pub(super) try_timeout: Option<HumanDuration>,
    /// After a wrong password the same name and source waits this long.
    pub(super) wrong_pause: Option<HumanDuration>,
    /// Unknown passwords of one source that are tried at once.
    pub(super) per_source_max: Option<u32>,
    /// Whether accounts that only one node knows count everywhere.
    pub(super) foreign_accounts: Option<bool>,
}

/// One user of this file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct User {
    /// The account name.
    pub(super) name: String,
    /// bcrypt hash of the password.
    pub(super) password_hash: Secret,
    /// The user's groups.
    #[serde(default)]
    pub(super) groups: Vec<String>,
}

/// Bounds on password checks.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PasswordChecks {
    /// Checks at once; one per core.
    pub(super) concurrency: Option<u32>,
    /// Checks that may wait.
    pub(super) queue_max: Option<u32>,
    /// How long a success is remembered.
    pub(super) success_ttl: Option<HumanDuration>,
    /// How long a failure is remembered.
    pub(super) failure_ttl: Option<HumanDuration>,
}

/// One policy rule.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicyRule {
    /// About clients without credentials.
    pub(super) anonymous: Option<bool>,
    /// About every client, with or without credentials.
    pub(super) everybody: Option<bool>,
    /// Glob on account names, or `PROVIDER/NAME`.
    pub(super) user: Option<String>,
    /// A group.
    pub(super) group: Option<String>,
    /// The provider that knows the user.
    pub(super) provider: Option<String>,
    /// Networks that the client must come from.
    #[serde(default)]
    pub(super) sources: Vec<String>,
    /// Pattern on repositories.
    pub(super) repository: String,
    /// What is granted; empty denies.
    pub(super) allow: Vec<String>,
}

/// One route.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    /// Only for this host name.
    pub(super) host: Option<String>,
    /// Pattern on repositories.
    pub(super) repository: Option<String>,
    /// The pool's name.
    pub(super) pool: String,
}

/// How content is verified on its way.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Verify {
    /// Content up to this size is verified before the answer begins.
    pub(super) hold: Option<Size>,
    /// Memory for content that is held.
    pub(super) buffer_bytes_max: Option<Size>,
    /// Memory for manifests on their way to members.
    pub(super) manifest_buffer_bytes_max: Option<Size>,
    /// How long a member is not asked for content that it had broken.
    pub(super) quarantine: Option<HumanDuration>,
}

/// How reads of the same are shared.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Coalesce {
    /// Whether they are.
    pub(super) enabled: Option<bool>,
    /// How much of some content is kept for those that read it together.
    pub(super) window: Option<Size>,
    /// How many contents are read together at once.
    pub(super) windows_max: Option<u32>,
}

/// Logs.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Log {
    /// JSON or text.
    pub(super) format: Option<LogForm>,
    /// A `tracing` filter.
    pub(super) filter: Option<String>,
    /// Whether every request gets a line.
    pub(super) access_log: Option<bool>,
    /// How many lines may wait to be written.
    pub(super) queue_lines_max: Option<u32>,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum LogForm {
    /// One JSON object per line.
    Json,
    /// Text for people.
    Text,
}

/// How the process ends.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Shutdown {
    /// Between "not ready" and the end of accepting.
    pub(super) lead_time: Option<HumanDuration>,
    /// How long running requests may go on.
    pub(super) grace_period: Option<HumanDuration>,
}

impl<'de> Deserialize<'de> for OrNone<Admin> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_struct(SECTION_OR_NONE, &["address", "hosts", "socket"], AdminVisitor)
    }
}

struct AdminVisitor;

impl<'de> Visitor<'de> for AdminVisitor {
    type Value = OrNone<Admin>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("none, or a section with address, hosts and socket")
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<OrNone<Admin>, E> {
        Ok(OrNone::None)
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<OrNone<Admin>, A::Error> {
        Admin::deserialize(MapAccessDeserializer::new(access)).map(OrNone::Section)
    }
}
