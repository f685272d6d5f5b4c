//! The gateway's metrics. Labels come from small fixed sets, except tenants, which are bounded by `TenantLabels`.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::{
    error::Code,
    parse::{Reason, Rejections},
    tenant::TenantLabels,
};

/// How a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "the names are label values")]
pub(crate) enum Protocol {
    native,
    native_stream,
    frames,
    otlp_grpc,
    otlp_http_protobuf,
    otlp_http_json,
    otlp_metrics,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AcceptedLabels {
    protocol: Protocol,
    tenant: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RejectedLabels {
    protocol: Protocol,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    protocol: Protocol,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProtocolLabels {
    protocol: Protocol,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RetryLabels {
    cause: &'static str,
}

/// Counters, gauges and histograms of one gateway.
pub(crate) struct Telemetry {
    accepted: Family<AcceptedLabels, Counter>,
    rejected: Family<RejectedLabels, Counter>,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Family<ProtocolLabels, Histogram>,
    received_bytes: Family<ProtocolLabels, Counter>,
    log_append_seconds: Histogram,
    log_records: Counter,
    log_bytes: Counter,
    retries: Family<RetryLabels, Counter>,
    pub(crate) budget_used_bytes: Gauge,
    pub(crate) connections: Gauge,
    pub(crate) connections_refused: Counter,
    tenants: TenantLabels,
}

/// 0.5 ms to 65 s, by twos.
fn seconds() -> Histogram {
    Histogram::new((0..18).map(|power| 0.0005 * f64::from(1u32 << power)))
}

impl Telemetry {
    pub(crate) fn new(registry: &mut Registry, max_tenant_labels: usize) -> Self {
        let telemetry = Self {
            accepted: Family::default(),
            rejected: Family::default(),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(seconds),
            received_bytes: Family::default(),
            log_append_seconds: seconds(),
            log_records: Counter::default(),
            log_bytes: Counter::default(),
            retries: Family::default(),
            budget_used_bytes: Gauge::default(),
            connections: Gauge::default(),
            connections_refused: Counter::default(),
            tenants: TenantLabels::new(max_tenant_labels),
        };
        let gateway = registry.sub_registry_with_prefix("gateway");
        gateway.register(
            "spans_accepted",
            "Spans (or metric data points) acknowledged as durable",
            telemetry.accepted.clone(),
        );
        gateway.register(
            "spans_rejected",
            "Spans (or metric data points) rejected one by one",
            telemetry.rejected.clone(),
        );
        gateway.register("requests", "Requests by their gRPC code", telemetry.requests.clone());
        gateway.register(
            "request_seconds",
            "Time from a request's headers to its answer",
            telemetry.request_seconds.clone(),
        );
        gateway.register(
            "received_bytes",
            "Bytes of request bodies as they arrived",
            telemetry.received_bytes.clone(),
        );
        gateway.register("log_records", "Records appended to the log", telemetry.log_records.clone());
        gateway.register(
            "log_bytes",
            "Bytes of the records appended to the log",
            telemetry.log_bytes.clone(),
        );
        gateway.register("retries_told", "Requests told to come back later", telemetry.retries.clone());
        gateway.register(
            "budget_used_bytes",
            "Bytes of requests in flight, when last looked at",
            telemetry.budget_used_bytes.clone(),
        );
        gateway.register("connections", "Open connections", telemetry.connections.clone());
        gateway.register(
            "connections_refused",
            "Connections closed at once because there were too many",
            telemetry.connections_refused.clone(),
        );
        registry.register(
            "log_append_seconds",
            "Time from handing a request's records to the log until all are durable",
            telemetry.log_append_seconds.clone(),
        );
        telemetry
    }

    /// Counts what an acknowledged request brought.
    pub(crate) fn acknowledged(
        &self,
        protocol: Protocol,
        tenant: &str,
        accepted: u64,
        rejections: &Rejections,
    ) {
        if accepted > 0 {
            let tenant = self.tenants.label(tenant).to_owned();
            self.accepted.get_or_create(&AcceptedLabels { protocol, tenant }).inc_by(accepted);
        }
        for entry in rejections.iter() {
            self.rejected(protocol, entry.reason, entry.count);
        }
    }

    fn rejected(&self, protocol: Protocol, reason: Reason, count: u64) {
        self.rejected.get_or_create(&RejectedLabels { protocol, reason: reason.as_str() }).inc_by(count);
    }

    /// Counts an answered request.
    pub(crate) fn answered(&self, protocol: Protocol, code: Code, seconds: f64, body_bytes: u64) {
        self.requests.get_or_create(&RequestLabels { protocol, code: code.as_str() }).inc();
        self.request_seconds.get_or_create(&ProtocolLabels { protocol }).observe(seconds);
        self.received_bytes.get_or_create(&ProtocolLabels { protocol }).inc_by(body_bytes);
    }

    /// Counts a refusal that tells the sender to come back.
    pub(crate) fn retry_told(&self, cause: &'static str) {
        self.retries.get_or_create(&RetryLabels { cause }).inc();
    }

    /// Counts records handed to the log.
    pub(crate) fn appended(&self, records: u64, bytes: u64) {
        self.log_records.inc_by(records);
        self.log_bytes.inc_by(bytes);
    }

    /// Notes how long the log took.
    pub(crate) fn durable(&self, seconds: f64) {
        self.log_append_seconds.observe(seconds);
    }
}
