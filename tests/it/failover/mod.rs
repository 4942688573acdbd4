//! What a client does not notice: members that fail, crowds that want the same, more than a member can take.

mod coalesce;
mod ejection;
mod overload;
mod uploads;

use crate::harness::config::ConfigBuilder;
use crate::harness::fake_member::FakeMember;
use crate::harness::site::Site;

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
