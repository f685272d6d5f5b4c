//! The hot tier in this process: segments of Arrow columns, replaced as a whole and read without locks.
//!
//! One [`Writer`] (the feed's) appends, merges small segments and evicts; readers take the current
//! [`Snapshot`]. Invariants: bytes stay within the limit (plus the batch being read); segments stand in
//! the order of the log and the thinned ones come first; coverage only says what the segments hold.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use ahash::RandomState;
use arrow::{
    array::Array,
    error::ArrowError,
    record_batch::{RecordBatch, RecordBatchOptions},
};
use async_trait::async_trait;
use hashbrown::HashSet;
use infertrace_runtime::clock::Clock;
use infertrace_schemas::{
    dedup::Dedup,
    reader::{Position, SpanReader},
    record::batch_id_of,
};
use parking_lot::{Mutex, RwLock};
use tokio::sync::broadcast;

use super::{
    Coverage, HotBatch, HotError, HotPartition, HotStatus, HotTier, HotView, NameCounts, Rows, Touched,
    TraceId,
    segment::{Origin, Segment},
};
use crate::{config::HotConfig, metrics::HotMetrics};

/// Traces named to live listeners per publication; the rest is counted.
const TOUCHED_LIMIT: usize = 128;
/// Neighbours that are merged at once, so that a span is copied once per power of it.
const MERGE_FAN: usize = 8;

/// Segments and coverage that belong together.
#[derive(Debug)]
pub struct Snapshot {
    segments: Vec<Arc<Segment>>,
    coverage: Coverage,
    hasher: RandomState,
}

#[async_trait]
impl HotView for Snapshot {
    fn coverage(&self) -> &Coverage {
        &self.coverage
    }

    async fn lookup(&self, ids: &[TraceId]) -> Result<Vec<Rows>, HotError> {
        let mut found = Vec::new();
        for segment in &self.segments {
            let mut rows: Vec<u32> = ids.iter().flat_map(|id| segment.rows(id, &self.hasher)).collect();
            if rows.is_empty() {
                continue;
            }
            rows.sort_unstable();
            found.push(Rows { batch: segment.batch.clone(), rows });
        }
        Ok(found)
    }

    async fn batches(&self, from_ns: i64, to_ns: i64) -> Result<Vec<HotBatch>, HotError> {
        let within =
            |segment: &&Arc<Segment>| segment.min_start_ns <= to_ns && segment.max_start_ns >= from_ns;
        let batch = |segment: &Arc<Segment>| HotBatch {
            batch: segment.batch.clone(),
            max_start_ns: segment.max_start_ns,
        };
        Ok(self.segments.iter().filter(within).map(batch).collect())
    }

    async fn names(&self) -> Result<NameCounts, HotError> {
        let mut counts = NameCounts::default();
        for segment in &self.segments {
            counts.merge(segment.names());
        }
        Ok(counts)
    }
}

/// The tier in this process.
pub struct MemoryTier {
    snapshot: RwLock<Arc<Snapshot>>,
    status: Mutex<HotStatus>,
    touched: broadcast::Sender<Arc<Touched>>,
}

impl MemoryTier {
    /// An empty tier and its only writer.
    #[must_use]
    pub fn new(config: HotConfig, clock: Arc<dyn Clock>, metrics: HotMetrics) -> (Arc<Self>, Writer) {
        let hasher = RandomState::new();
        let snapshot =
            Snapshot { segments: Vec::new(), coverage: Coverage::default(), hasher: hasher.clone() };
        let status =
            HotStatus { max_bytes: config.max_bytes, window_ms: config.window_ms, ..HotStatus::default() };
        let tier = Arc::new(Self {
            snapshot: RwLock::new(Arc::new(snapshot)),
            status: Mutex::new(status),
            touched: broadcast::channel(64).0,
        });
        let writer = Writer {
            tier: Arc::clone(&tier),
            reader: SpanReader::new(),
            pending: BTreeMap::new(),
            pending_ms: None,
            segments: Vec::new(),
            coverage: Coverage::default(),
            dedup: BTreeMap::new(),
            status: HotStatus::default(),
            hasher,
            config,
            clock,
            metrics,
        };
        (tier, writer)
    }

