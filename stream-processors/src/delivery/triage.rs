//! What people decided about insights, as the delivery follows it: one consumer of its own, no group, every decision.
//!
//! Invariants: nothing is delivered before every decision that was there at the start is known, unless the log refuses
//! them for good: an insight too many does less harm than none. Trouble with the log is retried for ever; what is known
//! holds meanwhile.

use std::{collections::BTreeMap, convert::Infallible, time::Duration};

use infertrace_runtime::log::{
    ConsumerOptions, Event, Log, LogError, NextOffset, Record, TopicPartition,
    range::{Range, RangeReader},
};
use infertrace_schemas::{
    avro::{Insight, SchemaIds, Standing, Triage},
    topics,
    triage::TriageBoard,
};
use parking_lot::RwLock;
use tokio::sync::watch;

/// Where every decision stands, so that they have one order.
const PARTITION: u32 = 0;
const POLL_TIME: Duration = Duration::from_millis(250);
const POLL_BYTES: usize = 1 << 20;
/// A topic that is not there is looked for again after it.
const TOPIC_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Known {
    board: TriageBoard,
    /// Insights that their detector found over, by the decision that this made void.
    ended: BTreeMap<String, u64>,
}

/// The decisions.
pub(super) struct Decisions {
    known: RwLock<Known>,
    schemas: SchemaIds,
    is_complete: watch::Sender<bool>,
}

impl Default for Decisions {
    fn default() -> Self {
        Self {
            known: RwLock::default(),
            schemas: SchemaIds::current::<Triage>(),
            is_complete: watch::channel(false).0,
        }
    }
}

impl Decisions {
    /// Where an insight stands with people at `now_ms`.
    pub(super) fn standing(&self, insight: &Insight, now_ms: i64) -> Standing {
        let known = self.known.read();
        let Some(triage) = known.board.get(&insight.id) else { return Standing::Open };
        let has_ended = known.ended.get(&insight.id).copied() == known.board.offset(&insight.id);
        triage.standing(insight.severity, has_ended, now_ms)
    }

    /// Whether an insight was silent when its record was written: then targets were not told of it.
    pub(super) fn was_silent(&self, insight: &Insight, recorded_ms: i64) -> bool {
        let decided_ms = self.known.read().board.get(&insight.id).map(|triage| triage.decided_ms());
        decided_ms.is_some_and(|decided_ms| decided_ms <= recorded_ms)
            && self.standing(insight, recorded_ms).is_silent()
    }

    /// When a mute of an insight ends, milliseconds since 1970.
    pub(super) fn muted_until_ms(&self, id: &str) -> Option<i64> {
        let until = self.known.read().board.get(id)?.muted_until_unix_nanos?;
        Some(until.div_euclid(1_000_000))
    }

    /// The detector found an insight over: if it comes back, that is news.
    pub(super) fn note_end(&self, id: &str, recorded_ms: i64) {
        let mut known = self.known.write();
        let Some(offset) = known.board.offset(id) else { return };
        if known.board.get(id).is_some_and(|triage| triage.decided_ms() <= recorded_ms) {
            known.ended.insert(id.to_owned(), offset);
        }
    }

    /// Returns once every decision that was there at the start is known.
    pub(super) async fn complete(&self) {
        // The sender lives as long as this.
        let _ = self.is_complete.subscribe().wait_for(|is_complete| *is_complete).await;
    }

    /// Reads decisions for ever, telling `changed` of each.
    pub(super) async fn follow(
        &self,
        log: &dyn Log,
        first_pause: Duration,
        changed: impl Fn(),
    ) -> Infallible {
        let mut position = None;
        let mut pause = first_pause;
        loop {
            let before = position;
            let outcome = self.read(log, &mut position, &changed).await;
            if position > before {
                pause = first_pause;
            }
            match outcome {
                Err(LogError::UnknownTopicPartition(_)) => {
                    self.is_complete.send_replace(true);
                    tokio::time::sleep(TOPIC_PAUSE).await;
                    continue;
                }
                Err(LogError::DataLoss { low, .. }) => position = Some(low),
                Err(error) if error.is_retriable() => {
                    tracing::warn!(%error, ?pause, "decisions about insights cannot be read; trying again");
                }
                Err(error) => {
                    tracing::error!(%error, "decisions about insights cannot be read: new mutes do not hold");
                    self.is_complete.send_replace(true);
                }
                Ok(never) => match never {},
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Reads from `position`, or all that is kept; returns only on an error.
    async fn read(
        &self,
        log: &dyn Log,
        position: &mut Option<NextOffset>,
        changed: &impl Fn(),
    ) -> Result<Infallible, LogError> {
        let at = TopicPartition::new(topics::TRIAGE, PARTITION);
        let marks = log.watermarks(&at).await?;
        let from = position.unwrap_or(marks.low);
        if from < marks.high {
            let range = Range { at: at.clone(), from, end: marks.high };
            let mut reader = RangeReader::open(log, &[range], POLL_BYTES).await?;
            while let Some(records) = reader.next(POLL_BYTES).await? {
                self.take(&records, position).await;
                changed();
            }
        }
        *position = Some(position.unwrap_or(from).max(marks.high));
        self.is_complete.send_replace(true);
        let options = ConsumerOptions {
            group: None,
            topics: Vec::new(),
            assign: vec![(at, position.unwrap_or(from))],
            max_buffered_bytes: POLL_BYTES,
            read_committed: true,
        };
        let mut consumer = log.consumer(options).await?;
        loop {
            if let Event::Records(records) = consumer.poll(POLL_BYTES, POLL_TIME).await? {
                self.take(&records, position).await;
                changed();
            }
        }
    }

    async fn take(&self, records: &[Record], position: &mut Option<NextOffset>) {
        for record in records {
            let payload = record.payload.as_deref();
            if let Some(payload) = payload
                && let Err(error) = self.schemas.learn_of(payload).await
            {
                tracing::warn!(offset = record.offset.0, %error, "the schema of a decision is not known");
            }
            let id = record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok());
            let decided = payload.map(|payload| self.schemas.decode::<Triage>(payload)).transpose();
            match (id, decided) {
                (Some(id), Ok(triage)) => {
                    self.known.write().board.take(id, record.offset.0, triage);
                }
                (None, _) => tracing::warn!(offset = record.offset.0, "a decision names no insight"),
                (_, Err(error)) => {
                    tracing::warn!(offset = record.offset.0, %error, "a decision cannot be read, going on")
                }
            }
            *position = Some(record.offset.next());
        }
    }
}
