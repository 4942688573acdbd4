//! What can be set of pools, members, their credentials and their probes.

use std::path::PathBuf;
use std::time::Duration;

use crate::auth::keys::KidStyle;
use crate::balance::Tier;
use crate::balance::budget::RetryRules;
use crate::balance::ejection::EjectionRules;
use crate::registry::{Reference, RepositoryName};
use crate::secret::SecretString;

use super::name::{MemberName, PoolName};

/// Members that serve the same content.
#[derive(Debug, Clone)]
pub struct PoolSettings {
    /// Its name in routes, metrics and logs.
    pub name: PoolName,
    /// How the members share their content.
    pub storage: Storage,
    /// Whether the web pages and the API of its Harbor nodes are served too.
    pub portal: bool,
    /// The members, in file order; at least one.
    pub members: Vec<MemberSettings>,
    /// How members are probed.
    pub health: HealthSettings,
    /// Bounds on upstream connections and waiting.
    pub limits: UpstreamLimits,
    /// Where members copy each other: another member takes writes for a home that was out for so
    /// long; `None` for never.
    pub write_failover: Option<Duration>,
    /// Where members copy each other: the names of the members before the list was changed, whose
    /// homes are asked too for what is not at the new ones yet.
    pub previous_members: Vec<MemberName>,
    /// For so long after a write, manifests and tags of its repository are read where it was made.
    pub read_your_writes: Duration,
}

/// How the members of a pool share their content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// All members see the same bytes.
    Shared,
    /// Members copy each other, late: each project has a home member.
    Replicated,
}

/// What a member is.
#[derive(Debug, Clone)]
pub enum MemberKind {
    /// A stock registry.
    Registry,
    /// A Harbor node.
    Harbor(HarborSettings),
}

/// What is needed of a Harbor node.
#[derive(Debug, Clone)]
pub struct HarborSettings {
    /// Its version.
    pub version: HarborVersion,
    /// A robot or local account that may do little: probes, and the control of refusals. Not an
    /// account of LDAP or OIDC, whose failure would look like the node's.
    pub account: AccountSettings,
    /// The account that lists all repositories, which needs an administrator.
    pub catalog_account: AccountSettings,
}

/// Versions of Harbor that differ in what matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HarborVersion {
    /// 1.x: the registry itself validates tokens, with the node's `root.crt`.
    One,
    /// 2.x: core validates tokens, with the node's `private_key.pem`.
    Two,
}

/// An account of a member.
#[derive(Debug, Clone)]
pub struct AccountSettings {
    /// Its name.
    pub user: String,
    /// Its password.
    pub password: SecretString,
}

/// One stock registry or Harbor node.
#[derive(Debug, Clone)]
pub struct MemberSettings {
    /// Its name, unique over all pools; sealed into pins, so renaming a member ends its uploads.
    pub name: MemberName,
    /// Where it is.
    pub address: MemberAddress,
    /// TLS towards it, for https members.
    pub tls: MemberTls,
    /// Its share of the work relative to the others, 1 to 100.
    pub weight: u32,
    /// Whether it is always used, or only when no other member answers.
    pub tier: Tier,
    /// What it is.
    pub kind: MemberKind,
    /// How Tidegate authenticates itself there.
    pub credential: CredentialSettings,
}

/// Scheme, host and port of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberAddress {
    /// Whether to speak TLS.
    pub https: bool,
    /// Name or address, without brackets.
    pub host: String,
    /// The port, also where it is the scheme's own.
    pub port: u16,
}

/// TLS towards a member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemberTls {
    /// Trust only these authorities (PEM) instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// The name that the member's certificate must carry, where it is not the URL's host.
    pub server_name: Option<String>,
    /// Certificate and key that Tidegate shows to the member.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
}

/// How Tidegate authenticates itself to a member.
#[derive(Debug, Clone)]
pub enum CredentialSettings {
    /// Not at all: a trusted network.
    None,
    /// A service account.
    Basic(AccountSettings),
    /// A token that we mint with the request's access.
    Token(MemberTokenSettings),
    /// A token that the Harbor node gives for the client's own password, per client and access.
    Exchange,
    /// The client's own password with every request, which Harbor's core takes on all of `/v2`.
    Relay,
}

