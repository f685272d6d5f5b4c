//! The one thread that writes: group commit, roll-over, disk-full and fail-stop.
//!
//! It drains the queue, gives offsets, writes all waiting entries with one vectored write, syncs once,
//! applies them to the state and answers. While the disk syncs the queue fills, so batches grow with load
//! and nobody lingers when there is none.
//! Invariants: nothing is applied or answered before it is as durable as the policy says; after a failed
//! write of unknown outcome or a failed sync nothing is ever written again (the kernel may have dropped
//! the dirty pages and would report success the next time).

use std::{
    fs::{File, OpenOptions},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Shared,
    batch::{Batch, Place, entry_size},
    config::Fsync,
    disk::{self, io_error},
    format::{SEGMENT_HEADER, SegmentHeader},
    queue::{Failure, Item, NewOp, Reply, Ticket, Work},
    segment::{self, Segment},
    sidecar,
    state::{Effect, State, TopicMeta},
    stats::add,
};
use crate::log::{LogError, TopicSpec};

/// Bytes of one group commit: bounds how long an append waits behind others.
const BATCH_BYTES: usize = 16 << 20;
/// How often the writer looks at free space while it refuses, and at least at its other duties.
const TICK: Duration = Duration::from_millis(500);
/// A segment smaller than this is not worth sealing when the log is closed.
const SEAL_AT_CLOSE: u64 = 16 << 20;

/// The segment being written.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) segment: Arc<Segment>,
    pub(super) file: Arc<File>,
    /// End of the entries.
    pub(super) position: u64,
    /// Up to where the file is synced.
    pub(super) durable: u64,
    pub(super) entries: u64,
    pub(super) records: usize,
    pub(super) since: Instant,
}

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) active: Active,
    /// Held until the thread ends, so that closing releases the directory.
    pub(super) lock: disk::DirLock,
    pub(super) last_sync: Instant,
    pub(super) last_retention: Instant,
    /// When the file system last refused to give space that it said was free: a quota, a size limit.
    pub(super) refused: Option<Instant>,
}

/// Nobody waits for a thread that is gone, however it went.
struct Stopped(Arc<Shared>);

impl Drop for Stopped {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.poison("the writer's thread panicked");
        }
        self.0.queue.close();
        self.0.queue.fail_all(&self.0.poisoned().unwrap_or(Failure::Closed));
        self.0.wake_everyone();
    }
}

impl Writer {
    pub(super) fn run(mut self) {
        let _stopped = Stopped(self.shared.clone());
        loop {
            let (items, closed) = self.shared.queue.take(BATCH_BYTES, self.next_tick());
            self.process(items);
            self.tick();
            if closed {
                break;
            }
        }
        self.shut_down();
    }

    fn next_tick(&self) -> Instant {
        let wait = match self.shared.config.fsync {
            Fsync::IntervalMs(interval) if self.active.durable < self.active.position => {
                return self.last_sync + Duration::from_millis(interval);
            }
            _ => TICK.min(Duration::from_millis(self.shared.config.retention_check_ms.max(1))),
        };
        Instant::now() + wait
    }

    fn process(&mut self, items: Vec<Item>) {
        let space = self.check_space();
        let mut batch = Batch::default();
        for Item { work, reply, ticket } in items {
            let entry = matches!(work, Work::Entry(_) | Work::Topics(_));
            let failure = self.shared.poisoned().or_else(|| space.clone().filter(|_| entry));
            if let Some(failure) = failure {
                reply.fail(&failure);
                continue;
            }
            match work {
                Work::Entry(ops) => self.add(&mut batch, ops, reply, ticket),
                Work::Barrier => batch.wait(reply, None, ticket, false),
                Work::Topics(specs) => {
                    self.flush_answered(std::mem::take(&mut batch));
                    self.create_topics(&specs, reply, ticket);
                }
                Work::Maintain { compact } => {
                    self.flush_answered(std::mem::take(&mut batch));
                    match self.maintain(compact) {
                        Ok(()) => reply.succeed(None),
                        Err(failure) => reply.fail(&failure),
                    }
                }
            }
        }
        self.flush_answered(batch);
    }

