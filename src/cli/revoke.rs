//! `tidegate revoke`: written for every gateway with these keys, and asked for at the one that runs here.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::control::{ask, ask_patiently, is_running, quoted};
use super::policy::find_subject;
use super::{ConfigArgument, NO, UNUSABLE, complain, fail, say};
use crate::config;
use crate::identity::Identity;
use crate::key_store;
use crate::random::unix_now;

/// A reload may have to probe new members before it has ended.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Arguments of `revoke`.
#[derive(Debug, clap::Args)]
pub(super) struct Revoke {
    /// `NAME` or `PROVIDER/NAME`
    user: String,
    #[command(flatten)]
    config: ConfigArgument,
}

pub(super) fn run(arguments: &Revoke) -> ExitCode {
    let config = match config::load(&arguments.config.config) {
        Ok(loaded) => loaded.config,
        Err(errors) => {
            complain(errors);
            return ExitCode::from(UNUSABLE);
        }
    };
    let identity = match Identity::build(&config.identity.providers) {
        Ok(identity) => identity,
        Err(error) => return fail(UNUSABLE, error),
    };
    let subject = match find_subject(&identity, &arguments.user) {
        Ok(subject) => subject,
        Err(problem) => return fail(UNUSABLE, problem),
    };
    let now = unix_now();
    if let Err(error) = key_store::revoke(&config.tokens.keys, &subject.to_string(), now) {
        return fail(NO, error);
    }
    let socket = config.admin.as_ref().and_then(|admin| admin.socket.as_deref());
    match in_force(socket, &subject.to_string(), now) {
        Ok(InForce::Now) => {
            say(format_args!(
                "revoked: the running gateway refuses every token issued to {subject} until now"
            ));
            ExitCode::SUCCESS
        }
        Ok(InForce::AtStart(socket)) => {
            say(format_args!(
                "revoked: every token issued to {subject} until now; no gateway runs at {}, the next one to start refuses them",
                socket.display()
            ));
            ExitCode::SUCCESS
        }
        Err(problem) => fail(
            NO,
            format_args!(
                "the revocation of {subject} is written, but it is NOT known to be in force: {problem}"
            ),
        ),
    }
}

/// From when on the tokens are refused.
enum InForce {
    /// The running gateway says so.
    Now,
    /// No gateway runs with this control socket.
    AtStart(PathBuf),
}

/// Lets the running gateway reload, and asks whether it refuses what was issued until `revoked_at`.
fn in_force(socket: Option<&Path>, subject: &str, revoked_at: u64) -> Result<InForce, String> {
    let socket = socket.ok_or("`admin.socket` is none, so no gateway can be asked; send it SIGHUP, and look for `reloaded` in its log")?;
    if !is_running(socket)? {
        return Ok(InForce::AtStart(socket.to_owned()));
    }
    let reloaded = ask_patiently(socket, "POST", "/reload", RELOAD_TIMEOUT)?.into_result()?;
    let target = format!("/revocation?subject={}", quoted(subject));
    let known = ask(socket, "GET", &target)?.into_result()?;
    if known["revoked_until"].as_u64().is_some_and(|until| until >= revoked_at) {
        return Ok(InForce::Now);
    }
    let refused = reloaded["refused"].as_array().into_iter().flatten();
    let refused: Vec<String> = refused
        .map(|refused| {
            let word = |key: &str| refused[key].as_str().unwrap_or_default().trim().to_owned();
            format!("{}: {}", word("section"), word("error"))
        })
        .collect();
    Err(if refused.is_empty() {
        "the running gateway does not know it; does it use other files?".to_owned()
    } else {
        format!("the running gateway has refused to reload: {}", refused.join("; "))
    })
}
