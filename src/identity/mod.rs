//! Who a client is: an ordered chain of providers, asked one after the other.
//!
//! The first provider that knows a name decides: a wrong password there ends the search. A wrong
//! password costs the same time for unknown names and for known ones, whatever their hashes cost.

mod checks;
pub mod htpasswd;
mod settings;

use std::collections::HashMap;
use std::sync::Arc;

use secrecy::SecretString;

pub use checks::{CACHE_ENTRIES_MAX, PasswordChecks};
pub use settings::*;

use crate::auth::subject::Subject;
use checks::dummy_hash;
use htpasswd::{HtpasswdError, bcrypt_cost};

/// Cost of the check for an unknown name where there is no known one.
const DUMMY_COST: u32 = 10;

/// What the chain says of a name and password.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// Right.
    Known(Subject),
    /// The name is unknown or the password wrong; which of the two is not told.
    Wrong,
    /// It cannot be said now.
    Unavailable,
    /// No provider of the file knows the name; the Harbor nodes are asked next.
    AskHarbor,
}

/// Why the providers cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A line of an htpasswd file cannot be used.
    #[error("{path}: {source}")]
    Htpasswd {
        /// The file.
        path: String,
        /// Which line and why.
        source: HtpasswdError,
    },
}

/// The chain, with what the files held when it was built.
#[derive(Debug, Clone)]
pub struct Identity {
    providers: Vec<Arc<UserTable>>,
    dummy_hash: Arc<str>,
    /// What every wrong password costs: as much as one against the costliest hash.
    cost: u32,
    /// Whether Harbor nodes are asked about every other name.
    harbor: bool,
}

/// Name of the provider that asks Harbor nodes.
pub const HARBOR: &str = "harbor";

#[derive(Debug)]
struct UserTable {
    provider: &'static str,
    users: HashMap<String, User>,
}

#[derive(Debug)]
struct User {
    hash: Arc<str>,
    groups: Arc<[String]>,
}

impl Identity {
    /// Reads the providers' files.
    ///
    /// # Errors
    /// [`IdentityError`], naming the file and line.
    pub fn build(providers: &[ProviderSettings]) -> Result<Self, IdentityError> {
        let (identity, refused) = Self::build_beside(providers, None);
        refused.into_iter().next().map_or(Ok(identity), Err)
    }

    /// The same for a reload: where a provider's file cannot be used, the users that the provider had
    /// before stay, and what is wrong with the file is returned. Where it had none, the whole chain
    /// stays: without the provider, others would be asked about its users.
    #[must_use]
    pub fn rebuild(&self, providers: &[ProviderSettings]) -> (Self, Vec<IdentityError>) {
        let (rebuilt, refused) = Self::build_beside(providers, Some(self));
        let is_there = |settings: &ProviderSettings| {
            let name = name_of(settings);
            name == HARBOR || rebuilt.providers.iter().any(|table| table.provider == name)
        };
        let chain = if providers.iter().all(is_there) { rebuilt } else { self.clone() };
        (chain, refused)
    }

    fn build_beside(providers: &[ProviderSettings], before: Option<&Self>) -> (Self, Vec<IdentityError>) {
        let harbor = providers.iter().any(|provider| matches!(provider, ProviderSettings::Harbor(_)));
        let (mut tables, mut refused) = (Vec::new(), Vec::new());
        for settings in providers {
            match build_table(settings) {
                Ok(table) => tables.extend(table.map(Arc::new)),
                Err(error) => {
                    let old = before.iter().flat_map(|before| &before.providers);
                    tables.extend(old.filter(|table| table.provider == name_of(settings)).cloned());
                    refused.push(error);
                }
            }
        }
        let hashes = tables.iter().flat_map(|table| table.users.values()).map(|user| &user.hash);
        let cost = hashes.filter_map(|hash| bcrypt_cost(hash)).max().unwrap_or(DUMMY_COST);
        let dummy_hash = Arc::from(dummy_hash(cost));
        (Self { providers: tables, dummy_hash, cost, harbor }, refused)
    }

