//! Rule 22: HTTP/1.1 and HTTP/2 do the same, and HTTP/2 has its limits.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::fixture::{Hub, bearer_of, hub, push_scope, with_parameter};
use crate::harness::Result;
use crate::harness::client::Answer;
use crate::harness::gateway::ListenerKind;
use crate::harness::image::Blob;

/// A TLS connection that offers these protocols.
async fn connect(address: SocketAddr, authority: &Path, alpn: &[&[u8]]) -> Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    for cert in CertificateDer::pem_file_iter(authority)? {
        roots.add(cert?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let name = ServerName::try_from("127.0.0.1")?;
    Ok(TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(address).await?).await?)
}

/// One open h2 connection.
struct H2 {
    sender: SendRequest<Full<Bytes>>,
    authority: String,
    authorization: String,
    _driver: JoinSet<()>,
}

impl H2 {
    async fn open(hub: &Hub, authorization: String) -> Self {
        let address = hub.site.gateway.address(ListenerKind::Tls);
        let stream = connect(address, &hub.site.endpoint.ca_file, &[b"h2"]).await.expect("a connection");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (sender, driver) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("h2");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { drop(driver.await) });
        Self { sender, authority: hub.authority().to_owned(), authorization, _driver: tasks }
    }

    async fn send(
        &self,
        method: Method,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer> {
        let uri = format!("https://{}{target}", self.authority);
        let mut request = Request::builder().method(method).uri(uri);
        if !self.authorization.is_empty() {
            request = request.header("authorization", &self.authorization);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(body)))?;
        let (head, body) = self.sender.clone().send_request(request).await.context("no answer")?.into_parts();
        let body = body.collect().await.context("the body broke off")?.to_bytes();
        Ok(Answer { request: target.to_owned(), status: head.status, headers: head.headers, body })
    }
}

#[tokio::test]
async fn rule_22_both_protocols_are_offered_and_the_client_chooses() {
    let hub = hub().await;
    let address = hub.site.gateway.address(ListenerKind::Tls);
    for (offered, chosen) in [
        (&[&b"h2"[..], b"http/1.1"][..], Some(&b"h2"[..])),
        (&[&b"http/1.1"[..]], Some(b"http/1.1")),
        (&[], None),
    ] {
        let stream = connect(address, &hub.site.endpoint.ca_file, offered).await.expect("a connection");
        assert_eq!(stream.get_ref().1.alpn_protocol(), chosen);
    }
}

#[tokio::test]
async fn rule_22_login_push_and_pull_work_over_h2_as_over_h1() {
    let hub = hub().await;
    let anonymous = H2::open(&hub, String::new()).await;
    let over_h2 = anonymous.send(Method::GET, "/v2/", &[], b"").await.expect("an answer");
    let over_h1 = hub.nobody().get("/v2/").await;
    for name in ["www-authenticate", "docker-distribution-api-version", "content-type"] {
        assert_eq!(over_h2.header(name), over_h1.header(name), "{name}");
    }
    assert_eq!((over_h2.status, over_h2.error_code()), (over_h1.status, over_h1.error_code()));
    let bob = hub.bob(&[&push_scope("bob/h2")]).await;
    let h2 = H2::open(&hub, bearer_of(&bob)).await;
    let blob = Blob::random(3 << 20);
    let octets = [("content-type", "application/octet-stream")];
    let send = |method, target: String, body| {
        let h2 = &h2;
        async move { h2.send(method, &target, &octets, body).await.expect("an answer") }
    };
    let answer = send(Method::POST, "/v2/bob/h2/blobs/uploads/".to_owned(), &b""[..]).await.is(202);
    let answer = send(Method::PATCH, answer.location(), &blob.bytes[..]).await.is(202);
    let put = with_parameter(&answer.location(), "digest", &blob.digest);
    send(Method::PUT, put, &b""[..]).await.is(201);
    let target = format!("/v2/bob/h2/blobs/{}", blob.digest);
    let over_h2 = send(Method::GET, target.clone(), &b""[..]).await.is(200);
    let over_h1 = bob.get(&target).await.is(200);
    assert!(over_h2.body[..] == blob.bytes[..] && over_h1.body[..] == blob.bytes[..], "other bytes");
    // A smuggled form has no Content-Length over h2.
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let body = format!("mount={}&from=alice/h2", blob.digest);
    let answer = h2.send(Method::POST, "/v2/bob/h2/blobs/uploads/", &form, body.as_bytes()).await;
    super::fixture::assert_oci_error(&answer.expect("an answer"), 400, "UNSUPPORTED");
}

#[tokio::test]
async fn rule_22_h2_has_at_most_100_streams_and_heads_of_64_kib() {
    let hub = hub().await;
    let address = hub.site.gateway.address(ListenerKind::Tls);
    let stream = connect(address, &hub.site.endpoint.ca_file, &[b"h2"]).await.expect("a connection");
    let (sender, mut driver) = h2::client::handshake(stream).await.expect("h2");
    let mut sender = {
        // The server's settings have come once a first answer has.
        let request = Request::get(format!("https://{}/v2/", hub.authority())).body(()).expect("a request");
        let mut sender = sender.ready().await.expect("ready");
        let (answer, _) = sender.send_request(request, true).expect("sent");
        tokio::select! {
            answer = answer => assert_eq!(answer.expect("an answer").status(), StatusCode::UNAUTHORIZED),
            ended = &mut driver => panic!("{ended:?}"),
        }
        sender
    };
    assert_eq!(sender.current_max_send_streams(), 100);
    let large =
        Request::get(format!("https://{}/v2/", hub.authority())).header("x-large", "x".repeat(70_000));
    let (answer, _) = sender.send_request(large.body(()).expect("a request"), true).expect("sent");
    tokio::select! {
        answer = answer => assert_eq!(answer.expect("an answer").status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        ended = &mut driver => panic!("{ended:?}"),
    }
}
