//! The limit of open file descriptors.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors a process needs beside its connections.
const RESERVE: u64 = 256;

/// Raises the limit of open descriptors to what so many connections need, and warns where that is
/// not allowed.
pub fn raise_descriptor_limit(connections: u64) {
    let wanted = connections.saturating_add(RESERVE);
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return;
    }
    let raised = limit.maximum.map_or(wanted, |maximum| wanted.min(maximum));
    let set = setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum: limit.maximum });
    if raised < wanted || set.is_err() {
        tracing::warn!(
            wanted,
            limit = raised,
            "fewer open files are allowed than the configured connections need; raise LimitNOFILE"
        );
    }
}
