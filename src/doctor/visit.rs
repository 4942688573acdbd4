//! The first visit to one member: everything that can be seen of it alone, with GET requests only.

use http::header::HOST;
use http::{HeaderValue, StatusCode};

use super::call::{Answer, Question, Spoken};
use super::clocks;
use super::facts;
use super::finding::{Check, Checkup, Code, Finding};
use super::node;
use super::patient::{Patient, basic};
use super::reach;
use crate::random::unix_now;
use crate::upstream::{CredentialSettings, MemberAccess};

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
            if !https && reach::says_wants_tls(answer.status, &answer.body, answer.header("location")) {
                checkup.find(reach::speaks_tls(&url));
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
    let challenge = first.header("www-authenticate").unwrap_or_default();
    let finding = match &patient.settings.credential {
        CredentialSettings::None if is_open => None,
        CredentialSettings::None => Some(missing(challenge)),
        CredentialSettings::Basic(account) => {
            let refused = refuses(patient, basic(account)).await;
            refused.then(|| {
                let problem = format!("the member refuses the name or password of `credential.basic` ({:?})", account.user);
                Finding::error(Code::CredentialRefused, problem, OUT, "correct `credential.basic`, or the member's htpasswd file (and restart it where it is old: registry 2.x reads the file anew by itself)")
            })
        }
        CredentialSettings::Token(token) => match token_refused(patient).await {
            None => None,
            Some(Refused::Finding(finding)) => Some(finding),
            Some(Refused::ByMember) => Some(token_refusal(challenge, &token.audience, &token.issuer)),
        },
        CredentialSettings::Exchange | CredentialSettings::Relay => None,
    };
    let usable = finding.as_ref().is_none_or(|finding| finding.code == Code::TokenKeyOld);
    if is_open && patient.member.credential.is_configured() {
        checkup.find(Finding::warning(
            Code::MemberOpen,
            "the member serves everybody without the credential that is configured for it",
            "whoever reaches it past Tidegate can pull and push without a password",
            "switch the member's authentication on, or set `credential: none` and keep its network closed",
        ));
    }
    checkup.judge(Check::Credential, finding);
    usable
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

async fn refuses(patient: &Patient<'_>, authorization: Option<HeaderValue>) -> bool {
    match patient.get("/v2/", authorization.as_ref()).await {
        Ok(answer) => answer.status == StatusCode::UNAUTHORIZED,
        Err(_) => false,
    }
}

/// Why a minted token is not taken.
pub(super) enum Refused {
    /// The member says no.
    ByMember,
    /// This is why.
    Finding(Finding),
}

/// Asks with a token that we mint, under the key that signs now, and else under older ones.
pub(super) async fn token_refused(patient: &Patient<'_>) -> Option<Refused> {
    let (token, key) = patient.token()?;
    let Some(key) = key else {
        return Some(Refused::Finding(Finding::error(
            Code::TokenKeyMissing,
            "there is no member key yet to mint tokens with",
            "nothing, before the first start; with several replicas Tidegate does not start",
            "run `tidegate keys generate --config FILE`, then install the bundle of `tidegate keys export-bundle` at the member",
        )));
    };
    let older = token.older_keys(unix_now());
    let older = older.into_iter().filter(|older| older.thumbprint() != key.thumbprint());
    for (at, key) in std::iter::once(key.clone()).chain(older).enumerate() {
        let authorization = token.probe_authorization(&key, &MemberAccess::default(), unix_now());
        if refuses(patient, authorization.ok()).await {
            continue;
        }
        return (at > 0).then(|| {
            Refused::Finding(Finding::warning(
                Code::TokenKeyOld,
                "the member takes tokens under an older member key, and not yet under the one that should sign now",
                "nothing while the older key is kept; when its file is removed, the member refuses everything",
                "install the bundle of `tidegate keys export-bundle` at the member and restart it",
            ))
        });
    }
    Some(Refused::ByMember)
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
