//! Insights, baselines and rollups in memory: what the processors published, and what people decided about the insights, read
//! back from the log.
//!
//! [`feed`] reads four topics with one consumer and no group; [`store`], [`baselines`] and [`rollups`] hold what it
//! read, each inside its own bytes; [`Insights`] is what the rest of this crate sees. Invariants: a higher revision
//! replaces a lower one and never the other way round; positions in the log name a state of the store, so that a
//! client that lost its stream is told exactly what changed meanwhile; a record that cannot be read is counted and
//! costs only itself.

pub mod baselines;
pub mod cursor;
pub mod feed;
mod positions;
pub mod rollups;
pub mod store;

use std::{collections::BTreeMap, sync::Arc};

use infertrace_runtime::log::Record;
use infertrace_schemas::avro::{AvroError, Baseline, Insight, Rollup, SchemaIds, Triage};
use infertrace_schemas::topics;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use serde::Serialize;
use tokio::sync::broadcast;

use crate::{config::InsightsConfig, metrics::InsightMetrics};
use baselines::Baselines;
use rollups::{Rollups, UnusableRollup};
use store::{Held, Place, Positions, Store};

/// Changes that a slow listener may fall behind; past it the listener reads the store again.
const BUFFERED_CHANGES: usize = 256;

/// Everything read back from the processors' topics.
pub struct Insights {
    config: InsightsConfig,
    store: RwLock<Store>,
    rollups: RwLock<Rollups>,
    baselines: RwLock<Baselines>,
    changes: broadcast::Sender<Arc<Held>>,
    state: Mutex<FeedState>,
    insight_ids: SchemaIds,
    rollup_ids: SchemaIds,
    baseline_ids: SchemaIds,
    triage_ids: SchemaIds,
    metrics: InsightMetrics,
}

/// How reading goes.
#[derive(Default)]
struct FeedState {
    error: Option<String>,
    poison: u64,
    partitions: BTreeMap<(&'static str, u32), PartitionState>,
}

#[derive(Clone, Copy, Default)]
struct PartitionState {
    next: u64,
    end: u64,
    newest_ms: i64,
}

/// Figures for the status page.
#[derive(Clone, Debug, Serialize)]
pub struct InsightsStatus {
    /// Insights held.
    pub insights: usize,
    /// Of them not resolved.
    pub open: usize,
    /// Memory of insights, about.
    pub insight_bytes: usize,
    /// Insights that left for lack of memory.
    pub evicted_insights: u64,
    /// Baselines held.
    pub baselines: usize,
    /// Memory of baselines, about.
    pub baseline_bytes: usize,
    /// Rollups held: keys times windows.
    pub rollups: usize,
    /// Memory of rollups, about.
    pub rollup_bytes: usize,
    /// Records that could not be read.
    pub poison_records: u64,
    /// The last error if the topics are not being read.
    pub feed_error: Option<String>,
    /// By topic and partition.
    pub partitions: Vec<PartitionStatus>,
}

/// How far one partition is read.
#[derive(Clone, Debug, Serialize)]
pub struct PartitionStatus {
    /// Topic.
    pub topic: &'static str,
    /// Partition.
    pub partition: u32,
    /// Next offset to read.
    pub next_offset: u64,
    /// Records in the log that were not read yet, when last looked.
    pub lag_records: u64,
}

/// Why a record was left out.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("empty record")]
    Empty,
    #[error(transparent)]
    Avro(#[from] AvroError),
    #[error(transparent)]
    Rollup(#[from] UnusableRollup),
    #[error("an insight, or a decision about one, without an id")]
    NoId,
}

impl Insights {
    /// An empty one.
    #[must_use]
    pub fn new(config: InsightsConfig, metrics: InsightMetrics) -> Self {
        Self {
            store: RwLock::new(Store::default()),
            rollups: RwLock::new(Rollups::default()),
            baselines: RwLock::new(Baselines::default()),
            changes: broadcast::channel(BUFFERED_CHANGES).0,
            state: Mutex::default(),
            insight_ids: SchemaIds::current::<Insight>(),
            rollup_ids: SchemaIds::current::<Rollup>(),
            baseline_ids: SchemaIds::current::<Baseline>(),
            triage_ids: SchemaIds::current::<Triage>(),
            config,
            metrics,
        }
    }

    /// The insights now. Hold it briefly: the feed waits.
    pub fn read(&self) -> RwLockReadGuard<'_, Store> {
        self.store.read()
    }

    /// The rollups now.
    pub fn rollups(&self) -> RwLockReadGuard<'_, Rollups> {
        self.rollups.read()
    }

