//! Whose requests a member failed: what one client brings about takes out one member at most.

/// Whose request it is, as far as fairness and blame go: the network it comes from and the account that makes it.
/// Both are keyed hashes, so that no client can choose to look like another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientKey {
    /// The client's address; of an IPv6 address its /64.
    pub network: u64,
    /// The account; `None` for clients without credentials, which share nothing but that.
    pub subject: Option<u64>,
}

/// So many clients are remembered of one row of failures.
const CLIENTS_MAX: usize = 64;

/// Failed requests of one member in a row, and whose they were.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Failures {
    number: u32,
    clients: Vec<ClientKey>,
}

impl ClientKey {
    /// Whether both come from one network or are one account.
    #[must_use]
    pub fn is_related(&self, other: &Self) -> bool {
        self.network == other.network || (self.subject.is_some() && self.subject == other.subject)
    }
}

impl Failures {
    /// One more; `None` for a failure that no request of a client can bring about.
    pub fn add(&mut self, client: Option<ClientKey>) {
        self.number = self.number.saturating_add(1);
        if let Some(client) = client
            && self.clients.len() < CLIENTS_MAX
            && !self.clients.contains(&client)
        {
            self.clients.push(client);
        }
    }

    /// How many there are.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Whether a request of this client is among them.
    #[must_use]
    pub fn are_also_of(&self, client: &ClientKey) -> bool {
        self.clients.iter().any(|known| known.is_related(client))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_known_by_its_network_and_by_its_account() {
        let key = |network, subject| ClientKey { network, subject };
        let mut failures = Failures::default();
        for client in [Some(key(1, Some(7))), Some(key(1, Some(7))), Some(key(2, None)), None] {
            failures.add(client);
        }
        assert_eq!((failures.number(), failures.clients.len()), (4, 2));
        for (what, client, expected) in [
            ("the same client", key(1, Some(7)), true),
            ("another account from the same network", key(1, Some(8)), true),
            ("the same account from elsewhere", key(9, Some(7)), true),
            ("an account from a network without credentials", key(2, Some(9)), true),
            ("another client", key(3, Some(8)), false),
            ("another one without credentials", key(3, None), false),
        ] {
            assert_eq!(failures.are_also_of(&client), expected, "{what}");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut failures = Failures::default();
        for network in 0..1000 {
            failures.add(Some(ClientKey { network, subject: None }));
        }
        assert_eq!((failures.number(), failures.clients.len()), (1000, CLIENTS_MAX));
    }
}
