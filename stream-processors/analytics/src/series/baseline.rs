//! The two rules that dashboards ship, to compare with: a control chart on an EWMA, and "three times the usual".

use serde::{Deserialize, Serialize};

use super::Detector;

/// EWMA control chart: the distance of a value from the exponentially weighted mean, in exponentially weighted
/// standard deviations, squashed to 0–1.
///
/// μₜ = μₜ₋₁ + λ(x − μₜ₋₁), σ²ₜ = (1 − λ)(σ²ₜ₋₁ + λ(x − μₜ₋₁)²).
/// Sources: S. W. Roberts, "Control Chart Tests Based on Geometric Moving Averages", Technometrics 1 (1959); the
/// variance: T. Finch, "Incremental calculation of weighted mean and variance" (2009).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ewma {
    weight: f64,
    mean: Option<f64>,
    variance: f64,
}

impl Ewma {
    /// λ = 0.01, a memory of some hundred rows.
    #[must_use]
    pub fn new() -> Self {
        Self { weight: 0.01, mean: None, variance: 0.0 }
    }
}

impl Default for Ewma {
    fn default() -> Self {
        Self::new()
    }
}

impl Detector for Ewma {
    fn score(&mut self, _: i64, value: f64) -> f64 {
        let Some(mean) = self.mean else {
            self.mean = Some(value);
            return 0.0;
        };
        let away = value - mean;
        let score = if self.variance > 0.0 { squash(away.abs() / self.variance.sqrt()) } else { 0.0 };
        self.mean = Some(mean + self.weight * away);
        self.variance = (1.0 - self.weight) * (self.variance + self.weight * away * away);
        score
    }

    fn threshold(&self) -> f64 {
        squash(3.0)
    }
}

/// z standard deviations as 1 − 1/(1 + z²), which grows with z and stays apart where a normal tail would round to 1.
/// It is Cantelli's bound of the tail (F. P. Cantelli, 1928), good for any distribution.
fn squash(deviations: f64) -> f64 {
    1.0 - 1.0 / (1.0 + deviations * deviations)
}

/// The alert most people write first: over three times the running mean, yes or no.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ThreeTimes {
    mean: Option<f64>,
}

impl Detector for ThreeTimes {
    fn score(&mut self, _: i64, value: f64) -> f64 {
        let mean = *self.mean.get_or_insert(value);
        self.mean = Some(mean + 0.01 * (value - mean));
        if value > 3.0 * mean { 1.0 } else { 0.0 }
    }

    fn threshold(&self) -> f64 {
        1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: values that alternate around 10 and then a 50. Guarantee: both rules alarm there and not before.
    #[test]
    fn both_see_a_spike_and_not_the_noise() {
        let (mut ewma, mut three) = (Ewma::new(), ThreeTimes::default());
        for row in 0..500 {
            let value = if row % 2 == 0 { 9.0 } else { 11.0 };
            let scores = (ewma.score(row, value), three.score(row, value));
            assert!(row < 100 || scores.0 < ewma.threshold(), "{row}");
            assert!(scores.1 < three.threshold());
        }
        assert!(ewma.score(500, 50.0) >= ewma.threshold());
        assert!(three.score(500, 50.0) >= three.threshold());
    }

    /// Scenario: a constant series. Guarantee: the score stays 0, not a division by nothing.
    #[test]
    fn a_flat_line_scores_nothing() {
        let mut ewma = Ewma::new();
        for row in 0..10 {
            assert!(ewma.score(row, 45.0).abs() < f64::EPSILON);
        }
    }
}
