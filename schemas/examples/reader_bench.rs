//! How fast the reader turns records into columns, in CPU time: `cargo run --release --example reader_bench`.
//!
//! Spans of about 600 bytes with 14 or 15 attributes each, ids unique, 1,000 spans a record, batches of 64 k
//! rows. Arguments: seconds (default 3), rows a batch (default 65536). The last line on stdout is JSON.

use std::time::{Duration, Instant};

use infertrace_proto::v1::{self, any_value::Value};
use infertrace_schemas::{
    reader::{Position, SpanReader},
    record::encode_share,
};
use prost::Message;
use rand::{Rng, SeedableRng, rngs::StdRng};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SPANS_A_RECORD: usize = 1_000;
const RECORDS: usize = 64;

fn attribute(key: &str, value: Value) -> v1::KeyValue {
    v1::KeyValue { key: key.to_owned(), value: Some(v1::AnyValue { value: Some(value) }) }
}

fn text(key: &str, value: impl Into<String>) -> v1::KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

/// A gateway's HTTP span, a client's GenAI span, or an engine's request span.
fn span(random: &mut StdRng, index: usize) -> v1::Span {
    let model = ["llama-3.1-70b-instruct", "mistral-large", "qwen2.5-72b"][random.random_range(0..3)];
    let (input, output) = (random.random_range(16..8_000i64), random.random_range(1..1_000i64));
    let request = format!("chatcmpl-{:016x}", random.random::<u64>());
    let attributes = match index % 3 {
        0 => vec![
            text("http.request.method", "POST"),
            text("http.route", "/v1/chat/completions"),
            text("url.path", "/v1/chat/completions"),
            text("url.scheme", "https"),
            attribute("http.response.status_code", Value::IntValue(200)),
            text("network.protocol.version", "1.1"),
            text("server.address", "gateway.inference.svc.cluster.local"),
            attribute("server.port", Value::IntValue(8443)),
            text("client.address", format!("10.12.{}.{}", random.random::<u8>(), random.random::<u8>())),
            text("user_agent.original", "OpenAI/Python 1.86.0"),
            attribute("http.request.body.size", Value::IntValue(input * 5)),
            attribute("http.response.body.size", Value::IntValue(output * 5)),
            text("enduser.id", format!("user-{:08x}", random.random::<u32>())),
            text("http.request.id", request),
        ],
        1 => vec![
            text("gen_ai.operation.name", "chat"),
            text("gen_ai.provider.name", "openai"),
            text("gen_ai.request.model", model),
            text("gen_ai.response.model", model),
            text("gen_ai.response.id", request),
            attribute("gen_ai.request.max_tokens", Value::IntValue(1_024)),
            attribute("gen_ai.request.temperature", Value::DoubleValue(0.7)),
            attribute("gen_ai.request.top_p", Value::DoubleValue(0.95)),
            attribute("gen_ai.request.stream", Value::BoolValue(true)),
            attribute("gen_ai.usage.input_tokens", Value::IntValue(input)),
            attribute("gen_ai.usage.output_tokens", Value::IntValue(output)),
            attribute("gen_ai.usage.cache_read.input_tokens", Value::IntValue(input / 2)),
            attribute("gen_ai.response.time_to_first_chunk", Value::DoubleValue(random.random())),
            text("server.address", "gateway.inference.svc.cluster.local"),
            attribute("server.port", Value::IntValue(8443)),
        ],
        _ => vec![
            text("gen_ai.request.id", request),
            text("gen_ai.request.model", model),
            attribute("gen_ai.request.n", Value::IntValue(1)),
            attribute("gen_ai.request.max_tokens", Value::IntValue(1_024)),
            attribute("gen_ai.request.temperature", Value::DoubleValue(0.7)),
            attribute("gen_ai.request.top_p", Value::DoubleValue(0.95)),
            attribute("gen_ai.usage.prompt_tokens", Value::IntValue(input)),
            attribute("gen_ai.usage.completion_tokens", Value::IntValue(output)),
            attribute("gen_ai.latency.time_to_first_token", Value::DoubleValue(random.random())),
            attribute("gen_ai.latency.e2e", Value::DoubleValue(1.0 + random.random::<f64>())),
            attribute("gen_ai.latency.time_in_queue", Value::DoubleValue(random.random())),
            attribute("gen_ai.latency.time_in_model_prefill", Value::DoubleValue(random.random())),
            attribute("gen_ai.latency.time_in_model_decode", Value::DoubleValue(random.random())),
            attribute("gen_ai.latency.time_in_model_inference", Value::DoubleValue(random.random())),
        ],
    };
    let (service, operation) = [
        ("api-gateway", "POST /v1/chat/completions"),
        ("shop-assistant", "chat"),
        ("vllm-llama-70b", "llm_request"),
    ][index % 3];
    v1::Span {
        trace_id: random.random::<[u8; 16]>().to_vec(),
        span_id: random.random::<[u8; 8]>().to_vec(),
        parent_span_id: random.random::<[u8; 8]>().to_vec(),
        service_name: service.to_owned(),
        operation_name: operation.to_owned(),
        start_time_unix_nano: 1_795_386_821_708_909_056 + random.random_range(0..1_000_000_000_000),
        duration_nanos: random.random_range(1_000_000..3_000_000_000),
        attributes,
        kind: 2 + (index % 2) as i32,
        status: Some(v1::Status { message: String::new(), code: 1 }),
        flags: 0x101,
        origin: (index % 3) as u32,
        ..v1::Span::default()
    }
}

