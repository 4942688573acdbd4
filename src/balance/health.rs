//! The health of one member, one state machine for what probes show and what requests show.
//!
//! Probes take a member out and bring it back by rise and fall. Requests eject it for a time that
//! grows; when that is over, a good probe brings it back. Who comes back starts slowly.

use super::ejection::EjectionRules;

/// Where a member stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Not probed yet; it may be tried.
    Starting,
    /// In service.
    Healthy,
    /// Out: it does not answer, or not rightly.
    Unhealthy,
    /// Out: it refuses our credential.
    CredentialFault,
    /// Out for a while: probes are good, and requests failed.
    Ejected,
}

impl Status {
    /// Every status, in the order of their numbers.
    pub const ALL: [Self; 5] =
        [Self::Starting, Self::Healthy, Self::Unhealthy, Self::CredentialFault, Self::Ejected];

    /// Whether requests may go there.
    #[must_use]
    pub fn serves(self) -> bool {
        matches!(self, Self::Starting | Self::Healthy)
    }
}

/// What was seen of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observation {
    /// A probe was answered rightly.
    Good,
    /// A probe or a connect failed.
    Bad,
    /// A probe with our credential was answered 401.
    CredentialRefused,
}

/// How many observations in a row it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Good ones that bring a member back.
    pub rise: u32,
    /// Bad ones that take it out.
    pub fall: u32,
}

/// Status, the current row of equal observations, and ejections. Times are milliseconds of one
/// clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    status: Status,
    good_in_a_row: u32,
    bad_in_a_row: u32,
    /// Ejections that are not forgotten yet.
    ejections: u32,
    /// The end of the last one.
    ejected_until_ms: u64,
    /// When the member came back; 0 for one that was never out.
    back_since_ms: u64,
    /// Since when it is out; 0 while it serves.
    out_since_ms: u64,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            status: Status::Starting,
            good_in_a_row: 0,
            bad_in_a_row: 0,
            ejections: 0,
            ejected_until_ms: 0,
            back_since_ms: 0,
            out_since_ms: 0,
        }
    }
}

impl Health {
    /// Where the member stands.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status
    }

    /// Whether the next probe should come soon: the member fails, or is on its way back.
    #[must_use]
    pub fn is_unsettled(&self) -> bool {
        self.status != Status::Healthy || self.bad_in_a_row > 0
    }

    /// Whether requests have ejected the member and its last probe was good.
    #[must_use]
    pub fn is_ejected_and_well(&self) -> bool {
        self.status == Status::Ejected && self.bad_in_a_row == 0
    }

    /// When an ejected member may come back.
    #[must_use]
    pub fn ejected_until_ms(&self) -> Option<u64> {
        (self.status == Status::Ejected).then_some(self.ejected_until_ms)
    }

    /// When the member came back from being out; `None` for one that never was.
    #[must_use]
    pub fn back_since_ms(&self) -> Option<u64> {
        (self.back_since_ms > 0).then_some(self.back_since_ms)
    }

    /// Since when the member is out; `None` while it serves.
    #[must_use]
    pub fn out_since_ms(&self) -> Option<u64> {
        (self.out_since_ms > 0).then_some(self.out_since_ms)
    }

    /// Takes an observation in. Returns the new status if it changed.
    pub fn observe(&mut self, seen: Observation, thresholds: Thresholds, now_ms: u64) -> Option<Status> {
        match seen {
            Observation::Good => {
                self.good_in_a_row = self.good_in_a_row.saturating_add(1);
                self.bad_in_a_row = 0;
            }
            Observation::Bad | Observation::CredentialRefused => {
                self.good_in_a_row = 0;
                self.bad_in_a_row = self.bad_in_a_row.saturating_add(1);
            }
        }
        let next = self.next_status(seen, thresholds, now_ms);
        self.change(next, now_ms)
    }

    /// Requests failed. `allowed` says whether one more member of the pool may be ejected. Returns
    /// the new status if it changed.
    pub fn eject(&mut self, rules: EjectionRules, allowed: bool, now_ms: u64) -> Option<Status> {
        if !allowed || !self.status.serves() {
            return None;
        }
        let quiet = now_ms.saturating_sub(self.ejected_until_ms);
        if quiet >= rules.time_max_ms() {
            self.ejections = 0;
        }
        self.ejected_until_ms = now_ms.saturating_add(rules.duration_ms(self.ejections));
        self.ejections = self.ejections.saturating_add(1);
        self.good_in_a_row = 0;
        self.change(Status::Ejected, now_ms)
    }

    fn change(&mut self, next: Status, now_ms: u64) -> Option<Status> {
        if next == self.status {
            return None;
        }
        if next == Status::Healthy && !self.status.serves() {
            self.back_since_ms = now_ms.max(1);
            self.out_since_ms = 0;
        }
        if self.status.serves() && !next.serves() {
            self.out_since_ms = now_ms.max(1);
        }
        self.status = next;
        Some(next)
    }

    fn next_status(&self, seen: Observation, thresholds: Thresholds, now_ms: u64) -> Status {
        match (self.status, seen) {
            // The first answer of a member that was never seen is enough, either way.
            (Status::Starting | Status::Healthy, Observation::Good) => Status::Healthy,
            (Status::Starting, Observation::Bad) => Status::Unhealthy,
            // A member that refuses our credential serves no client, whatever the row.
            (_, Observation::CredentialRefused) => Status::CredentialFault,
            (Status::Healthy | Status::Ejected, Observation::Bad) if self.bad_in_a_row >= thresholds.fall => {
                Status::Unhealthy
            }
            (Status::Unhealthy | Status::CredentialFault, Observation::Good)
                if self.good_in_a_row >= thresholds.rise =>
            {
                Status::Healthy
            }
            (Status::Ejected, Observation::Good) if now_ms >= self.ejected_until_ms => Status::Healthy,
            (Status::CredentialFault, Observation::Bad) => Status::Unhealthy,
            (status, _) => status,
        }
    }
}

