//! The oracle is what the matrix believes, so it is tested by itself.

use super::super::case::{Protocol, Span};
use super::*;

const RANGE: Operation = Operation::GetRange(Span::From(0));
const SMALL: usize = 1000;
const LARGE: usize = 3 * HOLD;

fn case(operation: Operation, size: usize, members: &[Option<Fault>]) -> Case {
    let members = members.to_vec();
    Case { number: 0, seed: 0, operation, protocol: Protocol::H1, members, size, length_known: true }
}

fn outcomes(case: &Case, pinned: Option<usize>) -> Vec<Outcome> {
    permitted(case, pinned).into_iter().map(|(outcome, _)| outcome).collect()
}

const RESET_IN_BODY: Option<Fault> = Some(Fault::Reset(Place::Body(500)));
const RESET_IN_HEAD: Option<Fault> = Some(Fault::Reset(Place::Head(500)));
const CORRUPT: Option<Fault> = Some(Fault::Corrupt(500));
const MISSING: Option<Fault> = Some(Fault::NotFound);

/// Every operation but those of a session.
const ANYWHERE: [Operation; 8] = [
    Operation::GetBlob,
    RANGE,
    Operation::GetByDigest,
    Operation::GetByTag,
    Operation::HeadBlob,
    Operation::HeadManifest,
    Operation::UploadStart,
    Operation::PutManifest,
];

#[test]
fn beside_a_good_member_nothing_shows_of_those_that_fail_before_their_answer() {
    for fault in [
        Fault::RefuseConnect,
        Fault::NeverAnswer,
        Fault::Reset(Place::Head(0)),
        Fault::Stall(Place::Head(999)),
        Fault::Short(Place::Head(1)),
        Fault::HalfClose(Place::Head(1)),
        Fault::Status(500),
        Fault::Status(502),
        Fault::Status(503),
        Fault::Status(504),
    ] {
        for operation in ANYWHERE {
            for size in [SMALL, LARGE] {
                for good in [None, Some(Fault::Drip), Some(Fault::HalfClose(Place::End))] {
                    let case = case(operation, size, &[Some(fault), Some(fault), good]);
                    assert_eq!(outcomes(&case, None), [Outcome::Whole], "{case:?}");
                }
            }
        }
    }
}

#[test]
fn no_permit_is_a_502_a_429_a_wrong_success_or_silence() {
    for case in super::super::case::draw_all(1, 1) {
        for pinned in 0..case.members.len() {
            let pinned = case.operation.is_pinned().then_some(pinned);
            let permits = outcomes(&case, pinned);
            assert!(!permits.is_empty(), "{case:?}");
            for outcome in permits {
                let fits = match outcome {
                    Outcome::Whole => true,
                    Outcome::Refused(status) => [404, 500, 503, 504].contains(&status),
                    Outcome::BrokenOff { .. } | Outcome::ResetUnanswered => {
                        case.operation.answers_with_body()
                    }
                    Outcome::WrongPart => matches!(case.operation, Operation::GetRange(_)),
                    Outcome::Wrong | Outcome::Garbled(_) | Outcome::NoHead | Outcome::Hung => false,
                };
                assert!(fits, "{outcome:?} {case:?}");
            }
        }
    }
}

#[test]
fn a_body_that_breaks_is_continued_by_digest_and_replaced_where_it_was_held_back() {
    for (operation, size) in [
        (Operation::GetBlob, SMALL),
        (Operation::GetBlob, LARGE),
        (RANGE, SMALL),
        (RANGE, LARGE),
        (Operation::GetByDigest, LARGE),
        (Operation::GetByTag, SMALL),
    ] {
        let case = case(operation, size, &[RESET_IN_BODY, None, RESET_IN_BODY]);
        assert_eq!(outcomes(&case, None), [Outcome::Whole], "{case:?}");
    }
    let by_tag = case(Operation::GetByTag, LARGE, &[RESET_IN_BODY, None]);
    let broken = Outcome::BrokenOff { ending: Ending::Cut, right_so_far: true };
    assert!(outcomes(&by_tag, None).contains(&broken));
}

#[test]
fn a_break_that_nobody_can_continue_shows_only_where_the_head_had_to_leave() {
    let broken = |right_so_far| Outcome::BrokenOff { ending: Ending::Cut, right_so_far };
    let large = outcomes(&case(Operation::GetBlob, LARGE, &[RESET_IN_BODY]), None);
    assert!(large.contains(&broken(true)) && !large.contains(&broken(false)), "{large:?}");
    let small = outcomes(&case(Operation::GetBlob, SMALL, &[RESET_IN_BODY]), None);
    assert_eq!(small, [Outcome::Whole, Outcome::Refused(504)]);
}

