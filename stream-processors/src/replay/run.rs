//! The engine of a replay: one reader a partition, threads for the first stage, one for the second, one writer.
//!
//! ```text
//! readers ── always the one that is furthest behind ──> stage 1 (partition mod threads) ──> stage 2 ──> writer
//! ```
//! Every queue is bounded, so memory is bounded by the windows that are open. Invariant: at a checkpoint the pipeline
//! is empty: what was read is counted, analysed and written.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use infertrace_analytics::rollup::Millis;
use infertrace_runtime::log::{
    self, Log, LogError, NextOffset, Record,
    range::{Range, RangeReader},
};
use infertrace_schemas::topics;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    Progress, ReplayError, Request, Summary,
    diff::Diff,
    output::{Teller, live},
    plan::{Plan, source_of},
    prices::{Comparison, Tables},
    samples::SampleStage,
    stages::{Counted, Outcome, Read, Resumed, Stage1, Stage2},
    state::{Stand, State},
};
use crate::{partials::SAMPLE_SOURCES, samples::SeriesGroup};

const POLL_BYTES: usize = 4 << 20;
/// Chunks that wait between two steps.
const QUEUE: usize = 4;
const REPORT: Duration = Duration::from_millis(250);

/// Work of a thread of the first stage.
enum Job {
    Assign {
        source: u32,
        read_from: u64,
        resumed: Resumed,
        series: Vec<SeriesGroup>,
    },
    /// Of one source.
    Records {
        source: u32,
        records: Vec<Record>,
    },
    Finish {
        source: u32,
        to_ms: Millis,
    },
    Checkpoint,
}

/// Work of the second stage.
enum Merge {
    Counted(Vec<Counted>),
    Finish {
        source: u32,
        to_ms: Millis,
    },
    /// One from each thread of the first stage.
    Checkpoint(Stand),
    Failed(ReplayError),
}

/// What the writer gets.
enum Written {
    Outputs(Vec<Outcome>),
    Checkpoint { stand: Stand, snapshots: Vec<Vec<u8>> },
    Failed(ReplayError),
}

/// Counters that the readers look at.
#[derive(Default)]
struct Shared {
    spans: AtomicU64,
}

/// One partition being read.
struct Feed {
    source: u32,
    reader: RangeReader,
    at_ms: Millis,
    next: u64,
}

/// Replays what `plan` found; `progress` is called several times a second.
///
/// # Errors
/// [`ReplayError`]; with a state file, the same request goes on where this one ended.
pub async fn run(
    log: Arc<dyn Log>,
    request: &Request,
    plan: &Plan,
    stop: &CancellationToken,
    mut progress: impl FnMut(&Progress),
) -> Result<Summary, ReplayError> {
    let begun = Instant::now();
    let tables = Tables::of(request)?;
    let state = match &request.state {
        Some(path) => State::read(path, request, &tables)?,
        None => None,
    };
    let partitions = match log.partitions(topics::PARTIALS).await {
        Err(LogError::UnknownTopicPartition(_)) => log.partitions(topics::SPANS).await?,
        partitions => partitions?,
    };
    let range = (request.from_ms, request.to_ms);
    let writing = (!request.dry_run).then(|| log.clone());
    let mut teller = Teller::new(writing, &request.id, partitions, request.replication, range).await?;
    let sources: Vec<u32> = plan.ranges.iter().map(|range| source_of(&range.at)).collect();
    let stage2 = match (&state, &request.state) {
        (Some(state), Some(path)) => {
            teller.resume(state).await?;
            Stage2::restore(&request.analyst, &state.analysts(path)?, request.filter.clone()).map_err(
                |error| ReplayError::State { path: path.display().to_string(), detail: error.to_string() },
            )?
        }
        _ => {
            if teller.ends().await?.values().any(|end| *end > 0) {
                let what =
                    format!("topics of a replay {:?} hold records already; give another id", request.id);
                return Err(ReplayError::Request(what));
            }
            Stage2::new(&request.analyst, partitions, &sources, request.filter.clone())
        }
    };
    let mut engine =
        Engine::start(request, &tables, stage2, teller, state.as_ref().map(|state| state.read.clone()));
    let outcome = engine.drive(&log, plan, state.as_ref(), stop, &mut progress).await;
    let (teller, read) = engine.end().await?;
    outcome?;
    let told_live = live(log.as_ref(), range, &request.filter).await?;
    if let Some(path) = &request.state {
        // Nothing is left to go on with; that it cannot be removed would only repeat the last stretch.
        let _ = std::fs::remove_file(path);
    }
    Ok(Summary {
        id: request.id.clone(),
        from_ms: request.from_ms,
        to_ms: request.to_ms,
        dry_run: request.dry_run,
        read: read.counts,
        told: teller.tally,
        topics: teller.topics(),
        diff: Diff::of(&teller.insights, &told_live),
        costs: tables.summary(&read.costs),
        seconds: begun.elapsed().as_secs_f64(),
    })
}

