//! `tidegate serve`.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;

use crate::app::{self, StartedAs, Surroundings};
use crate::config::{self, Config, ConfigErrors};
use crate::files;
use crate::handover::{InheritError, Inheritance};
use crate::server::{CertificateFiles, ListenerKind, generate_self_signed};
use crate::telemetry::init_logging;

use super::{DEFAULT_CONFIG, NO, UNUSABLE, complain, fail};

/// Where keys and the self-signed certificate go when nothing is said.
const DEFAULT_DATA_DIRECTORY: &str = "tidegate-data";

/// The whole configuration with a first user, written for people who started with member URLs.
const FIRST_USER_FILE: &str = "first-user.yaml";
/// It holds no secret yet.
const FIRST_USER_MODE: u32 = 0o644;
/// Names the configuration file where no argument does.
const CONFIG_VARIABLE: &str = "TIDEGATE_CONFIG";

/// Arguments of `serve`.
#[derive(Debug, clap::Args)]
pub(super) struct Serve {
    /// The configuration file; when not said, $TIDEGATE_CONFIG or /etc/tidegate/tidegate.yaml
    #[arg(long, short, value_name = "FILE", conflicts_with = "members")]
    config: Option<PathBuf>,
    /// Take the listening sockets over from the gateway that runs with this configuration; it ends
    /// when its requests have
    #[arg(long)]
    take_over: bool,
    /// Member URLs, instead of a configuration file: TLS on port 8443 with a self-signed
    /// certificate, all access denied until a configuration adds users
    #[arg(value_name = "MEMBER_URL")]
    members: Vec<String>,
    /// Where keys and the self-signed certificate are kept when member URLs are given
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DATA_DIRECTORY)]
    data_dir: PathBuf,
    /// Where to listen when member URLs are given
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8443", requires = "members")]
    listen: SocketAddr,
    /// Where the admin listener is when member URLs are given
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9090", requires = "members")]
    admin_listen: SocketAddr,
}

pub(super) fn run(arguments: &Serve) -> ExitCode {
    // Before there is any other thread, and before the file may be replaced.
    let (passed, started_as) = (Inheritance::from_service_manager(), StartedAs::now());
    let quick = !arguments.members.is_empty();
    let from_environment = || std::env::var_os(CONFIG_VARIABLE).map(PathBuf::from);
    let named = || arguments.config.clone().or_else(from_environment);
    let path = (!quick).then(|| named().unwrap_or_else(|| PathBuf::from(DEFAULT_CONFIG)));
    let config = match load(path.as_ref(), arguments) {
        Ok(config) => config,
        Err(errors) => {
            complain(errors);
            return fail(UNUSABLE, "the configuration cannot be used; nothing was started");
        }
    };
    let (guards, access_writer, access_dropped) = match init_logging(&config.log) {
        Ok(started) => started,
        Err(error) => return fail(UNUSABLE, error),
    };
    if quick && let Err(problem) = prepare_quick_start(&config, arguments) {
        return fail(UNUSABLE, problem);
    }
    let ended = inherit(&config, arguments, passed).and_then(|inheritance| {
        let predecessor = inheritance.predecessor();
        let started_as = started_as.context("find this program's own file")?;
        let config_path = path;
        let surroundings =
            Surroundings { config_path, access_writer, access_dropped, inheritance, started_as };
        app::run(config, surroundings).inspect_err(|error| {
            if let Some(mut predecessor) = predecessor {
                let reason = format!("{error:#}").replace('\n', " ");
                // Once it has ended it needs no word any more.
                drop(writeln!(predecessor, "the new process failed: {reason}"));
            }
        })
    });
    if let Err(error) = &ended {
        tracing::error!(error = format!("{error:#}"), "ended by an error");
    }
    drop(guards);
    // What went wrong is in the log, which is on standard error.
    if ended.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(NO) }
}

