//! Configuration of the assembly processor.

use std::{sync::Arc, time::Duration};

use infertrace_analytics::cost::{Defaults, NANOS_PER_USD, PriceTable, Pricer};
use serde::{Deserialize, Serialize};

use crate::{assembly::Limits, rollup};

/// Series a partition at most: a 64th of them, 32 bytes each, has to fit a record.
const MOST_SERIES: usize = 1_000_000;

/// How the processor assembles traces.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Consumer group. Default `infertrace-processor`.
    pub group: String,
    /// Name of this instance, unique among the instances of the group: a new instance of one name fences the old one.
    /// Empty (the default) takes the host's name.
    pub instance_id: String,
    /// A trace closes when the log has moved on this far after its last span. Default 5,000.
    pub trace_idle_ms: i64,
    /// A closed trace is remembered this long for late spans, which make a corrected version. A restart reads
    /// this much of the log again. Default 30,000.
    pub trace_late_ms: i64,
    /// A trace that is still active after this long is cut: what follows becomes another summary. Default 300,000.
    pub trace_max_age_ms: i64,
    /// A trace with this many spans is cut likewise. Default 200,000.
    pub trace_max_spans: usize,
    /// Traces held at most, open and remembered. Default 2,000,000.
    pub max_traces: usize,
    /// Memory for traces. Past it remembered traces are forgotten, then the least recently active open
    /// ones are closed early, marked and counted. Default 512 MiB.
    pub max_state_bytes: usize,
    /// A trace at least this long is important as slow. Default 10,000.
    pub slow_trace_ms: i64,
    /// A trace that cost at least this many US dollars, by the price table, is important as costly, unless it failed or
    /// was slow. Default 0.10, about a minute of one large GPU alone.
    pub costly_trace_usd: f64,
    /// Price table, a TOML file in the form of `stream-processors/analytics/prices.toml`. Empty (the default) takes
    /// the list prices that are built in.
    pub prices: String,
    /// Cloud region of devices whose region no span says, such as `us-east-1`. Default empty: not known, so the least
    /// price of the instance type is taken, as an estimate.
    pub default_region: String,
    /// Instance type of requests that name neither one nor a GPU, such as `p5.48xlarge`. Default empty: such requests
    /// have no GPU cost.
    pub default_instance_type: String,
    /// How far a partition's records must have passed a window of 10 s for the window to be over; what comes later is
    /// counted as late. Default 1,500.
    pub rollup_lateness_ms: i64,
    /// Keys (tenant, model, version, service, stage, device) of a window that are counted apart; the rest are counted
    /// together under model `_other`. Default 500,000.
    pub rollup_max_keys: usize,
    /// The same for one tenant, so that no tenant takes all. Default 250,000.
    pub rollup_max_keys_per_tenant: usize,
    /// Memory for counts; past it they are written before their window is over. Default 128 MiB.
    pub rollup_max_bytes: usize,
    /// Consumer group that reads GPU and engine samples. Default `infertrace-samples`.
    pub samples_group: String,
    /// Series of samples remembered a partition: cumulative counts, whose growth is counted, and devices' memory. At most
    /// 1,000,000, so that a 64th of them fits a record. Default 100,000.
    pub samples_max_series: usize,
    /// Batch ids remembered a partition, so that a client's retry is dropped. Default 4,096.
    pub dedup_batches: usize,
    /// Whether idle traces at the end of the log close as wall time passes. False for replays, which know record
    /// time only. Default true.
    pub close_by_wall_clock: bool,
    /// Longest time between a trace's closing and its transaction. Default 200.
    pub commit_interval_ms: u64,
    /// Longest time between a position's move and its commit when there is nothing else to write. Default 1,000.
    pub position_commit_ms: u64,
    /// How often the ends of partitions are looked up, for lag and for idle traces. Default 500.
    pub end_check_ms: u64,
    /// First pause after a fault of the log; it doubles up to 10 s. Default 200.
    pub retry_ms: u64,
    /// Outputs in one transaction at most. Default 10,000.
    pub max_commit_records: usize,
    /// Bytes of outputs that wait for a transaction; past them partitions are paused. Default 16 MiB.
    pub max_pending_bytes: usize,
    /// Bytes fetched ahead. Default 32 MiB.
    pub max_buffered_bytes: usize,
    /// Bytes of records taken at once. Default 4 MiB.
    pub max_poll_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            group: "infertrace-processor".to_owned(),
            instance_id: String::new(),
            trace_idle_ms: 5_000,
            trace_late_ms: 30_000,
            trace_max_age_ms: 300_000,
            trace_max_spans: 200_000,
            max_traces: 2_000_000,
            max_state_bytes: 512 << 20,
            slow_trace_ms: 10_000,
            costly_trace_usd: 0.1,
            prices: String::new(),
            default_region: String::new(),
            default_instance_type: String::new(),
            rollup_lateness_ms: 1_500,
            rollup_max_keys: 500_000,
            rollup_max_keys_per_tenant: 250_000,
            rollup_max_bytes: 128 << 20,
            samples_group: "infertrace-samples".to_owned(),
            samples_max_series: 100_000,
            dedup_batches: 4_096,
            close_by_wall_clock: true,
            commit_interval_ms: 200,
            position_commit_ms: 1_000,
            end_check_ms: 500,
            retry_ms: 200,
            max_commit_records: 10_000,
            max_pending_bytes: 16 << 20,
            max_buffered_bytes: 32 << 20,
            max_poll_bytes: 4 << 20,
        }
    }
}

