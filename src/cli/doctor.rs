//! `tidegate doctor`.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::SignedDuration;
use tokio_util::task::TaskTracker;

use super::{ConfigArgument, NO, UNUSABLE, complain, fail, say};
use crate::config::{self, Config};
use crate::doctor::{Colour, Options, Report, examine, render};
use crate::key_store;
use crate::registry::RepositoryName;
use crate::reload::retention;
use crate::telemetry::Metrics;
use crate::upstream::{Pools, Shared};

#[derive(Debug, clap::Args)]
pub(super) struct Doctor {
    #[command(flatten)]
    config: ConfigArgument,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    /// Also write: uploads, and a small image that is removed again
    #[arg(long)]
    write_probes: bool,
    /// Where --write-probes may write; the project of a Harbor node has to exist
    #[arg(long, value_name = "NAME", default_value = "tidegate-doctor/probe", requires = "write_probes", value_parser = repository)]
    repository: RepositoryName,
    /// How long one question to a member may take
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    timeout: Duration,
}

fn repository(text: &str) -> Result<RepositoryName, String> {
    RepositoryName::try_from(text).map_err(|error| error.to_string())
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration: SignedDuration = text.parse().map_err(|error: jiff::Error| error.to_string())?;
    match Duration::try_from(duration) {
        Ok(duration) if duration >= Duration::from_millis(100) && duration <= Duration::from_secs(120) => {
            Ok(duration)
        }
        _ => Err("not between 100ms and 2m".to_owned()),
    }
}

pub(super) fn run(arguments: &Doctor) -> ExitCode {
    let config = match config::load(&arguments.config.config) {
        Ok(loaded) => loaded.config,
        Err(errors) => {
            complain(errors);
            return ExitCode::from(UNUSABLE);
        }
    };
    match ask_all(&config, arguments) {
        Ok(report) => {
            show(&report, arguments);
            if report.summary.errors > 0 { ExitCode::from(NO) } else { ExitCode::SUCCESS }
        }
        Err(problem) => fail(UNUSABLE, problem),
    }
}

fn ask_all(config: &Config, arguments: &Doctor) -> Result<Report, String> {
    let keys = key_store::load(&config.tokens.keys, &config.uploads.seal_keys, retention(config));
    let keys = keys.map_err(|error| format!("tokens.keys, uploads.seal_keys: {error}"))?;
    let shared = Shared {
        member_ring: Arc::new(ArcSwap::from_pointee(keys.member)),
        metrics: Metrics::new().map_err(|error| error.to_string())?,
        drivers: TaskTracker::new(),
        workers: 1,
        cache_entries_max: 1,
        ejections: Arc::default(),
    };
    let pools = Pools::build(&config.pools, &shared).map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let write_in = arguments.write_probes.then(|| arguments.repository.clone());
    let options = Options { timeout: arguments.timeout, write_in };
    let report = runtime.block_on(examine(&config.pools, &pools, &config.hosts, &options));
    // A name service that hangs holds up nothing.
    runtime.shutdown_background();
    Ok(report)
}

fn show(report: &Report, arguments: &Doctor) {
    if arguments.json {
        return say(serde_json::to_string_pretty(report).unwrap_or_default());
    }
    let is_terminal = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let colour = if is_terminal { Colour::Terminal } else { Colour::None };
    say(render(report, colour).trim_end());
    if !arguments.write_probes {
        say(
            "Not checked, as only writing shows it: http.secret, the same storage and database, redirects to storage, read-only registries; see --write-probes",
        );
    }
}
