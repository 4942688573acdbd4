//! The YAML text as a tree in which every key and value knows its place, so that a key path finds its line, and lines can be shown
//! without the secrets in them.

mod parse;

use std::fmt;
use std::path::PathBuf;

use super::error::{ConfigError, ConfigErrors, Fix, Snippet};

/// Values under keys with one of these words in their name are never shown.
const SECRET_KEY_WORDS: [&str; 3] = ["pass", "secret", "hash"];

/// A configuration file that is YAML; not more is known of it. It holds secrets, so it has no `Debug` form.
pub(super) struct Document {
    file: PathBuf,
    source: String,
    root: Node,
}

/// A value and its place.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// What a node holds.
#[derive(Debug)]
pub(super) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// A scalar as it was written, without quotes.
    Scalar(String),
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

/// A key with its value; keys can repeat.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_place: Place,
    pub(super) value: Node,
}

/// Where something stands: line and column from 1, and the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) line: usize,
    pub(super) column: usize,
    start: usize,
    end: usize,
}

/// The way from the root to a value.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KeyPath(Vec<Step>);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Key(String),
    Index(usize),
}

/// Something wrong at a key path of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) path: KeyPath,
    pub(super) spot: Spot,
    pub(super) problem: String,
    pub(super) fix: Fix,
}

/// What of the path's end is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spot {
    /// The value.
    Value,
    /// The value, which may hold a secret and is not shown.
    Hidden,
    /// The key itself. What stands behind an unknown key may be a secret, so it is not shown.
    Key,
    /// The key itself, which is there for the second time; this is the second one's place.
    Repeated(Place),
}

impl KeyPath {
    /// The path of a key in this mapping.
    pub(super) fn key(&self, key: &str) -> Self {
        self.then(Step::Key(key.to_owned()))
    }

    /// The path of an element of this sequence.
    pub(super) fn index(&self, index: usize) -> Self {
        self.then(Step::Index(index))
    }

    /// The path of what holds this; `None` for the root.
    pub(super) fn parent(&self) -> Option<Self> {
        let (_, rest) = self.0.split_last()?;
        Some(Self(rest.to_vec()))
    }

    fn then(&self, step: Step) -> Self {
        Self(self.0.iter().cloned().chain([step]).collect())
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) => {
                    let dot = if at > 0 { "." } else { "" };
                    write!(f, "{dot}{}", key.escape_debug())?;
                }
            }
        }
        Ok(())
    }
}

impl Document {
    /// Parses one YAML document.
    pub(super) fn parse(file: PathBuf, source: String) -> Result<Self, ConfigErrors> {
        match parse::tree(&source) {
            Ok(root) => Ok(Self { file, source, root }),
            Err(error) => Err(parse::syntax_error(file, &source, &error).into()),
        }
    }

    /// A document without any key, for configurations that no file describes.
    pub(super) fn empty() -> Self {
        let place = Place { line: 0, column: 0, start: 0, end: 0 };
        Self { file: PathBuf::new(), source: String::new(), root: Node { place, value: Value::Null } }
    }

    pub(super) fn root(&self) -> &Node {
        &self.root
    }

    /// The line of a value, from 1.
    pub(super) fn line(&self, path: &KeyPath) -> usize {
        self.find(path).node.place.line
    }

    /// Adds file, line and source to problems; in file order. The masks of one hold for the snippets of all.
    pub(super) fn describe(&self, problems: Vec<Problem>) -> Vec<ConfigError> {
        let mut masks = Vec::new();
        collect_secrets(&self.root, false, &mut masks);
        for problem in &problems {
            if matches!(problem.spot, Spot::Hidden | Spot::Key) {
                mask_all(self.find(&problem.path).node, &mut masks);
            }
        }
        let mut errors: Vec<_> =
            problems.into_iter().map(|problem| self.describe_one(problem, &masks)).collect();
        errors.sort_by_key(|error| (error.line, error.column));
        errors
    }

