//! Spans per CPU-second through reader, assembly, analysis and summary encoding; memory per open trace.
//!
//! `cargo run --release -p infertrace-processors --example processor_bench [-- TRACES]` prints one JSON line. Traces have 8 spans
//! of about 600 bytes from 4 services; each trace's spans come in 4 records of 1,000 spans. One thread; CPU time is
//! the kernel's, so other work on the machine does not count.

use std::{hint::black_box, time::Instant};

use infertrace_processors::{
    Config,
    assembly::{Assembly, Closed, Resume},
    rows::Rows,
};
use infertrace_proto::v1::{AnyValue, InferenceContext, KeyValue, PipelineContext, Span, any_value::Value};
use infertrace_schemas::{
    avro::{AvroRecord, TraceSummary},
    reader::{Position, SpanReader},
    record::encode_share,
};
use prost::Message;

const SPANS_PER_TRACE: usize = 8;
const RECORDS_PER_GROUP: usize = 4;
const TRACES_PER_GROUP: usize = 500;
const START: i64 = 1_700_000_000_000_000_000;

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}

fn span(trace: usize, index: usize) -> Span {
    let mut trace_id = vec![0; 16];
    trace_id[..8].copy_from_slice(&(trace as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    trace_id[8..].copy_from_slice(&(trace as u64 + 1).to_be_bytes());
    let id = |index: usize| (((trace * SPANS_PER_TRACE + index) as u64) << 8 | 1).to_be_bytes().to_vec();
    let is_engine = index == SPANS_PER_TRACE - 1;
    let text = |value: &str| Value::StringValue(value.to_owned());
    Span {
        trace_id,
        span_id: id(index),
        parent_span_id: if index == 0 { Vec::new() } else { id(index - 1 - (index % 2)) },
        service_name: ["gateway", "tokenizer", "router", "vllm"][index / 2].to_owned(),
        operation_name: format!("operation-{index}"),
        start_time_unix_nano: START + (trace * 1_000 + index * 100_000) as i64,
        duration_nanos: (2_000_000 - index * 210_000) as i64,
        kind: if index % 2 == 1 { 3 } else { 2 },
        attributes: vec![
            attribute("http.request.method", text("POST")),
            attribute("url.path", text("/v1/chat/completions")),
            attribute("http.response.status_code", Value::IntValue(200)),
            attribute("server.address", text("inference-7f9c4d5b6-x2x8k.models.svc.cluster.local")),
            attribute("k8s.pod.name", text("inference-7f9c4d5b6-x2x8k")),
            attribute("user_agent.original", text("python-httpx/0.28.1 openai-python/1.99.2")),
            attribute("gen_ai.request.temperature", Value::DoubleValue(0.7)),
            attribute("network.peer.address", text("10.42.17.133")),
            attribute("client.request", text("3f0d2a6e-9a51-4cde-9ec1-2c8a2f6f1b77")),
        ],
        inference: is_engine.then(|| InferenceContext {
            model_name: "llama-3.1-70b".to_owned(),
            input_tokens: Some(512),
            output_tokens: Some(128),
            ttft_nanos: Some(180_000),
            request_id: format!("chatcmpl-{trace}"),
            ..InferenceContext::default()
        }),
        pipeline: is_engine
            .then(|| PipelineContext { queue_wait_time_ms: Some(0.05), ..PipelineContext::default() }),
        ..Span::default()
    }
}

fn records(traces: usize) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    for group in 0..traces.div_ceil(TRACES_PER_GROUP) {
        for part in 0..RECORDS_PER_GROUP {
            let per_part = SPANS_PER_TRACE / RECORDS_PER_GROUP;
            let spans: Vec<Vec<u8>> = (group * TRACES_PER_GROUP..(group + 1) * TRACES_PER_GROUP)
                .flat_map(|trace| (part * per_part..(part + 1) * per_part).map(move |index| (trace, index)))
                .map(|(trace, index)| span(trace, index).encode_to_vec())
                .collect();
            records.push(encode_share("", b"", spans.iter().map(Vec::as_slice), &[]));
        }
    }
    records
}

/// CPU seconds of this thread.
fn cpu_seconds(start: Instant) -> f64 {
    let kernel = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = kernel.and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    nanos.map_or_else(|| start.elapsed().as_secs_f64(), |nanos| nanos / 1e9)
}

fn rss_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4_096
}

struct Outcome {
    summaries: usize,
    summary_bytes: usize,
    peak_traces: usize,
    peak_bytes: usize,
}