    /// The state now, for callers in this process.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read())
    }

    pub(crate) fn set_feed_error(&self, error: Option<String>) {
        self.status.lock().feed_error = error;
    }
}

#[async_trait]
impl HotTier for MemoryTier {
    async fn view(&self) -> Result<Arc<dyn HotView>, HotError> {
        Ok(self.snapshot())
    }

    fn status(&self) -> HotStatus {
        self.status.lock().clone()
    }

    fn subscribe(&self) -> broadcast::Receiver<Arc<Touched>> {
        self.touched.subscribe()
    }
}

/// Fills a [`MemoryTier`]; one task owns it.
pub struct Writer {
    tier: Arc<MemoryTier>,
    reader: SpanReader,
    /// Offsets read since the last publication.
    pending: BTreeMap<i32, Range<i64>>,
    /// Oldest and newest record since then.
    pending_ms: Option<(i64, i64)>,
    segments: Vec<Arc<Segment>>,
    coverage: Coverage,
    dedup: BTreeMap<i32, Dedup>,
    status: HotStatus,
    hasher: RandomState,
    config: HotConfig,
    clock: Arc<dyn Clock>,
    metrics: HotMetrics,
}

impl Writer {
    /// The tier it fills.
    #[must_use]
    pub fn tier(&self) -> &Arc<MemoryTier> {
        &self.tier
    }

    /// Says that reading of `partition` begins, or begins anew, at `offset`: what lies before is not
    /// complete here.
    pub fn start(&mut self, partition: i32, offset: i64) {
        self.publish();
        self.coverage.0.insert(partition, offset..offset);
    }

    /// Takes one record. A record that cannot be opened is counted and passed over; the sink reports it.
    pub fn push(&mut self, partition: i32, offset: i64, timestamp_ms: i64, payload: &[u8]) {
        let range = self.pending.entry(partition).or_insert(offset..offset);
        range.end = range.end.max(offset + 1);
        // A clock that runs ahead must not keep a segment alive for longer than the window.
        let time = timestamp_ms.min(self.clock.now_unix_millis());
        self.pending_ms = Some(match self.pending_ms {
            Some((oldest, newest)) => (oldest.min(time), newest.max(time)),
            None => (time, time),
        });
        let dedup = self.dedup.entry(partition).or_insert_with(|| Dedup::new(self.config.dedup_batches));
        let id = batch_id_of(payload);
        if id.is_some_and(|id| dedup.contains(&id)) {
            self.status.duplicate_records += 1;
            self.metrics.records.get_or_create(&[("outcome", "duplicate")]).inc();
            return;
        }
        match self.reader.push(payload, Position { partition, offset }) {
            Ok(pushed) => {
                // Only a batch that was read counts as seen: a poison record may be sent back.
                dedup.admit(id);
                self.status.rejected_spans += pushed.rejected as u64;
                self.metrics.records.get_or_create(&[("outcome", "read")]).inc();
            }
            Err(error) => {
                tracing::debug!(partition, offset, %error, "record passed over in the hot tier");
                self.status.poison_records += 1;
                self.metrics.records.get_or_create(&[("outcome", "poison")]).inc();
            }
        }
    }

    /// Spans read and not yet visible.
    #[must_use]
    pub fn pending_spans(&self) -> usize {
        self.reader.len()
    }

    /// Whether records were read since the last publication.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Notes the end of a partition, for the lag.
    pub fn set_end(&mut self, partition: i32, end: i64) {
        let next = self.coverage.of(partition).end;
        let lag = (end - next).max(0);
        let newest_ms = self.status.newest_record_ms;
        let age_ms = if lag == 0 || newest_ms == 0 { 0 } else { self.clock.now_unix_millis() - newest_ms };
        self.metrics.lag.set(partition as u32, lag as u64, age_ms.max(0) as f64 / 1_000.0);
        let entry = self.status.partitions.iter_mut().find(|known| known.partition == partition);
        match entry {
            Some(entry) => entry.lag_records = lag,
            None => self.status.partitions.push(HotPartition {
                partition,
                lag_records: lag,
                ..Default::default()
            }),
        }
        self.share_status();
    }

