//! Spans of a serving pipeline for benchmarks: 8 a trace, about 600 B, 14 or 15 attributes; and what they cost.

use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use infertrace_runtime::log::{Millis, Offset, Record, TopicPartition};
use infertrace_schemas::wire::{put_bytes_field, put_fixed64_field, put_varint_field};

/// Spans of a trace.
pub(crate) const SPANS_A_TRACE: usize = 8;
/// Traces of a record.
pub(crate) const TRACES_A_RECORD: usize = 25;
const START_NS: i64 = 1_750_000_000_000_000_000;

/// xorshift64*: the same spans in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

fn put_string(out: &mut Vec<u8>, key: &str, value: &str) {
    put_attribute(out, key, |any| put_bytes_field(any, 1, value.as_bytes()));
}

fn put_int(out: &mut Vec<u8>, key: &str, value: u64) {
    put_attribute(out, key, |any| put_varint_field(any, 3, value));
}

fn put_double(out: &mut Vec<u8>, key: &str, value: f64) {
    put_attribute(out, key, |any| put_fixed64_field(any, 4, value.to_bits()));
}

fn put_attribute(out: &mut Vec<u8>, key: &str, value: impl FnOnce(&mut Vec<u8>)) {
    let mut any = Vec::with_capacity(64);
    value(&mut any);
    let mut pair = Vec::with_capacity(128);
    put_bytes_field(&mut pair, 1, key.as_bytes());
    put_bytes_field(&mut pair, 2, &any);
    put_bytes_field(out, 11, &pair);
}

const STEPS: [(&str, &str, u64); SPANS_A_TRACE] = [
    ("api-gateway", "POST /v1/chat/completions", 2),
    ("preprocessing", "preprocess.validate", 1),
    ("preprocessing", "preprocess.tokenize", 1),
    ("model-serving", "llm_request", 2),
    ("model-serving", "engine.queue", 1),
    ("model-serving", "engine.prefill", 1),
    ("model-serving", "engine.decode", 1),
    ("postprocessing", "postprocess.detokenize", 1),
];
const MODELS: [&str; 4] = [
    "meta-llama/Llama-3.1-8B-Instruct",
    "Qwen/Qwen2.5-72B-Instruct",
    "mistralai/Mixtral-8x7B-v0.1",
    "gpt-oss-120b",
];
const FINISH: [&str; 3] = ["stop", "length", "tool_calls"];

fn put_trace(batch: &mut Vec<u8>, random: &mut Random, trace: usize) {
    let trace_id = [random.next().to_be_bytes(), random.next().to_be_bytes()].concat();
    let request_id = format!("chatcmpl-{:016x}{:08x}", random.next(), random.next() as u32);
    let model = MODELS[random.below(4) as usize];
    let host = format!("gpu-node-{:02}.us-east-1.internal", random.below(24));
    let session = format!("user-{}", random.below(20_000));
    let (input, output) = (32 + random.below(4_000), 1 + random.below(800));
    let mut clock = START_NS + (trace as i64) * 350_000 + random.below(300_000) as i64;
    let mut root = [0u8; 8];
    for (index, (service, operation, weight)) in STEPS.iter().enumerate() {
        let mut span = Vec::with_capacity(700);
        let id = random.next().to_be_bytes();
        let duration = 40_000 + random.below(30_000_000 * weight);
        put_bytes_field(&mut span, 1, &trace_id);
        put_bytes_field(&mut span, 2, &id);
        if index == 0 {
            root = id;
        } else {
            put_bytes_field(&mut span, 3, &root);
        }
        put_bytes_field(&mut span, 4, service.as_bytes());
        put_bytes_field(&mut span, 5, operation.as_bytes());
        put_varint_field(&mut span, 6, clock as u64);
        put_varint_field(&mut span, 7, duration);
        put_string(&mut span, "gen_ai.request.model", model);
        put_string(&mut span, "gen_ai.request.id", &request_id);
        put_string(&mut span, "gen_ai.operation.name", "chat");
        put_string(&mut span, "gen_ai.provider.name", "vllm");
        put_string(
            &mut span,
            "client.address",
            &format!("10.12.{}.{}", random.below(256), random.below(256)),
        );
        put_string(&mut span, "server.address", &host);
        put_string(&mut span, "session.id", &session);
        put_string(&mut span, "http.route", "/v1/chat/completions");
        put_string(&mut span, "span.correlation", &format!("{:016x}", random.next()));
        put_int(&mut span, "gen_ai.usage.input_tokens", input);
        put_int(&mut span, "gen_ai.usage.output_tokens", output);
        put_int(&mut span, "http.response.status_code", if random.below(200) == 0 { 500 } else { 200 });
        put_double(&mut span, "gen_ai.request.temperature", random.below(11) as f64 / 10.0);
        put_double(&mut span, "gen_ai.latency.time_in_queue", random.next() as f64 / u64::MAX as f64);
        put_int(&mut span, "thread.id", 140_000_000_000_000 + random.below(1_000_000_000));
        if index == 3 || index == 6 {
            put_string(&mut span, "gen_ai.response.finish_reason", FINISH[random.below(3) as usize]);
        }
        put_varint_field(&mut span, 14, 1 + (index as u64 % 2));
        clock += 20_000 + random.below(duration / 2 + 1) as i64;
        put_bytes_field(batch, 1, &span);
    }
}

