//! Outputs of a replay: which windows are told, as which records, in which topics; and what live says of the same time.

use std::{collections::HashSet, sync::Arc};

use infertrace_analytics::{
    output::Output,
    rollup::{Millis, WINDOW_MS},
};
use infertrace_runtime::log::{
    self, Delivery, Log, LogError, NewRecord, NextOffset, TopicPartition, TopicSpec,
    range::{Range, RangeReader},
};
use infertrace_schemas::{
    access::REPLAY_PREFIX,
    avro::{Insight, SchemaIds},
    topics,
};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::{
    ReplayError,
    diff::Told,
    stages::Outcome,
    state::{Ends, State},
};
use crate::insights::convert::{Converter, Partitions, insight_record};

const RETENTION: std::time::Duration = std::time::Duration::from_secs(30 * 86_400);
const POLL_BYTES: usize = 4 << 20;
/// Appends under way at most.
const IN_FLIGHT: usize = 1_000;

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Merged counters and sketches.
    Rollups,
    /// What is normal.
    Baselines,
    /// Insights.
    Insights,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Rollups, Self::Baselines, Self::Insights];

    const fn name(self) -> &'static str {
        match self {
            Self::Rollups => "rollups",
            Self::Baselines => "baselines",
            Self::Insights => "insights",
        }
    }
}

/// The topic of a replay's outputs of one kind.
#[must_use]
pub fn topic(id: &str, kind: Kind) -> String {
    format!("{REPLAY_PREFIX}{id}.{}.v1", kind.name())
}

/// How much was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Windows of 10 s that closed within the range, over all analysts.
    pub windows: u64,
    /// Rollups.
    pub rollups: u64,
    /// Baselines.
    pub baselines: u64,
    /// States of insights.
    pub insight_states: u64,
}

/// Turns outputs into records and appends them.
pub(super) struct Teller {
    log: Option<Arc<dyn Log>>,
    converter: Converter,
    topics: [Arc<str>; 3],
    partitions: u32,
    from_ms: Millis,
    to_ms: Millis,
    /// Outputs of windows that are not closed.
    waiting: Vec<Vec<Output>>,
    under_way: Vec<Delivery>,
    /// What stands in the topics already, since the last checkpoint of the run that was interrupted.
    there: HashSet<u128>,
    pub(super) tally: Tally,
    pub(super) insights: Told,
}

impl Teller {
    /// Creates the topics unless nothing is to be written (`log` is none).
    pub(super) async fn new(
        log: Option<Arc<dyn Log>>,
        id: &str,
        partitions: u32,
        replication: u16,
        range: (Millis, Millis),
    ) -> Result<Self, LogError> {
        let topics = Kind::ALL.map(|kind| Arc::from(topic(id, kind)));
        if let Some(log) = &log {
            let spec = |name: &Arc<str>| TopicSpec {
                name: name.clone(),
                partitions,
                retention: Some(RETENTION),
                compacted: false,
                replication,
            };
            log.create_topics(&topics.each_ref().map(spec)).await?;
        }
        Ok(Self {
            log,
            converter: Converter::current(),
            topics,
            partitions,
            from_ms: range.0,
            to_ms: range.1,
            waiting: vec![Vec::new(); partitions as usize],
            under_way: Vec::new(),
            there: HashSet::new(),
            tally: Tally::default(),
            insights: Told::default(),
        })
    }

