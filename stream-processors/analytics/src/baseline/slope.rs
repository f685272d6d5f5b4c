//! How much slower a unit of work is in a larger batch, learnt from quiet windows.
//!
//! Least squares of ln(pace) on ln(batch) with exponential forgetting (half-life about two hours of windows). Needed to
//! tell a slow engine from a busy one: what is slow keeps more sequences in flight, and those slow it further.

use serde::{Deserialize, Serialize};

/// Weight that what was learnt keeps a window.
const KEEPS: f64 = 0.999;
/// Slope until there is enough to learn from: decoding is bound by memory bandwidth, so a step grows slower than its
/// batch.
const PRIOR: f64 = 0.35;
/// Pseudo-observations for the prior, in units of Σ(x − mean)².
const PRIOR_WEIGHT: f64 = 1.0;

/// Sums of the regression.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Slope {
    n: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
}

impl Slope {
    pub(crate) fn learn(&mut self, batch: f64, pace: f64) {
        if batch <= 0.0 || pace <= 0.0 {
            return;
        }
        let (x, y) = (batch.max(1.0).ln(), pace.ln());
        for sum in [&mut self.n, &mut self.x, &mut self.y, &mut self.xx, &mut self.xy] {
            *sum *= KEEPS;
        }
        self.n += 1.0;
        self.x += x;
        self.y += y;
        self.xx += x * x;
        self.xy += x * y;
    }

    /// The slope, between 0.1 and 1.2; near the prior while batches have hardly varied.
    pub(crate) fn get(&self) -> f64 {
        if self.n < 1.0 {
            return PRIOR;
        }
        let spread = (self.xx - self.x * self.x / self.n).max(0.0);
        let together = self.xy - self.x * self.y / self.n;
        ((together + PRIOR * PRIOR_WEIGHT) / (spread + PRIOR_WEIGHT)).clamp(0.1, 1.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: nothing, then pace growing with the root of the batch. Guarantee: the prior, then one half.
    #[test]
    fn a_slope_is_learnt() {
        let mut slope = Slope::default();
        assert!((slope.get() - PRIOR).abs() < 1e-9);
        for index in 0..600 {
            let batch = 4.0 + f64::from(index % 20);
            slope.learn(batch, 0.01 * batch.sqrt());
        }
        assert!((slope.get() - 0.5).abs() < 0.01, "{}", slope.get());
    }
}
