//! Where a range of time lies in the log, and whether all of it is still there.

use std::fmt;

use infertrace_analytics::rollup::Millis;
use infertrace_runtime::log::{
    self, Log, LogError, TopicPartition,
    range::{Range, RangeReader},
};
use infertrace_schemas::{time, topics};

use super::{ReplayError, Request};
use crate::partials::sample_source;

/// A partition whose records of the range's beginning are gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Partition.
    pub at: TopicPartition,
    /// Time of its oldest record.
    pub oldest_ms: Millis,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the oldest record of {} is of {}", self.at, time::text(self.oldest_ms))
    }
}

/// The source that a partition is to the second stage.
pub(super) fn source_of(at: &TopicPartition) -> u32 {
    if *at.topic == *topics::GPU { sample_source(at.partition) } else { at.partition }
}

/// What a replay will read.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Offsets, a range a partition of the spans topic and then of the samples topic, ascending.
    pub ranges: Vec<Range>,
    /// Partitions whose beginning is gone.
    pub gaps: Vec<Gap>,
}

impl Plan {
    /// Offsets in all.
    #[must_use]
    pub fn offsets(&self) -> u64 {
        self.ranges.iter().map(Range::offsets).sum()
    }
}

/// Finds the range by the log's index of times.
///
/// # Errors
/// [`ReplayError::Request`] for a range that is none, [`ReplayError::Gone`] when its beginning is gone and that was
/// not allowed.
pub async fn plan(log: &dyn Log, request: &Request) -> Result<Plan, ReplayError> {
    if request.from_ms >= request.to_ms {
        let (from, to) = (time::text(request.from_ms), time::text(request.to_ms));
        return Err(ReplayError::Request(format!("an empty range: from {from} to {to}")));
    }
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if request.id.is_empty() || request.id.len() > 64 || !request.id.chars().all(good) {
        let what = "the id must be 1 to 64 lower-case letters, digits and dashes: it names topics";
        return Err(ReplayError::Request(what.to_owned()));
    }
    let mut plan = Plan { ranges: Vec::new(), gaps: Vec::new() };
    let start_ms = log::Millis(request.from_ms.saturating_sub(request.warm_up_ms.max(0)));
    for at in inputs(log).await? {
        let from = log.position_at(&at, start_ms).await?;
        let end = log.position_at(&at, log::Millis(request.to_ms)).await?.max(from);
        let range = Range { at, from, end };
        // History before the range is welcome, not needed.
        let low = log.watermarks(&range.at).await?.low;
        if low.0 > 0
            && from == low
            && range.offsets() > 0
            && let Some(oldest_ms) = first_time(log, &range).await?.filter(|oldest| *oldest > request.from_ms)
        {
            plan.gaps.push(Gap { at: range.at.clone(), oldest_ms });
        }
        plan.ranges.push(range);
    }
    if !plan.gaps.is_empty() && !request.allow_gaps {
        return Err(ReplayError::Gone(plan.gaps));
    }
    Ok(plan)
}

/// The partitions that a replay reads: those that the first stage reads live.
async fn inputs(log: &dyn Log) -> Result<Vec<TopicPartition>, LogError> {
    let samples = match log.partitions(topics::GPU).await {
        // A log that never took samples.
        Err(LogError::UnknownTopicPartition(_)) => 0,
        partitions => partitions?,
    };
    let spans = (0..log.partitions(topics::SPANS).await?).map(|at| TopicPartition::new(topics::SPANS, at));
    Ok(spans.chain((0..samples).map(|at| TopicPartition::new(topics::GPU, at))).collect())
}

/// Time of the first record of `range`.
async fn first_time(log: &dyn Log, range: &Range) -> Result<Option<Millis>, ReplayError> {
    let mut reader = RangeReader::open(log, std::slice::from_ref(range), 1 << 20).await?;
    let records = reader.next(1).await?.unwrap_or_default();
    Ok(records.first().map(|record| record.timestamp.0))
}
