//! `tidegate revoke`.

use std::process::ExitCode;

use super::policy::find_subject;
use super::{ConfigArgument, UNUSABLE, complain, fail, say};
use crate::config;
use crate::identity::Identity;
use crate::key_store;
use crate::random::unix_now;

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
    match key_store::revoke(&config.tokens.keys, &subject.to_string(), unix_now()) {
        Ok(()) => {
            say(format_args!(
                "revoked: every token issued to {subject} until now; running gateways take it up within {:?}",
                config.reload_interval
            ));
            ExitCode::SUCCESS
        }
        Err(error) => fail(1, error),
    }
}
