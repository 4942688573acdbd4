//! `tidegate keys`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};

use super::{UNUSABLE, complain, fail, say};
use crate::auth::keys::Algorithm;
use crate::config;
use crate::files;
use crate::key_store::{self, KeyStoreError, KeyUse, Retention};
use crate::random::unix_now;
use crate::reload::retention;

/// How long keys of a directory without a configuration count as retired, in seconds.
const RETENTION_UNKNOWN: u64 = 24 * 3600;

/// A key for later than this is a typing error.
const ACTIVATE_AFTER_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

#[derive(Debug, Subcommand)]
pub(super) enum Keys {
    /// Make the first keys; every replica is given the same files
    Generate(Directory),
    /// Show every key, what it is for and what it may do now
    List(Directory),
    /// Make a new key, which signs after a while; until then it is only published
    Rotate(Rotate),
    /// Print the certificates for a member's `rootcertbundle`, pending keys included
    ExportBundle(Directory),
}

/// Which directories.
#[derive(Debug, clap::Args)]
pub(super) struct Directory {
    /// A key directory, for all keys
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    dir: Option<PathBuf>,
    /// The configuration whose `tokens.keys` and `uploads.seal_keys` are meant
    #[arg(long, short, value_name = "FILE", env = "TIDEGATE_CONFIG")]
    config: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Rotate {
    #[command(flatten)]
    directory: Directory,
    /// Which key; all when not said
    #[arg(long, value_enum)]
    only: Option<Which>,
    /// After how long the new key signs, such as 10m; the configuration's `tokens.activate_after`
    /// when not said
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    activate_after: Option<Duration>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Which {
    Client,
    Member,
    Seal,
}

impl Which {
    fn purpose(self) -> KeyUse {
        match self {
            Self::Client => KeyUse::Client,
            Self::Member => KeyUse::Member,
            Self::Seal => KeyUse::Seal,
        }
    }
}

/// The directories and what the configuration says of keys.
struct Places {
    keys: PathBuf,
    seal_keys: PathBuf,
    algorithm: Algorithm,
    activate_after: Duration,
    retention: Retention,
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration = text.parse().map_err(|error: jiff::Error| error.to_string())?;
    let duration = Duration::try_from(span).map_err(|error| error.to_string())?;
    if duration > ACTIVATE_AFTER_MAX { Err("longer than a year".to_owned()) } else { Ok(duration) }
}

pub(super) fn run(command: &Keys) -> ExitCode {
    let directory = match command {
        Keys::Generate(directory) | Keys::List(directory) | Keys::ExportBundle(directory) => directory,
        Keys::Rotate(rotate) => &rotate.directory,
    };
    let places = match places(directory) {
        Ok(places) => places,
        Err(code) => return code,
    };
    let done = match command {
        Keys::Generate(_) => generate(&places),
        Keys::List(_) => list(&places),
        Keys::Rotate(arguments) => rotate(&places, arguments),
        Keys::ExportBundle(_) => key_store::export_bundle(&places.keys).map(|bundle| say(bundle.trim_end())),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, error),
    }
}

fn places(directory: &Directory) -> Result<Places, ExitCode> {
    if let Some(dir) = &directory.dir {
        return Ok(Places {
            keys: dir.clone(),
            seal_keys: dir.clone(),
            algorithm: Algorithm::Es256,
            activate_after: Duration::from_secs(600),
            retention: Retention { client: RETENTION_UNKNOWN, seal: RETENTION_UNKNOWN },
        });
    }
    let path = directory.config.clone().unwrap_or_else(|| PathBuf::from(super::DEFAULT_CONFIG));
    match config::load(&path) {
        Ok(loaded) => Ok(Places {
            retention: retention(&loaded.config),
            keys: loaded.config.tokens.keys,
            seal_keys: loaded.config.uploads.seal_keys,
            algorithm: loaded.config.tokens.algorithm,
            activate_after: loaded.config.tokens.activate_after,
        }),
        Err(errors) => {
            complain(errors);
            Err(fail(UNUSABLE, "the configuration cannot be used; name a key directory with --dir"))
        }
    }
}

fn generate(places: &Places) -> Result<(), KeyStoreError> {
    let made = key_store::ensure(&places.keys, &places.seal_keys, places.algorithm, 1, unix_now())?;
    if made.is_empty() {
        say("every key is there already; `tidegate keys rotate` makes new ones");
    }
    for path in made {
        tell_of(&path);
    }
    Ok(())
}

fn list(places: &Places) -> Result<(), KeyStoreError> {
    let now = unix_now();
    say(format_args!("{:<8} {:<8} {:<20} {}", "USE", "STATE", "ACTIVE FROM", "ID"));
    let mut listed = key_store::list(&places.keys, places.retention, now)?;
    if places.seal_keys != places.keys {
        listed.extend(key_store::list(&places.seal_keys, places.retention, now)?);
    }
    if listed.is_empty() {
        say("there are no keys; `tidegate keys generate` makes them");
    }
    for key in listed {
        let from = i64::try_from(key.activate_at).ok().and_then(|at| jiff::Timestamp::from_second(at).ok());
        let from = from.map_or_else(String::new, |at| at.to_string());
        say(format_args!("{:<8} {:<8} {:<20} {}", key.purpose.as_str(), key.state.as_str(), from, key.id));
    }
    Ok(())
}

fn rotate(places: &Places, arguments: &Rotate) -> Result<(), KeyStoreError> {
    let now = unix_now();
    let activate_at = now + arguments.activate_after.unwrap_or(places.activate_after).as_secs();
    let all = [Which::Client, Which::Member, Which::Seal];
    for which in all.iter().filter(|which| arguments.only.is_none_or(|only| only as u8 == **which as u8)) {
        let purpose = which.purpose();
        let directory: &Path = if purpose == KeyUse::Seal { &places.seal_keys } else { &places.keys };
        let path = key_store::generate(directory, purpose, places.algorithm, now, activate_at)?;
        tell_of(&path);
    }
    say(format_args!("The new keys sign in {} s. Give every replica the files before.", activate_at - now));
    if arguments.only.is_none_or(|only| matches!(only, Which::Member)) {
        say(
            "Members with a rootcertbundle get the old key until they accept the new one: write `tidegate keys export-bundle` into the bundle and restart them when it suits.",
        );
    }
    Ok(())
}

/// Names a key that was made, and says where the gateway may not be able to read it.
fn tell_of(path: &Path) {
    say(format_args!("made {}", path.display()));
    if files::is_of_another_owner(path) {
        complain(format_args!(
            "warning: {} belongs to another user than its directory; if the gateway runs as that one, give it the file: chown --reference={} {}",
            path.display(),
            path.parent().unwrap_or_else(|| Path::new(".")).display(),
            path.display()
        ));
    }
}
