//! The first visit to a Harbor node: its accounts, its health, its version, its address, its key.

use std::time::Duration;

use http::StatusCode;
use http::header::AUTHORIZATION;

use super::clocks;
use super::facts;
use super::finding::{Check, Checkup, Code, Finding};
use super::patient::{Patient, Visit};
use super::trial::{Acceptance, TokenTrial, challenge_realm, try_token};
use crate::upstream::Question;
use crate::upstream::harbor::LOCK;
use crate::upstream::harbor::basic;
use crate::upstream::{
    AccountSettings, Credential, CredentialSettings, HarborSettings, HarborVersion, Storage,
};

/// A refusal that comes faster than this may be a lock that another client's wrong password set.
const HASTY: Duration = Duration::from_secs(1);
const OUT: &str =
    "the node is taken out with the state credential_fault; clients do not see it while others are left";
const TOKEN: &str = "/service/token?service=harbor-registry";

fn is_two(harbor: &HarborSettings) -> bool {
    harbor.version == HarborVersion::Two
}

fn api(harbor: &HarborSettings) -> &'static str {
    match harbor.version {
        HarborVersion::One => "/api",
        HarborVersion::Two => "/api/v2.0",
    }
}

/// Examines a node that has answered.
pub(super) async fn examine(patient: &Patient<'_>, harbor: &HarborSettings, visit: &mut Visit) {
    if wrong_version(patient, harbor, visit).await {
        return;
    }
    let database = health(patient, harbor, &mut visit.checkup).await;
    let accepted = account(patient, harbor, database, &mut visit.checkup).await;
    system_info(patient, harbor, accepted, visit).await;
    if accepted {
        catalog_account(patient, harbor, &mut visit.checkup).await;
        visit.usable = credential(patient, visit).await;
    } else {
        visit
            .checkup
            .skip(Check::Credential, "the node refuses `harbor.account`, so its other refusals say nothing");
    }
}

/// Whether the node has the API of another version than is configured.
async fn wrong_version(patient: &Patient<'_>, harbor: &HarborSettings, visit: &mut Visit) -> bool {
    let other = if is_two(harbor) { "/api/systeminfo" } else { "/api/v2.0/systeminfo" };
    for target in [format!("{}/systeminfo", api(harbor)), other.to_owned()] {
        let Ok(answer) = patient.get(&target, None).await else { return false };
        let info = answer.json();
        if let Some(version) = info["harbor_version"].as_str() {
            visit.version = Some(version.to_owned());
            let finding = facts::judge_version(harbor.version, version);
            let wrong = finding.is_some();
            visit.checkup.judge(Check::Version, finding);
            return wrong;
        }
        // Newer versions tell it only to those who have logged in.
        if answer.status == StatusCode::OK && info.is_object() {
            return false;
        }
    }
    false
}

/// Judges the components. Whether the database is there, as far as the node says.
async fn health(patient: &Patient<'_>, harbor: &HarborSettings, checkup: &mut Checkup) -> bool {
    let answer = patient.get(&format!("{}/health", api(harbor)), None).await;
    let Some((needed, others)) = answer.ok().and_then(|answer| facts::sick_components(&answer.json())) else {
        checkup.skip(
            Check::Health,
            "the node did not answer about its health in time; it takes up to 10 s when a component hangs",
        );
        return true;
    };
    let findings = facts::judge_health(&needed, &others);
    if findings.is_empty() {
        checkup.pass(Check::Health);
    }
    findings.into_iter().for_each(|finding| checkup.find(finding));
    !needed.iter().any(|name| name == "database")
}

/// Whether the node takes an account, a lock by another client's wrong password waited out.
async fn takes(patient: &Patient<'_>, harbor: &HarborSettings, account: &AccountSettings) -> Acceptance {
    // The registry of Harbor 1.x takes no passwords.
    let target = if is_two(harbor) { "/v2/" } else { TOKEN };
    for waited in [false, true] {
        let question = Question::get(target).with(AUTHORIZATION, basic(account));
        let answer = patient.ask(question).await;
        let acceptance = Acceptance::of(&answer);
        let was_slow = answer.is_ok_and(|answer| answer.took >= HASTY);
        if acceptance != Acceptance::Refused || waited || was_slow || facts::is_robot(&account.user) {
            return acceptance;
        }
        tokio::time::sleep(LOCK + Duration::from_millis(100)).await;
    }
    Acceptance::Refused
}

async fn account(
    patient: &Patient<'_>,
    harbor: &HarborSettings,
    database: bool,
    checkup: &mut Checkup,
) -> bool {
    match takes(patient, harbor, &harbor.account).await {
        Acceptance::Accepted => {
            checkup.pass(Check::Account);
            true
        }
        Acceptance::Unknown(why) => {
            checkup.skip(Check::Account, why);
            false
        }
        Acceptance::Refused if !database => {
            checkup.skip(Check::Account, "the node has lost its database, and refuses everybody");
            false
        }
        Acceptance::Refused => {
            checkup.find(account_refused(patient, &harbor.account.user));
            false
        }
    }
}

fn account_refused(patient: &Patient<'_>, user: &str) -> Finding {
    let problem =
        format!("the node is well, and refuses the name or password of `harbor.account` ({user:?})");
    let fix = match patient.pool.storage {
        Storage::Shared => "correct `harbor.account`, or make the robot anew and put its new secret there; a robot may also be disabled or have expired".to_owned(),
        Storage::Replicated => format!(
            "give this member an `account` of its own: robots of the same name have another secret on every node without a common database; make {user:?} on this node where it is missing"
        ),
    };
    Finding::error(Code::AccountRefused, problem, OUT, fix)
}

