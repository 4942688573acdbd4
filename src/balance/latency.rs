//! Peak-EWMA of a member's time to the first byte: a worse sample counts at once, a better one
//! slowly, and an old one fades, so that a member that was slow is looked at again.

/// How fast a sample fades, in milliseconds: to about a third in this time.
const DECAY_MS: f64 = 10_000.0;

/// The average as one word: seconds as the bits of an `f32` above, milliseconds of some clock below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PeakEwma(u64);

impl PeakEwma {
    /// From its word, as [`PeakEwma::to_bits`] gave it.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// As one word, for an atomic.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// The average after one more sample, in seconds. `now_ms` may wrap around.
    #[must_use]
    pub fn with_sample(self, sample: f64, now_ms: u32) -> Self {
        let faded = self.seconds(now_ms);
        let next = if sample >= faded {
            sample
        } else {
            // What has faded away is made up for by the sample.
            let weight = self.fading(now_ms);
            self.raw() * weight + sample * (1.0 - weight)
        };
        #[expect(clippy::cast_possible_truncation, reason = "seven digits are plenty for a time")]
        let bits = (next as f32).to_bits();
        Self(u64::from(bits) << 32 | u64::from(now_ms))
    }

    /// The average now, in seconds.
    #[must_use]
    pub fn seconds(self, now_ms: u32) -> f64 {
        self.raw() * self.fading(now_ms)
    }

    fn raw(self) -> f64 {
        let bits = (self.0 >> 32) as u32;
        f64::from(f32::from_bits(bits))
    }

    fn fading(self, now_ms: u32) -> f64 {
        #[expect(clippy::cast_possible_truncation, reason = "the lower half of the word")]
        let at = self.0 as u32;
        let age = now_ms.wrapping_sub(at);
        // Another worker's clock may be read a moment earlier.
        let age = if age > u32::MAX / 2 { 0 } else { age };
        (-f64::from(age) / DECAY_MS).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_counts_at_once_and_fades() {
        let quick = (0..50).fold(PeakEwma::default(), |ewma, at| ewma.with_sample(0.010, at * 100));
        assert!((quick.seconds(4900) - 0.010).abs() < 0.001, "{quick:?}");
        let peak = quick.with_sample(2.0, 5000);
        assert!((peak.seconds(5000) - 2.0).abs() < 1e-6);
        assert!(peak.seconds(15_000) < 0.8 && peak.seconds(15_000) > 0.7);
        assert!(peak.seconds(75_000) < 0.010, "it is forgotten");
        let better = peak.with_sample(0.010, 5100);
        assert!(better.seconds(5100) > 1.9, "one good answer does not outweigh a peak");
    }

    #[test]
    fn a_clock_that_wraps_or_lags_does_no_harm() {
        let ewma = PeakEwma::default().with_sample(1.0, u32::MAX - 10);
        assert!(ewma.seconds(10) > 0.99);
        assert!(ewma.seconds(u32::MAX - 20) > 0.99);
        assert_eq!(PeakEwma::from_bits(ewma.to_bits()), ewma);
    }
}
