//! Median and MAD of the last hour of windows, with flagged windows clipped.
//!
//! The median absolute deviation × 1.4826 estimates a standard deviation that half of the values cannot spoil
//! (P. J. Rousseeuw, C. Croux, "Alternatives to the Median Absolute Deviation", JASA 1993). Winsorising (clipping to
//! the median ± [`CLIP`] deviations) lets a lasting change become normal over hours, but no incident in minutes.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Windows that are remembered: one hour.
pub(crate) const REMEMBERED: usize = 360;
/// Deviations to which flagged values are clipped.
const CLIP: f64 = 3.0;
/// Makes the MAD of normally distributed values their standard deviation.
const MAD_TO_SIGMA: f64 = 1.4826;

/// Middle and spread on the scale of the values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Level {
    pub(crate) median: f64,
    pub(crate) mad: f64,
}

impl Level {
    /// Standard deviations from the median; no spread is taken to be less than `floor`.
    pub(crate) fn z(self, value: f64, floor: f64) -> f64 {
        (value - self.median) / self.sigma(floor)
    }

    /// The standard deviation, at least `floor`.
    pub(crate) fn sigma(self, floor: f64) -> f64 {
        (self.mad * MAD_TO_SIGMA).max(floor)
    }
}

/// The last values of one series.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Recent {
    values: VecDeque<f32>,
    /// Which of them were clipped, as bits from the newest.
    clipped: VecDeque<bool>,
    level: Level,
}

impl Recent {
    pub(crate) fn push(&mut self, value: f64, flagged: bool, floor: f64) {
        let mut value = value;
        if flagged && self.values.len() >= super::COLD_WINDOWS {
            let reach = CLIP * self.level.sigma(floor);
            value = value.clamp(self.level.median - reach, self.level.median + reach);
        }
        if self.values.len() == REMEMBERED {
            self.values.pop_front();
            self.clipped.pop_front();
        }
        self.values.push_back(value as f32);
        self.clipped.push_back(flagged);
    }

    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    pub(crate) fn clipped(&self) -> usize {
        self.clipped.iter().filter(|clipped| **clipped).count()
    }

    pub(crate) const fn level(&self) -> Level {
        self.level
    }

    pub(crate) fn mean(&self) -> f64 {
        let sum: f64 = self.values.iter().map(|value| f64::from(*value)).sum();
        sum / self.values.len().max(1) as f64
    }

    /// Recomputes median and MAD.
    pub(crate) fn compute(&mut self) {
        let mut values: Vec<f32> = self.values.iter().copied().collect();
        let Some(median) = quantile(&mut values, 0.5) else { return };
        values.iter_mut().for_each(|value| *value = (*value - median).abs());
        let mad = quantile(&mut values, 0.5).unwrap_or(0.0);
        self.level = Level { median: f64::from(median), mad: f64::from(mad) };
    }

    /// A quantile of what is remembered.
    pub(crate) fn quantile(&self, q: f64) -> Option<f64> {
        let mut values: Vec<f32> = self.values.iter().copied().collect();
        quantile(&mut values, q).map(f64::from)
    }
}

fn quantile(values: &mut [f32], q: f64) -> Option<f32> {
    let last = values.len().checked_sub(1)?;
    let rank = (q * last as f64) as usize;
    Some(*values.select_nth_unstable_by(rank, f32::total_cmp).1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: an hour around 100, then half an hour at ten times that, flagged. Guarantee: the median hardly
    /// moves, and the spread stays of the same order.
    #[test]
    fn an_incident_does_not_poison() {
        let mut recent = Recent::default();
        let value =
            |index: usize, level: f64| (level * (1.0 + 0.1 * ((index * 7 % 11) as f64 / 5.0 - 1.0))).ln();
        (0..360).for_each(|index| recent.push(value(index, 100.0), false, 0.05));
        recent.compute();
        let before = recent.level();
        for index in 0..170 {
            recent.push(value(index, 1_000.0), true, 0.05);
            recent.compute();
        }
        let after = recent.level();
        assert!((after.median - before.median).abs() < 0.1, "{before:?} {after:?}");
        assert!(after.mad < 3.0 * before.mad + 0.05, "{before:?} {after:?}");
        assert_eq!(recent.clipped(), 170);
    }
}
