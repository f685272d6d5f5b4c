//! The state of a partition, rebuilt from the log after an assignment.
//!
//! The committed position is the first record of the oldest trace that could still change, so the spans come from reading
//! the input again. What they led to is in the output topics, which are scanned from the time of that first
//! record: summaries (with versions and source ranges) and dead letters. A window of records before the position gives the batch
//! ids by which retries are dropped. Nothing else is stored.
//!
//! Output records are stamped with the watermark at their making, which is never before a record they
//! come from; that is why the scan can start there.

use std::{collections::BTreeMap, sync::Arc};

use hashbrown::HashSet;
use infertrace_runtime::log::{
    Log, LogError, Millis, NextOffset, Record, TopicPartition,
    range::{Range, RangeReader},
};
use infertrace_schemas::{
    avro,
    dedup::Dedup,
    record::{BatchId, batch_id_of},
};

use crate::{
    assembly::{Reported, Resume},
    dead_letter,
    partials::RollupState,
    samples::SeriesGroup,
};

const POLL_BYTES: usize = 4 << 20;
/// Brokers may stamp records themselves; their clock may be behind the writers' by this much.
const CLOCK_MARGIN_MS: i64 = 10_000;

/// Where the outputs of a partition are.
#[derive(Debug)]
pub(crate) struct Outputs {
    pub(crate) traces: TopicPartition,
    pub(crate) dead_letters: TopicPartition,
}

#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) resume: Resume,
    pub(crate) dedup: Dedup,
    /// Offsets that an earlier run moved to the dead-letter topic.
    pub(crate) dead_letters: HashSet<u64>,
    /// Records that retention removed before they were read.
    pub(crate) lost: u64,
    /// End of the input then.
    pub(crate) high: u64,
}

pub(crate) async fn restore(
    log: &Arc<dyn Log>,
    spans: &TopicPartition,
    committed: Option<NextOffset>,
    dedup_batches: usize,
    outputs: &Outputs,
) -> Result<Restored, LogError> {
    let marks = log.watermarks(spans).await?;
    let committed = committed.map_or(marks.low.0, |position| position.0);
    if committed > marks.high.0 {
        return Err(LogError::Fatal(format!(
            "the group's position {committed} in {spans} is past its end {}: the topic or cluster was recreated; \
             reset the group's offsets to go on",
            marks.high.0
        )));
    }
    let from = committed.max(marks.low.0);
    let lost = from - committed;
    let mut dedup = Dedup::new(dedup_batches);
    let mut dead_letters = HashSet::new();
    let mut reported = Vec::new();
    if from == marks.high.0 && from == marks.low.0 {
        return Ok(Restored {
            resume: Resume::new(from, reported),
            dedup,
            dead_letters,
            lost,
            high: marks.high.0,
        });
    }

    let window = from.saturating_sub(dedup_batches as u64).max(marks.low.0);
    let mut first_needed = None;
    let mut earlier: Vec<(u64, i64, Option<BatchId>)> = Vec::new();
    let until = marks.high.0.min(from + 1);
    scan(log, spans, window, until, |record| {
        if record.offset.0 < from {
            let id = record.payload.as_deref().and_then(batch_id_of);
            earlier.push((record.offset.0, record.timestamp.0, id));
        } else if first_needed.is_none() {
            first_needed = Some(record.timestamp.0);
        }
    })
    .await?;

    if let Some(timestamp) = first_needed {
        let since = Millis(timestamp.saturating_sub(CLOCK_MARGIN_MS));
        let end = log.settled_watermarks(&outputs.traces).await?.high.0;
        let start = log.position_at(&outputs.traces, since).await?.0;
        scan(log, &outputs.traces, start, end, |record| {
            reported
                .extend(record.payload.as_deref().and_then(|payload| reported_by(payload, spans.partition)));
        })
        .await?;
    }
    if let Some(timestamp) = earlier.first().map(|(_, timestamp, _)| *timestamp).or(first_needed) {
        let since = Millis(timestamp.saturating_sub(CLOCK_MARGIN_MS));
        let end = log.settled_watermarks(&outputs.dead_letters).await?.high.0;
        let start = log.position_at(&outputs.dead_letters, since).await?.0;
        scan(log, &outputs.dead_letters, start, end, |record| {
            dead_letters.extend(dead_letter::origin_of(record, spans.partition));
        })
        .await?;
    }
    // Only a batch that was read counts as seen: a poison record may be sent back.
    for (_, _, id) in earlier.into_iter().filter(|(offset, _, _)| !dead_letters.contains(offset)) {
        dedup.admit(id);
    }
    dead_letters.retain(|&offset| offset >= from);
    Ok(Restored { resume: Resume::new(from, reported), dedup, dead_letters, lost, high: marks.high.0 })
}

