//! One membership in the group, from joining to leaving or to an unknown outcome.
//!
//! A single loop polls, assembles and commits. Summaries, dead letters and input positions go into one transaction.
//! While the log does not take transactions, partitions are paused and polling goes on, so that the group keeps
//! the member and memory stays bounded.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use hashbrown::HashSet;
use infertrace_runtime::log::{
    Consumer, ConsumerOptions, Event, LogError, Millis, NewRecord, NextOffset, Record, TopicPartition,
    Transactions,
};
use infertrace_schemas::{
    avro::{AvroRecord, TraceSummary},
    dedup::Dedup,
    reader::{Position, SpanReader},
    record::batch_id_of,
    topics,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Error, LONGEST_PAUSE, Service};
use crate::{
    assembly::{Assembly, Closed},
    dead_letter::dead_letter,
    metrics::ReasonLabels,
    restore::{Outputs, restore},
    rows::Rows,
};

/// Spans decoded into one batch.
const BATCH_SPANS: usize = 8_192;
const POLL_TIME: Duration = Duration::from_millis(100);
/// Offsets at the end of a topic that may be transaction markers.
const MARKERS: u64 = 8;
/// Tries of the last commit when shutting down.
const LAST_TRIES: u32 = 3;

/// One assigned partition.
struct Input {
    at: TopicPartition,
    dedup: Dedup,
    /// Offsets that are in the dead-letter topic already.
    dead_lettered: HashSet<u64>,
    /// Position as committed last.
    committed: Option<u64>,
    /// Time stamp of the last record, the watermark after it, and the wall time of its arrival.
    last_record_ms: Option<i64>,
    last_watermark_ms: Option<i64>,
    last_arrival_ms: i64,
}

/// A record of the chunk being decoded, in order.
struct Step {
    partition: u32,
    offset: u64,
    timestamp_ms: i64,
    spans: usize,
}

/// An output that waits for its transaction, and the input partition it comes from.
struct Pending {
    partition: u32,
    record: NewRecord,
}

pub(super) struct Session<'s> {
    service: &'s Service,
    consumer: Box<dyn Consumer>,
    transactions: Box<dyn Transactions>,
    traces: Arc<str>,
    traces_partitions: u32,
    dead_letters: Arc<str>,
    dead_letters_partitions: u32,
    assembly: Assembly,
    reader: SpanReader,
    inputs: BTreeMap<u32, Input>,
    steps: Vec<Step>,
    closed: Vec<Closed>,
    pending: Vec<Pending>,
    pending_bytes: usize,
    last_commit: Instant,
    next_look_up: Instant,
    /// Set while transactions fail: when to try again, and the pause after that.
    retry: Option<(Instant, Duration)>,
    commits: u64,
}

impl<'s> Session<'s> {
    pub(super) async fn start(service: &'s Service) -> Result<Self, LogError> {
        let log = &service.log;
        // Taking the transactional id first ends whatever an earlier instance of this name left open.
        let transactions = log.transactions(&service.transactional_id).await?;
        let traces_partitions = log.partitions(topics::TRACES).await?.max(1);
        let dead_letters_partitions = log.partitions(topics::DLQ).await?.max(1);
        let consumer = log
            .consumer(ConsumerOptions {
                group: Some(service.config.group.clone()),
                topics: vec![topics::SPANS.into()],
                assign: Vec::new(),
                max_buffered_bytes: service.config.max_buffered_bytes,
                read_committed: true,
            })
            .await?;
        let schema_id = TraceSummary::<'static>::schema().id;
        Ok(Self {
            service,
            consumer,
            transactions,
            traces: topics::TRACES.into(),
            traces_partitions,
            dead_letters: topics::DLQ.into(),
            dead_letters_partitions,
            assembly: Assembly::new(service.config.limits(), schema_id),
            reader: SpanReader::with_capacity(BATCH_SPANS),
            inputs: BTreeMap::new(),
            steps: Vec::new(),
            closed: Vec::new(),
            pending: Vec::new(),
            pending_bytes: 0,
            last_commit: Instant::now(),
            next_look_up: Instant::now(),
            retry: None,
            commits: 0,
        })
    }

    /// Whether a transaction was committed.
    pub(super) const fn made_progress(&self) -> bool {
        self.commits > 0
    }

    pub(super) async fn run(&mut self, shutdown: &CancellationToken) -> Result<(), Error> {
        while !shutdown.is_cancelled() {
            self.step().await?;
        }
        self.drain().await?;
        Ok(())
    }

