//! Rollups, baselines and insights as Rust values; the `.avsc` files say what each field means.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::SourceRange;

/// Counters and sketches of one key in one window (`rollup.v1.avsc`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Rollup {
    pub window_start_unix_nanos: i64,
    pub window_nanos: i64,
    pub tenant: String,
    pub model: String,
    pub model_version: String,
    pub stage: String,
    pub service: String,
    pub device: String,
    pub revision: i32,
    pub source: SourceRange,
    pub counters: BTreeMap<String, i64>,
    pub price_versions: Vec<String>,
    pub sums: BTreeMap<String, f64>,
    pub sketches: Vec<Sketch>,
    pub exemplars: Vec<Exemplar>,
}

/// A trace to look at; its id is hexadecimal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Exemplar {
    pub trace_id: String,
    pub duration_micros: i64,
    pub is_error: bool,
}

/// A DDSketch; bins are contiguous from `first_bin`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Sketch {
    pub metric: String,
    pub relative_accuracy: f64,
    pub count: i64,
    pub zero_count: i64,
    pub sum: f64,
    pub min: f64,
    pub max: f64,
    pub first_bin: i32,
    pub bin_counts: Vec<i64>,
}

/// What is normal for one metric of one key (`baseline.v1.avsc`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Baseline {
    pub tenant: String,
    pub model: String,
    pub model_version: String,
    pub stage: String,
    pub metric: String,
    pub hour_of_week: Option<i32>,
    pub computed_unix_nanos: i64,
    pub from_unix_nanos: i64,
    pub to_unix_nanos: i64,
    pub samples: i64,
    pub windows: i32,
    pub winsorised_windows: i32,
    pub cold_start: bool,
    pub log_scale: bool,
    pub median: f64,
    pub mad: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub algorithm: String,
}

/// Where an insight is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs)]
pub enum InsightState {
    #[default]
    Open,
    Updated,
    Resolved,
}

/// How much an insight asks of its reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs)]
pub enum Severity {
    #[default]
    Info,
    Warning,
    Page,
}

/// One state of one insight (`insight.v1.avsc`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Insight {
    pub id: String,
    pub revision: i32,
    pub state: InsightState,
    pub kind: String,
    pub severity: Severity,
    pub tenant: String,
    pub model: String,
    pub model_version: String,
    pub service: String,
    pub stage: String,
    pub device: String,
    pub window_start_unix_nanos: i64,
    pub window_end_unix_nanos: i64,
    pub opened_unix_nanos: i64,
    pub resolved_unix_nanos: Option<i64>,
    pub title: String,
    pub detector: String,
    pub detector_version: String,
    pub evidence: Vec<Evidence>,
    pub causes: Vec<Cause>,
    pub recommendation: Option<Recommendation>,
    pub example_traces: Vec<String>,
    pub normal_traces: Vec<String>,
}

/// A number that speaks for the insight, beside its baseline.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Evidence {
    pub metric: String,
    pub unit: String,
    pub observed: f64,
    pub baseline: Option<f64>,
    pub samples: i64,
}

/// What explains a change, and how much of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Cause {
    pub cause: String,
    pub share: f64,
    pub explanation: String,
}

/// What to do about it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Recommendation {
    pub text: String,
    pub expected_gain: String,
    pub confidence: f64,
}
