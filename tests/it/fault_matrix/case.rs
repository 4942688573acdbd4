//! What can happen: the operations, the faults, and the list of cases that a seed stands for.

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{RngExt as _, SeedableRng as _};

use super::HOLD;

/// The tag of the manifest.
pub(super) const TAG: &str = "v1";
/// A thousandth is the unit of where in an answer a fault strikes.
pub(super) const WHOLE: u16 = 1000;

/// What the client does while members misbehave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    GetBlob,
    GetRange(Span),
    GetByDigest,
    GetByTag,
    HeadBlob,
    HeadManifest,
    UploadStart,
    Patch,
    /// The last request of an upload, with all of the blob in it.
    PutWhole,
    /// The last request of an upload whose bytes came by PATCH before.
    PutLast,
    PutManifest,
}

/// A client's `Range`, in thousandths of the blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Span {
    /// `bytes=a-`
    From(u16),
    /// `bytes=a-b`
    Within(u16, u16),
    /// `bytes=-n`
    Last(u16),
}

/// Where a fault strikes, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// While the request's body arrives.
    Request(u16),
    /// In the head of the answer.
    Head(u16),
    /// In the body of the answer; `Body(0)` is right after its head.
    Body(u16),
    /// After the whole answer.
    End,
}

/// A length that is not that of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WrongLength {
    /// Some bytes too few are announced and sent.
    Truncated(u16),
    /// Too few are announced, all are sent.
    Understated(u16),
    /// Too many are announced, and as many are sent: the body and rubbish.
    Padded(u16),
    /// Too many are announced, all there are are sent, and then it ends.
    Overstated(u16),
}

/// What a member does wrong to the operation under test. Everything else it does right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    RefuseConnect,
    NeverAnswer,
    /// The connection is reset (RST).
    Reset(Place),
    /// Nothing moves any more, and nothing is closed.
    Stall(Place),
    /// The connection is closed in good order (FIN).
    Short(Place),
    /// Only the member's sending side is closed; it goes on reading.
    HalfClose(Place),
    /// One byte is another one: of a body that is read, or of what is stored.
    Corrupt(u16),
    WrongLength(WrongLength),
    Status(u16),
    NotFound,
    /// Everything is right, and comes in small pieces.
    Drip,
}

/// The column of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FaultKind {
    None,
    RefuseConnect,
    NeverAnswer,
    Reset,
    Stall,
    Short,
    HalfClose,
    Corrupt,
    WrongLength,
    Status(u16),
    NotFound,
    Drip,
}

/// How the client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Protocol {
    H1,
    H2,
}

/// One thing that happens, from beginning to end.
#[derive(Debug, Clone)]
pub(super) struct Case {
    /// Its number in the list of its seed, whatever order they come in.
    pub(super) number: usize,
    /// What everything about it was drawn from.
    pub(super) seed: u64,
    pub(super) operation: Operation,
    pub(super) protocol: Protocol,
    /// One entry a member; `None` is a good one.
    pub(super) members: Vec<Option<Fault>>,
    /// Bytes of the blob or manifest.
    pub(super) size: usize,
    /// Whether the client says how long its body is.
    pub(super) length_known: bool,
}

pub(super) const FAULT_KINDS: [FaultKind; 14] = [
    FaultKind::RefuseConnect,
    FaultKind::NeverAnswer,
    FaultKind::Reset,
    FaultKind::Stall,
    FaultKind::Short,
    FaultKind::HalfClose,
    FaultKind::Corrupt,
    FaultKind::WrongLength,
    FaultKind::Status(500),
    FaultKind::Status(502),
    FaultKind::Status(503),
    FaultKind::Status(504),
    FaultKind::NotFound,
    FaultKind::Drip,
];

/// How many members there are, and how many of them are good.
const LAYOUTS: [(usize, usize); 9] = [(1, 0), (1, 1), (2, 0), (2, 1), (2, 2), (3, 0), (3, 1), (3, 2), (3, 3)];

impl Operation {
    /// Whether the client reads content.
    pub(super) fn reads(self) -> bool {
        matches!(
            self,
            Self::GetBlob
                | Self::GetRange(_)
                | Self::GetByDigest
                | Self::GetByTag
                | Self::HeadBlob
                | Self::HeadManifest
        )
    }

    /// Whether a right answer has a body.
    pub(super) fn answers_with_body(self) -> bool {
        matches!(self, Self::GetBlob | Self::GetRange(_) | Self::GetByDigest | Self::GetByTag)
    }

    /// Whether the request goes to the member of an upload session and no other.
    pub(super) fn is_pinned(self) -> bool {
        matches!(self, Self::Patch | Self::PutWhole | Self::PutLast)
    }

