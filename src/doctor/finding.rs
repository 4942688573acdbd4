//! What the doctor says: findings with their codes, what was looked at, and the whole report.

use serde::Serialize;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// It will go wrong some day.
    Warning,
    /// It bites.
    Error,
}

impl Level {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Declares the codes once, so that none is missing in [`Code::ALL`].
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What a finding is about. Stable: scripts may rely on the texts.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
        pub enum Code {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Its text.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

codes! {
    /// The host name has no address.
    HostUnknown = "host_unknown",
    /// Nothing listens there.
    Refused = "connection_refused",
    /// No way to the host.
    Unreachable = "unreachable",
    /// No connection, or no answer, in time.
    Timeout = "timeout",
    /// https in the configuration, plain HTTP there.
    SpeaksHttp = "speaks_http",
    /// http in the configuration, TLS there.
    SpeaksTls = "speaks_tls",
    /// The certificate's authority is not trusted.
    CertificateAuthority = "certificate_authority",
    /// The certificate is for another name.
    CertificateName = "certificate_name",
    /// The certificate is not valid any more, or not yet.
    CertificateTime = "certificate_time",
    /// The member wants a client certificate.
    ClientCertificate = "client_certificate",
    /// TLS fails otherwise.
    Tls = "tls",
    /// What is spoken there is no HTTP.
    NotHttp = "not_http",
    /// What answers is no registry.
    NotARegistry = "not_a_registry",
    /// `kind: registry` for a Harbor node.
    IsHarbor = "is_harbor",
    /// `kind: harbor` for something else.
    NotHarbor = "not_harbor",
    /// The member answers 5xx.
    MemberFails = "member_fails",
    /// The member wants a credential and none is configured.
    CredentialMissing = "credential_missing",
    /// The member is open although a credential is configured.
    MemberOpen = "member_open",
    /// The service account is refused.
    CredentialRefused = "credential_refused",
    /// The minted token is refused.
    TokenRefused = "token_refused",
    /// The token is for another `audience`.
    TokenAudience = "token_audience",
    /// The member takes only tokens under an older key.
    TokenKeyOld = "token_key_old",
    /// There is no key to mint with.
    TokenKeyMissing = "token_key_missing",
    /// The configured key is not the node's.
    NodeKey = "node_key",
    /// The node's token service gives no token.
    TokenService = "token_service",
    /// `harbor.account` is refused.
    AccountRefused = "account_refused",
    /// `harbor.catalog_account` is refused.
    CatalogAccountRefused = "catalog_account_refused",
    /// `harbor.catalog_account` may not list repositories.
    CatalogAccountRights = "catalog_account_rights",
    /// `harbor.account` may be an account of a directory.
    AccountInDirectory = "account_in_directory",
    /// The node has lost its database.
    DatabaseDown = "database_down",
    /// A component without which nothing works is down.
    Unhealthy = "unhealthy",
    /// A component that pulls and pushes do not need is down.
    ComponentDown = "component_down",
    /// `harbor.version` is wrong.
    HarborVersion = "harbor_version",
    /// The nodes of a pool run different versions.
    VersionsDiffer = "versions_differ",
    /// The clock is apart from ours.
    Clock = "clock",
    /// The clocks of two members are apart.
    ClocksDiffer = "clocks_differ",
    /// The node names another address than clients use.
    ExternalAddress = "external_address",
    /// The member takes no writes.
    ReadOnly = "read_only",
    /// The nodes have different CSRF keys.
    CsrfKey = "csrf_key",
    /// The nodes do not share their sessions.
    Sessions = "sessions",
    /// The probe may not write in its repository.
    ProbeRefused = "probe_refused",
    /// A write probe failed otherwise.
    ProbeFailed = "probe_failed",
    /// The registries have different `http.secret`.
    HttpSecret = "http_secret",
    /// The members do not see the same storage.
    Storage = "storage",
    /// The members do not see the same database.
    Database = "database",
    /// Blobs are served by redirects to storage.
    StorageRedirect = "storage_redirect",
    /// A probe's remains could not be removed.
    Leftover = "leftover",
}

/// Something wrong, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What it is about.
    pub code: Code,
    /// What is wrong.
    pub problem: String,
    /// What users would see of it.
    pub effect: String,
    /// What to do.
    pub fix: String,
}

impl Finding {
    /// Something that bites.
    pub(super) fn error(
        code: Code,
        problem: impl Into<String>,
        effect: &str,
        fix: impl Into<String>,
    ) -> Self {
        let (problem, fix) = (harmless(&problem.into()), harmless(&fix.into()));
        Self { level: Level::Error, code, problem, effect: effect.to_owned(), fix }
    }

