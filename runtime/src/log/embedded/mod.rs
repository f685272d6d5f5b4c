//! The log on the local disk: one journal of segment files, written by one thread.
//!
//! An atomic batch (appends to any partitions, group positions, topics) is one journal entry with a
//! checksum, so it is there whole or not at all. Neighbours: the [`Log`] trait it implements, the
//! conformance suite it passes. See `docs/adr/0002-embedded-log.md` for why it is not an LSM store.
//!
//! ```text
//! append ──> queue (bytes bounded) ──> writer: write, fdatasync, apply, answer ──> state <── read
//!                                        │  roll: seal + .idx, new segment with a checkpoint
//!                                        └─ retention: carry survivors forward, unlink the oldest
//! ```
//! Invariants: what is in the state is durable (as the fsync policy says); offsets of a partition have no
//! gaps when written; one process holds the directory; a failed write or sync stops the log for good.

mod assignment;
mod batch;
mod config;
mod consumer;
mod disk;
mod format;
mod group;
mod queue;
mod read;
mod recovery;
mod retention;
mod segment;
mod sidecar;
mod state;
mod stats;
mod transactions;
mod writer;

use std::{collections::HashMap, path::PathBuf, sync::Arc, thread::JoinHandle, time::Instant};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::oneshot;

pub use self::{
    config::{Compression, Config, Fsync},
    stats::{APPEND_BUCKETS, Stats},
};
use self::{
    consumer::EmbeddedConsumer,
    format::{Body, key_hash},
    group::Groups,
    queue::{Failure, Item, NewOp, Queue, Reply, Work},
    state::State,
    stats::Cells,
    transactions::{EmbeddedTransactions, closed},
    writer::Writer,
};
use super::{
    Consumer, ConsumerOptions, Delivery, Log, LogError, Millis, NewRecord, NextOffset, TopicPartition,
    TopicSpec, Transactions, Watermarks, topic_state::TopicState,
};
use crate::clock::{Clock, SystemClock};

/// Payloads below this are not worth compressing.
const COMPRESS_FROM: usize = 256;
/// Of larger payloads so much is tried first, so that what does not compress costs little.
const PROBE: usize = 16 << 10;

/// What appenders, readers and the writer's thread share.
struct Shared {
    config: Config,
    /// Folder of the segments.
    dir: PathBuf,
    state: RwLock<State>,
    queue: Queue,
    groups: Mutex<Groups>,
    /// Epoch of each transactional id.
    producers: Mutex<HashMap<Arc<str>, u64>>,
    /// Why nothing is accepted, if so.
    failure: Mutex<Option<Failure>>,
    stats: Cells,
    clock: Arc<dyn Clock>,
}

/// Lock order: groups, producers, state, queue, failure. Each is held for look-ups only, never over I/O.
impl Shared {
    fn failure(&self) -> Option<Failure> {
        self.failure.lock().clone()
    }

    fn poisoned(&self) -> Option<Failure> {
        self.failure().filter(|failure| matches!(failure, Failure::Poisoned(_)))
    }

    /// Stops the log for good.
    fn poison(&self, detail: &str) -> Failure {
        tracing::error!(dir = %self.dir.display(), detail, "the log stops: its disk cannot be trusted");
        let detail =
            format!("{}: {detail}; the log stopped, restart after checking the disk", self.dir.display());
        let failure = Failure::Poisoned(detail);
        *self.failure.lock() = Some(failure.clone());
        failure
    }

    /// Refuses until there is space.
    fn disk_full(&self, detail: &str) -> Failure {
        let failure = Failure::DiskFull { path: self.dir.display().to_string(), detail: detail.to_owned() };
        let mut current = self.failure.lock();
        if matches!(*current, Some(Failure::Poisoned(_))) {
            return failure;
        }
        if current.is_none() {
            tracing::error!(dir = %self.dir.display(), detail, "no space: the log accepts nothing until there is");
        }
        *current = Some(failure.clone());
        failure
    }

    fn space_is_back(&self) {
        let mut current = self.failure.lock();
        if matches!(*current, Some(Failure::DiskFull { .. })) {
            tracing::info!(dir = %self.dir.display(), "there is space again: the log accepts");
            *current = None;
        }
    }

    fn check_accepting(&self) -> Result<(), LogError> {
        match self.failure() {
            Some(failure) => Err(failure.to_error(false)),
            None if self.queue.is_closed() => Err(closed()),
            None => Ok(()),
        }
    }

    fn wake_everyone(&self) {
        self.groups.lock().wake();
        let state = self.state.read();
        for topic in &state.topics {
            state.wake(topic.meta.id);
        }
    }

    /// Resolves when everything queued before is applied.
    async fn barrier(&self) -> Result<(), LogError> {
        self.ask(Work::Barrier).await
    }

