//! One membership in the group, from joining to leaving or to an unknown outcome.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use infertrace_analytics::{analyst::Analyst, output::Output, rollup};
use infertrace_runtime::log::{
    Consumer, ConsumerOptions, Event, LogError, Millis, NewRecord, NextOffset, Record, TopicPartition,
    Transactions, dead_letter::Reader,
};
use infertrace_schemas::topics;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Service,
    convert::{Converter, Partitions},
    restore::{Layout, Origin, restore},
    state::{snapshot_records, told_record},
};
use crate::{partials, service::MARKERS, supervise::Session};

const POLL_TIME: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Tries of the last commit when shutting down.
const LAST_TRIES: u32 = 3;

const READER: Reader = Reader { role: "insights", codec: "infertrace.v1.PartialBatch", codec_version: "1" };

/// One assigned partition.
struct Input {
    at: TopicPartition,
    analyst: Analyst,
    /// Next offset to read.
    next: u64,
    committed: Option<u64>,
    /// Windows up to this one were told by an earlier run: the analyst repeats them silently.
    told_to_ms: Option<rollup::Millis>,
    /// Whether `told_to_ms` moved since it was committed.
    told_more: bool,
    /// Start of the window after which the last snapshot was taken.
    snapshot_ms: Option<rollup::Millis>,
    /// Time stamp of the last record read.
    last_record_ms: Option<i64>,
}

struct Pending {
    partition: u32,
    record: NewRecord,
}

/// A session: the analysts of the assigned partitions, and what waits for the next transaction.
pub(super) struct Desk {
    service: Arc<Service>,
    consumer: Box<dyn Consumer>,
    transactions: Box<dyn Transactions>,
    converter: Converter,
    to: Partitions,
    dead_letter_partitions: u32,
    layout: Layout,
    inputs: BTreeMap<u32, Input>,
    outputs: Vec<Output>,
    pending: Vec<Pending>,
    pending_bytes: usize,
    /// Ends of the windows that wait for a transaction.
    pending_windows: Vec<rollup::Millis>,
    started_ms: i64,
    last_commit: Instant,
    next_look_up: Instant,
    retry: Option<(Instant, Duration)>,
    commits: u64,
}

/// A session that lost its membership leaves no lag behind that another member works off.
impl Drop for Desk {
    fn drop(&mut self) {
        for &partition in self.inputs.keys() {
            self.service.metrics.lag.forget(partition);
            self.service.left(partition);
        }
    }
}

impl Desk {
    pub(super) async fn start(service: Arc<Service>) -> Result<Self, LogError> {
        let log = service.log.clone();
        let started_ms = service.clock.now_unix_millis();
        // Taking the transactional id first ends whatever an earlier instance of this name left open.
        let transactions = log.transactions(&service.transactional_id).await?;
        let to = Partitions {
            rollups: log.partitions(topics::ROLLUPS).await?.max(1),
            baselines: log.partitions(topics::BASELINES).await?.max(1),
            insights: log.partitions(topics::INSIGHTS).await?.max(1),
        };
        let dead_letter_partitions = log.partitions(topics::DLQ).await?.max(1);
        let layout = Layout::of(log.as_ref()).await?;
        let consumer = log
            .consumer(ConsumerOptions {
                group: Some(service.config.group.clone()),
                topics: vec![topics::PARTIALS.into()],
                assign: Vec::new(),
                max_buffered_bytes: service.config.max_buffered_bytes,
                read_committed: true,
            })
            .await?;
        Ok(Self {
            service,
            consumer,
            transactions,
            converter: Converter::current(),
            to,
            dead_letter_partitions,
            layout,
            inputs: BTreeMap::new(),
            outputs: Vec::new(),
            pending: Vec::new(),
            pending_bytes: 0,
            pending_windows: Vec::new(),
            started_ms,
            last_commit: Instant::now(),
            next_look_up: Instant::now(),
            retry: None,
            commits: 0,
        })
    }

