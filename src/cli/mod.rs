//! The command line: one file a subcommand.
//!
//! Exit codes: 0 done or yes, 1 a clear no (`doctor`, `policy explain`, `token inspect`) or a failure while
//! running, 2 unusable arguments or configuration.

mod check;
mod control;
mod doctor;
mod drain;
mod hash_password;
mod keys;
mod policy;
mod revoke;
mod serve;
mod status;
mod token;
mod upgrade;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Where the configuration is looked for when nothing is said.
const DEFAULT_CONFIG: &str = "/etc/tidegate/tidegate.yaml";

/// A clear no, or a failure while running.
const NO: u8 = 1;
/// Unusable arguments or configuration.
const UNUSABLE: u8 = 2;

/// Registry-aware load balancer and auth gateway for stock Docker registries.
#[derive(Debug, Parser)]
#[command(
    name = "tidegate",
    version,
    about,
    after_help = "Start here: tidegate serve http://registry-1:5000 http://registry-2:5000\nDocumentation: README.md and docs/configuration.md"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway
    Serve(serve::Serve),
    /// Check a configuration file and everything it names, and start nothing
    Check(ConfigArgument),
    /// Ask every member what would bite, and say how to mend it (exit code 0 no errors, 1 errors)
    Doctor(doctor::Doctor),
    /// Give a member of the running gateway no new work
    Drain(drain::Drain),
    /// Give a drained member new work again
    Undrain(drain::Undrain),
    /// Let the running gateway start its own file anew and hand over to it, without a lost request
    Upgrade(upgrade::Upgrade),
    /// Show how the running gateway, its pools and its members stand
    Status(status::Status),
    /// Make, list, rotate and export keys
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Hash a password for `identity: - users:`
    HashPassword(hash_password::HashPassword),
    /// Ask what the policy says
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// End every token that was issued to a user until now
    Revoke(revoke::Revoke),
    /// Look into tokens
    #[command(subcommand)]
    Token(token::TokenCommand),
}

/// Which configuration file.
#[derive(Debug, clap::Args)]
struct ConfigArgument {
    /// The configuration file
    #[arg(long, short, value_name = "FILE", default_value = DEFAULT_CONFIG, env = "TIDEGATE_CONFIG")]
    config: PathBuf,
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Drain(arguments) => drain::run(&arguments),
        Command::Undrain(arguments) => drain::run_undrain(&arguments),
        Command::Upgrade(arguments) => upgrade::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Keys(command) => keys::run(&command),
        Command::HashPassword(arguments) => hash_password::run(&arguments),
        Command::Policy(command) => policy::run(&command),
        Command::Revoke(arguments) => revoke::run(&arguments),
        Command::Token(command) => token::run(&command),
    }
}

/// Prints a line for the user's program to read.
fn say(text: impl std::fmt::Display) {
    // A reader that has gone away needs no line.
    drop(writeln!(std::io::stdout(), "{text}"));
}

/// Prints a line for the user to read.
fn complain(text: impl std::fmt::Display) {
    drop(writeln!(std::io::stderr(), "{text}"));
}

/// Complains and ends with `code`.
fn fail(code: u8, text: impl std::fmt::Display) -> ExitCode {
    complain(format_args!("tidegate: {text}"));
    ExitCode::from(code)
}
