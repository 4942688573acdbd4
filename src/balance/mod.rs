//! Which member serves a request: health as a state machine, and the order of candidates. Pure.

pub mod health;

/// What the order of candidates depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Position of the member in its pool.
    pub index: usize,
    /// Requests at the member now.
    pub in_flight: usize,
    /// Its share of the work, at least 1.
    pub weight: u32,
}

/// Orders members by in-flight requests in proportion to their weight, the least loaded first.
/// `seed` decides between equals, so that they take turns.
pub fn order_by_load(loads: &mut [Load], seed: u64) {
    let tie = |load: &Load| {
        // SplitMix64 on the seed and position: equal members come in an order that differs by seed.
        finish(seed.wrapping_add((load.index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    };
    loads.sort_by(|a, b| {
        // a.in_flight + 1 over a.weight against the same of b, without fractions.
        let left = (a.in_flight as u128 + 1) * u128::from(b.weight.max(1));
        let right = (b.in_flight as u128 + 1) * u128::from(a.weight.max(1));
        left.cmp(&right).then_with(|| tie(a).cmp(&tie(b)))
    });
}

/// How much a member wants a key (highest random weight): the one with the most has it. Another
/// member coming or going moves only the keys that it wants most. The same in every gateway.
#[must_use]
pub fn rendezvous(key: &str, member: &str) -> u64 {
    // FNV-1a over both, a separator in between, then SplitMix64's finish.
    let bytes = key.bytes().chain([0]).chain(member.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    finish(hash)
}

fn finish(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(loads: &[(usize, u32)], seed: u64) -> usize {
        let mut loads: Vec<Load> = loads
            .iter()
            .enumerate()
            .map(|(index, (in_flight, weight))| Load { index, in_flight: *in_flight, weight: *weight })
            .collect();
        order_by_load(&mut loads, seed);
        loads[0].index
    }

    #[test]
    fn the_least_loaded_comes_first_in_proportion_to_weight() {
        assert_eq!(first(&[(3, 1), (1, 1), (2, 1)], 0), 1);
        assert_eq!(first(&[(3, 10), (1, 1)], 0), 0);
        assert_eq!(first(&[(19, 10), (1, 1), (1, 2)], 0), 2);
    }

    #[test]
    fn keys_are_spread_evenly_and_only_those_of_a_lost_member_move() {
        let home = |key: &str, members: &[&str]| {
            members.iter().copied().max_by_key(|member| rendezvous(key, member)).map(str::to_owned)
        };
        let keys: Vec<String> = (0..3000).map(|number| format!("project{number}")).collect();
        for member in ["node1", "node2", "node3"] {
            let held = |key: &&String| home(key, &["node1", "node2", "node3"]).as_deref() == Some(member);
            let count = keys.iter().filter(held).count();
            assert!((850..1150).contains(&count), "{member} has {count} of 3000");
        }
        for key in &keys {
            let before = home(key, &["node1", "node2", "node3"]);
            if before.as_deref() != Some("node2") {
                assert_eq!(home(key, &["node1", "node3"]), before, "{key}");
            }
        }
        // Gateways of any build have to agree.
        assert_eq!(home("team", &["node1", "node2", "node3"]).as_deref(), Some("node3"));
    }

    #[test]
    fn equals_take_turns() {
        let mut counts = [0; 3];
        for seed in 0..3000 {
            counts[first(&[(0, 1), (0, 1), (0, 1)], seed)] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }

    #[test]
    fn weights_are_kept_over_many_requests() {
        let mut in_flight = [0_usize; 3];
        for seed in 0..600 {
            let chosen = first(&[(in_flight[0], 1), (in_flight[1], 2), (in_flight[2], 3)], seed);
            in_flight[chosen] += 1;
        }
        for (at, weight) in [1, 2, 3].iter().enumerate() {
            assert!(in_flight[at].abs_diff(100 * weight) <= 3, "{in_flight:?}");
        }
    }
}
