//! Keys of earlier configuration files whose values nobody changed, and which are constants of the program now: an old file is told so.

/// Section, key, and what counts now. An index of a list is written `[]`.
const CONSTANTS: [(&str, &str, &str); 11] = [
    ("limits", "headers_max", "100"),
    ("limits", "h2_streams_max", "100"),
    ("tokens", "scopes_max", "64"),
    ("tokens", "token_bytes_max", "4KiB"),
    ("tokens", "request_bytes_max", "16KiB"),
    ("password_checks", "cache_entries_max", "10000"),
    ("verify", "quarantine_entries_max", "10000"),
    ("identity[].harbor", "checks_max", "64"),
    ("identity[].harbor", "waiting_max", "4"),
    ("pools[].health.ejection", "time_max", "5m"),
    ("pools[].health.ejection", "percent_max", "50"),
];

/// The value that counts instead of what stands at this path, such as `pools[0].health.ejection.time_max`.
pub(super) fn value_of(path: &str) -> Option<&'static str> {
    let path = without_indexes(path);
    let (section, key) = path.rsplit_once('.')?;
    CONSTANTS.iter().find(|known| known.0 == section && known.1 == key).map(|known| known.2)
}

fn without_indexes(path: &str) -> String {
    let mut inside = false;
    let keep = |c: &char| {
        inside = *c == '[' || inside && *c != ']';
        !inside || *c == '['
    };
    path.chars().filter(keep).collect()
}

#[cfg(test)]
mod tests {
    use super::value_of;

    #[test]
    fn a_key_is_known_in_its_own_section_alone() {
        for (path, expected) in [
            ("limits.headers_max", Some("100")),
            ("pools[12].health.ejection.time_max", Some("5m")),
            ("identity[0].harbor.waiting_max", Some("4")),
            ("tokens.headers_max", None),
            ("headers_max", None),
            ("pools.health.ejection.time_max", None),
            ("limits.[x].headers_max", None),
            ("[", None),
            ("", None),
        ] {
            assert_eq!(value_of(path), expected, "{path:?}");
        }
    }
}
