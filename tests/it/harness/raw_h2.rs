//! HTTP/2 frame by frame, for clients that no library lets one be: silent ones, half heads, windows that stay shut.

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::Result;
use super::client::TestClient;
use super::wait;

/// What a client sends before its first frame.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// One frame.
#[derive(Debug, Clone)]
pub(crate) struct RawFrame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl RawFrame {
    pub(crate) fn is_ack(&self) -> bool {
        self.flags & ACK != 0
    }
}

/// The bytes of a frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// SETTINGS with this window for every stream.
pub(crate) fn settings(stream_window: u32) -> Vec<u8> {
    let mut payload = vec![0, 4];
    payload.extend(stream_window.to_be_bytes());
    frame(SETTINGS, 0, 0, &payload)
}

/// A header block of literals, none of them indexed.
pub(crate) fn header_block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        block.push(0);
        for text in [name, value] {
            // An integer with a prefix of seven bits (RFC 7541 5.1).
            let mut rest = text.len();
            if rest < 127 {
                block.push(u8::try_from(rest).expect("small"));
            } else {
                block.push(127);
                rest -= 127;
                while rest >= 128 {
                    block.push(u8::try_from(rest % 128 + 128).expect("small"));
                    rest /= 128;
                }
                block.push(u8::try_from(rest).expect("small"));
            }
            block.extend(text.as_bytes());
        }
    }
    block
}

/// An open h2 connection.
pub(crate) struct RawH2 {
    pub(crate) stream: TlsStream<TcpStream>,
    authority: String,
    authorization: Option<String>,
}

impl RawH2 {
    /// The TLS handshake and nothing more.
    pub(crate) async fn silent(client: &TestClient, socket: TcpStream) -> Result<Self> {
        let stream = client.tls_over(socket, Some("h2")).await?;
        ensure!(stream.get_ref().1.alpn_protocol() == Some(b"h2"), "the gateway does not speak h2");
        let (authority, authorization) =
            (client.authority().to_owned(), client.authorization().map(str::to_owned));
        Ok(Self { stream, authority, authorization })
    }

    /// A connection that is ready for requests; the windows of its streams are as given.
    pub(crate) async fn open(client: &TestClient, socket: TcpStream, stream_window: u32) -> Result<Self> {
        let mut connection = Self::silent(client, socket).await?;
        connection.send(PREFACE).await?;
        connection.send(&settings(stream_window)).await?;
        Ok(connection)
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).await?;
        Ok(self.stream.flush().await?)
    }

    /// The head of a request, with this client's host and credential.
    pub(crate) fn head(&self, method: &str, target: &str, further: &[(&str, &str)]) -> Vec<u8> {
        let mut headers = vec![
            (":method", method),
            (":scheme", "https"),
            (":authority", self.authority.as_str()),
            (":path", target),
        ];
        headers.extend(self.authorization.as_deref().map(|value| ("authorization", value)));
        headers.extend(further);
        header_block(&headers)
    }

    /// Sends the head of a request; `flags` beside END_HEADERS.
    pub(crate) async fn request(&mut self, stream: u32, flags: u8, method: &str, target: &str) -> Result<()> {
        let block = self.head(method, target, &[]);
        self.send(&frame(HEADERS, flags | END_HEADERS, stream, &block)).await
    }

    /// Opens a window by so many bytes: of a stream, or of the connection where that is 0.
    pub(crate) async fn open_window(&mut self, stream: u32, bytes: u32) -> Result<()> {
        self.send(&frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes())).await
    }

    /// The next frame. SETTINGS and PING are answered, as every client does.
    pub(crate) async fn next(&mut self) -> Result<RawFrame> {
        let next = self.next_unanswered().await?;
        if matches!(next.kind, SETTINGS | PING) && !next.is_ack() {
            let payload = if next.kind == PING { next.payload.as_slice() } else { &[] };
            self.send(&frame(next.kind, ACK, 0, payload)).await?;
        }
        Ok(next)
    }

    /// The next frame, whatever it is.
    pub(crate) async fn next_unanswered(&mut self) -> Result<RawFrame> {
        let mut head = [0; 9];
        let read = wait::within("a frame", self.stream.read_exact(&mut head)).await;
        read.context("the connection ended")?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        wait::within("a frame's payload", self.stream.read_exact(&mut payload)).await?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Ok(RawFrame { kind: head[3], flags: head[4], stream, payload })
    }
}
