//! The order in which members are tried for one request.
//!
//! First the primary members that serve, then the backups, then those that are known to have this
//! content broken, then those that requests have ejected while their probes are good, and last, for
//! reads of a pool of which too little is left, those that are out.
//! Within each: the order of the request's [`Choice`].

use super::rendezvous::{finish, weighted};

/// Below this share of serving members, in percent, reads also try members that are out, last.
pub const PANIC_PERCENT: u32 = 50;
/// Of two members, the second is taken only if it is so much cheaper; what is less is noise.
const CLEARLY_CHEAPER: f64 = 0.8;
/// A member takes at most this much more than its share of what is under way before the next in the
/// key's order gets it.
const LOAD_BOUND: f64 = 1.25;
/// So much may be under way at a member of any pool: a key does not move for less.
const LOAD_FREE: f64 = 4.0;
/// Times below this, in seconds, are all the same.
const LATENCY_FLOOR: f64 = 0.001;

/// Whether a member may get work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It serves.
    Serves,
    /// Requests failed there, and its probes are good: it is asked before a request is refused.
    LastChoice,
    /// It is out: nothing goes there but, in need, a read.
    Out,
    /// Nothing goes there: it is being drained, or refuses our credential.
    Never,
}

/// When a member is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Always.
    Primary,
    /// Only when no primary member answers.
    Backup,
}

/// What is seen of a member at the moment of a choice.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// Position of the member in its pool.
    pub index: usize,
    /// [`super::key_hash`] of its name.
    pub hash: u64,
    /// Its share of the work; smaller while it starts slowly.
    pub weight: f64,
    /// When it is used.
    pub tier: Tier,
    /// Whether it may get work.
    pub standing: Standing,
    /// What is under way there: requests, and bytes in units of a request.
    pub load: f64,
    /// Its time to the first byte, in seconds, peaks counted.
    pub latency: f64,
    /// Whether it is known to have this content broken.
    pub quarantined: bool,
}

/// What decides between members that serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The cheaper of two that are drawn: latency times what is under way.
    Cheapest,
    /// The one that wants this key ([`super::key_hash`]) most, unless it has too much to do: the
    /// same content then comes from the same member's page cache.
    Key(u64),
}

/// The members to try, first to last, as positions in their pool. `reads` says whether the request
/// changes nothing; `seed` draws.
#[must_use]
pub fn order(seen: &[Seen], choice: Choice, reads: bool, panic_percent: u32, seed: u64) -> Vec<usize> {
    let (mut primary, mut backup) = (Vec::with_capacity(seen.len()), Vec::new());
    let (mut quarantined, mut last, mut out) = (Vec::new(), Vec::new(), Vec::new());
    let (mut primaries, mut serving) = (0, 0);
    for member in seen {
        let is_primary = member.tier == Tier::Primary;
        primaries += u64::from(is_primary);
        match member.standing {
            Standing::Serves => {
                serving += u64::from(is_primary);
                if member.quarantined {
                    quarantined.push(*member);
                } else if is_primary {
                    primary.push(*member);
                } else {
                    backup.push(*member);
                }
            }
            Standing::LastChoice => last.push(*member),
            Standing::Out => out.push(*member),
            Standing::Never => {}
        }
    }
    let panics = reads && serving * 100 < primaries * u64::from(panic_percent);
    if !panics {
        out.clear();
    }
    let mut order = Vec::with_capacity(seen.len());
    for mut group in [primary, backup, quarantined, last, out] {
        arrange(&mut group, choice, seed);
        order.extend(group.iter().map(|member| member.index));
    }
    order
}

fn arrange(group: &mut [Seen], choice: Choice, seed: u64) {
    if group.len() < 2 {
        return;
    }
    match choice {
        Choice::Cheapest => {
            let chosen = cheaper_of_two(group, seed);
            group.swap(0, chosen);
            group[1..].sort_by(|a, b| cost(a).total_cmp(&cost(b)));
        }
        Choice::Key(key) => {
            group.sort_by(|a, b| weighted(key, b.hash, b.weight).total_cmp(&weighted(key, a.hash, a.weight)));
            let work: f64 = group.iter().map(|member| member.load).sum::<f64>() + 1.0;
            let weights: f64 = group.iter().map(|member| member.weight).sum();
            let bound = LOAD_BOUND * work / weights;
            let has_room = |member: &Seen| {
                (member.load + 1.0) / member.weight <= bound || member.load < LOAD_FREE * member.weight
            };
            // Stable: who has too much to do comes later, in the key's order too.
            group.sort_by_key(|member| !has_room(member));
        }
    }
}

