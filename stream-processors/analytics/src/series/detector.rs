//! The detector: three views of the series, the rarest of them, and one alarm an incident.

use serde::{Deserialize, Serialize};

use super::{
    Detector,
    config::SeriesConfig,
    expectation::Expectation,
    familiar::Familiar,
    habituation::Habituation,
    tail::Tail,
    window::{Change, Window},
};

/// What made a row rare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum View {
    /// The value itself, against what is usual at this time of the season.
    Value,
    /// The mean of the last rows.
    Level,
    /// The spread of the last rows: restless, or standing still.
    Spread,
}

/// What is said of one row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// 0–1; an alarm from 0.5.
    pub score: f64,
    /// The value that was expected.
    pub expected: f64,
    /// How rare the row is (see [`super::tail`]), before habituation; `None` if it is not in the tail of any view.
    pub rarity: Option<f64>,
    /// What made it rare.
    pub view: Option<View>,
}

impl Score {
    /// Whether the row is an alarm.
    #[must_use]
    pub fn is_alarm(&self) -> bool {
        self.score >= ALARM_SCORE
    }
}

const ALARM_SCORE: f64 = 0.5;

/// What the rarity of a window is lessened by: log₁₀ 2. Of the false alarms that are allowed, single values get half
/// and the two statistics of the window a quarter each (weighted Bonferroni: C. R. Genovese, K. Roeder,
/// L. Wasserman, "False discovery control with p-value weighting", Biometrika 93, 2006).
const WINDOW_SHARE: f64 = std::f64::consts::LOG10_2;

/// Scores one series of (time, value), row by row. Its whole state is serialisable: what is restored goes on as if
/// it had never stopped.
///
/// Invariant: a score depends on the rows up to its own, and on nothing else.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SeriesDetector {
    config: SeriesConfig,
    expectation: Expectation,
    window: Window,
    familiar: Familiar,
    value_tail: Tail,
    level_tail: Tail,
    spread_tail: Tail,
    habituation: Habituation,
}

impl SeriesDetector {
    /// A detector that knows nothing yet.
    #[must_use]
    pub fn new(config: SeriesConfig) -> Self {
        Self {
            expectation: Expectation::new(&config),
            config,
            window: Window::default(),
            familiar: Familiar::default(),
            value_tail: Tail::default(),
            level_tail: Tail::default(),
            spread_tail: Tail::default(),
            habituation: Habituation::default(),
        }
    }

    /// Scores a row, then learns from it. A value that is no finite number is no observation: it scores 0 and is
    /// not learned from.
    ///
    /// The rarest view decides: Tippett's combination of tail probabilities (L. H. C. Tippett, "The Methods of
    /// Statistics", 1931).
    pub fn push(&mut self, at_ms: i64, value: f64) -> Score {
        if !value.is_finite() {
            return Score { score: 0.0, expected: value, rarity: None, view: None };
        }
        let config = &self.config;
        let surprise = self.expectation.push(config, at_ms, value);
        let most = self.familiar.push(config, value - surprise.expected).unwrap_or(f64::INFINITY);
        let Change { level, spread } = self.window.push(config, value);
        let views = [
            (
                View::Value,
                surprise
                    .bits
                    .and_then(|bits| self.value_tail.push(config, bits))
                    .map(|rarity| rarity.min(most)),
            ),
            (
                View::Level,
                level.and_then(|bits| self.level_tail.push(config, bits)).map(|rarity| rarity - WINDOW_SHARE),
            ),
            (
                View::Spread,
                spread
                    .and_then(|bits| self.spread_tail.push(config, bits))
                    .map(|rarity| rarity - WINDOW_SHARE),
            ),
        ];
        let rarest = views
            .into_iter()
            .filter_map(|(view, rarity)| Some((view, rarity?)))
            .max_by(|left, right| left.1.total_cmp(&right.1));
        let left = self.habituation.push(config, rarest.map(|(_, rarity)| rarity));
        Score {
            score: left.map_or(0.0, |left| 1.0 / (1.0 + 10_f64.powf(config.alarm - left))),
            expected: surprise.expected,
            rarity: rarest.map(|(_, rarity)| rarity),
            view: rarest.map(|(view, _)| view),
        }
    }
}

impl Default for SeriesDetector {
    fn default() -> Self {
        Self::new(SeriesConfig::default())
    }
}

impl Detector for SeriesDetector {
    fn score(&mut self, at_ms: i64, value: f64) -> f64 {
        self.push(at_ms, value).score
    }

    fn threshold(&self) -> f64 {
        ALARM_SCORE
    }
}

#[cfg(test)]
#[path = "detector_tests.rs"]
mod tests;