    /// Whether the request has a body.
    pub(super) fn sends_body(self) -> bool {
        matches!(self, Self::Patch | Self::PutWhole | Self::PutManifest)
    }

    /// The row of the report.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::GetBlob => "GET blob",
            Self::GetRange(_) => "GET blob, Range",
            Self::GetByDigest => "GET manifest, digest",
            Self::GetByTag => "GET manifest, tag",
            Self::HeadBlob => "HEAD blob",
            Self::HeadManifest => "HEAD manifest",
            Self::UploadStart => "POST upload",
            Self::Patch => "PATCH",
            Self::PutWhole => "PUT, whole blob",
            Self::PutLast => "PUT, after PATCH",
            Self::PutManifest => "PUT manifest",
        }
    }

    /// Whether this can go wrong in this way at all.
    fn can_meet(self, kind: FaultKind) -> bool {
        match kind {
            // A head without a body can be wrong about the body's length, and nobody can tell; of what is written, only the bytes
            // that are stored can be other ones. An upload start has nothing that could.
            FaultKind::Corrupt => !matches!(self, Self::HeadBlob | Self::HeadManifest | Self::UploadStart),
            FaultKind::WrongLength => self.answers_with_body(),
            _ => true,
        }
    }
}

impl Span {
    /// First and last byte of `len`.
    pub(super) fn bounds(self, len: usize) -> (usize, usize) {
        let at = |thousandths: u16| len * usize::from(thousandths) / usize::from(WHOLE);
        match self {
            Self::From(from) => (at(from), len - 1),
            Self::Within(from, to) => (at(from), at(to).min(len - 1)),
            Self::Last(last) => (len - at(last).max(1), len - 1),
        }
    }

    /// The header.
    pub(super) fn header(self, len: usize) -> String {
        let (first, last) = self.bounds(len);
        match self {
            Self::From(_) => format!("bytes={first}-"),
            Self::Within(..) => format!("bytes={first}-{last}"),
            Self::Last(_) => format!("bytes=-{}", len - first),
        }
    }
}

impl Fault {
    pub(super) fn kind(self) -> FaultKind {
        match self {
            Self::RefuseConnect => FaultKind::RefuseConnect,
            Self::NeverAnswer => FaultKind::NeverAnswer,
            Self::Reset(_) => FaultKind::Reset,
            Self::Stall(_) => FaultKind::Stall,
            Self::Short(_) => FaultKind::Short,
            Self::HalfClose(_) => FaultKind::HalfClose,
            Self::Corrupt(_) => FaultKind::Corrupt,
            Self::WrongLength(_) => FaultKind::WrongLength,
            Self::Status(status) => FaultKind::Status(status),
            Self::NotFound => FaultKind::NotFound,
            Self::Drip => FaultKind::Drip,
        }
    }

    fn draw(kind: FaultKind, operation: Operation, random: &mut StdRng) -> Self {
        let some = |random: &mut StdRng| random.random_range(1..400_u16);
        match kind {
            FaultKind::RefuseConnect => Self::RefuseConnect,
            FaultKind::NeverAnswer => Self::NeverAnswer,
            FaultKind::Reset => Self::Reset(Place::draw(operation, random)),
            FaultKind::Stall => Self::Stall(Place::draw(operation, random)),
            FaultKind::Short => Self::Short(Place::draw(operation, random)),
            FaultKind::HalfClose if random.random_bool(0.2) => Self::HalfClose(Place::End),
            FaultKind::HalfClose => Self::HalfClose(Place::draw(operation, random)),
            FaultKind::Corrupt => Self::Corrupt(random.random_range(0..WHOLE)),
            FaultKind::WrongLength => Self::WrongLength(match random.random_range(0..4) {
                0 => WrongLength::Truncated(some(random)),
                1 => WrongLength::Understated(some(random)),
                2 => WrongLength::Padded(some(random)),
                _ => WrongLength::Overstated(some(random)),
            }),
            FaultKind::Status(status) => Self::Status(status),
            FaultKind::NotFound => Self::NotFound,
            FaultKind::Drip | FaultKind::None => Self::Drip,
        }
    }
}

impl Place {
    /// Edges are where mistakes are, so they come often.
    fn draw(operation: Operation, random: &mut StdRng) -> Self {
        let at = match random.random_range(0..6) {
            0 => 0,
            1 => WHOLE - 1,
            _ => random.random_range(0..WHOLE),
        };
        match random.random_range(0..10) {
            0..7 if operation.answers_with_body() => Self::Body(at),
            0..5 if operation.sends_body() => Self::Request(at),
            _ => Self::Head(at),
        }
    }
}

impl Case {
    /// The fault that the case stands for in the report.
    pub(super) fn kind(&self) -> FaultKind {
        self.members.iter().flatten().next().map_or(FaultKind::None, |fault| fault.kind())
    }