    fn add(&mut self, batch: &mut Batch, ops: Vec<NewOp>, reply: Reply, ticket: Ticket) {
        if let Err(failure) = self.make_room(batch, entry_size(&ops)) {
            reply.fail(&failure);
            return;
        }
        let place = self.place();
        let offset = batch.add_entry(ops, place, &self.shared.state.read());
        batch.wait(reply, offset, ticket, true);
    }

    /// Rolls over to a new segment when `size` more bytes do not fit the active one.
    fn make_room(&mut self, batch: &mut Batch, size: u64) -> Result<(), Failure> {
        let config = &self.shared.config;
        let full = self.active.position + batch.bytes + size > config.segment_bytes
            || self.active.records + batch.records >= config.segment_records;
        // A segment that holds its checkpoint alone takes an entry of any size.
        if full && self.active.entries + batch.entries > 1 {
            self.flush(std::mem::take(batch))?;
            self.roll()?;
        }
        Ok(())
    }

    fn place(&self) -> Place {
        Place {
            salt: self.active.segment.header.salt,
            position: self.active.position,
            entries: self.active.entries,
            durable: self.active.durable,
        }
    }

    /// Writes operations of the log's own as one entry, in spite of the space reserve.
    pub(super) fn write_own(&mut self, ops: Vec<NewOp>) -> Result<(), Failure> {
        let mut batch = Batch::default();
        self.make_room(&mut batch, entry_size(&ops))?;
        let place = self.place();
        batch.add_entry(ops, place, &self.shared.state.read());
        self.flush(batch)
    }

    fn create_topics(&mut self, specs: &[TopicSpec], reply: Reply, ticket: Ticket) {
        let mut ops = Vec::new();
        {
            let state = self.shared.state.read();
            let mut id = u32::try_from(state.topics.len()).expect("few topics");
            for (index, spec) in specs.iter().enumerate() {
                let known = state.names.contains_key(&spec.name)
                    || specs[..index].iter().any(|earlier| earlier.name == spec.name);
                if !known {
                    ops.push(NewOp::Topic(TopicMeta {
                        id,
                        name: spec.name.clone(),
                        partitions: spec.partitions,
                        retention: spec.retention,
                        compacted: spec.compacted,
                    }));
                    id += 1;
                }
            }
        }
        let mut batch = Batch::default();
        if ops.is_empty() {
            reply.succeed(None);
            return;
        }
        self.add(&mut batch, ops, reply, ticket);
        self.flush_answered(batch);
    }

    /// Writes, syncs by the policy, applies, answers.
    fn flush(&mut self, mut batch: Batch) -> Result<(), Failure> {
        if batch.is_empty() {
            return Ok(());
        }
        let written = match self.shared.poisoned() {
            Some(failure) => Err(failure),
            None if batch.entries > 0 => self.write(&mut batch),
            None => Ok(()),
        };
        if let Err(failure) = written {
            batch.fail(&failure);
            return Err(failure);
        }
        if batch.entries > 0 {
            batch.count(&self.shared.stats);
            self.apply(std::mem::take(&mut batch.effects));
        }
        batch.succeed(&self.shared.stats);
        Ok(())
    }

    /// As [`Self::flush`] where all who need to know of a failure wait in the batch.
    fn flush_answered(&mut self, batch: Batch) {
        if let Err(failure) = self.flush(batch) {
            tracing::warn!(?failure, "a batch was refused");
        }
    }

