//! A scripted member, for answers that no stock registry gives on demand: a real HTTP/1.1 server on a port of its own that answers
//! what the test's script says and keeps what it was asked. `GET /v2/` of the gateway's probes is answered 200 unless the script
//! says otherwise, and is not kept.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// One request as it arrived. Its body is filled while it arrives.
#[derive(Debug, Clone)]
pub(crate) struct Recorded {
    pub(crate) method: String,
    /// Path and query as they arrived.
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) complete: bool,
}

impl Recorded {
    pub(crate) fn is_probe(&self) -> bool {
        self.target == "/v2/"
    }

    /// All values of a header, joined by `, `; `None` where it did not come.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let values: Vec<_> = self
            .headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .collect();
        (!values.is_empty()).then(|| values.join(", "))
    }
}

/// What the script answers to one request.
#[derive(Debug)]
pub(crate) enum Reply {
    /// This, once the request's body has ended.
    Answer(Response<Full<Bytes>>),
    /// Nothing, for as long as the other side waits.
    Silence,
    /// This, once the gate is open.
    Behind(Gate, Response<Full<Bytes>>),
}

/// Holds answers back until it is opened.
#[derive(Debug, Clone)]
pub(crate) struct Gate(watch::Sender<bool>);

impl Gate {
    pub(crate) fn closed() -> Self {
        Self(watch::Sender::new(false))
    }

    /// One that holds nothing up.
    pub(crate) fn opened() -> Self {
        Self(watch::Sender::new(true))
    }

    pub(crate) fn open(&self) {
        self.0.send_replace(true);
    }

    /// The same answer, but for the time it comes.
    pub(crate) fn holds(&self, reply: Reply) -> Reply {
        match reply {
            Reply::Answer(response) => Reply::Behind(self.clone(), response),
            other => other,
        }
    }
}

/// A blob as docker-registry answers it, parts of it too.
pub(crate) fn blob_answer(request: &Recorded, bytes: &[u8], digest: &str) -> Reply {
    let etag = format!("\"{digest}\"");
    let common = [
        ("etag", etag.as_str()),
        ("docker-content-digest", digest),
        ("accept-ranges", "bytes"),
        ("content-type", "application/octet-stream"),
    ];
    let range = request.header("range").and_then(|range| {
        let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
        let last = last.parse().unwrap_or(bytes.len() - 1);
        Some((first.parse::<usize>().ok()?, usize::min(last, bytes.len() - 1)))
    });
    match range {
        None => answer(200, &common, bytes.to_vec()),
        Some((first, last)) => {
            let said = format!("bytes {first}-{last}/{}", bytes.len());
            let headers: Vec<_> = common.into_iter().chain([("content-range", said.as_str())]).collect();
            answer(206, &headers, bytes[first..=last].to_vec())
        }
    }
}

/// The list of the tags of `a/b`, which has none.
pub(crate) fn no_tags() -> Reply {
    answer(200, &[("content-type", "application/json")], r#"{"name":"a/b","tags":[]}"#)
}

/// An answer with a body and headers.
pub(crate) fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
    let mut response = Response::builder().status(StatusCode::from_u16(status).expect("a status"));
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    Reply::Answer(response.body(Full::new(body.into())).expect("an answer"))
}

type Script = dyn Fn(&Recorded) -> Option<Reply> + Send + Sync;

/// A running fake; stopped on drop.
pub(crate) struct FakeMember {
    url: String,
    seen: Arc<Mutex<Vec<Recorded>>>,
    _tasks: JoinSet<()>,
}

impl FakeMember {
    /// Answers by `script`; what it has no answer for is 404, and a probe is 200.
    pub(crate) async fn start(script: impl Fn(&Recorded) -> Option<Reply> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("a bound socket has an address"));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::new(script), Arc::clone(&seen)));
        Self { url, seen, _tasks: tasks }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Every request but the probes, oldest first.
    pub(crate) fn requests(&self) -> Vec<Recorded> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().filter(|request| !request.is_probe()).cloned().collect()
    }
}

async fn accept(listener: TcpListener, script: Arc<Script>, seen: Arc<Mutex<Vec<Recorded>>>) {
    let mut connections = JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await.expect("a listening socket accepts");
        let (script, seen) = (Arc::clone(&script), Arc::clone(&seen));
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let (script, seen) = (Arc::clone(&script), Arc::clone(&seen));
                async move { Ok::<_, Infallible>(respond(request, &*script, &seen).await) }
            });
            // The gateway may go away whenever it likes.
            drop(http1::Builder::new().serve_connection(TokioIo::new(socket), service).await);
        });
    }
}

async fn respond(
    request: Request<Incoming>,
    script: &Script,
    seen: &Mutex<Vec<Recorded>>,
) -> Response<Full<Bytes>> {
    let lock = || seen.lock().unwrap_or_else(PoisonError::into_inner);
    let (head, mut body) = request.into_parts();
    let recorded = Recorded {
        method: head.method.to_string(),
        target: head.uri.to_string(),
        headers: head.headers,
        body: Vec::new(),
        complete: false,
    };
    let at = {
        let mut seen = lock();
        seen.push(recorded.clone());
        seen.len() - 1
    };
    while let Some(Ok(frame)) = body.frame().await {
        if let Some(data) = frame.data_ref() {
            lock()[at].body.extend_from_slice(data);
        }
    }
    let recorded = {
        let mut seen = lock();
        seen[at].complete = true;
        seen[at].clone()
    };
    let default = if recorded.is_probe() { 200 } else { 404 };
    match script(&recorded).unwrap_or_else(|| answer(default, &[], "{}")) {
        Reply::Answer(response) => response,
        Reply::Silence => std::future::pending().await,
        Reply::Behind(gate, response) => {
            // An error would mean that the gate is gone; this is one of its owners.
            let _ = gate.0.subscribe().wait_for(|open| *open).await;
            response
        }
    }
}
