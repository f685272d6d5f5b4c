//! Costs in the first stage's rollups, and configurations of prices.

use std::sync::Arc;

use infertrace_analytics::rollup::{Counter, Partial, Shape};
use infertrace_processors::{
    Config,
    rollup::{Columns, Roller},
};
use infertrace_proto::v1;
use infertrace_schemas::reader::{Position, SpanReader};
use prost::Message;

/// 2026-09-15T00:00:00Z.
const T0_NS: i64 = 1_789_430_400_000_000_000;
const SECOND: i64 = 1_000_000_000;

fn config() -> Config {
    Config { default_region: "us-east-1".to_owned(), ..Config::default() }
}

/// A request of 10 s on an H100: 2 s in the queue, 1 s to the first token, 7 s to the last.
fn request(batch: Option<u32>) -> v1::Span {
    v1::Span {
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        service_name: "vllm".to_owned(),
        operation_name: "llm_request".to_owned(),
        start_time_unix_nano: T0_NS,
        duration_nanos: 10 * SECOND,
        inference: Some(v1::InferenceContext {
            model_name: "llama".to_owned(),
            framework: "vllm".to_owned(),
            batch_size: batch,
            input_tokens: Some(100),
            output_tokens: Some(4),
            ttft_nanos: Some(3 * SECOND as u64),
            ..v1::InferenceContext::default()
        }),
        pipeline: Some(v1::PipelineContext {
            queue_wait_time_ms: Some(2_000.0),
            ..v1::PipelineContext::default()
        }),
        resources: Some(v1::ResourceMetrics {
            gpu: Some(v1::GpuMetrics {
                device_id: "GPU-1".to_owned(),
                instance_type: "p5.48xlarge".to_owned(),
                ..v1::GpuMetrics::default()
            }),
            ..v1::ResourceMetrics::default()
        }),
        ..v1::Span::default()
    }
}

/// GPU microseconds and billionths of a dollar that the spans count, by shape of their cells.
fn counted(config: &Config, spans: Vec<v1::Span>) -> Vec<(Shape, u64, u64)> {
    let batch = v1::SpanBatch { spans, origins: vec![v1::Origin::default()], ..v1::SpanBatch::default() };
    let mut reader = SpanReader::new();
    let pushed = reader.push(&batch.encode_to_vec(), Position { partition: 0, offset: 0 }).expect("a record");
    let batch = reader.finish();
    let mut columns = Columns::new(&batch).expect("the span schema");
    let mut roller = Roller::priced(config.rollup_limits(), config.pricer().expect("prices"));
    roller.assign(0, 0, None);
    roller.begin_record(0, 0, T0_NS / 1_000_000);
    for row in 0..pushed.spans {
        let cost = roller.cost(&mut columns, row);
        roller.span(0, &mut columns, row, cost.as_ref());
    }
    roller.end_record(0, 0);
    let mut partials: Vec<Partial> = Vec::new();
    roller.flush(0, &mut partials).expect("assigned");
    let numbers = |one: &Partial| {
        (one.key.shape(), one.cell.get(Counter::GpuMicros), one.cell.get(Counter::CostNanoUsd))
    };
    partials.iter().map(numbers).collect()
}

/// Scenario: a request in a mean batch of 4; two of them; one with its steps recorded; one whose batch nobody tells.
/// Guarantee: GPU time is the time on the device over the batch, the queue is none of it, costs add up, steps decide where
/// they are known, and an unknown batch costs nothing rather than everything.
#[test]
fn requests_are_priced_by_their_share() {
    // 8 s ÷ 4 at 6.88 USD an hour.
    assert_eq!(counted(&config(), vec![request(Some(4))]), [(Shape::Request, 2_000_000, 3_822_222)]);
    let second = v1::Span { span_id: vec![3; 8], ..request(Some(4)) };
    assert_eq!(counted(&config(), vec![request(Some(4)), second]), [(Shape::Request, 4_000_000, 7_644_444)]);
    let timeline = v1::TokenTimeline {
        // 3 s to the first token, then 2 s, 2 s and 3 s, delta-coded.
        generation_micros_delta: vec![3_000_000, 2_000_000, 0, 1_000_000],
        batch_sizes: vec![1, 2, 4, 6],
        ..v1::TokenTimeline::default()
    };
    let recorded = v1::Span { tokens: Some(timeline), ..request(Some(4)) };
    // 1 s alone, 2 s ÷ 2, 2 s ÷ 4, 3 s ÷ 6.
    assert_eq!(counted(&config(), vec![recorded]), [(Shape::Request, 3_000_000, 5_733_333)]);
    assert_eq!(counted(&config(), vec![request(None)]), [(Shape::Request, 0, 0)]);
}

/// Scenario: a call of a provider that charges by token, by a table of the operator's. Guarantee: priced by its tokens, no
/// GPU time; with the built-in table, which has no such price, nothing.
#[test]
fn calls_are_priced_by_tokens() {
    let call = v1::Span {
        kind: 3,
        inference: Some(v1::InferenceContext {
            model_name: "large-1".to_owned(),
            provider: "acme".to_owned(),
            input_tokens: Some(1_000),
            output_tokens: Some(100),
            ..v1::InferenceContext::default()
        }),
        pipeline: None,
        resources: None,
        ..request(None)
    };
    let file = tempfile::NamedTempFile::new().expect("a file");
    let table = "[[tokens]]\nprovider = \"acme\"\nmodel = \"large*\"\ninput = 2.0\noutput = 8.0\n\
                 valid_from = 2026-07-01\nsource = \"contract\"\n";
    std::fs::write(file.path(), table).expect("written");
    let own = Config { prices: file.path().display().to_string(), ..config() };
    assert_eq!(counted(&own, vec![call.clone()]), [(Shape::Call, 0, 2_800_000)]);
    assert_eq!(counted(&config(), vec![call]), [(Shape::Call, 0, 0)]);
}

/// Scenario: price files that are missing or wrong, and a default that the table does not have. Guarantee: each is refused
/// with the file or key and what to do; a right one has another version than the built-in.
#[test]
fn configurations_of_prices_are_checked() {
    let refused = |config: Config| config.pricer().expect_err("refused");
    let message = refused(Config { prices: "/nowhere/prices.toml".to_owned(), ..config() });
    assert!(message.starts_with("prices: /nowhere/prices.toml cannot be read: "), "{message}");
    let message = refused(Config { default_instance_type: "x9.metal".to_owned(), ..config() });
    assert!(message.starts_with("default_instance_type: the price table has no \"x9.metal\""), "{message}");
    let file = tempfile::NamedTempFile::new().expect("a file");
    let entry = "[[gpu]]\nprovider = \"own\"\nregion = \"\"\ninstance_type = \"rack\"\ngpu = \"H100\"\ngpus = 8\n\
                 per_gpu_hour = 2.0\nvalid_from = 2026-01-01\nsource = \"us\"\n";
    let with = |text: String| {
        std::fs::write(file.path(), text).expect("written");
        Config { prices: file.path().display().to_string(), ..config() }
    };
    let message = refused(with(format!("{entry}currency = \"GBP\"\n")));
    assert!(message.contains("currency: no rate is given for \"GBP\""), "{message}");
    let own = with(entry.to_owned()).pricer().expect("valid");
    let built_in = config().pricer().expect("valid");
    assert!(!Arc::ptr_eq(&own, &built_in));
    assert_ne!(own.version(), built_in.version());
}
