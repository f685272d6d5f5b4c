//! Spans per CPU-second through reader, assembly, analysis, summary encoding and rollups; memory per open trace.
//!
//! `cargo run --release --example processor_bench [-- TRACES]` prints one JSON line. Traces have 8 spans
//! of about 600 bytes from 4 services; each trace's spans come in 4 records of 1,000 spans. The rollups end as encoded
//! partials. One thread; CPU time is the kernel's, so other work on the machine does not count.
//!
//! `… processor_bench keys [MODELS [DEVICES [REQUESTS]]]` (10,000, 20 and 500,000) measures many keys: requests of two
//! spans, a client's and its engine's, of any model on any of its devices, over 20 s of event time.

use std::{hint::black_box, time::Instant};

use infertrace_processors::{
    Config,
    assembly::{Assembly, Closed, Resume},
    partials::Writer,
    rollup::{Columns, Limits, Roller},
    rows::{self, Rows},
};
use infertrace_proto::v1::{
    AnyValue, GpuMetrics, InferenceContext, KeyValue, PipelineContext, ResourceMetrics, Span,
    any_value::Value,
};
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

#[derive(Default)]
struct Outcome {
    summaries: usize,
    summary_bytes: usize,
    peak_traces: usize,
    peak_bytes: usize,
    /// Most cells at a time, and their bytes.
    cells: usize,
    cell_bytes: usize,
    keys: usize,
    flushes: usize,
    partials: usize,
    partial_bytes: usize,
    folded: u64,
}

/// What a session does between the log's two ends.
struct Pipeline {
    assembly: Assembly,
    roller: Option<Roller>,
    reader: SpanReader,
    steps: Vec<(u64, usize, i64)>,
    closed: Vec<Closed>,
    writer: Writer,
    outcome: Outcome,
    clock: Instant,
    cpu_s: f64,
}

