//! The mapping table through the reader: one case a row, the order of sources, and whole spans as engines and
//! instrumentations send them.

use infertrace_proto::v1::{self, any_value::Value};
use infertrace_schemas::{
    columns::{self, name},
    mapping::{Convert, Kind, Place, ROWS, Row, Target},
    view::SpanView,
};
use serde_json::{Value as Json, json};

use crate::support::{attribute, bare_span, json_of, read_spans, text};

fn with_attributes(attributes: Vec<v1::KeyValue>) -> v1::Span {
    v1::Span { attributes, ..bare_span() }
}

fn resource(attributes: Vec<v1::KeyValue>) -> v1::Origin {
    v1::Origin {
        resource: Some(v1::Resource { attributes, dropped_attributes_count: 0 }),
        ..v1::Origin::default()
    }
}

fn scope(name: &str) -> v1::Origin {
    let scope = v1::Scope { name: name.to_owned(), ..v1::Scope::default() };
    v1::Origin { scope: Some(scope), ..v1::Origin::default() }
}

/// The text of one cell of a one-row batch.
fn cell(span: v1::Span, origin: v1::Origin, column: usize) -> String {
    let batch = read_spans(vec![span], origin);
    let column = batch.column(column);
    let options = arrow::util::display::FormatOptions::default().with_null("null");
    arrow::util::display::ArrayFormatter::try_new(column, &options)
        .expect("a printable column")
        .value(0)
        .to_string()
}

fn column_of(target: Target) -> Option<usize> {
    Target::COLUMNS.iter().find(|(known, _)| *known == target).map(|(_, column)| *column)
}

/// A value for a row, the `number`th of its kind, and how its column shows it.
fn sample(row: &Row, number: u32) -> (Value, String) {
    let (half, count) = (0.5 + f64::from(number), i64::from(number) + 7);
    let number_text = |value: f64| format!("{value:?}");
    match row.convert {
        Convert::Text | Convert::Reasons => {
            (Value::StringValue(format!("value-{number}")), format!("value-{number}"))
        }
        Convert::Count => (Value::IntValue(count), count.to_string()),
        Convert::Number => (Value::DoubleValue(half), number_text(half)),
        Convert::Flag => (Value::BoolValue(number.is_multiple_of(2)), number.is_multiple_of(2).to_string()),
        Convert::SecondsToNanos => (Value::DoubleValue(half), format!("{}", (half * 1e9) as u64)),
        Convert::MillisToNanos => (Value::DoubleValue(half), format!("{}", (half * 1e6) as u64)),
        Convert::SecondsToMillis => (Value::DoubleValue(half), number_text(half * 1e3)),
        Convert::RatioToPercent => (Value::DoubleValue(half), number_text(half * 100.0)),
        Convert::MebibytesToBytes => (Value::IntValue(count), format!("{}", count << 20)),
        Convert::Numbers => {
            let value = v1::AnyValue { value: Some(Value::DoubleValue(half)) };
            (Value::ArrayValue(v1::ArrayValue { values: vec![value] }), String::new())
        }
    }
}

/// Where a target shows; helpers show in the column that is derived from them.
fn shown(row: &Row, number: u32) -> (usize, v1::KeyValue, String) {
    let (value, expected) = sample(row, number);
    let column = column_of(row.target).unwrap_or(match row.target {
        Target::FirstChunkNs => columns::index::TTFT_NS,
        _ => columns::index::TOKENS,
    });
    (column, attribute(row.source, value), expected)
}

/// Scenario: each row of the table alone, as an attribute of a span, or of its resource where the row says so.
/// Guarantee: its column holds the value in the column's unit, and the attribute is still in its map.
#[test]
fn every_row_fills_its_column() {
    for row in ROWS {
        // Quantities that others are derived from have cases of their own below.
        if matches!(row.target, Target::E2eNs | Target::TokenTimes | Target::TokenBatchSizes) {
            continue;
        }
        let (column, sent, expected) = shown(row, 0);
        if row.place == Place::Anywhere {
            let span = with_attributes(vec![sent.clone()]);
            assert_eq!(cell(span.clone(), v1::Origin::default(), column), expected, "{}", row.source);
            let json = json_of(span, v1::Origin::default());
            assert!(!json["attributes"][row.source].is_null(), "{} is kept", row.source);
        }
        let of_resource = cell(bare_span(), resource(vec![sent]), column);
        match row.target.kind() {
            Kind::Text | Kind::Helper => assert_ne!(of_resource, expected, "{} is no resource's", row.source),
            _ => assert_eq!(of_resource, expected, "{} of a resource", row.source),
        }
    }
}

