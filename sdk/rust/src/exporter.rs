//! Sends spans in the background, on a thread of its own, and never blocks or breaks the host program.
//!
//! Host threads append a span's bytes to the open batch; full or old batches go through a bounded queue to the
//! sender. Drop policy: when the queue is full the batch that would have been queued is dropped and counted.
//! Invariant: recorded = accepted + rejected + dropped + failed, once the exporter is shut down.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::{Client, ClientConfig, ClientError, SpanBatch, SpanBatchBuilder, SpanId, TraceId};

/// The exporter's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExporterConfig {
    /// Smallest batch that is sent before its time.
    pub min_batch_spans: usize,
    /// Largest batch.
    pub max_batch_spans: usize,
    /// Longest time a span waits to be sent.
    pub max_delay: Duration,
    /// Batches that may wait for the sender.
    pub queue_batches: usize,
    /// Bytes at which a batch is sent, however few its spans.
    pub max_batch_bytes: usize,
    /// How long a shutdown may take to send what is left.
    pub shutdown_timeout: Duration,
}

impl Default for ExporterConfig {
    fn default() -> Self {
        Self {
            min_batch_spans: 100,
            max_batch_spans: 1_000,
            max_delay: Duration::from_secs(1),
            queue_batches: 64,
            max_batch_bytes: 4 << 20,
            shutdown_timeout: Duration::from_secs(10),
        }
    }
}

/// Counters of an exporter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExporterStats {
    /// Spans handed in.
    pub recorded: u64,
    /// Spans that the gateway made durable.
    pub accepted: u64,
    /// Spans that the gateway refused one by one.
    pub rejected: u64,
    /// Spans dropped because the queue was full, or handed in after the shutdown.
    pub dropped: u64,
    /// Spans given up: refused batches, and batches past the retry budget or the shutdown time.
    pub failed: u64,
}

#[derive(Debug, Default)]
struct Counters {
    recorded: AtomicU64,
    accepted: AtomicU64,
    rejected: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

fn add(counter: &AtomicU64, spans: usize) {
    counter.fetch_add(spans as u64, Ordering::Relaxed);
}

/// A background sender; see the module's words. Dropping the last handle shuts it down.
#[derive(Debug)]
pub struct Exporter {
    shared: Arc<Shared>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    config: ExporterConfig,
    open: Mutex<Open>,
    queue: mpsc::Sender<Command>,
    counters: Arc<Counters>,
}

/// The batch that is being filled, and the pace at which batches fill.
#[derive(Debug)]
struct Open {
    builder: SpanBatchBuilder,
    since: Instant,
    target_spans: usize,
    closed: bool,
}

#[derive(Debug)]
enum Command {
    Send(SpanBatch),
    Flush(oneshot::Sender<()>),
    Stop(oneshot::Sender<()>),
}

impl Exporter {
    /// Starts the thread. The gateway need not be there.
    ///
    /// # Errors
    /// A wrong client configuration, or no thread to be had.
    pub fn start(client: ClientConfig, config: ExporterConfig) -> Result<Self, ClientError> {
        let client = Client::lazy(client)?;
        let (queue, commands) = mpsc::channel(config.queue_batches.max(1));
        let counters = Arc::new(Counters::default());
        let open = Open {
            builder: SpanBatchBuilder::new(),
            since: Instant::now(),
            target_spans: config.min_batch_spans.max(1),
            closed: false,
        };
        let shared =
            Arc::new(Shared { config, open: Mutex::new(open), queue, counters: Arc::clone(&counters) });
        let weak = Arc::downgrade(&shared);
        let max_delay = shared.config.max_delay.max(Duration::from_millis(1));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|_| ClientError::BadConfig("no runtime for the exporter's thread"))?;
        let thread = std::thread::Builder::new()
            .name("infertrace-exporter".into())
            .spawn(move || runtime.block_on(send_all(client, commands, weak, counters, max_delay)))
            .map_err(|_| ClientError::BadConfig("no thread for the exporter"))?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Records one span, written by `write` into the open batch. Takes a short lock; never waits for the network.
    pub fn record(&self, write: impl FnOnce(&mut SpanBatchBuilder)) {
        self.shared.record(write);
    }

