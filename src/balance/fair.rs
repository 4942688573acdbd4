//! Whose turn it is at a member that has no room for all: while others wait, one client holds no more than its share.

use super::blame::ClientKey;

/// How much one client holds: the larger of what its network and what its account holds.
#[must_use]
pub fn held_by(client: ClientKey, holders: impl Iterator<Item = ClientKey>) -> usize {
    let (mut network, mut subject) = (0, 0);
    for holder in holders {
        network += usize::from(holder.network == client.network);
        subject += usize::from(client.subject.is_some() && holder.subject == client.subject);
    }
    network.max(subject)
}

/// The part of `most` that one client may hold while others wait; at least one.
#[must_use]
pub fn share_of(most: usize, percent: u32) -> usize {
    (most.saturating_mul(percent as usize) / 100).max(1)
}

/// Which of those that wait goes next: the first whose client holds less than its share, or the first of all where
/// every one of them holds its share. `held` is asked once for each client.
pub fn next_turn(
    waiting: impl Iterator<Item = ClientKey>,
    share: usize,
    mut held: impl FnMut(ClientKey) -> usize,
) -> Option<usize> {
    let mut at_their_share: Vec<ClientKey> = Vec::new();
    let mut first = None;
    for (at, client) in waiting.enumerate() {
        first.get_or_insert(at);
        if at_their_share.contains(&client) {
            continue;
        }
        if held(client) < share {
            return Some(at);
        }
        at_their_share.push(client);
    }
    first
}

/// Which of those that wait makes room in a full queue for one more of `newcomer`: the last of the client that has the
/// most there, if the newcomer's client would have fewer.
#[must_use]
pub fn gives_way(waiting: &[ClientKey], newcomer: ClientKey) -> Option<usize> {
    let of = |client: ClientKey| held_by(client, waiting.iter().copied());
    let mut counted: Vec<(ClientKey, usize)> = Vec::new();
    for client in waiting {
        if !counted.iter().any(|(known, _)| known == client) {
            counted.push((*client, of(*client)));
        }
    }
    let (largest, number) = counted.into_iter().max_by_key(|(_, number)| *number)?;
    if of(newcomer).saturating_add(1) >= number {
        return None;
    }
    waiting.iter().rposition(|client| *client == largest)
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
            let holding = clients(holding);
            let mut asked = Vec::new();
            let held = |client| {
                assert!(!asked.contains(&client), "each client is counted once");
                asked.push(client);
                held_by(client, holding.iter().copied())
            };
            let turn = next_turn(clients(waiting).into_iter(), share, held);
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
            assert_eq!(held_by(client, holders.into_iter()), expected, "{client:?}");
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
