//! The part of the mirror that is about pools, their members, and the bounds and probes of both.

use std::path::PathBuf;

use serde::Deserialize;

use super::CertificatePair;
use crate::config::value::{HumanDuration, Secret, Size};

/// Bounds on upstream connections.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Upstream {
    /// Most connections to one member.
    pub(in crate::config) connections_max: Option<u32>,
    /// Most requests that wait for a connection.
    pub(in crate::config) queue_max: Option<u32>,
    /// How long a request waits for a connection.
    pub(in crate::config) queue_timeout: Option<HumanDuration>,
    /// A connection, with TLS, is made within this.
    pub(in crate::config) connect_timeout: Option<HumanDuration>,
    /// An idle connection is closed after this.
    pub(in crate::config) idle_timeout: Option<HumanDuration>,
    /// A member's answer begins within this.
    pub(in crate::config) first_byte_timeout: Option<HumanDuration>,
    /// Queue, connects and tries together.
    pub(in crate::config) head_timeout: Option<HumanDuration>,
    /// A member finishes an upload within this.
    pub(in crate::config) finish_timeout: Option<HumanDuration>,
    /// A body makes progress within this.
    pub(in crate::config) body_idle_timeout: Option<HumanDuration>,
    /// Connections that pulls may use.
    pub(in crate::config) pulls_max: Option<u32>,
    /// Connections that uploads may use.
    pub(in crate::config) uploads_max: Option<u32>,
    /// What one client holds of these at most while others wait.
    pub(in crate::config) client_share_percent: Option<u32>,
    /// Content that a member stops sending goes on from another after this.
    pub(in crate::config) body_stall_timeout: Option<HumanDuration>,
    /// How often one answer changes the member.
    pub(in crate::config) resume_max: Option<u32>,
    /// Largest manifest that is taken.
    pub(in crate::config) manifest_bytes_max: Option<Size>,
    /// How many requests may be made again.
    #[serde(default)]
    pub(in crate::config) retry_budget: RetryBudget,
}

/// How many requests may be made again.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RetryBudget {
    /// Retries for a hundred requests.
    pub(in crate::config) percent: Option<u32>,
    /// Retries for a second besides.
    pub(in crate::config) per_second: Option<u32>,
}

/// Members that serve the same content.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Pool {
    /// Its name.
    pub(in crate::config) name: String,
    /// What the members are.
    pub(in crate::config) kind: Option<Kind>,
    /// What only Harbor nodes need.
    pub(in crate::config) harbor: Option<Harbor>,
    /// How the members share their content.
    pub(in crate::config) storage: Option<Storage>,
    /// How Tidegate authenticates itself to the members that say nothing else.
    pub(in crate::config) credential: Option<Credential>,
    /// After how long another member takes the writes of a home that is out.
    pub(in crate::config) write_failover: Option<HumanDuration>,
    /// The members before the list was changed.
    #[serde(default)]
    pub(in crate::config) previous_members: Vec<String>,
    /// How long reads of a repository go where it was last written to.
    pub(in crate::config) read_your_writes: Option<HumanDuration>,
    /// The members.
    #[serde(default)]
    pub(in crate::config) members: Vec<Member>,
    /// How members are probed.
    #[serde(default)]
    pub(in crate::config) health: Health,
    /// Bounds on upstream connections of this pool.
    #[serde(default)]
    pub(in crate::config) upstream: Upstream,
}

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum Kind {
    /// A stock registry.
    Registry,
    /// A Harbor node.
    Harbor,
}

/// What only the Harbor nodes of a pool need.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Harbor {
    /// The first number of their version.
    pub(in crate::config) version: Option<u32>,
    /// The account of probes.
    pub(in crate::config) account: Option<Account>,
    /// The account that lists all repositories.
    pub(in crate::config) catalog_account: Option<Account>,
    /// Whether their web pages and API are served too.
    pub(in crate::config) portal: Option<bool>,
}

