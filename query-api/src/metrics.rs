//! What the query API counts.

use infertrace_runtime::telemetry::{MetricsRegistry, RoleLag};
use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

/// Labels of one dimension, or two.
pub(crate) type Label<V> = [(&'static str, V); 1];

/// Figures of the hot tier.
#[derive(Clone, Debug, Default)]
pub struct HotMetrics {
    pub(crate) spans: Gauge,
    pub(crate) bytes: Gauge,
    pub(crate) evicted: Family<Label<&'static str>, Counter>,
    pub(crate) records: Family<Label<&'static str>, Counter>,
    pub(crate) lag: RoleLag,
}

impl HotMetrics {
    /// Registers them; the registry adds the prefix `infertrace`.
    pub fn register(registry: &mut MetricsRegistry) -> Self {
        let metrics = Self { lag: registry.consumer_lag("hot"), ..Self::default() };
        registry.register("hot_spans", "Spans in the hot tier", metrics.spans.clone());
        registry.register("hot_bytes", "Memory of the hot tier's columns and index", metrics.bytes.clone());
        registry.register(
            "hot_evicted_spans",
            "Spans that left the hot tier, by reason: age, memory_plain, memory_error",
            metrics.evicted.clone(),
        );
        registry.register(
            "hot_records",
            "Records of the log by outcome: read, duplicate, poison",
            metrics.records.clone(),
        );
        metrics
    }
}

/// Figures of insights, baselines and rollups.
#[derive(Clone, Debug, Default)]
pub struct InsightMetrics {
    pub(crate) held: Family<Label<&'static str>, Gauge>,
    pub(crate) records: Family<[(&'static str, String); 2], Counter>,
    pub(crate) lag: RoleLag,
}

impl InsightMetrics {
    /// Registers them.
    pub fn register(registry: &mut MetricsRegistry) -> Self {
        let metrics = Self { lag: registry.consumer_lag("insights"), ..Self::default() };
        registry.register(
            "insights_held",
            "In memory, by what: insights, open_insights, baselines, rollups",
            metrics.held.clone(),
        );
        registry.register(
            "insights_records",
            "Records of insights, baselines and rollups by topic and outcome: read, stale, tombstone, poison",
            metrics.records.clone(),
        );
        metrics
    }
}

/// Figures of the warm tier's reader.
#[derive(Clone, Debug)]
pub struct WarmMetrics {
    pub(crate) available: Gauge,
    pub(crate) queries: Family<Label<&'static str>, Counter>,
    pub(crate) seconds: Histogram,
}

impl WarmMetrics {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            available: Gauge::default(),
            queries: Family::default(),
            seconds: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
        };
        registry.register(
            "warm_available",
            "Whether ClickHouse answers the query API, 0 or 1",
            metrics.available.clone(),
        );
        registry.register(
            "warm_queries",
            "Statements sent to ClickHouse by outcome: answered, failed",
            metrics.queries.clone(),
        );
        registry.register("warm_query_seconds", "Time to ClickHouse's whole answer", metrics.seconds.clone());
        metrics
    }
}

/// Figures of the lake's reader.
#[derive(Clone, Debug, Default)]
pub struct LakeMetrics {
    pub(crate) files: Gauge,
    pub(crate) problems: Gauge,
    pub(crate) footers: Family<Label<&'static str>, Counter>,
    pub(crate) lookups: Family<Label<&'static str>, Counter>,
}

impl LakeMetrics {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("lake_files", "Data files that manifests name", metrics.files.clone());
        registry.register(
            "lake_problems",
            "Damaged manifests and gaps between them",
            metrics.problems.clone(),
        );
        registry.register(
            "lake_footer_reads",
            "Footers asked for, by where they were: cache, store, failed",
            metrics.footers.clone(),
        );
        registry.register(
            "lake_lookup_files",
            "Files of look-ups by trace id: pruned_range, pruned_bloom, pruned_index, read, failed",
            metrics.lookups.clone(),
        );
        metrics
    }
}

/// Figures of the HTTP API.
#[derive(Clone, Debug)]
pub struct HttpMetrics {
    pub(crate) requests: Family<[(&'static str, String); 2], Counter>,
    pub(crate) seconds: Family<Label<String>, Histogram>,
    pub(crate) connections: Gauge,
    pub(crate) streams: Gauge,
}

impl HttpMetrics {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.000_25, 2.0, 17))),
            connections: Gauge::default(),
            streams: Gauge::default(),
        };
        registry.register("query_requests", "Requests by route and status", metrics.requests.clone());
        registry.register(
            "query_request_seconds",
            "Time to the head of the answer, by route",
            metrics.seconds.clone(),
        );
        registry.register("query_connections", "Open connections", metrics.connections.clone());
        registry.register("query_streams", "Open live streams", metrics.streams.clone());
        metrics
    }
}
