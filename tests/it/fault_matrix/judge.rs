//! Compares what happened in a case with what its promises permit.

use super::case::{Case, Operation};
use super::client::{Ending, Seen};
use super::faulty_member::Logged;
use super::oracle::{self, Outcome};

/// What is read or written in a case.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub(super) bytes: Vec<u8>,
    pub(super) digest: String,
}

/// What happened in a case.
#[derive(Debug)]
pub(super) struct Trial {
    pub(super) subject: Subject,
    /// The member of the upload session, where there is one.
    pub(super) pinned: Option<usize>,
    /// The operation under test; a GET that was broken off is made again.
    pub(super) seen: Vec<Seen>,
    /// The end of the upload, where the operation under test was not its end and went well.
    pub(super) upload_end: Option<Seen>,
    /// What each member was asked of the operation under test.
    pub(super) logs: Vec<Vec<Logged>>,
    /// The bytes in the upload session when all was over.
    pub(super) in_session: Option<Vec<u8>>,
    /// Whether the members hold the right content under the digest.
    pub(super) stored: bool,
    /// What the gateway had left over when nobody needed it any more.
    pub(super) leftovers: Option<String>,
}

/// What the client saw, in the words of the oracle.
pub(super) fn classify(case: &Case, subject: &Subject, seen: &Seen) -> Outcome {
    let (status, body, ending) = match seen {
        Seen::NoHead(Ending::Reset, _) => return Outcome::ResetUnanswered,
        Seen::NoHead(..) => return Outcome::NoHead,
        Seen::Hung => return Outcome::Hung,
        Seen::Answer { status, body, ending, .. } => (*status, body.as_slice(), *ending),
    };
    if status >= 400 {
        let right = if matches!(case.operation, Operation::HeadBlob | Operation::HeadManifest) {
            body.is_empty()
        } else {
            has_error_code(body) && seen.header("content-type").is_some_and(|kind| kind.contains("json"))
        };
        return if right && ending == Ending::Complete {
            Outcome::Refused(status)
        } else {
            Outcome::Garbled(status)
        };
    }
    let expected = expected_body(case, subject);
    if status != expected_status(case.operation) || !has_right_headers(case, subject, seen) {
        return Outcome::Wrong;
    }
    if ending != Ending::Complete {
        return Outcome::BrokenOff { ending, right_so_far: expected.starts_with(body) };
    }
    match (body == expected, case.operation) {
        (true, _) if has_right_length(case, subject, seen) => Outcome::Whole,
        (false, Operation::GetRange(_)) if body.len() == expected.len() => Outcome::WrongPart,
        _ => Outcome::Wrong,
    }
}

fn has_error_code(body: &[u8]) -> bool {
    let json: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    json.is_some_and(|json| json.pointer("/errors/0/code").is_some_and(serde_json::Value::is_string))
}

fn expected_status(operation: Operation) -> u16 {
    match operation {
        Operation::GetRange(_) => 206,
        Operation::UploadStart | Operation::Patch => 202,
        Operation::PutWhole | Operation::PutLast | Operation::PutManifest => 201,
        Operation::GetBlob
        | Operation::GetByDigest
        | Operation::GetByTag
        | Operation::HeadBlob
        | Operation::HeadManifest => 200,
    }
}

fn expected_body<'a>(case: &Case, subject: &'a Subject) -> &'a [u8] {
    match case.operation {
        Operation::GetBlob | Operation::GetByDigest | Operation::GetByTag => &subject.bytes,
        Operation::GetRange(span) => {
            let (first, last) = span.bounds(subject.bytes.len());
            &subject.bytes[first..=last]
        }
        _ => &[],
    }
}

/// Everything but the length, which a broken answer may have wrong.
fn has_right_headers(case: &Case, subject: &Subject, seen: &Seen) -> bool {
    let is = |name: &str, wanted: &str| seen.header(name) == Some(wanted);
    let has_pin = || seen.header("location").is_some_and(|location| location.contains("_tg="));
    match case.operation {
        Operation::GetRange(span) => {
            let (first, last) = span.bounds(subject.bytes.len());
            is("content-range", &format!("bytes {first}-{last}/{}", subject.bytes.len()))
        }
        Operation::UploadStart => has_pin(),
        Operation::Patch => has_pin() && is("range", &format!("0-{}", subject.bytes.len() - 1)),
        _ => is("docker-content-digest", &subject.digest),
    }
}

