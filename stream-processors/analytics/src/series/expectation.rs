//! What value is expected at this time of the season, how far off values usually are, and how surprising this one is.

use serde::{Deserialize, Serialize};

use super::{config::SeriesConfig, running::Mean};

/// Weight of a new value in statistics common to all cells.
const COMMON: f64 = 0.005;
/// Weight of a new value in the yardstick of the whole series.
const YARDSTICK: f64 = 0.002;
/// A cell's scale is at least this part of the series' own, else a series that repeats itself exactly would call
/// rounding an event.
const LEAST_SCALE: f64 = 0.1;

/// Location and scale by time of season.
///
/// Seasonal adjustment by cell means is classical decomposition (M. G. Kendall, A. Stuart, "The Advanced Theory of
/// Statistics" 3, ch. 46), here with exponential forgetting (C. C. Holt 1957, P. R. Winters 1960). A cell's scale is
/// shrunk towards the common one by n/(n + prior) (the James–Stein idea: B. Efron, C. Morris, JASA 70, 1975).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Expectation {
    cells: Vec<Cell>,
    /// Level of the series, expected where a cell knows nothing yet.
    level: Mean,
    /// Mean distance from what was expected.
    scale: Mean,
    /// Mean distance from the level: the unit in which the series is measured.
    yardstick: Mean,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Cell {
    location: Mean,
    scale: Mean,
}

/// A value against its expectation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Surprise {
    /// What was expected.
    pub(super) expected: f64,
    /// Minus the logarithm of the density of the value, in units of the series; `None` while nothing is known.
    pub(super) bits: Option<f64>,
}

impl Expectation {
    pub(super) fn new(config: &SeriesConfig) -> Self {
        Self {
            cells: vec![Cell::default(); config.cells.max(1)],
            level: Mean::default(),
            scale: Mean::default(),
            yardstick: Mean::default(),
        }
    }

    /// Judges `value`, then learns from it.
    ///
    /// Surprise is −ln f(x)·g for Student's t density with ν degrees of freedom (without its constant):
    /// (ν+1)/2 · ln(1 + z²/ν) + ln(s/g), z = |x − expected|/s, s the scale of the cell, g the yardstick. The heavy
    /// tail keeps one outlier from drowning the next (K. L. Lange, R. J. A. Little, J. M. G. Taylor, "Robust
    /// statistical modeling using the t distribution", JASA 84, 1989).
    pub(super) fn push(&mut self, config: &SeriesConfig, at_ms: i64, value: f64) -> Surprise {
        if self.level.count == 0.0 {
            self.level.value = value;
        }
        let index = self.cell_of(config, at_ms);
        let Some(cell) = self.cells.get_mut(index) else {
            return Surprise { expected: value, bits: None };
        };
        let known = cell.location.count;
        let expected = if known > 0.0 { cell.location.value } else { self.level.value };
        let away = (value - expected).abs();
        let own = (known * cell.scale.value + config.prior * self.scale.value) / (known + config.prior);
        let scale = own.max(LEAST_SCALE * self.yardstick.value);
        let bits = (scale > 0.0).then(|| {
            let z = away / scale;
            0.5 * (config.freedom + 1.0) * (z * z / config.freedom).ln_1p()
                + (scale / self.yardstick.value).ln()
        });

        self.scale.push(away, COMMON);
        if known > 0.0 {
            cell.location.push(value, config.forget);
            cell.scale.push(away, config.forget);
        } else {
            cell.location = Mean { value, count: 1.0 };
            cell.scale = Mean { value: self.scale.value, count: 1.0 };
        }
        let off_level = value - self.level.value;
        self.level.push(value, COMMON);
        self.yardstick.push(off_level.abs(), YARDSTICK);
        Surprise { expected, bits: bits.filter(|bits| bits.is_finite()) }
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn cell_of(&self, config: &SeriesConfig, at_ms: i64) -> usize {
        let season = i128::from(config.season_ms.max(1));
        let into = i128::from(at_ms).rem_euclid(season);
        (into * self.cells.len() as i128 / season) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    /// Scenario: ten days that are low at night and high by day, then a day that stays low. Guarantee: by day the
    /// high value is expected, and the low one, usual at night, surprises.
    #[test]
    fn the_time_of_day_decides_what_is_expected() {
        let config = SeriesConfig::default();
        let mut expectation = Expectation::new(&config);
        let value = |hour: i64| if hour % 24 >= 12 { 80.0 } else { 20.0 } + (hour % 7) as f64 * 0.3;
        let mut usual = f64::MIN;
        for hour in 0..240 {
            let surprise = expectation.push(&config, hour * HOUR, value(hour));
            if hour > 120 {
                usual = usual.max(surprise.bits.expect("known by now"));
            }
        }
        let night = expectation.push(&config, 243 * HOUR, 20.5);
        assert!((night.expected - 21.0).abs() < 1.0 && night.bits.expect("known") <= usual);
        let day = expectation.push(&config, 254 * HOUR, 20.5);
        assert!((day.expected - 81.0).abs() < 1.0 && day.bits.expect("known") > usual + 3.0);
    }

    /// Scenario: a constant series, and times before the epoch. Guarantee: no surprise is made up, nothing panics.
    #[test]
    fn a_constant_series_has_no_scale() {
        let config = SeriesConfig::default();
        let mut expectation = Expectation::new(&config);
        for hour in -100..100 {
            assert!(expectation.push(&config, hour * HOUR, 45.0).bits.is_none());
        }
    }
}
