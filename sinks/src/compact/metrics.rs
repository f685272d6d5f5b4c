//! Metrics of the compactor.

use infertrace_runtime::telemetry::MetricsRegistry;
use prometheus_client::{metrics::counter::Counter, registry::Unit};

/// Everything the compactor counts; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics {
    pub(super) compactions: Counter,
    pub(super) merged_files: Counter,
    pub(super) read_bytes: Counter,
    pub(super) written_bytes: Counter,
    pub(super) dropped_spans: Counter,
    pub(super) removed_files: Counter,
    pub(super) failures: Counter,
}

impl Metrics {
    pub(super) fn register(registry: &mut MetricsRegistry) -> Self {
        let metrics = Self::default();
        let lake = registry.sub_registry_with_prefix("lake_compaction");
        lake.register("runs", "Compactions put into the lake", metrics.compactions.clone());
        lake.register("merged_files", "Data files merged into others", metrics.merged_files.clone());
        let read = metrics.read_bytes.clone();
        lake.register_with_unit("read", "Size of merged files", Unit::Bytes, read);
        let written = metrics.written_bytes.clone();
        lake.register_with_unit("written", "Size of the files made of them", Unit::Bytes, written);
        let dropped = metrics.dropped_spans.clone();
        lake.register("dropped_spans", "Spans taken out by retention and deletions", dropped);
        lake.register("removed_files", "Files removed after their grace", metrics.removed_files.clone());
        lake.register(
            "failures",
            "Looks at the lake that failed, files unfit to merge",
            metrics.failures.clone(),
        );
        metrics
    }
}