    /// Makes what was read visible, merges small segments, evicts what is too old or too much.
    pub fn publish(&mut self) {
        let mut touched = None;
        if !self.pending.is_empty() {
            touched = self.seal();
            self.merge_small();
        }
        let evicted = self.evict();
        if touched.is_none() && !evicted && self.pending.is_empty() && !self.coverage_changed() {
            return;
        }
        let snapshot = Snapshot {
            segments: self.segments.clone(),
            coverage: self.coverage.clone(),
            hasher: self.hasher.clone(),
        };
        *self.tier.snapshot.write() = Arc::new(snapshot);
        self.share_status();
        if let Some(touched) = touched.filter(|touched| !touched.ids.is_empty()) {
            // Nobody listening is fine.
            let _ = self.tier.touched.send(Arc::new(touched));
        }
    }

    fn coverage_changed(&self) -> bool {
        self.tier.snapshot.read().coverage != self.coverage
    }

    /// Turns what was read into a segment; names its traces when somebody listens.
    fn seal(&mut self) -> Option<Touched> {
        let pending = std::mem::take(&mut self.pending);
        let (oldest_ms, newest_ms) = self.pending_ms.take().unwrap_or_default();
        for (&partition, range) in &pending {
            let held = self.coverage.0.entry(partition).or_insert(range.start..range.start);
            held.end = held.end.max(range.end);
        }
        self.status.newest_record_ms = self.status.newest_record_ms.max(newest_ms);
        if self.reader.is_empty() {
            return Some(Touched::default());
        }
        let batch = shrunk(self.reader.finish());
        let origin = Origin { ranges: pending.into_iter().collect(), oldest_ms, newest_ms };
        let segment = Segment::new(batch, origin, false, &self.hasher);
        let touched = if self.tier.touched.receiver_count() > 0 {
            let (ids, skipped) = segment.newest_traces(TOUCHED_LIMIT);
            Touched { ids, skipped }
        } else {
            Touched::default()
        };
        self.segments.push(Arc::new(segment));
        Some(touched)
    }

    /// Merges the latest segments while there are many small ones, as a log-structured tree does.
    fn merge_small(&mut self) {
        let longest_ms = (self.config.window_ms / 8) as i64;
        loop {
            let Some(newest) = self.segments.last() else { return };
            let size_class = newest.len().max(1).ilog(MERGE_FAN);
            let mut spans = 0;
            let alike = self
                .segments
                .iter()
                .rev()
                .take_while(|segment| {
                    spans += segment.len();
                    !segment.thinned
                        && segment.len().max(1).ilog(MERGE_FAN) <= size_class
                        && spans <= self.config.segment_spans
                        && newest.newest_ms - segment.oldest_ms <= longest_ms
                })
                .count();
            if alike < MERGE_FAN {
                return;
            }
            let parts = &self.segments[self.segments.len() - alike..];
            match Segment::merge(parts, &self.hasher) {
                Ok(merged) => {
                    self.segments.truncate(self.segments.len() - alike);
                    self.segments.push(Arc::new(merged));
                }
                Err(error) => {
                    tracing::warn!(%error, "segments of the hot tier stay apart");
                    return;
                }
            }
        }
    }