fn origin() -> Vec<u8> {
    let mut resource = Vec::new();
    for (key, value) in [
        ("service.name", "model-serving"),
        ("service.version", "1.4.2"),
        ("telemetry.sdk.name", "opentelemetry"),
        ("k8s.cluster.name", "prod-1"),
        ("cloud.region", "us-east-1"),
    ] {
        let mut any = Vec::new();
        put_bytes_field(&mut any, 1, value.as_bytes());
        let mut pair = Vec::new();
        put_bytes_field(&mut pair, 1, key.as_bytes());
        put_bytes_field(&mut pair, 2, &any);
        put_bytes_field(&mut resource, 1, &pair);
    }
    let mut scope = Vec::new();
    put_bytes_field(&mut scope, 1, b"vllm.tracing");
    put_bytes_field(&mut scope, 2, b"0.9.0");
    let mut origin = Vec::new();
    put_bytes_field(&mut origin, 1, &resource);
    put_bytes_field(&mut origin, 2, &scope);
    origin
}

/// Records of one partition with at least so many spans.
pub(crate) fn records(spans: usize) -> Vec<Record> {
    let mut random = Random(0x1f3d_5b79_2468_ace0);
    let spans_a_record = SPANS_A_TRACE * TRACES_A_RECORD;
    (0..spans.div_ceil(spans_a_record))
        .map(|number| {
            let mut payload = Vec::with_capacity(spans_a_record * 700);
            put_bytes_field(
                &mut payload,
                2,
                &[random.next().to_be_bytes(), random.next().to_be_bytes()].concat(),
            );
            put_bytes_field(&mut payload, 4, &origin());
            for trace in 0..TRACES_A_RECORD {
                put_trace(&mut payload, &mut random, number * TRACES_A_RECORD + trace);
            }
            Record {
                from: TopicPartition::new("infertrace.spans.v1", 0),
                offset: Offset(number as u64),
                timestamp: Millis(START_NS / 1_000_000),
                key: None,
                payload: Some(Bytes::from(payload)),
                headers: Vec::new(),
            }
        })
        .collect()
}

/// CPU time of this process, from /proc; ticks of 10 ms.
pub(crate) fn cpu_time() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit(')').next().context("a process has a name")?;
    let ticks = |field: usize| -> Result<u64> {
        Ok(after_name.split_whitespace().nth(field).context("a field")?.parse()?)
    };
    Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * 10))
}

/// Most memory that this process has used, MiB.
pub(crate) fn peak_rss_mib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM")).context("VmHWM")?;
    Ok(line.split_whitespace().nth(1).context("value")?.parse::<u64>()? / 1024)
}
