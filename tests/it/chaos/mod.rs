//! Chaos: members are killed, frozen and restarted and the gateway is reloaded, upgraded and its keys rotated, all at random, while docker and
//! skopeo pull and push all the time. No pull fails, no byte is wrong, a push fails only with its own member, and afterwards nothing
//! is left over. `make chaos` runs it longer.
//!
//! `TIDEGATE_CHAOS_SEED` chooses what happens, `TIDEGATE_CHAOS_SECONDS` for how long.

mod load;
mod schedule;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::harness::clients::docker::Dockerd;
use crate::harness::gateway::Gateway;
use crate::harness::site::{MemberKind, Site};
use crate::harness::wait;
use load::Load;
use schedule::{Schedule, Troubles};

/// How long it lasts as one test among many.
const SECONDS: u64 = 15;
/// Quick to notice, slow to give a busy member up; idle connections go soon, so that what is left over can be seen.
const SETTINGS: &str = "upstream: { connect_timeout: 2s, first_byte_timeout: 2s, idle_timeout: 1s, body_idle_timeout: 20s, body_stall_timeout: 2s }";
const HEALTH: &str = "{ interval: 500ms, timeout: 5s, rise: 1, fall: 2 }";

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_pull_fails_and_nothing_is_left_over_while_members_die_and_the_gateway_changes() {
    let seed: u64 = setting("TIDEGATE_CHAOS_SEED").unwrap_or_else(rand::random);
    let seconds = setting("TIDEGATE_CHAOS_SECONDS").unwrap_or(SECONDS);
    let kinds = [MemberKind::Open, MemberKind::Basic, MemberKind::Token];
    let mut site = Site::start_with(&kinds, |config| config.health(HEALTH).extra(SETTINGS)).await;
    let dockerd = Dockerd::shared().await;
    // The process that is compared at the end is one that has taken over, too.
    schedule::upgrade(&mut site).await;
    let descriptors = count_descriptors(&site.gateway).await.expect("the gateway runs");
    let troubles = Arc::new(Troubles::default());
    let load = Load::start(&site.endpoint, &dockerd).await;

    let mut schedule = Schedule::new(seed, Arc::clone(&troubles));
    schedule.run(&mut site, Duration::from_secs(seconds)).await;

    let outcome = load.stop().await;
    let problems = outcome.problems(&troubles, &site.members);
    let told = format!("TIDEGATE_CHAOS_SEED={seed}\n{}\n{outcome}", troubles.tell());
    println!("{told}");
    assert!(problems.is_empty(), "{told}\n{}", problems.join("\n"));
    assert!(outcome.pulls() > 0 && outcome.pushes() > 0, "nothing was done: {told}");
    assert_nothing_is_left(&site.gateway, descriptors).await;
    site.gateway.stop_upgraded().await;
    let panics =
        site.gateway.find_log(|line| line["message"].as_str().is_some_and(|text| text.contains("panicked")));
    assert!(panics.is_none(), "{told}\n{panics:?}");
}

/// Open descriptors of the process that serves now: sockets, and whatever else a request could forget.
async fn count_descriptors(gateway: &Gateway) -> Option<usize> {
    let status = gateway.admin().try_get("/status").await.ok()?.try_json().ok()?;
    let directory = Path::new("/proc").join(status["pid"].to_string()).join("fd");
    Some(std::fs::read_dir(directory).ok()?.count())
}

async fn assert_nothing_is_left(gateway: &Gateway, descriptors_before: usize) {
    let gauges =
        ["tidegate_connections", "tidegate_member_requests_in_flight", "tidegate_member_connections"];
    let mut last = Vec::new();
    let gone = wait::try_until(async || {
        let metrics = gateway.try_metrics().await.ok()?;
        last = gauges.iter().map(|name| (*name, metrics.sum(name, &[]))).collect();
        // The scrape is a request of the admin listener, which does not count.
        last.push(("tidegate_requests_in_flight", metrics.sum("tidegate_requests_in_flight", &[])));
        #[expect(clippy::cast_precision_loss, reason = "a process has few descriptors")]
        last.push(("descriptors more than before", {
            (count_descriptors(gateway).await? as f64 - descriptors_before as f64).max(0.0)
        }));
        last.push(("tidegate_panics_total", metrics.sum("tidegate_panics_total", &[])));
        last.iter().all(|(_, value)| *value < 0.5).then_some(())
    })
    .await;
    assert!(gone.is_some(), "left over: {last:?}");
}
