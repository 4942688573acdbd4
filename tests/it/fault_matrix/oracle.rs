//! What a client may see of a case, and what members may: the promises of the gateway, cell by cell, each with its reason. Nothing
//! here runs anything.

use super::HOLD;
use super::case::{Case, Fault, Operation, Place, WrongLength};
use super::client::Ending;

/// What a client saw, as far as promises speak of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The right status, headers and bytes, and a right end.
    Whole,
    /// A part of a blob that ended rightly, with a wrong byte in it.
    WrongPart,
    /// A success that ended rightly and is wrong in any other way.
    Wrong,
    /// A success whose body did not end rightly. Whether what came of it was right.
    BrokenOff { ending: Ending, right_so_far: bool },
    /// An error of the gateway's own making, or a member's 404, with a body that says so.
    Refused(u16),
    /// An error without such a body, or with a body beside HEAD.
    Garbled(u16),
    /// A reset that came before anything of the answer.
    ResetUnanswered,
    /// Any other end without an answer.
    NoHead,
    /// Neither an answer nor an end.
    Hung,
}

impl Outcome {
    /// Whether an answer had begun, or was to begin, and the client may well ask again.
    pub(super) fn is_broken_off(&self) -> bool {
        matches!(self, Self::BrokenOff { .. } | Self::ResetUnanswered)
    }
}

/// What may happen, and why.
pub(super) type Permit = (Outcome, &'static str);

/// What a fault is to the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// Nothing wrong: what is slow, or ends its side after a whole answer.
    Good,
    /// Nothing of the request can have arrived.
    Unreachable,
    /// There is never a head; what arrived and what was done is not known.
    NoHead,
    /// The body ends too early, and everybody can see that.
    Breaks,
    /// The answer ends as announced, and is not what its digest says.
    Lies,
    /// Fewer bytes come than were announced, which is itself wrong; all bytes there are have come.
    Overstates,
    Status(u16),
    Missing,
}

fn effect(fault: Option<Fault>) -> Effect {
    match fault {
        None | Some(Fault::Drip | Fault::HalfClose(Place::End)) => Effect::Good,
        Some(Fault::RefuseConnect) => Effect::Unreachable,
        Some(Fault::NeverAnswer) => Effect::NoHead,
        Some(Fault::Reset(place) | Fault::Stall(place) | Fault::Short(place) | Fault::HalfClose(place)) => {
            match place {
                Place::Request(_) | Place::Head(_) => Effect::NoHead,
                Place::Body(_) => Effect::Breaks,
                Place::End => Effect::Good,
            }
        }
        Some(Fault::WrongLength(WrongLength::Overstated(_))) => Effect::Overstates,
        Some(Fault::Corrupt(_) | Fault::WrongLength(_)) => Effect::Lies,
        Some(Fault::Status(status)) => Effect::Status(status),
        Some(Fault::NotFound) => Effect::Missing,
    }
}

/// What the client is told of a member's 5xx: containerd takes a 502 for the end, docker a 429.
fn told(status: u16) -> u16 {
    match status {
        500 | 503 => status,
        _ => 504,
    }
}

/// Everything that a client may see of the operation under test. `pinned` is the member of the upload session, where there is one.
pub(super) fn permitted(case: &Case, pinned: Option<usize>) -> Vec<Permit> {
    match (case.operation, pinned) {
        (Operation::GetBlob | Operation::GetByDigest | Operation::GetByTag | Operation::GetRange(_), _) => {
            of_get(case)
        }
        (Operation::HeadBlob | Operation::HeadManifest, _) => of_repeatable(case),
        (Operation::UploadStart | Operation::PutManifest, _) => of_repeatable(case),
        (Operation::Patch | Operation::PutWhole | Operation::PutLast, Some(pinned)) => {
            of_pinned(case, effect(case.members[pinned]))
        }
        (Operation::Patch | Operation::PutWhole | Operation::PutLast, None) => Vec::new(),
    }
}

fn effects(case: &Case) -> Vec<Effect> {
    case.members.iter().map(|fault| effect(*fault)).collect()
}

