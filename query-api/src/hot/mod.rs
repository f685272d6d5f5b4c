//! The hot tier: the last minutes of spans, answered in well under a millisecond by trace id.
//!
//! [`HotTier`] is what the rest of this crate sees; [`memory`] keeps the spans in this process and [`feed`]
//! fills it from the log, with a consumer of its own. Invariant: within [`Coverage`] the tier holds every
//! span of the log, so the lake is read only outside of it and no span is missed or answered twice.

pub mod feed;
pub mod memory;
pub mod segment;

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use serde::Serialize;
use tokio::sync::broadcast;

/// A trace's id.
pub type TraceId = [u8; 16];

/// Rows of a batch of [`infertrace_schemas::columns::span_schema`].
#[derive(Clone, Debug)]
pub struct Rows {
    /// The batch; only `rows` of it are meant.
    pub batch: RecordBatch,
    /// Positions in the batch, ascending.
    pub rows: Vec<u32>,
}

/// Offsets of each partition of which every span is held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage(pub BTreeMap<i32, Range<i64>>);

impl Coverage {
    /// The complete range of `partition`; empty when there is none.
    #[must_use]
    pub fn of(&self, partition: i32) -> Range<i64> {
        self.0.get(&partition).cloned().unwrap_or(0..0)
    }

    /// Whether every offset of `range` is held.
    #[must_use]
    pub fn contains(&self, partition: i32, range: &Range<i64>) -> bool {
        let held = self.of(partition);
        held.start <= range.start && range.end <= held.end
    }
}

/// A batch of the tier for a scan.
#[derive(Clone, Debug)]
pub struct HotBatch {
    /// Its spans.
    pub batch: RecordBatch,
    /// Latest start of one of them.
    pub max_start_ns: i64,
}

/// A consistent state of the tier: rows and coverage belong together.
#[async_trait]
pub trait HotView: Send + Sync {
    /// What is complete.
    fn coverage(&self) -> &Coverage;
    /// The spans of these traces, those outside the coverage included.
    async fn lookup(&self, ids: &[TraceId]) -> Result<Vec<Rows>, HotError>;
    /// Every batch with a span that starts within `[from_ns, to_ns]`, those outside the coverage included:
    /// a search counts traces, so a span that the lake holds too does no harm.
    async fn batches(&self, from_ns: i64, to_ns: i64) -> Result<Vec<HotBatch>, HotError>;
    /// Names seen, with counts.
    async fn names(&self) -> Result<NameCounts, HotError>;
}

/// The hot tier.
#[async_trait]
pub trait HotTier: Send + Sync + 'static {
    /// The state now.
    async fn view(&self) -> Result<Arc<dyn HotView>, HotError>;
    /// Figures for the status page.
    fn status(&self) -> HotStatus;
    /// Traces touched from now on, while somebody listens.
    fn subscribe(&self) -> broadcast::Receiver<Arc<Touched>>;
}

/// Why the tier could not answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HotError {
    /// A store outside this process is away.
    #[error("the hot tier is unavailable: {0}")]
    Unavailable(String),
}

/// Traces that got new spans.
#[derive(Clone, Debug, Default)]
pub struct Touched {
    /// Ids, newest last.
    pub ids: Vec<TraceId>,
    /// Traces left out because there were too many at once.
    pub skipped: usize,
}

/// How often a name was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameCount {
    /// Spans.
    pub spans: u64,
    /// Of them with status error.
    pub errors: u64,
    /// Latest start of a span, nanoseconds since 1970.
    pub last_seen_ns: i64,
}

impl NameCount {
    pub(crate) fn merge(&mut self, other: &Self) {
        self.spans += other.spans;
        self.errors += other.errors;
        self.last_seen_ns = self.last_seen_ns.max(other.last_seen_ns);
    }
}

/// Services with their operations, and models.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameCounts {
    /// By service, then by operation.
    pub services: BTreeMap<String, BTreeMap<String, NameCount>>,
    /// By model.
    pub models: BTreeMap<String, NameCount>,
}

impl NameCounts {
    pub(crate) fn merge(&mut self, other: &Self) {
        for (service, operations) in &other.services {
            let into = self.services.entry(service.clone()).or_default();
            for (operation, count) in operations {
                into.entry(operation.clone()).or_default().merge(count);
            }
        }
        for (model, count) in &other.models {
            self.models.entry(model.clone()).or_default().merge(count);
        }
    }
}

/// Figures of the hot tier.
#[derive(Clone, Debug, Default, Serialize)]
pub struct HotStatus {
    /// Spans held.
    pub spans: u64,
    /// Batches they are in.
    pub segments: usize,
    /// Memory of columns and index.
    pub bytes: usize,
    /// Limit of it.
    pub max_bytes: usize,
    /// Age at which spans leave.
    pub window_ms: u64,
    /// What left so far.
    pub evicted: Evicted,
    /// Records dropped as repeats of a batch.
    pub duplicate_records: u64,
    /// Records that could not be opened.
    pub poison_records: u64,
    /// Spans that could not be read inside good records.
    pub rejected_spans: u64,
    /// Whether the feed is reading; the last error if not.
    pub feed_error: Option<String>,
    /// Time of the latest record read, milliseconds since 1970.
    pub newest_record_ms: i64,
    /// By partition.
    pub partitions: Vec<HotPartition>,
}

/// Spans that left the hot tier, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Evicted {
    /// Older than the window.
    pub aged_spans: u64,
    /// Without an error in their trace, for lack of memory.
    pub plain_spans: u64,
    /// Of traces with an error, for lack of memory.
    pub error_spans: u64,
}

/// One partition in the hot tier.
#[derive(Clone, Debug, Default, Serialize)]
pub struct HotPartition {
    /// Partition.
    pub partition: i32,
    /// First offset of which every span is held.
    pub from_offset: i64,
    /// Next offset to read.
    pub next_offset: i64,
    /// Records in the log that were not read yet, when last looked.
    pub lag_records: i64,
}
