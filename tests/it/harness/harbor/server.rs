//! The thread a node lives on, with a runtime of its own, so that a test that blocks does not stall it. A frozen node is this thread
//! stopped: the kernel still accepts, and nothing answers, half sent bodies included.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc as std_mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::answer;
use super::nginx;
use super::node::Node;

/// hyper's own limit on a head, well above nginx's, which is kept by [`nginx`].
const HEAD_BYTES_MAX: usize = 2 << 20;
/// A node's thread is never busy for long: signing a token is the longest it does.
const FREEZE_LIMIT: Duration = Duration::from_secs(10);

enum Command {
    Listen(oneshot::Sender<()>),
    Stop(oneshot::Sender<()>),
    /// Says that it is there, and stops the thread until the other end is dropped.
    Freeze(std_mpsc::Sender<()>, std_mpsc::Receiver<()>),
}

/// Which of a node's two entries a connection came to.
#[derive(Debug, Clone, Copy)]
enum Entry {
    Nginx,
    Core,
}

/// The thread of a node. Ends with it.
#[derive(Debug)]
pub(super) struct Server {
    commands: Option<mpsc::Sender<Command>>,
    thread: Option<JoinHandle<()>>,
    /// Held while the node is frozen.
    frozen: std::sync::Mutex<Option<std_mpsc::Sender<()>>>,
}

impl Server {
    pub(super) fn spawn(node: Arc<Node>, entry: SocketAddr, core: SocketAddr) -> Self {
        let (commands, inbox) = mpsc::channel(8);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(run(
                node,
                [(entry, Entry::Nginx), (core, Entry::Core)],
                inbox,
            ));
        });
        Self { commands: Some(commands), thread: Some(thread), frozen: std::sync::Mutex::new(None) }
    }

    pub(super) async fn listen(&self) {
        let (done, wait) = oneshot::channel();
        self.send(Command::Listen(done)).await;
        wait.await.expect("the node's thread does what it is told");
    }

    /// Resets every connection and listens no more.
    pub(super) async fn stop(&self) {
        let (done, wait) = oneshot::channel();
        self.send(Command::Stop(done)).await;
        // Only now: a frozen node that is killed never answers what it was asked.
        self.thaw();
        wait.await.expect("the node's thread does what it is told");
    }

    async fn send(&self, command: Command) {
        let commands = self.commands.as_ref().expect("there until it is dropped");
        commands.send(command).await.unwrap_or_else(|_| panic!("the node's thread runs"));
    }

    /// Comes back when nothing more is answered.
    pub(super) fn freeze(&self) {
        let ((hold, held), (there, wait)) = (std_mpsc::channel(), std_mpsc::channel());
        let commands = self.commands.as_ref().expect("there until it is dropped");
        commands.try_send(Command::Freeze(there, held)).unwrap_or_else(|_| panic!("the node's thread runs"));
        wait.recv_timeout(FREEZE_LIMIT).expect("the node's thread does what it is told");
        *self.frozen() = Some(hold);
    }

    pub(super) fn thaw(&self) {
        self.frozen().take();
    }

    fn frozen(&self) -> std::sync::MutexGuard<'_, Option<std_mpsc::Sender<()>>> {
        self.frozen.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.thaw();
        self.commands.take();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the thread of a node panicked");
        }
    }
}

async fn run(node: Arc<Node>, entries: [(SocketAddr, Entry); 2], mut commands: mpsc::Receiver<Command>) {
    let mut listening: Option<(CancellationToken, JoinSet<()>)> = None;
    while let Some(command) = commands.recv().await {
        match command {
            Command::Listen(done) => {
                let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
                for (address, entry) in entries {
                    let listener = TcpListener::bind(address).await.expect("the node's own port");
                    tasks.spawn(accept(Arc::clone(&node), listener, entry, stop.clone()));
                }
                listening = Some((stop, tasks));
                let _ = done.send(());
            }
            Command::Stop(done) => {
                stop(&node, listening.take()).await;
                let _ = done.send(());
            }
            // This blocks the only thread of this runtime, and that is what it is for.
            Command::Freeze(there, held) => {
                let _ = there.send(());
                while held.recv().is_ok() {}
            }
        }
    }
    stop(&node, listening.take()).await;
}

async fn stop(node: &Node, listening: Option<(CancellationToken, JoinSet<()>)>) {
    let Some((stop, mut tasks)) = listening else { return };
    stop.cancel();
    while tasks.join_next().await.is_some() {}
    node.drains.abort();
    node.forget();
}

async fn accept(node: Arc<Node>, listener: TcpListener, entry: Entry, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        let socket = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted.expect("a listening socket accepts").0,
        };
        while connections.try_join_next().is_some() {}
        connections.spawn(serve_until(Arc::clone(&node), socket, entry, stop.clone()));
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn serve_until(node: Arc<Node>, socket: TcpStream, entry: Entry, stop: CancellationToken) {
    let _ = socket.set_nodelay(true);
    // Another handle to the same socket, to have it reset when everything else about it is gone.
    let Ok(handle) = socket2::SockRef::from(&socket).try_clone() else { return };
    tokio::select! {
        biased;
        () = stop.cancelled() => {
            let _ = handle.set_linger(Some(Duration::ZERO));
        }
        () = serve(node, socket, entry) => {}
    }
}

async fn serve(node: Arc<Node>, mut socket: TcpStream, entry: Entry) {
    let mut first = [0];
    // A TLS greeting is no HTTP, and nginx says so in HTTP.
    if matches!(socket.peek(&mut first).await, Ok(1)) && first[0] == 0x16 {
        let _ = socket.write_all(answer::nginx_bad_request_bytes().as_bytes()).await;
        return;
    }
    let service = service_fn(move |request| {
        let node = Arc::clone(&node);
        async move {
            Ok::<_, Infallible>(match entry {
                Entry::Nginx => nginx::answer(&node, request).await,
                Entry::Core => nginx::answer_at_core(&node, request).await,
            })
        }
    });
    let mut server = http1::Builder::new();
    server.title_case_headers(true).max_buf_size(HEAD_BYTES_MAX).max_headers(200);
    // The client may go away whenever it likes.
    drop(server.serve_connection(TokioIo::new(socket), service).await);
}
