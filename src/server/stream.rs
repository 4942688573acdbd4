//! The stream under hyper, which notes what happens on it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::watch::Activity;

/// Encrypted bytes that wait for the socket of a client that has not taken much yet, and of one that has. Many at once
/// save work, and are what a client costs that reads nothing.
const SMALL_BYTES: usize = 16 * 1024;
const LARGE_BYTES: usize = 64 * 1024;
/// What is much.
const LARGE_AFTER_BYTES: u64 = 1024 * 1024;

/// A stream with a TCP socket below it.
pub(super) trait Socket {
    /// The socket.
    fn socket(&self) -> &TcpStream;

    /// Holds at most so many bytes that the socket does not take yet.
    fn hold_at_most(&mut self, bytes: usize);
}

impl Socket for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }

    fn hold_at_most(&mut self, _: usize) {}
}

impl Socket for TlsStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }

    fn hold_at_most(&mut self, bytes: usize) {
        self.get_mut().1.set_buffer_limit(Some(bytes));
    }
}

/// A stream that notes what happens on it.
#[derive(Debug)]
pub(super) struct Watched<S: Socket> {
    stream: S,
    activity: Arc<Activity>,
    /// What is held is still small.
    is_small: bool,
}

impl<S: Socket> Watched<S> {
    /// Watches a stream.
    #[must_use]
    pub(super) fn new(mut stream: S, activity: Arc<Activity>) -> Self {
        stream.hold_at_most(SMALL_BYTES);
        Self { stream, activity, is_small: true }
    }

    fn note_write(&mut self, wrote: &Poll<io::Result<usize>>) {
        if self.is_small && self.activity.written() >= LARGE_AFTER_BYTES {
            self.is_small = false;
            self.stream.hold_at_most(LARGE_BYTES);
        }
        match wrote {
            Poll::Pending => self.activity.write_blocked(),
            Poll::Ready(wrote) => self.activity.write_moved(wrote.as_ref().map_or(0, |bytes| *bytes)),
        }
    }

    fn note_flush(&self, flushed: &Poll<io::Result<()>>) {
        match flushed {
            Poll::Pending => self.activity.write_blocked(),
            Poll::Ready(_) => self.activity.write_moved(0),
        }
    }
}

impl<S: Socket + AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.activity.bytes_came();
        }
        read
    }
}

impl<S: Socket + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note_write(&wrote);
        wrote
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note_write(&wrote);
        wrote
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.note_flush(&flushed);
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The last bytes, among them those that end TLS, may not find their way either.
        self.activity.closes();
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.note_flush(&shut);
        shut
    }
}

impl<S: Socket> Drop for Watched<S> {
    fn drop(&mut self) {
        if self.activity.is_to_be_reset() {
            // Closing then sends RST at once (SO_LINGER with no time). A socket that takes no
            // options is gone already.
            drop(SockRef::from(self.stream.socket()).set_linger(Some(Duration::ZERO)));
        }
    }
}
