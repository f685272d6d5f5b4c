//! Cheap counters; the platform exports them as metrics.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Upper bounds, in seconds, of [`Stats::append_buckets`]; the last bucket has none.
pub const APPEND_BUCKETS: [f64; 11] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0];

/// Counters since the log was opened, and gauges.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Records appended and acknowledged.
    pub records: u64,
    /// Bytes of their keys, values and headers before compression.
    pub bytes: u64,
    /// Bytes written to the journal, headers and carried records included.
    pub written_bytes: u64,
    /// Bytes of records that retention carried forward.
    pub carried_bytes: u64,
    /// Group commits: writes that were followed by acknowledgements.
    pub batches: u64,
    /// Calls of `fdatasync` on segments.
    pub fsyncs: u64,
    /// Seconds from taking an append to its acknowledgement, summed over records and transactions.
    pub append_seconds: f64,
    /// How many of those took up to each bound of [`APPEND_BUCKETS`] (not cumulative); the last: longer.
    pub append_buckets: [u64; APPEND_BUCKETS.len() + 1],
    /// Bytes accepted and not yet answered.
    pub queue_bytes: u64,
    /// Segment files.
    pub segments: u64,
    /// Bytes in them.
    pub disk_bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct Cells {
    pub(super) records: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) written_bytes: AtomicU64,
    pub(super) carried_bytes: AtomicU64,
    pub(super) batches: AtomicU64,
    pub(super) fsyncs: AtomicU64,
    append_nanos: AtomicU64,
    append_buckets: [AtomicU64; APPEND_BUCKETS.len() + 1],
}

pub(super) fn add(cell: &AtomicU64, value: u64) {
    cell.fetch_add(value, Ordering::Relaxed);
}

impl Cells {
    pub(super) fn observe_append(&self, took: Duration) {
        add(&self.append_nanos, u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        let seconds = took.as_secs_f64();
        add(&self.append_buckets[APPEND_BUCKETS.partition_point(|bound| *bound < seconds)], 1);
    }

    pub(super) fn snapshot(&self) -> Stats {
        let get = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        Stats {
            records: get(&self.records),
            bytes: get(&self.bytes),
            written_bytes: get(&self.written_bytes),
            carried_bytes: get(&self.carried_bytes),
            batches: get(&self.batches),
            fsyncs: get(&self.fsyncs),
            append_seconds: Duration::from_nanos(get(&self.append_nanos)).as_secs_f64(),
            append_buckets: std::array::from_fn(|bucket| get(&self.append_buckets[bucket])),
            ..Stats::default()
        }
    }
}
