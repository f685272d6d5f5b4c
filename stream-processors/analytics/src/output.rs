//! What an [`Analyst`](crate::analyst::Analyst) puts out: plain structs that map one to one onto the Avro records.

use serde::{Deserialize, Serialize};

use crate::rollup::{Cell, Exemplars, Key, Millis};

/// One output. Order matters: what follows from a window comes before its [`Output::Closed`].
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Merged counters and sketches of a window.
    Rollup(Rollup),
    /// What is normal, computed once an hour.
    Baseline(Baseline),
    /// A state of an insight.
    Insight(Box<Insight>),
    /// All outputs of this window have been given.
    Closed {
        /// Start of the closed window.
        window_ms: Millis,
    },
}

/// Everything that is known of one key in one window, until a higher revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Rollup {
    /// Start of the window.
    pub window_ms: Millis,
    /// 10 s, 1 min or 1 h.
    pub length_ms: Millis,
    /// From 1; a correction by late data is higher and replaces the earlier one.
    pub revision: u32,
    /// What it is about.
    pub key: Key,
    /// The numbers.
    pub cell: Cell,
    /// Traces to look at.
    pub exemplars: Exemplars,
}

/// What is normal for one metric of one key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Baseline {
    /// Tenant.
    pub tenant: String,
    /// Model.
    pub model: String,
    /// Version; empty for all versions together.
    pub version: String,
    /// Stage; empty for the request as a whole.
    pub stage: String,
    /// Metric, with its unit.
    pub metric: String,
    /// 0 is Monday 00:00 UTC; `None` for all hours together.
    pub hour_of_week: Option<u8>,
    /// Event time of the computation.
    pub computed_ms: Millis,
    /// Start of the first window behind it.
    pub from_ms: Millis,
    /// End of the last window behind it.
    pub to_ms: Millis,
    /// Observations behind it.
    pub samples: u64,
    /// Windows behind it.
    pub windows: u32,
    /// Windows that were clipped because an incident was open.
    pub winsorised_windows: u32,
    /// Too little history: detectors annotate only.
    pub cold_start: bool,
    /// Whether median and mad are of the natural logarithm.
    pub log_scale: bool,
    /// Median.
    pub median: f64,
    /// Median absolute deviation.
    pub mad: f64,
    /// Quantiles of the windows' values, in the metric's unit.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
}

/// Where an insight is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// First told.
    #[default]
    Open,
    /// Told again with other numbers.
    Updated,
    /// Over.
    Resolved,
}

/// How much an insight asks of its reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Severity {
    /// To know.
    #[default]
    Info,
    /// To look at in working hours.
    Warning,
    /// To act on now.
    Page,
}

/// One state of one insight; a higher revision of the same id replaces a lower one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Insight {
    /// A pure function of detector, key and first window.
    pub id: String,
    /// From 1.
    pub revision: u32,
    /// Where it is in its life.
    pub state: State,
    /// What it is about, as the schema lists.
    pub kind: String,
    /// How much it asks.
    pub severity: Severity,
    /// Tenant.
    pub tenant: String,
    /// Model.
    pub model: String,
    /// Version, where it is about one.
    pub version: String,
    /// Service, where it is about one.
    pub service: String,
    /// Stage, where it is about one.
    pub stage: String,
    /// Device, where it is about one.
    pub device: String,
    /// Start of the window that shows it.
    pub window_start_ms: Millis,
    /// End of the last window that was looked at.
    pub window_end_ms: Millis,
    /// End of the window in which it was told first.
    pub opened_ms: Millis,
    /// End of the window in which it was over.
    pub resolved_ms: Option<Millis>,
    /// One line.
    pub title: String,
    /// Which detector.
    pub detector: String,
    /// Its version.
    pub detector_version: String,
    /// The numbers.
    pub evidence: Vec<Evidence>,
    /// Most likely first; shares sum to 1 at most.
    pub causes: Vec<Cause>,
    /// What to do.
    pub recommendation: Option<Recommendation>,
    /// Hex ids of traces that show it.
    pub example_traces: Vec<String>,
    /// Hex ids of traces from normal windows.
    pub normal_traces: Vec<String>,
}

/// A number that speaks for an insight.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Which.
    pub metric: String,
    /// Its unit.
    pub unit: String,
    /// Now.
    pub observed: f64,
    /// As it is normally, or the threshold.
    pub baseline: Option<f64>,
    /// Observations behind it.
    pub samples: u64,
}

/// What explains a change, and how much of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cause {
    /// Name, as the schema lists.
    pub cause: String,
    /// Part of the change, 0–1.
    pub share: f64,
    /// In words, with numbers.
    pub explanation: String,
}

/// What to do about it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Recommendation {
    /// In words, with numbers.
    pub text: String,
    /// What it should bring.
    pub expected_gain: String,
    /// 0–1.
    pub confidence: f64,
}
