//! Reads the spans topic into the hot tier: a consumer of its own, no group, every partition, from the
//! window's start.
//!
//! Invariants: positions move on only past records that were pushed; when retention overtakes the reader
//! the gap is logged and taken out of the coverage; trouble with the log is retried for ever, with a delay,
//! and shown on the status page.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use infertrace_runtime::{
    clock::Clock,
    log::{Consumer, ConsumerOptions, Event, Log, LogError, Millis, NextOffset, Record, TopicPartition},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::memory::Writer;
use crate::config::HotConfig;

const LAG_INTERVAL: Duration = Duration::from_secs(2);
const PARTITIONS_INTERVAL: Duration = Duration::from_secs(30);
const IDLE_POLL: Duration = Duration::from_millis(250);
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// The task that fills the hot tier.
pub struct Feed {
    log: Arc<dyn Log>,
    writer: Writer,
    clock: Arc<dyn Clock>,
    topic: Arc<str>,
    config: HotConfig,
    /// Next offset to read.
    positions: BTreeMap<u32, NextOffset>,
}

/// Why a reading session ended without an error.
enum Ended {
    Shutdown,
    MorePartitions,
}

impl Feed {
    /// Reads `topic` of `log` into `writer`'s tier.
    #[must_use]
    pub fn new(
        log: Arc<dyn Log>,
        writer: Writer,
        clock: Arc<dyn Clock>,
        topic: &str,
        config: HotConfig,
    ) -> Self {
        Self { log, writer, clock, topic: topic.into(), config, positions: BTreeMap::new() }
    }

    /// Reads until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut retry = FIRST_RETRY;
        loop {
            let ended = tokio::select! {
                biased;
                () = shutdown.cancelled() => Ok(Ended::Shutdown),
                ended = self.session() => ended,
            };
            match ended {
                Ok(Ended::Shutdown) => return,
                Ok(Ended::MorePartitions) => retry = FIRST_RETRY,
                Err(error) => {
                    tracing::warn!(%error, "hot tier cannot read the log, retrying");
                    self.writer.tier().set_feed_error(Some(error.to_string()));
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        () = tokio::time::sleep(retry) => {}
                    }
                    retry = (retry * 2).min(LONGEST_RETRY);
                }
            }
        }
    }

    /// Reads until an error or until the topic has more partitions than are read.
    async fn session(&mut self) -> Result<Ended, LogError> {
        // What an earlier session read stays; its positions go on.
        self.writer.publish();
        let assign = self.assignment().await?;
        let partitions = assign.len();
        let options = ConsumerOptions {
            group: None,
            topics: Vec::new(),
            assign,
            max_buffered_bytes: self.config.poll_max_bytes.saturating_mul(8),
            read_committed: true,
        };
        let mut consumer = self.log.consumer(options).await?;
        self.writer.tier().set_feed_error(None);
        let publish_interval = Duration::from_millis(self.config.publish_interval_ms);
        let mut publish_at: Option<Instant> = None;
        let mut lag_at = Instant::now();
        let mut partitions_at = Instant::now() + PARTITIONS_INTERVAL;
        loop {
            let wait = publish_at.map_or(IDLE_POLL, |at| at.saturating_duration_since(Instant::now()));
            match consumer.poll(self.config.poll_max_bytes, wait).await {
                Ok(Event::Records(records)) => {
                    self.push(&records);
                    publish_at.get_or_insert_with(|| Instant::now() + publish_interval);
                }
                Ok(Event::Idle | Event::Assigned(_) | Event::Revoked(_)) => {}
                Err(LogError::DataLoss { at, wanted, low }) => {
                    self.skip_gap(consumer.as_mut(), &at, wanted, low).await?
                }
                Err(error) => return Err(error),
            }
            let now = Instant::now();
            let due = publish_at.is_some_and(|at| at <= now);
            if due || self.writer.pending_spans() >= self.config.segment_spans || publish_at.is_none() {
                self.writer.publish();
                publish_at = None;
            }
            if lag_at <= now {
                self.measure_lag().await?;
                lag_at = now + LAG_INTERVAL;
            }
            if partitions_at <= now {
                if self.log.partitions(&self.topic).await? as usize > partitions {
                    return Ok(Ended::MorePartitions);
                }
                partitions_at = now + PARTITIONS_INTERVAL;
            }
            // Decoding is work without an await point; others on this thread get their turn.
            tokio::task::yield_now().await;
        }
    }

    /// Where each partition is read on: from where it stood, else from the window's start; a partition that
    /// appeared later from its first record.
    async fn assignment(&mut self) -> Result<Vec<(TopicPartition, NextOffset)>, LogError> {
        let partitions = self.log.partitions(&self.topic).await?;
        let window_start = Millis(self.clock.now_unix_millis() - self.config.window_ms as i64);
        let first_session = self.positions.is_empty();
        let mut assign = Vec::new();
        for partition in 0..partitions {
            let at = TopicPartition::new(Arc::clone(&self.topic), partition);
            let position = match self.positions.get(&partition) {
                Some(&position) => position,
                None => {
                    let position = if first_session {
                        self.log.position_at(&at, window_start).await?
                    } else {
                        self.log.watermarks(&at).await?.low
                    };
                    self.writer.start(partition as i32, position.0 as i64);
                    position
                }
            };
            assign.push((at, position));
        }
        self.positions = assign.iter().map(|(at, position)| (at.partition, *position)).collect();
        // Makes the starting coverage visible even when nothing comes.
        self.writer.publish();
        Ok(assign)
    }

    fn push(&mut self, records: &[Record]) {
        for record in records {
            let partition = record.from.partition;
            let payload = record.payload.as_deref().unwrap_or_default();
            self.writer.push(partition as i32, record.offset.0 as i64, record.timestamp.0, payload);
            self.positions.insert(partition, record.offset.next());
        }
    }

    async fn skip_gap(
        &mut self,
        consumer: &mut dyn Consumer,
        at: &TopicPartition,
        wanted: NextOffset,
        low: NextOffset,
    ) -> Result<(), LogError> {
        tracing::error!(
            partition = at.partition,
            wanted = wanted.0,
            low = low.0,
            "retention overtook the hot tier"
        );
        self.writer.start(at.partition as i32, low.0 as i64);
        self.positions.insert(at.partition, low);
        consumer.seek(at, low).await
    }

    async fn measure_lag(&mut self) -> Result<(), LogError> {
        let partitions: Vec<u32> = self.positions.keys().copied().collect();
        let asked = partitions.iter().map(|&one| TopicPartition::new(Arc::clone(&self.topic), one));
        let ends = self.log.ends(&asked.collect::<Vec<_>>()).await?;
        for (partition, end) in partitions.into_iter().zip(ends) {
            let Some(end) = end else { continue };
            self.writer.set_end(partition as i32, end.0 as i64);
        }
        Ok(())
    }
}
