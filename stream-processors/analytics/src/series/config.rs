//! What the detector can be told. One set of values serves every series; nothing here is fitted to one of them.

use serde::{Deserialize, Serialize};

/// Parameters of [`super::SeriesDetector`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SeriesConfig {
    /// Length of the season in milliseconds: what happens at the same time of it is expected to be alike.
    pub season_ms: i64,
    /// Cells that a season is cut into; each learns a location and a scale of its own.
    pub cells: usize,
    /// Weight of a new value in its cell, once the cell has seen 1/`forget` values.
    pub forget: f64,
    /// How many values of its own a cell needs to count as much as the scale common to all cells.
    pub prior: f64,
    /// Degrees of freedom of the Student t distribution that residuals are taken to have.
    pub freedom: f64,
    /// Rows in the window whose mean and whose spread are watched.
    pub window: usize,
    /// Rows that are remembered as the normal course of the series.
    pub memory: usize,
    /// Share of the remembered rows that counts as the tail.
    pub tail: f64,
    /// How often an event has to have been seen to be taken as known: the fitted tail may call it at most this many
    /// times rarer than it was counted.
    pub trust: f64,
    /// Rarity (see [`super::tail`]) from which a row is an alarm; the score there is 0.5.
    pub alarm: f64,
    /// Rarity that a row right after an alarm needs on top, so that one incident fires once.
    pub habit: f64,
    /// Rows in which that extra requirement falls to 1/e.
    pub recovery: f64,
    /// Rows to learn from before anything is called rare.
    pub warmup: usize,
}

impl Default for SeriesConfig {
    fn default() -> Self {
        Self {
            season_ms: 86_400_000,
            cells: 24,
            forget: 0.03,
            prior: 10.0,
            freedom: 3.0,
            window: 24,
            memory: 8_000,
            tail: 0.13,
            trust: 2.0,
            alarm: 1.0,
            habit: 2.0,
            recovery: 60.0,
            warmup: 30,
        }
    }
}
