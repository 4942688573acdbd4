//! Upgrade: another process takes the listening sockets over, and this one ends when its requests
//! have. Until the other is ready nothing has changed for this one.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use crate::handover::{Estate, Heir, State, bequeath};
use crate::proxy::GatewayState;
use crate::registry::{RepositoryName, Tag, UploadId};
use crate::upstream::Member;

/// A new process is ready within this: it has every member probed once.
const READY_TIMEOUT: Duration = Duration::from_secs(100);
/// How often it is looked at whether the new process still runs.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The option by which a new process takes over.
const TAKE_OVER: &str = "--take-over";

/// How this process was started, as far as the next one is started the same way.
#[derive(Debug, Clone)]
pub struct StartedAs {
    executable: PathBuf,
    arguments: Vec<OsString>,
}

impl StartedAs {
    /// To be called at the start: later the file may have been replaced, and its name be another.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn now() -> std::io::Result<Self> {
        let arguments = std::env::args_os().skip(1).filter(|argument| argument != TAKE_OVER);
        Ok(Self { executable: std::env::current_exe()?, arguments: arguments.collect() })
    }

    fn start_again(&self) -> std::io::Result<Child> {
        Command::new(&self.executable).args(&self.arguments).arg(TAKE_OVER).spawn()
    }
}

/// Who asks for an upgrade, to be told the new process's id or why there is none.
pub(super) type Asker = oneshot::Sender<Result<u32, String>>;

/// Where successors come from.
pub(super) struct Succession {
    pub(super) state: GatewayState,
    pub(super) estate: Estate,
    pub(super) started_as: StartedAs,
    /// Connections of processes that want to take over.
    pub(super) offers: mpsc::Receiver<UnixStream>,
    /// Questions to start a process that does.
    pub(super) upgrades: mpsc::Receiver<Asker>,
}

impl Succession {
    /// Until some process is ready to take over. The sockets of this one are then closed but for
    /// those that its own accept loops hold.
    pub(super) async fn run(mut self) -> Heir {
        loop {
            tokio::select! {
                Some(asker) = self.upgrades.recv() => match self.upgrade().await {
                    Ok((heir, pid)) => {
                        // An asker that has gone away finds out by the log.
                        drop(asker.send(Ok(pid)));
                        return heir;
                    }
                    Err(problem) => {
                        tracing::error!(problem, "upgrade failed: this process goes on");
                        drop(asker.send(Err(problem)));
                    }
                },
                Some(stream) = self.offers.recv() => match self.bequeath(stream).await {
                    Ok(heir) => return heir,
                    Err(problem) => tracing::error!(problem, "take-over failed: this process goes on"),
                },
            }
        }
    }

    async fn bequeath(&self, stream: UnixStream) -> Result<Heir, String> {
        tracing::info!("another process takes over");
        let state = state_to_hand_over(&self.state);
        bequeath(stream, &self.estate, state, READY_TIMEOUT).await
    }

    /// Starts this executable anew and hands over to it.
    async fn upgrade(&mut self) -> Result<(Heir, u32), String> {
        let executable = self.started_as.executable.display().to_string();
        let child = self.started_as.start_again();
        let mut child = child.map_err(|error| format!("{executable} cannot be started: {error}"))?;
        let pid = child.id();
        tracing::info!(executable, pid, "upgrade: a new process was started");
        let heir = match self.offer_of(&mut child).await {
            Ok(stream) => self.bequeath(stream).await,
            Err(problem) => Err(problem),
        };
        match heir {
            Ok(heir) => Ok((heir, pid)),
            Err(problem) => {
                // It may have ended by itself.
                drop(child.kill());
                while !has_ended(&mut child) {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                Err(problem)
            }
        }
    }

    /// The connection of the new process.
    async fn offer_of(&mut self, child: &mut Child) -> Result<UnixStream, String> {
        let deadline = tokio::time::sleep(READY_TIMEOUT);
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                Some(stream) = self.offers.recv() => return Ok(stream),
                () = tokio::time::sleep(LOOK_EVERY) => if has_ended(child) {
                    let how = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
                    return Err(format!("the new process ended ({how}); its log says why"));
                },
                () = &mut deadline => return Err(format!("the new process did not ask within {READY_TIMEOUT:?}")),
            }
        }
    }
}

fn has_ended(child: &mut Child) -> bool {
    !matches!(child.try_wait(), Ok(None))
}

/// Goes on with what a process before knew of members and upload sessions.
pub(super) fn take_over(gateway: &GatewayState, state: &State) {
    let topology = gateway.topology.load_full();
    let member = |name: &str| topology.pools.member(name).map(|placed| placed.member);
    state.draining.iter().filter_map(|name| member(name)).for_each(|member| member.set_draining(true));
    for (upload, at, deadline) in &state.uploads {
        if let (Ok(upload), Some(member)) = (UploadId::try_from(upload.as_str()), member(at)) {
            gateway.uploads.seen(&upload, *deadline, member);
        }
    }
    state.returned.iter().filter_map(|name| member(name)).for_each(|member| member.has_returned());
    for (pool, repository, at, tags) in &state.stand_ins {
        let pool = topology.pools.all().iter().find(|it| it.name.as_str() == pool);
        let repository = RepositoryName::try_from(repository.as_str());
        let (Some(pool), Ok(repository), Some(at)) = (pool, repository, member(at)) else { continue };
        let stand_ins = &pool.memory.stand_ins;
        stand_ins.note(&repository, &at.name, None);
        for tag in tags.iter().filter_map(|tag| Tag::try_from(tag.as_str()).ok()) {
            stand_ins.note(&repository, &at.name, Some(&tag));
        }
    }
}

/// What the next process has to know of members and upload sessions.
fn state_to_hand_over(gateway: &GatewayState) -> State {
    let topology = gateway.topology.load_full();
    let names = |wanted: fn(&Member) -> bool| {
        let members = topology.pools.members().filter(|member| wanted(member));
        members.map(|member| member.name.as_str().to_owned()).collect()
    };
    let records = topology.pools.all().iter().flat_map(|pool| {
        let records = pool.memory.stand_ins.some(usize::MAX);
        records.into_iter().map(|(repository, record)| {
            let tags = record.tags.iter().map(|tag| tag.as_str().to_owned()).collect();
            let (pool, member) = (pool.name.as_str().to_owned(), record.member.as_str().to_owned());
            (pool, repository.as_str().to_owned(), member, tags)
        })
    });
    State {
        draining: names(Member::is_draining),
        uploads: gateway.uploads.list(),
        // Homes whose word on tags has to be compared with that of others.
        returned: names(|member| member.returns() > 0),
        stand_ins: records.collect(),
    }
}
