//! `tidegate serve`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::admin::AdminSettings;
use crate::app::{self, Surroundings};
use crate::config::{self, Config, ConfigErrors};
use crate::server::{ListenerKind, generate_self_signed};
use crate::telemetry::init_logging;

use super::{DEFAULT_CONFIG, UNUSABLE, complain, fail};

/// Where keys and the self-signed certificate go when nothing is said.
const DEFAULT_DATA_DIRECTORY: &str = "tidegate-data";

/// Arguments of `serve`.
#[derive(Debug, clap::Args)]
pub(super) struct Serve {
    /// The configuration file
    #[arg(long, short, value_name = "FILE", env = "TIDEGATE_CONFIG", conflicts_with = "members")]
    config: Option<PathBuf>,
    /// Member URLs, instead of a configuration file: TLS on port 8443 with a self-signed
    /// certificate, all access denied until a configuration adds users
    #[arg(value_name = "MEMBER_URL")]
    members: Vec<String>,
    /// Where keys and the self-signed certificate are kept when member URLs are given
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DATA_DIRECTORY)]
    data_dir: PathBuf,
    /// Where to listen when member URLs are given
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8443", conflicts_with = "config")]
    listen: SocketAddr,
    /// Where the admin listener is when member URLs are given
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9090", conflicts_with = "config")]
    admin_listen: SocketAddr,
}

pub(super) fn run(arguments: &Serve) -> ExitCode {
    let quick = !arguments.members.is_empty();
    let path = (!quick).then(|| arguments.config.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_CONFIG)));
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
    if quick && let Err(problem) = prepare_quick_start(&config, &arguments.members) {
        return fail(UNUSABLE, problem);
    }
    let ended = app::run(config, Surroundings { config_path: path, access_writer, access_dropped });
    if let Err(error) = &ended {
        tracing::error!(error = format!("{error:#}"), "ended by an error");
    }
    drop(guards);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, format_args!("{error:#}")),
    }
}

fn load(path: Option<&PathBuf>, arguments: &Serve) -> Result<Config, ConfigErrors> {
    let Some(path) = path else {
        let mut config = config::from_member_urls(&arguments.members, &arguments.data_dir)?;
        for listener in &mut config.server.listeners {
            listener.address = arguments.listen;
        }
        config.admin = Some(AdminSettings { address: arguments.admin_listen });
        return Ok(config);
    };
    let loaded = config::load(path)?;
    for warning in &loaded.warnings {
        complain(format_args!("warning: {warning}"));
    }
    Ok(loaded.config)
}

/// Makes the certificate, and says how to let the first user in.
fn prepare_quick_start(config: &Config, members: &[String]) -> Result<(), String> {
    for listener in &config.server.listeners {
        let ListenerKind::Tls(tls) = &listener.kind else { continue };
        for files in &tls.certificates {
            let names = config.hosts.names();
            if generate_self_signed(names, files).map_err(|error| error.to_string())? {
                tracing::warn!(cert = %files.cert.display(), "made a self-signed certificate; docker trusts it from /etc/docker/certs.d/HOST:PORT/ca.crt");
            }
        }
    }
    let urls: Vec<String> = members
        .iter()
        .enumerate()
        .map(|(at, url)| format!("{{name: member{}, url: \"{url}\"}}", at + 1))
        .collect();
    let yaml = format!(
        "identity: [{{users: [{{name: admin, password_hash: \"OUTPUT OF tidegate hash-password\"}}]}}]\npolicy: [{{user: admin, repository: \"**\", allow: [pull, push, delete]}}]\npools: [{{name: main, members: [{}]}}]",
        urls.join(", ")
    );
    tracing::warn!(
        "all access is denied: there are no users. To add the first one, put this beside `external_url` and `listeners` into tidegate.yaml and run `tidegate serve --config tidegate.yaml`:\n{yaml}"
    );
    Ok(())
}