    /// The users of the files of `before` that are in no file any more.
    pub fn gone_since<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = Subject> + 'a {
        let names =
            before.providers.iter().flat_map(|table| table.users.keys().map(move |name| (table, name)));
        let is_known = |provider: &str, name: &str| {
            self.providers.iter().any(|table| table.provider == provider && table.users.contains_key(name))
        };
        names
            .filter(move |(table, name)| !is_known(table.provider, name))
            .filter_map(|(table, name)| Subject::new(table.provider, name).ok())
    }

    /// The groups of a subject, if its provider still knows it.
    #[must_use]
    pub fn groups_of(&self, subject: &Subject) -> Option<Arc<[String]>> {
        if subject.is_anonymous() {
            return Some(Arc::from([]));
        }
        if self.harbor && subject.provider() == HARBOR {
            // Whether Harbor still knows it shows at its next login, or at the node itself.
            return Some(Arc::from([]));
        }
        let table = self.providers.iter().find(|table| table.provider == subject.provider())?;
        table.users.get(subject.name()).map(|user| Arc::clone(&user.groups))
    }

    /// The subjects that a bare account name can mean, in the order of the chain.
    #[must_use]
    pub fn subjects_named(&self, name: &str) -> Vec<Subject> {
        let known = self.providers.iter().filter(|table| table.users.contains_key(name));
        let mut subjects: Vec<Subject> =
            known.filter_map(|table| Subject::new(table.provider, name).ok()).collect();
        if subjects.is_empty() && self.harbor {
            subjects.extend(Subject::new(HARBOR, name));
        }
        subjects
    }

    /// Checks a name and password.
    pub async fn check(&self, checks: &PasswordChecks, name: &str, password: &SecretString) -> Verdict {
        let known =
            self.providers.iter().find_map(|table| table.users.get(name).map(|user| (table.provider, user)));
        if known.is_none() && self.harbor {
            return Verdict::AskHarbor;
        }
        let hash = known.map_or(&self.dummy_hash, |(_, user)| &user.hash);
        match (checks.matches(name, password, hash, self.cost).await, known) {
            (None, _) => Verdict::Unavailable,
            (Some(true), Some((provider, _))) => {
                Subject::new(provider, name).map_or(Verdict::Wrong, Verdict::Known)
            }
            (Some(_), _) => Verdict::Wrong,
        }
    }
}

/// The name of a provider, as policy rules and tokens know it.
fn name_of(settings: &ProviderSettings) -> &'static str {
    match settings {
        ProviderSettings::Users(_) => "users",
        ProviderSettings::Htpasswd { .. } => "htpasswd",
        ProviderSettings::Harbor(_) => HARBOR,
    }
}

/// The users that a provider of the file names; `None` for one that is asked elsewhere.
fn build_table(settings: &ProviderSettings) -> Result<Option<UserTable>, IdentityError> {
    match settings {
        ProviderSettings::Users(users) => {
            let entry = |user: &UserSettings| {
                let hash = Arc::from(user.password_hash.as_str());
                (user.name.clone(), User { hash, groups: user.groups.clone().into() })
            };
            Ok(Some(UserTable { provider: name_of(settings), users: users.iter().map(entry).collect() }))
        }
        ProviderSettings::Htpasswd { path } => {
            let name = path.display().to_string();
            let text = std::fs::read_to_string(path)
                .map_err(|source| IdentityError::Read { path: name.clone(), source })?;
            let entries =
                htpasswd::parse(&text).map_err(|source| IdentityError::Htpasswd { path: name, source })?;
            let entry = |(name, hash): (String, String)| {
                (name, User { hash: Arc::from(hash), groups: Arc::from([]) })
            };
            Ok(Some(UserTable {
                provider: name_of(settings),
                users: entries.into_iter().map(entry).collect(),
            }))
        }
        ProviderSettings::Harbor(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, password: &str) -> UserSettings {
        let password_hash = bcrypt::hash(password, 4).expect("hashed");
        UserSettings { name: name.to_owned(), password_hash, groups: vec!["ops".to_owned()] }
    }

    fn limits() -> VerifyLimits {
        let day = std::time::Duration::from_secs(24 * 3600);
        VerifyLimits { concurrency: 2, queue_max: 8, success_ttl: day, failure_ttl: day }
    }

    #[tokio::test]
    async fn the_first_provider_that_knows_a_name_decides() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("htpasswd");
        let line =
            |name: &str, password: &str| format!("{name}:{}\n", bcrypt::hash(password, 4).expect("hashed"));
        std::fs::write(&path, line("eve", "other") + &line("bob", "b")).expect("written");
        let providers =
            [ProviderSettings::Users(vec![user("eve", "e")]), ProviderSettings::Htpasswd { path }];
        let identity = Identity::build(&providers).expect("built");
        let checks = PasswordChecks::new(&limits());
        for (name, password, expected) in [
            ("eve", "e", Some("users/eve")),
            ("eve", "other", None),
            ("bob", "b", Some("htpasswd/bob")),
            ("bob", "e", None),
            ("who", "e", None),
            ("", "", None),
            // Once more, from the cache.
            ("eve", "e", Some("users/eve")),
            ("eve", "other", None),
        ] {
            let verdict = identity.check(&checks, name, &SecretString::from(password)).await;
            let subject = match verdict {
                Verdict::Known(subject) => Some(subject.to_string()),
                Verdict::Wrong => None,
                Verdict::Unavailable | Verdict::AskHarbor => panic!("nothing is overloaded"),
            };
            assert_eq!(subject.as_deref(), expected, "{name} {password}");
        }
        let eve = Subject::new("users", "eve").expect("a name");
        assert_eq!(identity.groups_of(&eve).as_deref(), Some(["ops".to_owned()].as_slice()));
        assert!(identity.groups_of(&Subject::new("users", "bob").expect("a name")).is_none());
        assert_eq!(identity.subjects_named("eve").len(), 2);
    }
}
