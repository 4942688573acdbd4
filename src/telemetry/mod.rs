//! Logs, metrics and the access log: names, labels and buckets are all here.

mod access_log;
mod logging;
mod metrics;
mod settings;

pub use access_log::{AccessLog, AccessRecord, Phases};
pub use logging::{LogGuards, init as init_logging};
pub use metrics::{
    CertificateLabel, Direction, ErrorKind, GaugeGuard, MemberMetrics, MemberStatus, Metrics, PinEvent,
    ProbeResult, ReloadResult, TokenRefusal,
};
pub use settings::*;
