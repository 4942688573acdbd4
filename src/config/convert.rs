//! From the mirror of the file to [`Config`]: every key gets its value or its default, and every rule that spans more than one value
//! is checked. All mistakes are collected.

mod address;
mod credentials;
mod harbor;
mod identity;
mod listeners;
mod policy;
mod pools;
mod routes;
mod tokens;

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::document::{Document, KeyPath, Problem, Spot};
use super::error::{ConfigError, ConfigErrors, Fix};
use super::file::{Admin, File, Log, LogForm, Shutdown};
use super::settings::{Config, Loaded, SecretFile, ShutdownSettings};
use super::value::{HumanDuration, OrNone, Secret, Size};
use crate::admin::AdminSettings;
use crate::secret::{ExposeSecret as _, SecretString};
use crate::telemetry::{LogFormat, LogSettings};

pub(super) use identity::verify_limits;
pub(super) use listeners::{connection_limits, workers};
pub(super) use pools::{
    coalesce as coalesce_settings, member_address, plain_pool, verify as verify_settings,
};
pub(super) use tokens::{token_settings, upload_settings};

/// The admin listener where the file does not name one.
const ADMIN_ADDRESS: &str = "127.0.0.1:9090";

/// The control socket where the file does not name one, beside the keys.
pub(super) const CONTROL_SOCKET: &str = "control.sock";
/// Longest path of a socket that every system takes, its last byte being a zero.
const SOCKET_BYTES_MAX: usize = 107;

/// Largest secret file, htpasswd file or certificate file that is read.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What to do about a file that cannot be read.
const READABLE_FILE: &str =
    "name a file that Tidegate's user can read; relative paths start at the directory of this file";

/// What conversions share: the document for places, and what they find.
pub(super) struct Context<'a> {
    document: &'a Document,
    scope: Scope<'a>,
    /// Relative paths start here.
    base: &'a Path,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    /// Mistakes in other files, such as htpasswd.
    elsewhere: Vec<ConfigError>,
    secret_files: Vec<SecretFile>,
    /// Mistakes in other files, each of which holds up its own section alone.
    refused: Vec<ConfigError>,
}

/// What is checked besides the file itself.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scope<'a> {
    /// Every file that it names.
    Start,
    /// All but the listeners' certificates, which are reloaded on their own. No other file that
    /// cannot be read may keep a change of policy from taking effect: a secret stays what it was.
    Reload(&'a [SecretFile]),
}

/// What a usable file comes with.
pub(super) struct Findings {
    warnings: Vec<ConfigError>,
    secret_files: Vec<SecretFile>,
    refused: Vec<ConfigError>,
}

/// Converts a whole file.
pub(super) fn convert(
    file: &File,
    document: &Document,
    base: &Path,
    scope: Scope<'_>,
) -> Result<Loaded, ConfigErrors> {
    let mut cx = Context::new(document, base);
    cx.scope = scope;
    let root = KeyPath::default();
    let external = address::external(&mut cx, &root.key("external_url"), &file.external_url);
    let hosts =
        external.as_ref().map(|external| address::hosts(&mut cx, &root.key("hosts"), external, &file.hosts));
    let server = listeners::server(&mut cx, file);
    let service = external.as_ref().map(address::External::authority).unwrap_or_default();
    let tokens = token_settings(&mut cx, &root.key("tokens"), &file.tokens, &service);
    let admin = admin(&mut cx, &root.key("admin"), file, &tokens.keys);
    let uploads = upload_settings(&mut cx, &root.key("uploads"), &file.uploads);
    let identity = identity::settings(&mut cx, &root, file);
    let policy = policy::policy(&mut cx, &root.key("policy"), file, &identity);
    let pools = pools::pools(&mut cx, &root.key("pools"), file, &tokens);
    let routes = routes::table(&mut cx, &root.key("routes"), file);
    let verify = pools::verify(&mut cx, &root.key("verify"), &file.verify);
    let coalesce = pools::coalesce(&mut cx, &root.key("coalesce"), &file.coalesce);
    let log = log_settings(&mut cx, &root.key("log"), &file.log);
    let shutdown = shutdown_settings(&file.shutdown);
    let reload_interval =
        cx.duration(&root.key("reload_interval"), file.reload_interval, Duration::from_secs(2));
    listeners::warn_of_plaintext(&mut cx, file);
    let Findings { warnings, secret_files, refused } = cx.finish()?;
    let Some(hosts) = hosts else {
        return Err(ConfigErrors(Vec::new()));
    };
    let config = Config {
        hosts,
        server,
        admin,
        tokens,
        uploads,
        identity,
        policy,
        pools,
        routes,
        verify,
        coalesce,
        log,
        shutdown,
        reload_interval,
        secret_files,
    };
    Ok(Loaded { config, warnings, refused })
}

