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
        f.write_str(&self.problem)?;
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        if let Some(Snippet { text, caret }) = &self.snippet {
            let text = text.trim_end();
            write!(f, "\n{margin} |\n{number} | {text}\n{margin} | {:caret$}^", "")?;
        }
        match &self.fix {
            Fix::Write(text) => write!(f, "\n{margin} = write instead: {text}"),
            Fix::Advice(text) => write!(f, "\n{margin} = help: {text}"),
        }
    }
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
