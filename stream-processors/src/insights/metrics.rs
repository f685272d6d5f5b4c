//! What the second stage says about itself.

use std::sync::Arc;

use infertrace_runtime::telemetry::{MetricsRegistry, RoleLag};
use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram};

use crate::metrics::ReasonLabels;

#[derive(Clone, Debug)]
pub(super) struct Metrics {
    pub(super) lag: RoleLag,
    pub(super) records: Counter,
    pub(super) partials: Counter,
    pub(super) windows: Counter,
    outputs: Family<[(&'static str, &'static str); 1], Counter>,
    pub(super) repeated: Counter,
    pub(super) dead_letters: Counter,
    pub(super) lost_records: Counter,
    pub(super) snapshots: Counter,
    pub(super) snapshot_bytes: Gauge,
    restarts: Family<ReasonLabels, Counter>,
    pub(super) commit_failures: Counter,
    pub(super) window_delay_seconds: Histogram,
    pub(super) transaction_seconds: Histogram,
    pub(super) restore_seconds: Histogram,
    restored_partitions: Family<[(&'static str, &'static str); 1], Counter>,
    restored_records: Family<[(&'static str, &'static str); 1], Counter>,
    pub(super) standby_partitions: Gauge,
    pub(super) standby: StandbyProgress,
}

type ByPartition = Family<[(&'static str, u32); 1], Gauge>;

/// How far the copies of a standby are, by partition.
#[derive(Clone, Debug, Default)]
pub(super) struct StandbyProgress {
    position: ByPartition,
    lag: ByPartition,
}

impl StandbyProgress {
    /// The copy's next record, and how many the owner has committed from there on.
    pub(super) fn set(&self, partition: u32, position: u64, lag: u64) {
        for (family, value) in [(&self.position, position), (&self.lag, lag)] {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            family.get_or_create(&[("partition", partition)]).set(value);
        }
    }

    /// Forgets a partition of which there is no copy any more.
    pub(super) fn remove(&self, partition: u32) {
        for family in [&self.position, &self.lag] {
            family.remove(&[("partition", partition)]);
        }
    }
}

impl Metrics {
    pub(super) fn new(registry: &mut MetricsRegistry) -> Arc<Self> {
        let seconds = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];
        let metrics = Self {
            lag: registry.consumer_lag("insights"),
            records: Counter::default(),
            partials: Counter::default(),
            windows: Counter::default(),
            outputs: Family::default(),
            repeated: Counter::default(),
            dead_letters: Counter::default(),
            lost_records: Counter::default(),
            snapshots: Counter::default(),
            snapshot_bytes: Gauge::default(),
            restarts: Family::default(),
            commit_failures: Counter::default(),
            window_delay_seconds: Histogram::new(seconds),
            transaction_seconds: Histogram::new(seconds),
            restore_seconds: Histogram::new(seconds),
            restored_partitions: Family::default(),
            restored_records: Family::default(),
            standby_partitions: Gauge::default(),
            standby: StandbyProgress::default(),
        };
        let m = &metrics;
        let registry = registry.sub_registry_with_prefix("insights");
        registry.register("records", "Records of partials read", m.records.clone());
        registry.register("partials", "Cells merged", m.partials.clone());
        registry.register("windows", "Windows closed", m.windows.clone());
        registry.register("outputs", "Records made: rollup, baseline, insight", m.outputs.clone());
        registry.register("repeated_windows", "Windows closed again after a restart", m.repeated.clone());
        registry.register("dead_letters", "Records moved to the dead-letter topic", m.dead_letters.clone());
        registry.register("lost_records", "Partials that retention removed unread", m.lost_records.clone());
        registry.register("snapshots", "Snapshots written", m.snapshots.clone());
        registry.register("snapshot_bytes", "Size of the last snapshot", m.snapshot_bytes.clone());
        registry.register("restarts", "Restarts from committed offsets", m.restarts.clone());
        registry.register("commit_failures", "Transactions to be tried again", m.commit_failures.clone());
        registry.register(
            "window_delay_seconds",
            "From a window's end to its outputs being committed, of windows that ended since the start",
            m.window_delay_seconds.clone(),
        );
        registry.register("transaction_seconds", "Duration of transactions", m.transaction_seconds.clone());
        registry.register("restore_seconds", "Duration of restoring a partition", m.restore_seconds.clone());
        registry.register(
            "restored_partitions",
            "Partitions taken over, by what they were restored from: nothing, snapshot, standby",
            m.restored_partitions.clone(),
        );
        registry.register(
            "restored_records",
            "Partials before the committed position that were read again for it",
            m.restored_records.clone(),
        );
        registry.register(
            "standby_partitions",
            "Partitions of other members of which a copy is kept",
            m.standby_partitions.clone(),
        );
        registry.register(
            "standby_lag_records",
            "Partials that a partition's owner has committed and the copy has not taken",
            m.standby.lag.clone(),
        );
        registry.register(
            "standby_position",
            "Offset of the next partials that the copy of a partition takes",
            m.standby.position.clone(),
        );
        Arc::new(metrics)
    }

    pub(super) fn output(&self, kind: &'static str) {
        self.outputs.get_or_create(&[("kind", kind)]).inc();
    }

    /// A partition was taken over; so many records below its committed position are read again.
    pub(super) fn restored(&self, from: &'static str, records: u64) {
        self.restored_partitions.get_or_create(&[("from", from)]).inc();
        self.restored_records.get_or_create(&[("from", from)]).inc_by(records);
    }

    pub(super) fn restarted(&self, reason: &'static str) {
        self.restarts.get_or_create(&ReasonLabels { reason }).inc();
    }
}