/// `step_ms` is how far the record timestamps move a record; 0 keeps every trace open to the end.
fn assemble(records: &[Vec<u8>], step_ms: i64, mut each_batch: impl FnMut()) -> Outcome {
    let config = Config { max_state_bytes: 8 << 30, max_traces: usize::MAX, ..Config::default() };
    let mut assembly = Assembly::new(config.limits(), TraceSummary::<'static>::schema().id);
    assembly.assign(0, Resume::default());
    let mut reader = SpanReader::with_capacity(8_192);
    let mut out: Vec<Closed> = Vec::new();
    let mut outcome = Outcome { summaries: 0, summary_bytes: 0, peak_traces: 0, peak_bytes: 0 };
    let mut steps = Vec::new();
    for (offset, payload) in records.iter().enumerate() {
        let position = Position { partition: 0, offset: offset as i64 };
        steps.push((offset as u64, reader.push(payload, position).expect("own record").spans));
        if reader.len() < 8_000 && offset + 1 < records.len() {
            continue;
        }
        let batch = reader.finish();
        let mut rows = Rows::new(&batch).expect("the span schema");
        let mut row = 0;
        for (offset, spans) in steps.drain(..) {
            assembly.begin_record(0, START / 1_000_000 + offset as i64 * step_ms, &mut out);
            for _ in 0..spans {
                let input = rows.span(row, assembly.names());
                assembly.span(0, offset, &input, &mut out);
                row += 1;
            }
            assembly.end_record(0, offset, &mut out);
        }
        for closed in out.drain(..) {
            outcome.summaries += 1;
            outcome.summary_bytes += black_box(closed.summary).len();
        }
        if assembly.traces() > outcome.peak_traces {
            outcome.peak_traces = assembly.traces();
            outcome.peak_bytes = assembly.bytes();
        }
        each_batch();
    }
    assembly.advance(0, i64::MAX, &mut out);
    for closed in out.drain(..) {
        outcome.summaries += 1;
        outcome.summary_bytes += black_box(closed.summary).len();
    }
    outcome
}

fn read_only(records: &[Vec<u8>]) -> usize {
    let mut reader = SpanReader::with_capacity(8_192);
    let mut rows = 0;
    for (offset, payload) in records.iter().enumerate() {
        reader.push(payload, Position { partition: 0, offset: offset as i64 }).expect("own record");
        if reader.len() >= 8_000 {
            rows += black_box(reader.finish()).num_rows();
        }
    }
    rows + black_box(reader.finish()).num_rows()
}

fn main() {
    let traces = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(50_000);
    let records = records(traces);
    let bytes: usize = records.iter().map(Vec::len).sum();
    let clock = Instant::now();

    // First, while the heap is fresh: memory that earlier rounds freed would hide the growth.
    let before = rss_bytes();
    let mut grown = 0;
    let open = assemble(&records, 0, || grown = rss_bytes().saturating_sub(before));

    // Reader and whole alike: the best of three rounds, on warm memory.
    let (mut reader_s, mut whole_s) = (f64::MAX, f64::MAX);
    let mut spans = 0;
    let mut outcome = None;
    for _ in 0..3 {
        let begin = cpu_seconds(clock);
        spans = read_only(&records);
        reader_s = reader_s.min(cpu_seconds(clock) - begin);
        // 250 ms a record: a trace is open for 5 s and remembered for 30 s of event time.
        let begin = cpu_seconds(clock);
        outcome = Some(assemble(&records, 250, || {}));
        whole_s = whole_s.min(cpu_seconds(clock) - begin);
    }
    let outcome = outcome.expect("at least one round");
    println!(
        "{{\"bench\":\"processor\",\"spans\":{spans},\"span_bytes\":{:.0},\"reader_spans_per_cpu_s\":{:.0},\
         \"spans_per_cpu_s\":{:.0},\"assembly_ns_per_span\":{:.0},\"summaries\":{},\"summary_bytes\":{:.0},\
         \"open_traces\":{},\"state_bytes_per_open_trace\":{:.0},\"rss_bytes_per_open_trace\":{:.0}}}",
        bytes as f64 / spans as f64,
        spans as f64 / reader_s,
        spans as f64 / whole_s,
        (whole_s - reader_s).max(0.0) * 1e9 / spans as f64,
        outcome.summaries,
        outcome.summary_bytes as f64 / outcome.summaries.max(1) as f64,
        open.peak_traces,
        open.peak_bytes as f64 / open.peak_traces.max(1) as f64,
        grown as f64 / open.peak_traces.max(1) as f64,
    );
}