    pub(crate) fn record_encoded(&self, trace_id: TraceId, span_id: SpanId, origin: &[u8], body: &[u8]) {
        debug_assert_ne!(span_id, SpanId::default());
        self.shared.record(|builder| {
            let origin = builder.origin_bytes(origin.to_vec());
            builder.push_encoded(trace_id, origin, body);
        });
    }

    /// Sends what is waiting and returns when it has been answered, or after `limit`. Blocks: not for async code.
    pub fn flush(&self, limit: Duration) -> bool {
        self.shared.close_batch(&mut self.shared.open.lock());
        let (done, wait) = oneshot::channel();
        self.command(Command::Flush(done), wait, limit)
    }

    /// Counters so far.
    #[must_use]
    pub fn stats(&self) -> ExporterStats {
        let counters = &self.shared.counters;
        ExporterStats {
            recorded: counters.recorded.load(Ordering::Relaxed),
            accepted: counters.accepted.load(Ordering::Relaxed),
            rejected: counters.rejected.load(Ordering::Relaxed),
            dropped: counters.dropped.load(Ordering::Relaxed),
            failed: counters.failed.load(Ordering::Relaxed),
        }
    }

    /// Sends what is left, within `shutdown_timeout`, and ends the thread. Later spans are dropped and counted.
    pub fn shutdown(&self) -> ExporterStats {
        {
            let mut open = self.shared.open.lock();
            self.shared.close_batch(&mut open);
            open.closed = true;
        }
        if let Some(thread) = self.thread.lock().take() {
            let (done, wait) = oneshot::channel();
            let ended = self.command(Command::Stop(done), wait, self.shared.config.shutdown_timeout);
            if ended {
                let _ = thread.join(); // a panic there must not become one here
            }
        }
        self.stats()
    }

