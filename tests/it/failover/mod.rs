//! What a client does not notice: members that fail, crowds that want the same, more than a member can take.

mod coalesce;
mod ejection;
mod overload;
mod uploads;

use crate::harness::config::ConfigBuilder;
use crate::harness::fake_member::FakeMember;
use crate::harness::gateway::Gateway;
use crate::harness::site::Site;
use crate::harness::wait;

/// A gateway in front of scripted members without credentials, named `m0`, `m1`, ...
pub(crate) async fn site_of(
    members: &[&FakeMember],
    adjust: impl FnOnce(ConfigBuilder) -> ConfigBuilder,
) -> Site {
    Site::start_with(&[], |config| {
        let named = members.iter().enumerate();
        let config = named.fold(config, |config, (number, member)| {
            config.member_at(&format!("m{number}"), member.url(), "none")
        });
        adjust(config)
    })
    .await
}

/// Waits until a metric is at least this much.
pub(crate) async fn wait_for_metric(gateway: &Gateway, name: &str, labels: &[&str], least: f64) {
    wait::until(&format!("{name} {labels:?} to be {least}"), async || {
        (gateway.metrics().await.sum(name, labels) >= least).then_some(())
    })
    .await;
}
