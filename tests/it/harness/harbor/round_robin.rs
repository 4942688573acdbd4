//! A plain round robin over nodes, request by request, as an nginx with an `upstream` of two does it: what Tidegate is there to
//! replace.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::HarborNode;
use super::answer::Answer;
use super::behind::{Behind, ClientBody, Drains};

/// A running balancer; stopped on drop. Made before its nodes, which have its URL as their external one.
#[derive(Debug)]
pub(crate) struct PlainRoundRobin {
    address: SocketAddr,
    listener: Option<std::net::TcpListener>,
    turns: Arc<Turns>,
    tasks: JoinSet<()>,
}

/// Whose turn it is.
#[derive(Debug, Default)]
struct Turns {
    count: AtomicUsize,
    /// Somebody else's request comes while a client has its token and has not used it yet.
    others_come: AtomicBool,
}

impl Turns {
    fn next<'a>(&self, nodes: &'a [Behind]) -> &'a Behind {
        &nodes[self.count.fetch_add(1, Ordering::Relaxed) % nodes.len()]
    }
}

impl PlainRoundRobin {
    pub(crate) fn reserve() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket that does not block");
        let address = listener.local_addr().expect("a bound socket has an address");
        Self { address, listener: Some(listener), turns: Arc::default(), tasks: JoinSet::new() }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Begins to pass requests to `nodes`, each to the next.
    pub(crate) fn start(&mut self, nodes: &[&HarborNode]) {
        let listener = self.listener.take().expect("started once");
        let listener = TcpListener::from_std(listener).expect("a listener of this runtime");
        let nodes: Vec<_> =
            nodes.iter().map(|node| Behind { address: node.address(), authorization: None }).collect();
        self.tasks.spawn(accept(listener, Arc::clone(&self.turns), nodes.into()));
    }

    /// How many requests were passed on so far.
    pub(crate) fn passed(&self) -> usize {
        self.turns.count.load(Ordering::Relaxed)
    }

    /// Whether exactly one request of somebody else takes its turn between every token and its first use.
    pub(crate) fn set_others_come(&self, come: bool) {
        self.turns.others_come.store(come, Ordering::Relaxed);
    }
}

async fn accept(listener: TcpListener, turns: Arc<Turns>, nodes: Arc<[Behind]>) {
    let (mut connections, drains) = (JoinSet::new(), Drains::default());
    loop {
        let (socket, _) = listener.accept().await.expect("a listening socket accepts");
        while connections.try_join_next().is_some() {}
        let (turns, nodes, drains) = (Arc::clone(&turns), Arc::clone(&nodes), drains.clone());
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let (turns, nodes, drains) = (Arc::clone(&turns), Arc::clone(&nodes), drains.clone());
                async move { Ok::<_, Infallible>(pass(&turns, &nodes, request, drains).await) }
            });
            // The client may go away whenever it likes.
            drop(
                http1::Builder::new()
                    .title_case_headers(true)
                    .serve_connection(TokioIo::new(socket), service)
                    .await,
            );
        });
    }
}

async fn pass(turns: &Turns, nodes: &[Behind], request: Request<Incoming>, drains: Drains) -> Answer {
    let (head, body) = request.into_parts();
    let target = head.uri.path_and_query().map_or_else(String::new, ToString::to_string);
    let body = ClientBody::new(body, drains);
    let answer = turns.next(nodes).forward_or_502((head.method, &target), head.headers, body).await;
    if turns.others_come.load(Ordering::Relaxed) && head.uri.path() == "/service/token" {
        let ping = (Method::GET, "/api/v2.0/ping");
        let other = turns.next(nodes).send_bytes(ping, HeaderMap::new(), Bytes::new()).await;
        // It is over before the client has its token.
        let _ = other.into_body().collect().await;
    }
    answer
}
