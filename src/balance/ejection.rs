//! Rules of passive ejection: when requests, not probes, show that a member fails.

/// When a member is ejected, for how long, and how many of a pool at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EjectionRules {
    /// Failed requests in a row.
    pub failures: u32,
    /// The first ejection lasts so long, in milliseconds; each further one by as much longer.
    pub time_ms: u64,
    /// No ejection lasts longer, in milliseconds. After so long a time in service earlier
    /// ejections are forgotten.
    pub time_max_ms: u64,
    /// Of a hundred members of a pool at most so many are ejected at once.
    pub percent_max: u32,
}

impl EjectionRules {
    /// Whether one more member of a pool may be ejected.
    #[must_use]
    pub fn allow(self, members: usize, ejected: usize) -> bool {
        let most = members.saturating_mul(self.percent_max as usize) / 100;
        ejected < most
    }

    /// How long the ejection lasts that follows on `earlier` ones, in milliseconds.
    #[must_use]
    pub fn duration_ms(self, earlier: u32) -> u64 {
        self.time_ms.saturating_mul(u64::from(earlier) + 1).min(self.time_max_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ejections_grow_and_are_capped_by_share() {
        let rules = EjectionRules { failures: 5, time_ms: 10_000, time_max_ms: 25_000, percent_max: 50 };
        assert_eq!([0, 1, 2, 9].map(|earlier| rules.duration_ms(earlier)), [10_000, 20_000, 25_000, 25_000]);
        for (members, ejected, allowed) in [
            (1, 0, false),
            (2, 0, true),
            (2, 1, false),
            (3, 0, true),
            (3, 1, false),
            (4, 1, true),
            (4, 2, false),
        ] {
            assert_eq!(rules.allow(members, ejected), allowed, "{ejected} of {members}");
        }
    }
}
