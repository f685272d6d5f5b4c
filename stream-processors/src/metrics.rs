//! What the processor says about itself.

use std::sync::Arc;

use infertrace_runtime::telemetry::{MetricsRegistry, RoleLag};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// A reason.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ReasonLabels {
    pub(crate) reason: &'static str,
}

/// Of rollups of spans and traces, or of samples.
#[derive(Clone, Debug, Default)]
pub(crate) struct RollupMetrics {
    pub(crate) cells: Gauge,
    pub(crate) keys: Gauge,
    pub(crate) bytes: Gauge,
    pub(crate) folded: Counter,
    pub(crate) late: Counter,
    pub(crate) partials: Counter,
}

impl RollupMetrics {
    fn register(&self, registry: &mut Registry) {
        registry.register("rollup_cells", "Cells that wait to be flushed", self.cells.clone());
        registry.register("rollup_keys", "Distinct keys of a window", self.keys.clone());
        registry.register("rollup_bytes", "Memory that cells take", self.bytes.clone());
        let help = "Spans, traces and readings counted under model _other, since there were too many keys";
        registry.register("rollup_folded", help, self.folded.clone());
        registry.register("rollup_late", "What was counted after its window was closed", self.late.clone());
        registry.register("rollup_partials", "Cells written for the second stage", self.partials.clone());
    }
}

/// Of GPU and engine samples.
#[derive(Clone, Debug)]
pub(crate) struct SampleMetrics {
    pub(crate) lag: RoleLag,
    pub(crate) records: Counter,
    pub(crate) readings: Counter,
    pub(crate) ignored: Counter,
    pub(crate) lost_records: Counter,
    pub(crate) series: Gauge,
    pub(crate) series_refused: Counter,
    pub(crate) rollups: RollupMetrics,
}

impl SampleMetrics {
    fn new(registry: &mut MetricsRegistry) -> Self {
        let metrics = Self {
            lag: registry.consumer_lag("samples"),
            records: Counter::default(),
            readings: Counter::default(),
            ignored: Counter::default(),
            lost_records: Counter::default(),
            series: Gauge::default(),
            series_refused: Counter::default(),
            rollups: RollupMetrics::default(),
        };
        let m = &metrics;
        let registry = registry.sub_registry_with_prefix("samples");
        registry.register("records", "Records of samples read", m.records.clone());
        registry.register("readings", "Readings in them", m.readings.clone());
        registry.register("ignored", "Readings of which nothing is counted", m.ignored.clone());
        registry.register("lost_records", "Records that retention removed unread", m.lost_records.clone());
        registry.register("series", "Cumulative series followed", m.series.clone());
        let help = "Readings of cumulative series that were not followed, since there were too many";
        registry.register("series_refused", help, m.series_refused.clone());
        m.rollups.register(registry);
        metrics
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pub(crate) lag: RoleLag,
    pub(crate) records: Counter,
    pub(crate) duplicate_batches: Counter,
    pub(crate) spans: Counter,
    pub(crate) duplicate_spans: Counter,
    pub(crate) late_spans: Counter,
    pub(crate) rejected_spans: Family<ReasonLabels, Counter>,
    pub(crate) closed_traces: Family<ReasonLabels, Counter>,
    pub(crate) corrections: Counter,
    pub(crate) suppressed: Counter,
    pub(crate) evictions: Counter,
    pub(crate) forgotten_early: Counter,
    pub(crate) dead_letters: Counter,
    pub(crate) lost_records: Counter,
    pub(crate) restarts: Family<ReasonLabels, Counter>,
    pub(crate) commit_failures: Counter,
    pub(crate) transaction_seconds: Histogram,
    pub(crate) restore_seconds: Histogram,
    pub(crate) open_traces: Gauge,
    pub(crate) held_traces: Gauge,
    pub(crate) state_bytes: Gauge,
    pub(crate) paused: Gauge,
    pub(crate) rollups: RollupMetrics,
    pub(crate) samples: SampleMetrics,
}

impl Metrics {
    /// Registers everything; `registry` adds the prefix `infertrace_`.
    pub(crate) fn new(registry: &mut MetricsRegistry) -> Arc<Self> {
        let seconds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
        let metrics = Self {
            lag: registry.consumer_lag("processor"),
            records: Counter::default(),
            duplicate_batches: Counter::default(),
            spans: Counter::default(),
            duplicate_spans: Counter::default(),
            late_spans: Counter::default(),
            rejected_spans: Family::default(),
            closed_traces: Family::default(),
            corrections: Counter::default(),
            suppressed: Counter::default(),
            evictions: Counter::default(),
            forgotten_early: Counter::default(),
            dead_letters: Counter::default(),
            lost_records: Counter::default(),
            restarts: Family::default(),
            commit_failures: Counter::default(),
            transaction_seconds: Histogram::new(seconds),
            restore_seconds: Histogram::new(seconds),
            open_traces: Gauge::default(),
            held_traces: Gauge::default(),
            state_bytes: Gauge::default(),
            paused: Gauge::default(),
            rollups: RollupMetrics::default(),
            samples: SampleMetrics::new(registry),
        };
        let m = &metrics;
        let registry = registry.sub_registry_with_prefix("processor");
        registry.register("records", "Records read", m.records.clone());
        registry.register(
            "duplicate_batches",
            "Records dropped as a client's retry",
            m.duplicate_batches.clone(),
        );
        registry.register("spans", "Spans taken into assembly", m.spans.clone());
        registry.register("duplicate_spans", "Spans that were there already", m.duplicate_spans.clone());
        registry.register("late_spans", "Spans of traces that were closed", m.late_spans.clone());
        registry.register("rejected_spans", "Spans that cannot be read", m.rejected_spans.clone());
        registry.register(
            "traces_closed",
            "Summaries made, by what closed the trace",
            m.closed_traces.clone(),
        );
        registry.register("trace_corrections", "Summaries above version 1", m.corrections.clone());
        registry.register(
            "summaries_suppressed",
            "Summaries that an earlier run wrote",
            m.suppressed.clone(),
        );
        registry.register("traces_evicted", "Open traces closed for memory", m.evictions.clone());
        registry.register(
            "traces_forgotten_early",
            "Closed traces forgotten for memory",
            m.forgotten_early.clone(),
        );
        registry.register("dead_letters", "Records moved to the dead-letter topic", m.dead_letters.clone());
        registry.register("lost_records", "Records that retention removed unread", m.lost_records.clone());
        registry.register("restarts", "Restarts from committed offsets", m.restarts.clone());
        registry.register("commit_failures", "Transactions to be tried again", m.commit_failures.clone());
        registry.register("transaction_seconds", "Duration of transactions", m.transaction_seconds.clone());
        registry.register("restore_seconds", "Duration of restoring a partition", m.restore_seconds.clone());
        registry.register("open_traces", "Traces that wait for spans", m.open_traces.clone());
        registry.register("held_traces", "Traces in memory, open and remembered", m.held_traces.clone());
        registry.register("state_bytes", "Memory that traces take", m.state_bytes.clone());
        registry.register("paused", "1 while partitions are paused", m.paused.clone());
        m.rollups.register(registry);
        Arc::new(metrics)
    }
}