/// What a member wants its tokens to look like.
#[derive(Debug, Clone)]
pub struct MemberTokenSettings {
    /// What signs them.
    pub key: MemberKeySource,
    /// The `iss` that the member expects.
    pub issuer: String,
    /// The `aud` that the member expects, its `service`.
    pub audience: String,
    /// How the `kid` is made.
    pub kid: KidStyle,
    /// Whether the certificate goes along in `x5c`; needed by `rootcertbundle`, refused by a
    /// `jwks`-only v3 registry.
    pub x5c: bool,
    /// How long a minted token is valid.
    pub lifetime: Duration,
}

/// What signs a member's tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberKeySource {
    /// Tidegate's own member keys, from `tokens.keys`.
    Ring,
    /// A key that the operator gives, such as a node's own private key.
    File {
        /// PEM private key.
        key: PathBuf,
        /// PEM certificate for `x5c`.
        certificate: Option<PathBuf>,
    },
}

/// How members are probed.
#[derive(Debug, Clone)]
pub struct HealthSettings {
    /// Time between two probes of a healthy member.
    pub interval: Duration,
    /// Time between two probes of a member that fails or is coming back.
    pub fast_interval: Duration,
    /// A probe is answered within this.
    pub timeout: Duration,
    /// Good probes in a row that bring a member back.
    pub rise: u32,
    /// Bad probes in a row that take a member out.
    pub fall: u32,
    /// A manifest that must be readable.
    pub canary: Option<(RepositoryName, Reference)>,
    /// For so long a member that comes back gets less than its share; zero for not at all.
    pub slow_start: Duration,
    /// Below this share of serving members, in percent, reads also try members that are out.
    pub panic_percent: u32,
    /// When requests show that a member fails.
    pub ejection: EjectionRules,
}

/// Bounds on upstream connections and waiting, per member unless said otherwise.
#[derive(Debug, Clone)]
pub struct UpstreamLimits {
    /// Most connections to one member, exact over all workers; a request uses one.
    pub connections_max: usize,
    /// Most requests that wait for a connection.
    pub queue_max: usize,
    /// A request waits at most this long for a connection.
    pub queue_timeout: Duration,
    /// A connection, with its TLS handshake, is made within this.
    pub connect_timeout: Duration,
    /// An idle connection is closed after this; keep it below the member's own keep-alive.
    pub idle_timeout: Duration,
    /// A member's answer begins within this, while other candidates remain.
    pub first_byte_timeout: Duration,
    /// Queue, connects and tries together end within this.
    pub head_timeout: Duration,
    /// A member may take this long to finish an upload (`PUT ?digest`).
    pub finish_timeout: Duration,
    /// A body, either way, makes progress within this.
    pub body_idle_timeout: Duration,
    /// Most connections to one member that pulls and everything else but uploads use at once.
    pub pulls_max: usize,
    /// Most connections to one member that uploads use at once.
    pub uploads_max: usize,
    /// Of a hundred of these, one network or account holds no more than so many while others wait.
    pub client_share_percent: u32,
    /// Content that a member stops sending for this long goes on from another one.
    pub body_stall_timeout: Duration,
    /// How often one answer may change the member on its way.
    pub resume_max: u32,
    /// Largest manifest that is taken, in bytes.
    pub manifest_bytes_max: usize,
    /// How many requests may be made again.
    pub retry: RetryRules,
}

/// How content is verified on its way to clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifySettings {
    /// Content up to so many bytes is verified before the answer begins; a bad member is then
    /// replaced unseen.
    pub hold_bytes: u64,
    /// Memory for content that is held, in bytes.
    pub buffer_bytes_max: u64,
    /// Memory for manifests on their way to members, in bytes.
    pub manifest_buffer_bytes_max: u64,
    /// For so long a member is asked last for content that it had broken.
    pub quarantine: Duration,
}

/// How reads of the same are shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoalesceSettings {
    /// Whether they are.
    pub enabled: bool,
    /// How much of some content is kept for those that read it together, in bytes.
    pub window_bytes: usize,
    /// How many contents are read together at once.
    pub windows_max: usize,
}
