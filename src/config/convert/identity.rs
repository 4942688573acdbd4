//! Identity providers: users of the file, htpasswd files, bounds on password checks.

use std::path::Path;
use std::str::FromStr as _;
use std::time::Duration;

use bcrypt::HashParts;

use crate::auth::subject::is_account_name;
use crate::config::convert::{Context, describe, harbor, listeners};
use crate::config::document::KeyPath;
use crate::config::error::{ConfigError, Fix};
use crate::config::file::{File, PasswordChecks, Provider, User};
use crate::config::value::HumanDuration;
use crate::identity::{IdentitySettings, ProviderSettings, UserSettings, VerifyLimits};
use crate::secret::ExposeSecret as _;

/// What account names may hold, in words.
const ACCOUNT_NAME_RULE: &str =
    "a name of 1 to 255 printable characters without / * ? [ ] \\ $ : \" and space";

/// Cost of a bcrypt hash beyond which a check takes seconds.
const COST_MAX: u32 = 14;

/// Longest time for which a password check may be remembered.
const TTL_MAX: Duration = Duration::from_hours(24);

/// The provider chain.
pub(super) fn settings(cx: &mut Context<'_>, root: &KeyPath, file: &File) -> IdentitySettings {
    let path = root.key("identity");
    let mut providers = Vec::new();
    let mut costs = Vec::new();
    for (at, provider) in file.identity.iter().enumerate() {
        let path = path.index(at);
        let before = &file.identity[..at];
        if before.iter().any(|other| std::mem::discriminant(other) == std::mem::discriminant(provider)) {
            let problem = format!("there is already a provider of the kind `{}`", kind(provider));
            cx.error(&path, problem, Fix::advice("put its entries into the first one"));
        }
        match provider {
            Provider::Users(list) => {
                providers.push(ProviderSettings::Users(users(cx, &path.key("users"), list, &mut costs)))
            }
            Provider::Htpasswd(file) => {
                htpasswd(cx, &path.key("htpasswd"), file, &mut costs);
                providers.push(ProviderSettings::Htpasswd { path: cx.resolve(file) });
            }
            Provider::Harbor(keys) => {
                if at + 1 < file.identity.len() {
                    let problem = "Harbor answers for every name, so the providers after it are never asked";
                    cx.error(&path, problem, Fix::advice("put `harbor` last"));
                }
                let settings = harbor::provider(cx, &path.key("harbor"), keys, file);
                providers.extend(settings.map(ProviderSettings::Harbor));
            }
        }
    }
    warn_of_costs(cx, &path, &costs);
    IdentitySettings {
        providers,
        limits: verify_limits(cx, &root.key("password_checks"), &file.password_checks),
    }
}

/// One costly hash makes every wrong password as costly.
fn warn_of_costs(cx: &mut Context<'_>, path: &KeyPath, costs: &[u32]) {
    let (Some(least), Some(most)) = (costs.iter().min(), costs.iter().max()) else { return };
    if least < most {
        let problem = format!(
            "password hashes have costs from {least} to {most}, so a wrong password for any name takes as long as for cost {most}: {} times that of cost {least}",
            1_u64 << (most - least)
        );
        cx.warn(path, problem, Fix::advice("make all of them with one cost; 10 is a good one"));
    } else if *most > COST_MAX {
        let problem = format!("password hashes have the cost {most}: a check takes seconds");
        cx.warn(path, problem, Fix::advice("make them with `tidegate hash-password`, whose cost is 10"));
    }
}

/// The cost of a bcrypt hash.
fn cost_of(hash: &str) -> Option<u32> {
    hash.get(4..6).and_then(|cost| cost.parse().ok())
}

fn kind(provider: &Provider) -> &'static str {
    match provider {
        Provider::Users(_) => "users",
        Provider::Htpasswd(_) => "htpasswd",
        Provider::Harbor(_) => "harbor",
    }
}

fn users(cx: &mut Context<'_>, path: &KeyPath, list: &[User], costs: &mut Vec<u32>) -> Vec<UserSettings> {
    let mut users: Vec<UserSettings> = Vec::new();
    for (at, user) in list.iter().enumerate() {
        let path = path.index(at);
        if !is_account_name(&user.name) {
            cx.error(
                &path.key("name"),
                format!("{:?} is not an account name", user.name),
                Fix::write(ACCOUNT_NAME_RULE),
            );
        }
        if users.iter().any(|other| other.name == user.name) {
            cx.error(
                &path.key("name"),
                format!("there is already a user {:?}", user.name),
                Fix::advice("remove one of the two"),
            );
        }
        for (at, group) in user.groups.iter().enumerate() {
            if group.is_empty() {
                cx.error(&path.key("groups").index(at), "a group has no name", Fix::advice("remove it"));
            }
        }
        let hash_path = path.key("password_hash");
        let secret = cx.secret(&hash_path, &user.password_hash);
        let hash = secret.as_ref().map_or("", |secret| secret.expose_secret());
        if secret.is_some() && !is_bcrypt(hash) {
            let fix = "run `tidegate hash-password` and write what it prints, in quotes";
            cx.error_hidden(
                &hash_path,
                "is not a bcrypt hash ($2a$, $2b$ or $2y$, 60 characters)",
                Fix::advice(fix),
            );
        }
        costs.extend(cost_of(hash).filter(|_| is_bcrypt(hash)));
        users.push(UserSettings {
            name: user.name.clone(),
            password_hash: hash.to_owned(),
            groups: user.groups.clone(),
        });
    }
    users
}

