//! Patterns on repositories and account names.
//!
//! Repository patterns know `*` (any characters within one path segment) and `**` (any number of
//! segments, also none in front of or behind others); `${user}` stands for the account name,
//! compared literally, so that no account name can widen a rule.
//!
//! Matching never goes back behind a wildcard: between two wildcards the leftmost place that fits
//! is the right one, and behind the last only the end is compared. The work is at most the length
//! of the pattern (with the account name in place) times the length of the name.

use std::fmt;

/// The word for the account name in a repository pattern.
const USER_PLACEHOLDER: &str = "${user}";

/// Longest pattern in bytes; the names that it is compared with have at most 255.
pub const PATTERN_BYTES_MAX: usize = 512;

/// A glob over path segments.
#[derive(Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    /// `**`
    Any,
    /// Literals, `*` and placeholders within one segment.
    One(Vec<Piece>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Star,
    User,
}

impl Piece {
    /// What it stands for; not asked of `*`.
    fn text<'a>(&'a self, user: &'a str) -> &'a str {
        match self {
            Self::Literal(literal) => literal,
            Self::User => user,
            Self::Star => "",
        }
    }
}

/// Why a pattern was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    /// A segment mixes `**` with other text.
    #[error("`**` must stand alone between slashes, as in \"team/**\"")]
    DoubleStar,
    /// An unknown placeholder.
    #[error("unknown placeholder {0}: only ${{user}} is known")]
    Placeholder(String),
    /// Empty text or segment.
    #[error("empty pattern or path segment")]
    Empty,
    /// Longer than any name needs.
    #[error("longer than {PATTERN_BYTES_MAX} bytes; names have at most 255")]
    Long,
    /// A character that can never match.
    #[error(
        "the character {0:?} can never match a name; only lower-case names exist, and `*`, `**` and ${{user}} are special"
    )]
    Character(char),
}

impl Pattern {
    /// Parses a repository pattern.
    ///
    /// # Errors
    /// [`InvalidPattern`], with what to write instead.
    pub fn repository(text: &str) -> Result<Self, InvalidPattern> {
        check_length(text)?;
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
        Self::parse(text, allowed)
    }

    /// Parses a glob on account names, without placeholders or slashes.
    ///
    /// # Errors
    /// [`InvalidPattern`], with what to write instead.
    pub fn account(text: &str) -> Result<Self, InvalidPattern> {
        check_length(text)?;
        let placeholder = text.find("${").map(|at| text[at..].to_owned());
        if let Some(placeholder) = placeholder {
            return Err(InvalidPattern::Placeholder(placeholder));
        }
        // A robot's name has a `$` in it, which means nothing else here.
        let mut pieces = Vec::new();
        for (at, literal) in text.split('*').enumerate() {
            if at > 0 {
                pieces.push(Piece::Star);
            }
            if let Some(wrong) = literal.chars().find(|c| c.is_control() || "/?[]\\:\" ".contains(*c)) {
                return Err(InvalidPattern::Character(wrong));
            }
            if !literal.is_empty() {
                pieces.push(Piece::Literal(literal.to_owned()));
            }
        }
        if text.is_empty() {
            return Err(InvalidPattern::Empty);
        }
        Ok(Self { text: text.to_owned(), segments: vec![Segment::One(pieces)] })
    }

    fn parse(text: &str, allowed: impl Fn(char) -> bool) -> Result<Self, InvalidPattern> {
        let segments =
            text.split('/').map(|segment| parse_segment(segment, &allowed)).collect::<Result<_, _>>()?;
        Ok(Self { text: text.to_owned(), segments })
    }

    /// Whether `name` matches, with `user` for the placeholder.
    #[must_use]
    pub fn matches(&self, name: &str, user: &str) -> bool {
        matches_segments(&self.segments, name, user, &mut |_| ())
    }

    /// Whether an account name matches; a slash in it is a character like any other.
    #[must_use]
    pub fn matches_account(&self, name: &str) -> bool {
        match self.segments.as_slice() {
            [Segment::One(pieces)] => matches_pieces(pieces, name, "", &mut |_| ()),
            _ => self.matches(name, ""),
        }
    }

    pub(super) fn is_everything(&self) -> bool {
        self.segments == [Segment::Any]
    }

    /// Whether the pattern is one literal name.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        self.segments.iter().all(|segment| match segment {
            Segment::Any => false,
            Segment::One(pieces) => pieces.iter().all(|piece| matches!(piece, Piece::Literal(_))),
        })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

fn check_length(text: &str) -> Result<(), InvalidPattern> {
    if text.len() > PATTERN_BYTES_MAX { Err(InvalidPattern::Long) } else { Ok(()) }
}