    fn draw(number: usize, seed: u64, cell: (Operation, FaultKind, Protocol), good: (usize, usize)) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let (operation, kind, protocol) = cell;
        let (count, good) = good;
        let operation = with_span(operation, &mut random);
        let mut members: Vec<Option<Fault>> = Vec::new();
        for at in 0..count - good {
            // The first has the fault of the cell, the others the same or another one.
            let other = at > 0 && random.random_bool(0.5);
            let others: Vec<_> = FAULT_KINDS.into_iter().filter(|kind| operation.can_meet(*kind)).collect();
            let kind = if other { *others.choose(&mut random).expect("not empty") } else { kind };
            members.push(Some(Fault::draw(kind, operation, &mut random)));
        }
        members.resize(count, None);
        let size = draw_size(operation, &mut random);
        Self { number, seed, operation, protocol, members, size, length_known: random.random_bool(0.5) }
    }
}

fn with_span(operation: Operation, random: &mut StdRng) -> Operation {
    let Operation::GetRange(_) = operation else { return operation };
    let from = random.random_range(0..WHOLE);
    Operation::GetRange(match random.random_range(0..4) {
        0 => Span::Within(from, random.random_range(from..WHOLE)),
        1 => Span::Last(random.random_range(1..=WHOLE)),
        2 => Span::From(0),
        _ => Span::From(from),
    })
}

fn draw_size(operation: Operation, random: &mut StdRng) -> usize {
    match (operation, random.random_range(0..10)) {
        // Around what is held back and verified.
        (_, 0) => HOLD - 1,
        (_, 1) => HOLD,
        (_, 2) => HOLD + 1,
        // Manifests of thousands of layers are rare, and may be.
        (Operation::GetByDigest | Operation::GetByTag | Operation::PutManifest, 3..8)
        | (Operation::HeadManifest, 3..) => random.random_range(300..4_000),
        (_, 3..5) => random.random_range(1_000..HOLD),
        (_, 5) => random.random_range(1..40),
        (_, _) => random.random_range(HOLD..5 * HOLD),
    }
}

/// Every cell of the matrix, `rounds` times over, with everything else drawn from `seed`.
pub(super) fn draw_all(seed: u64, rounds: usize) -> Vec<Case> {
    const OPERATIONS: [Operation; 11] = [
        Operation::GetBlob,
        Operation::GetRange(Span::From(0)),
        Operation::GetByDigest,
        Operation::GetByTag,
        Operation::HeadBlob,
        Operation::HeadManifest,
        Operation::UploadStart,
        Operation::Patch,
        Operation::PutWhole,
        Operation::PutLast,
        Operation::PutManifest,
    ];
    let mut seeds = StdRng::seed_from_u64(seed);
    let mut cases = Vec::new();
    for _ in 0..rounds {
        for operation in OPERATIONS {
            for protocol in [Protocol::H1, Protocol::H2] {
                for layout in LAYOUTS {
                    for kind in FAULT_KINDS.into_iter().filter(|kind| operation.can_meet(*kind)) {
                        // Without a faulty member all faults are one.
                        if layout.0 > layout.1 || kind == FaultKind::Drip {
                            let (cell, number) = ((operation, kind, protocol), cases.len());
                            cases.push(Case::draw(number, seeds.random(), cell, layout));
                        }
                    }
                }
            }
        }
    }
    // What only waits and what is quick come mixed, so that the machine has the same to do all the time.
    cases.shuffle(&mut seeds);
    cases
}

#[test]
fn a_seed_stands_for_one_list_and_every_cell_is_in_it() {
    let text = |seed| format!("{:?}", draw_all(seed, 1));
    assert_eq!(text(7), text(7));
    assert_ne!(text(7), text(8));
    let cases = draw_all(7, 2);
    assert!(cases.len() >= 3000, "{} cases", cases.len());
    for kind in FAULT_KINDS {
        let of_kind = |case: &&Case| case.kind() == kind;
        assert!(cases.iter().filter(of_kind).count() >= 90, "{kind:?}");
    }
    for case in &cases {
        assert!((1..=3).contains(&case.members.len()) && case.size > 0, "{case:?}");
    }
}

#[test]
fn spans_are_the_headers_they_are_sent_as() {
    for (span, header, bounds) in [
        (Span::From(0), "bytes=0-", (0, 99)),
        (Span::From(500), "bytes=50-", (50, 99)),
        (Span::Within(100, 200), "bytes=10-20", (10, 20)),
        (Span::Within(999, 999), "bytes=99-99", (99, 99)),
        (Span::Last(1), "bytes=-1", (99, 99)),
        (Span::Last(1000), "bytes=-100", (0, 99)),
    ] {
        assert_eq!((span.header(100).as_str(), span.bounds(100)), (header, bounds));
    }
}
