//! What a tier does with the ranges of offsets that [`crate::service`] cuts.
//!
//! The order is fixed: the range is written down ([`Target::plan`]), its rows are written ([`Target::write`]), and then
//! it counts. Each call is one task, owned and joined by the service; dropping it at any point is safe, since whoever
//! comes later finds what was written down as far as it got. Invariant: where to go on is known to the target alone.

use async_trait::async_trait;
use infertrace_runtime::log::{GroupMetadata, LogError, Watermarks};
use infertrace_schemas::dedup::Dedup;

use crate::{buffer::Taken, clickhouse, encode::EncodeError, ledger::LedgerError, retry::Fault};

/// Offsets `[start, end)` of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) partition: u32,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// A range written down, with what its rows depend on.
pub(crate) trait RangePlan: Send + 'static {
    /// One past its last offset.
    fn end(&self) -> u64;
}

/// See the module.
#[async_trait]
pub(crate) trait Target: Send + Sync + 'static {
    /// In errors and logs.
    const NAME: &'static str;
    /// What its data is called.
    const TIER: &'static str;
    /// A range as it was written down.
    type Plan: RangePlan;

    /// Where the partition's next range starts, and the batches before it.
    async fn open(&self, partition: u32) -> Result<Opened, JobError>;

    /// Writes the range down unless one with its start was before; returns the one that holds.
    async fn plan(&self, range: Range, group: Option<GroupMetadata>) -> Result<Self::Plan, JobError>;

    /// Writes a planned range; `seen` are the batches before it.
    async fn write(
        &self,
        plan: Self::Plan,
        taken: Taken,
        seen: Dedup,
        group: Option<GroupMetadata>,
    ) -> Result<Written, JobError>;
}

/// What a target has of a partition.
#[derive(Debug)]
pub(crate) struct Opened {
    /// First offset that it has not; `None` while it has nothing.
    pub(crate) next: Option<u64>,
    /// The latest batch ids.
    pub(crate) seen: Dedup,
}

/// A range that counts now.
#[derive(Debug)]
pub(crate) struct Written {
    /// First offset after it.
    pub(crate) next: u64,
    /// The batches seen up to and including it; `None` when another instance wrote something else, and the partition
    /// must be opened again.
    pub(crate) seen: Option<Dedup>,
}

/// What a job brought.
#[derive(Debug)]
pub(crate) enum Done<P> {
    Opened {
        opened: Opened,
        watermarks: Watermarks,
    },
    Planned(P),
    Written(Written),
    /// For the lag; `None` when the log did not say.
    EndOfLog(Option<Watermarks>),
}

/// Why a partition cannot go on by itself.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JobError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error(transparent)]
    ClickHouse(#[from] clickhouse::Error),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(
        "the {tier} is at offset {next} but the topic ends at {high}: the topic or cluster was recreated; \
         give it a new {tier}, the old one is complete as it is"
    )]
    TopicRecreated { tier: &'static str, next: u64, high: u64 },
    #[error("the encoder panicked: {0}")]
    Panicked(String),
}

impl JobError {
    /// Whether opening the partition again may help by itself.
    pub(crate) fn fault(&self) -> Fault {
        match self {
            // The producer is gone or fenced: what it did is found by opening again.
            Self::Log(LogError::Ambiguous(_) | LogError::Fenced(_)) => Fault::Passing,
            _ => Fault::Refused,
        }
    }
}
