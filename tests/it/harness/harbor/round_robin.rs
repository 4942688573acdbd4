//! A plain round robin over nodes, request by request, as an nginx with an `upstream` of two does it: what Tidegate is there to
//! replace.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::HarborNode;
use super::behind::{Behind, ClientBody, Drains};

/// A running balancer; stopped on drop. Made before its nodes, which have its URL as their external one.
#[derive(Debug)]
pub(crate) struct PlainRoundRobin {
    address: SocketAddr,
    listener: Option<std::net::TcpListener>,
    tasks: JoinSet<()>,
}

impl PlainRoundRobin {
    pub(crate) fn reserve() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket that does not block");
        let address = listener.local_addr().expect("a bound socket has an address");
        Self { address, listener: Some(listener), tasks: JoinSet::new() }
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
        self.tasks.spawn(accept(listener, Arc::new((AtomicUsize::new(0), nodes))));
    }
}

async fn accept(listener: TcpListener, nodes: Arc<(AtomicUsize, Vec<Behind>)>) {
    let (mut connections, drains) = (JoinSet::new(), Drains::default());
    loop {
        let (socket, _) = listener.accept().await.expect("a listening socket accepts");
        while connections.try_join_next().is_some() {}
        let (nodes, drains) = (Arc::clone(&nodes), drains.clone());
        connections.spawn(async move {
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let (nodes, drains) = (Arc::clone(&nodes), drains.clone());
                async move {
                    let node = &nodes.1[nodes.0.fetch_add(1, Ordering::Relaxed) % nodes.1.len()];
                    let (head, body) = request.into_parts();
                    let target = head.uri.path_and_query().map_or_else(String::new, ToString::to_string);
                    let body = ClientBody::new(body, drains);
                    Ok::<_, Infallible>(node.forward_or_502((head.method, &target), head.headers, body).await)
                }
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
