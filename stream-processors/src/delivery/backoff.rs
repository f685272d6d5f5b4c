//! Pauses between tries: exponential, bounded, with jitter.

use std::time::Duration;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

/// The pauses of one target; equal seeds give equal pauses.
#[derive(Debug)]
pub(super) struct Backoff {
    base: Duration,
    max: Duration,
    random: StdRng,
}

impl Backoff {
    pub(super) fn new(base: Duration, max: Duration, seed: u64) -> Self {
        Self { base, max, random: StdRng::seed_from_u64(seed) }
    }

    /// The pause after the `failures`-th failure in a row: between a half and the whole of `base`·2^(failures − 1),
    /// at most `max` ("equal jitter" of Brooker, Exponential Backoff and Jitter, AWS 2015).
    pub(super) fn pause(&mut self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(30);
        let whole = self.base.saturating_mul(1 << doublings).min(self.max);
        whole.mul_f64(self.random.random_range(0.5..=1.0))
    }

    /// The longest pause.
    pub(super) const fn longest(&self) -> Duration {
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: 40 failures in a row, from one seed twice and from another.
    /// Guarantee: each pause lies between a half and the whole of the doubled base, never above the bound; one seed
    /// repeats its pauses, another does not.
    #[test]
    fn pauses_double_up_to_the_bound() {
        let (base, max) = (Duration::from_millis(500), Duration::from_secs(60));
        let pauses = |seed| {
            let mut backoff = Backoff::new(base, max, seed);
            (1..=40).map(|failures| backoff.pause(failures)).collect::<Vec<_>>()
        };
        for (failures, pause) in (0..).zip(pauses(7)) {
            let whole = base.saturating_mul(1 << failures.min(30)).min(max);
            assert!(pause >= whole / 2 && pause <= whole, "{pause:?} of {whole:?}");
        }
        assert_eq!(pauses(7), pauses(7));
        assert_ne!(pauses(7), pauses(8));
    }
}
