//! The analysis of one partition, put together again: from the last snapshot, or from what a standby has made of it
//! since.
//!
//! Invariant: whichever is further is taken; the partials after it are in the log.

use std::time::Duration;

use infertrace_analytics::{analyst::Analyst, rollup::Millis};
use infertrace_runtime::log::{
    Log, LogError, NextOffset, TopicPartition,
    range::{Range, RangeReader},
};
use infertrace_schemas::topics;
use tokio::time::Instant;

use super::{
    Service,
    state::{Gatherer, Kept, Snapshot},
};
use crate::partials;

const STATE_POLL_BYTES: usize = 4 << 20;
/// How often a long restore says how far it is.
const PROGRESS: Duration = Duration::from_secs(2);

/// Partitions of the topics that the second stage reads.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) partials: u32,
    pub(super) state: u32,
    /// Sources whose watermarks count: the partitions of the spans and the samples topic.
    pub(super) sources: Vec<u32>,
}

impl Layout {
    pub(super) async fn of(log: &dyn Log) -> Result<Self, LogError> {
        Ok(Self {
            partials: log.partitions(topics::PARTIALS).await?.max(1),
            state: log.partitions(topics::INSIGHT_STATE).await?.max(1),
            sources: partials::all_sources(
                log.partitions(topics::SPANS).await?,
                log.partitions(topics::GPU).await?,
            ),
        })
    }

    /// Where the state of `partition` is kept.
    pub(super) fn state_of(&self, partition: u32) -> TopicPartition {
        TopicPartition::new(topics::INSIGHT_STATE, partition % self.state)
    }
}

/// What an analysis was put together from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Nothing: the partials are read from the oldest.
    Nothing,
    /// The last snapshot.
    Snapshot,
    /// A copy that was kept up to date.
    Standby,
}

impl Origin {
    /// The stable name in metrics and logs.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Snapshot => "snapshot",
            Self::Standby => "standby",
        }
    }
}

/// The analysis of one partition.
#[derive(Debug)]
pub(super) struct Restored {
    pub(super) analyst: Analyst,
    /// Next partials to read.
    pub(super) next: u64,
    /// Start of the last window whose outputs are in the log.
    pub(super) told_to_ms: Option<Millis>,
    /// Next record of the state topic to read.
    pub(super) state_next: u64,
    pub(super) origin: Origin,
    /// Partials that retention removed before they were analysed.
    pub(super) lost: u64,
}

/// Puts the analysis of `partition` together; with a `standby`, only what it has not seen of the state topic is read.
///
/// # Errors
/// When the log cannot be read.
pub(super) async fn restore(
    service: &Service,
    layout: &Layout,
    partition: u32,
    standby: Option<Restored>,
) -> Result<Restored, LogError> {
    let state_from = standby.as_ref().map(|standby| NextOffset(standby.state_next));
    let (kept, state_next) = read_state(service, layout, partition, state_from).await?;
    let at = TopicPartition::new(topics::PARTIALS, partition);
    // A standby that begins in the middle of a snapshot has no use for it.
    if let (Some(problem), None) = (&kept.problem, &standby) {
        tracing::error!(%at, problem, "the snapshot is not usable; the partials are read from the oldest");
    }
    let told_to_ms = kept.told_to_ms.or(standby.as_ref().and_then(|standby| standby.told_to_ms));
    let low = service.log.watermarks(&at).await?.low.0;
    let config = service.config.analyst(partition, layout.partials);
    let further = kept
        .snapshot
        .filter(|snapshot| standby.as_ref().is_none_or(|standby| snapshot.position > standby.next));
    let of_snapshot = further.and_then(|Snapshot { position, bytes }| match Analyst::restore(config.clone(), &bytes) {
        Ok(analyst) => Some((analyst, position, Origin::Snapshot)),
        Err(error) => {
            tracing::error!(%at, %error, "the snapshot is not usable; the partials are read from the oldest");
            None
        }
    });
    let (mut analyst, position, origin) = of_snapshot
        .or_else(|| standby.map(|standby| (standby.analyst, standby.next, Origin::Standby)))
        .unwrap_or_else(|| (Analyst::new(config), low, Origin::Nothing));
    analyst.set_sources(&layout.sources);
    let next = position.max(low);
    Ok(Restored { analyst, next, told_to_ms, state_next, origin, lost: next - position })
}

/// Reads what the state topic keeps of `partition`, from the oldest or from where a standby is, and says up to where.
async fn read_state(
    service: &Service,
    layout: &Layout,
    partition: u32,
    from: Option<NextOffset>,
) -> Result<(Kept, u64), LogError> {
    let at = layout.state_of(partition);
    let marks = service.log.settled_watermarks(&at).await?;
    let from = from.unwrap_or(marks.low).max(marks.low);
    let mut gatherer = Gatherer::new(partition);
    let range = Range { at: at.clone(), from, end: marks.high };
    let mut reader = RangeReader::open(service.log.as_ref(), &[range], 2 * STATE_POLL_BYTES).await?;
    let mut said = Instant::now();
    let mut next = from.0;
    while let Some(records) = reader.next(STATE_POLL_BYTES).await? {
        records.iter().for_each(|record| gatherer.take(record));
        next = records.last().map_or(next, |record| record.offset.next().0);
        if said.elapsed() >= PROGRESS {
            said = Instant::now();
            let percent = 100 * (next - from.0) / (marks.high.0 - from.0).max(1);
            tracing::info!(%at, percent, "restoring the analysis");
        }
    }
    let kept = gatherer.finish();
    if kept.unreadable > 0 {
        tracing::warn!(%at, records = kept.unreadable, "state records that nobody can read were passed over");
    }
    Ok((kept, next))
}
