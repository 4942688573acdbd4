//! The side that takes: sockets that systemd passed, or that the running process gives.

use std::io::{self, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use listenfd::ListenFd;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::wire::SOCKETS_PER_MESSAGE;
use super::{Hello, PROTOCOL, State};

/// The running process answers within this.
const TAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest head of its answer, in bytes.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Largest first message, in bytes.
const HELLO_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Why nothing can be taken over.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// No process is there, or it breaks off.
    #[error("nothing can be taken over from the process at {0}: {1}")]
    Io(PathBuf, #[source] io::Error),
    /// It says no.
    #[error("the process at {0} hands nothing over: {1}")]
    Refused(PathBuf, String),
    /// A socket that systemd passed cannot be used.
    #[error("a socket that the service manager passed cannot be used: {0}")]
    Passed(#[source] io::Error),
}

/// What a process starts with that others have made.
#[derive(Debug, Default)]
pub struct Inheritance {
    /// Sockets by the address of their listener in the configuration.
    listeners: Vec<(SocketAddr, Vec<TcpListener>)>,
    /// The admin listener.
    admin: Option<(SocketAddr, TcpListener)>,
    /// What the process before knew.
    pub state: State,
    /// The connection to the process before.
    predecessor: Option<UnixStream>,
}

impl Inheritance {
    /// The sockets that the service manager passed (`LISTEN_FDS`). To be called before there is
    /// any other thread: it takes the variables out of the environment.
    ///
    /// # Errors
    /// [`InheritError::Passed`].
    pub fn from_service_manager() -> Result<Self, InheritError> {
        let mut passed = ListenFd::from_env();
        let mut inheritance = Self::default();
        for index in 0..passed.len() {
            let socket = passed.take_tcp_listener(index).map_err(InheritError::Passed)?;
            let Some(socket) = socket else { continue };
            let address = socket.local_addr().map_err(InheritError::Passed)?;
            inheritance.listeners.push((address, vec![socket]));
        }
        Ok(inheritance)
    }

    /// Everything that the process at the control socket `path` has.
    ///
    /// # Errors
    /// [`InheritError`]: the process goes on as if nothing had been asked.
    pub fn from_predecessor(path: &Path) -> Result<Self, InheritError> {
        let broken = |error| InheritError::Io(path.to_owned(), error);
        let mut stream = UnixStream::connect(path).map_err(broken)?;
        stream.set_read_timeout(Some(TAKE_TIMEOUT)).map_err(broken)?;
        let request = format!(
            "POST /take-over HTTP/1.1\r\nhost: tidegate\r\nconnection: upgrade\r\nupgrade: {PROTOCOL}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).map_err(broken)?;
        let head = read_until(&mut stream, b"\r\n\r\n", HEAD_BYTES_MAX).map_err(broken)?;
        let head = String::from_utf8_lossy(&head);
        if !head.starts_with("HTTP/1.1 101 ") {
            let status = head.lines().next().unwrap_or_default().to_owned();
            return Err(InheritError::Refused(path.to_owned(), status));
        }
        let hello = read_until(&mut stream, b"\n", HELLO_BYTES_MAX).map_err(broken)?;
        let hello: Hello = serde_json::from_slice(&hello).map_err(|error| broken(error.into()))?;
        let wanted = hello.listeners.iter().map(|(_, sockets)| sockets).sum::<usize>();
        let wanted = wanted + usize::from(hello.admin.is_some());
        let mut sockets = receive(&stream, wanted).map_err(broken)?.into_iter();
        let listeners = hello.listeners.into_iter().map(|(address, number)| {
            (address, sockets.by_ref().take(number).map(TcpListener::from).collect())
        });
        let listeners = listeners.collect();
        let admin = hello.admin.zip(sockets.next().map(TcpListener::from));
        Ok(Self { listeners, admin, state: hello.state, predecessor: Some(stream) })
    }

    /// Whether another process serves meanwhile.
    #[must_use]
    pub fn has_predecessor(&self) -> bool {
        self.predecessor.is_some()
    }

    /// A connection to the process before, to tell it of a failure.
    #[must_use]
    pub fn predecessor(&self) -> Option<UnixStream> {
        self.predecessor.as_ref().and_then(|stream| stream.try_clone().ok())
    }

    /// The sockets of the listener with this address in the configuration; each only once.
    pub fn take(&mut self, address: SocketAddr) -> Vec<TcpListener> {
        let at = self.listeners.iter().position(|(other, _)| *other == address);
        at.map_or_else(Vec::new, |at| self.listeners.remove(at).1)
    }

    /// The socket of the admin listener, if it has this address.
    pub fn take_admin(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let (_, socket) = self.admin.take().filter(|(other, _)| *other == address)?;
        Some(socket)
    }

    /// The sockets that no listener took, which are closed.
    pub fn drop_rest(&mut self) {
        for (address, _) in self.listeners.drain(..) {
            tracing::error!(%address, "a socket was passed that no listener of the configuration has; it is closed");
        }
    }

    /// Tells the process before that this one serves, and waits until it accepts no more.
    pub async fn announce(&mut self) {
        let Some(stream) = self.predecessor.take() else { return };
        let talk = async {
            stream.set_nonblocking(true)?;
            let mut stream = tokio::net::UnixStream::from_std(stream)?;
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"ready\n").await?;
            let mut word = [0; 6];
            tokio::io::AsyncReadExt::read_exact(&mut stream, &mut word).await?;
            io::Result::Ok(())
        };
        match tokio::time::timeout(TAKE_TIMEOUT, talk).await {
            Ok(Ok(())) => tracing::info!("taken over: the process before accepts no more"),
            Ok(Err(error)) => tracing::warn!(%error, "the process before is gone; this one serves"),
            Err(_) => tracing::warn!("the process before does not answer; this one serves as well"),
        }
    }
}

/// Byte by byte: what comes after `end` may have sockets attached, which reading on would lose.
fn read_until(stream: &mut UnixStream, end: &[u8], bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(end) {
        if text.len() >= bytes_max {
            return Err(io::Error::other("the answer is too long"));
        }
        stream.read_exact(&mut byte)?;
        text.push(byte[0]);
    }
    Ok(text)
}

fn receive(stream: &UnixStream, wanted: usize) -> io::Result<Vec<OwnedFd>> {
    let mut sockets = Vec::new();
    while sockets.len() < wanted {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_PER_MESSAGE))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(stream.as_fd(), &mut [IoSliceMut::new(&mut byte)], &mut control, flags)?;
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                sockets.extend(rights);
            }
        }
    }
    Ok(sockets)
}
