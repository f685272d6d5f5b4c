//! One membership in the group, from joining to leaving or to an unknown outcome.
//!
//! A single loop polls, assembles, counts and commits. Summaries, partials, dead letters, the rollups' state and input
//! positions go into one transaction. While the log does not take transactions, partitions are paused and polling
//! goes on, so that the group keeps the member and memory stays bounded.
//!
//! Spans are counted in partials once a window is over, so a position is committed only up to where they are
//! ([`Roller::rolled_to`]); traces are counted in the transaction of their summary.

mod commit;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use hashbrown::HashSet;
use infertrace_analytics::rollup::Partial;
use infertrace_runtime::log::{
    Consumer, ConsumerOptions, Event, LogError, Millis, NewRecord, NextOffset, Record, TopicPartition,
};
use infertrace_schemas::{
    avro::{SchemaIds, TraceSummary},
    dedup::Dedup,
    reader::{Position, SpanReader},
    record::batch_id_of,
    topics,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Error, Service, is_caught_up, pending::Pending, rollups::RollupOutput};
use crate::{
    assembly::{Assembly, Closed},
    dead_letter::dead_letter,
    metrics::ReasonLabels,
    partials::RollupState,
    restore::{Outputs, restore, rollup_state},
    rollup::{Columns, Roller},
    rows::{self, Rows},
    stitch::Sightings,
    stitching::SightingWriter,
};

/// Spans decoded into one batch.
const BATCH_SPANS: usize = 8_192;
const POLL_TIME: Duration = Duration::from_millis(100);

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
    /// The rollups' watermark then, and when they were flushed last.
    last_rolled_ms: Option<i64>,
    last_flush: Instant,
    /// Whether the second stage was told that there is nothing here.
    told_idle: bool,
}

/// A record of the chunk being decoded, in order.
struct Step {
    partition: u32,
    offset: u64,
    timestamp_ms: i64,
    spans: usize,
}

pub(super) struct Session<'s> {
    service: &'s Service,
    consumer: Box<dyn Consumer>,
    traces: Arc<str>,
    traces_partitions: u32,
    dead_letters: Arc<str>,
    dead_letters_partitions: u32,
    assembly: Assembly,
    reader: SpanReader,
    inputs: BTreeMap<u32, Input>,
    steps: Vec<Step>,
    closed: Vec<Closed>,
    roller: Roller,
    rollups: RollupOutput,
    partials: Vec<Partial>,
    /// What the spans counted since the last flush say of requests, by partition.
    sightings: BTreeMap<u32, SightingWriter>,
    requests_partitions: u32,
    /// What is flushed and not committed yet.
    states: BTreeMap<u32, RollupState>,
    pending: Pending,
    next_look_up: Instant,
}

