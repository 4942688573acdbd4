//! `tidegate status`: what the running gateway says of itself, as a table that renews itself.
//!
//! A gateway of another version may say more or less: what is missing is shown as `-`, and what is
//! not known here is shown by its name.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use super::control::{Reply, Running, ask, ask_admin};
use super::{NO, UNUSABLE, fail, say};

/// How often the table is renewed.
const RENEW_EVERY: Duration = Duration::from_secs(1);
/// Home, and clear all that is below.
const CLEAR: &str = "\u{1b}[H\u{1b}[J";
/// The columns of a terminal of the usual size.
const COLUMNS: usize = 80;
/// The columns of a member's name.
const NAME_COLUMNS: usize = 24;
/// What a member's line shows, so that the line below shows only the rest.
const SHOWN: [&str; 14] = [
    "name",
    "pool",
    "state",
    "draining",
    "in_flight",
    "queued",
    "connections",
    "connections_max",
    "open_uploads",
    "weight",
    "backup",
    "latency_ms",
    "out_for_s",
    "last_problem",
];

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub(super) struct Status {
    /// Print it once and end, also on a terminal
    #[arg(long)]
    once: bool,
    /// Print it once as JSON
    #[arg(long)]
    json: bool,
    /// Ask this admin listener instead of the control socket
    #[arg(long, value_name = "ADDRESS", conflicts_with = "socket")]
    admin: Option<SocketAddr>,
    #[command(flatten)]
    running: Running,
}

/// Whether words are coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Colour {
    Terminal,
    None,
}

impl Colour {
    fn paint(self, code: &str, text: &str) -> String {
        match self {
            Self::Terminal => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            Self::None => text.to_owned(),
        }
    }
}

pub(super) fn run(arguments: &Status) -> ExitCode {
    let socket = match arguments.admin {
        Some(_) => Ok(None),
        None => arguments.running.socket().map(Some),
    };
    let socket = match socket {
        Ok(socket) => socket,
        Err(problem) => return fail(UNUSABLE, problem),
    };
    let status = || match (&socket, arguments.admin) {
        (_, Some(address)) => ask_admin(address, "/status"),
        (Some(socket), None) => ask(socket, "GET", "/status"),
        (None, None) => Err("there is nobody to ask".to_owned()),
    };
    let status = || status().and_then(Reply::into_result);
    let is_terminal = std::io::stdout().is_terminal();
    let plain = !is_terminal || std::env::var_os("NO_COLOR").is_some();
    let colour = if plain { Colour::None } else { Colour::Terminal };
    if arguments.json || arguments.once || !is_terminal {
        return match status() {
            Ok(status) if arguments.json => {
                say(format_args!("{status:#}"));
                ExitCode::SUCCESS
            }
            Ok(status) => {
                say(render(&status, colour).trim_end());
                ExitCode::SUCCESS
            }
            Err(problem) => fail(NO, problem),
        };
    }
    loop {
        // While it restarts nothing answers; that is said, and looked at again.
        let text = status().map_or_else(|problem| problem, |status| render(&status, colour));
        say(format_args!("{CLEAR}{}", text.trim_end()));
        std::thread::park_timeout(RENEW_EVERY);
    }
}

/// The whole table.
fn render(status: &Value, colour: Colour) -> String {
    let (word, code) = match (status["draining"].as_bool(), status["ready"].as_bool()) {
        (Some(true), _) => ("ending", "33"),
        (_, Some(true)) => ("ready", "32"),
        (_, Some(false)) => ("starting", "33"),
        (_, None) => ("-", "0"),
    };
    let uptime = status["uptime_s"].as_u64().map_or_else(|| "-".to_owned(), duration);
    let mut text = format!(
        "tidegate {}  {}  process {}  generation {}  up {uptime}\n{} connections, {} requests in flight\n",
        field(status, "version"),
        colour.paint(code, word),
        field(status, "pid"),
        field(status, "generation"),
        field(status, "connections"),
        field(status, "requests_in_flight"),
    );
    for refused in list(status, "reload_errors") {
        let head = colour.paint("31", &format!("reload refused: {}", field(refused, "section")));
        line(&mut text, &head);
        wrapped(&mut text, &field(refused, "error"));
    }
    for pool in list(status, "pools") {
        let problem = match (&pool["serves"], &pool["account_refused"]) {
            (Value::Bool(false), _) => Some("no member serves"),
            (_, Value::Bool(true)) => Some("harbor.account is refused"),
            _ => None,
        };
        let serves = problem.map(|problem| format!("  {}", colour.paint("31", problem))).unwrap_or_default();
        let head = colour.paint("1", &format!("pool {}", field(pool, "name")));
        let retries = format!("{} retries left", field(pool, "retries_left"));
        let elsewhere = match pool["stand_ins"].as_u64() {
            Some(repositories @ 1..) => format!(", {repositories} repositories not at their home yet"),
            _ => String::new(),
        };
        line(&mut text, &format!("\n{head}  {retries}{elsewhere}{serves}"));
        line(
            &mut text,
            &format!(
                "  {:<NAME_COLUMNS$} {:<16} {:>8} {:>5} {:>11} {:>7}",
                "member", "state", "requests", "queue", "connections", "uploads"
            ),
        );
        list(pool, "members").iter().for_each(|member| render_member(&mut text, member, colour));
    }
    text
}