struct Engine<'r> {
    request: &'r Request,
    shared: Arc<Shared>,
    workers: Vec<mpsc::Sender<Job>>,
    threads: Vec<JoinHandle<Read>>,
    merger: Option<JoinHandle<()>>,
    writer: tokio::task::JoinHandle<Result<Teller, ReplayError>>,
    /// A message for each checkpoint that is durable.
    saved: mpsc::Receiver<()>,
    /// Partitions read to their end.
    done: Arc<parking_lot::Mutex<Vec<u32>>>,
    before: Read,
}

impl<'r> Engine<'r> {
    fn start(
        request: &'r Request,
        tables: &Tables,
        stage2: Stage2,
        teller: Teller,
        before: Option<Read>,
    ) -> Self {
        let shared = Arc::new(Shared::default());
        let before = before.unwrap_or_default();
        let threads = request.threads.max(1);
        let (merge, to_merge) = mpsc::channel(QUEUE * threads);
        let mut workers = Vec::new();
        let mut handles = Vec::new();
        for _ in 0..threads {
            let (worker, jobs) = mpsc::channel(QUEUE);
            let comparison = tables.before.clone().map(|before| Comparison::new(before, request));
            let stage1 = Stage1::new(&request.processor, tables.told.clone()).comparing(comparison);
            let samples = SampleStage::new(&request.processor, tables.told.clone());
            let (merge, shared) = (merge.clone(), shared.clone());
            handles.push(std::thread::spawn(move || work(stage1, samples, jobs, &merge, &shared)));
            workers.push(worker);
        }
        drop(merge);
        let (outputs, to_write) = mpsc::channel(QUEUE);
        let merger = std::thread::spawn(move || merge_all(stage2, to_merge, &outputs, threads));
        let (save, saved) = mpsc::channel(1);
        let done = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let context = Writing {
            request: request.clone(),
            tables: tables.clone(),
            done: done.clone(),
            before: before.clone(),
        };
        let writer = tokio::spawn(write(teller, to_write, context, save));
        Self { request, shared, workers, threads: handles, merger: Some(merger), writer, saved, done, before }
    }

    async fn send(&self, source: u32, job: Job) -> Result<(), ReplayError> {
        let worker = &self.workers[source as usize % self.workers.len()];
        // The thread is gone only if what follows it is; its error is reported at the end.
        worker.send(job).await.map_err(|_| ReplayError::Panicked("stage 1 ended".into()))
    }

    async fn drive(
        &mut self,
        log: &Arc<dyn Log>,
        plan: &Plan,
        state: Option<&State>,
        stop: &CancellationToken,
        progress: &mut impl FnMut(&Progress),
    ) -> Result<(), ReplayError> {
        let mut feeds = self.feeds(log, plan, state).await?;
        let total = plan.offsets();
        let (mut reported, mut saved) = (Instant::now(), Instant::now());
        let began = Instant::now();
        while let Some(index) =
            (0..feeds.len()).min_by_key(|&index| (feeds[index].at_ms, feeds[index].source))
        {
            if stop.is_cancelled() {
                self.checkpoint().await?;
                return Err(ReplayError::Interrupted);
            }
            let feed = &mut feeds[index];
            match feed.reader.next(POLL_BYTES).await? {
                Some(records) => {
                    if let Some(last) = records.last() {
                        feed.at_ms = feed.at_ms.max(last.timestamp.0);
                        feed.next = last.offset.next().0;
                    }
                    let source = feed.source;
                    self.send(source, Job::Records { source, records }).await?;
                }
                None => {
                    let source = feeds.swap_remove(index).source;
                    self.send(source, Job::Finish { source, to_ms: self.request.to_ms }).await?;
                    self.done.lock().push(source);
                }
            }
            if self.request.state.is_some() && saved.elapsed() >= self.request.checkpoint {
                self.checkpoint().await?;
                saved = Instant::now();
            }
            if reported.elapsed() >= REPORT || feeds.is_empty() {
                reported = Instant::now();
                let left: u64 =
                    feeds.iter().map(|feed| end_of(plan, feed.source).saturating_sub(feed.next)).sum();
                progress(&Progress {
                    offsets: total.saturating_sub(left),
                    total,
                    spans: self.shared.spans.load(Ordering::Relaxed) + self.before.counts.spans,
                    at_ms: feeds.iter().map(|feed| feed.at_ms).min().unwrap_or(self.request.to_ms),
                });
            }
            self.slow_down(began).await;
        }
        Ok(())
    }

