//! `tidegate drain` and `tidegate undrain`.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use super::control::{Reply, Running, ask, quoted};
use super::{NO, UNUSABLE, fail, say};

/// How often the progress is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Arguments of `drain`.
#[derive(Debug, clap::Args)]
pub(super) struct Drain {
    /// The member's name
    member: String,
    /// Wait until no request and no upload session is left there
    #[arg(long)]
    wait: bool,
    /// Also the last member of its pool that serves
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    running: Running,
}

/// Arguments of `undrain`.
#[derive(Debug, clap::Args)]
pub(super) struct Undrain {
    /// The member's name
    member: String,
    #[command(flatten)]
    running: Running,
}

pub(super) fn run(arguments: &Drain) -> ExitCode {
    let socket = match arguments.running.socket() {
        Ok(socket) => socket,
        Err(problem) => return fail(UNUSABLE, problem),
    };
    let member = quoted(&arguments.member);
    let target = format!("/drain?member={member}&force={}", arguments.force);
    let begun = ask(&socket, "POST", &target).and_then(Reply::into_result);
    let ended = match begun {
        Err(problem) => Err(problem),
        Ok(status) => {
            say(progress(&status));
            if arguments.wait { wait(&socket, &member, status) } else { Ok(()) }
        }
    };
    ended.map_or_else(|problem| fail(NO, problem), |()| ExitCode::SUCCESS)
}

pub(super) fn run_undrain(arguments: &Undrain) -> ExitCode {
    let undrained = arguments.running.socket().and_then(|socket| {
        ask(&socket, "POST", &format!("/undrain?member={}", quoted(&arguments.member)))?.into_result()
    });
    match undrained {
        Ok(status) => {
            say(format_args!("{} gets new work again", name(&status)));
            ExitCode::SUCCESS
        }
        Err(problem) => fail(NO, problem),
    }
}

/// Until nothing is left at the member; each change is said.
fn wait(socket: &Path, member: &str, mut last: Value) -> Result<(), String> {
    while !is_done(&last) {
        std::thread::park_timeout(LOOK_EVERY);
        let now = ask(socket, "GET", &format!("/member?member={member}"))?.into_result()?;
        if now["draining"] != true {
            return Err(format!("{}: somebody has ended the drain", name(&now)));
        }
        if progress(&now) != progress(&last) {
            say(progress(&now));
        }
        last = now;
    }
    Ok(())
}

fn is_done(status: &Value) -> bool {
    status["in_flight"] == 0 && status["open_uploads"] == 0
}

fn progress(status: &Value) -> String {
    if is_done(status) {
        return format!("{} is drained: nothing is left there", name(status));
    }
    format!(
        "{} is draining: {} requests in flight, {} open upload sessions",
        name(status),
        status["in_flight"],
        status["open_uploads"]
    )
}

fn name(status: &Value) -> &str {
    status["name"].as_str().unwrap_or_default()
}
