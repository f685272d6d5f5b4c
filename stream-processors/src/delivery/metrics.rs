//! What the delivery says about itself.

use std::sync::Arc;

use infertrace_runtime::telemetry::{MetricsRegistry, RoleLag};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};

/// A target, by its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct TargetLabels {
    pub(super) target: Arc<str>,
}

/// A target and what became of an insight or a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OutcomeLabels {
    pub(super) target: Arc<str>,
    pub(super) outcome: &'static str,
}

#[derive(Clone, Debug)]
pub(super) struct Metrics {
    pub(super) lag: RoleLag,
    pub(super) insights: Family<OutcomeLabels, Counter>,
    pub(super) requests: Family<OutcomeLabels, Counter>,
    pub(super) seconds: Histogram,
    pub(super) queued: Family<TargetLabels, Gauge>,
    pub(super) circuit_open: Family<TargetLabels, Gauge>,
    pub(super) open_alerts: Family<TargetLabels, Gauge>,
    pub(super) unreadable: Counter,
    pub(super) lost: Counter,
    pub(super) restarts: Counter,
}

impl Metrics {
    /// Registers everything; `registry` adds the prefix `infertrace_`.
    pub(super) fn new(registry: &mut MetricsRegistry) -> Self {
        let metrics = Self {
            lag: registry.consumer_lag("delivery"),
            insights: Family::default(),
            requests: Family::default(),
            seconds: Histogram::new([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]),
            queued: Family::default(),
            circuit_open: Family::default(),
            open_alerts: Family::default(),
            unreadable: Counter::default(),
            lost: Counter::default(),
            restarts: Counter::default(),
        };
        let m = &metrics;
        let registry = registry.sub_registry_with_prefix("delivery");
        let help = "Insights by target and what became of them: delivered, filtered, muted, dead_letter";
        registry.register("insights", help, m.insights.clone());
        let help = "Requests by target and how they ended: taken, refused, failed";
        registry.register("requests", help, m.requests.clone());
        registry.register("request_seconds", "Duration of requests", m.seconds.clone());
        registry.register("queued", "Insights that wait for a target", m.queued.clone());
        let help = "1 while a target's failures hold its insights back";
        registry.register("circuit_open", help, m.circuit_open.clone());
        registry.register("open_alerts", "Alerts repeated while they are open", m.open_alerts.clone());
        registry.register("unreadable", "Records that are no insight", m.unreadable.clone());
        registry.register("lost_records", "Records that retention removed unread", m.lost.clone());
        registry.register("restarts", "Restarts from committed positions", m.restarts.clone());
        metrics
    }

    pub(super) fn insight(&self, target: &Arc<str>, outcome: &'static str) {
        self.insights.get_or_create(&OutcomeLabels { target: target.clone(), outcome }).inc();
    }

    pub(super) fn request(&self, target: &Arc<str>, outcome: &'static str) {
        self.requests.get_or_create(&OutcomeLabels { target: target.clone(), outcome }).inc();
    }
}