    /// Goes on after the checkpoint of `state`: what was told after it is told again, but not written twice.
    pub(super) async fn resume(&mut self, state: &State) -> Result<(), ReplayError> {
        self.tally = state.told;
        let Some(log) = self.log.clone() else { return Ok(()) };
        let ids = SchemaIds::current::<Insight>();
        for (topic, kind) in self.topics.clone().into_iter().zip(Kind::ALL) {
            for partition in 0..self.partitions {
                let at = TopicPartition::new(topic.clone(), partition);
                let marks = log.watermarks(&at).await?;
                let told_to = state.ends.get(&at.to_string()).copied().unwrap_or(0);
                // Insights told before are needed for the comparison.
                let from =
                    if kind == Kind::Insights { marks.low } else { NextOffset(told_to.max(marks.low.0)) };
                let range = Range { at, from, end: marks.high };
                let mut reader = RangeReader::open(log.as_ref(), &[range], 2 * POLL_BYTES).await?;
                while let Some(records) = reader.next(POLL_BYTES).await? {
                    for record in records {
                        let payload = record.payload.as_deref().unwrap_or_default();
                        if record.offset.0 >= told_to {
                            self.there.insert(identity(&record.from, payload));
                        } else if let Ok(insight) = ids.decode::<Insight>(payload) {
                            self.insights.add(insight);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes outputs in the order of their analysts; a window is told when it is closed and within the range.
    pub(super) async fn tell(&mut self, outputs: Vec<Outcome>) -> Result<(), ReplayError> {
        for (partition, output) in outputs {
            let Some(waiting) = self.waiting.get_mut(partition as usize) else { continue };
            let Output::Closed { window_ms } = output else {
                waiting.push(output);
                continue;
            };
            let outputs = std::mem::take(waiting);
            if window_ms + WINDOW_MS <= self.from_ms || window_ms >= self.to_ms {
                continue;
            }
            self.tally.windows += 1;
            for output in outputs {
                self.put(partition, &output).await?;
            }
        }
        Ok(())
    }

    async fn put(&mut self, partition: u32, output: &Output) -> Result<(), ReplayError> {
        let to =
            Partitions { rollups: self.partitions, baselines: self.partitions, insights: self.partitions };
        let (mut record, topic) = match output {
            Output::Rollup(rollup) => {
                self.tally.rollups += 1;
                (self.converter.rollup(rollup, partition, to)?, &self.topics[0])
            }
            Output::Baseline(baseline) => {
                self.tally.baselines += 1;
                (self.converter.baseline(baseline, partition, to)?, &self.topics[1])
            }
            Output::Insight(insight) => {
                self.tally.insight_states += 1;
                self.insights.add(insight_record(insight));
                (self.converter.insight(insight, partition, to)?, &self.topics[2])
            }
            Output::Closed { .. } => return Ok(()),
        };
        let Some(log) = self.log.clone() else { return Ok(()) };
        record.to = TopicPartition::new(Arc::clone(topic), partition);
        if self.there.remove(&identity(&record.to, record.payload.as_deref().unwrap_or_default())) {
            return Ok(());
        }
        self.append(log.as_ref(), record).await
    }

    async fn append(&mut self, log: &dyn Log, record: NewRecord) -> Result<(), ReplayError> {
        let delivery = loop {
            match log.append(record.clone()) {
                Err(LogError::Full { retry_after }) => tokio::time::sleep(retry_after).await,
                taken => break taken?,
            }
        };
        self.under_way.push(delivery);
        if self.under_way.len() >= IN_FLIGHT {
            self.settle().await?;
        }
        Ok(())
    }

    /// Waits until everything told is durable.
    pub(super) async fn settle(&mut self) -> Result<(), ReplayError> {
        for delivery in self.under_way.drain(..) {
            delivery.await?;
        }
        Ok(())
    }

    /// Where the output topics end.
    pub(super) async fn ends(&mut self) -> Result<Ends, ReplayError> {
        let mut ends = Ends::new();
        let Some(log) = self.log.clone() else { return Ok(ends) };
        for topic in &self.topics {
            for partition in 0..self.partitions {
                let at = TopicPartition::new(topic.clone(), partition);
                ends.insert(at.to_string(), log.watermarks(&at).await?.high.0);
            }
        }
        Ok(ends)
    }

    /// Names of the topics.
    pub(super) fn topics(&self) -> Vec<String> {
        self.topics.iter().map(ToString::to_string).collect()
    }
}

fn identity(at: &TopicPartition, payload: &[u8]) -> u128 {
    let mut bytes = at.to_string().into_bytes();
    bytes.push(0);
    bytes.extend_from_slice(payload);
    xxh3_128(&bytes)
}

/// What was told live of windows that end within `(from, to]`, by tenant and model if asked for.
pub(super) async fn live(
    log: &dyn Log,
    range: (Millis, Millis),
    filter: &super::Filter,
) -> Result<Told, ReplayError> {
    let ids = SchemaIds::current::<Insight>();
    let mut told = Told::default();
    let partitions = match log.partitions(topics::INSIGHTS).await {
        // Nothing was ever told live.
        Err(LogError::UnknownTopicPartition(_)) => return Ok(told),
        partitions => partitions?,
    };
    for partition in 0..partitions {
        let at = TopicPartition::new(topics::INSIGHTS, partition);
        // Records are stamped with the end of their window.
        let from = log.position_at(&at, log::Millis(range.0)).await?;
        let end = log.position_at(&at, log::Millis(range.1 + WINDOW_MS)).await?.max(from);
        let mut reader = RangeReader::open(log, &[Range { at, from, end }], 2 * POLL_BYTES).await?;
        while let Some(records) = reader.next(POLL_BYTES).await? {
            for record in &records {
                let payload = record.payload.as_deref().unwrap_or_default();
                let insight = match ids.decode::<Insight>(payload) {
                    Ok(insight) => insight,
                    Err(error) => {
                        tracing::warn!(at = %record.from, offset = record.offset.0, %error, "not compared");
                        continue;
                    }
                };
                let end_ms = insight.window_end_unix_nanos / 1_000_000;
                let is = |wanted: &Option<String>, found: &str| {
                    wanted.as_deref().is_none_or(|wanted| found.is_empty() || wanted == found)
                };
                let wanted = is(&filter.tenant, &insight.tenant) && is(&filter.model, &insight.model);
                if wanted && end_ms > range.0 && end_ms <= range.1 {
                    told.add(insight);
                }
            }
        }
    }
    Ok(told)
}
