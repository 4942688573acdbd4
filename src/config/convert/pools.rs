//! Pools and their members: addresses, TLS, credentials, probes, bounds.

use std::time::Duration;

use crate::balance::budget::RetryRules;
use crate::balance::ejection::EjectionRules;
use crate::balance::{PANIC_PERCENT, Tier};
use crate::config::convert::{Context, address, credentials, describe, harbor, listeners, to_usize};
use crate::config::document::KeyPath;
use crate::config::error::Fix;
use crate::config::file::{
    Coalesce, Ejection, File, Health, Member, MemberTls as TlsKeys, Pool, Storage as StorageKey, Upstream,
    Verify,
};
use crate::registry::{Reference, RepositoryName};
use crate::token_service::TokenSettings;
use crate::upstream::{
    CoalesceSettings, CredentialSettings, HealthSettings, MemberAddress, MemberKind, MemberName,
    MemberSettings, MemberTls, PoolName, PoolSettings, Storage, UpstreamLimits, VerifySettings,
};

const WEIGHT_MAX: u32 = 100;
/// After a write its repository is read where it was made.
const READ_YOUR_WRITES: Duration = Duration::from_secs(60);

/// More retries than this make no sense, and would not fit a word.
const RETRIES_MAX: u32 = 10_000;

/// Characters of names, in words.
const NAME_RULE: &str = "a name of 1 to 63 letters, digits, dots, dashes or underscores";

/// All pools, in file order.
pub(super) fn pools(
    cx: &mut Context<'_>,
    path: &KeyPath,
    file: &File,
    tokens: &TokenSettings,
) -> Vec<PoolSettings> {
    if file.pools.is_empty() {
        let fix = "add `pools: [{ name: main, members: [{ name: node1, url: \"http://10.0.0.11:5000\" }] }]`";
        cx.error(path, "there is no pool", Fix::advice(fix));
    }
    check_names(cx, path, &file.pools);
    let default_limits = upstream_limits(cx, &KeyPath::default().key("upstream"), &file.upstream, None);
    let mut pools = Vec::new();
    for (at, pool) in file.pools.iter().enumerate() {
        let path = path.index(at);
        harbor::check_section(cx, &path, pool);
        if pool.members.is_empty() {
            let fix = "add `members: [{ name: node1, url: \"http://10.0.0.11:5000\" }]`";
            cx.error(&path.key("members"), "the pool has no members", Fix::advice(fix));
        }
        let members = pool.members.iter().enumerate();
        let members: Vec<_> = members
            .filter_map(|(at, member)| {
                convert_member(cx, &path, pool, &path.key("members").index(at), member, tokens)
            })
            .collect();
        let health = health(cx, &path.key("health"), &pool.health);
        let limits = upstream_limits(cx, &path.key("upstream"), &pool.upstream, Some(&default_limits));
        harbor::check_passwords(cx, &path, at, file, &members);
        if let Ok(name) = PoolName::try_from(pool.name.as_str()) {
            let storage = match pool.storage {
                Some(StorageKey::Replicated) => Storage::Replicated,
                Some(StorageKey::Shared) | None => Storage::Shared,
            };
            let keys = pool.harbor.as_ref();
            let portal = harbor::has_nodes(pool) && keys.and_then(|keys| keys.portal).unwrap_or(true);
            let write_failover = write_failover(cx, &path, pool, &health);
            pools.push(PoolSettings {
                name,
                storage,
                portal,
                members,
                health,
                limits,
                write_failover,
                previous_members: previous_members(cx, &path, pool),
                read_your_writes: pool.read_your_writes.map_or(READ_YOUR_WRITES, |time| time.0),
            });
        }
    }
    pools
}

