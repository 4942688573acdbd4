//! From YAML text to a tree of [`Node`]s, within bounds, and what is said when the text is no YAML.

use std::fmt;
use std::path::PathBuf;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::DuplicateKeyPolicy;
use serde_saphyr::{MessageFormatter as _, NonFiniteFloatPolicy, Spanned, UserMessageFormatter};

use super::{Entry, Node, Place, SECRET_KEY_WORDS, Value, snippet};
use crate::config::error::{ConfigError, Fix};

/// Levels of sections in each other.
const DEPTH_MAX: usize = 32;
/// Keys and values.
const VALUES_MAX: usize = 200_000;
/// Keys and values that stand in the file once and count wherever an alias repeats them.
const ALIASED_MAX: usize = 20_000;

/// The tree of one document.
pub(super) fn tree(source: &str) -> Result<Node, serde_saphyr::Error> {
    let options = serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        budget: serde_saphyr::budget! { max_depth: DEPTH_MAX, max_nodes: VALUES_MAX },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: ALIASED_MAX, max_replay_stack_depth: 8 },
    };
    let raw = serde_saphyr::from_str_with_options::<Spanned<Raw>>(source, options)?;
    Ok(Node::new(raw, source))
}

/// A YAML value before its plain scalars are read from the source: YAML would turn `1.10` into a number.
enum Raw {
    Text(String),
    NotText,
    Null,
    Sequence(Vec<Spanned<Self>>),
    Mapping(Vec<(Spanned<String>, Spanned<Self>)>),
}

impl Node {
    fn new(raw: Spanned<Raw>, source: &str) -> Self {
        // A merged or aliased value is reported where it is used; what is masked is where it is written.
        let written_at = Place::new(raw.defined);
        let written = source.get(written_at.start..written_at.end).unwrap_or_default();
        let place = Place { start: written_at.start, end: written_at.end, ..Place::new(raw.referenced) };
        let value = match raw.value {
            Raw::Null => Value::Null,
            Raw::NotText => Value::Scalar(written.to_owned()),
            Raw::Text(text) => Value::Scalar(text),
            Raw::Sequence(items) => {
                Value::Sequence(items.into_iter().map(|item| Self::new(item, source)).collect())
            }
            Raw::Mapping(entries) => {
                let entry = |(key, value): (Spanned<String>, Spanned<Raw>)| Entry {
                    key_place: Place::new(key.referenced),
                    key: key.value,
                    value: Self::new(value, source),
                };
                Value::Mapping(entries.into_iter().map(entry).collect())
            }
        };
        Self { place, value }
    }
}

impl Place {
    fn new(location: serde_saphyr::Location) -> Self {
        let span = location.span();
        let start = span.byte_offset().map_or(0, saturate);
        let end = start.saturating_add(span.byte_len().map_or(0, saturate));
        Self { line: saturate(location.line()), column: saturate(location.column()), start, end }
    }
}

fn saturate(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Raw, E> {
        Ok(Raw::Text(text.to_owned()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Raw, E> {
        Ok(Raw::NotText)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Raw, E> {
        Ok(Raw::NotText)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Raw, E> {
        Ok(Raw::NotText)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Raw, E> {
        Ok(Raw::NotText)
    }

    fn visit_i128<E>(self, _: i128) -> Result<Raw, E> {
        Ok(Raw::NotText)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Raw, E> {
        Ok(Raw::NotText)
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Raw::Sequence(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Mapping(entries))
    }
}

/// What the parser says, and what usually helps. The parser's message holds no values.
pub(super) fn syntax_error(file: PathBuf, source: &str, error: &serde_saphyr::Error) -> ConfigError {
    let (line, column) = error.location().map_or((1, 1), |at| (saturate(at.line()), saturate(at.column())));
    let message = UserMessageFormatter.format_message(error.without_snippet()).escape_debug().to_string();
    let is_limit = message.contains("too large or too complex");
    let (problem, fix) = if is_limit {
        (
            format!("more than {VALUES_MAX} values, {DEPTH_MAX} levels or {ALIASED_MAX} values by aliases"),
            "write out what aliases (`*NAME`) stand for, and keep large lists, such as users, in files of their own",
        )
    } else if message.contains("YAML document") {
        ("a second YAML document begins here".to_owned(), "keep one document in the file: remove this `---`")
    } else if message.contains("tab") {
        (message, "indent with spaces, never with tabs")
    } else if message.contains("mapping values") {
        (
            message,
            "put quotes around a value that contains `: `, and indent the keys of a section by two spaces",
        )
    } else if message.contains("unclosed") || message.contains("bracket") {
        (message, "close every `[` with `]` and every `{` with `}`")
    } else {
        (message, "check indentation, quotes and brackets here and in the line before")
    };
    // Without a tree it is not known where a secret ends, so lines near one are not shown.
    let near = source.lines().take(line).skip(line.saturating_sub(10));
    let secret =
        near.map(str::to_ascii_lowercase).any(|line| SECRET_KEY_WORDS.iter().any(|word| line.contains(word)));
    let snippet = if secret { None } else { snippet(source, line, column, &[]) };
    let problem = format!("{}: {problem}", if is_limit { "too much for one file" } else { "not valid YAML" });
    ConfigError {
        file: Some(file),
        line,
        column,
        key: String::new(),
        problem,
        fix: Fix::advice(fix),
        snippet,
    }
}
