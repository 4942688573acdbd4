//! The first visit to one member: everything that can be seen of it alone, with GET requests only.

use std::sync::Arc;

use http::header::HOST;
use http::{HeaderValue, StatusCode};

use super::call::{Answer, Failure, Question, Spoken};
use super::clocks;
use super::facts;
use super::finding::{Check, Checkup, Code, Finding};
use super::node;
use super::patient::Patient;
use super::reach;
use crate::random::unix_now;
use crate::upstream::harbor::basic;
use crate::upstream::{Credential, CredentialSettings, MemberAccess, TokenCredential};

/// What the first visit has shown.
pub(super) struct Visit {
    pub(super) checkup: Checkup,
    /// The clock's distance to ours, where the member says the time.
    pub(super) skew: Option<i64>,
    /// The version of a Harbor node, in its own words.
    pub(super) version: Option<String>,
    /// Whether it takes our credential, so that more can be asked.
    pub(super) usable: bool,
}

/// Visits one member.
pub(super) async fn visit(patient: &Patient<'_>) -> Visit {
    let mut visit = Visit { checkup: patient.checkup(), skew: None, version: None, usable: false };
    let Some(first) = first_answer(patient, &mut visit.checkup).await else { return visit };
    visit.skew =
        first.header("date").and_then(clocks::parse_date).map(|date| clocks::skew(date, first.between));
    if !judge_first(patient, &first, &mut visit.checkup) {
        return visit;
    }
    visit.checkup.pass(Check::Reachable);
    match patient.harbor() {
        None => visit.usable = registry_credential(patient, &first, &mut visit.checkup).await,
        Some(harbor) => node::examine(patient, harbor, &mut visit).await,
    }
    match visit.skew {
        Some(skew) => visit.checkup.judge(Check::Clock, clocks::judge(skew)),
        None => visit.checkup.skip(Check::Clock, "its answers have no Date header"),
    }
    visit
}

/// `GET /v2/` without credentials.
async fn first_answer(patient: &Patient<'_>, checkup: &mut Checkup) -> Option<Answer> {
    let url = patient.url();
    match patient.get("/v2/", None).await {
        Ok(answer) => {
            let https = patient.door.is_https();
            if !https && let Some(finding) = reach::judge_plain(&url, &answer) {
                checkup.find(finding);
                return None;
            }
            Some(answer)
        }
        Err(failure) => {
            let spoken: Option<Spoken> = match reach::may_be_mixed_up(&failure) {
                true => Some(patient.door.what_is_spoken().await),
                false => None,
            };
            checkup.find(reach::judge(&failure, &url, &patient.door.expected_name(), spoken));
            None
        }
    }
}

/// Whether what answers can be what the configuration says that it is.
fn judge_first(patient: &Patient<'_>, first: &Answer, checkup: &mut Checkup) -> bool {
    let challenge = first.header("www-authenticate").unwrap_or_default();
    let is_answer =
        first.status == StatusCode::OK || (first.status == StatusCode::UNAUTHORIZED && !challenge.is_empty());
    let url = patient.url();
    if first.status.is_server_error() {
        let problem = format!("{url} answered GET /v2/ with {}", first.status);
        let effect = "the member is taken out; clients do not see it while others are left";
        let fix = "see the member's own log, and that of a proxy in front of it";
        checkup.find(Finding::error(Code::MemberFails, problem, effect, fix));
        return false;
    }
    if !is_answer {
        let problem = format!("{url} answered GET /v2/ with {}, as no registry does", first.status);
        let effect = "the member is taken out";
        let fix = "correct host and port in `url`; what is there may be a web server or another service";
        checkup.find(Finding::error(Code::NotARegistry, problem, effect, fix));
        return false;
    }
    if patient.harbor().is_none() && facts::is_harbor(challenge) {
        checkup.find(Finding::error(
            Code::IsHarbor,
            "the member is a Harbor node, and `kind` says that it is a registry",
            "Harbor's accounts, locks and health are not understood; logins of its users do not work",
            "write `kind: harbor` at the pool or the member, with `harbor: { account: ... }`",
        ));
        return false;
    }
    if patient.harbor().is_some() && !facts::is_harbor(challenge) {
        checkup.find(Finding::error(
            Code::NotHarbor,
            "`kind` says that the member is a Harbor node, and it does not answer like one",
            "probes ask for what only Harbor has, and the member is taken out",
            "remove `kind: harbor`, or correct `url`: it is that of the node's web pages, not of the registry behind them",
        ));
        return false;
    }
    true
}

/// Whether a registry takes what `credential` says.
async fn registry_credential(patient: &Patient<'_>, first: &Answer, checkup: &mut Checkup) -> bool {
    let is_open = first.status == StatusCode::OK;
    if is_open && patient.member.credential.is_configured() {
        checkup.find(Finding::warning(
            Code::MemberOpen,
            "the member serves everybody without the credential that is configured for it",
            "whoever reaches it past Tidegate can pull and push without a password",
            "switch the member's authentication on, or set `credential: none` and keep its network closed",
        ));
    }
    match judge_credential(patient, first).await {
        Ok(finding) => {
            let usable = finding.as_ref().is_none_or(|finding| finding.code == Code::TokenKeyOld);
            checkup.judge(Check::Credential, finding);
            usable
        }
        Err(because) => {
            checkup.skip(Check::Credential, because);
            false
        }
    }
}