    fn command(&self, mut command: Command, wait: oneshot::Receiver<()>, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        loop {
            match self.shared.queue.try_send(command) {
                Ok(()) => break,
                Err(mpsc::error::TrySendError::Full(back)) if Instant::now() < until => command = back,
                Err(_) => return false,
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        wait_blocking(wait, until)
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// Waits for the answer without a runtime, which this thread may or may not have.
fn wait_blocking(mut wait: oneshot::Receiver<()>, until: Instant) -> bool {
    loop {
        match wait.try_recv() {
            Ok(()) => return true,
            Err(oneshot::error::TryRecvError::Closed) => return false,
            Err(oneshot::error::TryRecvError::Empty) if Instant::now() >= until => return false,
            Err(oneshot::error::TryRecvError::Empty) => std::thread::park_timeout(Duration::from_millis(2)),
        }
    }
}

impl Shared {
    fn record(&self, write: impl FnOnce(&mut SpanBatchBuilder)) {
        let mut open = self.open.lock();
        let before = open.builder.len();
        if open.closed {
            add(&self.counters.recorded, 1);
            add(&self.counters.dropped, 1);
            return;
        }
        write(&mut open.builder);
        add(&self.counters.recorded, open.builder.len() - before);
        if open.builder.len() >= open.target_spans || open.builder.byte_len() >= self.config.max_batch_bytes {
            self.close_batch(&mut open);
        }
    }

    /// Queues the open batch, and sets the next one's size so that it fills in about a fifth of the longest delay.
    fn close_batch(&self, open: &mut Open) {
        let elapsed = open.since.elapsed().as_secs_f64();
        open.since = Instant::now();
        let spans = open.builder.len();
        let target = next_target(&self.config, open.target_spans, spans, elapsed);
        open.target_spans = target;
        if spans == 0 {
            return;
        }
        if self.queue.try_send(Command::Send(open.builder.build())).is_err() {
            add(&self.counters.dropped, spans);
        }
        open.builder = SpanBatchBuilder::with_capacity(target, target * 512);
    }
}

/// The batch size for the rate just seen, moved half-way from the current one.
fn next_target(config: &ExporterConfig, current: usize, spans: usize, elapsed_seconds: f64) -> usize {
    let rate = spans as f64 / elapsed_seconds.max(1e-6);
    let wanted = rate * config.max_delay.as_secs_f64() / 5.0;
    let blended = (current as f64 + wanted) / 2.0;
    (blended as usize)
        .clamp(config.min_batch_spans.max(1), config.max_batch_spans.max(config.min_batch_spans).max(1))
}

async fn send_all(
    client: Client,
    mut commands: mpsc::Receiver<Command>,
    open: std::sync::Weak<Shared>,
    counters: Arc<Counters>,
    max_delay: Duration,
) {
    let parallel = client.config().in_flight.max(1);
    let slots = Arc::new(Semaphore::new(parallel));
    let mut ticks = tokio::time::interval(max_delay);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let command = tokio::select! {
            command = commands.recv() => command,
            _ = ticks.tick() => {
                if let Some(shared) = open.upgrade() {
                    let mut open = shared.open.lock();
                    if open.since.elapsed() >= max_delay / 2 {
                        shared.close_batch(&mut open);
                    }
                }
                continue;
            }
        };
        let Some(command) = command else { return };
        match command {
            Command::Send(batch) => {
                let permit = Arc::clone(&slots).acquire_owned().await.expect("never closed");
                let (client, counters) = (client.clone(), Arc::clone(&counters));
                tokio::spawn(async move {
                    let spans = batch.len();
                    match client.export(batch).await {
                        Ok(outcome) => {
                            counters.accepted.fetch_add(outcome.accepted, Ordering::Relaxed);
                            counters.rejected.fetch_add(outcome.rejected, Ordering::Relaxed);
                        }
                        Err(error) => {
                            tracing::warn!(%error, spans, "spans given up");
                            add(&counters.failed, spans);
                        }
                    }
                    drop(permit);
                });
            }
            Command::Flush(done) => {
                let _ = slots.acquire_many(parallel as u32).await;
                let _ = done.send(());
            }
            Command::Stop(done) => {
                let _ = slots.acquire_many(parallel as u32).await;
                let _ = done.send(());
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: rates from a trickle to a flood. Guarantee: batches grow with the rate, within 100 and 1,000.
    #[test]
    fn batches_adapt_to_the_rate() {
        let config = ExporterConfig::default();
        let mut target = 100;
        for _ in 0..10 {
            target = next_target(&config, target, target, target as f64 / 20_000.0);
        }
        assert!(target > 900, "{target}");
        for _ in 0..20 {
            target = next_target(&config, target, 10, 1.0);
        }
        assert_eq!(target, 100);
    }

    /// Scenario: no gateway at all, a tiny queue, far more spans than fit. Guarantee: recording never blocks, and
    /// after the shutdown every span is counted once.
    #[test]
    fn without_a_gateway_spans_are_counted_as_dropped_or_failed() {
        let mut client = ClientConfig::new("http://127.0.0.1:1");
        client.retry = crate::RetryBudget::none();
        client.in_flight = 1;
        let config = ExporterConfig { queue_batches: 1, ..ExporterConfig::default() };
        let exporter = Exporter::start(client, config).expect("starts without a gateway");
        for index in 1..=5_000u64 {
            exporter.record(|batch| {
                batch.span(TraceId([1; 16]), SpanId(index.to_be_bytes())).operation("op");
            });
        }
        let stats = exporter.shutdown();
        assert_eq!(stats.recorded, 5_000);
        assert_eq!(stats.dropped + stats.failed, 5_000, "{stats:?}");
        assert_eq!(stats.accepted, 0);
        exporter.record(|batch| drop(batch.span(TraceId([1; 16]), SpanId([1; 8]))));
        assert_eq!(exporter.stats().dropped, stats.dropped + 1);
    }
}
