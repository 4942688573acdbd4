//! The fault matrix: every way in which a member can fail, for every operation, over h1 and h2, with one to three members of which
//! some are good. The gateway, its members and the client are all in this process. What may happen in each case is in `oracle`.
//!
//! `TIDEGATE_MATRIX_SEED` chooses the list of cases, `TIDEGATE_MATRIX_CASE` one of it, `TIDEGATE_MATRIX_ROUNDS` how often each cell
//! comes in it.

mod case;
mod client;
mod faulty_member;
mod judge;
mod oracle;
mod pace;
mod report;
mod run;
mod stock;

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::Instant;

use case::{Case, draw_all};
use pace::Pace;
use report::Report;
use run::World;

/// `verify.hold`: full bodies up to this are verified before their head leaves.
const HOLD: usize = 64 * 1024;
/// The gateway's deadlines, so short that a stall costs little and so long that a busy member is not taken for a stalled one: the
/// pace of the cases keeps the machine's own delays below them.
const DEADLINES: &str = "connect_timeout: 2s, first_byte_timeout: 1500ms, head_timeout: 6s, finish_timeout: 5s, body_idle_timeout: 2500ms, body_stall_timeout: 1500ms";
/// Cases that run at the same time; most of them only wait for a deadline.
const AT_ONCE: usize = 96;
/// Times that every cell is drawn, with other sizes, places and neighbours.
const ROUNDS: usize = 2;

/// What every gateway is configured with besides its members.
fn settings() -> String {
    format!("upstream: {{ {DEADLINES} }}\nverify: {{ hold: {HOLD} }}")
}

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_of_every_member_keeps_the_promises_of_every_operation() {
    let seed = setting("TIDEGATE_MATRIX_SEED").unwrap_or_else(rand::random);
    let mut cases = draw_all(seed, setting("TIDEGATE_MATRIX_ROUNDS").unwrap_or(ROUNDS));
    let only: Option<usize> = setting("TIDEGATE_MATRIX_CASE");
    cases.retain(|case| only.is_none_or(|only| case.number == only));
    let began = Instant::now();
    let report = run_all(cases).await;
    let summary = report.render(seed, began.elapsed());
    assert!(report.is_clean(), "{summary}");
    assert!(only.is_some() || report.every_cell_was_met(), "{summary}");
}

async fn run_all(cases: Vec<Case>) -> Report {
    let world = Arc::new(World::new().await);
    let pace = Arc::new(Pace::start(AT_ONCE));
    let mut work = JoinSet::new();
    for case in cases {
        let (world, pace) = (Arc::clone(&world), Arc::clone(&pace));
        work.spawn(async move {
            let _turn = pace.turn().await;
            let trial = run::run(world, case.clone()).await;
            (judge::violations(&case, &trial), case, trial)
        });
    }
    let mut report = Report::default();
    while let Some(done) = work.join_next().await {
        let (violations, case, trial) = done.expect("a case ends without a panic");
        report.add(&case, &trial, &violations);
    }
    report
}
