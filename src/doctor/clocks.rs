//! How far clocks are apart, by what members say. Pure.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::finding::{Code, Finding};

/// Seconds that are said to be questionable.
const WARNING: u64 = 5;
/// Seconds that are too many.
const ERROR: u64 = 30;

/// An HTTP date (RFC 9110 5.6.7, the one form that servers may send) in seconds since the epoch.
pub(super) fn parse_date(text: &str) -> Option<u64> {
    let date = DateTime::strptime("%a, %d %b %Y %H:%M:%S GMT", text).ok()?;
    u64::try_from(date.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second()).ok()
}

/// By how many seconds a clock that showed `theirs` is ahead (or behind, below 0) at least, our own
/// having been between these two.
pub(super) fn skew(theirs: u64, ours: (u64, u64)) -> i64 {
    let (before, after) = ours;
    if theirs > after {
        i64::try_from(theirs - after).unwrap_or(i64::MAX)
    } else if theirs < before {
        i64::try_from(before - theirs).map_or(i64::MIN, |behind| -behind)
    } else {
        0
    }
}

/// What a clock's distance to ours means.
pub(super) fn judge(skew: i64) -> Option<Finding> {
    let apart = skew.unsigned_abs();
    if apart <= WARNING {
        return None;
    }
    let direction = if skew > 0 { "ahead of" } else { "behind" };
    let problem = format!("its clock is {apart} s {direction} ours");
    let effect = "tokens are refused as not yet valid or as ended: Harbor before 2.11 allows clocks no leeway, stock registries 60 s";
    let fix = "synchronise the clocks of both machines (chrony, systemd-timesyncd)";
    Some(if apart > ERROR {
        Finding::error(Code::Clock, problem, effect, fix)
    } else {
        Finding::warning(Code::Clock, problem, effect, fix)
    })
}

/// Two members whose clocks are each near enough to ours, and far from each other.
pub(super) fn judge_pair(skew: i64, other: (&str, i64)) -> Option<Finding> {
    let apart = skew.abs_diff(other.1);
    let near = |skew: i64| skew.unsigned_abs() <= WARNING;
    (apart > WARNING && near(skew) && near(other.1)).then(|| {
        Finding::warning(
            Code::ClocksDiffer,
            format!("its clock and that of {} are {apart} s apart", other.0),
            "what one node signs or dates is too young or too old for the other",
            "synchronise the clocks of both machines (chrony, systemd-timesyncd)",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;

    #[test]
    fn dates_are_read_and_compared_with_the_time_of_the_question() {
        assert_eq!(parse_date("Thu, 01 Jan 1970 00:01:00 GMT"), Some(60));
        assert_eq!(parse_date("Sun, 22 Nov 2026 17:20:21 GMT"), Some(1_795_368_021));
        for wrong in ["", "yesterday", "Sun, 22 Nov 2026 17:20:21 CET", "2026-11-22T17:20:21Z"] {
            assert_eq!(parse_date(wrong), None, "{wrong}");
        }
        for (theirs, expected) in [(100, 0), (105, 0), (110, 0), (111, 1), (152, 42), (99, -1), (50, -50)] {
            assert_eq!(skew(theirs, (100, 110)), expected, "{theirs}");
        }
    }

    #[test]
    fn a_few_seconds_are_nothing_and_half_a_minute_is_too_much() {
        for (skew, level, words) in [
            (0, None, ""),
            (5, None, ""),
            (-5, None, ""),
            (6, Some(Level::Warning), "6 s ahead of"),
            (-30, Some(Level::Warning), "30 s behind"),
            (31, Some(Level::Error), "31 s ahead of"),
            (-3600, Some(Level::Error), "3600 s behind"),
        ] {
            let finding = judge(skew);
            assert_eq!(finding.as_ref().map(|finding| finding.level), level, "{skew}");
            assert!(finding.is_none_or(|finding| finding.problem.contains(words)), "{skew}");
        }
        assert!(judge_pair(4, ("b", -4)).is_some_and(|finding| finding.problem.contains("8 s apart")));
        assert!(judge_pair(4, ("b", 0)).is_none());
        assert!(judge_pair(40, ("b", 0)).is_none(), "that is said already");
    }
}