    fn write(&mut self, batch: &mut Batch) -> Result<(), Failure> {
        if let Err(error) = batch.write(&self.active.file, self.active.position) {
            // A part of the entries may be in the file: cut it off, so that a later scan does not see it.
            let cut = self.active.file.set_len(self.active.position);
            if let Err(cut) = cut {
                return Err(self
                    .shared
                    .poison(&format!("cannot cut off a failed write: {cut} (after {error})")));
            }
            if disk::is_full(&error) {
                self.refused = Some(Instant::now());
                return Err(self.shared.disk_full(&error.to_string()));
            }
            return Err(self.shared.poison(&format!("write failed: {error}")));
        }
        self.active.position += batch.bytes;
        self.active.entries += batch.entries;
        self.active.records += batch.records;
        if self.shared.config.fsync == Fsync::Always {
            self.sync()?;
        }
        Ok(())
    }

    /// Makes everything written so far durable.
    pub(super) fn sync(&mut self) -> Result<(), Failure> {
        self.last_sync = Instant::now();
        if self.active.durable == self.active.position {
            return Ok(());
        }
        add(&self.shared.stats.fsyncs, 1);
        if let Err(error) = self.active.file.sync_data() {
            return Err(self.shared.poison(&format!("sync failed: {error}")));
        }
        self.active.durable = self.active.position;
        Ok(())
    }

    fn apply(&self, effects: Vec<Effect>) {
        self.active.segment.set_len(self.active.position);
        if effects.is_empty() {
            return;
        }
        let mut touched: Vec<u32> = Vec::new();
        let mut topics = false;
        let mut state = self.shared.state.write();
        for effect in effects {
            match &effect {
                Effect::Record { topic, .. } if !touched.contains(topic) => touched.push(*topic),
                Effect::Topic(_) => topics = true,
                _ => {}
            }
            let known = state.apply(effect, &self.active.segment);
            debug_assert!(known, "the writer only writes what the state knows");
        }
        drop(state);
        let state = self.shared.state.read();
        for topic in touched {
            state.wake(topic);
        }
        drop(state);
        if topics {
            self.shared.groups.lock().rebalance_all(&self.shared.state.read());
        }
    }

    /// Whether new entries must be refused for want of space; forgets an earlier refusal when it is back.
    fn check_space(&mut self) -> Option<Failure> {
        let config = &self.shared.config;
        let free = match disk::free_bytes(&self.shared.dir) {
            Ok(free) => free,
            Err(error) => return Some(self.shared.disk_full(&format!("cannot ask for free space: {error}"))),
        };
        if free < config.reserve_bytes {
            let reserve = config.reserve_bytes;
            return Some(self.shared.disk_full(&format!("{free} bytes free, reserve_bytes is {reserve}")));
        }
        if let Some(refused) = self.refused {
            if refused.elapsed() < TICK {
                return self.shared.failure();
            }
            // Free bytes were no promise before: accept only when the largest record would fit.
            let largest = config.max_record_bytes as u64;
            if let Err(error) = disk::preallocate(&self.active.file, self.active.position, largest) {
                self.refused = Some(Instant::now());
                return Some(self.shared.disk_full(&error.to_string()));
            }
            self.refused = None;
        }
        self.shared.space_is_back();
        None
    }

    fn tick(&mut self) {
        if self.shared.poisoned().is_some() {
            return;
        }
        let config = &self.shared.config;
        let now = Instant::now();
        if let Fsync::IntervalMs(interval) = config.fsync
            && now >= self.last_sync + Duration::from_millis(interval)
            && self.sync().is_err()
        {
            return;
        }
        if self.shared.failure().is_some() {
            self.check_space();
        }
        let config = &self.shared.config;
        if now < self.last_retention + Duration::from_millis(config.retention_check_ms) {
            return;
        }
        self.last_retention = now;
        let aged = now >= self.active.since + Duration::from_millis(config.segment_ms);
        let result = if aged && self.active.entries > 1 { self.roll() } else { Ok(()) };
        if let Err(failure) = result.and_then(|()| self.retain(false)) {
            tracing::warn!(?failure, "retention could not run");
        }
    }

    fn maintain(&mut self, compact: bool) -> Result<(), Failure> {
        if self.active.entries > 1 {
            self.roll()?;
        }
        self.retain(compact)
    }