impl Pipeline {
    fn new(limits: Option<Limits>) -> Self {
        let config = Config { max_state_bytes: 8 << 30, max_traces: usize::MAX, ..Config::default() };
        let mut assembly = Assembly::new(config.limits(), TraceSummary::<'static>::schema().id);
        assembly.assign(0, Resume::default());
        let roller = limits.map(|limits| {
            let pricer = config.pricer().expect("the built-in prices");
            let mut roller = Roller::priced(limits, pricer);
            roller.assign(0, 0, None);
            roller
        });
        Self {
            assembly,
            roller,
            reader: rows::reader(8_192),
            steps: Vec::new(),
            closed: Vec::new(),
            writer: Writer::default(),
            outcome: Outcome::default(),
            clock: Instant::now(),
            cpu_s: 0.0,
        }
    }

    /// Takes a record stamped `at_ms`; `true` when a batch was finished.
    fn record(&mut self, offset: u64, at_ms: i64, payload: &[u8]) -> bool {
        let begin = cpu_seconds(self.clock);
        let position = Position { partition: 0, offset: offset as i64 };
        self.steps.push((offset, self.reader.push(payload, position).expect("own record").spans, at_ms));
        let is_full = self.reader.len() >= 8_000;
        if is_full {
            self.batch();
        }
        self.cpu_s += cpu_seconds(self.clock) - begin;
        is_full
    }

    fn batch(&mut self) {
        let batch = self.reader.finish();
        let mut rows = Rows::new(&batch).expect("the span schema");
        let mut columns = Columns::new(&batch).expect("the span schema");
        let mut row = 0;
        for (offset, spans, at_ms) in self.steps.drain(..) {
            self.assembly.begin_record(0, at_ms, &mut self.closed);
            if let Some(roller) = &mut self.roller {
                roller.begin_record(0, offset, at_ms);
            }
            for _ in 0..spans {
                let mut input = rows.span(row, self.assembly.names());
                input.cost = self.roller.as_mut().and_then(|roller| roller.cost(&mut columns, row));
                let is_new = self.assembly.span(0, offset, &input, &mut self.closed);
                if let (true, Some(roller)) = (is_new, &mut self.roller) {
                    roller.span(0, &mut columns, row, input.cost.as_ref());
                }
                row += 1;
            }
            self.assembly.end_record(0, offset, &mut self.closed);
            if let Some(roller) = &mut self.roller {
                roller.end_record(0, offset);
            }
        }
        self.take_closed();
        let outcome = &mut self.outcome;
        if let Some(roller) = &self.roller
            && roller.bytes() > outcome.cell_bytes
        {
            (outcome.cells, outcome.cell_bytes) = (roller.cells(), roller.bytes());
            outcome.keys = outcome.keys.max(roller.keys());
        }
        self.flush(false);
        if self.assembly.traces() > self.outcome.peak_traces {
            self.outcome.peak_traces = self.assembly.traces();
            self.outcome.peak_bytes = self.assembly.bytes();
        }
    }

    fn take_closed(&mut self) {
        for closed in self.closed.drain(..) {
            if let Some(roller) = &mut self.roller {
                roller.trace(0, &closed.facts, self.assembly.known_names());
            }
            self.outcome.summaries += 1;
            self.outcome.summary_bytes += black_box(closed.summary).len();
        }
    }

    fn flush(&mut self, all: bool) {
        let Some(roller) = &mut self.roller else { return };
        let mut partials = Vec::new();
        if all || roller.wants_flush(0) {
            self.outcome.flushes += 1;
            roller.flush(0, &mut partials);
        } else {
            roller.flush_traces(0, &mut partials);
        }
        self.outcome.folded += roller.take_counts().folded;
        self.outcome.partials += partials.len();
        for partial in partials {
            self.writer.push(&partial);
            if self.writer.is_full() {
                self.outcome.partial_bytes += black_box(self.writer.finish(0, None)).len();
            }
        }
        self.outcome.partial_bytes += black_box(self.writer.finish(0, Some(0))).len();
    }

    fn finish(mut self) -> (Outcome, f64) {
        let begin = cpu_seconds(self.clock);
        self.batch();
        self.assembly.advance(0, i64::MAX, &mut self.closed);
        self.take_closed();
        self.flush(true);
        self.cpu_s += cpu_seconds(self.clock) - begin;
        (self.outcome, self.cpu_s)
    }
}

/// `step_ms` is how far the record timestamps move a record; 0 keeps every trace open to the end.
fn process(
    records: &[Vec<u8>],
    step_ms: i64,
    limits: Option<Limits>,
    mut each_batch: impl FnMut(),
) -> (Outcome, f64) {
    let mut pipeline = Pipeline::new(limits);
    for (offset, payload) in records.iter().enumerate() {
        if pipeline.record(offset as u64, START / 1_000_000 + offset as i64 * step_ms, payload) {
            each_batch();
        }
    }
    pipeline.finish()
}

fn read_only(records: &[Vec<u8>]) -> usize {
    let mut reader = rows::reader(8_192);
    let mut rows = 0;
    for (offset, payload) in records.iter().enumerate() {
        reader.push(payload, Position { partition: 0, offset: offset as i64 }).expect("own record");
        if reader.len() >= 8_000 {
            rows += black_box(reader.finish()).num_rows();
        }
    }
    rows + black_box(reader.finish()).num_rows()
}

/// The client's and the engine's span of request `number`, of one of `models` on one of its `devices`.
fn request(number: usize, models: usize, devices: usize, end_ms: i64) -> [Span; 2] {
    let spread = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
    let (model, device) = (spread as usize % models, spread as usize / models % devices);
    let duration_ms = 200 + (spread % 1_800) as i64;
    let inference = |framework: &str| InferenceContext {
        model_name: format!("model-{model}"),
        model_version: "1.0.0".to_owned(),
        framework: framework.to_owned(),
        batch_size: (!framework.is_empty()).then_some(8),
        max_batch_size: (!framework.is_empty()).then_some(64),
        input_tokens: Some(100 + spread % 4_000),
        output_tokens: Some(10 + spread % 500),
        cached_tokens: Some(64),
        ttft_nanos: Some(50_000_000 + spread % 100_000_000),
        request_id: format!("chatcmpl-{number}"),
        ..InferenceContext::default()
    };
    let plain = |index: usize| Span {
        operation_name: ["chat", "llm_request"][index].to_owned(),
        service_name: ["gateway", "vllm-server"][index].to_owned(),
        start_time_unix_nano: (end_ms - duration_ms) * 1_000_000,
        duration_nanos: duration_ms * 1_000_000,
        kind: [3, 2][index],
        inference: Some(inference(["", "vllm"][index])),
        ..span(number, index)
    };
    let mut engine = plain(1);
    engine.pipeline = Some(PipelineContext {
        stage: "inference".to_owned(),
        queue_wait_time_ms: Some((spread % 40) as f64),
        kv_cache_usage_ratio: Some(0.6),
        ..PipelineContext::default()
    });
    let device_id = format!("GPU-{model:08x}-{device:04x}");
    let gpu = GpuMetrics { device_id, utilization_percent: Some(70.0), ..GpuMetrics::default() };
    engine.resources = Some(ResourceMetrics { gpu: Some(gpu), ..ResourceMetrics::default() });
    [plain(0), engine]
}

const REQUESTS_PER_RECORD: usize = 500;
/// Event time over which requests of `keys` are spread.
const KEYS_MS: usize = 20_000;

fn keys(arguments: &[usize]) {
    let argument = |at: usize, default: usize| arguments.get(at).copied().unwrap_or(default);
    let (models, devices, requests) = (argument(0, 10_000), argument(1, 20), argument(2, 500_000));
    let before = rss_bytes();
    let mut grown = 0;
    let mut pipeline = Pipeline::new(Some(Config::default().rollup_limits()));
    let (mut spans, mut bytes) = (0, 0);
    for (offset, first) in (0..requests).step_by(REQUESTS_PER_RECORD).enumerate() {
        let at_ms = START / 1_000_000 + (first * KEYS_MS / requests) as i64;
        let encoded: Vec<Vec<u8>> = (first..requests.min(first + REQUESTS_PER_RECORD))
            .flat_map(|number| request(number, models.max(1), devices.max(1), at_ms))
            .map(|span| span.encode_to_vec())
            .collect();
        let payload = encode_share("", b"", encoded.iter().map(Vec::as_slice), &[]);
        (spans, bytes) = (spans + encoded.len(), bytes + payload.len());
        if pipeline.record(offset as u64, at_ms, &payload) {
            grown = grown.max(rss_bytes().saturating_sub(before));
        }
    }
    let (outcome, cpu_s) = pipeline.finish();
    println!(
        "{{\"bench\":\"processor_keys\",\"models\":{models},\"devices\":{devices},\"spans\":{spans},\"span_bytes\":{:.0},\
         \"spans_per_cpu_s\":{:.0},\"keys\":{},\"folded\":{},\"cells\":{},\"cell_mib\":{:.1},\"rss_mib\":{:.1},\
         \"flushes\":{},\"partials\":{},\"partial_bytes_per_span\":{:.1}}}",
        bytes as f64 / spans as f64,
        spans as f64 / cpu_s,
        outcome.keys,
        outcome.folded,
        outcome.cells,
        outcome.cell_bytes as f64 / 1_048_576.0,
        grown as f64 / 1_048_576.0,
        outcome.flushes,
        outcome.partials,
        outcome.partial_bytes as f64 / spans as f64,
    );
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|mode| mode == "keys") {
        let numbers: Vec<usize> = arguments.iter().filter_map(|number| number.parse().ok()).collect();
        return keys(&numbers);
    }
    let traces = arguments.first().and_then(|count| count.parse().ok()).unwrap_or(50_000);
    let records = records(traces);
    let bytes: usize = records.iter().map(Vec::len).sum();
    let clock = Instant::now();
    let limits = Config::default().rollup_limits();

