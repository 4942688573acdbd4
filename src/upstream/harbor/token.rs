//! The token service of a node.

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use http::header::AUTHORIZATION;
use http::{HeaderValue, StatusCode};
use serde::Deserialize;
use tokio::time::Instant;

use crate::registry::{Actions, ResourceAccess};
use crate::upstream::door::{Door, Question};

/// The `service` of Harbor's token service.
const SERVICE: &str = "harbor-registry";

/// A node's token.
#[derive(Debug, Clone)]
pub struct NodeToken {
    /// Ready to send.
    pub authorization: HeaderValue,
    /// Whose it is, as Harbor or its directory writes the name; `None` for an anonymous client's.
    pub subject: Option<String>,
    /// What it grants.
    pub access: Vec<ResourceAccess>,
    /// When it was made, by the node's clock, in seconds since the epoch.
    pub issued_at: u64,
    /// When it ends, by the node's clock, in seconds since the epoch.
    pub expires_at: u64,
}

/// What a node answers to a token request.
#[derive(Debug)]
pub enum TokenAnswer {
    /// A token. Without a subject it proves nothing.
    Token(NodeToken),
    /// 401: without scopes that is how a wrong password is told.
    Refused,
}

#[derive(Deserialize)]
struct TokenResponse {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    sub: String,
    exp: u64,
    #[serde(default)]
    iat: u64,
    #[serde(default)]
    access: Option<Vec<ClaimEntry>>,
}

#[derive(Deserialize)]
struct ClaimEntry {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    #[serde(default)]
    actions: Option<Vec<String>>,
}

impl NodeToken {
    /// What it grants on the resource of `wanted`.
    #[must_use]
    pub fn granted(&self, wanted: &ResourceAccess) -> Actions {
        let entries = self.access.iter().filter(|access| access.resource == wanted.resource);
        entries.fold(Actions::NONE, |all, access| all.union(access.actions))
    }
}

/// Asks a node's token service, without a session: what it says must be about this password alone. Returns with the
/// answer how long the node took for it.
///
/// # Errors
/// Why there was no usable answer, in words.
pub(super) async fn request_token(
    door: &Door,
    authorization: Option<HeaderValue>,
    wanted: &[ResourceAccess],
    deadline: Instant,
) -> Result<(TokenAnswer, Duration), String> {
    let question = Question::get(token_target(wanted)).with(AUTHORIZATION, authorization);
    let reply = door.ask(question, deadline).await.map_err(|error| error.to_string())?;
    let answer = match reply.status {
        StatusCode::OK => {
            let token = read_token(&reply.body);
            TokenAnswer::Token(token.ok_or("its token service gave an answer that is no token")?)
        }
        StatusCode::UNAUTHORIZED => TokenAnswer::Refused,
        status => return Err(format!("its token service answered {status}")),
    };
    Ok((answer, reply.took))
}

/// A token of one of our accounts; `None` when it is refused.
///
/// # Errors
/// Why there was no usable answer, in words.
pub(in crate::upstream) async fn token_of_account(
    door: &Door,
    account: HeaderValue,
    wanted: &[ResourceAccess],
    deadline: Instant,
) -> Result<Option<HeaderValue>, String> {
    let (answer, _) = request_token(door, Some(account), wanted, deadline).await?;
    Ok(match answer {
        TokenAnswer::Token(token) => token.subject.is_some().then_some(token.authorization),
        TokenAnswer::Refused => None,
    })
}

fn token_target(wanted: &[ResourceAccess]) -> String {
    let mut query =
        form_urlencoded::Serializer::for_suffix(String::from("/service/token?"), "/service/token?".len());
    query.append_pair("service", SERVICE);
    for access in wanted {
        query.append_pair("scope", &access.to_string());
    }
    query.finish()
}

fn read_token(body: &[u8]) -> Option<NodeToken> {
    let answer: TokenResponse = serde_json::from_slice(body).ok()?;
    let token = if answer.token.is_empty() { answer.access_token } else { answer.token };
    let payload = BASE64URL_NOPAD.decode(token.split('.').nth(1)?.as_bytes()).ok()?;
    let claims: Claims = serde_json::from_slice(&payload).ok()?;
    let read = |entry: ClaimEntry| {
        let actions = entry.actions.unwrap_or_default();
        ResourceAccess::from_claim(&entry.kind, &entry.name, actions.iter().map(String::as_str))
    };
    let mut authorization = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    authorization.set_sensitive(true);
    Some(NodeToken {
        authorization,
        subject: Some(claims.sub).filter(|sub| !sub.is_empty()),
        access: claims.access.unwrap_or_default().into_iter().filter_map(read).collect(),
        issued_at: claims.iat,
        expires_at: claims.exp,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::RepositoryName;

    fn answer(claims: &serde_json::Value) -> Vec<u8> {
        let token = format!("e30.{}.x", BASE64URL_NOPAD.encode(claims.to_string().as_bytes()));
        serde_json::json!({ "token": token, "access_token": "", "expires_in": 1800 }).to_string().into_bytes()
    }

    #[test]
    fn tokens_are_read_with_and_without_subject_and_actions() {
        let access = serde_json::json!([
            { "type": "repository", "name": "team/app", "actions": ["push", "pull", "scanner-pull"] },
            { "type": "repository", "name": "team/none", "actions": [] },
            { "type": "registry", "name": "catalog", "actions": ["*"] },
        ]);
        let body =
            answer(&serde_json::json!({ "sub": "robot$team+ci", "exp": 20, "iat": 10, "access": access }));
        let token = read_token(&body).expect("a token");
        assert_eq!(token.subject.as_deref(), Some("robot$team+ci"));
        assert_eq!((token.issued_at, token.expires_at), (10, 20));
        let granted = |name: &str| {
            let name = RepositoryName::try_from(name).expect("a name");
            token.granted(&ResourceAccess::repository(name, Actions::ALL))
        };
        assert_eq!(granted("team/app"), Actions::PULL_PUSH);
        assert_eq!(granted("team/none"), Actions::NONE);
        assert_eq!(granted("team/other"), Actions::NONE);
        for claims in
            [serde_json::json!({ "exp": 1, "access": null }), serde_json::json!({ "exp": 1, "sub": "" })]
        {
            assert_eq!(read_token(&answer(&claims)).expect("a token").subject, None);
        }
        for body in [&b"{}"[..], b"", br#"{"token":"x"}"#, br#"{"token":"e30.e30.x"}"#] {
            assert!(read_token(body).is_none(), "{}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn scopes_are_asked_for_each_in_its_own_parameter() {
        let name = RepositoryName::try_from("team/app").expect("a name");
        let wanted = [ResourceAccess::repository(name, Actions::PULL_PUSH)];
        assert_eq!(
            token_target(&wanted),
            "/service/token?service=harbor-registry&scope=repository%3Ateam%2Fapp%3Apull%2Cpush"
        );
        assert_eq!(token_target(&[]), "/service/token?service=harbor-registry");
    }
}
