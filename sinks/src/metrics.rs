//! Metrics of a sink.

use infertrace_runtime::telemetry::{MetricsRegistry, RoleLag};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Unit,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    operation: &'static str,
}

/// Everything the sink counts; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pub(crate) read_records: Counter,
    pub(crate) rows: Counter,
    pub(crate) files: Counter,
    pub(crate) bytes: Counter,
    pub(crate) manifests: Counter,
    pub(crate) duplicate_records: Counter,
    pub(crate) rejected_spans: Counter,
    pub(crate) poison_records: Counter,
    pub(crate) lost_records: Counter,
    pub(crate) followed_plans: Counter,
    pub(crate) flush_seconds: Histogram,
    pub(crate) encode_seconds: Histogram,
    pub(crate) buffered_bytes: Gauge,
    pub(crate) paused: Gauge,
    pub(crate) refused: Gauge,
    pub(crate) halted_partitions: Gauge,
    retries: Family<Operation, Counter>,
    pub(crate) lag: RoleLag,
}

impl Metrics {
    /// Creates the metrics and registers them below `prefix`; `role` labels the lag.
    pub(crate) fn register(registry: &mut MetricsRegistry, prefix: &str, role: &'static str) -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.005, 2.0, 15));
        let metrics = Self {
            read_records: Counter::default(),
            rows: Counter::default(),
            files: Counter::default(),
            bytes: Counter::default(),
            manifests: Counter::default(),
            duplicate_records: Counter::default(),
            rejected_spans: Counter::default(),
            poison_records: Counter::default(),
            lost_records: Counter::default(),
            followed_plans: Counter::default(),
            flush_seconds: seconds(),
            encode_seconds: seconds(),
            buffered_bytes: Gauge::default(),
            paused: Gauge::default(),
            refused: Gauge::default(),
            halted_partitions: Gauge::default(),
            retries: Family::default(),
            lag: registry.consumer_lag(role),
        };
        let sink = registry.sub_registry_with_prefix(prefix);
        sink.register("read_records", "Records taken from the log", metrics.read_records.clone());
        sink.register("rows", "Rows in published files or inserts", metrics.rows.clone());
        sink.register("files", "Data files or inserts published", metrics.files.clone());
        sink.register_with_unit(
            "written",
            "Size of published files or inserts",
            Unit::Bytes,
            metrics.bytes.clone(),
        );
        sink.register("manifests", "Ranges published", metrics.manifests.clone());
        let duplicates = metrics.duplicate_records.clone();
        sink.register("duplicate_records", "Records dropped as retries", duplicates);
        let rejected = metrics.rejected_spans.clone();
        sink.register("rejected_spans", "Spans that could not be decoded in good records", rejected);
        let poison = metrics.poison_records.clone();
        sink.register("dlq_records", "Records moved to the dead-letter topic", poison);
        let lost = metrics.lost_records.clone();
        sink.register("lost_records", "Offsets that retention removed before they were read", lost);
        let followed = metrics.followed_plans.clone();
        sink.register("followed_plans", "Ranges cut by an earlier run or another instance", followed);
        let flush = metrics.flush_seconds.clone();
        sink.register_with_unit("flush", "From the cut of a range to its end", Unit::Seconds, flush);
        let encode = metrics.encode_seconds.clone();
        sink.register_with_unit("encode", "Decoding, sorting and encoding of a range", Unit::Seconds, encode);
        let buffered = metrics.buffered_bytes.clone();
        sink.register_with_unit("buffered", "Records held", Unit::Bytes, buffered);
        sink.register("paused", "1 while reading is paused by the memory budget", metrics.paused.clone());
        sink.register("refused_operations", "Calls an operator must fix", metrics.refused.clone());
        let halted = metrics.halted_partitions.clone();
        sink.register("halted_partitions", "Partitions that stand still until an operator acts", halted);
        sink.register("retries", "Calls repeated", metrics.retries.clone());
        metrics
    }

    pub(crate) fn retries(&self, operation: &'static str) -> impl std::ops::Deref<Target = Counter> + '_ {
        self.retries.get_or_create(&Operation { operation })
    }
}
