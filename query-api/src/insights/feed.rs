//! Reads the topics of insights, decisions about them, baselines and rollups: one consumer of its own, no group, every partition.
//!
//! Insights and rollups are read from their window's start, baselines and decisions, whose
//! topics are compacted, from the first record.
//! Invariants: positions move on only past records that were taken in; a gap that retention left is logged and passed; a
//! topic that is not there yet is looked for again; trouble with the log is retried for ever, with a delay, and shown on
//! the status page.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use infertrace_runtime::{
    clock::Clock,
    log::{Consumer, ConsumerOptions, Event, Log, LogError, Millis, NextOffset, TopicPartition},
};
use infertrace_schemas::topics;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Insights;
use crate::config::InsightsConfig;

/// The topics read.
pub const TOPICS: [&str; 4] = [topics::INSIGHTS, topics::TRIAGE, topics::BASELINES, topics::ROLLUPS];

const LAG_INTERVAL: Duration = Duration::from_secs(2);
const PARTITIONS_INTERVAL: Duration = Duration::from_secs(30);
const IDLE_POLL: Duration = Duration::from_millis(250);
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// The task that fills [`Insights`].
pub struct Feed {
    log: Arc<dyn Log>,
    insights: Arc<Insights>,
    clock: Arc<dyn Clock>,
    config: InsightsConfig,
    /// Next offset to read, of what was read before.
    positions: BTreeMap<(&'static str, u32), NextOffset>,
}

impl Feed {
    /// Reads from `log` into `insights`.
    #[must_use]
    pub fn new(
        log: Arc<dyn Log>,
        insights: Arc<Insights>,
        clock: Arc<dyn Clock>,
        config: InsightsConfig,
    ) -> Self {
        Self { log, insights, clock, config, positions: BTreeMap::new() }
    }

    /// Reads until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut retry = FIRST_RETRY;
        loop {
            let ended = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                ended = self.session() => ended,
            };
            let Err(error) = ended else {
                retry = FIRST_RETRY;
                continue;
            };
            tracing::warn!(%error, "insights cannot be read from the log, retrying");
            self.insights.set_error(Some(error.to_string()));
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(retry) => {}
            }
            retry = (retry * 2).min(LONGEST_RETRY);
        }
    }

    /// Reads until an error, or until there are more partitions than are read.
    async fn session(&mut self) -> Result<(), LogError> {
        let assign = self.assignment().await?;
        let partitions = assign.len();
        if partitions == 0 {
            self.insights.set_error(None);
            tokio::time::sleep(PARTITIONS_INTERVAL).await;
            return Ok(());
        }
        let options = ConsumerOptions {
            group: None,
            topics: Vec::new(),
            assign,
            max_buffered_bytes: self.config.poll_max_bytes.saturating_mul(4),
            read_committed: true,
        };
        let mut consumer = self.log.consumer(options).await?;
        self.insights.set_error(None);
        let mut lag_at = Instant::now();
        let mut partitions_at = Instant::now() + PARTITIONS_INTERVAL;
        loop {
            match consumer.poll(self.config.poll_max_bytes, IDLE_POLL).await {
                Ok(Event::Records(records)) => {
                    for record in &records {
                        let Some(topic) = ours(&record.from.topic) else { continue };
                        let partition = record.from.partition;
                        let payload = record.payload.as_deref();
                        self.insights.learn_of(topic, payload).await;
                        self.insights.take(topic, record);
                        let next = record.offset.next();
                        self.positions.insert((topic, partition), next);
                        self.insights.reached(topic, partition, next.0, Some(record.timestamp.0));
                    }
                }
                Ok(Event::Idle | Event::Assigned(_) | Event::Revoked(_)) => {}
                Err(LogError::DataLoss { at, wanted, low }) => {
                    self.skip_gap(consumer.as_mut(), &at, wanted, low).await?
                }
                Err(error) => return Err(error),
            }
            self.insights.forget_before(self.clock.now_unix_millis());
            let now = Instant::now();
            if lag_at <= now {
                self.measure_lag().await?;
                lag_at = now + LAG_INTERVAL;
            }
            if partitions_at <= now {
                if self.count_partitions().await? > partitions {
                    return Ok(());
                }
                partitions_at = now + PARTITIONS_INTERVAL;
            }
            // Decoding is work without an await point; others on this thread get their turn.
            tokio::task::yield_now().await;
        }
    }

    /// Partitions of a topic; none where there is no such topic yet.
    async fn partitions_of(&self, topic: &'static str) -> Result<u32, LogError> {
        match self.log.partitions(topic).await {
            Err(LogError::UnknownTopicPartition(_)) => Ok(0),
            answer => answer,
        }
    }

    async fn count_partitions(&self) -> Result<usize, LogError> {
        let mut count = 0;
        for topic in TOPICS {
            count += self.partitions_of(topic).await? as usize;
        }
        Ok(count)
    }

    /// Where each partition is read on: from where it stood, else from its window's start; a partition that appeared
    /// later from its first record.
    async fn assignment(&mut self) -> Result<Vec<(TopicPartition, NextOffset)>, LogError> {
        let now_ms = self.clock.now_unix_millis();
        let mut assign = Vec::new();
        for topic in TOPICS {
            let window_ms = match topic {
                topics::INSIGHTS => Some(self.config.window_ms),
                topics::ROLLUPS => Some(self.config.rollup_window_ms),
                _ => None,
            };
            let is_known = self.positions.keys().any(|(known, _)| *known == topic);
            for partition in 0..self.partitions_of(topic).await? {
                let at = TopicPartition::new(topic, partition);
                let position = match (self.positions.get(&(topic, partition)), window_ms) {
                    (Some(position), _) => *position,
                    (None, Some(window_ms)) if !is_known => {
                        let age_ms = i64::try_from(window_ms).unwrap_or(i64::MAX);
                        self.log.position_at(&at, Millis(now_ms.saturating_sub(age_ms))).await?
                    }
                    (None, _) => self.log.watermarks(&at).await?.low,
                };
                self.insights.reached(topic, partition, position.0, None);
                assign.push((topic, at, position));
            }
        }
        // Only now: an error above leaves "known" as it was.
        self.positions =
            assign.iter().map(|(topic, at, position)| ((*topic, at.partition), *position)).collect();
        Ok(assign.into_iter().map(|(_, at, position)| (at, position)).collect())
    }

    async fn skip_gap(
        &mut self,
        consumer: &mut dyn Consumer,
        at: &TopicPartition,
        wanted: NextOffset,
        low: NextOffset,
    ) -> Result<(), LogError> {
        tracing::error!(
            topic = %at.topic,
            partition = at.partition,
            wanted = wanted.0,
            low = low.0,
            "retention overtook the reader of insights"
        );
        if let Some(topic) = ours(&at.topic) {
            self.positions.insert((topic, at.partition), low);
            self.insights.reached(topic, at.partition, low.0, None);
        }
        consumer.seek(at, low).await
    }

    async fn measure_lag(&self) -> Result<(), LogError> {
        let now_ms = self.clock.now_unix_millis();
        let asked = self.positions.keys().map(|(topic, partition)| TopicPartition::new(*topic, *partition));
        let ends = self.log.ends(&asked.collect::<Vec<_>>()).await?;
        for ((topic, partition), end) in self.positions.keys().zip(ends) {
            let Some(end) = end else { continue };
            self.insights.set_end(topic, *partition, end.0, now_ms);
        }
        Ok(())
    }
}

/// The topic's name as a constant.
fn ours(topic: &str) -> Option<&'static str> {
    TOPICS.into_iter().find(|known| *known == topic)
}
