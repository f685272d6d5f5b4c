//! CPU nanoseconds a span of the pure parsers: native, OTLP and frames, 1,000 spans of about 600 B a request.
//!
//! `cargo run --release --example transcode_bench [seconds a parser]`; one JSON line each. Only this
//! thread's CPU time counts, so a busy machine changes little.

use std::{hint::black_box, io::Write as _};

use infertrace_gateway::{
    FrameCheck, Limits,
    fuzz::{Parser, Totals},
};
use infertrace_proto::v1;
use infertrace_schemas::{frame, partition::partition_of};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use prost::Message as _;

const SPANS: u64 = 1000;
const PARTITIONS: u32 = 8;
const NOW: i64 = 1_800_000_000_000_000_000;

fn main() {
    let seconds: f64 = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(1.0);
    let parser = Parser::new(NOW, PARTITIONS, Limits::default(), 900 << 10);
    let otlp = otlp_request().encode_to_vec();
    let native_batch = native_batch();
    let native = native_batch.encode_to_vec();
    let lz4 = frames(&native_batch, v1::Codec::Lz4);
    let zstd = frames(&native_batch, v1::Codec::Zstd);
    measure("native", native.len(), seconds, || parser.native(&native, ""));
    measure("otlp", otlp.len(), seconds, || parser.otlp(&otlp));
    measure("frames_lz4", lz4.len(), seconds, || parser.frames(&lz4, FrameCheck::Frame));
    measure("frames_zstd", zstd.len(), seconds, || parser.frames(&zstd, FrameCheck::Frame));
    measure("frames_zstd_full", zstd.len(), seconds, || parser.frames(&zstd, FrameCheck::Full));
}

fn measure(name: &str, request_bytes: usize, seconds: f64, parse: impl Fn() -> Result<Totals, String>) {
    let totals = parse().expect("a valid request");
    assert_eq!((totals.accepted, totals.rejected), (SPANS, 0), "{name}");
    let (begin, mut spans) = (cpu_seconds(), 0);
    while cpu_seconds() - begin < seconds {
        for _ in 0..100 {
            drop(black_box(parse()));
        }
        spans += 100 * SPANS;
    }
    let mean = (cpu_seconds() - begin) / spans as f64;
    let line = serde_json::json!({
        "bench": "gateway_parse", "protocol": name, "bytes_per_span": request_bytes as f64 / SPANS as f64,
        "records": totals.records, "cpu_ns_per_span": (mean * 1e10).round() / 10.0,
        "spans_per_cpu_second": (1.0 / mean).round(),
    });
    writeln!(std::io::stdout(), "{line}").expect("stdout");
}

/// User and system time of this thread.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos: f64 = text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0.0);
    nanos / 1e9
}

fn string(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn ids(number: u64) -> (Vec<u8>, Vec<u8>) {
    let mixed = (number / 10 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let trace_id = [mixed.to_be_bytes(), mixed.rotate_left(17).to_be_bytes()].concat();
    (trace_id, (number + 1).wrapping_mul(0xd6e8_feb8_6659_fd93).to_be_bytes().to_vec())
}

fn span(number: u64) -> Span {
    let (trace_id, span_id) = ids(number);
    Span {
        trace_id,
        span_id,
        parent_span_id: ids(number + 1).1,
        flags: 0x101,
        name: "chat meta-llama/Llama-3.1-8B-Instruct".into(),
        kind: 2,
        start_time_unix_nano: NOW as u64 - 1_000_000_000 + number,
        end_time_unix_nano: NOW as u64 - 500_000_000,
        attributes: vec![
            string("gen_ai.operation.name", "chat"),
            string("gen_ai.provider.name", "vllm"),
            string("gen_ai.request.model", "meta-llama/Llama-3.1-8B-Instruct"),
            string("gen_ai.response.model", "meta-llama/Llama-3.1-8B-Instruct"),
            string("gen_ai.request.id", format!("cmpl-{number:032x}")),
            attribute("gen_ai.request.max_tokens", Value::IntValue(512)),
            attribute("gen_ai.request.temperature", Value::DoubleValue(0.7)),
            attribute("gen_ai.request.top_p", Value::DoubleValue(0.95)),
            attribute("gen_ai.usage.input_tokens", Value::IntValue(1000 + number as i64)),
            attribute("gen_ai.usage.output_tokens", Value::IntValue(100 + number as i64)),
            attribute("gen_ai.latency.time_to_first_token", Value::DoubleValue(0.123)),
            attribute("gen_ai.latency.e2e", Value::DoubleValue(1.5)),
            attribute("gen_ai.latency.time_in_queue", Value::DoubleValue(0.01)),
            string("gen_ai.response.finish_reasons", "stop"),
        ],
        ..Span::default()
    }
}

fn otlp_request() -> ExportTraceServiceRequest {
    let resource = Resource {
        attributes: vec![
            string("service.name", "vllm-server"),
            string("host.name", "node-1"),
            string("k8s.pod.name", "vllm-0"),
        ],
        ..Resource::default()
    };
    let scope = InstrumentationScope { name: "vllm.llm_engine".into(), ..InstrumentationScope::default() };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource),
            scope_spans: vec![ScopeSpans {
                scope: Some(scope),
                spans: (0..SPANS).map(span).collect(),
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    }
}

/// The same spans natively: what OTLP says in attributes stands in fields where there are some.
fn native_batch() -> v1::SpanBatch {
    let spans = (0..SPANS)
        .map(|number| {
            let span = span(number);
            v1::Span {
                trace_id: span.trace_id,
                span_id: span.span_id,
                parent_span_id: span.parent_span_id,
                service_name: "vllm-server".into(),
                operation_name: span.name,
                start_time_unix_nano: span.start_time_unix_nano as i64,
                duration_nanos: (span.end_time_unix_nano - span.start_time_unix_nano) as i64,
                kind: span.kind,
                attributes: span
                    .attributes
                    .iter()
                    .map(|attribute| v1::KeyValue::decode(&*attribute.encode_to_vec()).expect("one encoding"))
                    .collect(),
                ..v1::Span::default()
            }
        })
        .collect();
    v1::SpanBatch { spans, origins: vec![v1::Origin::default()], ..v1::SpanBatch::default() }
}

fn frames(batch: &v1::SpanBatch, codec: v1::Codec) -> Vec<u8> {
    let frames = (0..PARTITIONS)
        .map(|partition| {
            let share: Vec<_> = batch
                .spans
                .iter()
                .filter(|span| {
                    let id: [u8; 16] = span.trace_id.clone().try_into().expect("16 bytes");
                    partition_of(&id, PARTITIONS) == partition
                })
                .cloned()
                .collect();
            let span_count = share.len() as u32;
            let body =
                v1::SpanBatch { spans: share, origins: batch.origins.clone(), ..v1::SpanBatch::default() }
                    .encode_to_vec();
            let packed = frame::compress(codec, &body);
            v1::Frame {
                partition,
                codec: codec as i32,
                crc32c: frame::crc(&packed),
                span_count,
                uncompressed_size: body.len() as u64,
                body: packed.into(),
            }
        })
        .collect();
    v1::ExportRequest { frames, ..v1::ExportRequest::default() }.encode_to_vec()
}
