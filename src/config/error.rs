//! What is wrong in a configuration, where, and what to write instead; rendered as compilers do.

use std::fmt;
use std::path::PathBuf;

/// Characters of a source line that are shown.
const LINE_CHARACTERS_MAX: usize = 160;

/// One thing that is wrong, or questionable where it is returned as a warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file that holds the mistake; `None` for command line arguments.
    pub file: Option<PathBuf>,
    /// Line in that file, from 1; 0 where there is none.
    pub line: usize,
    /// Column in characters, from 1; 0 where there is none.
    pub column: usize,
    /// The key, such as `pools[0].members[1].url`; empty for the file as a whole.
    pub key: String,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub fix: Fix,
    /// The source line, with secrets masked, and the position of the caret in it.
    pub snippet: Option<Snippet>,
}

/// What to do about a mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fix {
    /// A text that can stand in the place of the wrong one.
    Write(String),
    /// Something else to do.
    Advice(String),
}

/// A source line as it may be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snippet {
    /// The line, without secrets and control characters.
    pub text: String,
    /// How many characters stand before the caret.
    pub caret: usize,
}

/// Everything that is wrong in a configuration, in file order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl Fix {
    pub(super) fn write(text: impl Into<String>) -> Self {
        Self::Write(text.into())
    }

    pub(super) fn advice(text: impl Into<String>) -> Self {
        Self::Advice(text.into())
    }
}

impl Snippet {
    /// A snippet of at most [`LINE_CHARACTERS_MAX`] characters around the caret.
    pub(super) fn new(text: &str, caret: usize) -> Self {
        let skipped = if caret < LINE_CHARACTERS_MAX { 0 } else { caret - LINE_CHARACTERS_MAX / 2 };
        let shown = text.chars().skip(skipped).take(LINE_CHARACTERS_MAX);
        let text = shown.map(|c| if c.is_control() { ' ' } else { c }).collect();
        Self { text, caret: caret - skipped }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}:", file.display())?;
            if self.line > 0 {
                write!(f, "{}:{}:", self.line, self.column)?;
            }
            f.write_str(" ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&without_passwords(&self.problem).0)?;
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        if let Some(Snippet { text, caret }) = &self.snippet {
            let (text, taken) = without_passwords(text.trim_end());
            let caret = taken.iter().fold(*caret, |caret, taken| taken.moved(caret));
            write!(f, "\n{margin} |\n{number} | {text}\n{margin} | {:caret$}^", "")?;
        }
        match &self.fix {
            Fix::Write(text) => write!(f, "\n{margin} = write instead: {}", without_passwords(text).0),
            Fix::Advice(text) => write!(f, "\n{margin} = help: {}", without_passwords(text).0),
        }
    }
}

/// What stands in the place of a name and password.
const MASK: &str = "***";

/// Characters that were masked, in the text as it is then.
struct Taken {
    at: usize,
    count: usize,
}

impl Taken {
    /// Where the character at `place` is now.
    fn moved(&self, place: usize) -> usize {
        if place < self.at + self.count {
            return place.min(self.at);
        }
        place - self.count + MASK.chars().count()
    }
}

/// The text without the name and password of any URL in it: what is between `://` and the last `@`
/// before the URL's end.
fn without_passwords(text: &str) -> (String, Vec<Taken>) {
    let (mut shown, mut rest, mut taken) = (String::with_capacity(text.len()), text, Vec::new());
    while let Some(scheme) = rest.find("://") {
        let before = &rest[..scheme];
        let (head, url) = rest.split_at(scheme + 3);
        shown.push_str(head);
        // A quoted URL may hold anything up to its quote.
        let word = before.trim_end_matches(|c: char| c.is_ascii_alphanumeric() || "+-.".contains(c));
        let quote = word.chars().next_back().filter(|last| matches!(last, '"' | '\''));
        let is_end = |c: char| match quote {
            Some(quote) => c == quote,
            None => c.is_whitespace() || "\"'<>,]}".contains(c),
        };
        let url = &url[..url.find(is_end).unwrap_or(url.len())];
        let hidden = url.rfind('@').unwrap_or(0);
        if hidden > 0 {
            taken.push(Taken { at: shown.chars().count(), count: url[..hidden].chars().count() });
            shown.push_str(MASK);
        }
        rest = &rest[head.len() + hidden..];
    }
    shown.push_str(rest);
    (shown, taken)
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, error) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            writeln!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

impl std::error::Error for ConfigErrors {}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_message_shows_the_password_of_a_url() {
        for (text, expected) in [
            ("http://u:p@host:5000", "http://***@host:5000"),
            ("{ name: a, url: http://u:p@host, weight: x }", "{ name: a, url: http://***@host, weight: x }"),
            ("url: \"https://u:p /,w@host\" and more@x", "url: \"https://***@host\" and more@x"),
            ("http://a:1 https://b:q@c http://d@e", "http://a:1 https://***@c http://***@e"),
            ("http://host/path", "http://host/path"),
            ("mail@host", "mail@host"),
            ("://@", "://@"),
        ] {
            assert_eq!(without_passwords(text).0, expected, "{text}");
        }
        let line = "{ url: http://u:secret@host, weight: x }";
        let caret = line.find("x }").expect("there");
        let snippet = Some(Snippet { text: line.to_owned(), caret });
        let (problem, fix) = ("\"x\" is not a number".to_owned(), Fix::write("1"));
        let error = ConfigError { file: None, line: 1, column: 1, key: String::new(), problem, fix, snippet }
            .to_string();
        let lines: Vec<&str> = error.lines().collect();
        assert!(!error.contains("secret"), "{error}");
        assert_eq!(lines[2].find("x }"), lines[3].find('^'), "{error}");
    }
}