/// A pool with defaults only.
pub(in crate::config) fn plain_pool(
    cx: &mut Context<'_>,
    name: PoolName,
    members: Vec<(MemberName, MemberAddress)>,
) -> PoolSettings {
    let plain = |(name, address): (MemberName, MemberAddress)| MemberSettings {
        name,
        address,
        tls: MemberTls::default(),
        weight: 1,
        tier: Tier::Primary,
        kind: MemberKind::Registry,
        credential: CredentialSettings::None,
    };
    let path = KeyPath::default();
    PoolSettings {
        name,
        storage: Storage::Shared,
        portal: false,
        members: members.into_iter().map(plain).collect(),
        health: health(cx, &path, &Health::default()),
        limits: upstream_limits(cx, &path, &Upstream::default(), None),
        write_failover: None,
        previous_members: Vec::new(),
        read_your_writes: READ_YOUR_WRITES,
    }
}

/// Keys that mean something only where members copy each other.
fn write_failover(
    cx: &mut Context<'_>,
    path: &KeyPath,
    pool: &Pool,
    health: &HealthSettings,
) -> Option<Duration> {
    let path = path.key("write_failover");
    let after = pool.write_failover?;
    let after = cx.duration(&path, Some(after), Duration::from_secs(30));
    if !matches!(pool.storage, Some(StorageKey::Replicated)) {
        let problem = "all members of this pool see the same storage, so that any of them takes writes";
        cx.error(&path, problem, Fix::advice("remove it, or write `storage: replicated`"));
    }
    let least = (health.interval * health.fall + health.timeout) * 2;
    if after < least {
        let problem = format!(
            "{} is too short: every gateway has to have noticed that the home is out, which takes up to {}",
            describe(after),
            describe(least / 2)
        );
        cx.error(&path, problem, Fix::Write(format!("{} or more", describe(least))));
    }
    Some(after)
}

fn previous_members(cx: &mut Context<'_>, path: &KeyPath, pool: &Pool) -> Vec<MemberName> {
    let path = path.key("previous_members");
    if !pool.previous_members.is_empty() && !matches!(pool.storage, Some(StorageKey::Replicated)) {
        let problem = "all members of this pool see the same storage, so that content is nowhere else";
        cx.error(&path, problem, Fix::advice("remove it, or write `storage: replicated`"));
    }
    let mut names = Vec::new();
    for (at, text) in pool.previous_members.iter().enumerate() {
        match MemberName::try_from(text.as_str()) {
            Ok(name) => names.push(name),
            Err(_) => {
                cx.error(&path.index(at), format!("{text:?} is not a member name"), Fix::write(NAME_RULE));
            }
        }
    }
    names
}

/// Pool names are unique, and member names over all pools: metrics and pins know members by name only.
fn check_names(cx: &mut Context<'_>, path: &KeyPath, pools: &[Pool]) {
    let mut members: Vec<(&str, &str)> = Vec::new();
    for (at, pool) in pools.iter().enumerate() {
        let path = path.index(at);
        let name_path = path.key("name");
        if PoolName::try_from(pool.name.as_str()).is_err() {
            cx.error(&name_path, format!("{:?} is not a pool name", pool.name), Fix::write(NAME_RULE));
        }
        if pools[..at].iter().any(|other| other.name == pool.name) {
            let fix = Fix::Write(format!("another name, such as {}{}", pool.name, at + 1));
            cx.error(&name_path, format!("there is already a pool {:?}", pool.name), fix);
        }
        for (at, member) in pool.members.iter().enumerate() {
            let path = path.key("members").index(at).key("name");
            if MemberName::try_from(member.name.as_str()).is_err() {
                cx.error(&path, format!("{:?} is not a member name", member.name), Fix::write(NAME_RULE));
            }
            if let Some((_, other)) = members.iter().find(|(name, _)| *name == member.name) {
                let problem = format!(
                    "there is already a member {:?}, in the pool {other:?}; names are unique over all pools",
                    member.name
                );
                cx.error(
                    &path,
                    problem,
                    Fix::Write(format!("another name, such as {}-{}", pool.name, member.name)),
                );
            }
            members.push((&member.name, &pool.name));
        }
    }
}