    /// Seals the active segment and goes on in a new one.
    fn roll(&mut self) -> Result<(), Failure> {
        self.sync()?;
        let seq = self.active.segment.header.seq + 1;
        let created = create(&self.shared, seq, &self.shared.state.read());
        let next = match created {
            Ok(next) => next,
            // The next start would take the half-made segment for the last one.
            Err(LogError::Ambiguous(detail)) => return Err(self.shared.poison(&detail)),
            // Nothing changed; the old segment stays active.
            Err(error) => {
                self.refused = Some(Instant::now());
                return Err(self.shared.disk_full(&format!("cannot create the next segment: {error}")));
            }
        };
        let sealed = std::mem::replace(&mut self.active, next);
        let cut = sealed.file.set_len(sealed.position).and_then(|()| sealed.file.sync_all());
        if let Err(error) = cut {
            return Err(self.shared.poison(&format!("cannot seal a segment: {error}")));
        }
        self.shared.state.write().segments.insert(seq, self.active.segment.clone());
        let mut tables = sidecar::tables_of(&self.shared.state.read(), &sealed.segment);
        match sidecar::write(&sealed.segment, &tables) {
            Ok(places) => {
                sidecar::adopt(&mut tables, places);
                self.shared.state.write().adopt(tables);
            }
            Err(error) => {
                // Its index stays in memory, and the next start scans the segment.
                tracing::warn!(path = %sealed.segment.index_path().display(), %error, "cannot write an index");
            }
        }
        Ok(())
    }

    fn shut_down(mut self) {
        if self.shared.poisoned().is_none() {
            let closed = self
                .sync()
                .and_then(|()| if self.active.position >= SEAL_AT_CLOSE { self.roll() } else { Ok(()) });
            let cut =
                self.active.file.set_len(self.active.position).and_then(|()| self.active.file.sync_all());
            if closed.is_err() || cut.is_err() {
                tracing::warn!(
                    ?closed,
                    ?cut,
                    "the log was closed without tidying up; the next start scans it"
                );
            }
        }
        drop(self.lock);
    }
}

/// Creates segment `seq` with a checkpoint of everything but records, durable before it has its name.
pub(super) fn create(shared: &Shared, seq: u64, state: &State) -> Result<Active, LogError> {
    let dir: &Path = &shared.dir;
    let header = SegmentHeader { seq, salt: rand::random() };
    let path = segment::path(dir, seq);
    let temporary = disk::temporary(&path);
    let failed = |error: std::io::Error| {
        // What was prepared has no name that a scan would look at; removing it is tidiness.
        let _ = std::fs::remove_file(&temporary);
        io_error("cannot create", &path, &error)
    };
    let file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(&temporary)
        .map_err(failed)?;
    if shared.config.preallocate {
        disk::preallocate(&file, 0, shared.config.segment_bytes).map_err(failed)?;
    }
    let mut batch = Batch::default();
    let position = SEGMENT_HEADER as u64;
    batch.add_entry(checkpoint(state), Place { salt: header.salt, position, entries: 0, durable: 0 }, state);
    disk::write_all_at(&file, vec![std::io::IoSlice::new(&header.encode())], 0).map_err(failed)?;
    batch.write(&file, position).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    std::fs::rename(&temporary, &path).map_err(failed)?;
    disk::sync_dir(dir)
        .map_err(|error| LogError::Ambiguous(format!("cannot sync {}: {error}", dir.display())))?;
    let end = position + batch.bytes;
    let segment = Arc::new(Segment::new(dir, header, end));
    let (file, since) = (Arc::new(file), Instant::now());
    Ok(Active { segment, file, position: end, durable: end, entries: 1, records: 0, since })
}

