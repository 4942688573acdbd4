//! `tidegate upgrade`.

use std::process::ExitCode;
use std::time::Duration;

use super::control::{Reply, Running, ask_patiently};
use super::{NO, UNUSABLE, fail, say};

/// Longer than a new process may take to get ready.
const PATIENCE: Duration = Duration::from_secs(290);

/// Arguments of `upgrade`.
#[derive(Debug, clap::Args)]
pub(super) struct Upgrade {
    #[command(flatten)]
    running: Running,
}

pub(super) fn run(arguments: &Upgrade) -> ExitCode {
    // This program is mostly the one that is to run: what it says of the configuration counts.
    let socket = match arguments.running.checked_socket() {
        Ok(socket) => socket,
        Err(problem) => return fail(UNUSABLE, problem),
    };
    match ask_patiently(&socket, "POST", "/upgrade", PATIENCE).and_then(Reply::into_result) {
        Ok(status) => {
            say(format_args!(
                "upgraded: process {} serves; the one before ends when its requests have",
                status["pid"]
            ));
            ExitCode::SUCCESS
        }
        Err(problem) => fail(NO, format_args!("not upgraded, the running process goes on: {problem}")),
    }
}
