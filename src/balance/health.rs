//! The health of one member: rise and fall over probes and failed connects.

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
}

impl Status {
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

/// Status and the current row of equal observations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    status: Status,
    good_in_a_row: u32,
    bad_in_a_row: u32,
}

impl Default for Health {
    fn default() -> Self {
        Self { status: Status::Starting, good_in_a_row: 0, bad_in_a_row: 0 }
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

    /// Takes an observation in. Returns the new status if it changed.
    pub fn observe(&mut self, seen: Observation, thresholds: Thresholds) -> Option<Status> {
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
        let next = self.next_status(seen, thresholds);
        let changed = next != self.status;
        self.status = next;
        changed.then_some(next)
    }

    fn next_status(&self, seen: Observation, thresholds: Thresholds) -> Status {
        match (self.status, seen) {
            // The first answer of a member that was never seen is enough, either way.
            (Status::Starting | Status::Healthy, Observation::Good) => Status::Healthy,
            (Status::Starting, Observation::Bad) => Status::Unhealthy,
            // A member that knows us no longer serves nobody, whatever the row.
            (_, Observation::CredentialRefused) => Status::CredentialFault,
            (Status::Healthy, Observation::Bad) if self.bad_in_a_row >= thresholds.fall => Status::Unhealthy,
            (Status::Unhealthy | Status::CredentialFault, Observation::Good)
                if self.good_in_a_row >= thresholds.rise =>
            {
                Status::Healthy
            }
            (Status::CredentialFault, Observation::Bad) => Status::Unhealthy,
            (status, _) => status,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THRESHOLDS: Thresholds = Thresholds { rise: 2, fall: 3 };

    fn run(observations: &str) -> Status {
        let mut health = Health::default();
        for letter in observations.chars() {
            let seen = match letter {
                'g' => Observation::Good,
                'b' => Observation::Bad,
                _ => Observation::CredentialRefused,
            };
            health.observe(seen, THRESHOLDS);
        }
        health.status()
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
            assert_eq!(run(observations), expected, "{observations:?}");
        }
    }

    #[test]
    fn only_changes_are_reported_and_unsettled_members_are_known() {
        let mut health = Health::default();
        assert!(health.is_unsettled());
        assert_eq!(health.observe(Observation::Good, THRESHOLDS), Some(Status::Healthy));
        assert_eq!(health.observe(Observation::Good, THRESHOLDS), None);
        assert!(!health.is_unsettled());
        assert_eq!(health.observe(Observation::Bad, THRESHOLDS), None);
        assert!(health.is_unsettled());
    }
}