    /// Waits as long as more spans were read than the rate allows.
    async fn slow_down(&self, began: Instant) {
        let Some(rate) = self.request.rate.filter(|rate| *rate > 0) else { return };
        let due = Duration::from_secs_f64(self.shared.spans.load(Ordering::Relaxed) as f64 / rate as f64);
        if let Some(early) = due.checked_sub(began.elapsed()) {
            tokio::time::sleep(early.min(Duration::from_secs(1))).await;
        }
    }

    /// Opens a reader for each partition that is not done.
    async fn feeds(
        &self,
        log: &Arc<dyn Log>,
        plan: &Plan,
        state: Option<&State>,
    ) -> Result<Vec<Feed>, ReplayError> {
        let mut feeds = Vec::new();
        // What a trace may take, from its first span to where it is forgotten: read again to know its traces.
        let of_traces = &self.request.processor;
        let overlap = of_traces.trace_max_age_ms + of_traces.trace_late_ms + of_traces.trace_idle_ms;
        for range in &plan.ranges {
            let source = source_of(&range.at);
            if let Some(state) = state
                && state.done.contains(&source)
            {
                self.done.lock().push(source);
                continue;
            }
            let fresh = Resumed { rolled_to: range.from.0, watermark_ms: None };
            let resumed = state.and_then(|state| state.sources.get(&source)).copied().unwrap_or(fresh);
            let mut from = range.from;
            let mut series = Vec::new();
            if is_samples(source) {
                from = from.max(NextOffset(resumed.rolled_to));
                if let (Some(state), Some(path)) = (state, &self.request.state) {
                    series = state.series_of(source, path)?;
                }
            } else if let Some(watermark_ms) = resumed.watermark_ms {
                let again =
                    log.position_at(&range.at, log::Millis(watermark_ms.saturating_sub(overlap))).await?;
                from = again.max(range.from).min(NextOffset(resumed.rolled_to).max(range.from));
            }
            let left = Range { from, ..range.clone() };
            let reader = RangeReader::open(log.as_ref(), &[left], 2 * POLL_BYTES).await?;
            self.send(source, Job::Assign { source, read_from: from.0, resumed, series }).await?;
            feeds.push(Feed { source, reader, at_ms: Millis::MIN, next: from.0 });
        }
        Ok(feeds)
    }

    /// Empties the pipeline and notes where it stands.
    async fn checkpoint(&mut self) -> Result<(), ReplayError> {
        for worker in &self.workers {
            worker.send(Job::Checkpoint).await.map_err(|_| ReplayError::Panicked("stage 1 ended".into()))?;
        }
        self.saved.recv().await.ok_or_else(|| ReplayError::Panicked("the writer ended".into()))
    }

    /// Lets everything run out; the writer's error is the first that counts.
    async fn end(mut self) -> Result<(Teller, Read), ReplayError> {
        self.workers.clear();
        let written = self.writer.await.map_err(|error| ReplayError::Panicked(error.to_string()))?;
        let (threads, merger) = (std::mem::take(&mut self.threads), self.merger.take());
        let joined = tokio::task::spawn_blocking(move || {
            let reads: Vec<_> = threads.into_iter().map(JoinHandle::join).collect();
            let merged = merger.map_or(Ok(()), JoinHandle::join);
            (reads, merged)
        })
        .await;
        let teller = written?;
        let (reads, merged) = joined.map_err(|error| ReplayError::Panicked(error.to_string()))?;
        merged.map_err(|_| ReplayError::Panicked("stage 2".into()))?;
        let mut read = std::mem::take(&mut self.before);
        for one in reads {
            read.add(&one.map_err(|_| ReplayError::Panicked("stage 1".into()))?);
        }
        Ok((teller, read))
    }
}

fn end_of(plan: &Plan, source: u32) -> u64 {
    plan.ranges.iter().find(|range| source_of(&range.at) == source).map_or(0, |range| range.end.0)
}

const fn is_samples(source: u32) -> bool {
    source >= SAMPLE_SOURCES
}

