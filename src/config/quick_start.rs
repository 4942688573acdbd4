//! The configuration of `tidegate serve URL...`: no file, a self-signed certificate, and no user has access yet.

use std::path::Path;
use std::time::Duration;

use super::Config;
use super::convert::{
    CONTROL_SOCKET, Context, coalesce_settings, connection_limits, log_settings, member_address, plain_pool,
    shutdown_settings, token_settings, upload_settings, verify_limits, verify_settings, workers,
};
use super::document::{Document, KeyPath};
use super::error::{ConfigError, ConfigErrors, Fix};
use super::file::{Coalesce, Limits, Log, PasswordChecks, Shutdown, Tokens, Uploads, Verify};
use crate::admin::AdminSettings;
use crate::auth::policy::{Pattern, Policy};
use crate::forwarding::hosts::{AllowedHost, Hosts};
use crate::identity::IdentitySettings;
use crate::routing::{Route, RouteTable};
use crate::server::{CertificateFiles, ListenerKind, ListenerSettings, ServerSettings, TlsSettings};
use crate::upstream::{MemberAddress, MemberName, PoolName};

/// The port that clients use without a configuration.
const PORT: u16 = 8443;

/// The port of the admin listener.
const ADMIN_PORT: u16 = 9090;

/// A configuration for these members, with everything that is kept below `data_dir`. The certificate's files are named, not made.
///
/// # Errors
/// Every argument that is not the URL of a member.
pub fn from_member_urls(urls: &[String], data_dir: &Path) -> Result<Config, ConfigErrors> {
    let members = members(urls)?;
    let document = Document::empty();
    let mut cx = Context::new(&document, Path::new(""));
    let path = KeyPath::default();
    let hosts = hosts();
    let certificate =
        CertificateFiles { cert: data_dir.join("self-signed.crt"), key: data_dir.join("self-signed.key") };
    let listener = ListenerSettings {
        address: ([0, 0, 0, 0], PORT).into(),
        kind: ListenerKind::Tls(TlsSettings { certificates: vec![certificate] }),
    };
    let tokens = Tokens { keys: Some(data_dir.join("keys")), ..Tokens::default() };
    let uploads = Uploads { seal_keys: Some(data_dir.join("seal")), ..Uploads::default() };
    let name = PoolName::try_from("main").expect("a word is a pool name");
    let everything =
        Pattern::repository("**").into_iter().map(|repository| Route { host: None, repository, pool: 0 });
    let config = Config {
        server: ServerSettings {
            workers: workers(&mut cx, &path, None),
            listeners: vec![listener],
            limits: connection_limits(&mut cx, &path, &Limits::default()),
        },
        admin: Some(AdminSettings {
            address: ([127, 0, 0, 1], ADMIN_PORT).into(),
            hosts: Vec::new(),
            socket: Some(data_dir.join(CONTROL_SOCKET)),
        }),
        tokens: token_settings(&mut cx, &path, &tokens, hosts.primary()),
        uploads: upload_settings(&mut cx, &path, &uploads),
        identity: IdentitySettings {
            providers: Vec::new(),
            limits: verify_limits(&mut cx, &path, &PasswordChecks::default()),
        },
        policy: Policy::default(),
        pools: vec![plain_pool(&mut cx, name, members)],
        routes: RouteTable::new(everything.collect()),
        verify: verify_settings(&mut cx, &path, &Verify::default()),
        coalesce: coalesce_settings(&mut cx, &path, &Coalesce::default()),
        log: log_settings(&mut cx, &path, &Log::default()),
        shutdown: shutdown_settings(&Shutdown::default()),
        reload_interval: Duration::from_secs(2),
        secret_files: Vec::new(),
        hosts,
    };
    cx.finish()?;
    Ok(config)
}

fn members(urls: &[String]) -> Result<Vec<(MemberName, MemberAddress)>, ConfigErrors> {
    let mut errors = Vec::new();
    let mut members: Vec<(MemberName, MemberAddress)> = Vec::new();
    if urls.is_empty() {
        errors.push(argument_error(
            1,
            "is missing".to_owned(),
            Fix::write("http://10.0.0.11:5000 http://10.0.0.12:5000, or --config FILE"),
        ));
    }
    for (at, url) in urls.iter().enumerate() {
        let number = at + 1;
        match (MemberName::try_from(format!("member{number}").as_str()), member_address(url)) {
            (Ok(_), Ok(address)) if members.iter().any(|(_, other)| *other == address) => {
                errors.push(argument_error(
                    number,
                    format!("{url:?} is given twice"),
                    Fix::advice("give every member once"),
                ));
            }
            (Ok(name), Ok(address)) => members.push((name, address)),
            (Err(error), Ok(_)) => errors.push(argument_error(
                number,
                error.to_string(),
                Fix::advice("use a configuration file"),
            )),
            (_, Err(wrong)) => errors.push(argument_error(number, wrong.problem, wrong.fix)),
        }
    }
    if errors.is_empty() { Ok(members) } else { Err(ConfigErrors(errors)) }
}

fn argument_error(number: usize, problem: String, fix: Fix) -> ConfigError {
    ConfigError {
        file: None,
        line: 0,
        column: 0,
        key: format!("argument {number}"),
        problem,
        fix,
        snippet: None,
    }
}

/// The machine's own name, where it has one that can stand in a URL, and the loopback names.
fn hosts() -> Hosts {
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_| std::fs::read_to_string("/etc/hostname"));
    let machine = machine.unwrap_or_default();
    let name = |text: &str| AllowedHost { name: text.to_owned(), port: None };
    let loopback = ["localhost", "127.0.0.1", "[::1]"].map(name);
    let machine = AllowedHost::parse(machine.trim())
        .ok()
        .filter(|host| host.port.is_none() && !loopback.contains(host));
    let mut names = machine.into_iter().chain(loopback);
    let primary = names.next().unwrap_or_else(|| name("localhost"));
    Hosts::new(primary, names.collect(), true)
}
