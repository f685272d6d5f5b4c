//! What an analyst can be told.

use serde::Deserialize;

use crate::{detect::DetectorParams, rollup::Millis, slo::Objective};

/// A time in which nothing of a model is opened: what is still there afterwards opens then.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mute {
    /// Only this tenant, if given.
    #[serde(default)]
    pub tenant: Option<String>,
    /// Only this model, if given.
    #[serde(default)]
    pub model: Option<String>,
    /// Only this kind of insight, if given.
    #[serde(default)]
    pub kind: Option<String>,
    /// From, event time.
    pub from_ms: Millis,
    /// To, exclusive.
    pub to_ms: Millis,
}

/// Settings of an [`Analyst`](crate::analyst::Analyst).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AnalystConfig {
    /// How far the least watermark has to pass a window's end for the window to close.
    pub lateness_ms: Millis,
    /// A source that wrote nothing for so long, by the time stamps of what the others write, holds no windows open.
    pub idle_after_ms: Millis,
    /// A source so far behind the foremost, event time, holds no windows open even if it writes: they wait in memory.
    pub most_behind_ms: Millis,
    /// Which of the partitions of partials this one reads.
    pub partition: u32,
    /// How many there are; cells that all of them get are told by one.
    pub partitions: u32,
    /// Models of tenants that are analysed at most; rollups are merged for all.
    pub most_models: usize,
    /// A model without a request for so long is forgotten.
    pub forget_ms: Millis,
    /// Parameters of the detectors.
    pub detectors: DetectorParams,
    /// Objectives; none unless given.
    pub objectives: Vec<Objective>,
    /// When nothing opens.
    pub mutes: Vec<Mute>,
}

impl Default for AnalystConfig {
    fn default() -> Self {
        Self {
            lateness_ms: 1_500,
            idle_after_ms: 60_000,
            most_behind_ms: 3_600_000,
            partition: 0,
            partitions: 1,
            most_models: 20_000,
            forget_ms: 8 * 86_400_000,
            detectors: DetectorParams::default(),
            objectives: Vec::new(),
            mutes: Vec::new(),
        }
    }
}

impl AnalystConfig {
    /// Whether nothing of this kind opens at that time.
    pub(crate) fn is_muted(&self, tenant: &str, model: &str, kind: &str, at_ms: Millis) -> bool {
        let is = |own: &Option<String>, value: &str| own.as_deref().is_none_or(|own| own == value);
        self.mutes.iter().any(|mute| {
            is(&mute.tenant, tenant)
                && is(&mute.model, model)
                && is(&mute.kind, kind)
                && (mute.from_ms..mute.to_ms).contains(&at_ms)
        })
    }
}