    /// Something that may bite.
    pub(super) fn warning(
        code: Code,
        problem: impl Into<String>,
        effect: &str,
        fix: impl Into<String>,
    ) -> Self {
        Self { level: Level::Warning, ..Self::error(code, problem, effect, fix) }
    }
}

/// Without control characters: some of the words come from members.
fn harmless(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

/// What the doctor looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// Name, connection, TLS, HTTP, and whether a registry answers.
    Reachable,
    /// The clock.
    Clock,
    /// The credential of `credential`.
    Credential,
    /// `harbor.account`.
    Account,
    /// `harbor.catalog_account`.
    CatalogAccount,
    /// What the node says of its components.
    Health,
    /// The version of Harbor.
    Version,
    /// The address that the node names itself by.
    ExternalAddress,
    /// Whether it takes writes.
    Writable,
    /// The keys against forged requests.
    CsrfKey,
    /// The sessions of the web pages.
    Sessions,
    /// `http.secret`.
    HttpSecret,
    /// Whether the members see the same content.
    Content,
    /// Whether blobs are served by redirects.
    Redirects,
}

impl Check {
    /// The words for it.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Reachable => "reachable",
            Self::Clock => "clock",
            Self::Credential => "credential",
            Self::Account => "account",
            Self::CatalogAccount => "catalog account",
            Self::Health => "health",
            Self::Version => "version",
            Self::ExternalAddress => "external address",
            Self::Writable => "takes writes",
            Self::CsrfKey => "CSRF key",
            Self::Sessions => "sessions",
            Self::HttpSecret => "http.secret",
            Self::Content => "same content",
            Self::Redirects => "redirects",
        }
    }
}

/// Something that was not looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NotChecked {
    /// What.
    pub check: Check,
    /// Why not.
    pub because: String,
}

/// What was found at one member.
#[derive(Debug, Clone, Serialize)]
pub struct Checkup {
    /// Its pool.
    pub pool: String,
    /// Its name.
    pub member: String,
    /// Where it is.
    pub url: String,
    /// What was looked at and is well.
    pub checked: Vec<Check>,
    /// What was not looked at.
    pub not_checked: Vec<NotChecked>,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

impl Checkup {
    /// All is well with this.
    pub(super) fn pass(&mut self, check: Check) {
        if !self.checked.contains(&check) {
            self.checked.push(check);
        }
    }

    /// This is wrong.
    pub(super) fn find(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// This was not looked at.
    pub(super) fn skip(&mut self, check: Check, because: impl Into<String>) {
        self.not_checked.push(NotChecked { check, because: harmless(&because.into()) });
    }

    /// Passes, or is wrong.
    pub(super) fn judge(&mut self, check: Check, finding: Option<Finding>) {
        match finding {
            None => self.pass(check),
            Some(finding) => self.find(finding),
        }
    }
}

/// How much was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// How many members were looked at.
    pub members: usize,
    /// How many findings are errors.
    pub errors: usize,
    /// How many findings are warnings.
    pub warnings: usize,
}

/// Everything.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Every member, in the order of the configuration.
    pub members: Vec<Checkup>,
    /// How much was found.
    pub summary: Summary,
}

impl Report {
    /// Of these checkups.
    #[must_use]
    pub fn new(members: Vec<Checkup>) -> Self {
        let count =
            |level| members.iter().flat_map(|member| &member.findings).filter(|f| f.level == level).count();
        let summary =
            Summary { members: members.len(), errors: count(Level::Error), warnings: count(Level::Warning) };
        Self { members, summary }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_documented() {
        let document = include_str!("../../docs/operations.md");
        for code in Code::ALL {
            assert!(document.contains(&format!("`{}`", code.as_str())), "{}", code.as_str());
            let json = serde_json::to_string(code).expect("a string");
            assert_eq!(json, format!("\"{}\"", code.as_str()));
        }
    }

    #[test]
    fn words_of_members_cannot_steer_a_terminal() {
        let finding = Finding::error(Code::Tls, "a\u{1b}[31m\nb", "", "");
        assert_eq!(finding.problem, "a [31m b");
    }
}