    // First, while the heap is fresh: memory that earlier rounds freed would hide the growth.
    let before = rss_bytes();
    let mut grown = 0;
    let (open, _) = process(&records, 0, None, || grown = rss_bytes().saturating_sub(before));

    // All alike: the best of three rounds, on warm memory.
    let (mut reader_s, mut assembly_s, mut whole_s) = (f64::MAX, f64::MAX, f64::MAX);
    let mut spans = 0;
    let mut outcome = Outcome::default();
    for _ in 0..3 {
        let begin = cpu_seconds(clock);
        spans = read_only(&records);
        reader_s = reader_s.min(cpu_seconds(clock) - begin);
        // 250 ms a record: a trace is open for 5 s and remembered for 30 s of event time.
        assembly_s = assembly_s.min(process(&records, 250, None, || {}).1);
        let (found, cpu_s) = process(&records, 250, Some(limits), || {});
        whole_s = whole_s.min(cpu_s);
        outcome = found;
    }
    let nanos_each = |seconds: f64| seconds.max(0.0) * 1e9 / spans as f64;
    println!(
        "{{\"bench\":\"processor\",\"spans\":{spans},\"span_bytes\":{:.0},\"reader_spans_per_cpu_s\":{:.0},\
         \"assembly_spans_per_cpu_s\":{:.0},\"spans_per_cpu_s\":{:.0},\"assembly_ns_per_span\":{:.0},\
         \"rollup_ns_per_span\":{:.0},\"cells\":{},\"partials\":{},\"partial_bytes_per_span\":{:.2},\
         \"summaries\":{},\"summary_bytes\":{:.0},\
         \"open_traces\":{},\"state_bytes_per_open_trace\":{:.0},\"rss_bytes_per_open_trace\":{:.0}}}",
        bytes as f64 / spans as f64,
        spans as f64 / reader_s,
        spans as f64 / assembly_s,
        spans as f64 / whole_s,
        nanos_each(assembly_s - reader_s),
        nanos_each(whole_s - assembly_s),
        outcome.cells,
        outcome.partials,
        outcome.partial_bytes as f64 / spans as f64,
        outcome.summaries,
        outcome.summary_bytes as f64 / outcome.summaries.max(1) as f64,
        open.peak_traces,
        open.peak_bytes as f64 / open.peak_traces.max(1) as f64,
        grown as f64 / open.peak_traces.max(1) as f64,
    );
}