impl Config {
    /// What is wrong with the values, if anything.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub fn check(&self) -> Result<(), String> {
        let positive = [
            ("trace_idle_ms", self.trace_idle_ms),
            ("trace_max_age_ms", self.trace_max_age_ms),
            ("slow_trace_ms", self.slow_trace_ms),
        ];
        if let Some((key, _)) = positive.iter().find(|(_, value)| *value <= 0) {
            return Err(format!("{key} must be above 0"));
        }
        if self.costly_trace_usd.is_nan() || self.costly_trace_usd <= 0.0 {
            return Err("costly_trace_usd must be above 0".to_owned());
        }
        let not_negative =
            [("trace_late_ms", self.trace_late_ms), ("rollup_lateness_ms", self.rollup_lateness_ms)];
        if let Some((key, _)) = not_negative.iter().find(|(_, value)| *value < 0) {
            return Err(format!("{key} must not be negative"));
        }
        let sizes = [
            ("trace_max_spans", self.trace_max_spans),
            ("max_traces", self.max_traces),
            ("dedup_batches", self.dedup_batches),
            ("rollup_max_keys", self.rollup_max_keys),
            ("rollup_max_keys_per_tenant", self.rollup_max_keys_per_tenant),
            ("samples_max_series", self.samples_max_series),
            ("max_commit_records", self.max_commit_records),
            ("max_poll_bytes", self.max_poll_bytes),
        ];
        if let Some((key, _)) = sizes.iter().find(|(_, value)| *value == 0) {
            return Err(format!("{key} must be above 0"));
        }
        if self.samples_max_series > MOST_SERIES {
            return Err(format!("samples_max_series must not be above {MOST_SERIES}"));
        }
        if self.group.is_empty() || self.samples_group.is_empty() {
            return Err("group and samples_group must not be empty".to_owned());
        }
        if self.group == self.samples_group {
            return Err("group and samples_group must differ".to_owned());
        }
        Ok(())
    }

    /// The prices: the table that is built in or the one in the file [`Config::prices`], and what to assume where spans
    /// say nothing.
    ///
    /// # Errors
    /// A sentence that names the key, the file and what to do.
    pub fn pricer(&self) -> Result<Arc<Pricer>, String> {
        let table = if self.prices.is_empty() {
            PriceTable::embedded()
        } else {
            let file = &self.prices;
            let text = std::fs::read_to_string(file).map_err(|error| {
                format!("prices: {file} cannot be read: {error}; name a readable file, or leave it empty for list prices")
            })?;
            PriceTable::parse(file, &text)
        };
        let table = table.map_err(|error| format!("prices: {error}"))?;
        let default = &self.default_instance_type;
        if !default.is_empty() && !table.gpu().iter().any(|price| price.is_of(default)) {
            return Err(format!(
                "default_instance_type: the price table has no {default:?}; add an entry or name one that it has"
            ));
        }
        let defaults = Defaults { region: self.default_region.clone(), instance_type: default.clone() };
        Ok(Arc::new(Pricer::new(table, defaults)))
    }

    pub(crate) const fn retry(&self) -> Duration {
        Duration::from_millis(self.retry_ms)
    }

    /// The bounds of rollups.
    #[must_use]
    pub const fn rollup_limits(&self) -> rollup::Limits {
        rollup::Limits {
            lateness_ms: self.rollup_lateness_ms,
            keys: rollup::KeyLimits {
                max_keys: self.rollup_max_keys,
                max_keys_per_tenant: self.rollup_max_keys_per_tenant,
            },
            max_bytes: self.rollup_max_bytes,
        }
    }

    /// The bounds of the pure core.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            idle_ms: self.trace_idle_ms,
            late_ms: self.trace_late_ms,
            max_age_ms: self.trace_max_age_ms,
            max_spans: self.trace_max_spans,
            max_traces: self.max_traces,
            max_bytes: self.max_state_bytes,
            slow_ns: self.slow_trace_ms.saturating_mul(1_000_000),
            // More than fits is no threshold at all.
            costly_nano_usd: (self.costly_trace_usd * NANOS_PER_USD as f64).round() as u64,
        }
    }
}
