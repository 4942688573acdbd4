//! What the gateway answers itself: the ping, the token endpoint, the public keys.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Response};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use jsonwebtoken::jwk::Jwk;

use super::body::ResponseBody;
use super::context::RequestContext;
use super::error::{GatewayError, READ_ONLY};
use super::{Downstream, Gateway};
use crate::auth::credentials::Credentials;
use crate::forwarding::response::API_VERSION;
use crate::random::unix_now;
use crate::registry::{RouteKind, is_read};
use crate::snapshot::Snapshot;
use crate::telemetry::TokenRefusal;
use crate::token_service::{TOKEN_PATHS, TokenParameters, TokenRequestError};

/// Where the public keys of client tokens are.
const JWKS_PATH: &str = "/.well-known/jwks.json";
/// How long the body of a token request may take.
const TOKEN_BODY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// The answer to `GET /v2/` of a client that is logged in.
pub(super) fn pong() -> Response<ResponseBody> {
    json("{}")
}

/// The answer where there is nothing to say.
pub(super) fn no_content() -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = http::StatusCode::NO_CONTENT;
    response.headers_mut().insert(API_VERSION.0, API_VERSION.1);
    response
}

fn json(text: impl Into<Bytes>) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::full(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(API_VERSION.0, API_VERSION.1);
    response
}

impl Gateway {
    /// Everything that is not under `/v2`.
    pub(super) async fn serve_local(
        &self,
        state: &Snapshot,
        down: &Downstream,
        body: &mut Option<Incoming>,
        ctx: &mut RequestContext,
    ) -> Result<Response<ResponseBody>, GatewayError> {
        let path = down.head.uri.path();
        if TOKEN_PATHS.contains(&path) {
            ctx.route = RouteKind::Token;
            let issued = self.serve_token(state, down, body, ctx).await;
            if let Err(GatewayError::Token(error)) = &issued {
                self.metrics.count_token_refusal(refusal(error));
            }
            return issued;
        }
        if path == JWKS_PATH {
            ctx.route = RouteKind::Keys;
            if !is_read(&down.head.method) {
                return Err(GatewayError::MethodNotAllowed(READ_ONLY));
            }
            let entries = state.tokens.ring().verifying(unix_now());
            let keys: Vec<&Jwk> = entries.map(|key| key.jwk()).collect();
            return Ok(json(serde_json::json!({ "keys": keys }).to_string()));
        }
        self.serve_web(state, down, body, ctx).await
    }

    async fn serve_token(
        &self,
        state: &Snapshot,
        down: &Downstream,
        body: &mut Option<Incoming>,
        ctx: &mut RequestContext,
    ) -> Result<Response<ResponseBody>, GatewayError> {
        let header = Credentials::from_headers(&down.head.headers)?;
        let parameters = match down.head.method {
            Method::GET => TokenParameters::from_query(down.head.uri.query().unwrap_or_default(), header),
            Method::POST => {
                if !ctx.connection.credentials_allowed {
                    return Err(TokenRequestError::Plaintext.into());
                }
                let form = read_form(body.take(), self.tokens.settings().request_bytes_max).await?;
                TokenParameters::from_form(&form, header)?
            }
            _ => return Err(GatewayError::MethodNotAllowed("GET, POST")),
        };
        let issued = self.tokens.issue(state, parameters, (down.place(), ctx.connection.peer.ip())).await?;
        ctx.subject = Some(issued.subject().clone());
        ctx.jti = Some(issued.jti().to_owned());
        tracing::debug!(
            request_id = &*ctx.id, subject = %issued.subject(), jti = issued.jti(), granted = issued.granted(),
            "token issued"
        );
        let text = serde_json::to_vec(&issued)
            .map_err(|_| GatewayError::Internal("a token answer cannot be written"))?;
        let mut response = json(text);
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    }
}

async fn read_form(body: Option<Incoming>, bytes_max: usize) -> Result<Bytes, TokenRequestError> {
    let Some(body) = body else { return Ok(Bytes::new()) };
    let collected = tokio::time::timeout(TOKEN_BODY_TIMEOUT, Limited::new(body, bytes_max).collect()).await;
    match collected {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(_)) | Err(_) => Err(TokenRequestError::Body),
    }
}

fn refusal(error: &TokenRequestError) -> TokenRefusal {
    match error {
        TokenRequestError::WrongPassword => TokenRefusal::WrongPassword,
        TokenRequestError::NoCredentials => TokenRefusal::NoCredentials,
        TokenRequestError::Unavailable | TokenRequestError::Key(_) => TokenRefusal::Unavailable,
        TokenRequestError::UnsupportedGrant => TokenRefusal::UnsupportedGrant,
        TokenRequestError::Plaintext => TokenRefusal::PlaintextConnection,
        TokenRequestError::Malformed(_)
        | TokenRequestError::UnknownService(_)
        | TokenRequestError::TooManyScopes(_)
        | TokenRequestError::TooLarge(_)
        | TokenRequestError::Body => TokenRefusal::BadRequest,
    }
}