#[test]
fn wrong_bytes_are_never_completed_and_shown_only_where_they_had_to_be() {
    let reset = Outcome::BrokenOff { ending: Ending::Reset, right_so_far: false };
    let cut = Outcome::BrokenOff { ending: Ending::Cut, right_so_far: false };
    for operation in [Operation::GetBlob, Operation::GetByDigest, Operation::GetByTag] {
        let small = outcomes(&case(operation, SMALL, &[CORRUPT, None]), None);
        assert_eq!(small, [Outcome::Whole], "{operation:?}");
        let large = outcomes(&case(operation, LARGE, &[CORRUPT, None]), None);
        assert!(large.contains(&reset) && !large.contains(&cut), "{operation:?} {large:?}");
        assert!(!large.contains(&Outcome::Refused(504)), "{operation:?}: a good member is there");
    }
    let part = outcomes(&case(RANGE, LARGE, &[CORRUPT, None]), None);
    assert_eq!(part, [Outcome::Whole, Outcome::WrongPart]);
    let truncated = Some(Fault::WrongLength(WrongLength::Truncated(100)));
    let part = outcomes(&case(RANGE, LARGE, &[truncated, None]), None);
    assert!(part.contains(&cut) && !part.contains(&Outcome::WrongPart), "{part:?}");
}

#[test]
fn what_is_announced_too_long_counts_with_the_announced_length() {
    let padded = Some(Fault::WrongLength(WrongLength::Padded(100)));
    let held = case(Operation::GetBlob, HOLD / 2, &[padded, None]);
    assert_eq!(outcomes(&held, None), [Outcome::Whole]);
    let beyond = outcomes(&case(Operation::GetBlob, HOLD, &[padded, None]), None);
    assert!(beyond.len() > 1, "{beyond:?}");
}

#[test]
fn a_404_is_believed_of_two_members_or_of_all() {
    let unknown = Outcome::Refused(404);
    for (members, believed) in [
        (vec![MISSING, None], false),
        (vec![MISSING, None, None], false),
        (vec![MISSING, RESET_IN_HEAD, None], false),
        (vec![MISSING, MISSING, None], true),
        (vec![MISSING], true),
        (vec![MISSING, RESET_IN_HEAD], true),
    ] {
        let case = case(Operation::GetBlob, SMALL, &members);
        assert_eq!(outcomes(&case, None).contains(&unknown), believed, "{case:?}");
    }
}

#[test]
fn a_session_has_one_member_and_its_failures_are_told_as_they_are() {
    for operation in [Operation::Patch, Operation::PutWhole, Operation::PutLast] {
        for (fault, expected) in [
            (None, vec![Outcome::Whole]),
            (Some(Fault::Drip), vec![Outcome::Whole]),
            (Some(Fault::RefuseConnect), vec![Outcome::Refused(404), Outcome::Refused(504)]),
            (Some(Fault::Reset(Place::Request(5))), vec![Outcome::Refused(504)]),
            (Some(Fault::Status(500)), vec![Outcome::Refused(500)]),
            (Some(Fault::Status(502)), vec![Outcome::Refused(504)]),
            (Some(Fault::Status(503)), vec![Outcome::Refused(503)]),
            (MISSING, vec![Outcome::Refused(404)]),
        ] {
            // The other member is good, and must not matter.
            let case = case(operation, SMALL, &[None, fault]);
            assert_eq!(outcomes(&case, Some(1)), expected, "{case:?}");
        }
    }
    let damaged = |operation| outcomes(&case(operation, SMALL, &[CORRUPT]), Some(0));
    assert_eq!(damaged(Operation::PutWhole), [Outcome::Refused(504)]);
    assert_eq!(damaged(Operation::Patch), [Outcome::Whole]);
    assert!(!upload_must_end_well(&case(Operation::Patch, SMALL, &[CORRUPT]), 0));
}

#[test]
fn healing_is_asked_for_where_a_quarantine_can_bring_it() {
    let large = |operation, members: &[_]| case(operation, LARGE, members);
    assert!(must_heal(&large(Operation::GetBlob, &[CORRUPT, None])));
    assert!(!must_heal(&large(Operation::GetBlob, &[CORRUPT, CORRUPT])));
    assert!(!must_heal(&large(Operation::GetByTag, &[CORRUPT, None])));
    assert_eq!(breaks_max(&large(Operation::GetBlob, &[CORRUPT, RESET_IN_BODY, None])), 2);
}