fn has_right_length(case: &Case, subject: &Subject, seen: &Seen) -> bool {
    let len = match case.operation {
        Operation::HeadBlob | Operation::HeadManifest => subject.bytes.len(),
        operation if operation.answers_with_body() => expected_body(case, subject).len(),
        _ => return true,
    };
    seen.header("content-length") == Some(&len.to_string())
}

/// Every promise that was broken.
pub(super) fn violations(case: &Case, trial: &Trial) -> Vec<String> {
    let mut broken = Vec::new();
    let permits = oracle::permitted(case, trial.pinned);
    let outcomes: Vec<_> = trial.seen.iter().map(|seen| classify(case, &trial.subject, seen)).collect();
    for (at, (outcome, seen)) in outcomes.iter().zip(&trial.seen).enumerate() {
        if !permits.iter().any(|(permitted, _)| permitted == outcome) {
            let permitted: Vec<_> = permits.iter().map(|(outcome, _)| outcome).collect();
            broken.push(format!("try {at}: {outcome:?} ({}); permitted: {permitted:?}", seen.describe()));
        }
    }
    if oracle::must_heal(case)
        && outcomes.last().is_some_and(|last| matches!(last, Outcome::BrokenOff { .. }))
    {
        broken.push(format!(
            "broken off {} times: the bad members were not put into quarantine",
            outcomes.len()
        ));
    }
    broken.extend(violations_at_members(case, trial));
    let succeeded = outcomes.first() == Some(&Outcome::Whole);
    if case.operation.is_pinned() || case.operation == Operation::UploadStart {
        broken.extend(violations_of_upload(case, trial, succeeded));
    }
    if case.operation == Operation::PutManifest && succeeded && !trial.stored {
        broken.push("201 for a manifest that no member has".to_owned());
    }
    broken.extend(trial.leftovers.iter().map(|left| format!("left over: {left}")));
    broken
}

fn violations_at_members(case: &Case, trial: &Trial) -> Vec<String> {
    let mut broken = Vec::new();
    let asked: Vec<&Logged> = trial.logs.iter().flatten().collect();
    let most = if case.operation.is_pinned() { 1 } else { oracle::tries_max(case) * trial.seen.len() };
    if asked.len() > most {
        broken.push(format!("members were asked {} times, at most {most} are right", asked.len()));
    }
    for (member, log) in trial.logs.iter().enumerate() {
        if case.operation.is_pinned() && Some(member) != trial.pinned && !log.is_empty() {
            broken.push(format!("member {member} saw a request of the session of member {:?}", trial.pinned));
        }
    }
    for logged in asked {
        let header = |name: &str| logged.request.headers.get(name).map(String::as_str);
        let continues = case.operation == Operation::GetBlob && header("range").is_some();
        if continues && header("if-range") != Some(&format!("\"{}\"", trial.subject.digest)) {
            broken.push(format!("continued without the right If-Range: {:?}", logged.request.headers));
        }
        if case.operation == Operation::PutManifest
            && logged.complete
            && logged.body_bytes != trial.subject.bytes.len()
        {
            broken.push(format!(
                "a manifest of {} bytes came as {}",
                trial.subject.bytes.len(),
                logged.body_bytes
            ));
        }
        if header("authorization").is_some() {
            broken.push("a member was shown the client's token".to_owned());
        }
    }
    broken
}

fn violations_of_upload(case: &Case, trial: &Trial, succeeded: bool) -> Vec<String> {
    let mut broken = Vec::new();
    if let (Some(end), Some(pinned)) = (&trial.upload_end, trial.pinned) {
        let went_well = end.status() == Some(201) && trial.stored;
        let must = oracle::upload_must_end_well(case, pinned);
        if must && !went_well {
            broken.push(format!("the upload did not come to a good end: {}", end.describe()));
        }
        if !must && end.status() == Some(201) {
            broken.push("201 for a blob that is damaged at the member".to_owned());
        }
    }
    if matches!(case.operation, Operation::PutWhole | Operation::PutLast) && succeeded && !trial.stored {
        broken.push("201 for a blob that no member has".to_owned());
    }
    // Whatever happened, each byte is in the session once and in order. A member that damages bytes does so by itself.
    let damaged = trial.pinned.is_some_and(|pinned| !oracle::upload_must_end_well(case, pinned));
    let consistent = trial.in_session.as_ref().is_none_or(|bytes| trial.subject.bytes.starts_with(bytes));
    if !consistent && !damaged {
        broken.push("the session holds other bytes than were sent".to_owned());
    }
    broken
}