/// The sockets and the state that others leave to this process.
fn inherit(
    config: &Config,
    arguments: &Serve,
    passed: Result<Inheritance, InheritError>,
) -> anyhow::Result<Inheritance> {
    if !arguments.take_over {
        return Ok(passed?);
    }
    let socket = config.admin.as_ref().and_then(|admin| admin.socket.as_deref());
    let socket = socket.context("--take-over needs `admin.socket`, which is none")?;
    Ok(Inheritance::from_predecessor(socket)?)
}

fn load(path: Option<&PathBuf>, arguments: &Serve) -> Result<Config, ConfigErrors> {
    let Some(path) = path else {
        let mut config = config::from_member_urls(&arguments.members, &arguments.data_dir)?;
        for listener in &mut config.server.listeners {
            listener.address = arguments.listen;
        }
        if let Some(admin) = &mut config.admin {
            admin.address = arguments.admin_listen;
        }
        return Ok(config);
    };
    let loaded = config::load(path)?;
    for warning in &loaded.warnings {
        complain(format_args!("warning: {warning}"));
    }
    Ok(loaded.config)
}

/// Makes the certificate, and says how to let the first user in.
fn prepare_quick_start(config: &Config, arguments: &Serve) -> Result<(), String> {
    let listener = config.server.listeners.first().ok_or("there is no listener")?;
    let ListenerKind::Tls(tls) = &listener.kind else { return Err("the listener has no TLS".to_owned()) };
    let pair = tls.certificates.first().ok_or("the listener has no certificate")?;
    let because = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    let directory = &arguments.data_dir;
    files::make_directory(directory).map_err(|error| because(directory, error))?;
    if generate_self_signed(&config.hosts.names(), pair).map_err(|error| error.to_string())? {
        for file in [&pair.cert, &pair.key] {
            files::give_to_owner_of_directory(file).map_err(|error| because(file, error))?;
        }
        tracing::warn!(cert = %pair.cert.display(), "made a self-signed certificate; docker trusts it from /etc/docker/certs.d/HOST:PORT/ca.crt");
    }
    let yaml = first_user_yaml(config, pair, arguments);
    let file = directory.join(FIRST_USER_FILE);
    files::write(&file, yaml.as_bytes(), FIRST_USER_MODE).map_err(|error| because(&file, error))?;
    let file = file.display();
    tracing::warn!(
        "all access is denied: there are no users. To add the first one, put the output of `tidegate hash-password` into {file} and run `tidegate serve --config {file}`. The file says:\n{yaml}"
    );
    Ok(())
}

/// A whole configuration for the same members, but for one password hash. Its paths start at its
/// own directory, the data directory.
fn first_user_yaml(config: &Config, files: &CertificateFiles, arguments: &Serve) -> String {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (cert, key) = (name(&files.cert), name(&files.key));
    let (listen, admin) = (arguments.listen, arguments.admin_listen);
    let (keys, seal) = (name(&config.tokens.keys), name(&config.uploads.seal_keys));
    let port = if listen.port() == 0 { String::new() } else { format!(":{}", listen.port()) };
    let hosts: Vec<String> =
        config.hosts.names().iter().map(|name| format!("\"{}\"", bracketed(name))).collect();
    let members = arguments.members.iter().enumerate();
    let members: String =
        members.map(|(at, url)| format!("      - {{ name: member{}, url: \"{url}\" }}\n", at + 1)).collect();
    format!(
        "external_url: https://localhost{port}
hosts: [{}]
listeners:
  - address: \"{listen}\"
    tls: {{ certificates: [{{ cert: {cert}, key: {key} }}] }}
admin: {{ address: \"{admin}\" }}
tokens: {{ keys: {keys} }}
uploads: {{ seal_keys: {seal} }}
identity:
  - users: [{{ name: admin, password_hash: \"OUTPUT OF tidegate hash-password\" }}]
policy:
  - {{ user: admin, repository: \"**\", allow: [pull, push, delete] }}
pools:
  - name: main
    members:
{members}",
        hosts.join(", ")
    )
}

/// An IPv6 address as it stands in a `Host`.
fn bracketed(name: &str) -> String {
    if name.contains(':') { format!("[{name}]") } else { name.to_owned() }
}
