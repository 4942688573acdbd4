//! What can be set of logs.

/// Logs.
#[derive(Debug, Clone, PartialEq)]
pub struct LogSettings {
    /// One JSON object per line, or text for people.
    pub format: LogFormat,
    /// A `tracing` filter such as `info` or `tidegate=debug`.
    pub filter: String,
    /// Whether every request gets a line on standard output.
    pub access_log: bool,
    /// How many log lines may wait to be written; more are counted and dropped.
    pub queue_lines_max: usize,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// Text for people.
    Text,
}
