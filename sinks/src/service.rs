//! The service of every sink: polls the log, owns the partitions, starts and joins their jobs.
//!
//! One task polls; encoding and the tier are beside it in a [`Target`], so a slow tier never keeps the consumer from
//! polling. Bounded: records held stay within the memory budget (past it partitions pause,
//! and the log waits); one job a partition; `concurrent_flushes` encoders. On shutdown what was read is
//! planned and written, within `drain_timeout_ms`.

use std::{collections::BTreeMap, collections::HashMap, sync::Arc, time::Duration};

use infertrace_runtime::{
    clock::Clock,
    log::{Consumer, ConsumerOptions, Event, Log, LogError, NextOffset, TopicPartition, Watermarks},
};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Flow,
    metrics::Metrics,
    partition::{Partition, Phase},
    retry::{Fault, Retry, fault_of_log},
    target::{Done, JobError, Opened, Range, RangePlan as _, Target, Written},
};

/// A poll's time-out with nothing to do, and with jobs under way.
const IDLE_POLL: Duration = Duration::from_millis(100);
const BUSY_POLL: Duration = Duration::from_millis(10);
/// Asked for in a poll however full the budget is.
const LEAST_POLL_BYTES: usize = 1 << 10;
/// Between two looks at the end of the log, for the lag.
const LAG_INTERVAL_NS: i64 = 5_000_000_000;

/// What every sink is given.
pub(crate) struct Parts<T> {
    pub(crate) target: Arc<T>,
    pub(crate) flow: Flow,
    pub(crate) topic: Arc<str>,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Metrics,
}

/// Why the sink ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log failed for good.
    #[error("{sink} sink: {source}")]
    Log {
        /// Which sink.
        sink: &'static str,
        /// What the log said.
        source: LogError,
    },
}

/// One sink of one topic, ready to run.
pub(crate) struct Service<T: Target> {
    flow: Flow,
    clock: Arc<dyn Clock>,
    consumer: Box<dyn Consumer>,
    log: Arc<dyn Log>,
    target: Arc<T>,
    retry: Retry,
    metrics: Metrics,
    topic: Arc<str>,
    partitions: BTreeMap<u32, Partition<T::Plan>>,
    jobs: JoinSet<Result<Done<T::Plan>, JobError>>,
    job_of: HashMap<Id, (u32, u64)>,
    generation: u64,
    lag_due_ns: i64,
}

/// Joins the consumer group.
pub(crate) async fn join<T: Target>(parts: Parts<T>) -> Result<Service<T>, LogError> {
    let Parts { target, flow, topic, log, clock, metrics } = parts;
    let options = ConsumerOptions {
        group: Some(flow.group.clone()),
        topics: vec![Arc::clone(&topic)],
        assign: Vec::new(),
        max_buffered_bytes: flow.max_poll_bytes.saturating_mul(2),
        read_committed: true,
    };
    let consumer = log.consumer(options).await?;
    Ok(Service {
        retry: Retry::new(&flow),
        flow,
        clock,
        consumer,
        log,
        target,
        metrics,
        topic,
        partitions: BTreeMap::new(),
        jobs: JoinSet::new(),
        job_of: HashMap::new(),
        generation: 0,
        lag_due_ns: i64::MIN,
    })
}

