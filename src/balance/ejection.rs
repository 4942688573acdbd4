//! Rules of passive ejection: when requests, not probes, show that a member fails.

/// No ejection lasts longer, in milliseconds, unless the first one is to. A member that fails requests for this long is out
/// nearly all the time; a longer ejection would only delay its return. After as long in service earlier ejections are forgotten.
const TIME_MAX_MS: u64 = 5 * 60 * 1000;
/// Of a hundred members of a pool at most so many are ejected at once. When more than half fail requests, what they have in
/// common is more likely at fault, and the rest could not carry the load.
const PERCENT_MAX: usize = 50;

/// When a member is ejected, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EjectionRules {
    /// Failed requests in a row.
    pub failures: u32,
    /// The first ejection lasts so long, in milliseconds; each further one by as much longer.
    pub time_ms: u64,
}

impl EjectionRules {
    /// The longest ejection, and after how long in service earlier ones are forgotten, in milliseconds.
    #[must_use]
    pub fn time_max_ms(self) -> u64 {
        self.time_ms.max(TIME_MAX_MS)
    }

    /// How long the ejection lasts that follows on `earlier` ones, in milliseconds.
    #[must_use]
    pub fn duration_ms(self, earlier: u32) -> u64 {
        self.time_ms.saturating_mul(u64::from(earlier) + 1).min(self.time_max_ms())
    }
}

/// Whether one more of a pool's members may be ejected.
#[must_use]
pub fn allows_one_more(members: usize, ejected: usize) -> bool {
    ejected < members.saturating_mul(PERCENT_MAX) / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ejections_grow_and_are_capped_by_share() {
        let rules = EjectionRules { failures: 5, time_ms: 120_000 };
        let durations = [0, 1, 2, 9].map(|earlier| rules.duration_ms(earlier));
        assert_eq!(durations, [120_000, 240_000, TIME_MAX_MS, TIME_MAX_MS]);
        let long = EjectionRules { failures: 5, time_ms: TIME_MAX_MS * 2 };
        assert_eq!([0, 9].map(|earlier| long.duration_ms(earlier)), [TIME_MAX_MS * 2; 2]);
        for (members, ejected, allowed) in [
            (1, 0, false),
            (2, 0, true),
            (2, 1, false),
            (3, 0, true),
            (3, 1, false),
            (4, 1, true),
            (4, 2, false),
        ] {
            assert_eq!(allows_one_more(members, ejected), allowed, "{ejected} of {members}");
        }
    }
}