    async fn step(&mut self) -> Result<(), Error> {
        match self.consumer.poll(self.service.config.max_poll_bytes, POLL_TIME).await {
            Ok(Event::Records(records)) => self.take(records)?,
            Ok(Event::Assigned(partitions)) => self.assign(partitions).await?,
            Ok(Event::Revoked(partitions)) => self.revoke(&partitions).await?,
            Ok(Event::Idle) => {}
            Err(LogError::DataLoss { at, wanted, low }) => self.skip_lost(&at, wanted, low).await?,
            Err(error) if error.is_retriable() => {
                tracing::warn!(%error, "the log cannot be read; trying again");
                tokio::time::sleep(self.service.config.retry()).await;
            }
            Err(error) => return Err(error.into()),
        }
        if Instant::now() >= self.next_look_up {
            self.next_look_up = Instant::now() + Duration::from_millis(self.service.config.end_check_ms);
            self.look_at_ends().await?;
        }
        if self.is_commit_due() {
            self.commit().await?;
        }
        Ok(())
    }

    /// Decodes records in chunks and assembles them in order.
    fn take(&mut self, mut records: Vec<Record>) -> Result<(), Error> {
        self.service.metrics.records.inc_by(records.len() as u64);
        // Records of one partition stay in order; of several, they come together.
        records.sort_by_key(|record| record.from.partition);
        let now_ms = self.service.clock.now_unix_millis();
        for record in &records {
            let partition = record.from.partition;
            let Some(input) = self.inputs.get_mut(&partition) else { continue };
            // Fetched before a seek took effect.
            if self.assembly.next_offset(partition).is_some_and(|next| record.offset.0 < next) {
                continue;
            }
            let payload = record.payload.as_deref().unwrap_or_default();
            let mut step =
                Step { partition, offset: record.offset.0, timestamp_ms: record.timestamp.0, spans: 0 };
            let position = Position { partition: partition as i32, offset: record.offset.0 as i64 };
            if record.payload.is_none() {
                self.dead_letter(record, "the record has no value");
            } else if batch_id_of(payload).is_some_and(|id| input.dedup.contains(&id)) {
                self.service.metrics.duplicate_batches.inc();
            } else {
                match self.reader.push(payload, position) {
                    Ok(pushed) => {
                        // Only a batch that was read counts as seen: a poison record may be sent back.
                        input.dedup.admit(batch_id_of(payload));
                        step.spans = pushed.spans;
                        for (reason, count, _) in pushed.rejections() {
                            let labels = ReasonLabels { reason: reason.reason() };
                            self.service.metrics.rejected_spans.get_or_create(&labels).inc_by(count.into());
                        }
                    }
                    Err(error) => self.dead_letter(record, &error.to_string()),
                }
            }
            self.steps.push(step);
            if self.reader.len() >= BATCH_SPANS || self.reader.is_full() {
                self.assemble()?;
            }
        }
        self.assemble()?;
        for record in records.chunk_by(|a, b| a.from.partition == b.from.partition).filter_map(<[_]>::last) {
            let partition = record.from.partition;
            if let Some(input) = self.inputs.get_mut(&partition) {
                input.last_record_ms = Some(record.timestamp.0);
                input.last_watermark_ms = self.assembly.watermark_ms(partition);
                input.last_arrival_ms = now_ms;
            }
        }
        Ok(())
    }

    /// Assembles what the reader holds.
    fn assemble(&mut self) -> Result<(), Error> {
        let batch = self.reader.finish();
        let mut rows = Rows::new(&batch)?;
        let mut row = 0;
        for step in self.steps.drain(..) {
            self.assembly.begin_record(step.partition, step.timestamp_ms, &mut self.closed);
            for _ in 0..step.spans {
                let span = rows.span(row, self.assembly.names());
                self.assembly.span(step.partition, step.offset, &span, &mut self.closed);
                row += 1;
            }
            self.assembly.end_record(step.partition, step.offset, &mut self.closed);
        }
        drop(rows);
        self.assembly.sweep_names();
        self.queue_closed();
        self.report();
        Ok(())
    }

    fn dead_letter(&mut self, record: &Record, error: &str) {
        let partition = record.from.partition;
        let Some(input) = self.inputs.get(&partition) else { return };
        if input.dead_lettered.contains(&record.offset.0) {
            return;
        }
        tracing::warn!(at = %record.from, offset = record.offset.0, error, "poison record moved to the dead-letter topic");
        self.service.metrics.dead_letters.inc();
        let to =
            TopicPartition::new(Arc::clone(&self.dead_letters), partition % self.dead_letters_partitions);
        // Never stamped before a record it comes from: a restart looks for it from that time on.
        let watermark = self.assembly.watermark_ms(partition).unwrap_or(i64::MIN);
        let timestamp = Millis(watermark.max(record.timestamp.0));
        let letter = dead_letter(record, to, error, timestamp);
        self.pending_bytes += letter.payload.as_ref().map_or(0, Bytes::len) + 256;
        self.pending.push(Pending { partition, record: letter });
    }

