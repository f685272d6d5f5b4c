//! Costs in the first stage's rollups and summaries, and configurations of prices.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use infertrace_analytics::rollup::{Counter, Partial, Shape};
use infertrace_processors::{
    Config,
    assembly::{Assembly, Resume},
    rollup::{Columns, Roller},
    rows::{self, Rows},
};
use infertrace_proto::v1;
use infertrace_schemas::{
    avro::{AvroRecord, Importance, SchemaIds, TraceSummary},
    reader::Position,
};
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

/// What spans are counted as.
fn rolled(config: &Config, spans: Vec<v1::Span>) -> Vec<Partial> {
    rolled_from(config, spans, v1::Origin::default())
}

fn read(spans: Vec<v1::Span>, origin: v1::Origin) -> RecordBatch {
    let batch = v1::SpanBatch { spans, origins: vec![origin], ..v1::SpanBatch::default() };
    let mut reader = rows::reader(0);
    reader.push(&batch.encode_to_vec(), Position { partition: 0, offset: 0 }).expect("a record");
    reader.finish()
}

fn rolled_from(config: &Config, spans: Vec<v1::Span>, origin: v1::Origin) -> Vec<Partial> {
    let batch = read(spans, origin);
    let mut columns = Columns::new(&batch).expect("the span schema");
    let mut roller = Roller::priced(config.rollup_limits(), config.pricer().expect("prices"));
    roller.assign(0, 0, None);
    roller.begin_record(0, 0, T0_NS / 1_000_000);
    for row in 0..batch.num_rows() {
        let cost = roller.cost(&mut columns, row);
        roller.span(0, &mut columns, row, cost.as_ref());
    }
    roller.end_record(0, 0);
    let mut partials: Vec<Partial> = Vec::new();
    roller.flush(0, &mut partials).expect("assigned");
    partials
}