/// GET of a blob or manifest.
fn of_get(case: &Case) -> Vec<Permit> {
    let effects = effects(case);
    // Right bytes are never a fault, whoever they came from.
    let mut permits = vec![(Outcome::Whole, "the right bytes")];
    let is_range = matches!(case.operation, Operation::GetRange(_));
    let held = is_held(case);
    let good = effects.contains(&Effect::Good);
    // With three members two at most are bad beside a good one: fewer than the switches that are made, and than the retries that the
    // budget of a fresh pool has. So the budget is never spent here.
    if effects.contains(&Effect::Lies) {
        permits.extend(of_lies(case, is_range, held));
    }
    if effects.contains(&Effect::Overstates) && !held {
        for ending in [Ending::Cut, Ending::Reset] {
            let broken = Outcome::BrokenOff { ending, right_so_far: true };
            permits.push((broken, "its head promised bytes that do not exist, and had gone out"));
        }
    }
    if effects.iter().filter(|effect| **effect == Effect::Missing).count() >= 2 {
        permits.push((Outcome::Refused(404), "a 404 that one other member has confirmed"));
    }
    if case.operation == Operation::GetByTag && !held && effects.contains(&Effect::Breaks) {
        // A tag may have moved meanwhile, so only what is read by digest goes on elsewhere.
        permits.extend(broken_off("by tag nothing is continued, and its head had gone out"));
    }
    if !good {
        permits.extend(effects.iter().flat_map(|effect| of_last_failure(*effect)));
        if effects.iter().any(|effect| matches!(effect, Effect::Breaks | Effect::Overstates)) && !held {
            permits.extend(broken_off("nobody was left to continue it"));
        }
    }
    permits
}

fn broken_off(why: &'static str) -> [Permit; 2] {
    [Ending::Cut, Ending::Reset].map(|ending| (Outcome::BrokenOff { ending, right_so_far: true }, why))
}

/// Whether a right answer is verified before its head leaves: full bodies up to `verify.hold`. Wrong lengths move that border, so
/// what is near it counts as not held.
fn is_held(case: &Case) -> bool {
    let announced = case.members.iter().map(|fault| match fault {
        Some(Fault::WrongLength(WrongLength::Padded(by) | WrongLength::Overstated(by))) => {
            case.size + (case.size * usize::from(*by) / 1000).max(1)
        }
        _ => case.size,
    });
    !matches!(case.operation, Operation::GetRange(_)) && announced.max().unwrap_or(case.size) <= HOLD
}

/// Where a member's answer has wrong bytes or a wrong length, and ends as if it were right.
fn of_lies(case: &Case, is_range: bool, held: bool) -> Vec<Permit> {
    let liars = || case.members.iter().flatten().filter(|fault| effect(Some(**fault)) == Effect::Lies);
    let has_wrong_byte = liars().any(|fault| matches!(fault, Fault::Corrupt(_)));
    let has_wrong_length = liars().any(|fault| matches!(fault, Fault::WrongLength(_)));
    let mut permits = Vec::new();
    if is_range {
        if has_wrong_byte {
            permits.push((Outcome::WrongPart, "a part has no digest; clients check the whole themselves"));
        }
        if has_wrong_length {
            // Its Content-Range and Content-Length contradict each other, so that this can be known without any digest.
            for right_so_far in [true, false] {
                for ending in [Ending::Cut, Ending::Reset] {
                    permits.push((
                        Outcome::BrokenOff { ending, right_so_far },
                        "a part of a length that is not its own",
                    ));
                }
            }
        }
        return permits;
    }
    if held && effects(case).contains(&Effect::Good) {
        // A bad member is replaced unseen.
        return permits;
    }
    // A reset throws away what was not yet sent, over h1 in the kernel and over h2 in the queue of the stream: the head may be in it.
    permits.push((Outcome::ResetUnanswered, "the reset for wrong content has overtaken its head"));
    for right_so_far in [true, false] {
        let broken = Outcome::BrokenOff { ending: Ending::Reset, right_so_far };
        permits.push((broken, "what is wrong shows at the end, and its head had gone out"));
        if has_wrong_length {
            let broken = Outcome::BrokenOff { ending: Ending::Cut, right_so_far };
            permits.push((broken, "a wrong length shows before the digest does"));
        }
    }
    permits
}