/// An account of a Harbor node.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Account {
    /// Its name.
    pub(in crate::config) user: String,
    /// Its password.
    pub(in crate::config) password: Secret,
}

/// How the members of a pool share their content.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum Storage {
    /// All members see the same bytes.
    Shared,
    /// Members copy each other.
    Replicated,
}

/// One member.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Member {
    /// Its name, unique over all pools.
    pub(in crate::config) name: String,
    /// `http://host:port` or `https://host:port`.
    pub(in crate::config) url: String,
    /// Its share of the work, 1 to 100.
    pub(in crate::config) weight: Option<u32>,
    /// Used only when no other member answers.
    pub(in crate::config) backup: Option<bool>,
    /// What it is, where that is not the pool's kind.
    pub(in crate::config) kind: Option<Kind>,
    /// The account of this Harbor node's probes.
    pub(in crate::config) account: Option<Account>,
    /// The account that lists this Harbor node's repositories.
    pub(in crate::config) catalog_account: Option<Account>,
    /// How Tidegate authenticates itself to this member.
    pub(in crate::config) credential: Option<Credential>,
    /// TLS towards an https member.
    pub(in crate::config) tls: Option<MemberTls>,
}

/// TLS towards a member.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct MemberTls {
    /// PEM file with the authorities to trust instead of the system's.
    pub(in crate::config) ca_file: Option<PathBuf>,
    /// The name in the member's certificate.
    pub(in crate::config) server_name: Option<String>,
    /// What Tidegate shows to the member.
    pub(in crate::config) client_certificate: Option<CertificatePair>,
}

/// How Tidegate authenticates itself to a member.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum Credential {
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
pub(in crate::config) struct BasicCredential {
    /// The account.
    pub(in crate::config) user: String,
    /// Its password.
    pub(in crate::config) password: Secret,
}

/// Tokens for a member.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct TokenCredential {
    /// PEM private key; Tidegate's own key ring without it.
    pub(in crate::config) key: Option<PathBuf>,
    /// PEM certificate of that key.
    pub(in crate::config) certificate: Option<PathBuf>,
    /// `iss` that the member expects.
    pub(in crate::config) issuer: Option<String>,
    /// `aud` that the member expects.
    pub(in crate::config) audience: Option<String>,
    /// How the `kid` is made.
    pub(in crate::config) kid: Option<Kid>,
    /// Whether the certificate goes along.
    pub(in crate::config) x5c: Option<bool>,
    /// How long a token is valid.
    pub(in crate::config) lifetime: Option<HumanDuration>,
}

/// How the `kid` of a member's tokens is made.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum Kid {
    /// For docker-registry 2.x.
    Libtrust,
    /// For docker-registry 3.x.
    Thumbprint,
}

/// How members are probed.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Health {
    /// Between two probes of a healthy member.
    pub(in crate::config) interval: Option<HumanDuration>,
    /// Between two probes of a member that fails or comes back.
    pub(in crate::config) fast_interval: Option<HumanDuration>,
    /// A probe is answered within this.
    pub(in crate::config) timeout: Option<HumanDuration>,
    /// Good probes that bring a member back.
    pub(in crate::config) rise: Option<u32>,
    /// Bad probes that take a member out.
    pub(in crate::config) fall: Option<u32>,
    /// A manifest that must be readable.
    pub(in crate::config) canary: Option<String>,
    /// How long a member that comes back gets less than its share.
    pub(in crate::config) slow_start: Option<HumanDuration>,
    /// Below this share of serving members reads also try those that are out.
    pub(in crate::config) panic_percent: Option<u32>,
    /// When requests show that a member fails.
    #[serde(default)]
    pub(in crate::config) ejection: Ejection,
}

/// When requests show that a member fails.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Ejection {
    /// Failed requests in a row.
    pub(in crate::config) failures: Option<u32>,
    /// How long the first ejection lasts.
    pub(in crate::config) time: Option<HumanDuration>,
}
