//! Asking a running gateway at its control socket: one question, one JSON answer.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::DEFAULT_CONFIG;
use crate::config;

/// A gateway that is alive answers within this.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Which running gateway.
#[derive(Debug, clap::Args)]
pub(super) struct Running {
    /// The configuration file that the gateway was started with; it says where the control socket is
    #[arg(long, short, value_name = "FILE", default_value = DEFAULT_CONFIG, env = "TIDEGATE_CONFIG")]
    config: PathBuf,
    /// The control socket, where no configuration is to be read
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// What came back.
pub(super) struct Reply {
    /// The HTTP status.
    pub(super) status: u16,
    /// The answer.
    pub(super) body: Value,
}

impl Reply {
    /// The answer, or the words of a refusal.
    pub(super) fn into_result(self) -> Result<Value, String> {
        if self.status == 200 {
            return Ok(self.body);
        }
        let said = self.body["error"].as_str().map(str::to_owned);
        Err(said.unwrap_or_else(|| format!("the gateway answered {}", self.status)))
    }
}

impl Running {
    /// The same, after the whole configuration was found usable, if it was read at all.
    pub(super) fn checked_socket(&self) -> Result<PathBuf, String> {
        if self.socket.is_none() {
            config::load(&self.config).map_err(|errors| errors.to_string())?;
        }
        self.socket()
    }

    /// Where its control socket is.
    pub(super) fn socket(&self) -> Result<PathBuf, String> {
        if let Some(socket) = &self.socket {
            return Ok(socket.clone());
        }
        // Certificates do not matter here, and broken ones are no reason to do nothing.
        let loaded = config::load_for_reload(&self.config, &[]).map_err(|errors| {
            format!("{errors}the configuration cannot be used; name the control socket with --socket")
        })?;
        let socket = loaded.config.admin.and_then(|admin| admin.socket);
        socket.ok_or_else(|| {
            format!("{}: `admin.socket` is none, so there is nobody to ask", self.config.display())
        })
    }
}

/// Whether a gateway listens at its control socket.
pub(super) fn is_running(socket: &Path) -> Result<bool, String> {
    match UnixStream::connect(socket) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => Ok(false),
        Err(error) => Err(format!(
            "the control socket {} cannot be asked: {error}; run this as root or as the gateway's user",
            socket.display()
        )),
    }
}

/// Asks, and waits for the answer.
pub(super) fn ask(socket: &Path, method: &str, target: &str) -> Result<Reply, String> {
    ask_patiently(socket, method, target, ANSWER_TIMEOUT)
}

/// Asks what takes its time.
pub(super) fn ask_patiently(
    socket: &Path,
    method: &str,
    target: &str,
    patience: Duration,
) -> Result<Reply, String> {
    let stream = UnixStream::connect(socket).map_err(|error| {
        format!("no gateway answers at {}: {error}; is it running, and are you its user?", socket.display())
    })?;
    let timeouts =
        stream.set_read_timeout(Some(patience)).and_then(|()| stream.set_write_timeout(Some(ANSWER_TIMEOUT)));
    timeouts.map_err(|error| format!("{}: {error}", socket.display()))?;
    talk(stream, "tidegate", method, target).map_err(|problem| format!("{}: {problem}", socket.display()))
}

/// Asks the admin listener, which only reads.
pub(super) fn ask_admin(address: SocketAddr, target: &str) -> Result<Reply, String> {
    let stream = TcpStream::connect_timeout(&address, ANSWER_TIMEOUT)
        .map_err(|error| format!("no gateway answers at {address}: {error}"))?;
    let timeouts = stream
        .set_read_timeout(Some(ANSWER_TIMEOUT))
        .and_then(|()| stream.set_write_timeout(Some(ANSWER_TIMEOUT)));
    timeouts.map_err(|error| format!("{address}: {error}"))?;
    talk(stream, &address.to_string(), "GET", target).map_err(|problem| format!("{address}: {problem}"))
}

fn talk(mut stream: impl Read + Write, host: &str, method: &str, target: &str) -> Result<Reply, String> {
    let mut asked = || -> std::io::Result<Vec<u8>> {
        write!(stream, "{method} {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        (&mut stream).take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
        Ok(answer)
    };
    let answer = asked().map_err(|error| error.to_string())?;
    parse(&answer).ok_or_else(|| "what answers there is no gateway".to_owned())
}

/// Status and JSON body of an answer that ends with its connection.
fn parse(answer: &[u8]) -> Option<Reply> {
    let text = std::str::from_utf8(answer).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some(Reply { status, body: serde_json::from_str(body).ok()? })
}

/// `text` as a value in a query.
pub(super) fn quoted(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}