/// Up to where `source` is counted in partials, if that was ever written.
pub(crate) async fn rollup_state(
    log: &Arc<dyn Log>,
    state: &TopicPartition,
    source: u32,
) -> Result<Option<RollupState>, LogError> {
    Ok(source_state(log, state, source).await?.rollup)
}

/// What the state topic keeps of one source.
#[derive(Debug, Default)]
pub(crate) struct SourceState {
    pub(crate) rollup: Option<RollupState>,
    /// Of samples: the last readings, by group.
    pub(crate) series: BTreeMap<u8, SeriesGroup>,
}

/// Everything that is kept of `source`.
pub(crate) async fn source_state(
    log: &Arc<dyn Log>,
    state: &TopicPartition,
    source: u32,
) -> Result<SourceState, LogError> {
    let marks = log.settled_watermarks(state).await?;
    let (of_source, of_series) = (source.to_string(), SeriesGroup::prefix(source));
    let mut kept = SourceState::default();
    scan(log, state, marks.low.0, marks.high.0, |record| {
        let (Some(key), Some(payload)) = (record.key.as_deref(), record.payload.as_deref()) else { return };
        let key = String::from_utf8_lossy(key);
        let taken = if key == of_source {
            RollupState::decode(payload)
                .map(|state| kept.rollup = Some(state))
                .map_err(|error| error.to_string())
        } else if let Some(group) = key.strip_prefix(&of_series).and_then(|group| group.parse().ok()) {
            SeriesGroup::decode(group, payload)
                .map(|group| drop(kept.series.insert(group.group, group)))
                .map_err(|error| error.to_string())
        } else {
            Ok(())
        };
        if let Err(error) = taken {
            tracing::error!(
                at = %record.from, offset = record.offset.0, error,
                "a record of the rollups' state cannot be read; an older one is used, some spans or growth may be counted again or not at all"
            );
        }
    })
    .await?;
    Ok(kept)
}

fn reported_by(payload: &[u8], partition: u32) -> Option<Reported> {
    let head = avro::read_summary_head(payload)?;
    if u32::try_from(head.source.partition) != Ok(partition) {
        return None;
    }
    Some(Reported {
        trace_id: head.trace_id,
        tenant: head.tenant.into(),
        first_offset: u64::try_from(head.source.first_offset).ok()?,
        last_offset: u64::try_from(head.source.last_offset).ok()?,
        version: head.version,
    })
}

/// Hands every committed record of `[from, end)` to `each`; what retention takes meanwhile is left out.
async fn scan(
    log: &Arc<dyn Log>,
    at: &TopicPartition,
    from: u64,
    end: u64,
    mut each: impl FnMut(&Record),
) -> Result<(), LogError> {
    let mut left = Range { at: at.clone(), from: NextOffset(from), end: NextOffset(end) };
    loop {
        match scan_there(log, &mut left, &mut each).await {
            Err(LogError::DataLoss { low, .. }) => left.from = left.from.max(low),
            outcome => return outcome,
        }
    }
}

async fn scan_there(
    log: &Arc<dyn Log>,
    left: &mut Range,
    each: &mut impl FnMut(&Record),
) -> Result<(), LogError> {
    let mut reader = RangeReader::open(log.as_ref(), std::slice::from_ref(left), 2 * POLL_BYTES).await?;
    while let Some(records) = reader.next(POLL_BYTES).await? {
        for record in &records {
            left.from = record.offset.next();
            each(record);
        }
    }
    Ok(())
}
