//! What an analyst can be told.

use serde::Deserialize;

use crate::rollup::Millis;

/// Settings of an [`Analyst`](crate::analyst::Analyst).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AnalystConfig {
    /// How far the least watermark has to pass a window's end for the window to close.
    pub lateness_ms: Millis,
    /// A source so far behind the foremost does not hold windows open.
    pub idle_after_ms: Millis,
    /// Which of the partitions of partials this one reads.
    pub partition: u32,
    /// How many there are; cells that all of them get are told by one.
    pub partitions: u32,
}

impl Default for AnalystConfig {
    fn default() -> Self {
        Self { lateness_ms: 1_500, idle_after_ms: 60_000, partition: 0, partitions: 1 }
    }
}
