//! Running statistics that start as plain averages and then forget slowly.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// A mean whose weights are 1/n until n reaches 1/`floor`, and exponential from then on.
///
/// mₙ = mₙ₋₁ + max(1/n, floor)·(x − mₙ₋₁).
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Mean {
    pub(super) value: f64,
    pub(super) count: f64,
}

impl Mean {
    pub(super) fn push(&mut self, x: f64, floor: f64) {
        self.count += 1.0;
        self.value += (x - self.value) * (1.0 / self.count).max(floor);
    }
}

/// The last `capacity` values in order of size. Adding costs a binary search and a short move.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Ordered {
    arrived: VecDeque<f64>,
    ordered: Vec<f64>,
}

impl Ordered {
    pub(super) fn len(&self) -> usize {
        self.ordered.len()
    }

    pub(super) fn median(&self) -> Option<f64> {
        self.ordered.get(self.ordered.len() / 2).copied()
    }

    /// How many values are at least `from` and at most `to`.
    pub(super) fn within(&self, from: f64, to: f64) -> usize {
        let below = self.ordered.partition_point(|&y| y < from);
        self.ordered.partition_point(|&y| y <= to).saturating_sub(below)
    }

    pub(super) fn push(&mut self, x: f64, capacity: usize) {
        self.ordered.insert(self.ordered.partition_point(|&y| y < x), x);
        self.arrived.push_back(x);
        while self.arrived.len() > capacity.max(1) {
            if let Some(old) = self.arrived.pop_front() {
                self.ordered.remove(self.ordered.partition_point(|&y| y < old));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: few values, then a change and many. Guarantee: at first the plain mean, in the end the new level.
    #[test]
    fn a_mean_that_forgets() {
        let mut mean = Mean::default();
        for x in [1.0, 2.0, 6.0] {
            mean.push(x, 0.01);
        }
        assert!((mean.value - 3.0).abs() < 1e-12);
        for _ in 0..2_000 {
            mean.push(10.0, 0.01);
        }
        assert!((mean.value - 10.0).abs() < 1e-6);
    }

    /// Scenario: more values than the capacity. Guarantee: the median and the counts of the last ones only.
    #[test]
    fn order_of_the_last_values() {
        let mut values = Ordered::default();
        assert_eq!(values.median(), None);
        for x in [100.0, 100.0, 100.0, 1.0, 3.0, 2.0] {
            values.push(x, 3);
        }
        assert_eq!((values.median(), values.len()), (Some(2.0), 3));
        assert_eq!((values.within(2.0, 3.0), values.within(4.0, 200.0), values.within(3.0, 2.0)), (2, 0, 0));
    }
}
