//! The members of one pool compared with each other, with GET requests only.

use std::collections::BTreeMap;

use http::HeaderValue;
use http::header::COOKIE;

use super::clocks;
use super::finding::{Check, Code, Finding};
use super::patient::{Patient, Visit};
use crate::upstream::Question;
use crate::upstream::harbor::SESSION_COOKIE;
use crate::upstream::{HarborVersion, Storage};

/// The cookie that holds half of what protects a Harbor node against forged requests.
const CSRF_COOKIE: &str = "_gorilla_csrf";
/// What a node answers without credentials, and within a session with a CSRF cookie.
const INFO: &str = "/api/v2.0/systeminfo";

/// Compares what was seen of the members, and asks nodes for each other's sessions.
pub(super) async fn compare(patients: &[Patient<'_>], visits: &mut [Visit]) {
    compare_clocks(visits);
    compare_versions(visits);
    compare_sessions(patients, visits).await;
}

fn compare_clocks(visits: &mut [Visit]) {
    let skews: Vec<_> = visits.iter().map(|visit| (visit.checkup.member.clone(), visit.skew)).collect();
    for visit in visits {
        let Some(skew) = visit.skew else { continue };
        // Said once, of the one that is ahead.
        let others = skews.iter().filter_map(|(name, other)| Some((name.as_str(), (*other)?)));
        let last = others.min_by_key(|(_, other)| *other).filter(|(_, other)| *other < skew);
        if let Some(finding) = last.and_then(|last| clocks::judge_pair(skew, last)) {
            visit.checkup.find(finding);
        }
    }
}

fn compare_versions(visits: &mut [Visit]) {
    let mut members: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for visit in visits.iter() {
        if let Some(version) = &visit.version {
            members.entry(version.clone()).or_default().push(visit.checkup.member.clone());
        }
    }
    if members.len() < 2 {
        return;
    }
    let listed: Vec<_> =
        members.iter().map(|(version, names)| format!("{} on {}", version, names.join(", "))).collect();
    let first = visits.iter_mut().find(|visit| visit.version.is_some());
    if let Some(visit) = first {
        visit.checkup.find(Finding::warning(
            Code::VersionsDiffer,
            format!("the nodes of this pool run different versions of Harbor: {}", listed.join("; ")),
            "nodes on one database must have one version: the newer one has changed its tables. The files of the web pages differ, and a browser that changes node loads an empty page",
            "upgrade the others; during the upgrade take nodes out of `members`",
        ));
    }
}

/// Whether the nodes know each other's sessions and take each other's CSRF cookies. A node starts a
/// new session where it does not know the one that was sent, and makes a new CSRF cookie where it
/// cannot read the one that was sent: nothing has to be written to see that.
async fn compare_sessions(patients: &[Patient<'_>], visits: &mut [Visit]) {
    let speaks = |at: &usize| {
        let two = patients[*at].harbor().is_some_and(|harbor| harbor.version == HarborVersion::Two);
        two && visits[*at].usable
    };
    let nodes: Vec<usize> = (0..patients.len()).filter(speaks).collect();
    let (Some(first), true) = (nodes.first().copied(), nodes.len() > 1) else { return };
    if patients[first].pool.storage == Storage::Replicated {
        // Independent nodes have sessions of their own, and browsers stay on one.
        return;
    }
    let Some((sid, csrf)) = start_session(&patients[first]).await else {
        for check in [Check::Sessions, Check::CsrfKey] {
            visits[first]
                .checkup
                .skip(check, "the node does not keep a session that nobody has logged in with");
        }
        return;
    };
    let name = patients[first].name();
    for at in nodes.into_iter().skip(1) {
        let checkup = &mut visits[at].checkup;
        let Some((new_sid, new_csrf)) = continue_session(&patients[at], &sid, &csrf).await else {
            for check in [Check::Sessions, Check::CsrfKey] {
                checkup.skip(check, "the node did not answer");
            }
            continue;
        };
        checkup.judge(Check::Sessions, new_sid.then(|| sessions_apart(name)));
        if patients[at].pool.portal {
            checkup.judge(Check::CsrfKey, new_csrf.then(|| csrf_keys_differ(name)));
        }
    }
}

/// A session and a CSRF cookie of a node that it still knows a moment later.
async fn start_session(patient: &Patient<'_>) -> Option<(String, String)> {
    if patient.session().is_none() {
        patient.get(INFO, None).await.ok()?;
    }
    let sid = patient.session()?;
    let csrf = patient.get(INFO, None).await.ok()?.cookie(CSRF_COOKIE)?.to_owned();
    let (new_sid, new_csrf) = continue_session(patient, &sid, &csrf).await?;
    (!new_sid && !new_csrf).then_some((sid, csrf))
}

/// Whether a node answers with a new session, and with a new CSRF cookie.
async fn continue_session(patient: &Patient<'_>, sid: &str, csrf: &str) -> Option<(bool, bool)> {
    let cookies = format!("{SESSION_COOKIE}={sid}; {CSRF_COOKIE}={csrf}");
    let question = Question::get(INFO).with(COOKIE, HeaderValue::try_from(cookies).ok());
    let answer = patient.ask(question).await.ok().filter(|answer| answer.status.is_success())?;
    Some((answer.cookie(SESSION_COOKIE).is_some(), answer.cookie(CSRF_COOKIE).is_some()))
}

fn sessions_apart(other: &str) -> Finding {
    Finding::warning(
        Code::Sessions,
        format!("the node does not know the sessions of {other}: they have not the same redis"),
        "whoever is logged in to the web pages is logged out when a node fails. Sizes of uploads and of quotas are counted apart",
        "give all nodes of a pool with `storage: shared` one redis (`external_redis` in harbor.yml), or write `storage: replicated`",
    )
}

fn csrf_keys_differ(other: &str) -> Finding {
    Finding::warning(
        Code::CsrfKey,
        format!("the node has another CSRF key than {other}"),
        "nothing for docker. When a browser changes node, because one fails, its next click that changes something is answered 403 \"CSRF token invalid\" once",
        "copy CSRF_KEY from common/config/core/env of one node to the others and restart core; Harbor's `prepare` makes a new one on each host",
    )
}