fn convert_member(
    cx: &mut Context<'_>,
    pool_path: &KeyPath,
    pool: &Pool,
    path: &KeyPath,
    member: &Member,
    tokens: &TokenSettings,
) -> Option<MemberSettings> {
    let address = match member_address(&member.url) {
        Ok(address) => Some(address),
        Err(problem) => {
            address::report(cx, &path.key("url"), problem);
            None
        }
    };
    let weight = member.weight.unwrap_or(1);
    if !(1..=WEIGHT_MAX).contains(&weight) {
        cx.error(
            &path.key("weight"),
            format!("the weight {weight} is not between 1 and {WEIGHT_MAX}"),
            Fix::write("1"),
        );
    }
    let tls = member.tls.as_ref().map(|tls| member_tls(cx, &path.key("tls"), tls)).unwrap_or_default();
    if member.tls.is_some() && address.as_ref().is_some_and(|address| !address.https) {
        let fix = "write https:// in `url`, or remove `tls`";
        cx.error(&path.key("tls"), "an http member has no TLS", Fix::advice(fix));
    }
    let kind = harbor::member_kind(cx, pool_path, pool, path, member)?;
    let credential = credentials::member(cx, pool_path, pool, path, member, tokens)?;
    let name = MemberName::try_from(member.name.as_str()).ok();
    let tier = if member.backup.unwrap_or(false) { Tier::Backup } else { Tier::Primary };
    Some(MemberSettings { name: name?, address: address?, tls, weight, tier, kind, credential })
}

/// Scheme, host and port of a member's URL.
pub(in crate::config) fn member_address(url: &str) -> Result<MemberAddress, address::UrlProblem> {
    let parsed = address::parse_url(url)?;
    let host = parsed.host.name.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok(MemberAddress {
        https: parsed.https,
        host,
        port: parsed.host.port.unwrap_or(if parsed.https { 443 } else { 80 }),
    })
}

fn member_tls(cx: &mut Context<'_>, path: &KeyPath, tls: &TlsKeys) -> MemberTls {
    if let Some(file) = &tls.ca_file {
        let path = path.key("ca_file");
        if let Some(pem) = cx.read(&path, file) {
            listeners::certificates(cx, &path, &pem);
        }
    }
    if let Some(name) = &tls.server_name
        && rustls::pki_types::ServerName::try_from(name.as_str()).is_err()
    {
        cx.error(
            &path.key("server_name"),
            format!("{name:?} is not a host name"),
            Fix::write("the DNS name in the member's certificate"),
        );
    }
    let client_certificate = tls.client_certificate.as_ref().map(|pair| {
        let files = listeners::certificate_pair(cx, &path.key("client_certificate"), pair);
        (files.cert, files.key)
    });
    MemberTls {
        ca_file: tls.ca_file.as_ref().map(|file| cx.resolve(file)),
        server_name: tls.server_name.clone(),
        client_certificate,
    }
}

fn health(cx: &mut Context<'_>, path: &KeyPath, health: &Health) -> HealthSettings {
    let interval = cx.duration(&path.key("interval"), health.interval, Duration::from_secs(5));
    let fast_path = path.key("fast_interval");
    let fast_interval = cx.duration(&fast_path, health.fast_interval, interval.min(Duration::from_secs(1)));
    if fast_interval > interval {
        let problem = format!(
            "{} is longer than the interval of healthy members, {}",
            describe(fast_interval),
            describe(interval)
        );
        cx.error(&fast_path, problem, Fix::Write(describe(interval)));
    }
    let timeout = cx.duration(&path.key("timeout"), health.timeout, Duration::from_secs(2));
    if health.timeout.is_some() && timeout > interval {
        let problem = format!(
            "a probe may take {}, longer than the interval of {}",
            describe(timeout),
            describe(interval)
        );
        cx.warn(&path.key("timeout"), problem, Fix::Write(format!("{} or less", describe(interval))));
    }
    let canary = health.canary.as_ref().and_then(|text| {
        let canary = canary(text);
        if canary.is_none() {
            let fix = "library/canary:1 or library/canary@sha256:DIGEST";
            cx.error(&path.key("canary"), format!("{text:?} does not name a manifest"), Fix::write(fix));
        }
        canary
    });
    HealthSettings {
        interval,
        fast_interval,
        timeout,
        rise: cx.count(&path.key("rise"), health.rise, 2),
        fall: cx.count(&path.key("fall"), health.fall, 3),
        canary,
        slow_start: health.slow_start.map_or(Duration::from_secs(30), |time| time.0),
        panic_percent: percent(cx, &path.key("panic_percent"), health.panic_percent, PANIC_PERCENT),
        ejection: ejection(cx, &path.key("ejection"), &health.ejection),
    }
}