fn render_member(text: &mut String, member: &Value, colour: Colour) {
    let (state, code) = state(member);
    let connections = format!("{}/{}", field(member, "connections"), field(member, "connections_max"));
    line(
        text,
        &format!(
            "  {:<NAME_COLUMNS$} {} {:>8} {:>5} {connections:>11} {:>7}",
            shortened(&field(member, "name"), NAME_COLUMNS),
            colour.paint(code, &format!("{:<16}", shortened(&state, 16))),
            field(member, "in_flight"),
            field(member, "queued"),
            field(member, "open_uploads"),
        ),
    );
    if let Some(problem) = member["last_problem"].as_str() {
        wrapped(text, &format!("last problem: {problem}"));
    }
    let more = member.as_object().into_iter().flatten();
    let more = more.filter(|(name, value)| !SHOWN.contains(&name.as_str()) && !value.is_null());
    let more: Vec<String> = more.map(|(name, _)| format!("{name} {}", field(member, name))).collect();
    if !more.is_empty() {
        wrapped(text, &more.join(", "));
    }
}

/// The word for where a member stands, and its colour.
fn state(member: &Value) -> (String, &'static str) {
    let mut state = field(member, "state");
    let serves = matches!(state.as_str(), "healthy" | "starting");
    if member["draining"] == true && serves {
        let nothing_left = member["in_flight"] == 0 && member["open_uploads"] == 0;
        return (if nothing_left { "drained" } else { "draining" }.to_owned(), "33");
    }
    let code = match state.as_str() {
        "healthy" => "32",
        "starting" => "33",
        _ => "31",
    };
    if let Some(seconds) = member["out_for_s"].as_u64() {
        state = format!("{state} {seconds} s");
    } else if member["backup"] == true && serves {
        state = format!("{state} backup");
    }
    (state, code)
}

/// A value as one word, `-` where it is missing.
fn field(of: &Value, name: &str) -> String {
    match &of[name] {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.chars().filter(|letter| !letter.is_control()).collect(),
        other => other.to_string(),
    }
}

fn list<'a>(of: &'a Value, name: &str) -> &'a [Value] {
    of[name].as_array().map_or(&[], Vec::as_slice)
}

fn shortened(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    text.chars().take(columns - 1).chain(['~']).collect()
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a String can be written to");
}

/// Indented below a member's line, broken between words where the terminal ends.
fn wrapped(text: &mut String, words: &str) {
    let mut current = String::from("   ");
    for word in words.split_whitespace() {
        let word: String = word.chars().filter(|letter| !letter.is_control()).collect();
        let fits = current.chars().count() + 1 + word.chars().count() <= COLUMNS;
        if !fits && !current.trim().is_empty() {
            line(text, &current);
            "   ".clone_into(&mut current);
        }
        current.push(' ');
        current.push_str(&shortened(&word, COLUMNS - 4));
    }
    line(text, &current);
}

/// Seconds as people say them, in two units.
fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status() -> Value {
        json!({
            "version": "0.1.0", "pid": 4711, "generation": 3, "uptime_s": 7985, "ready": true, "draining": false,
            "connections": 12, "requests_in_flight": 4,
            "pools": [{ "name": "main", "serves": true, "retries_left": 120, "stand_ins": 2, "members": [
                { "name": "node1", "state": "healthy", "draining": false, "in_flight": 3, "queued": 0,
                  "connections": 4, "connections_max": 256, "open_uploads": 1, "weight": 1, "last_problem": null },
                { "name": "node2", "state": "healthy", "draining": true, "in_flight": 1, "queued": 0,
                  "connections": 2, "connections_max": 256, "open_uploads": 0, "weight": 1, "last_problem": null },
                { "name": "a-member-with-a-name-that-nobody-would-give", "state": "ejected", "draining": false,
                  "in_flight": 0, "last_problem": "no answer to a probe within 2s; ".repeat(6), "out_for_s": 7,
                  "something_new": 1 },
            ] }],
        })
    }

    #[test]
    fn the_table_fits_into_eighty_columns_and_shows_what_it_does_not_know() {
        let text = render(&status(), Colour::None);
        assert!(text.lines().all(|line| line.chars().count() <= COLUMNS), "{text}");
        let start = "tidegate 0.1.0  ready  process 4711  generation 3  up 2h 13m
12 connections, 4 requests in flight

pool main  120 retries left, 2 repositories not at their home yet
  member                   state            requests queue connections uploads
  node1                    healthy                 3     0       4/256       1
  node2                    draining                1     0       2/256       0
  a-member-with-a-name-th~ ejected 7 s             0     -         -/-       -
    last problem: no answer to a probe within 2s; no answer to a probe within";
        assert!(text.starts_with(start), "{text}");
        assert!(text.ends_with("    something_new 1\n"), "{text}");
        assert!(render(&json!({}), Colour::None).starts_with("tidegate -  -  process -"));
    }

    #[test]
    fn colours_are_for_terminals_and_a_member_that_is_out_is_not_called_draining() {
        let text = render(&status(), Colour::Terminal);
        assert!(text.contains("\u{1b}[33mdraining        \u{1b}[0m"), "{text:?}");
        assert!(!render(&status(), Colour::None).contains('\u{1b}'));
        for (member, word) in [
            (json!({ "state": "healthy", "draining": true, "in_flight": 0, "open_uploads": 0 }), "drained"),
            (json!({ "state": "unhealthy", "draining": true }), "unhealthy"),
            (json!({ "state": "of a later version" }), "of a later version"),
        ] {
            assert_eq!(state(&member).0, word);
        }
    }
}
