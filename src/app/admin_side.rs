//! The admin listener and the control socket of a process, from opening to the end.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::listeners::families;
use super::succession::Asker;
use crate::admin::{Admin, Control, ControlSocket};
use crate::config::Config;
use crate::handover::{Estate, Inheritance};
use crate::server::bind_alone;

/// Answers that are on their way when the process ends get this long.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Opened, then serving, then stopped.
pub(super) struct AdminSide {
    shown: Arc<Admin>,
    listener: Option<TcpListener>,
    socket: Option<ControlSocket>,
    /// Where the control socket of a predecessor is, until this process takes its place.
    socket_to_be: Option<PathBuf>,
    successors: Option<(mpsc::Receiver<UnixStream>, mpsc::Receiver<Asker>)>,
    offers: mpsc::Sender<UnixStream>,
    upgrades: mpsc::Sender<Asker>,
    running: JoinSet<()>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl AdminSide {
    /// Opens what the configuration names. The control socket comes first: that another gateway
    /// runs with these files is the clearest thing to say.
    pub(super) fn open(
        config: &Config,
        shown: Arc<Admin>,
        inheritance: &mut Inheritance,
        estate: &mut Estate,
    ) -> anyhow::Result<Self> {
        // One at a time: a process that comes meanwhile is told so.
        let (offers, from_offers) = mpsc::channel(1);
        let (upgrades, from_upgrades) = mpsc::channel(1);
        let mut side = Self {
            shown,
            listener: None,
            socket: None,
            socket_to_be: None,
            successors: Some((from_offers, from_upgrades)),
            offers,
            upgrades,
            running: JoinSet::new(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let Some(settings) = &config.admin else { return Ok(side) };
        if inheritance.has_predecessor() {
            side.socket_to_be.clone_from(&settings.socket);
        } else {
            side.socket = settings.socket.as_deref().map(ControlSocket::bind).transpose()?;
        }
        let listener = match inheritance.take_admin(settings.address) {
            Some(listener) => listener,
            None => bind_alone(settings.address, families(config, settings.address))
                .with_context(|| format!("listen on {} (admin)", settings.address))?,
        };
        listener.set_nonblocking(true)?;
        estate.admin = Some((settings.address, listener.try_clone().context("share a socket")?));
        let listener = TcpListener::from_std(listener)?;
        tracing::info!(kind = "admin", address = %listener.local_addr()?, "listening");
        side.listener = Some(listener);
        Ok(side)
    }

    /// Takes the place of the predecessor's control socket; it answers from [`Self::serve`] on.
    pub(super) fn succeed(&mut self) -> anyhow::Result<()> {
        if let Some(path) = self.socket_to_be.take() {
            self.socket = Some(ControlSocket::succeed(&path)?);
        }
        Ok(())
    }

    /// Answers from now on.
    pub(super) fn serve(&mut self) {
        if let Some(socket) = self.socket.take() {
            tracing::info!(path = %socket.path().display(), "the control socket is open");
            let control = Arc::new(Control {
                admin: Arc::clone(&self.shown),
                offers: self.offers.clone(),
                upgrades: self.upgrades.clone(),
                tasks: self.tasks.clone(),
            });
            self.running.spawn(control.run(socket, self.stop.clone()));
        }
        if let Some(listener) = self.listener.take() {
            let shown = Arc::clone(&self.shown);
            self.running.spawn(shown.run(listener, self.stop.clone(), self.tasks.clone()));
        }
    }

    /// What asks to succeed this process.
    pub(super) fn successors(&mut self) -> (mpsc::Receiver<UnixStream>, mpsc::Receiver<Asker>) {
        self.successors.take().unwrap_or_else(|| (mpsc::channel(1).1, mpsc::channel(1).1))
    }

    /// Waits until a part of it ends, which none does unasked.
    pub(super) async fn ended(&mut self) -> String {
        match self.running.join_next().await {
            Some(ended) => format!("{ended:?}"),
            None => std::future::pending().await,
        }
    }

    /// Accepts nothing more; what is being answered is answered.
    pub(super) async fn stop_serving(&mut self) {
        self.stop.cancel();
        while self.running.join_next().await.is_some() {}
    }

    /// The end.
    pub(super) async fn end(mut self) {
        self.stop_serving().await;
        self.tasks.close();
        // Who reads slowly is left behind.
        drop(tokio::time::timeout(LAST_ANSWERS, self.tasks.wait()).await);
    }
}
