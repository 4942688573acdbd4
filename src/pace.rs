//! The least rate at which a body has to move: bytes over time, where silence alone would let a peer that sends or
//! reads a byte now and then hold a request for ever.
//!
//! Times are given by the caller as the time since a moment of its own, such as the start of the request.

use std::time::Duration;

/// A bound on slowness: fewer than `bytes_per_second` over a whole `window` is too slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeastRate {
    /// Bytes per second; 0 for no bound.
    pub bytes_per_second: u64,
    /// The time over which they are counted.
    pub window: Duration,
}

impl LeastRate {
    /// The bytes of one window.
    #[must_use]
    pub fn bytes_per_window(self) -> u64 {
        let bytes = u128::from(self.bytes_per_second).saturating_mul(self.window.as_millis()) / 1000;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

/// Whether one body keeps to a [`LeastRate`]. Only the time for which the peer was waited for counts: a body that
/// stands still because this side does not want more of it is not slow.
///
/// Windows follow each other without a gap, so a peer that turns slow is noticed after one window at the least and
/// two at the most. Silence is for an idle deadline to notice, since this type is not asked while nothing moves.
#[derive(Debug, Clone)]
pub struct Pace {
    bytes_per_window: u64,
    window: Duration,
    /// Bytes and waiting in the window under way.
    bytes: u64,
    waited: Duration,
    /// Since when the peer is waited for.
    waits_since: Option<Duration>,
}

impl Pace {
    /// A body of which nothing has moved yet.
    #[must_use]
    pub fn new(least: LeastRate) -> Self {
        Self {
            bytes_per_window: least.bytes_per_window(),
            window: least.window,
            bytes: 0,
            waited: Duration::ZERO,
            waits_since: None,
        }
    }

    /// The peer is waited for, from `now` on unless it is already.
    pub fn waits(&mut self, now: Duration) {
        self.waits_since.get_or_insert(now);
    }

    /// The peer is not waited for any more: it is the turn of this side, or of what is behind it.
    pub fn rests(&mut self, now: Duration) {
        if let Some(since) = self.waits_since.take() {
            self.waited = self.waited.saturating_add(now.saturating_sub(since));
        }
    }

    /// So many bytes moved, which ends the wait for them. Says whether the body is too slow.
    #[must_use]
    pub fn moved(&mut self, bytes: u64, now: Duration) -> bool {
        self.rests(now);
        self.bytes = self.bytes.saturating_add(bytes);
        self.is_too_slow(now)
    }

    /// Bytes in the window under way.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether the window that ends now saw too few bytes. A window that saw enough is followed by a new one.
    #[must_use]
    pub fn is_too_slow(&mut self, now: Duration) -> bool {
        let waits = self.waits_since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
        if self.waited.saturating_add(waits) < self.window {
            return false;
        }
        if self.bytes < self.bytes_per_window {
            return true;
        }
        (self.bytes, self.waited) = (0, Duration::ZERO);
        self.waits_since = self.waits_since.map(|_| now);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: LeastRate = LeastRate { bytes_per_second: 1024, window: Duration::from_secs(60) };

    /// What happens, at which second.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        Waits(u64),
        Rests(u64),
        Moved(u64, u64),
        Looked(u64),
    }
    use Step::{Looked, Moved, Rests, Waits};

    /// Whether some step found the body too slow, and which.
    fn first_too_slow(least: LeastRate, steps: &[Step]) -> Option<usize> {
        let mut pace = Pace::new(least);
        let at = Duration::from_secs;
        steps.iter().position(|step| match *step {
            Waits(now) => {
                pace.waits(at(now));
                false
            }
            Rests(now) => {
                pace.rests(at(now));
                false
            }
            Moved(bytes, now) => pace.moved(bytes, at(now)),
            Looked(now) => pace.is_too_slow(at(now)),
        })
    }

    #[test]
    fn a_window_with_too_few_bytes_is_too_slow() {
        const WINDOW: u64 = 60 * 1024;
        let cases: [(&str, &[Step], Option<usize>); 9] = [
            (
                "a byte now and then",
                &[Waits(0), Moved(1, 30), Waits(30), Moved(1, 59), Waits(59), Moved(1, 60)],
                Some(5),
            ),
            ("exactly the least rate", &[Waits(0), Moved(WINDOW, 60)], None),
            ("one byte fewer", &[Waits(0), Moved(WINDOW - 1, 60)], Some(1)),
            ("silence, looked at", &[Waits(0), Looked(59), Looked(60)], Some(2)),
            (
                "a fast start pays for its own window only",
                &[Moved(1 << 30, 0), Waits(0), Looked(60), Looked(119), Looked(120)],
                Some(4),
            ),
            (
                "this side does not want more",
                &[Waits(0), Moved(1, 1), Looked(500), Waits(500), Moved(1, 501)],
                None,
            ),
            ("a rest is not counted", &[Waits(0), Rests(59), Looked(500), Waits(500), Looked(501)], Some(4)),
            ("waiting twice is waiting once", &[Waits(0), Waits(59), Looked(60)], Some(2)),
            ("a clock that steps back", &[Waits(100), Moved(1, 50), Looked(50)], None),
        ];
        for (case, steps, expected) in cases {
            assert_eq!(first_too_slow(LEAST, steps), expected, "{case}");
        }
    }

    #[test]
    fn a_rate_of_nothing_bounds_nothing() {
        let least = LeastRate { bytes_per_second: 0, ..LEAST };
        assert_eq!(first_too_slow(least, &[Waits(0), Looked(1_000_000)]), None);
    }

    #[test]
    fn large_rates_and_windows_do_not_overflow() {
        for (bytes_per_second, window, bytes) in [
            (1024, Duration::from_secs(60), 61_440),
            (1024, Duration::from_millis(500), 512),
            (u64::MAX, Duration::from_secs(60), u64::MAX),
            (u64::MAX, Duration::MAX, u64::MAX),
        ] {
            assert_eq!(LeastRate { bytes_per_second, window }.bytes_per_window(), bytes);
        }
    }
}