/// Scenario: two rows of one target in one span, the less important one sent first and last. Guarantee: the
/// row that stands first in the table wins; the resource loses to the span; a native field wins over all.
#[test]
fn the_first_source_wins() {
    for (position, winner) in ROWS.iter().enumerate() {
        let loser = ROWS[position + 1..]
            .iter()
            .find(|row| row.target == winner.target && row.place == Place::Anywhere);
        let (Some(loser), Place::Anywhere) = (loser, winner.place) else { continue };
        let (column, wins, expected) = shown(winner, 0);
        let (_, loses, _) = shown(loser, 1);
        for attributes in [vec![loses.clone(), wins.clone()], vec![wins.clone(), loses.clone()]] {
            let found = cell(with_attributes(attributes), v1::Origin::default(), column);
            assert_eq!(found, expected, "{} before {}", winner.source, loser.source);
        }
        let found = cell(with_attributes(vec![loses]), resource(vec![wins]), column);
        assert_ne!(found, expected, "the span's {} before the resource's {}", loser.source, winner.source);
    }
    let span = v1::Span {
        inference: Some(v1::InferenceContext {
            model_name: "native".to_owned(),
            ..v1::InferenceContext::default()
        }),
        ..with_attributes(vec![text("infertrace.model_name", "own"), text("gen_ai.response.model", "mapped")])
    };
    assert_eq!(cell(span.clone(), v1::Origin::default(), columns::index::MODEL_NAME), "native");
    let without = v1::Span { inference: None, ..span };
    assert_eq!(cell(without, v1::Origin::default(), columns::index::MODEL_NAME), "own");
}

/// Scenario: a first source that is empty or makes no sense. Guarantee: the next one is taken.
#[test]
fn a_source_without_a_value_is_passed_over() {
    let span = with_attributes(vec![
        text("gen_ai.response.model", ""),
        text("gen_ai.request.model", "asked for"),
        text("gen_ai.usage.input_tokens", "many"),
        attribute("gen_ai.usage.prompt_tokens", Value::IntValue(7)),
    ]);
    let json = json_of(span, v1::Origin::default());
    assert_eq!(json["inference"]["model_name"], "asked for");
    assert_eq!(json["inference"]["input_tokens"], "7");
}

/// Scenario: `infertrace.<column>` for every scalar column. Guarantee: any OpenTelemetry user can fill it.
#[test]
fn every_column_has_a_name_of_its_own() {
    for (target, column) in Target::COLUMNS {
        let row = Row { source: "", target: *target, convert: target.natural(), place: Place::Anywhere };
        let (value, expected) = sample(&row, 0);
        let key = format!("infertrace.{}", name::ALL[*column]);
        let span = with_attributes(vec![attribute(&key, value)]);
        assert_eq!(cell(span, v1::Origin::default(), *column), expected, "{key}");
    }
}

