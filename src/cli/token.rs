//! `tidegate token inspect`.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use data_encoding::BASE64URL_NOPAD;
use serde_json::Value;

use super::{NO, UNUSABLE, complain, fail, say};
use crate::config;
use crate::random::unix_now;
use crate::reload::build_state;

/// Longest token that is read from standard input, in bytes.
const TOKEN_BYTES_MAX: u64 = 64 * 1024;

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Show what a token says; with --config also whether this gateway takes it
    Inspect(Inspect),
}

#[derive(Debug, clap::Args)]
pub(super) struct Inspect {
    /// The token; read from standard input when not given, which keeps it out of the process list
    token: Option<String>,
    /// Check signature, issuer, audience and time with the keys of this configuration
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn run(command: &TokenCommand) -> ExitCode {
    let TokenCommand::Inspect(arguments) = command;
    let token = match &arguments.token {
        Some(token) => token.clone(),
        None => {
            let mut text = String::new();
            if let Err(error) = std::io::stdin().take(TOKEN_BYTES_MAX).read_to_string(&mut text) {
                return fail(UNUSABLE, format_args!("the token cannot be read: {error}"));
            }
            text
        }
    };
    let token = token.trim().trim_start_matches("Bearer ");
    let parts: Vec<&str> = token.split('.').collect();
    let [header, claims, _signature] = parts.as_slice() else {
        return fail(UNUSABLE, format_args!("not a token: it has {} parts instead of 3", parts.len()));
    };
    for (name, part) in [("header", header), ("claims", claims)] {
        match decode(part) {
            Some(value) => say(format_args!("{name}: {value:#}")),
            None => return fail(UNUSABLE, format_args!("not a token: its {name} is not base64url JSON")),
        }
    }
    say_times(claims);
    arguments.config.as_ref().map_or(ExitCode::SUCCESS, |path| verify(path, token))
}

fn decode(part: &str) -> Option<Value> {
    serde_json::from_slice(&BASE64URL_NOPAD.decode(part.as_bytes()).ok()?).ok()
}

fn say_times(claims: &str) {
    let Some(claims) = decode(claims) else { return };
    for name in ["iat", "nbf", "exp"] {
        let time = claims[name].as_i64().and_then(|at| jiff::Timestamp::from_second(at).ok());
        if let Some(time) = time {
            say(format_args!("{name}: {time}"));
        }
    }
}

fn verify(path: &std::path::Path, token: &str) -> ExitCode {
    let config = match config::load(path) {
        Ok(loaded) => loaded.config,
        Err(errors) => {
            complain(errors);
            return ExitCode::from(UNUSABLE);
        }
    };
    let (state, _) = match build_state(&config, 0) {
        Ok(state) => state,
        Err(error) => return fail(UNUSABLE, error),
    };
    let now = unix_now();
    match state.tokens.verify(token, now) {
        Err(error) => {
            say(format_args!("REFUSED: {error}"));
            ExitCode::from(NO)
        }
        Ok(verified) if verified.expires_at <= now => {
            say(format_args!(
                "REFUSED: expired {} s ago (an open upload of {} may still go on)",
                now - verified.expires_at,
                verified.subject
            ));
            ExitCode::from(NO)
        }
        Ok(verified) if state.identity.groups_of(&verified.subject).is_none() => {
            say(format_args!("REFUSED: {} is not known any more", verified.subject));
            ExitCode::from(NO)
        }
        Ok(verified) => {
            say(format_args!("VALID: {} for another {} s", verified.subject, verified.expires_at - now));
            ExitCode::SUCCESS
        }
    }
}
