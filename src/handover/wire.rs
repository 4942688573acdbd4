//! The side that gives: sockets and state over the connection of a successor.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::{Estate, Hello, State};

/// Sockets in one message; the kernel takes 253.
pub(super) const SOCKETS_PER_MESSAGE: usize = 64;
/// The sockets are taken within this.
const GIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest last word of a successor, in bytes.
const WORD_BYTES_MAX: u64 = 8 * 1024;

/// A successor that serves and waits to be told that it does so alone.
#[derive(Debug)]
pub struct Heir(UnixStream);

impl Heir {
    /// Tells it that this process accepts no more.
    pub async fn confirm(mut self) {
        // It serves either way.
        drop(timeout(GIVE_TIMEOUT, self.0.write_all(b"yours\n")).await);
    }
}

/// Gives a successor the sockets, and waits until it is ready.
///
/// # Errors
/// In words, when it is not ready in time, or ends before: then nothing has changed.
pub async fn bequeath(
    mut stream: UnixStream,
    estate: &Estate,
    state: State,
    patience: Duration,
) -> Result<Heir, String> {
    match timeout(GIVE_TIMEOUT, give(&mut stream, estate, state)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(format!("the sockets cannot be handed over: {error}")),
        Err(_) => return Err("the new process does not take the sockets".to_owned()),
    }
    let mut word = Vec::new();
    let read = async {
        loop {
            let mut byte = [0];
            if word.len() as u64 >= WORD_BYTES_MAX || stream.read(&mut byte).await? == 0 || byte == *b"\n" {
                return io::Result::Ok(());
            }
            word.extend_from_slice(&byte);
        }
    };
    match timeout(patience, read).await {
        Ok(Ok(())) if word == b"ready" => Ok(Heir(stream)),
        Ok(Ok(())) if word.is_empty() => Err("the new process ended before it was ready".to_owned()),
        Ok(Ok(())) => Err(String::from_utf8_lossy(&word).into_owned()),
        Ok(Err(error)) => Err(format!("the new process ended before it was ready: {error}")),
        Err(_) => Err(format!("the new process was not ready within {patience:?}")),
    }
}

async fn give(stream: &mut UnixStream, estate: &Estate, state: State) -> io::Result<()> {
    let hello = Hello {
        listeners: estate.listeners.iter().map(|(address, sockets)| (*address, sockets.len())).collect(),
        admin: estate.admin.as_ref().map(|(address, _)| *address),
        state,
    };
    let mut text = serde_json::to_vec(&hello)?;
    text.push(b'\n');
    stream.write_all(&text).await?;
    let listeners = estate.listeners.iter().flat_map(|(_, sockets)| sockets);
    let sockets: Vec<BorrowedFd<'_>> =
        listeners.chain(estate.admin.iter().map(|(_, socket)| socket)).map(AsFd::as_fd).collect();
    for sockets in sockets.chunks(SOCKETS_PER_MESSAGE) {
        stream.writable().await?;
        stream.async_io(Interest::WRITABLE, || send(stream.as_fd(), sockets)).await?;
    }
    Ok(())
}

/// One byte, with the sockets attached to it.
fn send(stream: BorrowedFd<'_>, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_PER_MESSAGE))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(sockets)) {
        return Err(io::Error::other("too many sockets for one message"));
    }
    sendmsg(stream, &[IoSlice::new(b"S")], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}
