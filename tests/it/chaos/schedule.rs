//! What happens to members and gateway, and when: drawn from a seed. One member always serves, as the gateway sees it.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, IteratorRandom as _};
use rand::{RngExt as _, SeedableRng as _};
use rustix::process::Signal;
use tokio::time::Instant;

use crate::harness::clients::COMMAND_LIMIT;
use crate::harness::gateway::tidegate;
use crate::harness::process;
use crate::harness::site::Site;
use crate::harness::wait;

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// kill -9, and a restart later.
    Kill(usize),
    /// SIGSTOP, and SIGCONT later.
    Freeze(usize),
    /// One is killed while another is frozen.
    KillAndFreeze(usize, usize),
    /// A restart at once.
    Restart(usize),
    /// SIGHUP to the gateway.
    Reload,
    RotateKeys,
    /// A new process takes over from the gateway that runs.
    Upgrade,
}

/// When which member did not serve.
#[derive(Debug, Clone)]
struct Trouble {
    member: String,
    what: &'static str,
    from: Instant,
    /// `None` while it lasts.
    to: Option<Instant>,
}

/// Everything that has happened so far.
#[derive(Debug)]
pub(super) struct Troubles {
    began: Instant,
    seen: Mutex<Vec<Trouble>>,
}

impl Default for Troubles {
    fn default() -> Self {
        Self { began: Instant::now(), seen: Mutex::default() }
    }
}

impl Troubles {
    fn begin(&self, member: &str, what: &'static str) {
        let (member, from) = (member.to_owned(), Instant::now());
        self.lock().push(Trouble { member, what, from, to: None });
    }

    fn end(&self, member: &str) {
        for trouble in self.lock().iter_mut().filter(|it| it.member == member) {
            trouble.to.get_or_insert_with(Instant::now);
        }
    }

    /// Whether the member was away at any time of a span.
    pub(super) fn met(&self, member: &str, (from, to): (Instant, Instant)) -> bool {
        let overlaps = |it: &Trouble| it.from <= to && it.to.is_none_or(|end| end >= from);
        self.lock().iter().any(|it| it.member == member && overlaps(it))
    }

    pub(super) fn tell(&self) -> String {
        let mut text = String::new();
        for Trouble { member, what, from, to } in self.lock().iter() {
            let at = from.duration_since(self.began);
            let lasted = to.map(|to| to.duration_since(*from));
            writeln!(text, "{at:8.1?} {what} {member} for {lasted:.1?}").expect("a String can be written to");
        }
        text
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Trouble>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Schedule {
    random: StdRng,
    troubles: Arc<Troubles>,
}

impl Schedule {
    pub(super) fn new(seed: u64, troubles: Arc<Troubles>) -> Self {
        Self { random: StdRng::seed_from_u64(seed), troubles }
    }

    /// Lets things happen for about `time`; afterwards all members serve.
    pub(super) async fn run(&mut self, site: &mut Site, time: Duration) {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            let event = self.draw(site.members.len());
            self.perform(site, event).await;
            self.pause(100..900).await;
        }
    }

    fn draw(&mut self, members: usize) -> Event {
        let random = &mut self.random;
        let two = (0..members).sample(random, 2);
        let events = [
            Event::Kill(two[0]),
            Event::Kill(two[0]),
            Event::Freeze(two[0]),
            Event::Freeze(two[0]),
            Event::KillAndFreeze(two[0], two[1]),
            Event::Restart(two[0]),
            Event::Reload,
            Event::RotateKeys,
            Event::Upgrade,
        ];
        *events.choose(random).expect("not empty")
    }

    async fn perform(&mut self, site: &mut Site, event: Event) {
        match event {
            Event::Kill(member) => {
                self.kill(site, member);
                self.pause(200..2500).await;
                self.revive(site, member).await;
            }
            Event::Freeze(member) => {
                self.freeze(site, member);
                self.pause(300..4000).await;
                self.thaw(site, member).await;
            }
            Event::KillAndFreeze(killed, frozen) => {
                self.freeze(site, frozen);
                self.kill(site, killed);
                self.pause(300..3000).await;
                self.thaw(site, frozen).await;
                self.revive(site, killed).await;
            }
            Event::Restart(member) => {
                self.kill(site, member);
                self.revive(site, member).await;
            }
            Event::Reload => site.gateway.daemon().signal(Signal::HUP),
            Event::RotateKeys => rotate_keys(site).await,
            Event::Upgrade => upgrade(site).await,
        }
    }

    /// Part of the schedule itself: nothing is waited for.
    async fn pause(&mut self, milliseconds: std::ops::Range<u64>) {
        let time = Duration::from_millis(self.random.random_range(milliseconds));
        tokio::time::sleep(time).await;
    }

    fn kill(&self, site: &mut Site, member: usize) {
        self.troubles.begin(site.members[member].name(), "killed");
        site.members[member].kill();
    }

    async fn revive(&self, site: &mut Site, member: usize) {
        site.members[member].restart().await;
        self.is_back(site, member).await;
    }

    fn freeze(&self, site: &Site, member: usize) {
        self.troubles.begin(site.members[member].name(), "frozen");
        site.members[member].freeze();
    }

    async fn thaw(&self, site: &Site, member: usize) {
        site.members[member].thaw();
        self.is_back(site, member).await;
    }

    /// Only a member that the gateway has taken back lets another one go.
    async fn is_back(&self, site: &Site, member: usize) {
        let name = site.members[member].name().to_owned();
        let label = format!("member=\"{name}\"");
        wait::until(&format!("{name} to be healthy"), async || {
            let metrics = site.gateway.try_metrics().await.ok()?;
            (metrics.sum("tidegate_member_state", &[&label, "state=\"healthy\""]) > 0.5).then_some(())
        })
        .await;
        self.troubles.end(&name);
    }
}

pub(super) async fn upgrade(site: &mut Site) {
    let upgraded = site.gateway.upgrade().await;
    assert!(upgraded.status.success(), "{}{}\n{}", upgraded.stdout, upgraded.stderr, site.gateway.log_tail());
}

/// As an operator does; the gateway sees the new key by itself.
async fn rotate_keys(site: &Site) {
    let keys = site.config.keys_dir();
    let keys = keys.to_str().expect("a readable path");
    let rotated = process::run(tidegate(&["keys", "rotate", "--dir", keys]), COMMAND_LIMIT).await;
    rotated.unwrap_or_else(|error| panic!("{error:#}"));
}
