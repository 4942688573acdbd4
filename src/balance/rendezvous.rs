//! Highest random weight: every key has an order of members of its own, and another member coming
//! or going moves only the keys that it wants most.

/// How much a member wants a key: the one with the most has it. The same in every gateway.
#[must_use]
pub fn rendezvous(key: &str, member: &str) -> u64 {
    // FNV-1a over both, a separator in between, then SplitMix64's finish.
    finish(key.bytes().chain([0]).chain(member.bytes()).fold(FNV_OFFSET, fnv_1a))
}

/// A key or a member's name as a number, to be hashed once and compared with many.
#[must_use]
pub fn key_hash(text: &str) -> u64 {
    finish(text.bytes().fold(FNV_OFFSET, fnv_1a))
}

/// How much a member of this weight wants a key, both given as [`key_hash`]: the larger, the more.
/// A member of twice the weight has twice the keys (logarithmic method of weighted rendezvous).
pub(super) fn weighted(key: u64, member: u64, weight: f64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "53 bits decide finely enough")]
    let uniform = ((finish(key ^ member.rotate_left(32)) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -weight / uniform.ln()
}

pub(super) fn finish(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

fn fnv_1a(hash: u64, byte: u8) -> u64 {
    (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn weights_are_shares_of_the_keys() {
        let members = [("a", 1.0), ("b", 2.0), ("c", 3.0)];
        let mut counts = [0; 3];
        for key in 0..6000 {
            let key = key_hash(&format!("sha256:{key}"));
            let wants = |at: &usize| weighted(key, key_hash(members[*at].0), members[*at].1);
            let best = (0..3).max_by(|a, b| wants(a).total_cmp(&wants(b))).expect("three members");
            counts[best] += 1;
        }
        for (at, (name, weight)) in members.iter().enumerate() {
            let share = f64::from(counts[at]) / 1000.0;
            assert!((share - weight).abs() < 0.15, "{name}: {counts:?}");
        }
    }
}
