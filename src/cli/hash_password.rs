//! `tidegate hash-password`.

use std::io::{BufRead as _, IsTerminal as _};
use std::process::ExitCode;

use secrecy::{ExposeSecret as _, SecretString};

use super::{UNUSABLE, complain, fail, say};

/// bcrypt looks at no more than this many bytes of a password.
const PASSWORD_BYTES_MAX: usize = 72;

/// Arguments of `hash-password`. The password comes from standard input, never from arguments,
/// which every user of the machine can see.
#[derive(Debug, clap::Args)]
pub(super) struct HashPassword {
    /// Work factor: each step up doubles the time of a check
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(4..=16))]
    cost: u32,
    /// Read the password from standard input without asking
    #[arg(long)]
    stdin: bool,
}

pub(super) fn run(arguments: &HashPassword) -> ExitCode {
    let input = std::io::stdin();
    if !arguments.stdin && input.is_terminal() {
        complain("Password (it is shown; end with Enter):");
    }
    let mut line = String::new();
    if let Err(error) = input.lock().read_line(&mut line) {
        return fail(UNUSABLE, format_args!("the password cannot be read: {error}"));
    }
    let password = SecretString::from(line.trim_end_matches(['\r', '\n']).to_owned());
    let length = password.expose_secret().len();
    if length == 0 {
        return fail(UNUSABLE, "the password is empty");
    }
    if length > PASSWORD_BYTES_MAX {
        return fail(
            UNUSABLE,
            format_args!("the password has {length} bytes; bcrypt takes at most {PASSWORD_BYTES_MAX}"),
        );
    }
    match bcrypt::hash(password.expose_secret(), arguments.cost) {
        Ok(hash) => {
            say(hash);
            ExitCode::SUCCESS
        }
        Err(error) => fail(1, error),
    }
}