fn ejection(cx: &mut Context<'_>, path: &KeyPath, keys: &Ejection) -> EjectionRules {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let time = cx.duration(&path.key("time"), keys.time, Duration::from_secs(10));
    EjectionRules { failures: cx.count(&path.key("failures"), keys.failures, 5), time_ms: ms(time) }
}

/// A share of at most all, in percent; none is a share too.
fn percent(cx: &mut Context<'_>, path: &KeyPath, value: Option<u32>, default: u32) -> u32 {
    let percent = value.unwrap_or(default);
    if percent > 100 {
        cx.error(path, format!("{percent} is more than 100 percent"), Fix::Write(default.to_string()));
    }
    percent
}

/// How content is verified on its way.
pub(in crate::config) fn verify(cx: &mut Context<'_>, path: &KeyPath, keys: &Verify) -> VerifySettings {
    let hold_bytes = keys.hold.map_or(1 << 20, |size| size.0);
    let buffer_path = path.key("buffer_bytes_max");
    let buffer_bytes_max = cx.size(&buffer_path, keys.buffer_bytes_max, 64 << 20, 8 << 20);
    if hold_bytes > buffer_bytes_max {
        let problem = "nothing of this size would ever be held: it is larger than `buffer_bytes_max`";
        cx.error(&path.key("hold"), problem, Fix::write("1MiB"));
    }
    VerifySettings {
        hold_bytes,
        buffer_bytes_max,
        manifest_buffer_bytes_max: cx.size(
            &path.key("manifest_buffer_bytes_max"),
            keys.manifest_buffer_bytes_max,
            32 << 20,
            8 << 20,
        ),
        quarantine: cx.duration(&path.key("quarantine"), keys.quarantine, Duration::from_hours(1)),
    }
}

/// How reads of the same are shared.
pub(in crate::config) fn coalesce(cx: &mut Context<'_>, path: &KeyPath, keys: &Coalesce) -> CoalesceSettings {
    CoalesceSettings {
        enabled: keys.enabled.unwrap_or(true),
        window_bytes: to_usize(cx.size(&path.key("window"), keys.window, 4 << 20, 64 << 10)),
        windows_max: cx.count(&path.key("windows_max"), keys.windows_max, 32) as usize,
    }
}

fn canary(text: &str) -> Option<(RepositoryName, Reference)> {
    let (repository, reference) = text.split_once('@').or_else(|| text.rsplit_once(':'))?;
    let reference = Reference::try_from(reference).ok()?;
    if matches!(reference, Reference::Tag(_)) == text.contains('@') {
        return None;
    }
    Some((RepositoryName::try_from(repository).ok()?, reference))
}