fn origin(service: &str, scope: &str) -> Vec<u8> {
    let attributes = vec![
        text("service.name", service),
        text("service.instance.id", "45680452-f499-467a-a5d9-27bd7478e35f"),
        text("telemetry.sdk.language", "python"),
        text("telemetry.sdk.name", "opentelemetry"),
        text("k8s.pod.name", format!("{service}-7d9c6b5f4-x2v9q")),
    ];
    v1::Origin {
        resource: Some(v1::Resource { attributes, dropped_attributes_count: 0 }),
        scope: Some(v1::Scope {
            name: scope.to_owned(),
            version: "1.45.2".to_owned(),
            ..v1::Scope::default()
        }),
        ..v1::Origin::default()
    }
    .encode_to_vec()
}

/// User and system time of this process.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let nanos = stat.split(' ').next().and_then(|field| field.parse().ok()).unwrap_or(0);
    Duration::from_nanos(nanos)
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let seconds: f64 = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(3.0);
    let rows: usize = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(65_536);

    let mut random = StdRng::seed_from_u64(7);
    let origins = [
        origin("api-gateway", "opentelemetry.instrumentation.fastapi"),
        origin("shop-assistant", "opentelemetry.instrumentation.genai.openai"),
        origin("vllm-llama-70b", "vllm.tracing.otel"),
    ];
    let origins: Vec<&[u8]> = origins.iter().map(Vec::as_slice).collect();
    let (mut span_bytes, mut attributes) = (0, 0);
    let records: Vec<Vec<u8>> = (0..RECORDS)
        .map(|_| {
            let spans: Vec<v1::Span> = (0..SPANS_A_RECORD).map(|index| span(&mut random, index)).collect();
            attributes += spans.iter().map(|span| span.attributes.len()).sum::<usize>();
            let spans: Vec<Vec<u8>> = spans.iter().map(Message::encode_to_vec).collect();
            span_bytes += spans.iter().map(Vec::len).sum::<usize>();
            encode_share("", b"", spans.iter().map(Vec::as_slice), &origins)
        })
        .collect();

    let mut reader = SpanReader::with_capacity(rows);
    let mut read = |limit: Duration| {
        let (started, cpu) = (Instant::now(), cpu_time());
        let (mut spans, mut batches, mut bytes) = (0usize, 0usize, 0usize);
        while started.elapsed() < limit {
            for (offset, record) in records.iter().enumerate() {
                let position = Position { partition: 0, offset: offset as i64 };
                let pushed = reader.push(record, position).expect("own record");
                assert_eq!(pushed.rejected, 0);
                spans += pushed.spans;
                if reader.len() >= rows {
                    let batch = reader.finish();
                    bytes = batch.get_array_memory_size() / batch.num_rows();
                    batches += 1;
                }
            }
        }
        (spans, batches, bytes, cpu_time() - cpu)
    };
    read(Duration::from_millis(300));
    let (spans, batches, arrow_bytes, cpu) = read(Duration::from_secs_f64(seconds));
    let nanos = cpu.as_nanos() as f64 / spans as f64;
    println!(
        "{{\"spans_per_cpu_s\":{:.0},\"ns_per_span\":{nanos:.0},\"bytes_per_span\":{},\"attributes_per_span\":{:.1},\"arrow_bytes_per_span\":{arrow_bytes},\"spans\":{spans},\"batches\":{batches}}}",
        1e9 / nanos,
        span_bytes / (RECORDS * SPANS_A_RECORD),
        attributes as f64 / (RECORDS * SPANS_A_RECORD) as f64,
    );
}
