//! A lasting change: the mean and the spread of the last rows against those of all windows before.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{
    config::SeriesConfig,
    running::{Mean, Ordered},
};

/// Weight of a new distance in the usual distance.
const USUAL: f64 = 0.002;
/// Windows to have seen before one can be unlike them.
const FEWEST_WINDOWS: usize = 8;
/// Smallest spread told from none, so that its logarithm exists.
const LEAST_SPREAD: f64 = 1e-9;

/// The last rows, and how unlike the windows before they are in mean and in spread.
///
/// The distance of a window's statistic from its median over time, in units of the usual such distance, is put
/// through the same heavy-tailed surprise as single values: 2·ln(1 + z²/3). Comparing statistics of a sliding window
/// with their past is Shewhart's control chart for the mean and for the standard deviation (W. A. Shewhart, "Economic
/// Control of Quality of Manufactured Product", 1931); the median in place of the mean keeps past incidents out.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Window {
    rows: VecDeque<f64>,
    /// Rows until the window shares none with the last one that was remembered.
    until_fresh: usize,
    mean: Statistic,
    spread: Statistic,
}

/// One statistic of the window, and its past.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Statistic {
    past: Ordered,
    usual: Mean,
}

/// How unlike its past the window is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Change {
    /// Surprise of the mean.
    pub(super) level: Option<f64>,
    /// Surprise of the logarithm of the standard deviation.
    pub(super) spread: Option<f64>,
}

impl Window {
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn push(&mut self, config: &SeriesConfig, value: f64) -> Change {
        self.rows.push_back(value);
        let width = config.window.max(2);
        if self.rows.len() <= width {
            return Change::default();
        }
        self.rows.pop_front();
        let count = width as f64;
        let mean = self.rows.iter().sum::<f64>() / count;
        let variance = self.rows.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count;
        let fresh = self.until_fresh == 0;
        self.until_fresh = if fresh { width - 1 } else { self.until_fresh - 1 };
        let kept = config.memory / width;
        Change {
            level: self.mean.push(mean, fresh, kept),
            spread: self.spread.push((variance.sqrt() + LEAST_SPREAD).ln(), fresh, kept),
        }
    }
}

impl Statistic {
    fn push(&mut self, x: f64, remember: bool, kept: usize) -> Option<f64> {
        let away =
            self.past.median().filter(|_| self.past.len() >= FEWEST_WINDOWS).map(|median| (x - median).abs());
        let surprise = away.filter(|_| self.usual.value > 0.0).map(|away| {
            let z = away / self.usual.value;
            2.0 * (z * z / 3.0).ln_1p()
        });
        if let Some(away) = away {
            self.usual.push(away, USUAL);
        }
        if remember {
            self.past.push(x, kept);
        }
        surprise
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A value of a fixed uneven pattern, 0–1.
    fn uneven(row: i64) -> f64 {
        (row * 7_919 % 101) as f64 / 100.0
    }

    /// Scenario: an uneven level, then a shift of its own width. Guarantee: no row is out of its range by much, yet
    /// the mean of the window is.
    #[test]
    fn a_shift_shows_in_the_mean() {
        let config = SeriesConfig::default();
        let mut window = Window::default();
        let mut usual = f64::MIN;
        for row in 0..1_000 {
            let change = window.push(&config, uneven(row));
            usual = change.level.map_or(usual, |level| usual.max(level));
        }
        let last = (1_000..1_024).map(|row| window.push(&config, uneven(row) + 1.0)).last().expect("rows");
        assert!(last.level.expect("known") > usual + 2.0);
    }

    /// Scenario: an uneven series that stands still. Guarantee: the spread tells.
    #[test]
    fn standing_still_shows_in_the_spread() {
        let config = SeriesConfig::default();
        let mut window = Window::default();
        let mut usual = f64::MIN;
        for row in 0..1_000 {
            let change = window.push(&config, uneven(row));
            if row > 500 {
                usual = change.spread.map_or(usual, |spread| usual.max(spread));
            }
        }
        let last = (0..24).map(|_| window.push(&config, 0.5)).last().expect("rows");
        assert!(last.spread.expect("known") > usual + 2.0);
    }
}