/// Scenario: vLLM's one span. Guarantee: framework by scope, stage, tokens, TTFT, TPOT by the formula, wait in
/// the queue; the model's name only where the resource has the label.
#[test]
fn vllm() {
    let span = v1::Span {
        operation_name: "llm_request".to_owned(),
        ..with_attributes(vec![
            attribute("gen_ai.latency.time_to_first_token", Value::DoubleValue(0.5)),
            attribute("gen_ai.latency.e2e", Value::DoubleValue(1.5)),
            attribute("gen_ai.latency.time_in_queue", Value::DoubleValue(0.0625)),
            attribute("gen_ai.usage.prompt_tokens", Value::IntValue(100)),
            attribute("gen_ai.usage.completion_tokens", Value::IntValue(11)),
            text("gen_ai.request.id", "cmpl-1"),
        ])
    };
    let json = json_of(span.clone(), scope("vllm.tracing.otel"));
    let expected = json!({
        "framework": "vllm", "input_tokens": "100", "output_tokens": "11", "sequence_length": "111",
        "request_id": "cmpl-1", "ttft_nano": "500000000", "tpot_nano": "100000000",
    });
    assert_eq!(json["inference"], expected);
    assert_eq!(json["queue"], json!({"wait_time_ms": 62.5}));
    assert_eq!(json["stage"], "inference");
    assert_eq!(json["attributes"]["gen_ai.latency.e2e"], 1.5);

    let mut labelled = scope("vllm.tracing.otel");
    labelled.resource = resource(vec![text("model_name", "tiny"), text("host.type", "p5.48xlarge")]).resource;
    let json = json_of(span, labelled);
    assert_eq!(json["inference"]["model_name"], "tiny");
    assert_eq!(json["gpu"], json!({"instance_type": "p5.48xlarge"}));
}

/// Scenario: SGLang's tree. Guarantee: each stage's span has its stage, the root the request's id, cached tokens
/// make a hit and a ratio.
#[test]
fn sglang() {
    let named = |name: &str| {
        let span = v1::Span {
            operation_name: name.to_owned(),
            service_name: "sglang".to_owned(),
            ..with_attributes(vec![
                attribute("gen_ai.usage.prompt_tokens", Value::IntValue(100)),
                attribute("gen_ai.usage.cached_tokens", Value::IntValue(25)),
            ])
        };
        json_of(span, v1::Origin::default())
    };
    let root = named("null Req 0f3a");
    assert_eq!(root["inference"]["request_id"], "0f3a");
    assert_eq!(root["inference"]["framework"], "sglang");
    assert_eq!(root["stage"], "inference");
    assert_eq!(root["cache"], json!({"hit": true, "hit_ratio": 0.25, "cached_tokens": "25"}));
    let stages = [
        ("tokenize", "tokenize"),
        ("request_process", "preprocessing"),
        ("prefill_waiting", "queue"),
        ("prefill_forward", "prefill"),
        ("chunked_prefill", "prefill"),
        ("decode_loop", "decode"),
        ("prefill_transfer_kv_cache", "kv_transfer"),
    ];
    for (name, stage) in stages {
        assert_eq!(named(name)["stage"], stage);
    }
}

/// Scenario: Triton's attributes and events. Guarantee: model, version and request; framework by the
/// attributes' prefix; wait from QUEUE_START to COMPUTE_START.
#[test]
fn triton() {
    let event = |name: &str, time_unix_nano: u64| v1::Event {
        name: name.to_owned(),
        time_unix_nano,
        ..v1::Event::default()
    };
    let span = v1::Span {
        events: vec![
            event("REQUEST_START", 1_000_000_000),
            event("QUEUE_START", 1_001_000_000),
            event("COMPUTE_START", 1_003_500_000),
            event("COMPUTE_END", 1_009_000_000),
        ],
        ..with_attributes(vec![
            text("triton.model_name", "resnet"),
            attribute("triton.model_version", Value::StringValue("3".to_owned())),
            text("triton.request_id", "r-1"),
        ])
    };
    let json = json_of(span, v1::Origin::default());
    let expected = json!({
        "model_name": "resnet", "model_version": "3", "framework": "triton", "request_id": "r-1",
    });
    assert_eq!(json["inference"], expected);
    assert_eq!(json["queue"]["wait_time_ms"], 2.5);
    assert_eq!(json["stage"], "inference");
    assert_eq!(json["events"].as_array().map(Vec::len), Some(4));
}