/// Asks once more what only those who have logged in are told.
async fn system_info(patient: &Patient<'_>, harbor: &HarborSettings, accepted: bool, visit: &mut Visit) {
    let authorization = basic(&harbor.account).filter(|_| accepted);
    let target = format!("{}/systeminfo", api(harbor));
    let answer = patient.get(&target, authorization.as_ref()).await;
    let info = answer.map(|answer| answer.json()).unwrap_or_default();
    if visit.version.is_none()
        && let Some(version) = info["harbor_version"].as_str()
    {
        visit.version = Some(version.to_owned());
        visit.checkup.judge(Check::Version, facts::judge_version(harbor.version, version));
    }
    if let Some(mode) = info["auth_mode"].as_str()
        && let Some(finding) = facts::judge_auth_mode(mode, &harbor.account.user)
    {
        visit.checkup.find(finding);
    }
    match info["read_only"].as_bool() {
        Some(read_only) => visit.checkup.judge(Check::Writable, read_only.then(read_only_node)),
        None => visit.checkup.skip(Check::Writable, "the node does not say whether it is read-only"),
    }
    let named = match info["external_url"].as_str() {
        Some(url) => Some(url.to_owned()),
        None => challenge_realm(patient).await,
    };
    match named {
        Some(named) => {
            visit.checkup.judge(Check::ExternalAddress, facts::judge_address(&named, patient.hosts))
        }
        None => visit
            .checkup
            .skip(Check::ExternalAddress, "the node does not say by which address it names itself"),
    }
}

fn read_only_node() -> Finding {
    Finding::error(
        Code::ReadOnly,
        "the node is in read-only mode",
        "pushes and deletions that reach it are refused (403 DENIED); pulls work",
        "end it in Harbor: Configuration, System Settings, Repository Read Only; or take the node out of `members` meanwhile",
    )
}

/// The account that lists all repositories, where it is another one.
async fn catalog_account(patient: &Patient<'_>, harbor: &HarborSettings, checkup: &mut Checkup) {
    let account = &harbor.catalog_account;
    if account.user == harbor.account.user {
        checkup.skip(Check::CatalogAccount, "no `catalog_account` of its own is configured");
        return;
    }
    if !is_two(harbor) {
        checkup.skip(Check::CatalogAccount, "the registry of Harbor 1.x takes no passwords");
        return;
    }
    match takes(patient, harbor, account).await {
        Acceptance::Unknown(why) => return checkup.skip(Check::CatalogAccount, why),
        Acceptance::Refused => {
            let problem = format!(
                "the node refuses the name or password of `harbor.catalog_account` ({:?})",
                account.user
            );
            let fix = "correct `harbor.catalog_account`; give the member one of its own where nodes have different accounts";
            return checkup.find(Finding::error(Code::CatalogAccountRefused, problem, CATALOG, fix));
        }
        Acceptance::Accepted => {}
    }
    let question = Question::get("/v2/_catalog?n=1").with(AUTHORIZATION, basic(account));
    match patient.ask(question).await {
        Ok(answer) if answer.status == StatusCode::UNAUTHORIZED => {
            let problem = format!(
                "`harbor.catalog_account` ({:?}) is no administrator, and Harbor lists all repositories for no other",
                account.user
            );
            let fix = "name an administrator's account; it is used for nothing but the list of repositories";
            checkup.find(Finding::warning(Code::CatalogAccountRights, problem, CATALOG, fix));
        }
        Ok(_) => checkup.pass(Check::CatalogAccount),
        Err(_) => checkup.skip(Check::CatalogAccount, "the node did not answer"),
    }
}

const CATALOG: &str =
    "clients that may list all repositories (`_catalog`) are refused; pulls and pushes work";

/// Whether clients' requests can be authenticated to the node. True when they can.
async fn credential(patient: &Patient<'_>, visit: &mut Visit) -> bool {
    let own = own_token(patient).await;
    if let Some((_, claims, between)) = &own
        && let Some(issued_at) = claims["iat"].as_u64()
    {
        let skew = clocks::skew(issued_at, *between);
        // Whichever clock is worse: nginx and core may run on two machines.
        if visit.skew.is_none_or(|known| skew.unsigned_abs() > known.unsigned_abs()) {
            visit.skew = Some(skew);
        }
    }
    let finding = match (&patient.settings.credential, &patient.member.credential) {
        (_, Credential::Token(token)) => match try_token(patient, token).await {
            TokenTrial::Accepted => None,
            TokenTrial::Finding(finding) => Some(finding),
            TokenTrial::Refused => {
                let node_kid = own.as_ref().and_then(|(header, _, _)| header["kid"].as_str());
                let own_kid = patient.own_kid().unwrap_or_default();
                Some(facts::judge_refused_token(&own_kid, node_kid, visit.skew.unwrap_or_default()))
            }
            TokenTrial::Unknown(why) => {
                visit.checkup.skip(Check::Credential, why);
                return false;
            }
        },
        (CredentialSettings::Exchange, _) if own.is_none() => Some(Finding::error(
            Code::TokenService,
            "the node's token service gives no token to `harbor.account`, which the node takes otherwise",
            "no client can log in, pull or push there",
            "see core.log on the node; a full or read-only disk and a broken private_key.pem are usual causes",
        )),
        _ => None,
    };
    let usable = finding.is_none();
    visit.checkup.judge(Check::Credential, finding);
    usable
}

/// A token of the node for the account: header, claims, and when it was made by our clock.
async fn own_token(patient: &Patient<'_>) -> Option<(serde_json::Value, serde_json::Value, (u64, u64))> {
    let harbor = patient.harbor()?;
    let question = Question::get(TOKEN).with(AUTHORIZATION, basic(&harbor.account));
    let answer = patient.ask(question).await.ok()?;
    let (header, claims) = facts::token_parts(&answer.json())?;
    Some((header, claims, answer.between))
}