    fn bytes(&self) -> usize {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    fn evict(&mut self) -> bool {
        let before = self.segments.len();
        let horizon = self.clock.now_unix_millis() - self.config.window_ms as i64;
        while self.segments.first().is_some_and(|oldest| oldest.newest_ms < horizon) {
            let gone = self.segments.remove(0);
            self.uncover(&gone);
            self.count_evicted("age", gone.len());
        }
        let mut changed = before != self.segments.len();
        let mut bytes = self.bytes();
        while bytes > self.config.max_bytes && !self.segments.is_empty() {
            changed = true;
            if let Err(error) = self.evict_one() {
                tracing::warn!(%error, "a segment of the hot tier could not be thinned and was dropped");
                let gone = self.segments.remove(0);
                self.uncover(&gone);
            }
            bytes = self.bytes();
        }
        changed
    }

    /// One step towards the limit: drops the oldest thinned segment when these have more than their share,
    /// else takes the plain traces out of the oldest complete one.
    fn evict_one(&mut self) -> Result<(), ArrowError> {
        let thinned = self.segments.iter().take_while(|segment| segment.thinned).count();
        let thinned_bytes: usize = self.segments[..thinned].iter().map(|segment| segment.bytes).sum();
        let share = (self.config.max_bytes as f64 * self.config.important_share.clamp(0.0, 1.0)) as usize;
        if thinned > 0 && (thinned_bytes > share || thinned == self.segments.len()) {
            let gone = self.segments.remove(0);
            self.count_evicted("memory_error", gone.len());
            return Ok(());
        }
        let failed: HashSet<u64> =
            self.segments.iter().flat_map(|segment| segment.errors().iter().copied()).collect();
        let oldest = Arc::clone(&self.segments[thinned]);
        let rest = oldest.thin(&failed, &self.hasher)?;
        self.uncover(&oldest);
        self.count_evicted("memory_plain", oldest.len() - rest.len());
        if rest.is_empty() {
            self.segments.remove(thinned);
        } else if rest.bytes >= oldest.bytes {
            // Nothing plain was in it: it goes as it is.
            self.segments.remove(thinned);
            self.count_evicted("memory_error", rest.len());
        } else {
            self.segments[thinned] = Arc::new(rest);
        }
        Ok(())
    }

    /// What lies before the end of `gone` is no longer complete.
    fn uncover(&mut self, gone: &Segment) {
        for (partition, range) in &gone.ranges {
            if let Some(held) = self.coverage.0.get_mut(partition) {
                held.start = held.start.max(range.end).min(held.end);
            }
        }
    }

    fn count_evicted(&mut self, reason: &'static str, spans: usize) {
        let spans = spans as u64;
        match reason {
            "age" => self.status.evicted.aged_spans += spans,
            "memory_plain" => self.status.evicted.plain_spans += spans,
            _ => self.status.evicted.error_spans += spans,
        }
        self.metrics.evicted.get_or_create(&[("reason", reason)]).inc_by(spans);
    }

    fn share_status(&mut self) {
        let spans: usize = self.segments.iter().map(|segment| segment.len()).sum();
        let bytes = self.bytes();
        self.metrics.spans.set(spans as i64);
        self.metrics.bytes.set(bytes as i64);
        for (&partition, held) in &self.coverage.0 {
            let index = self.status.partitions.iter().position(|known| known.partition == partition);
            let index = index.unwrap_or_else(|| {
                self.status.partitions.push(HotPartition { partition, ..Default::default() });
                self.status.partitions.len() - 1
            });
            let entry = &mut self.status.partitions[index];
            (entry.from_offset, entry.next_offset) = (held.start, held.end);
        }
        let mut shared = self.tier.status.lock();
        let feed_error = shared.feed_error.take();
        *shared = HotStatus {
            spans: spans as u64,
            segments: self.segments.len(),
            bytes,
            max_bytes: self.config.max_bytes,
            window_ms: self.config.window_ms,
            feed_error,
            ..self.status.clone()
        };
    }
}

/// `batch` without room for more: the reader keeps room for a batch as large as the last one.
fn shrunk(batch: RecordBatch) -> RecordBatch {
    let (schema, mut columns, rows) = batch.into_parts();
    for column in &mut columns {
        column.shrink_to_fit();
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema, columns, &options).expect("the columns are those of a batch")
}

#[cfg(test)]
mod tests;
