//! Reads from a member that begin small and become large only for clients that take much.
//!
//! What was read waits for its client in several places, each with a piece of this size. Large pieces save work on the
//! way, and are what a client that reads nothing costs.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// Bytes of a small read. One less than a power of two, so that hyper does not take it for a full buffer and makes the
/// next one larger.
const SMALL_BYTES: usize = 16 * 1024 - 1;
/// After so many bytes without a pause reads are large.
const LARGE_AFTER_BYTES: usize = 1024 * 1024;
/// A pause: a client that is slow, or the next request.
const PAUSE: Duration = Duration::from_millis(250);

/// A stream whose reads begin small.
#[derive(Debug)]
pub(super) struct Ramped<S> {
    stream: S,
    /// Bytes since the last pause.
    bytes: usize,
    read_at: Instant,
}

impl<S> Ramped<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, bytes: 0, read_at: Instant::now() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Ramped<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let now = Instant::now();
        if now.saturating_duration_since(this.read_at) >= PAUSE {
            this.bytes = 0;
        }
        let before = buf.filled().len();
        let read = if this.bytes >= LARGE_AFTER_BYTES || buf.remaining() <= SMALL_BYTES {
            Pin::new(&mut this.stream).poll_read(cx, buf)
        } else {
            let mut small = ReadBuf::new(buf.initialize_unfilled_to(SMALL_BYTES));
            let read = Pin::new(&mut this.stream).poll_read(cx, &mut small);
            let bytes = small.filled().len();
            buf.advance(bytes);
            read
        };
        if read.is_ready() {
            this.bytes = this.bytes.saturating_add(buf.filled().len() - before);
            this.read_at = now;
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Ramped<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn reads_become_large_with_what_is_taken_and_small_after_a_pause() {
        let (mut member, stream) = tokio::io::duplex(4 * 1024 * 1024);
        member.write_all(&vec![7; 4 * 1024 * 1024]).await.expect("written");
        let mut stream = Ramped::new(stream);
        let mut buffer = vec![0; 64 * 1024];
        let mut total = 0;
        while total < LARGE_AFTER_BYTES {
            assert_eq!(stream.read(&mut buffer).await.expect("read"), SMALL_BYTES);
            total += SMALL_BYTES;
        }
        assert_eq!(stream.read(&mut buffer).await.expect("read"), buffer.len());
        tokio::time::advance(PAUSE).await;
        assert_eq!(stream.read(&mut buffer).await.expect("read"), SMALL_BYTES);
        assert_eq!(stream.read(&mut buffer[..100]).await.expect("read"), 100);
        assert!(buffer.iter().all(|byte| *byte == 7));
    }
}
