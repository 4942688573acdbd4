//! Simulations over thousands of requests: evenness, least disruption, and no herd.

use super::health::slow_start;
use super::{Choice, PANIC_PERCENT, PeakEwma, Seen, Standing, Tier, key_hash, order};

/// A member of a simulated pool.
#[derive(Debug, Clone)]
struct Simulated {
    weight: f64,
    /// How long a request takes there, in milliseconds.
    takes_ms: u32,
    /// It fails at once; the pool then tells it so by a bad sample, as the gateway does.
    fails: bool,
    latency: PeakEwma,
    /// When each request under way ends.
    ends: Vec<u32>,
    chosen: usize,
}

impl Simulated {
    fn new(weight: f64, takes_ms: u32) -> Self {
        Self { weight, takes_ms, fails: false, latency: PeakEwma::default(), ends: Vec::new(), chosen: 0 }
    }
}

/// The time that a failure counts as, in seconds, as in the gateway.
const FAILURE_COUNTS_AS: f64 = 1.0;

fn seen(members: &[Simulated], now: u32) -> Vec<Seen> {
    let see = |(index, member): (usize, &Simulated)| Seen {
        index,
        hash: key_hash(&format!("node{index}")),
        weight: member.weight,
        tier: Tier::Primary,
        standing: Standing::Serves,
        load: member.ends.len() as f64,
        latency: member.latency.seconds(now),
        quarantined: false,
    };
    members.iter().enumerate().map(see).collect()
}

/// Sends `requests`, `per_ms` apart, and returns how often each member was chosen first.
fn run(
    members: &mut [Simulated],
    requests: u32,
    every_ms: f64,
    choice: impl Fn(u32) -> Choice,
) -> Vec<usize> {
    for number in 0..requests {
        let now = (f64::from(number) * every_ms) as u32;
        for member in members.iter_mut() {
            let latency = member.latency;
            let ended = member.ends.iter().filter(|end| **end <= now).count();
            member.ends.retain(|end| *end > now);
            let takes = f64::from(member.takes_ms) / 1000.0;
            member.latency = (0..ended).fold(latency, |latency, _| latency.with_sample(takes, now));
        }
        for at in order(&seen(members, now), choice(number), true, PANIC_PERCENT, u64::from(number)) {
            let member = &mut members[at];
            member.chosen += 1;
            if member.fails {
                member.latency = member.latency.with_sample(FAILURE_COUNTS_AS, now);
                continue;
            }
            member.ends.push(now + member.takes_ms);
            break;
        }
    }
    members.iter().map(|member| member.chosen).collect()
}

#[test]
fn equal_members_get_equal_work_at_any_load() {
    for every_ms in [0.2, 1.0, 50.0] {
        let mut members = vec![Simulated::new(1.0, 20); 5];
        let chosen = run(&mut members, 10_000, every_ms, |_| Choice::Cheapest);
        assert!(chosen.iter().all(|count| (1700..2300).contains(count)), "{every_ms} ms: {chosen:?}");
    }
}

#[test]
fn work_follows_weights_and_speed() {
    let mut members = [1.0, 2.0, 3.0].map(|weight| Simulated::new(weight, 20)).to_vec();
    let chosen = run(&mut members, 12_000, 1.0, |_| Choice::Cheapest);
    for (at, share) in [2000, 4000, 6000].iter().enumerate() {
        assert!(chosen[at].abs_diff(*share) < share / 5, "{chosen:?}");
    }
    let mut members = vec![Simulated::new(1.0, 10), Simulated::new(1.0, 10), Simulated::new(1.0, 200)];
    let chosen = run(&mut members, 10_000, 1.0, |_| Choice::Cheapest);
    assert!(chosen[2] < 1500, "the slow one gets little: {chosen:?}");
    assert!(chosen[2] > 10, "and is looked at now and then: {chosen:?}");
}

#[test]
fn no_herd_runs_to_a_member_that_fails_fast() {
    let mut members = vec![Simulated::new(1.0, 20); 4];
    members[1].fails = true;
    let chosen = run(&mut members, 10_000, 1.0, |_| Choice::Cheapest);
    assert!(chosen[1] < 1000, "{chosen:?}");
}

#[test]
fn who_starts_slowly_gets_little_at_first() {
    let shares: Vec<usize> = [0, 15_000, 30_000]
        .map(|since| {
            let mut members = vec![Simulated::new(1.0, 20); 3];
            members[0].weight = slow_start(since, 30_000);
            run(&mut members, 6_000, 1.0, |_| Choice::Cheapest)[0]
        })
        .to_vec();
    assert!(shares[0] < 600 && (600..1700).contains(&shares[1]), "{shares:?}");
    assert!((1700..2300).contains(&shares[2]), "{shares:?}");
}

#[test]
fn a_digest_stays_with_its_member_and_only_those_of_a_lost_one_move() {
    let digests: Vec<u64> = (0..2000).map(|number| key_hash(&format!("sha256:{number:064x}"))).collect();
    let all = seen(&vec![Simulated::new(1.0, 20); 5], 0);
    let fewer: Vec<Seen> = all.iter().copied().filter(|member| member.index != 3).collect();
    let (mut moved, mut counts) = (0, [0; 5]);
    for digest in digests {
        let first = |seen: &[Seen]| order(seen, Choice::Key(digest), true, PANIC_PERCENT, 1)[0];
        let (before, after) = (first(&all), first(&fewer));
        counts[before] += 1;
        if before == 3 {
            moved += 1;
        } else {
            assert_eq!(before, after);
        }
    }
    assert!((300..500).contains(&moved), "{moved}");
    assert!(counts.iter().all(|count| (300..500).contains(count)), "{counts:?}");
}

#[test]
fn one_digest_that_everybody_wants_is_spread() {
    let mut members = vec![Simulated::new(1.0, 500); 4];
    let hot = key_hash("sha256:hot");
    let chosen = run(&mut members, 4000, 1.0, |_| Choice::Key(hot));
    // A quarter and a quarter of that more is the bound; who comes last in the key's order has the rest.
    assert!(chosen.iter().all(|count| (100..1300).contains(count)), "{chosen:?}");
    let most = members.iter().map(|member| member.ends.len()).max().unwrap_or_default();
    assert!(most <= 160, "a quarter of 500 under way, and a quarter more: {most}");
}
