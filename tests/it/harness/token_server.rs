//! The smallest token service that a stock registry with `auth: token` can live with: one user, who is granted whatever is asked for.
//! It exists to show what one registry alone answers to clients that work with tokens.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::certs::Leaf;
use super::client::basic;
use super::random_secret;

const LIFETIME: Duration = Duration::from_secs(600);

/// A running token service; stopped on drop.
#[derive(Debug)]
pub(crate) struct TokenServer {
    realm: String,
    /// The certificate that a registry is to trust, in PEM.
    certificate: String,
    _tasks: JoinSet<()>,
}

struct Issuer {
    key: EncodingKey,
    certificate: String,
    authorization: String,
}

impl TokenServer {
    pub(crate) const ISSUER: &str = "lone-issuer";
    pub(crate) const SERVICE: &str = "lone-registry";

    /// Starts a service with the server certificate `leaf` that knows one user.
    pub(crate) async fn start(leaf: &Leaf, user: &str, password: &str) -> Self {
        let signing = rcgen::generate_simple_self_signed(vec![Self::ISSUER.to_owned()])
            .expect("a self-signed certificate");
        let issuer = Arc::new(Issuer {
            key: EncodingKey::from_ec_der(signing.signing_key.serialized_der()),
            certificate: data_encoding::BASE64.encode(signing.cert.der()),
            authorization: basic(user, password),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, acceptor(leaf), issuer));
        Self { realm: format!("https://{address}/token"), certificate: signing.cert.pem(), _tasks: tasks }
    }

    pub(crate) fn realm(&self) -> &str {
        &self.realm
    }

    pub(crate) fn certificate(&self) -> &str {
        &self.certificate
    }
}

fn acceptor(leaf: &Leaf) -> TlsAcceptor {
    let chain = CertificateDer::pem_file_iter(&leaf.cert).expect("a certificate file");
    let chain = chain.collect::<Result<Vec<_>, _>>().expect("PEM certificates");
    let key = PrivateKeyDer::from_pem_file(&leaf.key).expect("a key file");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider supports TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a certificate and its key");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, issuer: Arc<Issuer>) {
    let mut connections = JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await.expect("a listening socket accepts");
        let (tls, issuer) = (tls.clone(), Arc::clone(&issuer));
        connections.spawn(async move {
            let Ok(stream) = tls.accept(socket).await else {
                return;
            };
            let answer = service_fn(move |request| {
                std::future::ready(Ok::<_, std::convert::Infallible>(issuer.answer(&request)))
            });
            let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let io = TokioIo::new(stream);
            // A client that goes away has its own way to tell the test.
            if h2 {
                let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(io, answer).await;
            } else {
                let _ = http1::Builder::new().serve_connection(io, answer).await;
            }
        });
    }
}

impl Issuer {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let (status, body) = if request.method() != Method::GET {
            // The token specification's answer of a service without OAuth 2; clients then try GET.
            (StatusCode::NOT_FOUND, json!({}))
        } else if self.knows(request.headers()) {
            (StatusCode::OK, self.token(request.uri().query()))
        } else {
            (StatusCode::UNAUTHORIZED, json!({ "errors": [{ "code": "UNAUTHORIZED", "message": "who?" }] }))
        };
        let mut response = Response::new(Full::from(body.to_string()));
        *response.status_mut() = status;
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        response
    }

    fn knows(&self, headers: &HeaderMap) -> bool {
        headers
            .get(header::AUTHORIZATION)
            .is_some_and(|value| value.as_bytes() == self.authorization.as_bytes())
    }

    fn token(&self, query: Option<&str>) -> Value {
        let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        let scopes = pairs.filter(|(name, _)| name == "scope").map(|(_, scope)| scope.into_owned());
        let access: Vec<_> = scopes.filter_map(|scope| access_of(&scope)).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_secs();
        let claims = json!({
            "iss": TokenServer::ISSUER, "aud": TokenServer::SERVICE, "sub": "alice", "jti": random_secret(),
            "iat": now, "nbf": now - 10, "exp": now + LIFETIME.as_secs(), "access": access,
        });
        let mut header = Header::new(Algorithm::ES256);
        header.x5c = Some(vec![self.certificate.clone()]);
        let token = jsonwebtoken::encode(&header, &claims, &self.key).expect("claims serialise");
        json!({ "token": token, "access_token": token, "expires_in": LIFETIME.as_secs() })
    }
}

/// `repository:a/b:pull,push`
fn access_of(scope: &str) -> Option<Value> {
    let (resource, actions) = scope.rsplit_once(':')?;
    let (kind, name) = resource.split_once(':')?;
    Some(json!({ "type": kind, "name": name, "actions": actions.split(',').collect::<Vec<_>>() }))
}