/// The share of its weight that a member has which came back `since_ms` ago, from a tenth to all.
#[must_use]
pub fn slow_start(since_ms: u64, time_ms: u64) -> f64 {
    if since_ms >= time_ms {
        return 1.0;
    }
    #[expect(clippy::cast_precision_loss, reason = "times far below 285,000 years")]
    let share = since_ms as f64 / time_ms as f64;
    share.max(0.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const THRESHOLDS: Thresholds = Thresholds { rise: 2, fall: 3 };
    const RULES: EjectionRules = EjectionRules { failures: 5, time_ms: 10_000 };

    /// Runs observations a second apart: good, bad, credential refused, ejected.
    fn run(observations: &str) -> Health {
        let mut health = Health::default();
        for (at, letter) in observations.chars().enumerate() {
            let now = at as u64 * 1000;
            match letter {
                'g' => health.observe(Observation::Good, THRESHOLDS, now),
                'b' => health.observe(Observation::Bad, THRESHOLDS, now),
                'e' => health.eject(RULES, true, now),
                'n' => health.eject(RULES, false, now),
                _ => health.observe(Observation::CredentialRefused, THRESHOLDS, now),
            };
        }
        health
    }

    #[test]
    fn rise_and_fall_need_their_whole_row() {
        for (observations, expected) in [
            ("", Status::Starting),
            ("g", Status::Healthy),
            ("b", Status::Unhealthy),
            ("gbb", Status::Healthy),
            ("gbbb", Status::Unhealthy),
            ("gbbgbb", Status::Healthy),
            ("bg", Status::Unhealthy),
            ("bgg", Status::Healthy),
            ("bgbg", Status::Unhealthy),
            ("gc", Status::CredentialFault),
            ("gcg", Status::CredentialFault),
            ("gcgg", Status::Healthy),
            ("gcb", Status::Unhealthy),
            ("bc", Status::CredentialFault),
        ] {
            assert_eq!(run(observations).status(), expected, "{observations:?}");
        }
    }

    #[test]
    fn requests_eject_and_time_and_a_good_probe_bring_back() {
        for (observations, expected) in [
            ("ge", Status::Ejected),
            ("e", Status::Ejected),
            ("gn", Status::Healthy),
            // 1 s to 11 s.
            ("geggggggggg", Status::Ejected),
            ("gegggggggggg", Status::Healthy),
            ("gebb", Status::Ejected),
            ("gebbb", Status::Unhealthy),
            ("gebbbgg", Status::Healthy),
            ("gec", Status::CredentialFault),
            // What is out already is not ejected.
            ("gbbbe", Status::Unhealthy),
            ("gce", Status::CredentialFault),
        ] {
            assert_eq!(run(observations).status(), expected, "{observations:?}");
        }
    }

    #[test]
    fn each_ejection_is_longer_until_a_long_time_in_service() {
        let mut health = Health::default();
        health.observe(Observation::Good, THRESHOLDS, 0);
        let mut now = 1_000;
        for expected in [10_000, 20_000, 30_000] {
            assert_eq!(health.eject(RULES, true, now), Some(Status::Ejected));
            let until = health.ejected_until_ms().expect("ejected");
            assert_eq!(health.out_since_ms(), Some(now));
            assert_eq!(until - now, expected);
            assert_eq!(health.observe(Observation::Good, THRESHOLDS, until - 1), None);
            assert_eq!(health.observe(Observation::Good, THRESHOLDS, until), Some(Status::Healthy));
            assert_eq!(health.back_since_ms(), Some(until));
            assert_eq!(health.out_since_ms(), None);
            now = until + 5_000;
        }
        now += RULES.time_max_ms();
        health.eject(RULES, true, now);
        assert_eq!(health.ejected_until_ms(), Some(now + 10_000));
    }

    #[test]
    fn only_changes_are_reported_and_unsettled_members_are_known() {
        let mut health = Health::default();
        assert!(health.is_unsettled());
        assert_eq!(health.observe(Observation::Good, THRESHOLDS, 0), Some(Status::Healthy));
        assert_eq!(health.observe(Observation::Good, THRESHOLDS, 0), None);
        assert!(!health.is_unsettled());
        assert_eq!(health.back_since_ms(), None, "who was never out does not start slowly");
        assert_eq!(health.observe(Observation::Bad, THRESHOLDS, 0), None);
        assert!(health.is_unsettled());
        assert!(run("ge").is_unsettled());
    }

    #[test]
    fn who_comes_back_starts_slowly() {
        for (since, expected) in [(0, 0.1), (1_000, 0.1), (15_000, 0.5), (30_000, 1.0), (99_000, 1.0)] {
            let share = slow_start(since, 30_000);
            assert!((share - expected).abs() < 1e-9, "{since}: {share}");
        }
        assert!((slow_start(0, 0) - 1.0).abs() < 1e-9);
    }
}