    /// The baselines now.
    pub fn baselines(&self) -> RwLockReadGuard<'_, Baselines> {
        self.baselines.read()
    }

    /// What changed since `since`, oldest first, and every change from then on: nothing between is lost or doubled.
    /// Without `since` only what comes. The positions name the state that the first part leads to.
    pub fn follow(
        &self,
        since: Option<&Positions>,
    ) -> (Vec<Arc<Held>>, Positions, broadcast::Receiver<Arc<Held>>) {
        // Under the lock the writer neither stores nor sends.
        let store = self.store.read();
        let missed = since.map(|since| store.changed_since(since)).unwrap_or_default();
        (missed, store.positions().clone(), self.changes.subscribe())
    }

    /// Takes one record in. What cannot be read is counted and logged, and that is all.
    pub fn take(&self, topic: &str, record: &Record) {
        let (partition, offset, time_ms) = (record.from.partition, record.offset.0, record.timestamp.0);
        let payload = record.payload.as_deref();
        let place = Place { partition, offset };
        let taken = match (topic, payload) {
            (topics::INSIGHTS, Some(payload)) => self.take_insight(place, time_ms, payload),
            (topics::TRIAGE, payload) => self.take_triage(offset, record.key.as_deref(), payload),
            (topics::BASELINES, Some(payload)) => self.take_baseline(payload),
            (topics::ROLLUPS, Some(payload)) => self.take_rollup(payload),
            // Compaction's tombstone: what it forgets leaves by age or with the next start.
            (topics::BASELINES, None) => Ok("tombstone"),
            _ => Err(Unusable::Empty),
        };
        if topic == topics::INSIGHTS {
            self.store.write().moved_to(place);
        }
        let outcome = taken.unwrap_or_else(|error| {
            tracing::warn!(%error, topic, partition, offset, "a record could not be read, going on");
            self.state.lock().poison += 1;
            "poison"
        });
        let labels = [("topic", topic.to_owned()), ("outcome", outcome.to_owned())];
        self.metrics.records.get_or_create(&labels).inc();
    }

    /// Asks the registry, if one is used, for the schema of a record whose id came up after the start.
    pub async fn learn_of(&self, topic: &str, payload: Option<&[u8]>) {
        let ids = match topic {
            topics::INSIGHTS => &self.insight_ids,
            topics::ROLLUPS => &self.rollup_ids,
            topics::BASELINES => &self.baseline_ids,
            topics::TRIAGE => &self.triage_ids,
            _ => return,
        };
        if let Err(error) = ids.learn_of(payload.unwrap_or_default()).await {
            tracing::warn!(%error, topic, "the schema of a record is not known");
        }
    }

    fn take_insight(&self, place: Place, time_ms: i64, payload: &[u8]) -> Result<&'static str, Unusable> {
        let insight: Insight = self.insight_ids.decode(payload)?;
        if insight.id.is_empty() {
            return Err(Unusable::NoId);
        }
        let mut store = self.store.write();
        let Some(held) = store.apply(insight, place, time_ms, payload.len()) else { return Ok("stale") };
        store.shrink_to(self.config.max_bytes);
        // Nobody listening is fine.
        let _ = self.changes.send(held);
        Ok("read")
    }

    fn take_triage(
        &self,
        offset: u64,
        key: Option<&[u8]>,
        payload: Option<&[u8]>,
    ) -> Result<&'static str, Unusable> {
        let id = key.and_then(|key| std::str::from_utf8(key).ok()).ok_or(Unusable::NoId)?;
        let triage = payload.map(|payload| self.triage_ids.decode::<Triage>(payload)).transpose()?;
        let mut store = self.store.write();
        if let Some(held) = store.decide(id, offset, triage) {
            let _ = self.changes.send(held);
        }
        Ok("read")
    }

    fn take_baseline(&self, payload: &[u8]) -> Result<&'static str, Unusable> {
        let baseline: Baseline = self.baseline_ids.decode(payload)?;
        self.baselines.write().apply(baseline, self.config.baseline_max_bytes);
        Ok("read")
    }

    fn take_rollup(&self, payload: &[u8]) -> Result<&'static str, Unusable> {
        let rollup: Rollup = self.rollup_ids.decode(payload)?;
        self.rollups.write().apply(rollup, self.config.rollup_max_bytes)?;
        Ok("read")
    }

    /// Lets go of what is too old.
    pub fn forget_before(&self, now_ms: i64) {
        let age = |window_ms: u64| now_ms.saturating_sub(i64::try_from(window_ms).unwrap_or(i64::MAX));
        self.store.write().forget_before(age(self.config.window_ms));
        self.rollups.write().forget_before(age(self.config.rollup_window_ms));
        let store = self.store.read();
        let gauges = [
            ("insights", store.len()),
            ("open_insights", store.open()),
            ("baselines", self.baselines.read().len()),
            ("rollups", self.rollups.read().len()),
        ];
        for (what, count) in gauges {
            self.metrics.held.get_or_create(&[("what", what)]).set(count as i64);
        }
    }

    fn set_error(&self, error: Option<String>) {
        self.state.lock().error = error;
    }

    /// Why the topics are not being read, if they are not.
    #[must_use]
    pub fn feed_error(&self) -> Option<String> {
        self.state.lock().error.clone()
    }

    fn reached(&self, topic: &'static str, partition: u32, next: u64, newest_ms: Option<i64>) {
        let mut state = self.state.lock();
        let held = state.partitions.entry((topic, partition)).or_default();
        held.next = next;
        held.newest_ms = newest_ms.unwrap_or(held.newest_ms);
    }

    fn set_end(&self, topic: &'static str, partition: u32, end: u64, now_ms: i64) {
        let mut state = self.state.lock();
        let held = state.partitions.entry((topic, partition)).or_default();
        held.end = end;
        let lag = end.saturating_sub(held.next);
        if topic == topics::INSIGHTS {
            let behind_ms = if lag == 0 || held.newest_ms == 0 { 0 } else { now_ms - held.newest_ms };
            self.metrics.lag.set(partition, lag, behind_ms.max(0) as f64 / 1_000.0);
        }
    }

    /// Figures for the status page.
    #[must_use]
    pub fn status(&self) -> InsightsStatus {
        let (store, rollups, baselines) = (self.read(), self.rollups(), self.baselines());
        let state = self.state.lock();
        let partition = |(&(topic, partition), held): (&(&'static str, u32), &PartitionState)| {
            let lag_records = held.end.saturating_sub(held.next);
            PartitionStatus { topic, partition, next_offset: held.next, lag_records }
        };
        InsightsStatus {
            insights: store.len(),
            open: store.open(),
            insight_bytes: store.bytes(),
            evicted_insights: store.evicted(),
            baselines: baselines.len(),
            baseline_bytes: baselines.bytes(),
            rollups: rollups.len(),
            rollup_bytes: rollups.bytes(),
            poison_records: state.poison,
            feed_error: state.error.clone(),
            partitions: state.partitions.iter().map(partition).collect(),
        }
    }
}
