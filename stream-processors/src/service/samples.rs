//! The second input: GPU and engine samples, read as a member of a group of their own and counted exactly once.
//!
//! A position is committed with the partials of everything below it, and, in the rollups' state topic, the watermark and
//! the last readings of series: a restart reads what was not flushed again and goes on as if it had not been.
//!
//! The second stage waits for samples as it does for spans, so that what detectors see of a window follows from the
//! log: a partition that is silent passes a window's end at once by wall time, and one that never held a record
//! says so.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use infertrace_analytics::rollup::Partial;
use infertrace_runtime::log::{
    Consumer, ConsumerOptions, Event, LogError, Millis, NewRecord, NextOffset, Record, TopicPartition,
};
use infertrace_schemas::topics;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Service, is_caught_up,
    pending::{Outcome, Pending},
    rollups::RollupOutput,
};
use crate::{
    dead_letter,
    metrics::Metrics,
    partials::{RollupState, sample_source as source_of},
    restore::{SourceState, source_state},
    rollup::Mark,
    samples::SampleRoller,
    supervise,
};

const POLL_TIME: Duration = Duration::from_millis(100);
const POLL_BYTES: usize = 1 << 20;
const BUFFERED_BYTES: usize = 8 << 20;
/// Shortest time between transactions that only a closed window asks for.
const WINDOW_PAUSE: Duration = Duration::from_millis(50);
/// Tries of the last commit when shutting down.
const LAST_TRIES: u32 = 3;

struct Input {
    at: TopicPartition,
    committed: Option<u64>,
    /// Up to where the state last made tells of.
    stated: u64,
    /// Watermark after the last record, and the wall time of its arrival.
    last_watermark_ms: Option<i64>,
    last_arrival_ms: i64,
    last_flush: Instant,
    /// Whether the second stage was told that there is nothing here.
    told_idle: bool,
}

pub(super) struct Samples<'s> {
    service: &'s Service,
    consumer: Box<dyn Consumer>,
    dead_letters: Arc<str>,
    dead_letters_partitions: u32,
    roller: SampleRoller,
    rollups: RollupOutput,
    partials: Vec<Partial>,
    inputs: BTreeMap<u32, Input>,
    /// State that is not committed yet, by partition and key.
    states: BTreeMap<(u32, Bytes), NewRecord>,
    pending: Pending,
    last_look_up: Option<Instant>,
    refused_series: u64,
}

impl Input {
    /// Wall time since a record came.
    fn waited_ms(&self, now_ms: i64) -> i64 {
        now_ms.saturating_sub(self.last_arrival_ms).max(0)
    }
}

/// A session that lost its membership leaves no lag behind that another member works off.
impl Drop for Samples<'_> {
    fn drop(&mut self) {
        self.inputs.keys().for_each(|&partition| self.service.metrics.samples.lag.forget(partition));
    }
}

impl<'s> Samples<'s> {
    pub(super) async fn start(service: &'s Service) -> Result<Self, LogError> {
        let log = &service.log;
        // Taking the transactional id first ends whatever an earlier instance of this name left open.
        let transactions = log.transactions(&service.samples_transactional_id).await?;
        let dead_letters_partitions = log.partitions(topics::DLQ).await?.max(1);
        let rollups = RollupOutput::new(log).await?;
        let consumer = log
            .consumer(ConsumerOptions {
                group: Some(service.config.samples_group.clone()),
                topics: vec![topics::GPU.into()],
                assign: Vec::new(),
                max_buffered_bytes: BUFFERED_BYTES,
                read_committed: true,
            })
            .await?;
        let config = &service.config;
        Ok(Self {
            service,
            consumer,
            dead_letters: topics::DLQ.into(),
            dead_letters_partitions,
            roller: SampleRoller::priced(
                config.rollup_limits(),
                config.samples_max_series,
                Arc::clone(&service.pricer),
            ),
            rollups,
            partials: Vec::new(),
            inputs: BTreeMap::new(),
            states: BTreeMap::new(),
            pending: Pending::new(transactions, config.retry()),
            last_look_up: None,
            refused_series: 0,
        })
    }

