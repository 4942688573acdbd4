//! "Did you mean": the known word nearest to a mistyped one.

/// The known word that needs the fewest edits to become `word`, if that is few enough for a typing error.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word: Vec<char> = word.chars().take(WORD_CHARACTERS_MAX).flat_map(char::to_lowercase).collect();
    let limit = (word.len() / 3).max(1);
    let scored = known.into_iter().map(|candidate| (score(&word, candidate), candidate));
    scored
        .filter(|(edits, _)| *edits <= limit)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// No key is longer; what is longer in the file is not compared further.
const WORD_CHARACTERS_MAX: usize = 64;

/// A known word inside the written one, or the other way round, counts as one edit.
fn score(word: &[char], candidate: &str) -> usize {
    let known: Vec<char> = candidate.chars().collect();
    let (long, short) = if word.len() > known.len() { (word, &known[..]) } else { (&known[..], word) };
    if short.len() >= 3 && long.windows(short.len()).any(|window| window == short) {
        return usize::from(long.len() != short.len());
    }
    edit_distance(word, &known)
}

/// Insertions, removals and replacements, and neighbours that changed places, between two words.
fn edit_distance(left: &[char], right: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.iter().enumerate() {
        let mut next = vec![i + 1];
        for (j, b) in right.iter().enumerate() {
            let mut edits = (row[j] + usize::from(a != b)).min(row[j + 1] + 1).min(next[j] + 1);
            if i > 0 && j > 0 && *a == right[j - 1] && left[i - 1] == *b {
                edits = edits.min(before[j - 1] + 1);
            }
            next.push(edits);
        }
        before = std::mem::replace(&mut row, next);
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_typing_error_finds_the_word_that_was_meant() {
        let known = ["repository", "allow", "user", "group", "members", "password_hash"];
        for (word, expected) in [
            ("repositroy", Some("repository")),
            ("alow", Some("allow")),
            ("Members", Some("members")),
            ("member", Some("members")),
            ("password", Some("password_hash")),
            ("xyz", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), expected, "{word:?}");
        }
    }
}