/// Scenario: GenAI clients, with the new spellings and the deprecated ones. Guarantee: the same columns.
#[test]
fn gen_ai_clients_old_and_new() {
    let new = vec![
        text("gen_ai.provider.name", "openai"),
        text("gen_ai.request.model", "gpt"),
        text("gen_ai.response.model", "gpt-2026"),
        text("gen_ai.response.id", "chatcmpl-1"),
        text("gen_ai.conversation.id", "talk"),
        attribute("gen_ai.usage.input_tokens", Value::IntValue(8)),
        attribute("gen_ai.usage.output_tokens", Value::IntValue(5)),
        attribute("gen_ai.usage.cache_read.input_tokens", Value::IntValue(0)),
        attribute("gen_ai.usage.reasoning.output_tokens", Value::IntValue(2)),
        attribute("gen_ai.response.time_to_first_chunk", Value::DoubleValue(1.0)),
        reasons(&["stop"]),
    ];
    let old = vec![
        text("gen_ai.system", "openai"),
        text("gen_ai.request.model", "gpt-2026"),
        text("gen_ai.response.id", "chatcmpl-1"),
        text("session.id", "talk"),
        attribute("gen_ai.usage.prompt_tokens", Value::IntValue(8)),
        attribute("gen_ai.usage.completion_tokens", Value::IntValue(5)),
        attribute("gen_ai.usage.cache_read_input_tokens", Value::IntValue(0)),
        attribute("gen_ai.usage.reasoning_tokens", Value::IntValue(2)),
        attribute("gen_ai.latency.time_to_first_token", Value::DoubleValue(1.0)),
        attribute("gen_ai.request.stream", Value::BoolValue(true)),
        text("gen_ai.response.finish_reasons", r#"["stop"]"#),
    ];
    let expected = json!({
        "provider": "openai", "model_name": "gpt-2026", "request_id": "chatcmpl-1", "session_id": "talk",
        "input_tokens": "8", "output_tokens": "5", "cached_tokens": "0", "reasoning_tokens": "2",
        "sequence_length": "13", "streaming": true, "finish_reason": "stop",
        "ttft_nano": "1000000000", "tpot_nano": "250000000",
    });
    for attributes in [new, old] {
        let json = json_of(with_attributes(attributes), scope("opentelemetry.instrumentation.genai.openai"));
        assert_eq!(json["inference"], expected);
        assert_eq!(json["cache"], json!({"hit": false, "hit_ratio": 0.0, "cached_tokens": "0"}));
    }
}

fn reasons(reasons: &[&str]) -> v1::KeyValue {
    let value = |reason: &&str| v1::AnyValue { value: Some(Value::StringValue((*reason).to_owned())) };
    let values = reasons.iter().map(value).collect();
    attribute("gen_ai.response.finish_reasons", Value::ArrayValue(v1::ArrayValue { values }))
}

/// Scenario: several choices that ended for different reasons. Guarantee: each reason once.
#[test]
fn several_finish_reasons() {
    let json = json_of(with_attributes(vec![reasons(&["stop", "length", "stop"])]), v1::Origin::default());
    assert_eq!(json["inference"]["finish_reason"], "stop,length");
    let json = json_of(with_attributes(vec![reasons(&[])]), v1::Origin::default());
    assert_eq!(json["inference"]["finish_reason"], Json::Null);
}

/// Scenario: OpenInference, OpenLLMetry and LiteLLM v1. Guarantee: their spellings fill the columns; a total is
/// used only where input or output is unknown; numbers and truth values may be text.
#[test]
fn other_instrumentations() {
    let openinference = with_attributes(vec![
        text("openinference.span.kind", "LLM"),
        text("llm.model_name", "tiny"),
        text("llm.system", "openai"),
        attribute("llm.token_count.prompt", Value::IntValue(9)),
        attribute("llm.token_count.completion", Value::IntValue(3)),
        attribute("llm.token_count.total", Value::IntValue(99)),
        attribute("llm.token_count.prompt_details.cache_read", Value::IntValue(3)),
        text("llm.finish_reason", "length"),
        text("session.id", "s"),
    ]);
    let json = json_of(openinference, scope("openinference.instrumentation.openai"));
    let expected = json!({
        "model_name": "tiny", "provider": "openai", "input_tokens": "9", "output_tokens": "3", "cached_tokens": "3",
        "sequence_length": "12", "finish_reason": "length", "session_id": "s",
    });
    assert_eq!(json["inference"], expected);

    let openllmetry = with_attributes(vec![
        attribute("llm.usage.total_tokens", Value::IntValue(99)),
        attribute("llm.is_streaming", Value::BoolValue(true)),
        text("gen_ai.completion.0.finish_reason", "stop"),
        text("traceloop.association.properties.session_id", "s"),
    ]);
    let json = json_of(openllmetry, v1::Origin::default());
    let expected =
        json!({"sequence_length": "99", "streaming": true, "finish_reason": "stop", "session_id": "s"});
    assert_eq!(json["inference"], expected);

    let litellm = with_attributes(vec![
        text("llm.is_streaming", "True"),
        text("gen_ai.usage.prompt_tokens", "9"),
        text("gen_ai.response.finish_reasons", r#"["length"]"#),
    ]);
    let json = json_of(litellm, scope("litellm"));
    let expected = json!({
        "framework": "litellm", "streaming": true, "input_tokens": "9", "finish_reason": "length",
    });
    assert_eq!(json["inference"], expected);
}

/// Scenario: Dynamo and llm-d. Guarantee: framework by service, stage by span name, request id.
#[test]
fn dynamo_and_llm_d() {
    let of = |service: &str, operation: &str| {
        let span = v1::Span {
            service_name: service.to_owned(),
            operation_name: operation.to_owned(),
            ..with_attributes(vec![text("x_request_id", "r-1")])
        };
        let json = json_of(span, v1::Origin::default());
        (
            json["inference"]["framework"].clone(),
            json["stage"].clone(),
            json["inference"]["request_id"].clone(),
        )
    };
    assert_eq!(of("dynamo-frontend", "http-request"), (json!("dynamo"), json!("gateway"), json!("r-1")));
    assert_eq!(of("dynamo-worker", "handle_payload"), (json!("dynamo"), json!("inference"), json!("r-1")));
    let llm_d = [
        ("gateway.request", "gateway"),
        ("llm_d.epp.scoring", "routing"),
        ("forward_request", "inference"),
        ("prefill", "prefill"),
        ("decode", "decode"),
    ];
    for (operation, stage) in llm_d {
        assert_eq!(of("llm-d-router", operation), (json!("llm-d"), json!(stage), json!("r-1")));
    }
}

/// Scenario: LoongSuite's per-token arrays. Guarantee: they become the token timeline, its latencies and the mean
/// batch size.
#[test]
fn loongsuite_tokens() {
    let numbers = |key: &str, numbers: &[f64]| {
        let value = |number: &f64| v1::AnyValue { value: Some(Value::DoubleValue(*number)) };
        attribute(key, Value::ArrayValue(v1::ArrayValue { values: numbers.iter().map(value).collect() }))
    };
    let span = with_attributes(vec![
        numbers("gen_ai.response.per_token_time_to_generate", &[0.3, 0.31, 0.33]),
        numbers("gen_ai.iteration.per_token_batch_size", &[8.0, 8.0, 4.0]),
        attribute("infertrace.max_batch_size", Value::IntValue(14)),
    ]);
    let batch = read_spans(vec![span], v1::Origin::default());
    let view = SpanView::new(&batch).expect("span schema");
    let tokens = view.tokens(0).expect("a timeline");
    assert_eq!(tokens.itl_micros, [300_000, 10_000, 20_000]);
    assert_eq!(tokens.batch_sizes, [8, 8, 4]);
    assert_eq!(view.ttft_ns(0), Some(300_000_000));
    assert_eq!(view.itl_max_ns(0), Some(20_000_000));
    assert_eq!(view.batch_size(0), Some(7));
    assert_eq!(view.batch_fill_ratio(0), Some(0.5));
}

/// Scenario: attributes nobody knows, of every type. Guarantee: kept with their types.
#[test]
fn unknown_attributes_are_kept() {
    let span = with_attributes(vec![
        text("a", "text"),
        attribute("b", Value::IntValue(1)),
        attribute("c", Value::DoubleValue(2.0)),
        attribute("d", Value::BoolValue(false)),
        attribute("e", Value::BytesValue(vec![1, 2])),
    ]);
    let json = json_of(span, v1::Origin::default());
    assert_eq!(json["attributes"], json!({"a": "text", "b": "1", "c": 2.0, "d": false, "e": "AQI="}));
    assert_eq!(json["attribute_types"], json!({"b": "int", "e": "bytes"}));
}