/// Topics, watermarks and group positions: with these at its head, no segment needs an older one for them.
fn checkpoint(state: &State) -> Vec<NewOp> {
    let mut ops = Vec::new();
    for topic in &state.topics {
        let TopicMeta { id, ref name, partitions, retention, compacted } = *topic.meta;
        ops.push(NewOp::Topic(TopicMeta { id, name: name.clone(), partitions, retention, compacted }));
    }
    for (topic, partition, bounds) in state.partitions() {
        let (low, high) = (bounds.low, bounds.high);
        ops.push(NewOp::Bounds { topic: topic.meta.id, partition, low, high });
    }
    for (group, positions) in &state.groups {
        for (&(topic, partition), &next) in positions {
            ops.push(NewOp::Commit { group: group.clone(), topic, partition, next });
        }
    }
    ops
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use bytes::Bytes;

    use super::*;
    use crate::log::{
        Log, Millis, NewRecord, TopicPartition, TopicSpec,
        embedded::{Config, EmbeddedLog},
    };

    fn record(payload: &'static str) -> NewRecord {
        NewRecord {
            to: TopicPartition::new("t", 0),
            key: None,
            payload: Some(Bytes::from_static(payload.as_bytes())),
            headers: vec![],
            timestamp: Millis(0),
        }
    }

    /// A log whose active segment's file is replaced by `file` once a topic is there.
    async fn with_file(config: &Config, file: OwnedFd) -> Arc<EmbeddedLog> {
        let log = EmbeddedLog::open(config.clone()).unwrap();
        let spec =
            TopicSpec { name: "t".into(), partitions: 1, retention: None, compacted: false, replication: 1 };
        log.create_topics(&[spec]).await.unwrap();
        log.append(record("before")).unwrap().await.unwrap();
        log.close();
        drop(log);
        let file = Arc::new(File::from(file));
        EmbeddedLog::open_changed(config.clone(), move |active| active.file = file).unwrap()
    }

    /// Scenario: the disk refuses a write (here: a file that is open for reading only). Guarantee: the
    /// append fails as not retriable, a transaction's outcome is called unknown, later appends are refused
    /// at once, readiness says so, and reading goes on; nothing was retried.
    #[tokio::test]
    async fn a_failed_write_stops_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { dir: dir.path().to_owned(), reserve_bytes: 0, ..Config::default() };
        std::fs::write(dir.path().join("other"), "").unwrap();
        let file = File::open(dir.path().join("other")).unwrap();
        let log = with_file(&config, file.into()).await;
        let mut producer = log.transactions("p").await.unwrap();
        let error = log.append(record("lost")).unwrap().await.unwrap_err();
        assert!(matches!(&error, LogError::Fatal(_)) && !error.is_retriable(), "{error}");
        assert!(matches!(log.append(record("refused")).map(drop), Err(LogError::Fatal(_))));
        assert!(producer.commit(vec![record("refused")], None, &[]).await.is_err());
        assert!(matches!(log.ready().await, Err(LogError::Fatal(_))));
        let high = log.watermarks(&TopicPartition::new("t", 0)).await.unwrap().high;
        assert_eq!(high.0, 1, "the failed record is visible");
    }

    /// Scenario: writing works but `fdatasync` fails (here: /dev/null, which cannot be synced). Guarantee:
    /// as above; the kernel may have dropped the pages, so a second sync that succeeds proves nothing.
    #[tokio::test]
    async fn a_failed_sync_stops_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { dir: dir.path().to_owned(), reserve_bytes: 0, ..Config::default() };
        // /dev/null takes positioned writes and refuses to be synced.
        let file = OpenOptions::new().write(true).open("/dev/null").unwrap();
        assert!(file.sync_data().is_err(), "this system syncs /dev/null");
        let log = with_file(&config, file.into()).await;
        let mut producer = log.transactions("p").await.unwrap();
        let error = producer.commit(vec![record("lost")], None, &[]).await.unwrap_err();
        assert!(matches!(&error, LogError::Ambiguous(_)), "{error}");
        assert!(matches!(log.append(record("refused")).map(drop), Err(LogError::Fatal(_))));
        let high = log.watermarks(&TopicPartition::new("t", 0)).await.unwrap().high;
        assert_eq!(high.0, 1, "a record that may not be durable is visible");
    }
}