fn admin(cx: &mut Context<'_>, path: &KeyPath, file: &File, keys: &Path) -> Option<AdminSettings> {
    let unsaid = Admin::default();
    let section = match &file.admin {
        Some(OrNone::None) => return None,
        Some(OrNone::Section(section)) => section,
        None => &unsaid,
    };
    let socket = control_socket(cx, &path.key("socket"), section.socket.as_deref(), keys);
    let hosts = address::names(cx, &path.key("hosts"), &section.hosts);
    let (path, text) = match &section.address {
        Some(text) => (path.key("address"), text.as_str()),
        None => (path.clone(), ADMIN_ADDRESS),
    };
    let address = address::socket(cx, &path, text)?;
    if address.port() != 0 && file.listeners.iter().any(|listener| listener.address.parse() == Ok(address)) {
        cx.error(
            &path,
            format!("{address} is already the address of a listener"),
            Fix::write("another port, such as 127.0.0.1:9090"),
        );
    }
    Some(AdminSettings { address, hosts, socket })
}

/// Beside the keys unless the file says otherwise: that directory is Tidegate's own.
fn control_socket(
    cx: &mut Context<'_>,
    path: &KeyPath,
    socket: Option<&Path>,
    keys: &Path,
) -> Option<PathBuf> {
    let socket = match socket {
        Some(word) if word.as_os_str() == "none" => return None,
        Some(socket) => cx.resolve(socket),
        None => keys.parent().unwrap_or_else(|| Path::new("")).join(CONTROL_SOCKET),
    };
    let bytes = socket.as_os_str().len();
    if bytes > SOCKET_BYTES_MAX {
        let problem = format!(
            "the path {} has {bytes} bytes; a socket's path has at most {SOCKET_BYTES_MAX}",
            socket.display()
        );
        cx.error(path, problem, Fix::write("a shorter path such as /run/tidegate/control.sock, or none"));
    }
    Some(socket)
}

/// What is logged, and how.
pub(super) fn log_settings(cx: &mut Context<'_>, path: &KeyPath, log: &Log) -> LogSettings {
    let filter = log.filter.clone().unwrap_or_else(|| "info".to_owned());
    if tracing_subscriber::EnvFilter::try_new(&filter).is_err() {
        cx.error(
            &path.key("filter"),
            format!("{filter:?} is not a log filter"),
            Fix::write("info, debug or tidegate=debug,info"),
        );
    }
    LogSettings {
        format: match log.format {
            Some(LogForm::Json) | None => LogFormat::Json,
            Some(LogForm::Text) => LogFormat::Text,
        },
        filter,
        access_log: log.access_log.unwrap_or(true),
        queue_lines_max: cx.count(&path.key("queue_lines_max"), log.queue_lines_max, 10_000) as usize,
    }
}

/// How the process ends. Zero is a sensible value of both.
pub(super) fn shutdown_settings(shutdown: &Shutdown) -> ShutdownSettings {
    ShutdownSettings {
        lead_time: shutdown.lead_time.map_or(Duration::ZERO, |time| time.0),
        grace_period: shutdown.grace_period.map_or(Duration::from_secs(30), |time| time.0),
    }
}

impl<'a> Context<'a> {
    pub(super) fn new(document: &'a Document, base: &'a Path) -> Self {
        Self {
            document,
            scope: Scope::Start,
            base,
            problems: Vec::new(),
            warnings: Vec::new(),
            elsewhere: Vec::new(),
            secret_files: Vec::new(),
            refused: Vec::new(),
        }
    }

    /// What was found in a usable file, or what is wrong.
    pub(super) fn finish(self) -> Result<Findings, ConfigErrors> {
        let mut refused = self.refused;
        let mut errors = self.document.describe(self.problems);
        // At start every mistake counts; a reload goes on without the section.
        if matches!(self.scope, Scope::Reload(_)) {
            refused.extend(self.elsewhere);
        } else {
            errors.extend(self.elsewhere);
        }
        if !errors.is_empty() {
            return Err(ConfigErrors(errors));
        }
        let warnings = self.document.describe(self.warnings);
        Ok(Findings { warnings, secret_files: self.secret_files, refused })
    }

    fn error(&mut self, path: &KeyPath, problem: impl Into<String>, fix: Fix) {
        let problem = Problem { path: path.clone(), spot: Spot::Value, problem: problem.into(), fix };
        // What a pool says is looked at for each of its members.
        let said = |other: &Problem| other.path == problem.path && other.problem == problem.problem;
        if !self.problems.iter().any(said) {
            self.problems.push(problem);
        }
    }

    /// An error about a value that may hold a secret.
    fn error_hidden(&mut self, path: &KeyPath, problem: impl Into<String>, fix: Fix) {
        self.problems.push(Problem { path: path.clone(), spot: Spot::Hidden, problem: problem.into(), fix });
    }

    fn warn(&mut self, path: &KeyPath, problem: impl Into<String>, fix: Fix) {
        self.warnings.push(Problem { path: path.clone(), spot: Spot::Value, problem: problem.into(), fix });
    }

    fn resolve(&self, path: &Path) -> PathBuf {
        self.base.join(path)
    }

