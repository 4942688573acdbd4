//! Logs, metrics and the access log: names, labels and buckets are all here.

mod access_log;
mod failover;
mod labels;
mod logging;
mod make;
mod metrics;
mod settings;

pub use access_log::{AccessLog, AccessRecord, Phases};
pub use failover::{ContentFault, PoolMetrics, Unverified};
pub use labels::{
    CertificateLabel, Direction, ErrorKind, IdentityFault, MemberStatus, PinEvent, ProbeResult, ReloadResult,
    TokenRefusal,
};
pub use logging::{LogGuards, init as init_logging};
pub use metrics::{GaugeGuard, MemberMetrics, Metrics};
pub use settings::*;