    async fn ask(&self, work: Work) -> Result<(), LogError> {
        let (sender, answer) = oneshot::channel();
        let reply = Reply::Done { transaction: false, sender };
        self.queue.push(Item { work, reply, ticket: self.queue.pass() });
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Checks a record and encodes it, compressed where that helps; returns it with its size.
    fn prepare(&self, record: NewRecord) -> Result<(NewOp, usize), LogError> {
        let (topic, compacted) = {
            let state = self.state.read();
            let (topic, _) = state
                .partition(&record.to)
                .ok_or_else(|| LogError::UnknownTopicPartition(record.to.clone()))?;
            (topic.meta.id, topic.meta.compacted)
        };
        let size = record.key.as_ref().map_or(0, Bytes::len)
            + record.payload.as_ref().map_or(0, Bytes::len)
            + record.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        if size > self.config.max_record_bytes {
            return Err(LogError::TooLarge { topic: record.to.topic, size });
        }
        let key = match &record.key {
            Some(key) if compacted => Some(key_hash(key)),
            None if compacted => {
                return Err(LogError::Fatal(format!(
                    "{} is compacted: a record needs a key",
                    record.to.topic
                )));
            }
            _ => None,
        };
        let compressed = match (&record.payload, self.config.compression) {
            (Some(payload), Compression::Lz4) => compress(payload),
            _ => None,
        };
        let body = Body::record(record.key.as_deref(), &record.headers, record.payload, compressed);
        let op = NewOp::Append {
            topic,
            partition: record.to.partition,
            timestamp: record.timestamp.0,
            key,
            raw_bytes: size,
            body,
        };
        Ok((op, size))
    }
}

/// The LZ4 block of `payload`, if it is worth having.
fn compress(payload: &Bytes) -> Option<Bytes> {
    if payload.len() < COMPRESS_FROM {
        return None;
    }
    let worth = |block: usize, raw: usize| block < raw - raw / 16;
    if payload.len() > 4 * PROBE {
        let middle = payload.len() / 2;
        let probe = &payload[middle..middle + PROBE];
        if !worth(lz4_flex::block::compress(probe).len(), PROBE) {
            return None;
        }
    }
    let mut block = vec![0; lz4_flex::block::get_maximum_output_size(payload.len())];
    let len = lz4_flex::block::compress_into(payload, &mut block).ok()?;
    // Copied, so that a queued record holds only the bytes that are written.
    worth(len, payload.len()).then(|| Bytes::copy_from_slice(&block[..len]))
}

/// The embedded log.
pub struct EmbeddedLog {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for EmbeddedLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedLog").field("dir", &self.shared.dir).finish_non_exhaustive()
    }
}

impl EmbeddedLog {
    /// Opens the log in `config.dir`, creating it if it is not there.
    ///
    /// # Errors
    /// When another process holds the directory, acknowledged data is damaged, or the disk refuses.
    pub fn open(config: Config) -> Result<Arc<Self>, LogError> {
        Self::open_with(config, Arc::new(SystemClock))
    }

    /// As [`Self::open`], with the clock that retention by age goes by.
    ///
    /// # Errors
    /// See [`Self::open`].
    pub fn open_with(config: Config, clock: Arc<dyn Clock>) -> Result<Arc<Self>, LogError> {
        let (shared, active, lock) = Self::recover(config, clock)?;
        Self::start(shared, active, lock)
    }

    fn recover(
        config: Config,
        clock: Arc<dyn Clock>,
    ) -> Result<(Arc<Shared>, writer::Active, disk::DirLock), LogError> {
        config.check()?;
        let dir = config.dir.join("log");
        let failed = |error: std::io::Error| disk::io_error("cannot create", &dir, &error);
        std::fs::create_dir_all(&dir).map_err(failed)?;
        disk::sync_dir(&config.dir).map_err(failed)?;
        let lock = disk::lock(&dir)?;
        let shared = Arc::new(Shared {
            queue: Queue::new(config.max_queue_bytes),
            config,
            dir,
            state: RwLock::default(),
            groups: Mutex::default(),
            producers: Mutex::default(),
            failure: Mutex::default(),
            stats: Cells::default(),
            clock,
        });
        let active = recovery::open(&shared)?;
        Ok((shared, active, lock))
    }