    /// The content of a file that a key names; an unreadable one is an error of that key.
    fn read(&mut self, path: &KeyPath, file: &Path) -> Option<Vec<u8>> {
        self.content_of(file).map_err(|problem| self.refuse_file(path, problem)).ok()
    }

    fn content_of(&self, file: &Path) -> Result<Vec<u8>, String> {
        let file = self.resolve(file);
        let content = std::fs::metadata(&file).and_then(|metadata| {
            if metadata.len() > FILE_BYTES_MAX || !metadata.is_file() {
                return Err(std::io::Error::other("it is not a regular file of at most 16 MiB"));
            }
            std::fs::read(&file)
        });
        content.map_err(|error| format!("the file {} cannot be read: {error}", file.display()))
    }

    /// At start an error; a reload goes on without the section.
    fn refuse_file(&mut self, path: &KeyPath, problem: String) {
        if !matches!(self.scope, Scope::Reload(_)) {
            return self.error(path, problem, Fix::advice(READABLE_FILE));
        }
        let fix = Fix::advice(READABLE_FILE);
        let problem = Problem { path: path.clone(), spot: Spot::Value, problem, fix };
        self.refused.extend(self.document.describe(vec![problem]));
    }

    /// The secret itself, wherever it is kept.
    fn secret(&mut self, path: &KeyPath, secret: &Secret) -> Option<SecretString> {
        let (path, text) = match secret {
            Secret::Plain(secret) => (path.clone(), secret.expose_secret().to_owned()),
            Secret::File(file) => {
                let path = path.key("file");
                let secret = self.secret_in(&path, file)?;
                let text = secret.expose_secret().to_owned();
                self.secret_files.push(SecretFile { path: self.resolve(file), secret });
                (path, text)
            }
            Secret::Env(name) => {
                let path = path.key("env");
                let Ok(text) = std::env::var(name) else {
                    let fix = format!(
                        "set it where Tidegate is started, or use {{ file: PATH }} instead of {{ env: {name} }}"
                    );
                    self.error(
                        &path,
                        format!("the environment variable {name:?} is not set"),
                        Fix::advice(fix),
                    );
                    return None;
                };
                (path, text)
            }
        };
        if text.is_empty() {
            self.error(
                &path,
                "the secret is empty",
                Fix::write("the secret in quotes, { file: PATH } or { env: NAME }"),
            );
            return None;
        }
        Some(SecretString::from(text))
    }

    /// The secret in a file, without the line break at its end. For a reload it is the one that is in
    /// force where the file cannot be read.
    fn secret_in(&mut self, path: &KeyPath, file: &Path) -> Option<SecretString> {
        let content = match self.content_of(file) {
            Ok(content) => content,
            Err(problem) => {
                let Scope::Reload(known) = self.scope else {
                    self.refuse_file(path, problem);
                    return None;
                };
                let file = self.resolve(file);
                let Some(known) = known.iter().find(|known| known.path == file) else {
                    self.error(path, problem, Fix::advice(READABLE_FILE));
                    return None;
                };
                self.refuse_file(path, problem);
                return Some(known.secret.clone());
            }
        };
        let Ok(text) = String::from_utf8(content) else {
            self.error(
                path,
                "the file with the secret is not UTF-8 text",
                Fix::advice("write the secret alone into it, as text"),
            );
            return None;
        };
        let line = text.strip_suffix('\n').unwrap_or(&text);
        Some(SecretString::from(line.strip_suffix('\r').unwrap_or(line)))
    }

    /// A duration above zero.
    fn duration(&mut self, path: &KeyPath, value: Option<HumanDuration>, default: Duration) -> Duration {
        match value {
            Some(HumanDuration(Duration::ZERO)) => {
                self.error(path, "must be longer than zero", Fix::write(describe(default)));
                default
            }
            Some(HumanDuration(duration)) => duration,
            None => default,
        }
    }

    /// A number of at least one.
    fn count(&mut self, path: &KeyPath, value: Option<u32>, default: u32) -> u32 {
        if value == Some(0) {
            self.error(path, "must be at least 1", Fix::write(default.to_string()));
        }
        value.unwrap_or(default)
    }

    /// A number of bytes, at least `least`.
    fn size(&mut self, path: &KeyPath, value: Option<Size>, default: u64, least: u64) -> u64 {
        let bytes = value.map_or(default, |size| size.0);
        if bytes < least {
            let problem = format!("must be at least {}", bytesize::ByteSize(least).display().iec());
            self.error(
                path,
                problem,
                Fix::write(
                    bytesize::ByteSize(default)
                        .display()
                        .iec()
                        .to_string()
                        .replace(' ', "")
                        .replace(".0", ""),
                ),
            );
        }
        bytes
    }
}

/// A duration as one writes it in the file.
fn describe(duration: Duration) -> String {
    jiff::fmt::friendly::SpanPrinter::new().unsigned_duration_to_string(&duration)
}

/// A size where memory is addressed.
fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
