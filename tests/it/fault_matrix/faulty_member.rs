//! A member at the level of bytes: it answers as a stock registry does, but for the one fault that its case gives it, and keeps what
//! it was asked.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::case::{Fault, Operation, Place, WHOLE, WrongLength};
use super::stock::{self, Answer, Request, Storage};
use crate::harness::port::ReservedPort;

/// Pieces that a slow answer comes in.
const DRIPS: usize = 6;
/// Between two of them; six are far below every deadline of the gateway.
const DRIP_PAUSE: Duration = Duration::from_millis(25);

/// One request of the operation under test, as a member saw it.
#[derive(Debug, Clone, Default)]
pub(super) struct Logged {
    pub(super) request: Request,
    pub(super) body_bytes: usize,
    /// Whether the whole request was read.
    pub(super) complete: bool,
    /// The status, where the answer was written to its last byte.
    pub(super) answered: Option<u16>,
}

/// What every connection of a member needs.
struct Script {
    number: usize,
    operation: Operation,
    fault: Option<Fault>,
    /// How long the request's body is.
    request_len: usize,
    armed: AtomicBool,
    storage: Arc<Storage>,
    log: Mutex<Vec<Logged>>,
}

/// A running member; stopped on drop.
pub(super) struct FaultyMember {
    port: ReservedPort,
    script: Arc<Script>,
    tasks: JoinSet<()>,
}

/// Whether the connection goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    GoOn,
    Close,
}