fn is_bcrypt(hash: &str) -> bool {
    let version = ["$2a$", "$2b$", "$2y$"].iter().any(|version| hash.starts_with(version));
    version
        && hash.len() == 60
        && hash.is_ascii()
        && cost_of(hash).is_some_and(|cost| (4..=31).contains(&cost))
        && HashParts::from_str(hash).is_ok()
}

/// Checks every line; the errors are about the htpasswd file itself.
fn htpasswd(cx: &mut Context<'_>, path: &KeyPath, file: &Path, costs: &mut Vec<u32>) {
    let Some(content) = cx.read(path, file) else {
        return;
    };
    let text = String::from_utf8_lossy(&content);
    let mut names: Vec<&str> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let entry = line.trim();
        if entry.is_empty() || entry.starts_with('#') {
            continue;
        }
        let (name, hash) = entry.split_once(':').unwrap_or((entry, ""));
        let wrong = check_htpasswd_entry(name, hash).or_else(|| {
            names.contains(&name).then(|| {
                (
                    format!("the user {name:?} stands here for the second time"),
                    "remove one of the two lines".to_owned(),
                )
            })
        });
        if let Some((problem, fix)) = wrong {
            let error = ConfigError {
                file: Some(cx.resolve(file)),
                line: at + 1,
                column: 1,
                key: path.to_string(),
                problem,
                fix: Fix::Advice(fix),
                snippet: None,
            };
            cx.elsewhere.push(error);
        }
        names.push(name);
        costs.extend(cost_of(hash.trim_end()).filter(|_| is_bcrypt(hash.trim_end())));
    }
    if names.is_empty() {
        cx.warn(path, "the file holds no user", Fix::advice("add one with `htpasswd -B FILE NAME`"));
    }
}

fn check_htpasswd_entry(name: &str, hash: &str) -> Option<(String, String)> {
    if hash.is_empty() || !is_account_name(name) {
        // Without a colon the line may be a password; it is not repeated here.
        let problem = "the line is not `NAME:HASH` with an account name";
        return Some((
            problem.to_owned(),
            format!("write it with `htpasswd -B FILE NAME`; {ACCOUNT_NAME_RULE}"),
        ));
    }
    if is_bcrypt(hash.trim_end()) {
        return None;
    }
    let scheme = if hash.starts_with("{SHA}") {
        "SHA-1"
    } else if hash.starts_with("$apr1$") {
        "MD5 (apr1)"
    } else if hash.starts_with("$5$") || hash.starts_with("$6$") {
        "SHA-crypt"
    } else if hash.starts_with("$2") {
        "a broken bcrypt hash"
    } else {
        "crypt or plain text"
    };
    let fix =
        format!("only bcrypt is taken: write the line anew with `htpasswd -B FILE {}`", name.escape_debug());
    Some((format!("the password of {name:?} is stored as {scheme}"), fix))
}

/// Bounds on password checks. Zero turns remembering off.
pub(in crate::config) fn verify_limits(
    cx: &mut Context<'_>,
    path: &KeyPath,
    checks: &PasswordChecks,
) -> VerifyLimits {
    let ttl = |cx: &mut Context<'_>, key: &str, given: Option<HumanDuration>, default| {
        let time = given.map_or(default, |time| time.0);
        if time > TTL_MAX {
            let problem = "remembered for longer than a day, a changed password would count for as long";
            cx.error(&path.key(key), problem, Fix::write(describe(default)));
        }
        time
    };
    VerifyLimits {
        success_ttl: ttl(cx, "success_ttl", checks.success_ttl, Duration::from_mins(5)),
        failure_ttl: ttl(cx, "failure_ttl", checks.failure_ttl, Duration::from_secs(10)),
        concurrency: cx.count(&path.key("concurrency"), checks.concurrency, listeners::cores()) as usize,
        queue_max: cx.count(&path.key("queue_max"), checks.queue_max, 256) as usize,
    }
}
