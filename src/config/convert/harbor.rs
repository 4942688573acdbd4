//! Harbor nodes: their kind, their accounts, and the provider that asks them about clients.

use std::time::Duration;

use crate::config::convert::{Context, describe, policy};
use crate::config::document::KeyPath;
use crate::config::error::Fix;
use crate::config::file::{Account, File, Harbor, HarborProvider, Kind, Member, Pool, Provider};
use crate::config::suggest::nearest;
use crate::identity::HarborProviderSettings;
use crate::upstream::{
    AccountSettings, CredentialSettings, HarborSettings, HarborVersion, MemberKind, MemberSettings,
};

/// docker gives a token request this long and tries no second time.
const DOCKER_PATIENCE: Duration = Duration::from_secs(15);

/// What a member is: its own kind, or the pool's. `None` when something needed is missing, which is reported.
pub(super) fn member_kind(
    cx: &mut Context<'_>,
    pool_path: &KeyPath,
    pool: &Pool,
    path: &KeyPath,
    member: &Member,
) -> Option<MemberKind> {
    if kind_of(pool, member) == Kind::Registry {
        for (key, given) in [("account", &member.account), ("catalog_account", &member.catalog_account)] {
            if given.is_some() {
                let fix = "write `kind: harbor`, or remove it; a registry's account is `credential: { basic: ... }`";
                cx.error(&path.key(key), "only Harbor nodes have such an account", Fix::advice(fix));
            }
        }
        return Some(MemberKind::Registry);
    }
    let shared_path = pool_path.key("harbor");
    let none = Harbor::default();
    let shared = pool.harbor.as_ref().unwrap_or(&none);
    let version = match shared.version {
        None | Some(2) => HarborVersion::Two,
        Some(1) => HarborVersion::One,
        Some(other) => {
            let problem = format!("there is no Harbor {other}");
            cx.error(&shared_path.key("version"), problem, Fix::write("1 or 2"));
            HarborVersion::Two
        }
    };
    let own = member.account.as_ref().map(|account| (path.key("account"), account));
    let probe = own.or_else(|| shared.account.as_ref().map(|account| (shared_path.key("account"), account)));
    let Some(probe) = probe else {
        let fix = "add `harbor: { account: { user: \"robot$tidegate\", password: { file: PATH } } }` to the pool: a robot or local account that may do little; probes need it";
        cx.error(path, "a Harbor node needs an account for probes", Fix::advice(fix));
        return None;
    };
    let account = account(cx, &probe.0, probe.1)?;
    let own = member.catalog_account.as_ref().map(|account| (path.key("catalog_account"), account));
    let catalog = own.or_else(|| {
        shared.catalog_account.as_ref().map(|account| (shared_path.key("catalog_account"), account))
    });
    let catalog_account = match catalog {
        Some((path, given)) => self::account(cx, &path, given)?,
        None => account.clone(),
    };
    Some(MemberKind::Harbor(HarborSettings { version, account, catalog_account }))
}

/// What a member is by name.
pub(super) fn kind_of(pool: &Pool, member: &Member) -> Kind {
    member.kind.or(pool.kind).unwrap_or(Kind::Registry)
}

/// Whether any member of a pool is a Harbor node.
pub(super) fn has_nodes(pool: &Pool) -> bool {
    pool.members.iter().any(|member| kind_of(pool, member) == Kind::Harbor)
}

/// Members that need the clients' own passwords get them only for clients of the provider that
/// asks this very pool: any other would send its clients' passwords to other nodes.
pub(super) fn check_passwords(
    cx: &mut Context<'_>,
    path: &KeyPath,
    pool: usize,
    file: &File,
    members: &[MemberSettings],
) {
    let by_password = |member: &MemberSettings| {
        matches!(member.credential, CredentialSettings::Exchange | CredentialSettings::Relay)
    };
    let name = &file.pools[pool].name;
    let asked = |provider: &Provider| matches!(provider, Provider::Harbor(keys) if keys.pool == *name);
    if members.iter().any(by_password) && !file.identity.iter().any(asked) {
        let problem = "`exchange` and `relay` need clients whose passwords are checked at these nodes";
        let fix =
            format!("add `- harbor: {{ pool: {} }}` to `identity`, or use `token`", name.escape_debug());
        cx.error(path, problem, Fix::Advice(fix));
    }
}

/// A section for Harbor nodes where there is none.
pub(super) fn check_section(cx: &mut Context<'_>, path: &KeyPath, pool: &Pool) {
    if pool.harbor.is_some() && !has_nodes(pool) {
        let fix = "write `kind: harbor` beside it, or remove the section";
        cx.error(&path.key("harbor"), "no member of this pool is a Harbor node", Fix::advice(fix));
    }
}

fn account(cx: &mut Context<'_>, path: &KeyPath, given: &Account) -> Option<AccountSettings> {
    if !policy::is_basic_user(&given.user) {
        let fix = "the account's name, such as robot$tidegate, without colon";
        cx.error(&path.key("user"), "not an account name", Fix::write(fix));
    }
    let password = cx.secret(&path.key("password"), &given.password)?;
    Some(AccountSettings { user: given.user.clone(), password })
}

/// How nodes are asked about clients. `None` when the pool cannot be used, which is reported.
pub(super) fn provider(
    cx: &mut Context<'_>,
    path: &KeyPath,
    keys: &HarborProvider,
    file: &File,
) -> Option<HarborProviderSettings> {
    let pool = file.pools.iter().position(|pool| pool.name == keys.pool);
    let pool_path = path.key("pool");
    let Some(pool) = pool else {
        let names = file.pools.iter().map(|pool| pool.name.as_str());
        let fix = nearest(&keys.pool, names).unwrap_or("the name of a pool with `kind: harbor`");
        cx.error(&pool_path, format!("there is no pool {:?}", keys.pool), Fix::write(fix));
        return None;
    };
    if !has_nodes(&file.pools[pool]) {
        let fix = "write `kind: harbor` there, or name another pool";
        cx.error(&pool_path, "no member of this pool is a Harbor node", Fix::advice(fix));
    }
    let timeout = cx.duration(&path.key("timeout"), keys.timeout, Duration::from_secs(10));
    if timeout >= DOCKER_PATIENCE {
        let problem = format!("docker gives up after 15s, and a login may take {}", describe(timeout));
        cx.error(&path.key("timeout"), problem, Fix::write("10s"));
    }
    let try_path = path.key("try_timeout");
    let try_timeout = cx.duration(&try_path, keys.try_timeout, Duration::from_secs(5).min(timeout));
    // Harbor takes 1.5 s to say no, and what takes long enough must still fit.
    if try_timeout < Duration::from_secs(3) {
        let problem = "a node takes 1.5s to refuse a password, and more where it asks a directory first";
        cx.error(&try_path, problem, Fix::write("5s"));
    }
    Some(HarborProviderSettings {
        pool,
        timeout,
        try_timeout,
        wrong_pause: keys.wrong_pause.map_or(Duration::from_secs(3), |time| time.0),
        per_source_max: cx.count(&path.key("per_source_max"), keys.per_source_max, 8) as usize,
        foreign_accounts: keys.foreign_accounts.unwrap_or(false),
    })
}