/// Two are drawn, each as often as its weight says, and the cheaper one is taken. The power of two
/// choices: no herd runs to the member that looks best at the moment.
fn cheaper_of_two(group: &[Seen], seed: u64) -> usize {
    let total: f64 = group.iter().map(|member| member.weight).sum();
    let first = drawn(group, total, finish(seed));
    let second = drawn(group, total, finish(seed ^ 0x9e37_79b9_7f4a_7c15));
    if cost(&group[second]) < cost(&group[first]) * CLEARLY_CHEAPER { second } else { first }
}

fn drawn(group: &[Seen], total: f64, random: u64) -> usize {
    #[expect(clippy::cast_precision_loss, reason = "53 bits decide finely enough")]
    let mut point = (random >> 11) as f64 / (1_u64 << 53) as f64 * total;
    for (at, member) in group.iter().enumerate() {
        point -= member.weight;
        if point < 0.0 {
            return at;
        }
    }
    group.len() - 1
}

fn cost(member: &Seen) -> f64 {
    member.latency.max(LATENCY_FLOOR) * (1.0 + member.load / member.weight)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::key_hash;

    fn members(standings: &[(Tier, Standing)]) -> Vec<Seen> {
        let seen = |(index, (tier, standing)): (usize, &(Tier, Standing))| Seen {
            index,
            hash: key_hash(&format!("node{index}")),
            weight: 1.0,
            tier: *tier,
            standing: *standing,
            load: 0.0,
            latency: 0.0,
            quarantined: false,
        };
        standings.iter().enumerate().map(seen).collect()
    }

    #[test]
    fn backups_and_members_that_are_out_come_last_or_not_at_all() {
        use Standing::{LastChoice, Never, Out, Serves};
        use Tier::{Backup, Primary};
        for (what, standings, reads, expected) in [
            ("backups last", vec![(Backup, Serves), (Primary, Serves)], true, vec![1, 0]),
            ("only backups left", vec![(Backup, Serves), (Primary, Never)], false, vec![0]),
            ("enough is left", vec![(Primary, Serves), (Primary, Out)], true, vec![0]),
            (
                "a read of a pool of which too little is left",
                vec![(Primary, Out), (Primary, Serves), (Primary, Out)],
                true,
                vec![1, 0, 2],
            ),
            (
                "no write goes to a member that is out",
                vec![(Primary, Out), (Primary, Serves), (Primary, Out)],
                false,
                vec![1],
            ),
            ("nobody is left", vec![(Primary, Out), (Primary, Never)], true, vec![0]),
            ("nobody at all", vec![(Primary, Never)], true, vec![]),
            (
                "an ejected member takes writes rather than nobody",
                vec![(Primary, LastChoice)],
                false,
                vec![0],
            ),
            (
                "an ejected member comes after every other",
                vec![(Primary, LastChoice), (Backup, Serves), (Primary, Serves)],
                false,
                vec![2, 1, 0],
            ),
            ("and before one that is out", vec![(Primary, Out), (Primary, LastChoice)], true, vec![1, 0]),
        ] {
            let seen = members(&standings);
            for seed in 0..20 {
                let mut order = order(&seen, Choice::Cheapest, reads, PANIC_PERCENT, seed);
                // Those that are out are in no order of their own.
                if what.starts_with("a read") {
                    order[1..].sort_unstable();
                }
                assert_eq!(order, expected, "{what}");
            }
        }
    }

    #[test]
    fn who_has_the_content_broken_is_asked_after_the_others() {
        let mut seen = members(&[(Tier::Primary, Standing::Serves); 3]);
        seen[1].quarantined = true;
        for key in 0..50 {
            assert_eq!(order(&seen, Choice::Key(key), true, PANIC_PERCENT, 0).last(), Some(&1));
        }
        let before = order(&seen, Choice::Key(7), true, PANIC_PERCENT, 0)[0];
        seen.iter_mut().for_each(|member| member.quarantined = true);
        assert_eq!(order(&seen, Choice::Key(7), true, PANIC_PERCENT, 0).len(), 3);
        assert!(before != 1);
    }

    #[test]
    fn a_key_goes_to_its_member_until_that_one_has_too_much_to_do() {
        let mut seen = members(&[(Tier::Primary, Standing::Serves); 4]);
        let key = key_hash("sha256:abc");
        let home = order(&seen, Choice::Key(key), true, PANIC_PERCENT, 0)[0];
        for seed in 0..20 {
            assert_eq!(order(&seen, Choice::Key(key), true, PANIC_PERCENT, seed)[0], home);
        }
        seen[home].load = 8.0;
        let order = order(&seen, Choice::Key(key), true, PANIC_PERCENT, 0);
        assert_ne!(order[0], home);
        assert_eq!(order.len(), 4, "it may still be asked when the others fail");
    }
}