/// GPU microseconds and billionths of a dollar that requests count, by shape of their cells.
fn counted(config: &Config, spans: Vec<v1::Span>) -> Vec<(Shape, u64, u64)> {
    let numbers = |one: &Partial| {
        (one.key.shape(), one.cell.get(Counter::GpuMicros), one.cell.get(Counter::CostNanoUsd))
    };
    let partials = rolled(config, spans);
    partials.iter().filter(|one| one.key.shape() != Shape::Device).map(numbers).collect()
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

/// Scenario: requests of two models and one of an unknown batch on one device, in a place that the resource names.
/// Guarantee: cells say how much is estimated, at which prices, and what is not known; the device is charged for
/// both models' requests once, apart from their own cost.
#[test]
fn cells_say_how_much_is_estimated() {
    let second = v1::Span { span_id: vec![3; 8], ..request(Some(2)) };
    let second = v1::Span {
        inference: second
            .inference
            .map(|facts| v1::InferenceContext { model_name: "mixtral".to_owned(), ..facts }),
        ..second
    };
    let third = v1::Span { span_id: vec![4; 8], ..request(None) };
    let partials = rolled(&config(), vec![request(Some(4)), second, third]);
    let version = config().pricer().expect("prices").version().to_string();
    let of = |model: &str, shape: Shape| {
        let found = partials.iter().find(|one| &*one.key.model == model && one.key.shape() == shape);
        &found.unwrap_or_else(|| panic!("no cell of {model:?}")).cell
    };
    let llama = of("llama", Shape::Request);
    let counters =
        [Counter::CostNanoUsd, Counter::EstimatedNanoUsd, Counter::UnpricedRequests, Counter::Requests];
    assert_eq!(counters.map(|counter| llama.get(counter)), [3_822_222, 3_822_222, 1, 2]);
    assert_eq!(llama.price_versions().collect::<Vec<_>>(), [version.as_str()]);
    let device = of("", Shape::Device);
    assert_eq!(device.get(Counter::ChargedNanoUsd), 3_822_222 + 7_644_444);
    assert_eq!(device.get(Counter::CostNanoUsd), 0, "it stands with the requests");
}

/// Scenario: the same request in a region that its resource names, in one without a price, and in none. Guarantee: a price
/// of the place is no estimate where the steps are recorded; another one is.
#[test]
fn the_region_is_that_of_the_resource() {
    let timeline = v1::TokenTimeline {
        generation_micros_delta: vec![3_000_000],
        batch_sizes: vec![1],
        ..v1::TokenTimeline::default()
    };
    let estimated = |region: Option<&str>| {
        let attribute = |region: &str| v1::KeyValue {
            key: "cloud.region".to_owned(),
            value: Some(v1::AnyValue { value: Some(v1::any_value::Value::StringValue(region.to_owned())) }),
        };
        let resource = v1::Resource {
            attributes: region.map(attribute).into_iter().collect(),
            ..v1::Resource::default()
        };
        let origin = v1::Origin { resource: Some(resource), ..v1::Origin::default() };
        let recorded = v1::Span { tokens: Some(timeline.clone()), ..request(Some(1)) };
        let partials = rolled_from(&Config::default(), vec![recorded], origin);
        let cell = &partials.iter().find(|one| one.key.shape() == Shape::Request).expect("a request").cell;
        assert!(cell.get(Counter::CostNanoUsd) > 0);
        cell.get(Counter::EstimatedNanoUsd) > 0
    };
    assert!(!estimated(Some("us-east-1")));
    assert!(estimated(Some("mars")));
    assert!(estimated(None));
}

/// Scenario: a trace in which a client's call, at a provider with token prices, reaches an engine of ours. Guarantee: the summary says the engine's cost once, as what, and at which prices.
#[test]
fn a_summary_says_what_the_trace_cost() {
    let config = config();
    let call = v1::Span {
        span_id: vec![1; 8],
        kind: 3,
        service_name: "chat".to_owned(),
        pipeline: None,
        resources: None,
        ..request(None)
    };
    let engine = v1::Span { parent_span_id: vec![1; 8], ..request(Some(4)) };
    let summary = summary_of(&config, vec![call, engine]);
    assert_eq!((summary.cost_nano_usd, summary.gpu_micros), (Some(3_822_222), Some(2_000_000)));
    assert_eq!((&*summary.cost_kind, &*summary.cost_basis), ("estimated", "gpu"));
    assert_eq!(&*summary.price_version, &**config.pricer().expect("prices").version());
}

/// Scenario: a request of 3,822,222 billionths of a dollar, with the threshold right at it, just above it, and with a
/// failure or a slow trace beside it; one whose cost nobody knows. Guarantee: costly from the threshold on; a failure and
/// slowness come first, as they are kept longer; what is not known is not costly; the same spans say the same again.
#[test]
fn a_costly_trace_is_important() {
    let importance = |costly_trace_usd: f64, slow_trace_ms: i64, spans: Vec<v1::Span>| {
        let config = Config { costly_trace_usd, slow_trace_ms, ..config() };
        let summary = summary_of(&config, spans.clone());
        assert_eq!(summary, summary_of(&config, spans));
        summary.importance
    };
    let engine = || vec![request(Some(4))];
    assert_eq!(importance(0.003_822_222, 60_000, engine()), Importance::Costly);
    assert_eq!(importance(0.003_822_223, 60_000, engine()), Importance::Plain);
    assert_eq!(importance(f64::INFINITY, 60_000, engine()), Importance::Plain);
    assert_eq!(importance(0.001, 10_000, engine()), Importance::Slow);
    let status = v1::Status { code: v1::StatusCode::Error as i32, ..v1::Status::default() };
    let failed = v1::Span { status: Some(status), ..request(Some(4)) };
    assert_eq!(importance(0.001, 60_000, vec![failed]), Importance::Error);
    assert_eq!(importance(0.001, 60_000, vec![request(None)]), Importance::Plain);
    for wrong in [0.0, -1.0, f64::NAN] {
        let refused = Config { costly_trace_usd: wrong, ..config() }.check().expect_err("refused");
        assert_eq!(refused, "costly_trace_usd must be above 0");
    }
}

/// The one summary of the spans of one trace.
fn summary_of(config: &Config, spans: Vec<v1::Span>) -> TraceSummary<'static> {
    let pricer = config.pricer().expect("prices");
    let batch = read(spans, v1::Origin::default());
    let mut rows = Rows::new(&batch).expect("the span schema");
    let mut columns = Columns::new(&batch).expect("the span schema");
    let mut roller = Roller::priced(config.rollup_limits(), pricer.clone());
    let mut assembly =
        Assembly::new(config.limits(), TraceSummary::<'static>::schema().id).with_prices(pricer.version());
    assembly.assign(0, Resume::default());
    let mut closed = Vec::new();
    assembly.begin_record(0, 0, &mut closed);
    for row in 0..batch.num_rows() {
        let mut span = rows.span(row, assembly.names());
        span.cost = roller.cost(&mut columns, row);
        assembly.span(0, 0, &span, &mut closed);
    }
    assembly.end_record(0, 0, &mut closed);
    assembly.advance(0, 3_600_000, &mut closed);
    assert_eq!(closed.len(), 1);
    SchemaIds::embedded::<TraceSummary<'static>>().decode(&closed[0].summary).expect("a summary")
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
