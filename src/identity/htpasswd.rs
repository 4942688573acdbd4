//! htpasswd files: `name:bcrypt hash` lines, comments and blank lines.

use crate::auth::subject::is_account_name;

/// One line of an htpasswd file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct HtpasswdError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong and what to do.
    pub problem: &'static str,
}

/// Parses a whole file.
///
/// # Errors
/// The first line that cannot be used.
pub fn parse(text: &str) -> Result<Vec<(String, String)>, HtpasswdError> {
    let mut entries: Vec<(String, String)> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line_text = line.trim();
        if line_text.is_empty() || line_text.starts_with('#') {
            continue;
        }
        let fail = |problem| Err(HtpasswdError { line: at + 1, problem });
        let Some((name, hash)) = line_text.split_once(':') else {
            return fail("not `name:hash`; make lines with `htpasswd -B FILE NAME`");
        };
        if !is_account_name(name) {
            return fail("the name is empty or holds one of / * ? [ ] \\ $ : \" or a space");
        }
        if !is_bcrypt(hash) {
            return fail("only bcrypt hashes are taken; make the entry anew with `htpasswd -B FILE NAME`");
        }
        if entries.iter().any(|(earlier, _)| earlier == name) {
            return fail("the name stands in the file twice; remove one of the lines");
        }
        entries.push((name.to_owned(), hash.to_owned()));
    }
    Ok(entries)
}

/// Whether a text is a bcrypt hash: `$2a$`, `$2b$` or `$2y$`, a cost of 4 to 31, 53 characters.
#[must_use]
pub fn is_bcrypt(hash: &str) -> bool {
    bcrypt_cost(hash).is_some()
}

/// The cost of a bcrypt hash.
#[must_use]
pub fn bcrypt_cost(hash: &str) -> Option<u32> {
    hash.parse::<bcrypt::HashParts>().ok()?;
    let rest = ["$2a$", "$2b$", "$2y$"].iter().find_map(|prefix| hash.strip_prefix(prefix))?;
    let (cost, digest) = rest.split_once('$')?;
    let cost: u32 = cost.parse().ok().filter(|_| cost.len() == 2)?;
    let alphabet = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/');
    ((4..=31).contains(&cost) && digest.len() == 53 && digest.bytes().all(alphabet)).then_some(cost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bcrypt_lines_are_taken_and_the_line_is_named() {
        let hash = format!("$2y$05${}", ".".repeat(53));
        let text = format!("# users\n\nann:{hash}\n bob:{hash} \n");
        let names: Vec<_> = parse(&text).expect("valid").into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["ann", "bob"]);
        for (line, word) in [
            ("ann:{SHA}x", "htpasswd -B"),
            ("ann:$apr1$x", "htpasswd -B"),
            ("ann", "htpasswd -B"),
            (":x", "name"),
            ("a/b:x", "name"),
            (&format!("ann:$2y$99${}", "a".repeat(53)), "bcrypt"),
            (&format!("ann:{hash}\nann:{hash}"), "twice"),
        ] {
            let error = parse(&format!("# one\n{line}\n")).expect_err(line);
            assert!(error.line >= 2 && error.problem.contains(word), "{line}: {error}");
        }
    }
}
