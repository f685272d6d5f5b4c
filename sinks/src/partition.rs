//! One partition as the service sees it: what was read, what its task is doing, whether it is read on.
//! No I/O.
//!
//! Invariant: at most one job runs for a partition, and a job of an earlier generation changes nothing.

use infertrace_schemas::dedup::Dedup;

use crate::{buffer::Buffer, config::Flow};

/// Where a partition stands.
#[derive(Debug)]
pub(crate) enum Phase<P> {
    /// What the tier has of it is being read; records that arrive are not wanted yet.
    Opening,
    /// No range is under way.
    Reading {
        /// Batches before the next range.
        seen: Dedup,
    },
    /// The next range is being planned.
    Planning {
        /// Batches before it.
        seen: Dedup,
    },
    /// The next range is planned further than was read.
    Following {
        /// Batches before it.
        seen: Dedup,
        /// The plan.
        plan: P,
    },
    /// The range before the buffer's is being written.
    Writing,
    /// It stands still until an operator has acted; then it is opened again.
    Halted {
        /// When to open it again, in the clock's nanoseconds.
        until_ns: i64,
    },
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Partition<P> {
    pub(crate) number: u32,
    /// Tells jobs of an earlier assignment or opening from the present one's.
    pub(crate) generation: u64,
    pub(crate) phase: Phase<P>,
    pub(crate) buffer: Buffer,
    /// Bytes of the range being written.
    pub(crate) writing_bytes: usize,
    /// Timestamp of the oldest record of the range being written.
    pub(crate) writing_since_ms: Option<i64>,
    /// First offset that is not in the tier; before the tier was read, where the group says it is.
    pub(crate) published: u64,
    pub(crate) paused: bool,
    pub(crate) job: Option<tokio::task::AbortHandle>,
}

impl<P> Partition<P> {
    pub(crate) fn new(number: u32, generation: u64) -> Self {
        Self {
            number,
            generation,
            phase: Phase::Opening,
            buffer: Buffer::default(),
            writing_bytes: 0,
            writing_since_ms: None,
            published: 0,
            paused: false,
            job: None,
        }
    }

    pub(crate) fn held_bytes(&self) -> usize {
        self.buffer.held_bytes() + self.writing_bytes
    }

    /// Whether records are wanted.
    pub(crate) fn is_open(&self) -> bool {
        !matches!(self.phase, Phase::Opening | Phase::Halted { .. })
    }

    /// Whether a range could be cut now, whatever its size.
    pub(crate) fn is_cuttable(&self) -> bool {
        matches!(self.phase, Phase::Reading { .. }) && !self.buffer.is_empty()
    }

    /// The end of a range that is due by size or age.
    pub(crate) fn due_end(&mut self, flow: &Flow, now_ns: i64) -> Option<u64> {
        if !self.is_cuttable() {
            return None;
        }
        let full = self.buffer.full_end(flow.target_rows, flow.target_bytes);
        let interval_ns = (flow.flush_interval_ms as i64).saturating_mul(1_000_000);
        full.or_else(|| {
            let is_old = self.buffer.waited_ns(now_ns) >= interval_ns;
            is_old.then(|| self.buffer.whole_end()).flatten()
        })
    }

    /// Forgets everything but the number: the tier is to be read again.
    pub(crate) fn reset(&mut self, generation: u64, phase: Phase<P>) {
        if let Some(job) = self.job.take() {
            job.abort();
        }
        let paused = self.paused;
        *self = Self { phase, paused, published: self.published, ..Self::new(self.number, generation) };
    }

    /// Timestamp of the oldest record that is read and not in the tier.
    pub(crate) fn oldest_timestamp_ms(&self) -> Option<i64> {
        self.writing_since_ms.or_else(|| self.buffer.oldest_timestamp_ms())
    }
}
