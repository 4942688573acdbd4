//! The log of the process, on standard error.

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use super::settings::{LogFormat, LogSettings};

/// Keeps the writers alive; what is queued is written when it is dropped.
#[derive(Debug)]
pub struct LogGuards {
    _log: WorkerGuard,
    _access: WorkerGuard,
}

/// Starts logging. Returns the access log's writer and its count of dropped lines.
///
/// # Errors
/// When a logger was set before.
pub fn init(settings: &LogSettings) -> Result<(LogGuards, NonBlocking, ErrorCounter), TryInitError> {
    let writer = || NonBlockingBuilder::default().buffered_lines_limit(settings.queue_lines_max);
    let (log, log_guard) = writer().lossy(true).finish(std::io::stderr());
    let (access, access_guard) = writer().lossy(true).finish(std::io::stdout());
    let dropped = access.error_counter();
    let filter = EnvFilter::try_new(&settings.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    match settings.format {
        LogFormat::Json => {
            let layer = tracing_subscriber::fmt::layer().json().flatten_event(true).with_target(false);
            registry.with(layer.with_writer(log)).try_init()?;
        }
        LogFormat::Text => {
            let layer = tracing_subscriber::fmt::layer().with_target(false).with_ansi(false);
            registry.with(layer.with_writer(log)).try_init()?;
        }
    }
    Ok((LogGuards { _log: log_guard, _access: access_guard }, access, dropped))
}