    fn metrics(&self) -> &'s Metrics {
        &self.service.metrics
    }

    async fn step(&mut self) -> Result<(), LogError> {
        match self.consumer.poll(POLL_BYTES, POLL_TIME).await {
            Ok(Event::Records(records)) => self.take(&records),
            Ok(Event::Assigned(partitions)) => self.assign(partitions).await?,
            Ok(Event::Revoked(partitions)) => self.revoke(&partitions).await?,
            Ok(Event::Idle) => {}
            Err(LogError::DataLoss { at, wanted, low }) => {
                let lost = low.0.saturating_sub(wanted.0);
                self.metrics().samples.lost_records.inc_by(lost);
                tracing::error!(%at, wanted = wanted.0, low = low.0, lost, "retention removed samples before they were counted");
                self.consumer.seek(&at, low).await?;
            }
            Err(error) if error.is_retriable() => {
                tracing::warn!(%error, "the log cannot be read; trying again");
                tokio::time::sleep(self.service.config.retry()).await;
            }
            Err(error) => return Err(error),
        }
        if self.is_look_up_due() {
            self.last_look_up = Some(Instant::now());
            self.look_at_ends().await?;
        }
        if self.is_commit_due() {
            self.commit(false).await?;
        }
        Ok(())
    }

    fn take(&mut self, records: &[Record]) {
        let now_ms = self.service.clock.now_unix_millis();
        for record in records {
            let partition = record.from.partition;
            let source = source_of(partition);
            // Fetched before a seek took effect.
            if self.roller.next_offset(source).is_none_or(|next| record.offset.0 < next) {
                continue;
            }
            let payload = record.payload.as_deref().unwrap_or_default();
            let taken = self.roller.record(source, record.offset.0, record.timestamp.0, payload);
            let metrics = self.metrics();
            metrics.samples.records.inc();
            match taken {
                Ok(taken) => {
                    metrics.samples.readings.inc_by(taken.readings);
                    metrics.samples.ignored.inc_by(taken.ignored);
                }
                Err(error) => self.dead_letter(record, &error.to_string()),
            }
            if let Some(input) = self.inputs.get_mut(&partition) {
                input.last_watermark_ms = self.roller.watermark_ms(source);
                input.last_arrival_ms = now_ms;
            }
        }
        self.report();
    }

    fn dead_letter(&mut self, record: &Record, error: &str) {
        tracing::warn!(at = %record.from, offset = record.offset.0, error, "poison record moved to the dead-letter topic");
        self.metrics().dead_letters.inc();
        let partition = record.from.partition;
        let to =
            TopicPartition::new(Arc::clone(&self.dead_letters), partition % self.dead_letters_partitions);
        let letter = dead_letter::of_samples(record, to, error, record.timestamp);
        self.pending.push(partition, letter);
    }

    fn report(&mut self) {
        let metrics = &self.service.metrics.samples;
        let counts = self.roller.take_counts();
        metrics.rollups.folded.inc_by(counts.folded);
        metrics.rollups.late.inc_by(counts.late);
        metrics.rollups.cells.set(self.roller.cells() as i64);
        metrics.rollups.keys.set(self.roller.keys() as i64);
        metrics.rollups.bytes.set(self.roller.bytes() as i64);
        let (series, refused) = self.roller.series();
        metrics.series.set(series as i64);
        metrics.series_refused.inc_by(refused.saturating_sub(self.refused_series));
        self.refused_series = refused;
    }

    async fn assign(
        &mut self,
        partitions: Vec<(TopicPartition, Option<NextOffset>)>,
    ) -> Result<(), LogError> {
        for (at, committed) in partitions {
            let marks = self.service.log.watermarks(&at).await?;
            let wanted = committed.map_or(marks.low.0, |position| position.0);
            if wanted > marks.high.0 {
                return Err(LogError::Fatal(format!(
                    "the group's position {wanted} in {at} is past its end {}: the topic or cluster was recreated; \
                     reset the group's offsets to go on",
                    marks.high.0
                )));
            }
            let from = wanted.max(marks.low.0);
            if from > wanted {
                self.metrics().samples.lost_records.inc_by(from - wanted);
                tracing::error!(%at, lost = from - wanted, "retention removed samples before they were counted");
            }
            let kept = self.kept(&at, from).await?;
            let watermark_ms = kept.rollup.and_then(|state| state.watermark_ms);
            self.consumer.seek(&at, NextOffset(from)).await?;
            self.roller.assign(source_of(at.partition), from, watermark_ms, kept.series.into_values());
            if self.pending.is_paused() {
                self.consumer.pause(&at)?;
            }
            tracing::info!(%at, from, "partition assigned");
            let input = Input {
                committed: committed.map(|position| position.0),
                stated: kept.rollup.map_or(from, |state| state.rolled_to),
                last_watermark_ms: watermark_ms,
                last_arrival_ms: self.service.clock.now_unix_millis(),
                last_flush: Instant::now(),
                told_idle: false,
                at: at.clone(),
            };
            self.inputs.insert(at.partition, input);
        }
        Ok(())
    }

    /// What is kept of a partition that is read from `from` on; nothing where that belongs to later records, as when
    /// somebody moved the group back.
    async fn kept(&mut self, at: &TopicPartition, from: u64) -> Result<SourceState, LogError> {
        let source = source_of(at.partition);
        let kept = source_state(&self.service.log, &self.rollups.state_of(source), source).await?;
        match kept.rollup {
            Some(state) if state.rolled_to <= from => Ok(kept),
            Some(RollupState { rolled_to, .. }) => {
                tracing::warn!(%at, from, rolled_to, "the state of samples is of later records and is not used");
                Ok(SourceState::default())
            }
            None => Ok(SourceState::default()),
        }
    }

    /// Commits what is counted, then lets go.
    async fn revoke(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.commit(true).await?;
        for at in partitions {
            self.roller.revoke(source_of(at.partition));
            self.inputs.remove(&at.partition);
            self.metrics().samples.lag.forget(at.partition);
            self.pending.drop_partition(at.partition);
            self.states.retain(|(partition, _), _| *partition != at.partition);
            tracing::info!(%at, "partition revoked");
        }
        Ok(())
    }

    /// At times, and as soon as wall time passes a window's end for a silent partition: all others wait for it.
    fn is_look_up_due(&self) -> bool {
        let Some(since) = self.last_look_up.map(|at| at.elapsed()) else { return true };
        let config = &self.service.config;
        if since >= Duration::from_millis(config.end_check_ms) {
            return true;
        }
        let now_ms = self.service.clock.now_unix_millis();
        since >= WINDOW_PAUSE
            && config.close_by_wall_clock
            && self.inputs.iter().any(|(&partition, input)| {
                let passed_ms = input.last_watermark_ms.map(|at| at.saturating_add(input.waited_ms(now_ms)));
                passed_ms.is_some_and(|passed_ms| self.roller.would_close(source_of(partition), passed_ms))
            })
    }

    /// Looks up where partitions end: for lag, and so that a silent one does not hold windows open.
    async fn look_at_ends(&mut self) -> Result<(), LogError> {
        let now_ms = self.service.clock.now_unix_millis();
        let asked: Vec<TopicPartition> = self.inputs.values().map(|input| input.at.clone()).collect();
        let ends = self.service.log.ends(&asked).await?;
        for ((&partition, input), end) in self.inputs.iter_mut().zip(ends) {
            let Some(NextOffset(high)) = end else { continue };
            let source = source_of(partition);
            let lag = high.saturating_sub(self.roller.next_offset(source).unwrap_or(0));
            let waited_ms = input.waited_ms(now_ms);
            let is_caught_up = is_caught_up(lag, waited_ms, &self.service.config);
            let behind_ms = input.last_watermark_ms.map_or(0, |last| now_ms.saturating_sub(last).max(0));
            let lag_seconds = if is_caught_up { 0.0 } else { behind_ms as f64 / 1e3 };
            let lag = if is_caught_up { 0 } else { lag };
            self.service.metrics.samples.lag.set(partition, lag, lag_seconds);
            if !is_caught_up || !self.service.config.close_by_wall_clock {
                continue;
            }
            // Wall time only counts how long nothing came, so clocks that differ between hosts do no harm.
            if let Some(watermark) = input.last_watermark_ms {
                self.roller.advance(source, watermark.saturating_add(waited_ms));
            } else if !std::mem::replace(&mut input.told_idle, true) {
                let pending = &mut self.pending;
                self.rollups.idle(source, Millis(now_ms), |record| pending.push(partition, record));
            }
        }
        Ok(())
    }

    fn is_commit_due(&self) -> bool {
        if let Some(is_due) = self.pending.retry_is_due() {
            return is_due;
        }
        let since = self.pending.elapsed();
        let config = &self.service.config;
        let interval = Duration::from_millis(config.commit_interval_ms);
        if since >= interval.min(WINDOW_PAUSE)
            && self.inputs.keys().any(|&partition| self.roller.wants_flush(source_of(partition)))
        {
            return true;
        }
        if self.pending.is_empty() {
            return since >= Duration::from_millis(config.position_commit_ms);
        }
        since >= interval || self.pending.bytes() >= config.max_pending_bytes
    }

    /// One transaction of what was counted in windows that are over, or (`all`) at all; a passing fault leaves
    /// everything as it was and pauses the input.
    async fn commit(&mut self, all: bool) -> Result<(), LogError> {
        let stale = Duration::from_millis(self.service.config.trace_late_ms.max(1_000) as u64);
        // What is pending belongs to records that a position has to pass.
        let has_letters = !self.pending.is_empty();
        for (&partition, input) in &mut self.inputs {
            let source = source_of(partition);
            let is_wanted = all || has_letters || input.last_flush.elapsed() >= stale;
            if !is_wanted && !self.roller.wants_flush(source) {
                continue;
            }
            let mark = self.roller.flush(source, &mut self.partials);
            input.last_flush = Instant::now();
            let timestamp = Millis(self.roller.watermark_ms(source).unwrap_or(0));
            self.service.metrics.samples.rollups.partials.inc_by(self.partials.len() as u64);
            let pending = &mut self.pending;
            let now = Millis(self.service.clock.now_unix_millis());
            self.rollups.records(source, &mut self.partials, mark.as_ref(), now, |record| {
                pending.push(partition, record);
            });
            let mut states: Vec<NewRecord> = Vec::new();
            if let Some(Mark { rolled_to, watermark_ms, is_new_window }) = mark
                && (rolled_to != input.stated || is_new_window)
            {
                input.stated = rolled_to;
                states.push(self.rollups.state_record(&RollupState { source, rolled_to, watermark_ms }));
            }
            let series = self.roller.take_series(source);
            states.extend(series.iter().map(|group| self.rollups.series_record(source, group, timestamp)));
            let keyed =
                states.into_iter().filter_map(|record| Some(((partition, record.key.clone()?), record)));
            self.states.extend(keyed);
        }
        let positions: Vec<(TopicPartition, NextOffset)> = self
            .inputs
            .iter()
            .filter_map(|(&partition, input)| {
                let position = self.roller.rolled_to(source_of(partition))?;
                (input.committed != Some(position)).then(|| (input.at.clone(), NextOffset(position)))
            })
            .collect();
        if self.pending.is_empty() && positions.is_empty() && self.states.is_empty() {
            self.pending.skip();
            return Ok(());
        }
        let states = self.states.values().cloned().collect();
        let group = self.consumer.group_metadata();
        match self.pending.commit(states, group.as_ref(), &positions, &self.service.metrics).await? {
            Outcome::Done { resumed } => {
                self.states.clear();
                for (at, position) in positions {
                    if let Some(input) = self.inputs.get_mut(&at.partition) {
                        input.committed = Some(position.0);
                    }
                }
                if resumed {
                    self.pause_all(false)?;
                }
            }
            Outcome::Later { first: true } => self.pause_all(true)?,
            Outcome::Later { first: false } => {}
        }
        Ok(())
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
}

impl supervise::Session for Samples<'_> {
    async fn run(&mut self, shutdown: &CancellationToken) -> Result<(), LogError> {
        while !shutdown.is_cancelled() {
            self.step().await?;
        }
        for attempt in 0..LAST_TRIES {
            match self.commit(true).await {
                Ok(()) if self.pending.is_empty() => return Ok(()),
                Ok(()) => {}
                // Another member goes on from the committed positions: nothing is lost.
                Err(LogError::Fenced(_) | LogError::Ambiguous(_)) => return Ok(()),
                Err(error) => return Err(error),
            }
            tokio::time::sleep(self.service.config.retry() * (attempt + 1)).await;
        }
        tracing::warn!("stopping without the last commit of samples; it is made again at the next start");
        Ok(())
    }

    fn made_progress(&self) -> bool {
        self.pending.commits() > 0
    }
}
