//! Whose requests a member failed: what one client brought about takes out one member at most.

/// Whose request it is, as far as fairness and blame go: the network it comes from and the account that makes it.
/// Both are keyed hashes, so that nobody can choose to look like somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientKey {
    /// The client's address; of an IPv6 address its /64.
    pub network: u64,
    /// The account; `None` for clients without credentials, which share nothing but that.
    pub subject: Option<u64>,
}

/// What the failures in a row of one member have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Sole {
    /// There was none yet.
    #[default]
    Nothing,
    /// All of them are of this one.
    One(u64),
    /// They are of several.
    Several,
}

/// Failed requests of one member in a row, and whose they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Failures {
    number: u32,
    network: Sole,
    subject: Sole,
}

impl Sole {
    fn and(self, next: Option<u64>) -> Self {
        match (self, next) {
            (Self::Nothing, Some(next)) => Self::One(next),
            (Self::One(known), Some(next)) if known == next => self,
            _ => Self::Several,
        }
    }

    fn is_same(self, other: Self) -> bool {
        matches!((self, other), (Self::One(one), Self::One(another)) if one == another)
    }
}

impl Failures {
    /// One more; `None` for a failure that no request of a client can bring about.
    #[must_use]
    pub fn and(self, client: Option<ClientKey>) -> Self {
        Self {
            number: self.number.saturating_add(1),
            network: self.network.and(client.map(|client| client.network)),
            subject: self.subject.and(client.and_then(|client| client.subject)),
        }
    }

    /// How many there are.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Whether all of these and all of `other` are of one network or of one account: then they may be that client's
    /// doing.
    #[must_use]
    pub fn are_of_the_client_of(&self, other: &Self) -> bool {
        self.network.is_same(other.network) || self.subject.is_same(other.subject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_one_clients_only_while_nobody_elses_are_among_them() {
        let run = |clients: &[Option<(u64, Option<u64>)>]| {
            let key = |(network, subject)| ClientKey { network, subject };
            clients.iter().fold(Failures::default(), |all, client| all.and(client.map(key)))
        };
        let alone = run(&[Some((1, Some(7))), Some((1, Some(7)))]);
        assert_eq!(alone.number(), 2);
        for (what, other, expected) in [
            ("the same client", vec![Some((1, Some(7)))], true),
            ("another account from the same network", vec![Some((1, Some(8)))], true),
            ("the same account from elsewhere", vec![Some((2, Some(7))), Some((3, Some(7)))], true),
            ("without credentials from the same network", vec![Some((1, None))], true),
            ("another client", vec![Some((2, Some(8)))], false),
            ("another client among them", vec![Some((1, Some(7))), Some((2, Some(8)))], false),
            ("nobody's request", vec![Some((1, Some(7))), None], false),
            ("nothing yet", vec![], false),
        ] {
            assert_eq!(alone.are_of_the_client_of(&run(&other)), expected, "{what}");
        }
        let anonymous = run(&[Some((1, None)), Some((2, None))]);
        let others = run(&[Some((3, None)), Some((4, None))]);
        assert!(!anonymous.are_of_the_client_of(&others), "clients without credentials are not one account");
    }
}
