//! What the gateway answers itself: the ping, the token endpoint, the public keys.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Response};
use jsonwebtoken::jwk::Jwk;

use super::arrival::Arrival;
use super::body::ResponseBody;
use super::client_body::ClientBody;
use super::error::{GatewayError, READ_ONLY};
use super::record::RequestRecord;
use crate::auth::credentials::Credentials;
use crate::forwarding::response::API_VERSION;
use crate::random::unix_now;
use crate::registry::{RouteKind, is_read};
use crate::telemetry::{Metrics, TokenRefusal};
use crate::token_service::{
    REQUEST_BYTES_MAX, TOKEN_PATHS, TokenParameters, TokenRequestError, TokenService,
};

/// Where the public keys of client tokens are.
const JWKS_PATH: &str = "/.well-known/jwks.json";
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

/// The gateway's own endpoints.
pub(super) struct Endpoints {
    pub tokens: Arc<TokenService>,
    pub metrics: Arc<Metrics>,
}

impl Endpoints {
    /// The answer of one of them; `None` where the path is none of theirs.
    pub(super) async fn answer(
        &self,
        arrival: &Arrival,
        body: &mut ClientBody,
        record: &mut RequestRecord,
    ) -> Option<Result<Response<ResponseBody>, GatewayError>> {
        let path = arrival.head.uri.path();
        if TOKEN_PATHS.contains(&path) {
            record.note_route(RouteKind::Token);
            let issued = self.issue_token(arrival, body, record).await;
            if let Err(GatewayError::Token(error)) = &issued {
                self.metrics.count_token_refusal(refusal(error));
            }
            return Some(issued);
        }
        if path == JWKS_PATH {
            record.note_route(RouteKind::Keys);
            return Some(public_keys(arrival));
        }
        None
    }

    async fn issue_token(
        &self,
        arrival: &Arrival,
        body: &mut ClientBody,
        record: &mut RequestRecord,
    ) -> Result<Response<ResponseBody>, GatewayError> {
        let (head, connection) = (&arrival.head, &arrival.connection);
        let header = Credentials::from_headers(&head.headers)?;
        let parameters = match head.method {
            Method::GET => TokenParameters::from_query(head.uri.query().unwrap_or_default(), header),
            Method::POST => {
                if !connection.credentials_allowed {
                    return Err(TokenRequestError::Plaintext.into());
                }
                let form = body.form(REQUEST_BYTES_MAX).await.map_err(|_| TokenRequestError::Body)?;
                TokenParameters::from_form(&form, header)?
            }
            _ => return Err(GatewayError::MethodNotAllowed("GET, POST")),
        };
        let (place, source) = (arrival.place(), connection.peer.ip());
        let issued = self.tokens.issue(&arrival.state, parameters, place, source).await?;
        record.subject = Some(issued.subject().clone());
        record.jti = Some(issued.jti().to_owned());
        tracing::debug!(
            request_id = &*record.id, subject = %issued.subject(), jti = issued.jti(), granted = issued.granted(),
            "token issued"
        );
        let text = serde_json::to_vec(&issued)
            .map_err(|_| GatewayError::Internal("a token answer cannot be written"))?;
        let mut response = json(text);
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    }
}

/// The keys under which client tokens can be verified.
fn public_keys(arrival: &Arrival) -> Result<Response<ResponseBody>, GatewayError> {
    if !is_read(&arrival.head.method) {
        return Err(GatewayError::MethodNotAllowed(READ_ONLY));
    }
    let entries = arrival.state.tokens.ring().verifying(unix_now());
    let keys: Vec<&Jwk> = entries.map(|key| key.jwk()).collect();
    Ok(json(serde_json::json!({ "keys": keys }).to_string()))
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
