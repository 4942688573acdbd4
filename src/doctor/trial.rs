//! Trying a credential at a member, and the address that a Harbor node names itself by.

use std::sync::Arc;

use http::header::HOST;
use http::{HeaderValue, StatusCode};

use super::facts;
use super::finding::{Code, Finding};
use super::patient::Patient;
use crate::random::unix_now;
use crate::upstream::{MemberAccess, Question, QuestionError, Reply, TokenCredential};

/// What a member says to a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Acceptance {
    /// It takes it.
    Accepted,
    /// It refuses it.
    Refused,
    /// Neither, and why.
    Unknown(String),
}

impl Acceptance {
    /// What an answer to a question with a credential says of it.
    pub(super) fn of(answer: &Result<Reply, QuestionError>) -> Self {
        match answer {
            Ok(answer) if answer.status == StatusCode::OK => Self::Accepted,
            Ok(answer) if answer.status == StatusCode::UNAUTHORIZED => Self::Refused,
            Ok(answer) => Self::Unknown(format!("the member answered {}", answer.status)),
            Err(_) => Self::Unknown("the member did not answer in time".to_owned()),
        }
    }
}

pub(super) async fn takes(patient: &Patient<'_>, authorization: Option<HeaderValue>) -> Acceptance {
    Acceptance::of(&patient.get("/v2/", authorization.as_ref()).await)
}

/// What a member says to a token that we mint.
pub(super) enum TokenTrial {
    /// It takes it.
    Accepted,
    /// It refuses it.
    Refused,
    /// There is something to say of the key.
    Finding(Finding),
    /// Nothing can be said, and why.
    Unknown(String),
}

/// Asks with a token that we mint, under the key that signs now, and else under older ones.
pub(super) async fn try_token(patient: &Patient<'_>, token: &TokenCredential) -> TokenTrial {
    let Some(key) = token.signing_key(unix_now()) else {
        return TokenTrial::Finding(Finding::error(
            Code::TokenKeyMissing,
            "there is no member key yet to mint tokens with",
            "nothing, before the first start; with several replicas Tidegate does not start",
            "run `tidegate keys generate --config FILE`, then install the bundle of `tidegate keys export-bundle` at the member",
        ));
    };
    let older = token.older_keys(unix_now());
    let older = older.into_iter().filter(|older| older.thumbprint() != key.thumbprint());
    for (at, key) in std::iter::once(Arc::clone(&key)).chain(older).enumerate() {
        let authorization = match token.probe_authorization(&key, &MemberAccess::default(), unix_now()).await
        {
            Ok(authorization) => authorization,
            Err(error) => return TokenTrial::Unknown(format!("no token can be minted: {error}")),
        };
        match takes(patient, Some(authorization)).await {
            Acceptance::Accepted if at == 0 => return TokenTrial::Accepted,
            Acceptance::Accepted => return TokenTrial::Finding(old_key()),
            Acceptance::Refused => {}
            Acceptance::Unknown(why) => return TokenTrial::Unknown(why),
        }
    }
    TokenTrial::Refused
}

fn old_key() -> Finding {
    Finding::warning(
        Code::TokenKeyOld,
        "the member takes tokens under an older member key, and not yet under the one that should sign now",
        "nothing while the older key is kept; when its file is removed, the member refuses everything",
        "install the bundle of `tidegate keys export-bundle` at the member and restart it",
    )
}

/// The address that a node names itself by in its challenge, asked under the name that clients
/// use: from Harbor 2.14 on it is that of the request.
pub(super) async fn challenge_realm(patient: &Patient<'_>) -> Option<String> {
    let url = patient.hosts.url();
    let (_, authority) = url.split_once("://")?;
    let question = Question::get("/v2/").with(HOST, HeaderValue::try_from(authority).ok());
    let answer = patient.ask(question).await.ok()?;
    let challenge = answer.header("www-authenticate")?;
    facts::parameter(challenge, "realm").map(str::to_owned)
}