fn parse_segment(segment: &str, allowed: &impl Fn(char) -> bool) -> Result<Segment, InvalidPattern> {
    if segment == "**" {
        return Ok(Segment::Any);
    }
    if segment.is_empty() {
        return Err(InvalidPattern::Empty);
    }
    if segment.contains("**") {
        return Err(InvalidPattern::DoubleStar);
    }
    let mut pieces = Vec::new();
    let mut rest = segment;
    while let Some(next) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix(USER_PLACEHOLDER) {
            pieces.push(Piece::User);
            rest = after;
        } else if let Some(after) = rest.strip_prefix('*') {
            pieces.push(Piece::Star);
            rest = after;
        } else if next == '$' {
            return Err(InvalidPattern::Placeholder(rest.to_owned()));
        } else {
            let end = rest.find(['*', '$']).unwrap_or(rest.len());
            let (literal, after) = rest.split_at(end);
            if let Some(wrong) = literal.chars().find(|c| !allowed(*c)) {
                return Err(InvalidPattern::Character(wrong));
            }
            pieces.push(Piece::Literal(literal.to_owned()));
            rest = after;
        }
    }
    Ok(Segment::One(pieces))
}

/// Whether the segments match the name. `compared` is told the number of bytes of every comparison.
fn matches_segments(segments: &[Segment], name: &str, user: &str, compared: &mut impl FnMut(usize)) -> bool {
    let mut groups = segments.split(|segment| *segment == Segment::Any);
    let first = groups.next().unwrap_or_default();
    let Some(mut rest) = without_group(first, name.split('/'), user, compared) else { return false };
    let Some(last) = groups.next_back() else { return rest.next().is_none() };
    for group in groups {
        rest = loop {
            if let Some(behind) = without_group(group, rest.clone(), user, compared) {
                break behind;
            }
            if rest.next().is_none() {
                return false;
            }
        };
    }
    let Some(skipped) = rest.clone().count().checked_sub(last.len()) else { return false };
    without_group(last, rest.skip(skipped), user, compared).is_some()
}

/// What is behind the segments at the front of `names`, where they are there. The group has no `**`.
fn without_group<'a, I: Iterator<Item = &'a str>>(
    group: &[Segment],
    mut names: I,
    user: &str,
    compared: &mut impl FnMut(usize),
) -> Option<I> {
    for segment in group {
        let (Segment::One(pieces), name) = (segment, names.next()?) else { return None };
        if !matches_pieces(pieces, name, user, compared) {
            return None;
        }
    }
    Some(names)
}

/// Whether the pieces match the text. `compared` is told the number of bytes of every comparison.
fn matches_pieces(pieces: &[Piece], text: &str, user: &str, compared: &mut impl FnMut(usize)) -> bool {
    let mut chunks = pieces.split(|piece| *piece == Piece::Star);
    let first = chunks.next().unwrap_or_default();
    let Some(mut rest) = without_chunk(first, text, user, compared) else { return false };
    let Some(last) = chunks.next_back() else { return rest.is_empty() };
    for chunk in chunks {
        let mut places = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
        let behind = places.find_map(|at| without_chunk(chunk, &rest[at..], user, compared));
        let Some(behind) = behind else { return false };
        rest = behind;
    }
    let length: usize = last.iter().map(|piece| piece.text(user).len()).sum();
    let end = rest.len().checked_sub(length).and_then(|at| rest.get(at..));
    end.is_some_and(|end| without_chunk(last, end, user, compared).is_some())
}