    fn describe_one(&self, problem: Problem, masks: &[Place]) -> ConfigError {
        let found = self.find(&problem.path);
        let place = match problem.spot {
            Spot::Repeated(place) => place,
            Spot::Key => found.key_place.unwrap_or(found.node.place),
            Spot::Value | Spot::Hidden => found.node.place,
        };
        ConfigError {
            file: Some(self.file.clone()),
            line: place.line,
            column: place.column,
            key: problem.path.to_string(),
            problem: problem.problem,
            fix: problem.fix,
            snippet: snippet(&self.source, place.line, place.column, masks),
        }
    }

    /// The node of a path, or the deepest one on the way there.
    fn find(&self, path: &KeyPath) -> Found<'_> {
        let mut found = Found { node: &self.root, key_place: None };
        for step in &path.0 {
            let next = match (step, &found.node.value) {
                (Step::Key(key), Value::Mapping(entries)) => entries
                    .iter()
                    .find(|entry| entry.key == *key)
                    .map(|entry| Found { node: &entry.value, key_place: Some(entry.key_place) }),
                (Step::Index(index), Value::Sequence(nodes)) => {
                    nodes.get(*index).map(|node| Found { node, key_place: None })
                }
                _ => None,
            };
            match next {
                Some(next) => found = next,
                None => break,
            }
        }
        found
    }
}

struct Found<'a> {
    node: &'a Node,
    key_place: Option<Place>,
}

fn collect_secrets(node: &Node, secret: bool, masks: &mut Vec<Place>) {
    match &node.value {
        Value::Null => {}
        Value::Scalar(_) if secret => masks.push(node.place),
        Value::Scalar(_) => {}
        Value::Sequence(items) => items.iter().for_each(|item| collect_secrets(item, secret, masks)),
        Value::Mapping(entries) => {
            for entry in entries {
                let key = entry.key.to_ascii_lowercase();
                // `{ file: PATH }` and `{ env: NAME }` say where a secret is, not what it is.
                let named = secret && matches!(key.as_str(), "file" | "env");
                let inherits = secret && !named || SECRET_KEY_WORDS.iter().any(|word| key.contains(word));
                if secret && !named {
                    masks.push(entry.key_place);
                }
                collect_secrets(&entry.value, inherits, masks);
            }
        }
    }
}

fn mask_all(node: &Node, masks: &mut Vec<Place>) {
    match &node.value {
        Value::Null => {}
        Value::Scalar(_) => masks.push(node.place),
        Value::Sequence(items) => items.iter().for_each(|item| mask_all(item, masks)),
        Value::Mapping(entries) => entries.iter().for_each(|entry| mask_all(&entry.value, masks)),
    }
}

/// The source line with what is masked replaced, and the caret's place in the result.
fn snippet(source: &str, line: usize, column: usize, masks: &[Place]) -> Option<Snippet> {
    let mut start = 0;
    let mut lines = source.split_inclusive('\n');
    for _ in 1..line {
        start += lines.next()?.len();
    }
    let text = lines.next()?.trim_end_matches(['\n', '\r']);
    let masked = |at: usize| masks.iter().find(|mask| (mask.start..mask.end).contains(&at));
    let mut shown = String::new();
    let mut caret = None;
    let mut last = None;
    for (count, (at, c)) in text.char_indices().enumerate() {
        let mask = masked(start + at);
        if count + 1 == column {
            caret = Some(shown.chars().count().saturating_sub(if mask.is_some() && mask == last {
                3
            } else {
                0
            }));
        }
        match mask {
            Some(_) if mask == last => {}
            Some(_) => shown.push_str("***"),
            None => shown.push(c),
        }
        last = mask;
    }
    if text.trim().is_empty() {
        return None;
    }
    Some(Snippet::new(&shown, caret.unwrap_or_else(|| shown.chars().count())))
}