    fn start(
        shared: Arc<Shared>,
        active: writer::Active,
        lock: disk::DirLock,
    ) -> Result<Arc<Self>, LogError> {
        let now = Instant::now();
        let writer = Writer {
            shared: shared.clone(),
            active,
            lock,
            last_sync: now,
            last_retention: now,
            refused: None,
        };
        let thread = std::thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| LogError::Fatal(format!("cannot start the log's thread: {error}")))?;
        Ok(Arc::new(Self { shared, writer: Mutex::new(Some(thread)) }))
    }

    /// Opens with a changed active segment: how tests stand in for a disk that fails.
    #[cfg(test)]
    fn open_changed(config: Config, change: impl FnOnce(&mut writer::Active)) -> Result<Arc<Self>, LogError> {
        let (shared, mut active, lock) = Self::recover(config, Arc::new(SystemClock))?;
        change(&mut active);
        Self::start(shared, active, lock)
    }

    /// Writes what is queued, syncs, and releases the directory. Blocks; later calls do nothing.
    pub fn close(&self) {
        self.shared.queue.close();
        if let Some(writer) = self.writer.lock().take()
            && writer.join().is_err()
        {
            tracing::error!("the log's thread panicked; what was not acknowledged may be lost");
        }
    }

    /// Seals the active segment and applies retention now, rather than when it is due.
    ///
    /// # Errors
    /// When the disk is full or broken.
    pub async fn maintain(&self) -> Result<(), LogError> {
        self.shared.ask(Work::Maintain { compact: false }).await
    }

    /// Rewrites every segment so that only what must stay remains: the latest record a key of compacted
    /// topics and records that have not expired.
    ///
    /// # Errors
    /// When the disk is full or broken.
    pub async fn compact(&self) -> Result<(), LogError> {
        self.shared.ask(Work::Maintain { compact: true }).await
    }

    /// Counters and gauges.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let state = self.shared.state.read();
        Stats {
            queue_bytes: self.shared.queue.used_bytes() as u64,
            segments: state.segments.len() as u64,
            disk_bytes: state.segments.values().map(|segment| segment.len()).sum(),
            ..self.shared.stats.snapshot()
        }
    }

    /// The topic as it is, if it is there.
    #[must_use]
    pub fn describe(&self, name: &str) -> Option<TopicState> {
        let state = self.shared.state.read();
        let meta = &state.topic(name)?.meta;
        Some(TopicState {
            partitions: meta.partitions,
            replication: None,
            min_in_sync: None,
            retention: meta.retention,
            compacted: meta.compacted,
            retention_bytes: None,
        })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, LogError> {
        let shared = self.shared.clone();
        let done = tokio::task::spawn_blocking(move || work(&shared)).await;
        done.map_err(|error| LogError::Unavailable(error.to_string()))?
    }
}

impl Drop for EmbeddedLog {
    fn drop(&mut self) {
        self.close();
    }
}

#[async_trait]
impl Log for EmbeddedLog {
    async fn create_topics(&self, specs: &[TopicSpec]) -> Result<(), LogError> {
        if let Some(empty) = specs.iter().find(|spec| spec.partitions == 0) {
            return Err(LogError::Fatal(format!("topic {} needs at least one partition", empty.name)));
        }
        let known = {
            let state = self.shared.state.read();
            specs.iter().all(|spec| state.names.contains_key(&spec.name))
        };
        if known { Ok(()) } else { self.shared.ask(Work::Topics(specs.to_vec())).await }
    }

    async fn partitions(&self, topic: &str) -> Result<u32, LogError> {
        let state = self.shared.state.read();
        let unknown = || LogError::UnknownTopicPartition(TopicPartition::new(topic, 0));
        Ok(state.topic(topic).ok_or_else(unknown)?.meta.partitions)
    }

    fn append(&self, record: NewRecord) -> Result<Delivery, LogError> {
        self.shared.check_accepting()?;
        let size = record.payload.as_ref().map_or(0, Bytes::len);
        if size > self.shared.config.max_record_bytes {
            return Err(LogError::TooLarge { topic: record.to.topic, size });
        }
        // The place in the queue comes first: what does not fit is not compressed either.
        let ticket = self.shared.queue.reserve(size)?;
        let (op, _) = self.shared.prepare(record)?;
        let (sender, answer) = oneshot::channel();
        self.shared.queue.push(Item { work: Work::Entry(vec![op]), reply: Reply::Offset(sender), ticket });
        Ok(Box::pin(async move { answer.await.unwrap_or_else(|_| Err(closed())) }))
    }

    async fn transactions(&self, transactional_id: &str) -> Result<Box<dyn Transactions>, LogError> {
        Ok(Box::new(EmbeddedTransactions::begin(self.shared.clone(), transactional_id).await?))
    }

    async fn consumer(&self, options: ConsumerOptions) -> Result<Box<dyn Consumer>, LogError> {
        Ok(Box::new(EmbeddedConsumer::new(self.shared.clone(), options)?))
    }

    async fn watermarks(&self, at: &TopicPartition) -> Result<Watermarks, LogError> {
        let state = self.shared.state.read();
        let unknown = || LogError::UnknownTopicPartition(at.clone());
        let (_, partition) = state.partition(at).ok_or_else(unknown)?;
        Ok(Watermarks { low: NextOffset(partition.low), high: NextOffset(partition.high) })
    }

    async fn position_at(&self, at: &TopicPartition, time: Millis) -> Result<NextOffset, LogError> {
        let at = at.clone();
        self.blocking(move |shared| read::position_at(shared, &at, time)).await
    }

    async fn committed(&self, group: &str, at: &TopicPartition) -> Result<Option<NextOffset>, LogError> {
        let state = self.shared.state.read();
        let unknown = || LogError::UnknownTopicPartition(at.clone());
        let (topic, _) = state.partition(at).ok_or_else(unknown)?;
        Ok(state.committed(group, topic.meta.id, at.partition).map(NextOffset))
    }

    async fn ready(&self) -> Result<(), LogError> {
        self.shared.check_accepting()
    }
}