/// A thread of the first stage.
fn work(
    mut stage1: Stage1,
    mut samples: SampleStage,
    mut jobs: mpsc::Receiver<Job>,
    merge: &mpsc::Sender<Merge>,
    shared: &Shared,
) -> Read {
    let mut counted = Vec::new();
    let mut spans = 0;
    while let Some(job) = jobs.blocking_recv() {
        let then = match job {
            Job::Assign { source, resumed, series, .. } if is_samples(source) => {
                samples.assign(source, resumed, series);
                None
            }
            Job::Assign { source, read_from, resumed, .. } => {
                stage1.assign(source, read_from, resumed);
                None
            }
            Job::Records { source, records } if is_samples(source) => {
                samples.records(&records, &mut counted);
                None
            }
            Job::Records { records, .. } => {
                stage1.records(&records, &mut counted).err().map(|error| Merge::Failed(error.into()))
            }
            Job::Finish { source, to_ms } => {
                if is_samples(source) {
                    samples.finish(source, to_ms, &mut counted);
                } else {
                    stage1.finish(source, to_ms, &mut counted);
                }
                Some(Merge::Finish { source, to_ms })
            }
            Job::Checkpoint => {
                let mut sources = stage1.checkpoint(&mut counted);
                let (of_samples, series) = samples.checkpoint(&mut counted);
                sources.extend(of_samples);
                Some(Merge::Checkpoint(Stand { sources, series, read: read(&stage1, &samples) }))
            }
        };
        let now = stage1.counts().spans;
        shared.spans.fetch_add(now - spans, Ordering::Relaxed);
        spans = now;
        let first = (!counted.is_empty()).then(|| Merge::Counted(std::mem::take(&mut counted)));
        for message in first.into_iter().chain(then) {
            if merge.blocking_send(message).is_err() {
                return read(&stage1, &samples);
            }
        }
    }
    read(&stage1, &samples)
}

/// What a thread read so far.
fn read(stage1: &Stage1, samples: &SampleStage) -> Read {
    let mut read = stage1.read();
    read.counts.add(&samples.counts());
    read
}

/// The thread of the second stage.
fn merge_all(
    mut stage2: Stage2,
    mut messages: mpsc::Receiver<Merge>,
    outputs: &mpsc::Sender<Written>,
    threads: usize,
) {
    let mut told: Vec<Outcome> = Vec::new();
    let (mut sum, mut heard) = (Stand::default(), 0);
    while let Some(message) = messages.blocking_recv() {
        let mut then = None;
        match message {
            Merge::Counted(all) => all.into_iter().for_each(|counted| stage2.take(counted, &mut told)),
            Merge::Finish { source, to_ms } => stage2.finish(source, to_ms, &mut told),
            Merge::Checkpoint(of_one) => {
                sum.add(of_one);
                heard += 1;
                if heard == threads {
                    heard = 0;
                    let stand = std::mem::take(&mut sum);
                    then = Some(Written::Checkpoint { stand, snapshots: stage2.snapshot() });
                }
            }
            Merge::Failed(error) => then = Some(Written::Failed(error)),
        }
        let first = (!told.is_empty()).then(|| Written::Outputs(std::mem::take(&mut told)));
        for message in first.into_iter().chain(then) {
            if outputs.blocking_send(message).is_err() {
                return;
            }
        }
    }
}

/// What the writer needs for a checkpoint.
struct Writing {
    request: Request,
    tables: Tables,
    done: Arc<parking_lot::Mutex<Vec<u32>>>,
    before: Read,
}

/// The writer.
async fn write(
    mut teller: Teller,
    mut messages: mpsc::Receiver<Written>,
    context: Writing,
    save: mpsc::Sender<()>,
) -> Result<Teller, ReplayError> {
    while let Some(message) = messages.recv().await {
        match message {
            Written::Outputs(outputs) => teller.tell(outputs).await?,
            Written::Failed(error) => return Err(error),
            Written::Checkpoint { mut stand, snapshots } => {
                teller.settle().await?;
                if let Some(path) = &context.request.state {
                    let done = context.done.lock().clone();
                    stand.read.add(&context.before);
                    let mut state = State::new(&context.request, &context.tables, stand, done);
                    state.set_analysts(&snapshots);
                    state.told = teller.tally;
                    state.ends = teller.ends().await?;
                    state.write(path)?;
                }
                // Whoever waits for it may have given up.
                let _ = save.send(()).await;
            }
        }
    }
    teller.settle().await?;
    Ok(teller)
}