    async fn step(&mut self) -> Result<(), LogError> {
        match self.consumer.poll(self.service.config.max_poll_bytes, POLL_TIME).await {
            Ok(Event::Records(records)) => self.take(&records)?,
            Ok(Event::Assigned(partitions)) => self.assign(partitions).await?,
            Ok(Event::Revoked(partitions)) => self.revoke(&partitions).await?,
            Ok(Event::Idle) => {}
            Err(LogError::DataLoss { at, wanted, low }) => self.skip_lost(&at, wanted, low).await?,
            Err(error) if error.is_retriable() => {
                tracing::warn!(%error, "the log cannot be read; trying again");
                tokio::time::sleep(self.service.config.retry()).await;
            }
            Err(error) => return Err(error),
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

    fn take(&mut self, records: &[Record]) -> Result<(), LogError> {
        self.service.metrics.records.inc_by(records.len() as u64);
        for record in records {
            let partition = record.from.partition;
            let Some(input) = self.inputs.get_mut(&partition) else { continue };
            // Fetched before a seek took effect.
            if record.offset.0 < input.next {
                continue;
            }
            input.next = record.offset.next().0;
            input.last_record_ms = Some(record.timestamp.0);
            let batch = match partials::decode(record.payload.as_deref().unwrap_or_default()) {
                Ok(batch) => batch,
                Err(error) => {
                    // Below the committed position an earlier run has moved it already.
                    if input.committed.is_none_or(|committed| record.offset.0 >= committed) {
                        self.dead_letter(record, &error.to_string());
                    }
                    continue;
                }
            };
            self.service.metrics.partials.inc_by(batch.partials.len() as u64);
            input.analyst.written_at(record.timestamp.0);
            for partial in batch.partials {
                input.analyst.partial(batch.source, partial);
            }
            if let Some(watermark_ms) = batch.watermark_ms {
                input.analyst.watermark(batch.source, watermark_ms, &mut self.outputs);
                self.tell(partition)?;
            }
        }
        Ok(())
    }

    /// Makes records of what the analyst of `partition` put out, but for windows that an earlier run told.
    fn tell(&mut self, partition: u32) -> Result<(), LogError> {
        let Some(input) = self.inputs.get_mut(&partition) else { return Ok(()) };
        let metrics = &self.service.metrics;
        let encode = |error: infertrace_schemas::avro::AvroError| {
            LogError::Fatal(format!("an output does not fit its schema: {error}"))
        };
        let mut records = Vec::new();
        for output in self.outputs.drain(..) {
            match output {
                Output::Rollup(rollup) => {
                    records.push((
                        "rollup",
                        self.converter.rollup(&rollup, partition, self.to).map_err(encode)?,
                    ));
                }
                Output::Baseline(baseline) => {
                    let record = self.converter.baseline(&baseline, partition, self.to).map_err(encode)?;
                    records.push(("baseline", record));
                }
                Output::Insight(insight) => {
                    let record = self.converter.insight(&insight, partition, self.to).map_err(encode)?;
                    records.push(("insight", record));
                }
                Output::Closed { window_ms } => {
                    metrics.windows.inc();
                    if input.told_to_ms.is_some_and(|told| window_ms <= told) {
                        metrics.repeated.inc();
                        records.clear();
                        continue;
                    }
                    input.told_to_ms = Some(window_ms);
                    input.told_more = true;
                    self.pending_windows.push(window_ms + rollup::WINDOW_MS);
                    for (kind, record) in records.drain(..) {
                        metrics.output(kind);
                        self.pending_bytes += record.payload.as_ref().map_or(0, Bytes::len) + 128;
                        self.pending.push(Pending { partition, record });
                    }
                }
            }
        }
        Ok(())
    }

    fn dead_letter(&mut self, record: &Record, error: &str) {
        tracing::warn!(at = %record.from, offset = record.offset.0, error, "poison record moved to the dead-letter topic");
        self.service.metrics.dead_letters.inc();
        let partition = record.from.partition;
        let to = TopicPartition::new(topics::DLQ, partition % self.dead_letter_partitions);
        let letter = READER.letter(record, to, error, record.timestamp);
        self.pending_bytes += letter.payload.as_ref().map_or(0, Bytes::len) + 256;
        self.pending.push(Pending { partition, record: letter });
    }

    async fn assign(
        &mut self,
        partitions: Vec<(TopicPartition, Option<NextOffset>)>,
    ) -> Result<(), LogError> {
        for (at, committed) in partitions {
            let begin = Instant::now();
            let partition = at.partition;
            let standby = self.service.take_standby(partition).await;
            let restored = restore(&self.service, &self.layout, partition, standby).await?;
            let (from, origin) = (restored.next, restored.origin.as_str());
            let committed = committed.map(|position| position.0);
            let again = committed.map_or(0, |committed| committed.saturating_sub(from));
            self.service.metrics.restored(origin, again);
            if restored.lost > 0 {
                self.service.metrics.lost_records.inc_by(restored.lost);
                tracing::error!(%at, lost = restored.lost, "retention removed partials before they were analysed");
            }
            self.consumer.seek(&at, NextOffset(from)).await?;
            if self.retry.is_some() {
                self.consumer.pause(&at)?;
            }
            // Where a copy went on, the last snapshot is old: the next one is due.
            let is_copy = restored.origin == Origin::Standby;
            let snapshot_ms = restored.analyst.closed_to_ms().filter(|_| !is_copy);
            let told_to_ms = restored.told_to_ms;
            self.inputs.insert(
                partition,
                Input {
                    at: at.clone(),
                    analyst: restored.analyst,
                    next: from,
                    committed,
                    told_to_ms,
                    told_more: false,
                    snapshot_ms,
                    last_record_ms: None,
                },
            );
            self.service.metrics.restore_seconds.observe(begin.elapsed().as_secs_f64());
            tracing::info!(%at, from, again, origin, told_to_ms, elapsed_ms = begin.elapsed().as_millis() as u64, "partition of partials assigned");
        }
        Ok(())
    }

    async fn revoke(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.commit().await?;
        for at in partitions {
            self.inputs.remove(&at.partition);
            self.service.metrics.lag.forget(at.partition);
            self.service.left(at.partition);
            self.pending.retain(|pending| pending.partition != at.partition);
            tracing::info!(%at, "partition of partials revoked");
        }
        Ok(())
    }

    async fn skip_lost(
        &mut self,
        at: &TopicPartition,
        wanted: NextOffset,
        low: NextOffset,
    ) -> Result<(), LogError> {
        let lost = low.0.saturating_sub(wanted.0);
        self.service.metrics.lost_records.inc_by(lost);
        tracing::error!(%at, wanted = wanted.0, low = low.0, lost, "retention removed partials before they were analysed");
        self.consumer.seek(at, low).await
    }

    async fn look_at_ends(&mut self) -> Result<(), LogError> {
        let now_ms = self.service.clock.now_unix_millis();
        let asked: Vec<TopicPartition> = self.inputs.values().map(|input| input.at.clone()).collect();
        let ends = self.service.log.ends(&asked).await?;
        for ((&partition, input), end) in self.inputs.iter().zip(ends) {
            let Some(NextOffset(high)) = end else { continue };
            let lag = high.saturating_sub(input.next);
            let age_ms = input.last_record_ms.map_or(0, |last| now_ms.saturating_sub(last).max(0));
            // Markers of transactions count as offsets but are never delivered.
            let is_behind = lag > MARKERS;
            let seconds = if is_behind { age_ms as f64 / 1e3 } else { 0.0 };
            self.service.metrics.lag.set(partition, if is_behind { lag } else { 0 }, seconds);
        }
        Ok(())
    }

    fn is_commit_due(&self) -> bool {
        if let Some((at, _)) = self.retry {
            return Instant::now() >= at;
        }
        let since = self.last_commit.elapsed();
        let config = &self.service.config;
        if self.pending.is_empty() {
            return since >= Duration::from_millis(config.position_commit_ms);
        }
        since >= Duration::from_millis(config.commit_interval_ms)
            || self.pending_bytes >= config.max_pending_bytes
    }

    /// State records of partitions that told more, with a snapshot where one is due.
    fn state_records(&mut self) -> Vec<NewRecord> {
        let mut records = Vec::new();
        for (&partition, input) in &mut self.inputs {
            let (true, Some(told_to_ms)) = (input.told_more, input.told_to_ms) else { continue };
            let to = TopicPartition::new(topics::INSIGHT_STATE, partition % self.layout.state);
            let now = Millis(told_to_ms);
            records.push(told_record(&to, partition, told_to_ms, now));
            let closed = input.analyst.closed_to_ms();
            let is_due = match (input.snapshot_ms, closed) {
                (Some(last), Some(closed)) => closed - last >= self.service.config.snapshot_interval_ms,
                (None, Some(_)) => true,
                _ => false,
            };
            if is_due {
                let snapshot = input.analyst.snapshot();
                self.service.metrics.snapshots.inc();
                self.service.metrics.snapshot_bytes.set(snapshot.len() as i64);
                records.extend(snapshot_records(&to, partition, input.next, &snapshot, now));
                input.snapshot_ms = closed;
            }
        }
        records
    }

    /// One transaction; a passing fault leaves everything as it was and pauses the input.
    async fn commit(&mut self) -> Result<(), LogError> {
        self.last_commit = Instant::now();
        let positions: Vec<(TopicPartition, NextOffset)> = self
            .inputs
            .values()
            // After a restart, the records since the snapshot are read again; the position never goes back.
            .filter(|input| input.committed.is_none_or(|committed| committed < input.next))
            .map(|input| (input.at.clone(), NextOffset(input.next)))
            .collect();
        if self.pending.is_empty() && positions.is_empty() {
            return Ok(());
        }
        let before: Vec<(u32, Option<rollup::Millis>)> =
            self.inputs.iter().map(|(&partition, input)| (partition, input.snapshot_ms)).collect();
        let mut outputs = self.state_records();
        outputs.extend(self.pending.iter().map(|pending| pending.record.clone()));
        let group = self.consumer.group_metadata();
        let begin = Instant::now();
        match self.transactions.commit(outputs, group.as_ref(), &positions).await {
            Ok(()) => {
                self.committed(&positions, begin);
                if self.retry.take().is_some() {
                    self.pause_all(false)?;
                    tracing::info!("the log takes transactions again");
                }
                Ok(())
            }
            Err(error) if error.is_retriable() => {
                for (partition, snapshot_ms) in before {
                    if let Some(input) = self.inputs.get_mut(&partition) {
                        input.snapshot_ms = snapshot_ms;
                    }
                }
                self.service.metrics.commit_failures.inc();
                let first = self.service.config.retry();
                let pause = self.retry.map_or(first, |(_, pause)| (pause * 2).min(LONGEST_PAUSE));
                if self.retry.is_none() {
                    tracing::warn!(%error, "the log takes no transactions; input is paused");
                    self.pause_all(true)?;
                }
                self.retry = Some((Instant::now() + pause, pause));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn committed(&mut self, positions: &[(TopicPartition, NextOffset)], begin: Instant) {
        let metrics = &self.service.metrics;
        metrics.transaction_seconds.observe(begin.elapsed().as_secs_f64());
        let now_ms = self.service.clock.now_unix_millis();
        // Those before are of when nobody was there: a start closes the windows of its absence, however long it was.
        for end_ms in self.pending_windows.drain(..).filter(|end_ms| *end_ms >= self.started_ms) {
            metrics.window_delay_seconds.observe((now_ms - end_ms).max(0) as f64 / 1e3);
        }
        self.commits += 1;
        self.pending.clear();
        self.pending_bytes = 0;
        for (at, position) in positions {
            if let Some(input) = self.inputs.get_mut(&at.partition) {
                input.committed = Some(position.0);
            }
        }
        self.inputs.values_mut().for_each(|input| input.told_more = false);
    }

    fn pause_all(&mut self, paused: bool) -> Result<(), LogError> {
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
    async fn drain(&mut self) -> Result<(), LogError> {
        for attempt in 0..LAST_TRIES {
            match self.commit().await {
                Ok(()) if self.pending.is_empty() => return Ok(()),
                Ok(()) => {}
                // Another member goes on from the committed positions: nothing is lost.
                Err(LogError::Fenced(_) | LogError::Ambiguous(_)) => return Ok(()),
                Err(error) => return Err(error),
            }
            tokio::time::sleep(self.service.config.retry() * (attempt + 1)).await;
        }
        tracing::warn!(outputs = self.pending.len(), "stopping without the last commit");
        Ok(())
    }
}

impl Session for Desk {
    async fn run(&mut self, shutdown: &CancellationToken) -> Result<(), LogError> {
        while !shutdown.is_cancelled() {
            self.step().await?;
        }
        self.drain().await
    }

    fn made_progress(&self) -> bool {
        self.commits > 0
    }
}
