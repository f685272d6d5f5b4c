//! DDSketch: quantiles with a bounded relative error, mergeable in any order.
//!
//! C. Masson, J. E. Rim, H. K. Lee, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error
//! guarantees", VLDB 2019, with the logarithmic mapping. Values are whole numbers of a measure's unit, so the sum is
//! exact and merging gives the same bytes in any order, which replays rely on.

use serde::{Deserialize, Serialize};

/// Relative error of a quantile.
pub const ACCURACY: f64 = 0.01;
/// Bins kept at most; past them the lowest are folded together, so high quantiles stay exact.
const MAX_BINS: usize = 2_048;
/// `(1 + ACCURACY) / (1 - ACCURACY)`.
const GAMMA: f64 = 1.01 / 0.99;

/// Quantiles, count, sum, minimum and maximum of a stream of whole numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sketch {
    count: u64,
    zeros: u64,
    sum: u64,
    min: u64,
    max: u64,
    first: i32,
    bins: Vec<u64>,
}

/// Bin of a value above 0: bin `i` holds `(gamma^(i-1), gamma^i]`.
fn bin_of(value: u64) -> i32 {
    ((value as f64).ln() / GAMMA.ln()).ceil() as i32
}

/// The value that stands for a bin, within the relative error of all it holds.
fn value_of(bin: i32) -> f64 {
    2.0 * GAMMA.powi(bin) / (GAMMA + 1.0)
}

impl Sketch {
    /// Adds one value.
    pub fn add(&mut self, value: u64) {
        self.add_many(value, 1);
    }

    /// Adds one value `times` times.
    pub fn add_many(&mut self, value: u64, times: u64) {
        if times == 0 {
            return;
        }
        self.min = if self.count == 0 { value } else { self.min.min(value) };
        self.max = self.max.max(value);
        self.count += times;
        self.sum = self.sum.saturating_add(value.saturating_mul(times));
        if value == 0 {
            self.zeros += times;
        } else {
            self.add_to_bin(bin_of(value), times);
        }
    }

    fn add_to_bin(&mut self, bin: i32, times: u64) {
        if self.bins.is_empty() {
            self.first = bin;
            self.bins.push(times);
            return;
        }
        if bin < self.first {
            let missing = (self.first - bin) as usize;
            if self.bins.len() + missing > MAX_BINS {
                self.bins[0] += times;
                return;
            }
            self.bins.splice(0..0, std::iter::repeat_n(0, missing));
            self.first = bin;
        }
        let index = (bin - self.first) as usize;
        if index >= self.bins.len() {
            self.bins.resize(index + 1, 0);
            self.fold_lowest();
        }
        let index = (bin - self.first).max(0) as usize;
        self.bins[index] += times;
    }

    fn fold_lowest(&mut self) {
        let surplus = self.bins.len().saturating_sub(MAX_BINS);
        if surplus > 0 {
            let folded: u64 = self.bins.drain(..surplus).sum();
            self.bins[0] += folded;
            self.first += surplus as i32;
        }
    }

