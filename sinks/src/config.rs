//! Settings of the Parquet sink, with their defaults and bounds, and what every sink's service needs of its settings.

use infertrace_schemas::dedup;
use serde::{Deserialize, Serialize};

/// Consumer group of the Parquet sink.
pub const GROUP: &str = "infertrace-sink-parquet";

/// Settings of the Parquet sink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Consumer group; its committed offsets only serve to show the lag.
    pub group: String,
    /// A range is cut when it holds so many spans.
    pub target_rows: u64,
    /// A range is cut when its spans, uncompressed, reach so many bytes.
    pub target_bytes: u64,
    /// A range is cut, whatever its size, when its oldest record has waited so long.
    pub flush_interval_ms: u64,
    /// Bytes of records held at most, over all partitions; past it reading pauses.
    pub memory_budget_bytes: usize,
    /// Bytes taken from the log in one poll.
    pub max_poll_bytes: usize,
    /// Ranges encoded at the same time at most; each needs about three times its uncompressed size.
    pub concurrent_flushes: usize,
    /// Rows of a Parquet row group: what a look-up by trace id reads of a file at most.
    pub row_group_rows: u32,
    /// Level of zstd in data files.
    pub zstd_level: i32,
    /// Batch ids remembered a partition to recognise retries.
    pub dedup_batches: u64,
    /// First delay before a failed store or log call is repeated; it doubles up to `retry_max_ms`.
    pub retry_base_ms: u64,
    /// Longest such delay.
    pub retry_max_ms: u64,
    /// Delay before trying again where an operator must act: access refused, a damaged file.
    pub refused_retry_ms: u64,
    /// How long a shutdown waits for what was read to be written.
    pub drain_timeout_ms: u64,
    /// Merging of small files, and the removal of what is to be forgotten.
    pub compaction: crate::compact::Config,
    /// How long traces stay in the lake.
    pub retention: crate::compact::Retention,
    /// ClickHouse sink; used when its `url` is set.
    pub clickhouse: crate::clickhouse::Config,
}

/// What [`crate::service`] needs of a sink's settings; [`Config`] says what each means.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    pub(crate) group: String,
    pub(crate) target_rows: u64,
    pub(crate) target_bytes: u64,
    pub(crate) flush_interval_ms: u64,
    pub(crate) memory_budget_bytes: usize,
    pub(crate) max_poll_bytes: usize,
    pub(crate) concurrent_flushes: usize,
    pub(crate) retry_base_ms: u64,
    pub(crate) retry_max_ms: u64,
    pub(crate) refused_retry_ms: u64,
    pub(crate) drain_timeout_ms: u64,
}

impl From<&Config> for Flow {
    fn from(config: &Config) -> Self {
        Self {
            group: config.group.clone(),
            target_rows: config.target_rows,
            target_bytes: config.target_bytes,
            flush_interval_ms: config.flush_interval_ms,
            memory_budget_bytes: config.memory_budget_bytes,
            max_poll_bytes: config.max_poll_bytes,
            concurrent_flushes: config.concurrent_flushes,
            retry_base_ms: config.retry_base_ms,
            retry_max_ms: config.retry_max_ms,
            refused_retry_ms: config.refused_retry_ms,
            drain_timeout_ms: config.drain_timeout_ms,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            group: GROUP.to_owned(),
            target_rows: 250_000,
            target_bytes: 192 << 20,
            flush_interval_ms: 60_000,
            memory_budget_bytes: 256 << 20,
            max_poll_bytes: 8 << 20,
            concurrent_flushes: 1,
            row_group_rows: 65_536,
            zstd_level: 1,
            dedup_batches: dedup::DEFAULT_BATCHES as u64,
            retry_base_ms: 100,
            retry_max_ms: 10_000,
            refused_retry_ms: 30_000,
            drain_timeout_ms: 20_000,
            compaction: crate::compact::Config::default(),
            retention: crate::compact::Retention::default(),
            clickhouse: crate::clickhouse::Config::default(),
        }
    }
}

impl Config {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// A sentence that names the field and its bounds.
    pub fn validate(&self) -> Result<(), String> {
        within("target_rows", self.target_rows, 1, 50_000_000)?;
        // Arrow's 32-bit offsets reach 2 GiB a column, and rendered text may triple.
        within("target_bytes", self.target_bytes, 1, 512 << 20)?;
        within("flush_interval_ms", self.flush_interval_ms, 1, 24 * 3_600_000)?;
        within("memory_budget_bytes", self.memory_budget_bytes as u64, 64 << 10, 1 << 40)?;
        within("max_poll_bytes", self.max_poll_bytes as u64, 1 << 10, 1 << 30)?;
        within("concurrent_flushes", self.concurrent_flushes as u64, 1, 64)?;
        within("row_group_rows", u64::from(self.row_group_rows), 1, 10_000_000)?;
        within("zstd_level", u64::try_from(self.zstd_level).unwrap_or(0), 1, 22)?;
        within("dedup_batches", self.dedup_batches, 1, 16 << 20)?;
        within("retry_base_ms", self.retry_base_ms, 1, 60_000)?;
        within("retry_max_ms", self.retry_max_ms, self.retry_base_ms, 3_600_000)?;
        within("refused_retry_ms", self.refused_retry_ms, 1, 3_600_000)?;
        within("drain_timeout_ms", self.drain_timeout_ms, 0, 3_600_000)?;
        if self.group.is_empty() {
            return Err("group is empty".to_owned());
        }
        self.compaction.validate().map_err(|error| format!("compaction: {error}"))?;
        self.retention.validate().map_err(|error| format!("retention: {error}"))?;
        self.clickhouse.validate().map_err(|error| format!("clickhouse: {error}"))
    }
}

/// Whether `value` is within bounds, or a sentence that names it.
pub(crate) fn within(name: &str, value: u64, low: u64, high: u64) -> Result<(), String> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err(format!("{name} is {value}, it must be within {low}..={high}"))
}
