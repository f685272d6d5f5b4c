//! Partials and rollup state as records: what both sessions write beside their other outputs.

use std::sync::Arc;

use bytes::Bytes;
use infertrace_analytics::rollup::Partial;
use infertrace_runtime::log::{Log, LogError, Millis, NewRecord, TopicPartition};
use infertrace_schemas::topics;

use crate::{
    partials::{IDLE_MS, RollupState, Route, Writer, route},
    rollup::Mark,
    samples::SeriesGroup,
};

/// Where partials and state go.
pub(super) struct RollupOutput {
    partials: Arc<str>,
    state: Arc<str>,
    state_partitions: u32,
    /// One a partition of the partials topic.
    writers: Vec<Writer>,
}

fn key_of(source: u32) -> Bytes {
    Bytes::from(source.to_string())
}

impl RollupOutput {
    pub(super) async fn new(log: &Arc<dyn Log>) -> Result<Self, LogError> {
        let partitions = log.partitions(topics::PARTIALS).await?.max(1);
        Ok(Self {
            partials: topics::PARTIALS.into(),
            state: topics::ROLLUP_STATE.into(),
            state_partitions: log.partitions(topics::ROLLUP_STATE).await?.max(1),
            writers: (0..partitions).map(|_| Writer::default()).collect(),
        })
    }

    /// Makes records of `partials` (which it empties) and, of `mark`, the watermark if it closed a window. They are stamped
    /// `now`: by that the second stage knows which source is silent.
    pub(super) fn records(
        &mut self,
        source: u32,
        partials: &mut Vec<Partial>,
        mark: Option<&Mark>,
        now: Millis,
        mut out: impl FnMut(NewRecord),
    ) {
        let topic = Arc::clone(&self.partials);
        let mut put = |partition: usize, payload: Vec<u8>| {
            out(NewRecord {
                to: TopicPartition::new(Arc::clone(&topic), partition as u32),
                key: Some(key_of(source)),
                payload: Some(payload.into()),
                headers: Vec::new(),
                timestamp: now,
            });
        };
        let partitions = self.writers.len() as u32;
        for partial in partials.drain(..) {
            let range = match route(&partial.key, partitions) {
                Route::One(partition) => partition as usize..partition as usize + 1,
                Route::All => 0..self.writers.len(),
            };
            for partition in range {
                let writer = &mut self.writers[partition];
                writer.push(&partial);
                if writer.is_full() {
                    put(partition, writer.finish(source, None));
                }
            }
        }
        let watermark_ms = mark.filter(|mark| mark.is_new_window).and_then(|mark| mark.watermark_ms);
        for (partition, writer) in self.writers.iter_mut().enumerate() {
            if !writer.is_empty() || watermark_ms.is_some() {
                put(partition, writer.finish(source, watermark_ms));
            }
        }
    }

    /// Makes the records that say that a source has nothing yet, so that nobody waits for its watermark.
    pub(super) fn idle(&mut self, source: u32, now: Millis, out: impl FnMut(NewRecord)) {
        let mark = Mark { rolled_to: 0, watermark_ms: Some(IDLE_MS), is_new_window: true };
        self.records(source, &mut Vec::new(), Some(&mark), now, out);
    }

    /// Where the state of a source is.
    pub(super) fn state_of(&self, source: u32) -> TopicPartition {
        TopicPartition::new(Arc::clone(&self.state), source % self.state_partitions)
    }

    pub(super) fn state_record(&self, state: &RollupState) -> NewRecord {
        let timestamp = Millis(state.watermark_ms.unwrap_or(0));
        self.kept(state.source, key_of(state.source), state.encode(), timestamp)
    }

    /// What is kept of a group of the source's series.
    pub(super) fn series_record(&self, source: u32, group: &SeriesGroup, timestamp: Millis) -> NewRecord {
        self.kept(source, group.key(source), group.encode(), timestamp)
    }

    fn kept(&self, source: u32, key: Bytes, payload: Vec<u8>, timestamp: Millis) -> NewRecord {
        let to = self.state_of(source);
        NewRecord { to, key: Some(key), payload: Some(payload.into()), headers: Vec::new(), timestamp }
    }
}