    /// Adds everything that `other` holds.
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        self.min = if self.count == 0 { other.min } else { self.min.min(other.min) };
        self.max = self.max.max(other.max);
        self.count += other.count;
        self.zeros += other.zeros;
        self.sum = self.sum.saturating_add(other.sum);
        // From the highest, so that what is folded does not depend on the order of merges.
        for (index, &times) in other.bins.iter().enumerate().rev().filter(|(_, times)| **times > 0) {
            self.add_to_bin(other.first + index as i32, times);
        }
    }

    /// The value below or at which the share `q` (0–1) of all values lie; `None` when empty.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<f64> {
        if self.count == 0 {
            return None;
        }
        let rank = (q.clamp(0.0, 1.0) * (self.count - 1) as f64) as u64;
        let mut seen = self.zeros;
        if rank < seen {
            return Some(0.0);
        }
        for (index, times) in self.bins.iter().enumerate() {
            seen += times;
            if rank < seen {
                let value = value_of(self.first + index as i32);
                return Some(value.clamp(self.min as f64, self.max as f64));
            }
        }
        Some(self.max as f64)
    }

    /// Arithmetic mean; `None` when empty.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum as f64 / self.count as f64)
    }

    /// Share of values above `limit`, to the accuracy of a bin; 0 when empty.
    #[must_use]
    pub fn share_above(&self, limit: u64) -> f64 {
        if self.count == 0 {
            return 0.0;
        }
        let boundary = if limit == 0 { i32::MIN } else { bin_of(limit) };
        let above: u64 = self
            .bins
            .iter()
            .enumerate()
            .filter(|(index, _)| self.first + *index as i32 > boundary)
            .map(|(_, times)| times)
            .sum();
        above as f64 / self.count as f64
    }

    /// Number of values.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Number of values that are 0.
    #[must_use]
    pub const fn zeros(&self) -> u64 {
        self.zeros
    }

    /// Exact sum, saturating.
    #[must_use]
    pub const fn sum(&self) -> u64 {
        self.sum
    }

    /// Least value; 0 when empty.
    #[must_use]
    pub const fn min(&self) -> u64 {
        self.min
    }

    /// Greatest value; 0 when empty.
    #[must_use]
    pub const fn max(&self) -> u64 {
        self.max
    }

    /// Index of the first bin, and the counts from it on.
    #[must_use]
    pub fn bins(&self) -> (i32, &[u64]) {
        (self.first, &self.bins)
    }

    /// A sketch of its parts, as a topic carries them. What does not add up is made to: the counts of bins decide.
    #[must_use]
    pub fn from_parts(zeros: u64, sum: u64, min: u64, max: u64, first: i32, bins: Vec<u64>) -> Self {
        let count = bins.iter().fold(zeros, |all, &bin| all.saturating_add(bin));
        let mut sketch = Self { count, zeros, sum, min, max, first, bins };
        sketch.fold_lowest();
        sketch
    }

    /// Bytes held on the heap.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.bins.capacity() * size_of::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sketch(values: &[u64]) -> Sketch {
        let mut sketch = Sketch::default();
        values.iter().for_each(|&value| sketch.add(value));
        sketch
    }

    proptest! {
        /// Scenario: any values and any quantile. Guarantee: the answer is within 1 % of the exact one of that rank;
        /// count, sum and extremes are exact.
        #[test]
        fn quantiles_are_within_the_accuracy(values in prop::collection::vec(0u64..10_000_000_000, 1..400), q in 0.0f64..=1.0) {
            let sketch = sketch(&values);
            let mut sorted = values.clone();
            sorted.sort_unstable();
            let exact = sorted[(q * (sorted.len() - 1) as f64) as usize] as f64;
            let found = sketch.quantile(q).unwrap();
            prop_assert!((found - exact).abs() <= exact * (ACCURACY + 1e-9), "{found} for {exact}");
            prop_assert_eq!(sketch.count(), values.len() as u64);
            prop_assert_eq!(sketch.sum(), values.iter().sum::<u64>());
            prop_assert_eq!((sketch.min(), sketch.max()), (sorted[0], sorted[sorted.len() - 1]));
        }

        /// Scenario: values cut into parts that are merged in any order. Guarantee: the same sketch as of the whole.
        #[test]
        fn merging_knows_no_order(parts in prop::collection::vec(prop::collection::vec(0u64..1_000_000_000, 0..60), 1..8), turn in 0usize..8) {
            let whole = sketch(&parts.concat());
            let mut turned = parts.clone();
            turned.rotate_left(turn % parts.len());
            let mut merged = Sketch::default();
            turned.iter().for_each(|part| merged.merge(&sketch(part)));
            prop_assert_eq!(merged, whole);
        }

        /// Scenario: a sketch taken apart and put together. Guarantee: nothing changes.
        #[test]
        fn parts_make_the_whole(values in prop::collection::vec(0u64..u64::MAX / 1_000, 0..50)) {
            let sketch = sketch(&values);
            let (first, bins) = sketch.bins();
            let again = Sketch::from_parts(sketch.zeros(), sketch.sum(), sketch.min(), sketch.max(), first, bins.to_vec());
            prop_assert_eq!(again, sketch);
        }
    }
}
