//! What of a member's settings must be equal for a running one to be kept, as digests: settings
//! hold secrets and name files, whose content counts as well.

use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

use crate::secret::ExposeSecret as _;
use crate::upstream::settings::{
    AccountSettings, CredentialSettings, MemberKeySource, MemberKind, MemberSettings, PoolSettings,
};

type Digest = [u8; SHA256_OUTPUT_LEN];

/// Three parts, each of which decides on something of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::upstream) struct Likeness {
    /// Where it is and how it is spoken to: its connections go on.
    pub(in crate::upstream) reach: Digest,
    /// What it is and how we authenticate ourselves: with `reach`, its health and load go on.
    pub(in crate::upstream) credential: Digest,
    /// How it is bounded, weighted and probed: with the others, it is the same member.
    pub(in crate::upstream) bounds: Digest,
}

impl Likeness {
    /// Of a member with these settings. A file that cannot be read counts as empty; building the
    /// member says what is wrong with it.
    pub(in crate::upstream) fn of(pool: &PoolSettings, member: &MemberSettings) -> Self {
        let tls = &member.tls;
        let pair = tls.client_certificate.iter().flat_map(|(cert, key)| [cert, key]);
        let (kind, accounts) = match &member.kind {
            MemberKind::Registry => ("registry".to_owned(), Vec::new()),
            MemberKind::Harbor(harbor) => {
                (format!("{:?}", harbor.version), vec![&harbor.account, &harbor.catalog_account])
            }
        };
        let (account, key_files) = match &member.credential {
            CredentialSettings::Basic(account) => (Some(account), Vec::new()),
            CredentialSettings::Token(token) => match &token.key {
                MemberKeySource::Ring => (None, Vec::new()),
                MemberKeySource::File { key, certificate } => {
                    (None, std::iter::once(key).chain(certificate).collect())
                }
            },
            CredentialSettings::None | CredentialSettings::Exchange | CredentialSettings::Relay => {
                (None, Vec::new())
            }
        };
        Self {
            reach: Digester::new()
                .text(&format!("{} {:?} {tls:?}", pool.name.as_str(), member.address))
                .files(tls.ca_file.iter().chain(pair))
                .end(),
            credential: Digester::new()
                .text(&kind)
                .text(&format!("{:?}", member.credential))
                .accounts(accounts.into_iter().chain(account))
                .files(key_files)
                .end(),
            bounds: Digester::new()
                .text(&format!("{} {:?} {:?}", member.weight, member.tier, pool.write_failover))
                .text(&format!("{:?} {:?}", pool.health, pool.limits))
                .end(),
        }
    }
}

struct Digester(Context);

impl Digester {
    fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    /// With its length, so that what is next to each other does not run together.
    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.update(&(bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
        self
    }

    fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    fn accounts<'a>(self, accounts: impl IntoIterator<Item = &'a AccountSettings>) -> Self {
        accounts
            .into_iter()
            .fold(self, |all, account| all.text(&account.user).text(account.password.expose_secret()))
    }

    fn files(self, files: impl IntoIterator<Item = impl AsRef<Path>>) -> Self {
        files.into_iter().fold(self, |all, file| all.bytes(&std::fs::read(file).unwrap_or_default()))
    }

    fn end(self) -> Digest {
        let mut digest = [0; SHA256_OUTPUT_LEN];
        digest.copy_from_slice(self.0.finish().as_ref());
        digest
    }
}
