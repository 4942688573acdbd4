//! `tidegate check`.

use std::process::ExitCode;

use super::{ConfigArgument, UNUSABLE, complain, fail, say};
use crate::{config, key_store};

pub(super) fn run(arguments: &ConfigArgument) -> ExitCode {
    match config::load(&arguments.config) {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                complain(format_args!("warning: {warning}"));
            }
            let tokens = &loaded.config.tokens;
            let keys = key_store::check(&tokens.keys, &loaded.config.uploads.seal_keys, tokens.replicas);
            if let Err(error) = keys {
                return fail(
                    UNUSABLE,
                    format_args!("{}: tokens.keys, uploads.seal_keys: {error}", arguments.config.display()),
                );
            }
            let members: usize = loaded.config.pools.iter().map(|pool| pool.members.len()).sum();
            say(format_args!(
                "ok: {}: {} listener(s), {} pool(s) with {members} member(s), {} policy rule(s), {} warning(s)",
                arguments.config.display(),
                loaded.config.server.listeners.len(),
                loaded.config.pools.len(),
                loaded.config.policy.rules().len(),
                loaded.warnings.len(),
            ));
            ExitCode::SUCCESS
        }
        Err(errors) => {
            complain(errors);
            ExitCode::from(UNUSABLE)
        }
    }
}