impl<T: Target> Service<T> {
    /// Runs until `shutdown`, then writes what was read and returns.
    ///
    /// # Errors
    /// [`Error`] when the log fails for good. Faults of the store never end the service.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) -> Result<(), Error> {
        let mut failures = 0u32;
        while !shutdown.is_cancelled() {
            match self.step().await {
                Ok(()) => failures = 0,
                Err(error) if fault_of_log(&error) == Some(Fault::Passing) => {
                    let delay = self.retry.delay(Fault::Passing, failures);
                    failures = failures.saturating_add(1);
                    self.metrics.retries("poll").inc();
                    tracing::warn!(%error, delay_ms = delay.as_millis() as u64, "the log cannot be read");
                    tokio::select! {
                        () = tokio::time::sleep(delay) => {}
                        () = shutdown.cancelled() => {}
                    }
                }
                // The group moved on; a rebalance follows.
                Err(LogError::Fenced(detail)) => tracing::warn!(detail, "fenced by the group"),
                Err(source) => return Err(Error::Log { sink: T::NAME, source }),
            }
        }
        self.drain().await;
        Ok(())
    }

    /// One round: a poll, finished jobs, cuts that are due, pauses.
    async fn step(&mut self) -> Result<(), LogError> {
        let timeout = if self.jobs.is_empty() { IDLE_POLL } else { BUSY_POLL };
        let room = self.flow.memory_budget_bytes.saturating_sub(self.held_bytes());
        let polled =
            self.consumer.poll(self.flow.max_poll_bytes.min(room).max(LEAST_POLL_BYTES), timeout).await;
        match polled {
            Ok(event) => self.take_in(event).await?,
            Err(LogError::DataLoss { at, wanted, low }) => self.lose(&at, wanted, low).await?,
            Err(error) => return Err(error),
        }
        while let Some(joined) = self.jobs.try_join_next_with_id() {
            self.finish(joined).await;
        }
        self.reopen_halted();
        self.cut_due();
        self.cut_under_pressure();
        self.apply_budget()?;
        self.look_at_lag();
        Ok(())
    }

    async fn take_in(&mut self, event: Event) -> Result<(), LogError> {
        match event {
            Event::Records(records) => {
                let now_ns = self.clock.now_unix_nanos();
                for record in records {
                    if let Some(partition) = self.partitions.get_mut(&record.from.partition)
                        && partition.is_open()
                    {
                        partition.buffer.push(record, now_ns);
                        self.metrics.read_records.inc();
                    }
                }
            }
            Event::Assigned(assigned) => {
                for (at, committed) in assigned {
                    tracing::info!(partition = at.partition, ?committed, "partition assigned");
                    self.generation += 1;
                    let mut partition = Partition::new(at.partition, self.generation);
                    partition.published = committed.map_or(0, |next| next.0);
                    if let Some(mut before) = self.partitions.insert(at.partition, partition) {
                        before.reset(0, Phase::Opening);
                    }
                    self.pause(at.partition);
                    self.start_opening(at.partition);
                }
            }
            Event::Revoked(revoked) => {
                for at in revoked {
                    tracing::info!(partition = at.partition, "partition revoked");
                    if let Some(mut partition) = self.partitions.remove(&at.partition) {
                        partition.reset(0, Phase::Opening);
                    }
                    self.metrics.lag.forget(at.partition);
                }
            }
            Event::Idle => {}
        }
        Ok(())
    }

    async fn lose(
        &mut self,
        at: &TopicPartition,
        wanted: NextOffset,
        low: NextOffset,
    ) -> Result<(), LogError> {
        if let Some(partition) = self.partitions.get_mut(&at.partition)
            && partition.is_open()
        {
            let lost = partition.buffer.lose_until(low.0);
            self.metrics.lost_records.inc_by(lost);
            tracing::error!(
                partition = at.partition,
                wanted = wanted.0,
                low = low.0,
                lost,
                "retention removed records before they were written; raise it or add sinks"
            );
            self.advance_followed(at.partition);
        }
        self.consumer.seek(at, low).await
    }

    fn spawn(
        &mut self,
        number: u32,
        job: impl Future<Output = Result<Done<T::Plan>, JobError>> + Send + 'static,
    ) {
        let Some(partition) = self.partitions.get_mut(&number) else { return };
        let handle = self.jobs.spawn(job);
        self.job_of.insert(handle.id(), (number, partition.generation));
        partition.job = Some(handle);
    }

    fn start_opening(&mut self, number: u32) {
        let (target, log, topic) = (Arc::clone(&self.target), Arc::clone(&self.log), Arc::clone(&self.topic));
        let (retry, metrics) = (self.retry, self.metrics.clone());
        self.spawn(number, async move {
            let opened = target.open(number).await?;
            let at = TopicPartition::new(topic, number);
            let name = at.to_string();
            let read = || log.watermarks(&at);
            let watermarks = retry.run(&metrics, "watermarks", &name, fault_of_log, read).await?;
            let (next, high) = (opened.next.unwrap_or(0), watermarks.high.0);
            if next > high {
                return Err(JobError::TopicRecreated { tier: T::TIER, next, high });
            }
            Ok(Done::Opened { opened, watermarks })
        });
    }

    async fn finish(&mut self, joined: Result<(Id, Result<Done<T::Plan>, JobError>), JoinError>) {
        let (id, result) = match joined {
            Ok((id, result)) => (id, result),
            Err(error) if error.is_cancelled() => {
                self.job_of.remove(&error.id());
                return;
            }
            Err(error) => (error.id(), Err(JobError::Panicked(error.to_string()))),
        };
        let Some((number, generation)) = self.job_of.remove(&id) else { return };
        let Some(partition) =
            self.partitions.get_mut(&number).filter(|partition| partition.generation == generation)
        else {
            return;
        };
        match result {
            Ok(Done::EndOfLog(None)) => {}
            Ok(Done::EndOfLog(Some(Watermarks { low, high }))) => {
                let now_ms = self.clock.now_unix_nanos() / 1_000_000;
                let oldest = partition.oldest_timestamp_ms();
                let waited_ms = oldest.map_or(0, |oldest| (now_ms - oldest).max(0));
                let lag = high.0.saturating_sub(partition.published.max(low.0));
                self.metrics.lag.set(number, lag, waited_ms as f64 / 1_000.0);
            }
            Ok(Done::Opened { opened, watermarks }) => {
                if let Err(error) = self.opened(number, opened, watermarks).await {
                    // Reading on from anywhere else could skip records.
                    self.halt(number, &JobError::Log(error));
                }
            }
            Ok(Done::Planned(plan)) => self.planned(number, plan),
            Ok(Done::Written(written)) => self.written(number, written).await,
            Err(error) => self.halt(number, &error),
        }
    }

    async fn opened(&mut self, number: u32, history: Opened, watermarks: Watermarks) -> Result<(), LogError> {
        let at = TopicPartition::new(Arc::clone(&self.topic), number);
        let Some(partition) = self.partitions.get_mut(&number) else { return Ok(()) };
        partition.job = None;
        let next = history.next.unwrap_or(0);
        partition.published = next;
        // The first range starts at 0 whatever retention left, so that every instance names it alike.
        partition.buffer = crate::buffer::Buffer::new(next);
        if history.next.is_none() {
            partition.buffer.begin_at(watermarks.low.0);
            partition.published = watermarks.low.0;
        } else if watermarks.low.0 > next {
            let lost = partition.buffer.lose_until(watermarks.low.0);
            self.metrics.lost_records.inc_by(lost);
            tracing::error!(
                partition = number,
                wanted = next,
                low = watermarks.low.0,
                lost,
                "retention removed records before they were written; raise it or add sinks"
            );
        }
        let position = partition.buffer.position();
        self.consumer.seek(&at, NextOffset(position)).await?;
        self.consumer.resume(&at)?;
        tracing::info!(partition = number, start = next, position, "partition opened");
        if let Some(partition) = self.partitions.get_mut(&number) {
            partition.phase = Phase::Reading { seen: history.seen };
            partition.paused = false;
        }
        Ok(())
    }

    fn planned(&mut self, number: u32, plan: T::Plan) {
        let Some(partition) = self.partitions.get_mut(&number) else { return };
        partition.job = None;
        let phase = std::mem::replace(&mut partition.phase, Phase::Opening);
        let Phase::Planning { seen } = phase else {
            partition.phase = phase;
            return;
        };
        partition.phase = Phase::Following { seen, plan };
        self.advance_followed(number);
    }

    /// Starts to write a planned range once all of it was read.
    fn advance_followed(&mut self, number: u32) {
        let Some(partition) = self.partitions.get_mut(&number) else { return };
        match &partition.phase {
            Phase::Following { plan, .. } if partition.buffer.position() >= plan.end() => {}
            _ => return,
        }
        let Phase::Following { seen, plan } = std::mem::replace(&mut partition.phase, Phase::Writing) else {
            return;
        };
        partition.writing_since_ms = partition.buffer.oldest_timestamp_ms();
        let taken = partition.buffer.take_until(plan.end());
        partition.writing_bytes = taken.held_bytes;
        let (target, group) = (Arc::clone(&self.target), self.consumer.group_metadata());
        self.spawn(number, async move { target.write(plan, taken, seen, group).await.map(Done::Written) });
    }

    async fn written(&mut self, number: u32, written: Written) {
        let Some(partition) = self.partitions.get_mut(&number) else { return };
        partition.job = None;
        partition.writing_bytes = 0;
        partition.writing_since_ms = None;
        partition.published = written.next;
        let next = NextOffset(written.next);
        match written.seen {
            Some(seen) => partition.phase = Phase::Reading { seen },
            None => {
                tracing::warn!(partition = number, next = next.0, "another instance published this range");
                self.reopen(number);
            }
        }
        let at = TopicPartition::new(Arc::clone(&self.topic), number);
        // Only shows the lag: the target knows where to go on.
        if let Err(error) = self.consumer.commit(&[(at, next)]).await {
            tracing::warn!(%error, partition = number, "the group's position was not committed");
        }
    }

    fn halt(&mut self, number: u32, error: &JobError) {
        let until_ns = self.clock.now_unix_nanos() + delay_ns(self.retry.delay(error.fault(), 0));
        let Some(partition) = self.partitions.get_mut(&number) else { return };
        tracing::error!(partition = number, %error, "partition halted, it is opened again later");
        self.generation += 1;
        partition.reset(self.generation, Phase::Halted { until_ns });
        self.pause(number);
    }

    fn reopen(&mut self, number: u32) {
        let Some(partition) = self.partitions.get_mut(&number) else { return };
        self.generation += 1;
        partition.reset(self.generation, Phase::Opening);
        self.pause(number);
        self.start_opening(number);
    }

    fn pause(&mut self, number: u32) {
        let at = TopicPartition::new(Arc::clone(&self.topic), number);
        let Some(partition) = self.partitions.get_mut(&number) else { return };
        if !partition.paused {
            match self.consumer.pause(&at) {
                Ok(()) => partition.paused = true,
                // Records that still come are not taken in.
                Err(error) => tracing::warn!(%error, partition = number, "could not pause"),
            }
        }
    }

    fn reopen_halted(&mut self) {
        let now_ns = self.clock.now_unix_nanos();
        let is_due = |partition: &Partition<T::Plan>| matches!(partition.phase, Phase::Halted { until_ns } if until_ns <= now_ns);
        let due: Vec<u32> =
            self.partitions.values().filter(|one| is_due(one)).map(|one| one.number).collect();
        for number in due {
            self.reopen(number);
        }
        let halted = self.partitions.values().filter(|one| matches!(one.phase, Phase::Halted { .. })).count();
        self.metrics.halted_partitions.set(halted as i64);
    }

    fn cut_due(&mut self) {
        let now_ns = self.clock.now_unix_nanos();
        let numbers: Vec<u32> = self.partitions.keys().copied().collect();
        for number in numbers {
            self.advance_followed(number);
            let due = self.partitions.get_mut(&number).and_then(|one| one.due_end(&self.flow, now_ns));
            if let Some(end) = due {
                self.cut(number, end);
            }
        }
    }

    /// Frees memory before the budget is reached: the largest buffer is cut early.
    fn cut_under_pressure(&mut self) {
        if self.held_bytes() < self.flow.memory_budget_bytes / 2 {
            return;
        }
        let is_flushing =
            |one: &Partition<T::Plan>| matches!(one.phase, Phase::Planning { .. } | Phase::Writing);
        let flushing = self.partitions.values().filter(|one| is_flushing(one)).count();
        if flushing > self.flow.concurrent_flushes {
            return;
        }
        let largest = self
            .partitions
            .values()
            .filter(|one| one.is_cuttable())
            .max_by_key(|one| one.buffer.held_bytes());
        if let Some((number, end)) = largest.and_then(|one| Some((one.number, one.buffer.whole_end()?))) {
            self.cut(number, end);
        }
    }

    fn cut(&mut self, number: u32, end: u64) {
        let Some(partition) = self.partitions.get_mut(&number) else { return };
        let phase = std::mem::replace(&mut partition.phase, Phase::Opening);
        let Phase::Reading { seen } = phase else {
            partition.phase = phase;
            return;
        };
        let range = Range { partition: number, start: partition.buffer.start(), end };
        partition.phase = Phase::Planning { seen };
        let (target, group) = (Arc::clone(&self.target), self.consumer.group_metadata());
        self.spawn(number, async move { target.plan(range, group).await.map(Done::Planned) });
    }

    fn held_bytes(&self) -> usize {
        self.partitions.values().map(Partition::held_bytes).sum()
    }

    /// Pauses reading past the budget and resumes it below.
    fn apply_budget(&mut self) -> Result<(), LogError> {
        let held = self.held_bytes();
        self.metrics.buffered_bytes.set(held as i64);
        let is_over = held >= self.flow.memory_budget_bytes;
        // A plan of another instance may be larger than our budget: with nothing else to free, read on for it.
        let can_free = self
            .partitions
            .values()
            .any(|one| one.is_cuttable() || matches!(one.phase, Phase::Planning { .. } | Phase::Writing));
        let is_following = |one: &&Partition<T::Plan>| matches!(one.phase, Phase::Following { .. });
        let exempt =
            if can_free { None } else { self.partitions.values().find(is_following).map(|one| one.number) };
        for partition in self.partitions.values_mut().filter(|one| one.is_open()) {
            let pause = is_over && exempt != Some(partition.number);
            if pause == partition.paused {
                continue;
            }
            let at = TopicPartition::new(Arc::clone(&self.topic), partition.number);
            if pause {
                self.consumer.pause(&at)?
            } else {
                self.consumer.resume(&at)?
            }
            partition.paused = pause;
        }
        self.metrics.paused.set(i64::from(is_over));
        Ok(())
    }

    /// Of every partition that is ours: one still opening or halted is behind as much as any.
    fn look_at_lag(&mut self) {
        let now_ns = self.clock.now_unix_nanos();
        if now_ns < self.lag_due_ns && self.lag_due_ns - now_ns <= LAG_INTERVAL_NS {
            return;
        }
        self.lag_due_ns = now_ns + LAG_INTERVAL_NS;
        let assigned: Vec<(u32, u64)> =
            self.partitions.values().map(|one| (one.number, one.generation)).collect();
        for (number, generation) in assigned {
            let (log, at) = (Arc::clone(&self.log), TopicPartition::new(Arc::clone(&self.topic), number));
            let handle = self.jobs.spawn(async move { Ok(Done::EndOfLog(log.watermarks(&at).await.ok())) });
            self.job_of.insert(handle.id(), (number, generation));
        }
    }

    /// Writes what was read, as far as the time-out allows; the rest is read again by whoever comes next.
    async fn drain(&mut self) {
        let deadline = tokio::time::Instant::now() + Duration::from_millis(self.flow.drain_timeout_ms);
        let drained = tokio::time::timeout_at(deadline, async {
            loop {
                let numbers: Vec<u32> = self.partitions.keys().copied().collect();
                for number in numbers {
                    self.advance_followed(number);
                    let (rows, bytes) = (self.flow.target_rows, self.flow.target_bytes);
                    let cuttable = self.partitions.get(&number).filter(|one| one.is_cuttable());
                    let end = cuttable
                        .and_then(|one| one.buffer.full_end(rows, bytes).or_else(|| one.buffer.whole_end()));
                    if let Some(end) = end {
                        self.cut(number, end);
                    }
                }
                let Some(joined) = self.jobs.join_next_with_id().await else { break };
                self.finish(joined).await;
            }
        });
        if drained.await.is_err() {
            tracing::warn!(
                jobs = self.jobs.len(),
                "drain timed out, unwritten records are read again next time"
            );
        }
        self.jobs.shutdown().await;
    }
}

fn delay_ns(delay: Duration) -> i64 {
    i64::try_from(delay.as_nanos()).unwrap_or(i64::MAX)
}
