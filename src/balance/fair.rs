//! Whose turn it is at a member that has no room for all: while others wait, one client holds no more than its share.

use std::collections::HashMap;

use super::blame::ClientKey;

/// How much each client holds.
#[derive(Debug, Default)]
pub struct Holdings {
    networks: HashMap<u64, usize>,
    subjects: HashMap<u64, usize>,
}

impl Holdings {
    /// One more of this client.
    pub fn add(&mut self, client: ClientKey) {
        *self.networks.entry(client.network).or_default() += 1;
        if let Some(subject) = client.subject {
            *self.subjects.entry(subject).or_default() += 1;
        }
    }

    /// The larger of what a client's network and what its account holds.
    #[must_use]
    pub fn of(&self, client: ClientKey) -> usize {
        let network = self.networks.get(&client.network).copied().unwrap_or_default();
        let subject =
            client.subject.and_then(|subject| self.subjects.get(&subject)).copied().unwrap_or_default();
        network.max(subject)
    }
}

impl FromIterator<ClientKey> for Holdings {
    fn from_iter<I: IntoIterator<Item = ClientKey>>(clients: I) -> Self {
        let mut holdings = Self::default();
        clients.into_iter().for_each(|client| holdings.add(client));
        holdings
    }
}

/// The part of `most` that one client may hold while others wait; at least one.
#[must_use]
pub fn share_of(most: usize, percent: u32) -> usize {
    (most.saturating_mul(percent as usize) / 100).max(1)
}

/// Which of those that wait goes next: the first whose client holds less than its share, or the first of all where
/// every one of them holds its share.
#[must_use]
pub fn next_turn(waiting: impl Iterator<Item = ClientKey>, share: usize, held: &Holdings) -> Option<usize> {
    let mut first = None;
    for (at, client) in waiting.enumerate() {
        first.get_or_insert(at);
        if held.of(client) < share {
            return Some(at);
        }
    }
    first
}

/// Which of those that wait makes room in a full queue for one more of `newcomer`: the last of the client that has the
/// most there, if the newcomer's client would have fewer.
#[must_use]
pub fn gives_way(waiting: &[ClientKey], newcomer: ClientKey) -> Option<usize> {
    let places: Holdings = waiting.iter().copied().collect();
    let (at, client) = waiting.iter().enumerate().max_by_key(|(_, client)| places.of(**client))?;
    let last = waiting.iter().rposition(|other| other == client).unwrap_or(at);
    (places.of(newcomer).saturating_add(1) < places.of(*client)).then_some(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(text: &str) -> Vec<ClientKey> {
        // A letter is a network, its case an account: `a` and `A` share the network.
        let key = |letter: char| ClientKey {
            network: u64::from(u32::from(letter.to_ascii_lowercase())),
            subject: Some(u64::from(u32::from(letter))),
        };
        text.chars().map(key).collect()
    }

    #[test]
    fn one_client_has_no_more_than_its_share_while_others_wait() {
        for (holding, waiting, share, expected) in [
            ("", "", 2, None),
            ("aa", "ab", 2, Some(1)),
            ("a", "ab", 2, Some(0)),
            ("aa", "aa", 2, Some(0)),
            ("aA", "ab", 2, Some(1)),
            ("aabb", "abc", 2, Some(2)),
            ("aabb", "aabb", 2, Some(0)),
            ("aa", "aaaaab", 1, Some(5)),
        ] {
            let held = clients(holding).into_iter().collect();
            let turn = next_turn(clients(waiting).into_iter(), share, &held);
            assert_eq!(turn, expected, "{holding:?} {waiting:?}");
        }
    }

    #[test]
    fn networks_and_accounts_count_and_no_account_is_none() {
        let key = |network, subject| ClientKey { network, subject };
        let holders = [key(1, Some(9)), key(2, Some(9)), key(3, None), key(4, None)];
        for (client, expected) in
            [(key(5, Some(9)), 2), (key(1, None), 1), (key(5, None), 0), (key(3, Some(8)), 1)]
        {
            let held: Holdings = holders.into_iter().collect();
            assert_eq!(held.of(client), expected, "{client:?}");
        }
        for (most, percent, expected) in [(192, 25, 48), (1, 25, 1), (3, 25, 1), (8, 100, 8), (8, 0, 1)] {
            assert_eq!(share_of(most, percent), expected);
        }
    }

    #[test]
    fn a_full_queue_of_one_client_has_room_for_another() {
        for (waiting, newcomer, expected) in [
            ("aaaa", "b", Some(3)),
            ("aaab", "b", Some(2)),
            ("aabb", "b", None),
            ("aaaa", "a", None),
            ("abcd", "e", None),
            ("abaa", "c", Some(3)),
        ] {
            let newcomer = clients(newcomer)[0];
            assert_eq!(gives_way(&clients(waiting), newcomer), expected, "{waiting}");
        }
    }
}
