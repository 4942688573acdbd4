//! Why a value of the file cannot be read, and what to write instead.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

use crate::config::constant;
use crate::config::document::{KeyPath, Problem, Spot};
use crate::config::error::Fix;
use crate::config::suggest::nearest;

/// The name of structs in whose place the word `none` may stand.
pub(in crate::config) const SECTION_OR_NONE: &str = "SectionOrNone";

/// Separates the problem from the fix in the messages of `Deserialize` implementations.
pub(in crate::config) const FIX_SEPARATOR: char = '\u{1f}';

/// What was found while a file is read.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    pub problems: RefCell<Vec<Problem>>,
    /// Values with a reported problem; they are read as if they were not there.
    pub skipped: RefCell<BTreeSet<KeyPath>>,
}

impl Decoder {
    pub(super) fn report(&self, problem: Problem) {
        let mut problems = self.problems.borrow_mut();
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }

    /// Whether a missing key is there with a typing error that is already reported.
    pub(super) fn is_mistyped(&self, path: &KeyPath) -> bool {
        let holder = path.parent();
        self.problems.borrow().iter().any(|problem| {
            let meant = problem.path.parent().zip(match &problem.fix {
                Fix::Write(key) if problem.spot == Spot::Key => Some(key),
                Fix::Write(_) | Fix::Advice(_) => None,
            });
            meant.is_some_and(|(parent, key)| holder.as_ref() == Some(&parent) && parent.key(key) == *path)
        })
    }

    /// Whether a value was left out, so that its key is not missing.
    pub(super) fn is_skipped(&self, path: &KeyPath) -> bool {
        self.skipped.borrow().contains(path)
    }
}

/// Why a value cannot be read.
#[derive(Debug)]
pub(super) struct DecodeError {
    pub kind: Kind,
    pub path: Option<KeyPath>,
}

#[derive(Debug)]
pub(super) enum Kind {
    WrongValue { problem: String, fix: Fix },
    UnknownKey(String),
    Missing(&'static str),
}

impl DecodeError {
    pub(super) fn wrong(problem: impl Into<String>, fix: Fix) -> Self {
        Self { kind: Kind::WrongValue { problem: problem.into(), fix }, path: None }
    }

    /// The innermost place stays.
    pub(super) fn at(mut self, path: &KeyPath) -> Self {
        self.path.get_or_insert_with(|| path.clone());
        self
    }

    pub(super) fn into_problem(self, path: KeyPath) -> Problem {
        match self.kind {
            Kind::WrongValue { problem, fix } => Problem { path, spot: Spot::Value, problem, fix },
            Kind::UnknownKey(key) => unknown_key(path, &key, &[]),
            Kind::Missing(key) => {
                let fix = Fix::Advice(format!("add `{}`", example(key)));
                Problem { path, spot: Spot::Value, problem: format!("the key `{key}` is missing"), fix }
            }
        }
    }
}

/// What a missing key could look like.
fn example(key: &str) -> String {
    let value = match key {
        "external_url" => "https://hub.example.com",
        "url" => "\"http://10.0.0.11:5000\"",
        "name" => "node1",
        "address" => "\"0.0.0.0:8443\"",
        "certificates" => "[{ cert: tls/hub.crt, key: tls/hub.key }]",
        "cert" | "certificate" => "tls/hub.crt",
        "key" => "tls/hub.key",
        "password_hash" => {
            "\"...\"`, with what `tidegate hash-password` prints, or `password_hash: { file: PATH }"
        }
        "password" => "{ file: PATH }",
        "repository" => "\"**\"",
        "allow" => "[pull]",
        "members" => "[{ name: node1, url: \"http://10.0.0.11:5000\" }]",
        "pool" | "user" => "NAME",
        _ => "...",
    };
    format!("{key}: {value}")
}

pub(super) fn unknown_key(path: KeyPath, key: &str, known: &[&str]) -> Problem {
    let fix = match nearest(key, known.iter().copied()) {
        _ if let Some(value) = constant::value_of(&path.to_string()) => {
            Fix::Advice(format!("remove it; this is always {value} now"))
        }
        Some(near) => Fix::Write(near.to_owned()),
        None if known.is_empty() => Fix::advice("remove it"),
        None => Fix::Advice(format!("remove it; the keys here are {}", known.join(", "))),
    };
    Problem { path, spot: Spot::Key, problem: format!("unknown key `{}`", key.escape_debug()), fix }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::WrongValue { problem, .. } => f.write_str(problem),
            Kind::UnknownKey(key) => write!(f, "unknown key {key}"),
            Kind::Missing(key) => write!(f, "missing key {key}"),
        }
    }
}

impl std::error::Error for DecodeError {}

impl serde::de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        let message = message.to_string();
        match message.split_once(FIX_SEPARATOR) {
            Some((problem, fix)) => Self::wrong(problem, Fix::write(fix)),
            None => Self::wrong(message, Fix::advice("see docs/configuration.md for what this key takes")),
        }
    }

    fn invalid_type(unexpected: serde::de::Unexpected<'_>, expected: &dyn serde::de::Expected) -> Self {
        let found = match unexpected {
            serde::de::Unexpected::Str(_) => "a single value",
            serde::de::Unexpected::Seq => "a list",
            serde::de::Unexpected::Map => "a section with keys",
            serde::de::Unexpected::Unit => "nothing",
            _ => "something else",
        };
        Self::wrong(format!("{found} stands where {expected} belongs"), Fix::Write(expected.to_string()))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let problem = format!("unknown word `{}`", variant.escape_debug());
        match nearest(variant, expected.iter().copied()) {
            Some(near) => Self::wrong(problem, Fix::write(near)),
            None => Self::wrong(problem, Fix::Write(expected.join(" | "))),
        }
    }

    fn unknown_field(field: &str, _: &'static [&'static str]) -> Self {
        Self { kind: Kind::UnknownKey(field.to_owned()), path: None }
    }

    fn missing_field(field: &'static str) -> Self {
        Self { kind: Kind::Missing(field), path: None }
    }
}
