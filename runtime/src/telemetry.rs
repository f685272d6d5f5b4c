//! Logs and metrics of a process.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    str::FromStr,
    sync::atomic::AtomicU64,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("{text:?} is neither text nor json")),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Writes log lines to standard error; `filter` as in `RUST_LOG`, which wins where it is set.
///
/// # Errors
/// A message that quotes a filter nobody understands.
pub fn init_logs(format: LogFormat, filter: &str) -> Result<(), String> {
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| filter.to_owned());
    let parsed = EnvFilter::try_new(&filter).map_err(|error| format!("log filter {filter:?}: {error}"))?;
    let lines = tracing_subscriber::fmt().with_env_filter(parsed).with_writer(std::io::stderr);
    let outcome = match format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    outcome.map_err(|error| error.to_string())
}

/// The metrics of one process, which all start with `infertrace_`, and those that its roles share.
#[derive(Debug)]
pub struct MetricsRegistry {
    registry: Registry,
    lag: ConsumerLag,
}

impl Default for MetricsRegistry {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("infertrace");
        let lag = ConsumerLag::default();
        registry.register(
            "consumer_lag_records",
            "Offsets between what a role has dealt with and the end of the log",
            lag.records.clone(),
        );
        registry.register(
            "consumer_lag_seconds",
            "Age of the oldest record that a role has not dealt with",
            lag.seconds.clone(),
        );
        Self { registry, lag }
    }
}

impl MetricsRegistry {
    /// The lag gauges of one role.
    #[must_use]
    pub fn consumer_lag(&self, role: &'static str) -> RoleLag {
        RoleLag { role, all: self.lag.clone() }
    }
}

impl Deref for MetricsRegistry {
    type Target = Registry;

    fn deref(&self) -> &Registry {
        &self.registry
    }
}

impl DerefMut for MetricsRegistry {
    fn deref_mut(&mut self) -> &mut Registry {
        &mut self.registry
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LagLabels {
    role: &'static str,
    partition: u32,
}

#[derive(Clone, Debug, Default)]
struct ConsumerLag {
    records: Family<LagLabels, Gauge>,
    seconds: Family<LagLabels, Gauge<f64, AtomicU64>>,
}

/// How far one role is behind the log, by partition. The default one is read by nobody.
#[derive(Clone, Debug, Default)]
pub struct RoleLag {
    role: &'static str,
    all: ConsumerLag,
}

impl RoleLag {
    /// Notes how far the role is behind in `partition`.
    pub fn set(&self, partition: u32, records: u64, seconds: f64) {
        let labels = LagLabels { role: self.role, partition };
        self.all.records.get_or_create(&labels).set(i64::try_from(records).unwrap_or(i64::MAX));
        self.all.seconds.get_or_create(&labels).set(seconds);
    }

    /// Forgets a partition that another instance has now.
    pub fn forget(&self, partition: u32) {
        let labels = LagLabels { role: self.role, partition };
        self.all.records.remove(&labels);
        self.all.seconds.remove(&labels);
    }
}

/// The registry's metrics in the OpenMetrics text format.
#[must_use]
pub fn exposition(registry: &Registry) -> String {
    let mut text = String::new();
    // Writing into a String fails only if a collector does.
    if encode(&mut text, registry).is_err() {
        tracing::error!("a metric could not be encoded");
    }
    text
}