    fn queue_closed(&mut self) {
        for closed in self.closed.drain(..) {
            let labels = ReasonLabels { reason: closed.closed_by.as_str() };
            self.service.metrics.closed_traces.get_or_create(&labels).inc();
            if closed.version > 1 {
                self.service.metrics.corrections.inc();
            }
            self.pending_bytes += closed.summary.len() + 64;
            let to = TopicPartition::new(Arc::clone(&self.traces), closed.partition % self.traces_partitions);
            let record = NewRecord {
                to,
                key: Some(Bytes::copy_from_slice(&closed.trace_id)),
                payload: Some(closed.summary.into()),
                headers: Vec::new(),
                timestamp: Millis(closed.watermark_ms),
            };
            self.pending.push(Pending { partition: closed.partition, record });
        }
    }

    fn report(&mut self) {
        let counts = self.assembly.take_counts();
        let metrics = &self.service.metrics;
        metrics.spans.inc_by(counts.spans);
        metrics.duplicate_spans.inc_by(counts.duplicate_spans);
        metrics.late_spans.inc_by(counts.late_spans);
        metrics.suppressed.inc_by(counts.suppressed_summaries);
        metrics.forgotten_early.inc_by(counts.forgotten_early);
        metrics.evictions.inc_by(counts.evicted_traces);
        metrics.open_traces.set(self.assembly.open_traces() as i64);
        metrics.held_traces.set(self.assembly.traces() as i64);
        metrics.state_bytes.set(self.assembly.bytes() as i64);
    }

    async fn assign(&mut self, partitions: Vec<(TopicPartition, Option<NextOffset>)>) -> Result<(), Error> {
        for (at, committed) in partitions {
            let partition = at.partition;
            let outputs = Outputs {
                traces: TopicPartition::new(Arc::clone(&self.traces), partition % self.traces_partitions),
                dead_letters: TopicPartition::new(
                    Arc::clone(&self.dead_letters),
                    partition % self.dead_letters_partitions,
                ),
            };
            let begin = Instant::now();
            let dedup_batches = self.service.config.dedup_batches;
            let restored = restore(&self.service.log, &at, committed, dedup_batches, &outputs).await?;
            if restored.lost > 0 {
                self.service.metrics.lost_records.inc_by(restored.lost);
                tracing::error!(%at, lost = restored.lost, "retention removed records before they were assembled");
            }
            let from = restored.resume.from;
            self.consumer.seek(&at, NextOffset(from)).await?;
            self.assembly.assign(partition, restored.resume);
            let input = Input {
                at: at.clone(),
                dedup: restored.dedup,
                dead_lettered: restored.dead_letters,
                committed: committed.map(|position| position.0),
                last_record_ms: None,
                last_watermark_ms: None,
                last_arrival_ms: self.service.clock.now_unix_millis(),
            };
            self.inputs.insert(partition, input);
            if self.retry.is_some() {
                self.consumer.pause(&at)?;
            }
            self.service.metrics.restore_seconds.observe(begin.elapsed().as_secs_f64());
            tracing::info!(%at, from, elapsed_ms = begin.elapsed().as_millis() as u64, "partition assigned");
        }
        Ok(())
    }

    /// Commits what is ready, then lets go. What could not be committed is made again by the next owner.
    async fn revoke(&mut self, partitions: &[TopicPartition]) -> Result<(), Error> {
        self.commit().await?;
        for at in partitions {
            let partition = at.partition;
            self.assembly.revoke(partition);
            self.inputs.remove(&partition);
            self.service.metrics.lag.forget(partition);
            self.pending.retain(|pending| pending.partition != partition);
            if self.pending.is_empty() {
                self.pending_bytes = 0;
            }
            tracing::info!(%at, "partition revoked");
        }
        self.report();
        Ok(())
    }

    async fn skip_lost(
        &mut self,
        at: &TopicPartition,
        wanted: NextOffset,
        low: NextOffset,
    ) -> Result<(), Error> {
        let lost = low.0.saturating_sub(wanted.0);
        self.service.metrics.lost_records.inc_by(lost);
        tracing::error!(%at, wanted = wanted.0, low = low.0, lost, "retention removed records before they were assembled");
        self.consumer.seek(at, low).await?;
        Ok(())
    }