/// What is behind the pieces at the front of `text`, where they are there. The chunk has no `*`.
fn without_chunk<'a>(
    chunk: &[Piece],
    mut text: &'a str,
    user: &str,
    compared: &mut impl FnMut(usize),
) -> Option<&'a str> {
    for piece in chunk {
        let literal = piece.text(user);
        compared(literal.len());
        // Anonymous has no name: the placeholder then matches nothing, not everything.
        if literal.is_empty() {
            return None;
        }
        text = text.strip_prefix(literal)?;
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_match_segments_and_never_read_account_names_as_patterns() {
        for (pattern, name, user, expected) in [
            ("**", "a/b/c", "", true),
            ("**", "a", "", true),
            ("a/**", "a/b", "", true),
            ("a/**", "a/b/c", "", true),
            ("a/**", "a", "", true),
            ("a/**", "ab/c", "", false),
            ("a/*", "a/b", "", true),
            ("a/*", "a/b/c", "", false),
            ("*", "a/b", "", false),
            ("*", "ab", "", true),
            ("a*c", "abbc", "", true),
            ("a*c", "abbd", "", false),
            ("**/x", "a/b/x", "", true),
            ("**/x", "x", "", true),
            ("a/**/z", "a/z", "", true),
            ("a/**/z", "a/b/c/z", "", true),
            ("a/**/z", "a/b", "", false),
            ("${user}/**", "eve/x", "eve", true),
            ("${user}/**", "adam/x", "eve", false),
            ("${user}/**", "x/y", "", false),
            ("ci-${user}", "ci-eve", "eve", true),
            ("${user}", "anything", "*", false),
        ] {
            let matches = Pattern::repository(pattern).expect("a pattern").matches(name, user);
            assert_eq!(matches, expected, "{pattern} on {name} for {user:?}");
        }
    }

    #[test]
    fn broken_patterns_are_refused() {
        for (text, expected) in [
            ("", InvalidPattern::Empty),
            ("a//b", InvalidPattern::Empty),
            ("a**", InvalidPattern::DoubleStar),
            ("${group}/x", InvalidPattern::Placeholder("${group}".to_owned())),
            ("Team/x", InvalidPattern::Character('T')),
            ("a?b", InvalidPattern::Character('?')),
            (&"a".repeat(513), InvalidPattern::Long),
        ] {
            assert_eq!(Pattern::repository(text), Err(expected), "{text:?}");
        }
    }

    /// Matching by trying every way: slow, and plainly what is meant.
    mod reference {
        use super::super::{Piece, Segment};

        /// `name` is `None` once all its segments are used up.
        pub(super) fn matches_segments(segments: &[Segment], name: Option<&str>, user: &str) -> bool {
            let Some((segment, others)) = segments.split_first() else { return name.is_none() };
            let split = |name: &str| match name.split_once('/') {
                Some((head, tail)) => (head.len(), Some(tail.len())),
                None => (name.len(), None),
            };
            match segment {
                Segment::One(pieces) => {
                    let Some(name) = name else { return false };
                    let (head, tail) = split(name);
                    let tail = tail.map(|length| &name[name.len() - length..]);
                    matches_pieces(pieces, &name[..head], user) && matches_segments(others, tail, user)
                }
                Segment::Any => {
                    let mut rest = name;
                    loop {
                        if matches_segments(others, rest, user) {
                            return true;
                        }
                        let Some(name) = rest else { return false };
                        rest = name.split_once('/').map(|(_, tail)| tail);
                    }
                }
            }
        }

        pub(super) fn matches_pieces(pieces: &[Piece], text: &str, user: &str) -> bool {
            let Some((piece, others)) = pieces.split_first() else { return text.is_empty() };
            match piece {
                Piece::Literal(literal) => {
                    text.strip_prefix(literal.as_str()).is_some_and(|rest| matches_pieces(others, rest, user))
                }
                // Anonymous has no name: the placeholder then matches nothing, not everything.
                Piece::User => {
                    !user.is_empty()
                        && text.strip_prefix(user).is_some_and(|rest| matches_pieces(others, rest, user))
                }
                Piece::Star => text
                    .char_indices()
                    .map(|(at, _)| at)
                    .chain([text.len()])
                    .any(|at| matches_pieces(others, &text[at..], user)),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn repository_patterns_match_what_trying_every_way_matches(
            pattern in "(\\*\\*|([ab]|\\*|\\$\\{user\\}){1,5})(/(\\*\\*|([ab]|\\*|\\$\\{user\\}){1,4})){0,4}",
            name in "[ab]{0,6}(/[ab]{0,4}){0,4}",
            user in "[ab]{0,2}",
        ) {
            // Patterns with `**` beside other text are refused.
            if let Ok(pattern) = Pattern::repository(&pattern) {
                let expected = reference::matches_segments(&pattern.segments, Some(&name), &user);
                prop_assert_eq!(pattern.matches(&name, &user), expected);
            }
        }

        #[test]
        fn account_patterns_match_what_trying_every_way_matches(
            pattern in "[aé*]{1,8}",
            name in "[aé/]{0,10}",
        ) {
            let pattern = Pattern::account(&pattern).expect("a glob");
            let [Segment::One(pieces)] = pattern.segments.as_slice() else { panic!("one segment") };
            prop_assert_eq!(pattern.matches_account(&name), reference::matches_pieces(pieces, &name, ""));
        }
    }

    #[test]
    fn the_work_is_at_most_the_pattern_times_the_name() {
        let deep = "a/".repeat(127) + "a";
        for (pattern, name, user) in [
            // Each of these has more ways to be tried than a machine tries in a lifetime.
            ("x/*a*a*a*a*a*a*a*a*a*a*b", format!("x/{}", "a".repeat(253)), "eve"),
            ("**/a/**/a/**/a/**/a/**/a/**/a/**/b", deep.clone(), "eve"),
            ("**/*a*/**/*a*/**/*a*/**/*a*/**/b*", deep, "eve"),
            ("*${user}*${user}*${user}*${user}*b", "a".repeat(255), "aa"),
        ] {
            let parsed = Pattern::repository(pattern).expect("a pattern");
            let mut steps = 0;
            let matched = matches_segments(&parsed.segments, &name, user, &mut |bytes| steps += 1 + bytes);
            assert!(!matched, "{pattern}");
            let bound = 2 * pattern.len() * name.len();
            assert!(steps <= bound, "{pattern}: {steps} steps, more than {bound}");
        }
    }
}
