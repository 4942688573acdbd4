//! The first visit to one member: everything that can be seen of it alone, with GET requests only.

use http::StatusCode;

use super::clocks;
use super::facts;
use super::finding::{Check, Checkup, Code, Finding};
use super::node;
use super::patient::{Patient, Visit};
use super::reach::{self, Spoken};
use super::spoken::what_is_spoken;
use super::trial::{Acceptance, TokenTrial, takes, try_token};
use crate::upstream::Reply;
use crate::upstream::harbor::basic;
use crate::upstream::{Credential, CredentialSettings};

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
async fn first_answer(patient: &Patient<'_>, checkup: &mut Checkup) -> Option<Reply> {
    let url = patient.url();
    match patient.get("/v2/", None).await {
        Ok(answer) => {
            let https = patient.door().tls.is_some();
            if !https && let Some(finding) = reach::judge_plain(&url, &answer) {
                checkup.find(finding);
                return None;
            }
            Some(answer)
        }
        Err(failure) => {
            let spoken: Option<Spoken> = match reach::may_be_mixed_up(&failure) {
                true => Some(what_is_spoken(patient.door(), patient.deadline()).await),
                false => None,
            };
            checkup.find(reach::judge(&failure, &url, &patient.expected_name(), spoken));
            None
        }
    }
}

/// Whether what answers can be what the configuration says that it is.
fn judge_first(patient: &Patient<'_>, first: &Reply, checkup: &mut Checkup) -> bool {
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
async fn registry_credential(patient: &Patient<'_>, first: &Reply, checkup: &mut Checkup) -> bool {
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
async fn judge_credential(patient: &Patient<'_>, first: &Reply) -> Result<Option<Finding>, String> {
    let challenge = first.header("www-authenticate").unwrap_or_default();
    match (&patient.settings.credential, &patient.member.credential) {
        (CredentialSettings::Basic(account), _) => match takes(patient, basic(account)).await {
            Acceptance::Accepted => Ok(None),
            Acceptance::Unknown(why) => Err(why),
            Acceptance::Refused => Ok(Some(Finding::error(
                Code::CredentialRefused,
                format!("the member refuses the name or password of `credential.basic` ({:?})", account.user),
                OUT,
                "correct `credential.basic`, or the member's htpasswd file, which has to hold bcrypt hashes",
            ))),
        },
        (CredentialSettings::Token(settings), Credential::Token(token)) => {
            match try_token(patient, token).await {
                TokenTrial::Accepted => Ok(None),
                TokenTrial::Finding(finding) => Ok(Some(finding)),
                TokenTrial::Unknown(why) => Err(why),
                TokenTrial::Refused => {
                    Ok(Some(token_refusal(challenge, &settings.audience, &settings.issuer)))
                }
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