/// What the last of several failures becomes when nobody is good.
fn of_last_failure(effect: Effect) -> Vec<Permit> {
    match effect {
        Effect::Good => Vec::new(),
        Effect::Unreachable => vec![(Outcome::Refused(504), "no member could be reached")],
        Effect::NoHead => vec![(Outcome::Refused(504), "no member answered")],
        Effect::Breaks | Effect::Overstates => vec![(Outcome::Refused(504), "no member answered to the end")],
        Effect::Lies => vec![(Outcome::Refused(504), "no member answered rightly")],
        Effect::Status(status) => vec![(Outcome::Refused(told(status)), "a member failed")],
        Effect::Missing => vec![(Outcome::Refused(404), "those who answered do not have it")],
    }
}

/// HEAD, an upload start, and a manifest PUT: asked of the next member after any failure.
fn of_repeatable(case: &Case) -> Vec<Permit> {
    let effects = effects(case);
    let mut permits = vec![(Outcome::Whole, "the right answer")];
    if effects.contains(&Effect::Missing) {
        permits.push((Outcome::Refused(404), "a member's 404 is confirmed for GET only"));
    }
    if effects.contains(&Effect::Lies) {
        // Of these only a manifest PUT can: a 201 with another digest.
        permits.push((Outcome::Refused(504), "a 201 for other content is not believed"));
    }
    if !effects.contains(&Effect::Good) {
        permits.extend(effects.iter().flat_map(|effect| of_last_failure(*effect)));
    }
    permits
}

/// PATCH and the last PUT of an upload: one member, one try.
fn of_pinned(case: &Case, effect: Effect) -> Vec<Permit> {
    match effect {
        Effect::Good => vec![(Outcome::Whole, "the session's member is good")],
        Effect::Unreachable => vec![
            (Outcome::Refused(404), "the session is gone with its member: clients start the upload again"),
            (
                Outcome::Refused(504),
                "a kept connection ended under it; whether something was sent is not known",
            ),
        ],
        Effect::NoHead => {
            vec![(Outcome::Refused(504), "its member did not answer, and nothing is sent twice")]
        }
        Effect::Lies if case.operation == Operation::Patch => {
            vec![(Outcome::Whole, "what the member wrote shows when the upload is finished")]
        }
        Effect::Lies => vec![(Outcome::Refused(504), "a 201 for other content is not believed")],
        Effect::Status(status) => vec![(Outcome::Refused(told(status)), "its member failed")],
        Effect::Missing => vec![(Outcome::Refused(404), "its member does not know the session")],
        // Their answers have no body that could.
        Effect::Breaks | Effect::Overstates => Vec::new(),
    }
}

/// Whether the same GET, made again after it was broken off, has to succeed in the end: the bad member is quarantined by then, and
/// what is asked for by digest is known before it is read.
pub(super) fn must_heal(case: &Case) -> bool {
    let by_digest = matches!(case.operation, Operation::GetBlob | Operation::GetByDigest);
    let effects = effects(case);
    // A length that is too long shows without a digest, and which of two members has it wrong does not.
    by_digest && effects.contains(&Effect::Good) && !effects.contains(&Effect::Overstates)
}

/// How many broken answers there may be before that: each puts one of the bad members into quarantine.
pub(super) fn breaks_max(case: &Case) -> usize {
    effects(case).iter().filter(|effect| **effect != Effect::Good).count()
}

/// Most requests that members may see for one of the client's: each is tried once, and an answer is continued at most three times.
pub(super) fn tries_max(case: &Case) -> usize {
    const SWITCHES: usize = 3;
    let switches = if case.operation.answers_with_body() { SWITCHES } else { 0 };
    case.members.len() + switches
}

/// Whether the upload has to come to a good end after the operation under test was answered rightly.
pub(super) fn upload_must_end_well(case: &Case, pinned: usize) -> bool {
    !matches!((case.operation, case.members[pinned]), (Operation::Patch, Some(Fault::Corrupt(_))))
}

#[cfg(test)]
mod tests;
