//! The serde mirror of the configuration file: the same shape, nothing checked beyond types, unknown keys refused.
//!
//! Defaults are in `convert`; `docs/configuration.md` and `config/reference.yaml` name every key, which a test holds true.

use std::path::PathBuf;

use serde::Deserialize;

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
    /// Most header lines.
    pub(super) headers_max: Option<u32>,
    /// Most concurrent streams of one h2 connection.
    pub(super) h2_streams_max: Option<u32>,
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
    /// Take a lifetime below 60 s; for tests.
    pub(super) allow_short_lifetime: Option<bool>,
    /// Directory of the key ring.
    pub(super) keys: Option<PathBuf>,
    /// How long a new key is only published.
    pub(super) activate_after: Option<HumanDuration>,
    /// How many gateways share the keys.
    pub(super) replicas: Option<u32>,
    /// Most scopes in one token.
    pub(super) scopes_max: Option<u32>,
    /// Largest token.
    pub(super) token_bytes_max: Option<Size>,
    /// Largest body of a token request.
    pub(super) request_bytes_max: Option<Size>,
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
    /// Questions to nodes at once.
    pub(super) checks_max: Option<u32>,
    /// After a wrong password the same name and source waits this long.
    pub(super) wrong_pause: Option<HumanDuration>,
    /// Logins of the same name and source that may wait.
    pub(super) waiting_max: Option<u32>,
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
    /// How many checks are remembered.
    pub(super) cache_entries_max: Option<u32>,
}

/// One policy rule.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicyRule {
    /// About clients without credentials.
    pub(super) anonymous: Option<bool>,
    /// About everybody, with or without credentials.
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

/// Bounds on upstream connections.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Upstream {
    /// Most connections to one member.
    pub(super) connections_max: Option<u32>,
    /// Most requests that wait for a connection.
    pub(super) queue_max: Option<u32>,
    /// How long a request waits for a connection.
    pub(super) queue_timeout: Option<HumanDuration>,
    /// A connection, with TLS, is made within this.
    pub(super) connect_timeout: Option<HumanDuration>,
    /// An idle connection is closed after this.
    pub(super) idle_timeout: Option<HumanDuration>,
    /// A member's answer begins within this.
    pub(super) first_byte_timeout: Option<HumanDuration>,
    /// Queue, connects and tries together.
    pub(super) head_timeout: Option<HumanDuration>,
    /// A member finishes an upload within this.
    pub(super) finish_timeout: Option<HumanDuration>,
    /// A body makes progress within this.
    pub(super) body_idle_timeout: Option<HumanDuration>,
}

/// Members that serve the same content.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pool {
    /// Its name.
    pub(super) name: String,
    /// What the members are.
    pub(super) kind: Option<Kind>,
    /// What only Harbor nodes need.
    pub(super) harbor: Option<Harbor>,
    /// How the members share their content.
    pub(super) storage: Option<Storage>,
    /// How Tidegate authenticates itself to the members that say nothing else.
    pub(super) credential: Option<Credential>,
    /// The members.
    #[serde(default)]
    pub(super) members: Vec<Member>,
    /// How members are probed.
    #[serde(default)]
    pub(super) health: Health,
    /// Bounds on upstream connections of this pool.
    #[serde(default)]
    pub(super) upstream: Upstream,
}

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// A stock registry.
    Registry,
    /// A Harbor node.
    Harbor,
}

/// What only the Harbor nodes of a pool need.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Harbor {
    /// The first number of their version.
    pub(super) version: Option<u32>,
    /// The account of probes.
    pub(super) account: Option<Account>,
    /// The account that lists all repositories.
    pub(super) catalog_account: Option<Account>,
    /// Whether their web pages and API are served too.
    pub(super) portal: Option<bool>,
}

/// An account of a Harbor node.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Account {
    /// Its name.
    pub(super) user: String,
    /// Its password.
    pub(super) password: Secret,
}

/// How the members of a pool share their content.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Storage {
    /// All members see the same bytes.
    Shared,
    /// Members copy each other.
    Replicated,
}

/// One member.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Member {
    /// Its name, unique over all pools.
    pub(super) name: String,
    /// `http://host:port` or `https://host:port`.
    pub(super) url: String,
    /// Its share of the work, 1 to 100.
    pub(super) weight: Option<u32>,
    /// What it is, where that is not the pool's kind.
    pub(super) kind: Option<Kind>,
    /// The account of this Harbor node's probes.
    pub(super) account: Option<Account>,
    /// The account that lists this Harbor node's repositories.
    pub(super) catalog_account: Option<Account>,
    /// How Tidegate authenticates itself to this member.
    pub(super) credential: Option<Credential>,
    /// TLS towards an https member.
    pub(super) tls: Option<MemberTls>,
}

/// TLS towards a member.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MemberTls {
    /// PEM file with the authorities to trust instead of the system's.
    pub(super) ca_file: Option<PathBuf>,
    /// The name in the member's certificate.
    pub(super) server_name: Option<String>,
    /// What Tidegate shows to the member.
    pub(super) client_certificate: Option<CertificatePair>,
}

/// How Tidegate authenticates itself to a member.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Credential {
    /// Not at all.
    None,
    /// A service account.
    Basic(BasicCredential),
    /// A token that Tidegate mints.
    Token(TokenCredential),
    /// A token that the Harbor node gives for the client's own password.
    Exchange,
    /// The client's own password.
    Relay,
}

/// A service account.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BasicCredential {
    /// The account.
    pub(super) user: String,
    /// Its password.
    pub(super) password: Secret,
}

/// Tokens for a member.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenCredential {
    /// PEM private key; Tidegate's own key ring without it.
    pub(super) key: Option<PathBuf>,
    /// PEM certificate of that key.
    pub(super) certificate: Option<PathBuf>,
    /// `iss` that the member expects.
    pub(super) issuer: Option<String>,
    /// `aud` that the member expects.
    pub(super) audience: Option<String>,
    /// How the `kid` is made.
    pub(super) kid: Option<Kid>,
    /// Whether the certificate goes along.
    pub(super) x5c: Option<bool>,
    /// How long a token is valid.
    pub(super) lifetime: Option<HumanDuration>,
}

/// How the `kid` of a member's tokens is made.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kid {
    /// For docker-registry 2.x.
    Libtrust,
    /// For docker-registry 3.x.
    Thumbprint,
}

/// How members are probed.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Health {
    /// Between two probes of a healthy member.
    pub(super) interval: Option<HumanDuration>,
    /// Between two probes of a member that fails or comes back.
    pub(super) fast_interval: Option<HumanDuration>,
    /// A probe is answered within this.
    pub(super) timeout: Option<HumanDuration>,
    /// Good probes that bring a member back.
    pub(super) rise: Option<u32>,
    /// Bad probes that take a member out.
    pub(super) fall: Option<u32>,
    /// A manifest that must be readable.
    pub(super) canary: Option<String>,
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
