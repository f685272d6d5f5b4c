//! A running gateway and the messages to send it.

use std::{net::SocketAddr, sync::Arc};

use infertrace_gateway::{Config, Deps, Error, Gateway, build};
use infertrace_proto::v1;
use infertrace_runtime::clock::ManualClock;
use infertrace_runtime::telemetry::MetricsRegistry;
use infertrace_schemas::topics;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use prost::Message as _;
use tokio_util::sync::CancellationToken;

use crate::fake_log::FakeLog;

pub const NOW: i64 = 1_800_000_000_000_000_000;
pub const PARTITIONS: u32 = 4;

pub struct TestGateway {
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    pub log: Arc<FakeLog>,
    pub handle: Gateway,
    pub registry: MetricsRegistry,
    pub shutdown: CancellationToken,
    pub task: tokio::task::JoinHandle<Result<(), Error>>,
}

impl TestGateway {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(adjust: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config {
            grpc_addr: "127.0.0.1:0".parse().expect("an address"),
            http_addr: "127.0.0.1:0".parse().expect("an address"),
            ..Config::default()
        };
        adjust(&mut config);
        let log = FakeLog::new(PARTITIONS, config.max_record_bytes);
        Self::on(config, log).await
    }

    pub async fn on(config: Config, log: Arc<FakeLog>) -> Self {
        let mut registry = MetricsRegistry::default();
        let deps = Deps { log: log.clone(), clock: Arc::new(ManualClock::new(NOW)), metrics: &mut registry };
        let service = build(config, deps).await.expect("free ports");
        let (grpc, http, handle) = (service.grpc_addr(), service.http_addr(), service.gateway());
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(service.run(shutdown.clone()));
        Self { grpc, http, log, handle, registry, shutdown, task }
    }

    /// Every span in the log with its record.
    pub fn spans(&self) -> Vec<(v1::SpanBatch, v1::Span)> {
        self.batches()
            .into_iter()
            .flat_map(|batch| batch.spans.clone().into_iter().map(move |span| (batch.clone(), span)))
            .collect()
    }

    /// Every record of the spans topic, unpacked.
    pub fn batches(&self) -> Vec<v1::SpanBatch> {
        self.log
            .records(topics::SPANS)
            .iter()
            .map(|record| {
                let payload = record.payload.as_deref().expect("a value");
                let mut batch = v1::SpanBatch::decode(payload).expect("a SpanBatch");
                assert_eq!(batch.batch_id.len(), 16);
                if let Some(packed) = batch.packed.take() {
                    let body = infertrace_schemas::frame::decompress(
                        v1::Codec::try_from(packed.codec).expect("a codec"),
                        &packed.body,
                        packed.uncompressed_size,
                        1 << 26,
                    )
                    .expect("a good frame");
                    let unpacked = v1::SpanBatch::decode(&*body).expect("a SpanBatch");
                    batch.spans = unpacked.spans;
                    batch.origins = unpacked.origins;
                }
                for span in &batch.spans {
                    let id: [u8; 16] = span.trace_id.clone().try_into().expect("16 bytes");
                    let partition = infertrace_schemas::partition::partition_of(&id, PARTITIONS);
                    assert_eq!(partition, record.to.partition, "a span in a foreign partition");
                }
                batch
            })
            .collect()
    }

    /// Names of the spans in the log, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.spans().into_iter().map(|(_, span)| span.operation_name).collect();
        names.sort();
        names
    }

    /// The metrics as text.
    pub fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).expect("a String");
        text
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.expect("no panic").expect("drained");
    }
}

pub fn string(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

pub fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// A good OTLP span; ids follow from `number`.
pub fn otlp_span(number: u64, name: &str) -> Span {
    let mut trace_id = vec![7; 16];
    trace_id[8..].copy_from_slice(&number.to_be_bytes());
    Span {
        trace_id,
        span_id: (number + 1).to_be_bytes().to_vec(),
        name: name.into(),
        kind: 2,
        start_time_unix_nano: NOW as u64 - 5_000_000,
        end_time_unix_nano: NOW as u64 - 1_000_000,
        attributes: vec![string("a", "b"), attribute("n", Value::IntValue(number as i64))],
        ..Span::default()
    }
}

pub fn otlp_request(spans: Vec<Span>) -> ExportTraceServiceRequest {
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource {
                attributes: vec![string("service.name", "svc")],
                ..Resource::default()
            }),
            scope_spans: vec![ScopeSpans {
                scope: Some(InstrumentationScope { name: "lib".into(), ..InstrumentationScope::default() }),
                spans,
                schema_url: "scope-url".into(),
            }],
            schema_url: "resource-url".into(),
        }],
    }
}

/// A good native span; ids follow from `number`.
pub fn native_span(number: u64, name: &str) -> v1::Span {
    let otlp = otlp_span(number, name);
    v1::Span {
        trace_id: otlp.trace_id,
        span_id: otlp.span_id,
        service_name: "svc".into(),
        operation_name: name.into(),
        start_time_unix_nano: NOW - 5_000_000,
        duration_nanos: 4_000_000,
        tags: [("k".to_owned(), "v".to_owned())].into(),
        ..v1::Span::default()
    }
}

pub fn native_request(spans: Vec<v1::Span>) -> v1::ExportRequest {
    v1::ExportRequest {
        batch: Some(v1::SpanBatch { spans, ..v1::SpanBatch::default() }),
        sequence: 9,
        ..v1::ExportRequest::default()
    }
}