    /// Looks up where partitions end: for lag, and to close what is idle at the end of the log.
    async fn look_at_ends(&mut self) -> Result<(), Error> {
        let now_ms = self.service.clock.now_unix_millis();
        for (&partition, input) in &self.inputs {
            let high = match self.service.log.watermarks(&input.at).await {
                Ok(marks) => marks.high.0,
                Err(error) if error.is_retriable() => continue,
                Err(error) => return Err(error.into()),
            };
            let next = self.assembly.next_offset(partition).unwrap_or(0);
            let lag = high.saturating_sub(next);
            let waited_ms = now_ms.saturating_sub(input.last_arrival_ms).max(0);
            let idle_ms = self.service.config.trace_idle_ms;
            // Markers of transactions count as offsets but are never delivered.
            let is_caught_up = lag == 0 || (lag <= MARKERS && waited_ms >= 2 * idle_ms);
            let behind_ms = input.last_record_ms.map_or(0, |last| now_ms.saturating_sub(last).max(0));
            let lag_seconds = if is_caught_up { 0.0 } else { behind_ms as f64 / 1e3 };
            self.service.metrics.lag.set(partition, if is_caught_up { 0 } else { lag }, lag_seconds);
            if !is_caught_up || !self.service.config.close_by_wall_clock {
                continue;
            }
            // Wall time only counts how long nothing came, so clocks that differ between hosts do no harm.
            if let Some(watermark) = input.last_watermark_ms {
                self.assembly.advance(partition, watermark.saturating_add(waited_ms), &mut self.closed);
            }
        }
        self.queue_closed();
        self.report();
        Ok(())
    }

    fn is_commit_due(&self) -> bool {
        if let Some((at, _)) = self.retry {
            return Instant::now() >= at;
        }
        let since = self.last_commit.elapsed();
        if self.pending.is_empty() {
            return since >= Duration::from_millis(self.service.config.position_commit_ms);
        }
        since >= Duration::from_millis(self.service.config.commit_interval_ms)
            || self.pending.len() >= self.service.config.max_commit_records
            || self.pending_bytes >= self.service.config.max_pending_bytes
    }

    /// Positions that moved since they were committed.
    fn positions(&self) -> Vec<(TopicPartition, NextOffset)> {
        self.inputs
            .iter()
            .filter_map(|(&partition, input)| {
                let position = self.assembly.committable(partition)?;
                (input.committed != Some(position)).then(|| (input.at.clone(), NextOffset(position)))
            })
            .collect()
    }

    /// One transaction; a passing fault leaves everything as it was and pauses the input.
    async fn commit(&mut self) -> Result<(), Error> {
        self.last_commit = Instant::now();
        let positions = self.positions();
        if self.pending.is_empty() && positions.is_empty() {
            return Ok(());
        }
        let outputs: Vec<NewRecord> = self.pending.iter().map(|pending| pending.record.clone()).collect();
        let group = self.consumer.group_metadata();
        let begin = Instant::now();
        match self.transactions.commit(outputs, group.as_ref(), &positions).await {
            Ok(()) => {
                self.service.metrics.transaction_seconds.observe(begin.elapsed().as_secs_f64());
                self.commits += 1;
                self.pending.clear();
                self.pending_bytes = 0;
                for (at, position) in positions {
                    if let Some(input) = self.inputs.get_mut(&at.partition) {
                        input.committed = Some(position.0);
                        input.dead_lettered.retain(|&offset| offset >= position.0);
                    }
                }
                if self.retry.take().is_some() {
                    self.pause_all(false)?;
                    tracing::info!("the log takes transactions again");
                }
                Ok(())
            }
            Err(error) if error.is_retriable() => {
                self.service.metrics.commit_failures.inc();
                let pause = self
                    .retry
                    .map_or(self.service.config.retry(), |(_, pause)| (pause * 2).min(LONGEST_PAUSE));
                if self.retry.is_none() {
                    tracing::warn!(%error, "the log takes no transactions; input is paused");
                    self.pause_all(true)?;
                }
                self.retry = Some((Instant::now() + pause, pause));
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn pause_all(&mut self, paused: bool) -> Result<(), LogError> {
        self.service.metrics.paused.set(i64::from(paused));
        for input in self.inputs.values() {
            if paused {
                self.consumer.pause(&input.at)?;
            } else {
                self.consumer.resume(&input.at)?;
            }
        }
        Ok(())
    }

    /// The last commit. What cannot be committed now is made again at the next start.
    async fn drain(&mut self) -> Result<(), Error> {
        for attempt in 0..LAST_TRIES {
            match self.commit().await {
                Ok(()) if self.pending.is_empty() => return Ok(()),
                Ok(()) => {}
                // Another member goes on from the committed positions: nothing is lost.
                Err(Error::Log(LogError::Fenced(_) | LogError::Ambiguous(_))) => return Ok(()),
                Err(error) => return Err(error),
            }
            tokio::time::sleep(self.service.config.retry() * (attempt + 1)).await;
        }
        tracing::warn!(
            outputs = self.pending.len(),
            "stopping without the last commit; it is made again at the next start"
        );
        Ok(())
    }
}
