//! What stitching says about itself.

use std::sync::Arc;

use infertrace_analytics::stitch::StitchStats;
use infertrace_runtime::telemetry::{MetricsRegistry, RoleLag};
use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram};

use crate::metrics::ReasonLabels;

#[derive(Clone, Debug)]
pub(super) struct Metrics {
    pub(super) lag: RoleLag,
    pub(super) records: Counter,
    sightings: Counter,
    links: Family<[(&'static str, &'static str); 1], Counter>,
    unidentified: Counter,
    evicted: Counter,
    omitted: Counter,
    pub(super) requests: Gauge,
    pub(super) bytes: Gauge,
    pub(super) dead_letters: Counter,
    pub(super) lost_records: Counter,
    restarts: Family<ReasonLabels, Counter>,
    pub(super) commit_failures: Counter,
    pub(super) transaction_seconds: Histogram,
}

impl Metrics {
    pub(super) fn new(registry: &mut MetricsRegistry) -> Arc<Self> {
        let seconds = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
        let metrics = Self {
            lag: registry.consumer_lag("stitching"),
            records: Counter::default(),
            sightings: Counter::default(),
            links: Family::default(),
            unidentified: Counter::default(),
            evicted: Counter::default(),
            omitted: Counter::default(),
            requests: Gauge::default(),
            bytes: Gauge::default(),
            dead_letters: Counter::default(),
            lost_records: Counter::default(),
            restarts: Family::default(),
            commit_failures: Counter::default(),
            transaction_seconds: Histogram::new(seconds),
        };
        let m = &metrics;
        let registry = registry.sub_registry_with_prefix("stitching");
        registry.register("records", "Records of sightings read", m.records.clone());
        registry.register("sightings", "Sightings taken", m.sightings.clone());
        registry.register("links", "Links told: linked, unreported", m.links.clone());
        registry.register(
            "unidentified",
            "Calls that succeeded and name no id to find their engine's span by",
            m.unidentified.clone(),
        );
        registry.register(
            "evicted",
            "Open requests told early because a bound was reached",
            m.evicted.clone(),
        );
        registry.register(
            "omitted_spans",
            "Spans left out of a request that has too many",
            m.omitted.clone(),
        );
        registry.register("requests_held", "Requests held, open and remembered", m.requests.clone());
        registry.register("state_bytes", "Memory for them, about", m.bytes.clone());
        registry.register("dead_letters", "Records moved to the dead-letter topic", m.dead_letters.clone());
        registry.register("lost_records", "Records that retention removed unread", m.lost_records.clone());
        registry.register("restarts", "Restarts from committed offsets", m.restarts.clone());
        registry.register("commit_failures", "Transactions to be tried again", m.commit_failures.clone());
        registry.register("transaction_seconds", "Duration of transactions", m.transaction_seconds.clone());
        Arc::new(metrics)
    }

    /// Counts what was done between two states of a stitcher.
    pub(super) fn count(&self, before: StitchStats, after: StitchStats) {
        self.sightings.inc_by(after.sightings - before.sightings);
        self.links.get_or_create(&[("kind", "linked")]).inc_by(after.linked - before.linked);
        self.links.get_or_create(&[("kind", "unreported")]).inc_by(after.unreported - before.unreported);
        self.unidentified.inc_by(after.unidentified - before.unidentified);
        self.evicted.inc_by(after.evicted - before.evicted);
        self.omitted.inc_by(after.omitted - before.omitted);
    }

    pub(super) fn restarted(&self, reason: &'static str) {
        self.restarts.get_or_create(&ReasonLabels { reason }).inc();
    }
}