/// A session that lost its membership leaves no lag behind that another member works off.
impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.inputs.keys().for_each(|&partition| self.service.metrics.lag.forget(partition));
    }
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
        let schema_id = SchemaIds::current::<TraceSummary<'static>>().write_id();
        Ok(Self {
            service,
            consumer,
            traces: topics::TRACES.into(),
            traces_partitions,
            dead_letters: topics::DLQ.into(),
            dead_letters_partitions,
            assembly: Assembly::new(service.config.limits(), schema_id).with_prices(service.pricer.version()),
            reader: rows::reader(BATCH_SPANS),
            inputs: BTreeMap::new(),
            steps: Vec::new(),
            closed: Vec::new(),
            roller: Roller::priced(service.config.rollup_limits(), Arc::clone(&service.pricer)),
            rollups: RollupOutput::new(log).await?,
            partials: Vec::new(),
            sightings: BTreeMap::new(),
            requests_partitions: log.partitions(topics::REQUESTS).await?.max(1),
            states: BTreeMap::new(),
            pending: Pending::new(transactions, service.config.retry()),
            next_look_up: Instant::now(),
        })
    }

    /// Whether a transaction was committed.
    pub(super) const fn made_progress(&self) -> bool {
        self.pending.commits() > 0
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
            self.commit(false).await?;
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
                input.last_rolled_ms = self.roller.watermark_ms(partition);
                input.last_arrival_ms = now_ms;
            }
        }
        Ok(())
    }

    /// Assembles and counts what the reader holds.
    fn assemble(&mut self) -> Result<(), Error> {
        let batch = self.reader.finish();
        let mut rows = Rows::new(&batch)?;
        let mut columns = Columns::new(&batch)?;
        let mut sightings = Sightings::new(&batch)?;
        let mut row = 0;
        let mut steps = std::mem::take(&mut self.steps);
        for Step { partition, offset, timestamp_ms, spans } in steps.drain(..) {
            self.assembly.begin_record(partition, timestamp_ms, &mut self.closed);
            let counts = self.roller.begin_record(partition, offset, timestamp_ms);
            for row in row..row + spans {
                let mut span = rows.span(row, self.assembly.names());
                span.cost = self.roller.cost(&mut columns, row);
                let is_new = self.assembly.span(partition, offset, &span, &mut self.closed);
                if counts && is_new {
                    self.roller.span(partition, &mut columns, row, span.cost.as_ref());
                    if let Some(writer) = self.sightings.get_mut(&partition)
                        && let Some(sighting) = sightings.of(row)
                    {
                        writer.push(&sighting);
                    }
                }
            }
            row += spans;
            self.assembly.end_record(partition, offset, &mut self.closed);
            // Before the watermark moves on: the window of a trace depends on no chunk.
            self.take_closed();
            self.roller.end_record(partition, offset);
        }
        self.steps = steps;
        self.assembly.sweep_names();
        self.report();
        Ok(())
    }

    /// Counts the traces that were closed since the last call, each at its first version, and queues their summaries.
    fn take_closed(&mut self) {
        let mut all = std::mem::take(&mut self.closed);
        for closed in all.drain(..) {
            let labels = ReasonLabels { reason: closed.closed_by.as_str() };
            self.service.metrics.closed_traces.get_or_create(&labels).inc();
            if closed.version == 1 {
                self.roller.trace(closed.partition, &closed.facts, self.assembly.known_names());
            } else {
                self.service.metrics.corrections.inc();
            }
            let to = TopicPartition::new(Arc::clone(&self.traces), closed.partition % self.traces_partitions);
            let record = NewRecord {
                to,
                key: Some(Bytes::copy_from_slice(&closed.trace_id)),
                payload: Some(closed.summary.into()),
                headers: Vec::new(),
                timestamp: Millis(closed.watermark_ms),
            };
            self.pending.push(closed.partition, record);
            self.seal_if_full();
        }
        self.closed = all;
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
        self.pending.push(partition, dead_letter(record, to, error, timestamp));
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
        let rolled = self.roller.take_counts();
        metrics.rollups.folded.inc_by(rolled.folded);
        metrics.rollups.late.inc_by(rolled.late);
        metrics.rollups.cells.set(self.roller.cells() as i64);
        metrics.rollups.keys.set(self.roller.keys() as i64);
        metrics.rollups.bytes.set(self.roller.bytes() as i64);
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
            let state = rollup_state(&self.service.log, &self.rollups.state_of(partition), partition).await?;
            let state = state.filter(|state| state.rolled_to <= restored.high).unwrap_or_default();
            self.consumer.seek(&at, NextOffset(from)).await?;
            self.assembly.assign(partition, restored.resume);
            self.roller.assign(partition, state.rolled_to.max(from), state.watermark_ms);
            let input = Input {
                at: at.clone(),
                dedup: restored.dedup,
                dead_lettered: restored.dead_letters,
                committed: committed.map(|position| position.0),
                last_record_ms: None,
                last_watermark_ms: None,
                last_arrival_ms: self.service.clock.now_unix_millis(),
                last_rolled_ms: state.watermark_ms,
                last_flush: Instant::now(),
                told_idle: false,
            };
            self.inputs.insert(partition, input);
            self.sightings.insert(partition, SightingWriter::new(partition, self.requests_partitions));
            if self.pending.is_paused() {
                self.consumer.pause(&at)?;
            }
            self.service.metrics.restore_seconds.observe(begin.elapsed().as_secs_f64());
            tracing::info!(%at, from, elapsed_ms = begin.elapsed().as_millis() as u64, "partition assigned");
        }
        Ok(())
    }

    /// Commits what is ready, then lets go. What could not be committed is made again by the next owner.
    async fn revoke(&mut self, partitions: &[TopicPartition]) -> Result<(), Error> {
        self.commit(true).await?;
        for at in partitions {
            let partition = at.partition;
            self.assembly.revoke(partition);
            self.roller.revoke(partition);
            self.sightings.remove(&partition);
            self.states.remove(&partition);
            self.inputs.remove(&partition);
            self.service.metrics.lag.forget(partition);
            self.pending.drop_partition(partition);
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
        let asked: Vec<TopicPartition> = self.inputs.values().map(|input| input.at.clone()).collect();
        let ends = self.service.log.ends(&asked).await?;
        for (at, end) in asked.iter().zip(ends) {
            let partition = at.partition;
            let (Some(NextOffset(high)), Some(input)) = (end, self.inputs.get_mut(&partition)) else {
                continue;
            };
            let next = self.assembly.next_offset(partition).unwrap_or(0);
            let lag = high.saturating_sub(next);
            let waited_ms = now_ms.saturating_sub(input.last_arrival_ms).max(0);
            let is_caught_up = is_caught_up(lag, waited_ms, &self.service.config);
            let behind_ms = input.last_record_ms.map_or(0, |last| now_ms.saturating_sub(last).max(0));
            let lag_seconds = if is_caught_up { 0.0 } else { behind_ms as f64 / 1e3 };
            self.service.metrics.lag.set(partition, if is_caught_up { 0 } else { lag }, lag_seconds);
            if !is_caught_up || !self.service.config.close_by_wall_clock {
                continue;
            }
            // Wall time only counts how long nothing came, so clocks that differ between hosts do no harm.
            let (watermark, rolled) = (input.last_watermark_ms, input.last_rolled_ms);
            let is_new = rolled.is_none() && !std::mem::replace(&mut input.told_idle, true);
            if let Some(watermark) = watermark {
                self.assembly.advance(partition, watermark.saturating_add(waited_ms), &mut self.closed);
                // As for records: before the watermark of what is counted moves on.
                self.take_closed();
            }
            if let Some(watermark) = rolled {
                self.roller.advance(partition, watermark.saturating_add(waited_ms));
            } else if is_new {
                let pending = &mut self.pending;
                self.rollups.idle(partition, Millis(now_ms), |record| pending.push(partition, record));
            }
        }
        self.report();
        Ok(())
    }
}