impl FaultyMember {
    /// Starts a member that does everything right until it is armed.
    pub(super) async fn start(
        number: usize,
        (operation, request_len): (Operation, usize),
        fault: Option<Fault>,
        storage: &Arc<Storage>,
    ) -> Self {
        let port = ReservedPort::on_loopback();
        let listener = TcpListener::bind(port.address()).await.expect("the reserved port");
        let script = Arc::new(Script {
            number,
            operation,
            fault,
            request_len,
            armed: AtomicBool::new(false),
            storage: Arc::clone(storage),
            log: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&script)));
        Self { port, script, tasks }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.port.address())
    }

    /// From now on the operation under test meets the fault, and is logged.
    pub(super) async fn arm(&mut self) {
        self.script.armed.store(true, Ordering::SeqCst);
        if self.script.fault == Some(Fault::RefuseConnect) {
            self.tasks.shutdown().await;
        }
    }

    /// From now on it does everything right again.
    pub(super) fn disarm(&self) {
        self.script.armed.store(false, Ordering::SeqCst);
    }

    /// What it was asked while it was armed.
    pub(super) fn log(&self) -> Vec<Logged> {
        self.script.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Script {
    fn is_under_test(&self, request: &Request) -> bool {
        let method = request.method.as_str();
        let (blobs, manifests) = (request.path.contains("/blobs/"), request.path.contains("/manifests/"));
        self.armed.load(Ordering::SeqCst)
            && match self.operation {
                Operation::GetBlob | Operation::GetRange(_) => method == "GET" && blobs,
                Operation::GetByDigest | Operation::GetByTag => method == "GET" && manifests,
                Operation::HeadBlob => method == "HEAD" && blobs,
                Operation::HeadManifest => method == "HEAD" && manifests,
                Operation::UploadStart => method == "POST",
                Operation::Patch => method == "PATCH",
                Operation::PutWhole | Operation::PutLast => method == "PUT" && blobs,
                Operation::PutManifest => method == "PUT" && manifests,
            }
    }

    /// Notes a change of the newest state of one request; nothing where it is not logged.
    fn note(&self, entry: Option<usize>, change: impl FnOnce(&mut Logged)) {
        if let Some(entry) = entry {
            change(&mut self.log.lock().unwrap_or_else(PoisonError::into_inner)[entry]);
        }
    }

    fn begin(&self, request: &Request) -> usize {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.push(Logged { request: request.clone(), ..Logged::default() });
        log.len() - 1
    }
}

async fn accept(listener: TcpListener, script: Arc<Script>) {
    let mut connections = JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await.expect("a listening socket accepts");
        let script = Arc::clone(&script);
        connections.spawn(async move {
            // The gateway may go away whenever it likes.
            drop(serve(socket, &script).await);
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(socket: TcpStream, script: &Script) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut socket = BufReader::new(socket);
    while let Some(request) = read_head(&mut socket).await? {
        if serve_one(&mut socket, script, &request).await? == Fate::Close {
            break;
        }
    }
    Ok(())
}

async fn serve_one(
    socket: &mut BufReader<TcpStream>,
    script: &Script,
    request: &Request,
) -> io::Result<Fate> {
    let under_test = script.is_under_test(request);
    let fault = script.fault.filter(|_| under_test);
    let entry = under_test.then(|| script.begin(request));
    let place = fault.and_then(place_of);
    let stop_at = match place {
        Some(Place::Request(at)) => Some(part(script.request_len, at)),
        _ => None,
    };
    let Some(body) = read_body(socket, script, (request, fault, entry), stop_at).await? else {
        return strike(socket, fault).await;
    };
    script.note(entry, |logged| logged.complete = true);
    if fault == Some(Fault::NeverAnswer) {
        std::future::pending::<()>().await;
    }
    let answer = answer_of(script, request, fault, &body);
    let (status, fate) = (answer.status, deliver(socket, &answer, fault).await?);
    if fate.1 {
        script.note(entry, |logged| logged.answered = Some(status));
    }
    Ok(fate.0)
}

/// Where a fault of the connection strikes.
fn place_of(fault: Fault) -> Option<Place> {
    match fault {
        Fault::Reset(place) | Fault::Stall(place) | Fault::Short(place) | Fault::HalfClose(place) => {
            Some(place)
        }
        Fault::RefuseConnect
        | Fault::NeverAnswer
        | Fault::Corrupt(_)
        | Fault::WrongLength(_)
        | Fault::Status(_)
        | Fault::NotFound
        | Fault::Drip => None,
    }
}

/// That part of `len`, in whole bytes and less than all of them.
fn part(len: usize, thousandths: u16) -> usize {
    (len * usize::from(thousandths) / usize::from(WHOLE)).min(len.saturating_sub(1))
}

fn answer_of(script: &Script, request: &Request, fault: Option<Fault>, body: &[u8]) -> Answer {
    let mut content = script.storage.lock();
    match fault {
        Some(Fault::Status(status)) => return Answer::error(status, "UNKNOWN"),
        Some(Fault::NotFound) => return Answer::error(404, unknown(script.operation)),
        Some(Fault::Corrupt(_)) if matches!(script.operation, Operation::PutWhole | Operation::PutLast) => {
            // It lost a byte on the way to the disk, and says honestly what it has.
            let session = request.session().and_then(|id| content.sessions.get(id));
            let bytes = session.map(|session| session.bytes.clone()).unwrap_or_default();
            return stock::store_blob(&mut content, corrupted(bytes, fault));
        }
        _ => {}
    }
    let mut answer = match script.operation {
        Operation::PutManifest => {
            stock::answer(&mut content, script.number, request, &corrupted(body.to_vec(), fault))
        }
        _ => stock::answer(&mut content, script.number, request, body),
    };
    drop(content);
    if script.operation.answers_with_body() {
        answer.body = corrupted(answer.body, fault);
        if let Some(Fault::WrongLength(wrong)) = fault {
            answer = with_wrong_length(answer, wrong);
        }
    }
    answer
}

fn unknown(operation: Operation) -> &'static str {
    match operation {
        Operation::GetByDigest | Operation::GetByTag | Operation::HeadManifest => "MANIFEST_UNKNOWN",
        Operation::Patch | Operation::PutWhole | Operation::PutLast => "BLOB_UPLOAD_UNKNOWN",
        Operation::UploadStart | Operation::PutManifest => "NAME_UNKNOWN",
        Operation::GetBlob | Operation::GetRange(_) | Operation::HeadBlob => "BLOB_UNKNOWN",
    }
}

fn corrupted(mut bytes: Vec<u8>, fault: Option<Fault>) -> Vec<u8> {
    if let (Some(Fault::Corrupt(at)), false) = (fault, bytes.is_empty()) {
        let at = part(bytes.len(), at);
        bytes[at] ^= 0x20;
    }
    bytes
}

/// The same answer with another `Content-Length`, and a body that fits it or not. Of an empty body nothing can be missing.
fn with_wrong_length(mut answer: Answer, wrong: WrongLength) -> Answer {
    let len = answer.body.len();
    let by = |thousandths| (part(len, thousandths)).max(1);
    match wrong {
        WrongLength::Truncated(off) => {
            answer.length = len.saturating_sub(by(off));
            answer.body.truncate(answer.length);
        }
        WrongLength::Understated(off) => answer.length = len.saturating_sub(by(off)),
        WrongLength::Padded(off) => {
            answer.length = len + by(off);
            answer.body.resize(answer.length, b'x');
        }
        WrongLength::Overstated(off) => answer.length = len + by(off),
    }
    answer
}

/// Writes the answer as far as the fault allows. Also whether all of it was written.
async fn deliver(
    socket: &mut BufReader<TcpStream>,
    answer: &Answer,
    fault: Option<Fault>,
) -> io::Result<(Fate, bool)> {
    let head = answer.head();
    let cut = match fault.and_then(place_of) {
        Some(Place::Head(at)) => Some(part(head.len(), at)),
        Some(Place::Body(at)) => Some(head.len() + part(answer.body.len(), at)),
        Some(Place::End) => Some(head.len() + answer.body.len()),
        Some(Place::Request(_)) | None => None,
    };
    let bytes = [head, answer.body.clone()].concat();
    if fault == Some(Fault::Drip) {
        for piece in bytes.chunks(bytes.len().div_ceil(DRIPS)) {
            socket.write_all(piece).await?;
            tokio::time::sleep(DRIP_PAUSE).await;
        }
        return Ok((Fate::GoOn, true));
    }
    let Some(cut) = cut else {
        socket.write_all(&bytes).await?;
        // What announced another length than it sent cannot be followed by anything.
        let fate = if matches!(fault, Some(Fault::WrongLength(_))) { Fate::Close } else { Fate::GoOn };
        return Ok((fate, true));
    };
    socket.write_all(&bytes[..cut]).await?;
    Ok((strike(socket, fault).await?, cut == bytes.len()))
}

/// Does to the connection what the fault says.
async fn strike(socket: &mut BufReader<TcpStream>, fault: Option<Fault>) -> io::Result<Fate> {
    match fault {
        Some(Fault::Reset(_)) => SockRef::from(socket.get_ref()).set_linger(Some(Duration::ZERO))?,
        Some(Fault::HalfClose(_)) => {
            socket.shutdown().await?;
            // It reads on until the other side has had enough.
            tokio::io::copy(socket, &mut tokio::io::sink()).await?;
        }
        Some(Fault::Stall(_)) => std::future::pending::<()>().await,
        _ => {}
    }
    Ok(Fate::Close)
}

/// The next request's head; `None` where the other side has closed.
async fn read_head(socket: &mut BufReader<TcpStream>) -> io::Result<Option<Request>> {
    let Some(line) = read_line(socket).await? else { return Ok(None) };
    let mut words = line.split(' ');
    let method = words.next().unwrap_or_default().to_owned();
    let target = words.next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let mut request = Request { method, path: path.to_owned(), query, ..Request::default() };
    while let Some(line) = read_line(socket).await?.filter(|line| !line.is_empty()) {
        if let Some((name, value)) = line.split_once(':') {
            request.headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    Ok(Some(request))
}

async fn read_line(socket: &mut BufReader<TcpStream>) -> io::Result<Option<String>> {
    let mut line = String::new();
    let read = socket.read_line(&mut line).await?;
    Ok((read > 0).then(|| line.trim_end().to_owned()))
}

/// Reads the body, up to `stop_at` bytes of it: `None` where it stopped there. What is of an upload goes to its session at once,
/// as in a stock registry; the rest is returned.
async fn read_body(
    socket: &mut BufReader<TcpStream>,
    script: &Script,
    (request, fault, entry): (&Request, Option<Fault>, Option<usize>),
    stop_at: Option<usize>,
) -> io::Result<Option<Vec<u8>>> {
    let chunked = request.headers.contains_key("transfer-encoding");
    let length = request.headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let (mut remaining, mut body) = (if chunked { next_chunk(socket).await? } else { length }, Vec::new());
    while remaining > 0 {
        let allowed = stop_at.map_or(usize::MAX, |stop| stop.saturating_sub(body.len()));
        if allowed == 0 {
            return Ok(None);
        }
        let mut piece = vec![0; remaining.min(16 * 1024).min(allowed)];
        let read = socket.read(&mut piece).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        append(script, request, (&piece[..read], body.len()), fault);
        body.extend_from_slice(&piece[..read]);
        script.note(entry, |logged| logged.body_bytes += read);
        remaining -= read;
        if remaining == 0 && chunked {
            read_line(socket).await?;
            remaining = next_chunk(socket).await?;
        }
    }
    Ok(Some(body))
}

/// The size of the next chunk (RFC 9112 7.1); trailers are read over.
async fn next_chunk(socket: &mut BufReader<TcpStream>) -> io::Result<usize> {
    let line = read_line(socket).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let size = usize::from_str_radix(line.split(';').next().unwrap_or_default(), 16);
    let size = size.map_err(|_| io::ErrorKind::InvalidData)?;
    if size == 0 {
        while read_line(socket).await?.is_some_and(|line| !line.is_empty()) {}
    }
    Ok(size)
}

fn append(script: &Script, request: &Request, (piece, offset): (&[u8], usize), fault: Option<Fault>) {
    let Some(id) = request.session() else { return };
    let mut content = script.storage.lock();
    let Some(session) = content.sessions.get_mut(id).filter(|it| it.member == script.number) else { return };
    session.bytes.extend_from_slice(piece);
    if let (Some(Fault::Corrupt(at)), Operation::Patch) = (fault, script.operation) {
        let at = part(script.request_len, at);
        if (offset..offset + piece.len()).contains(&at) {
            session.bytes[at] ^= 0x20;
        }
    }
}