/// What is wrong with the credential; `Err` where that cannot be said.
async fn judge_credential(patient: &Patient<'_>, first: &Answer) -> Result<Option<Finding>, String> {
    let challenge = first.header("www-authenticate").unwrap_or_default();
    match (&patient.settings.credential, &patient.member.credential) {
        (CredentialSettings::Basic(account), _) => match takes(patient, basic(account)).await {
            Said::Yes => Ok(None),
            Said::Nothing(why) => Err(why),
            Said::No => Ok(Some(Finding::error(
                Code::CredentialRefused,
                format!("the member refuses the name or password of `credential.basic` ({:?})", account.user),
                OUT,
                "correct `credential.basic`, or the member's htpasswd file, which has to hold bcrypt hashes",
            ))),
        },
        (CredentialSettings::Token(settings), Credential::Token(token)) => {
            match try_token(patient, token).await {
                Minted::Taken => Ok(None),
                Minted::Finding(finding) => Ok(Some(finding)),
                Minted::Unknown(why) => Err(why),
                Minted::Refused => Ok(Some(token_refusal(challenge, &settings.audience, &settings.issuer))),
            }
        }
        (CredentialSettings::None, _) if first.status != StatusCode::OK => Ok(Some(missing(challenge))),
        _ => Ok(None),
    }
}

const OUT: &str =
    "the member is taken out with the state credential_fault; clients do not see it while others are left";

fn missing(challenge: &str) -> Finding {
    let fix = if facts::is_basic(challenge) {
        "set `credential: { basic: { user: NAME, password: { file: PATH } } }` at the member".to_owned()
    } else {
        let service = facts::parameter(challenge, "service").unwrap_or("SERVICE");
        format!(
            "set `credential: {{ token: {{ audience: {service:?} }} }}` at the member, and install the bundle of `tidegate keys export-bundle` there"
        )
    };
    let problem = "the member wants a credential, and none is configured for it";
    Finding::error(Code::CredentialMissing, problem, "every pull and push through it is refused", fix)
}

/// What a member says to a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    /// It takes it.
    Yes,
    /// It refuses it.
    No,
    /// Neither, and why.
    Nothing(String),
}

impl Said {
    /// What an answer to a question with a credential says of it.
    pub(super) fn of(answer: &Result<Answer, Failure>) -> Self {
        match answer {
            Ok(answer) if answer.status == StatusCode::OK => Self::Yes,
            Ok(answer) if answer.status == StatusCode::UNAUTHORIZED => Self::No,
            Ok(answer) => Self::Nothing(format!("the member answered {}", answer.status)),
            Err(_) => Self::Nothing("the member did not answer in time".to_owned()),
        }
    }
}

async fn takes(patient: &Patient<'_>, authorization: Option<HeaderValue>) -> Said {
    Said::of(&patient.get("/v2/", authorization.as_ref()).await)
}

/// What a member says to a token that we mint.
pub(super) enum Minted {
    /// It takes it.
    Taken,
    /// It refuses it.
    Refused,
    /// There is something to say of the key.
    Finding(Finding),
    /// Nothing can be said, and why.
    Unknown(String),
}

/// Asks with a token that we mint, under the key that signs now, and else under older ones.
pub(super) async fn try_token(patient: &Patient<'_>, token: &TokenCredential) -> Minted {
    let Some(key) = token.signing_key(unix_now()) else {
        return Minted::Finding(Finding::error(
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
            Err(error) => return Minted::Unknown(format!("no token can be minted: {error}")),
        };
        match takes(patient, Some(authorization)).await {
            Said::Yes if at == 0 => return Minted::Taken,
            Said::Yes => return Minted::Finding(old_key()),
            Said::No => {}
            Said::Nothing(why) => return Minted::Unknown(why),
        }
    }
    Minted::Refused
}

fn old_key() -> Finding {
    Finding::warning(
        Code::TokenKeyOld,
        "the member takes tokens under an older member key, and not yet under the one that should sign now",
        "nothing while the older key is kept; when its file is removed, the member refuses everything",
        "install the bundle of `tidegate keys export-bundle` at the member and restart it",
    )
}

fn token_refusal(challenge: &str, audience: &str, issuer: &str) -> Finding {
    if facts::is_basic(challenge) {
        return Finding::error(
            Code::TokenRefused,
            "the member wants a password, and `credential` is `token`",
            OUT,
            "set `credential: { basic: ... }` at the member, or give it `auth: token`",
        );
    }
    match facts::parameter(challenge, "service") {
        Some(service) if service != audience => Finding::error(
            Code::TokenAudience,
            format!(
                "the member wants tokens for the service {service:?}, and `credential.token.audience` is {audience:?}"
            ),
            OUT,
            format!("write `audience: {service:?}`"),
        ),
        _ => Finding::error(
            Code::TokenRefused,
            "the member refuses the token that we mint: it does not trust our member key, or expects another issuer",
            OUT,
            format!(
                "install the bundle of `tidegate keys export-bundle` as its `auth.token.rootcertbundle` and restart it; its `issuer` has to be {issuer:?}"
            ),
        ),
    }
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