/// Bounds of members of which nothing is said.
fn built_in_limits() -> UpstreamLimits {
    let seconds = Duration::from_secs;
    UpstreamLimits {
        connections_max: 256,
        queue_max: 1024,
        queue_timeout: seconds(10),
        connect_timeout: seconds(2),
        idle_timeout: seconds(45),
        first_byte_timeout: seconds(5),
        head_timeout: seconds(25),
        finish_timeout: seconds(900),
        body_idle_timeout: seconds(60),
        pulls_max: 192,
        uploads_max: 192,
        client_share_percent: 25,
        body_stall_timeout: seconds(10),
        resume_max: 3,
        manifest_bytes_max: 4 << 20,
        retry: RetryRules { percent: 20, per_second: 10 },
    }
}

/// Bounds, with those of `default` where the section says nothing.
fn upstream_limits(
    cx: &mut Context<'_>,
    path: &KeyPath,
    keys: &Upstream,
    default: Option<&UpstreamLimits>,
) -> UpstreamLimits {
    let seconds = Duration::from_secs;
    let built_in = built_in_limits();
    let default = default.unwrap_or(&built_in);
    let count = |cx: &mut Context<'_>, key, value, default: usize| {
        cx.count(&path.key(key), value, u32::try_from(default).unwrap_or(u32::MAX)) as usize
    };
    let connections_max = count(cx, "connections_max", keys.connections_max, default.connections_max);
    // Three quarters each, so that neither can keep the other from its work.
    let most_of_all = connections_max - connections_max / 4;
    let (pulls, uploads) = match keys.connections_max {
        Some(_) => (most_of_all, most_of_all),
        None => (default.pulls_max, default.uploads_max),
    };
    let manifest_path = path.key("manifest_bytes_max");
    let manifest_most = default.manifest_bytes_max as u64;
    let limits = UpstreamLimits {
        connections_max,
        pulls_max: count(cx, "pulls_max", keys.pulls_max, pulls).min(connections_max),
        uploads_max: count(cx, "uploads_max", keys.uploads_max, uploads).min(connections_max),
        client_share_percent: percent(
            cx,
            &path.key("client_share_percent"),
            keys.client_share_percent,
            default.client_share_percent,
        ),
        queue_max: count(cx, "queue_max", keys.queue_max, default.queue_max),
        queue_timeout: cx.duration(&path.key("queue_timeout"), keys.queue_timeout, default.queue_timeout),
        connect_timeout: cx.duration(
            &path.key("connect_timeout"),
            keys.connect_timeout,
            default.connect_timeout,
        ),
        idle_timeout: cx.duration(&path.key("idle_timeout"), keys.idle_timeout, default.idle_timeout),
        first_byte_timeout: cx.duration(
            &path.key("first_byte_timeout"),
            keys.first_byte_timeout,
            default.first_byte_timeout,
        ),
        head_timeout: cx.duration(&path.key("head_timeout"), keys.head_timeout, default.head_timeout),
        finish_timeout: cx.duration(&path.key("finish_timeout"), keys.finish_timeout, default.finish_timeout),
        body_idle_timeout: cx.duration(
            &path.key("body_idle_timeout"),
            keys.body_idle_timeout,
            default.body_idle_timeout,
        ),
        body_stall_timeout: cx.duration(
            &path.key("body_stall_timeout"),
            keys.body_stall_timeout,
            default.body_stall_timeout,
        ),
        resume_max: keys.resume_max.unwrap_or(default.resume_max),
        manifest_bytes_max: to_usize(cx.size(
            &manifest_path,
            keys.manifest_bytes_max,
            manifest_most,
            64 << 10,
        )),
        retry: RetryRules {
            percent: keys.retry_budget.percent.unwrap_or(default.retry.percent).min(RETRIES_MAX),
            per_second: keys.retry_budget.per_second.unwrap_or(default.retry.per_second).min(RETRIES_MAX),
        },
    };
    if keys.head_timeout.is_some() && limits.head_timeout > seconds(30) {
        let problem = format!(
            "containerd gives up after 30s, before the {} that an answer may take",
            describe(limits.head_timeout)
        );
        cx.warn(&path.key("head_timeout"), problem, Fix::write("25s"));
    }
    limits
}
