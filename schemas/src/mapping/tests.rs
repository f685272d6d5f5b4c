use super::*;
use crate::{
    value::AnyValue,
    wire::{put_bytes_field, put_varint_field},
};

/// Scenario: the enum's order. Guarantee: a target's kind is its column's type, since slots depend on it.
#[test]
fn targets_are_grouped_by_their_columns_types() {
    use arrow::datatypes::DataType;
    let schema = crate::columns::span_schema();
    for (position, (target, column)) in Target::COLUMNS.iter().enumerate() {
        assert_eq!(position, *target as usize, "columns come first");
        let expected = match schema.field(*column).data_type() {
            DataType::Dictionary(_, _) => Kind::Term,
            DataType::Utf8 => Kind::Text,
            DataType::UInt32 => Kind::U32,
            DataType::UInt64 => Kind::U64,
            DataType::Float64 => Kind::F64,
            DataType::Boolean => Kind::Flag,
            other => panic!("no target fills a {other}"),
        };
        assert_eq!(target.kind(), expected, "{target:?}");
        assert!(target.slot() < Target::count(expected));
    }
    let kinds = [Kind::Term, Kind::Text, Kind::U32, Kind::U64, Kind::F64, Kind::Flag, Kind::Helper];
    assert_eq!(kinds.map(Target::count).iter().sum::<usize>(), Target::ALL.len());
    assert!(Target::ALL.len() <= 64, "a span's targets fit one word");
}

/// Scenario: every key of the table, keys near them, and keys of no length. Guarantee: each key finds its own
/// row, in the span's table only if spans may carry it, and nothing else finds one.
#[test]
fn the_lookup_finds_every_row_and_nothing_else() {
    let (spans, resources) = (Lookup::new(Place::Anywhere), Lookup::new(Place::Resource));
    for row in ROWS {
        let found = resources.find(row.source.as_bytes()).expect("a row");
        assert_eq!((found.target, found.convert), (row.target, row.convert), "{}", row.source);
        let in_spans = spans.find(row.source.as_bytes());
        assert_eq!(in_spans.is_some(), row.place == Place::Anywhere, "{}", row.source);
        assert!(spans.find(format!("{}.", row.source).as_bytes()).is_none());
        assert!(spans.find(&row.source.as_bytes()[1..]).is_none());
    }
    for (target, column) in Target::COLUMNS {
        let key = format!("{OWN_PREFIX}{}", crate::columns::name::ALL[*column]);
        let found = spans.find(key.as_bytes()).expect("a row");
        assert_eq!((found.target, found.rank), (*target, 1));
    }
    assert!(spans.find(b"").is_none());
    assert!(spans.find(b"http.route").is_none());
}

/// Scenario: the rows of one target. Guarantee: their ranks ascend in the table's order, below the ranks that
/// resources get.
#[test]
fn earlier_rows_win() {
    let lookup = Lookup::new(Place::Resource);
    let mut last = [1u8; 64];
    for row in ROWS {
        let rank = lookup.find(row.source.as_bytes()).expect("a row").rank;
        let last = &mut last[row.target as usize];
        assert!(rank > *last, "{}", row.source);
        *last = rank;
        assert!(rank < 100, "{}", row.source);
    }
}

/// Scenario: numbers as every type that senders use, and nonsense. Guarantee: read in the column's unit, or
/// not at all.
#[test]
fn values_are_read_however_they_are_typed() {
    let text = |text: &'static str| AnyValue::String(text.as_bytes());
    let cases: &[(AnyValue<'static>, Convert, Option<Converted<'static>>)] = &[
        (AnyValue::Int(7), Convert::Count, Some(Converted::Count(7))),
        (AnyValue::Double(7.0), Convert::Count, Some(Converted::Count(7))),
        (text("7"), Convert::Count, Some(Converted::Count(7))),
        (text(" 7.0 "), Convert::Count, Some(Converted::Count(7))),
        (AnyValue::Int(-7), Convert::Count, None),
        (AnyValue::Double(f64::NAN), Convert::Count, None),
        (AnyValue::Double(1e300), Convert::Count, None),
        (text("seven"), Convert::Count, None),
        (AnyValue::Bool(true), Convert::Count, None),
        (AnyValue::Double(0.25), Convert::SecondsToNanos, Some(Converted::Count(250_000_000))),
        (text("0.25"), Convert::SecondsToNanos, Some(Converted::Count(250_000_000))),
        (AnyValue::Int(2), Convert::SecondsToNanos, Some(Converted::Count(2_000_000_000))),
        (AnyValue::Double(-0.25), Convert::SecondsToNanos, None),
        (AnyValue::Double(1.5), Convert::MillisToNanos, Some(Converted::Count(1_500_000))),
        (AnyValue::Double(1.5), Convert::SecondsToMillis, Some(Converted::Number(1_500.0))),
        (AnyValue::Double(0.5), Convert::RatioToPercent, Some(Converted::Number(50.0))),
        (AnyValue::Int(3), Convert::MebibytesToBytes, Some(Converted::Count(3 << 20))),
        (AnyValue::Double(f64::INFINITY), Convert::Number, None),
        (AnyValue::Bool(false), Convert::Flag, Some(Converted::Flag(false))),
        (text("True"), Convert::Flag, Some(Converted::Flag(true))),
        (text("False"), Convert::Flag, Some(Converted::Flag(false))),
        (AnyValue::Int(1), Convert::Flag, Some(Converted::Flag(true))),
        (text("maybe"), Convert::Flag, None),
        (text(""), Convert::Text, None),
        (AnyValue::Int(7), Convert::Text, None),
        (text("stop"), Convert::Reasons, Some(Converted::Text(b"stop"))),
        (AnyValue::Empty, Convert::Number, None),
    ];
    for (value, how, expected) in cases {
        assert_eq!(convert(value, *how), *expected, "{value:?} {how:?}");
    }
}

fn array(reasons: &[&str]) -> Vec<u8> {
    let mut array = Vec::new();
    for reason in reasons {
        let mut value = Vec::new();
        put_bytes_field(&mut value, 1, reason.as_bytes());
        put_bytes_field(&mut array, 1, &value);
    }
    array
}

/// Scenario: finish reasons as an array, as a JSON array in a text, and as text. Guarantee: distinct reasons in
/// order; text that only looks like JSON stays as it is.
#[test]
fn finish_reasons_are_joined() {
    let joined = |value: &AnyValue<'_>| {
        let mut out = Vec::new();
        joined_reasons(value, &mut out);
        String::from_utf8(out).expect("text")
    };
    let (one, several) = (array(&["length"]), array(&["stop", "length", "stop"]));
    assert_eq!(convert(&AnyValue::Array(&one), Convert::Reasons), Some(Converted::Text(b"length")));
    assert_eq!(joined(&AnyValue::Array(&several)), "stop,length");
    assert_eq!(joined(&AnyValue::String(br#"["length"]"#)), "length");
    assert_eq!(joined(&AnyValue::String(br#"["stop", null, "length"]"#)), "stop,length");
    assert_eq!(joined(&AnyValue::String(b"[stop")), "[stop");
    assert_eq!(joined(&AnyValue::String(b"[]")), "");
    assert_eq!(convert(&AnyValue::Array(&[]), Convert::Reasons), None);
    let mut number = Vec::new();
    put_varint_field(&mut number, 3, 7);
    let mut numbers = Vec::new();
    put_bytes_field(&mut numbers, 1, &number);
    assert_eq!(joined(&AnyValue::Array(&numbers)), "");
}

/// Scenario: scopes and services as they are found, and names that merely contain a framework's letters.
/// Guarantee: the framework, or none.
#[test]
fn frameworks_are_known_by_their_names() {
    let scopes = [
        ("vllm.tracing.otel", Some("vllm")),
        ("vllm.v1.engine.core", Some("vllm")),
        ("sglang server", Some("sglang")),
        ("litellm", Some("litellm")),
        ("llm_d_epp", Some("llm-d")),
        ("llm-d", Some("llm-d")),
        ("vllmish", None),
        ("opentelemetry.instrumentation.vllm", None),
        ("openinference.instrumentation.openai", None),
        ("", None),
    ];
    for (scope, framework) in scopes {
        assert_eq!(framework_of_scope(scope), framework, "{scope}");
    }
    let services = [
        ("vllm-tiny", Some("vllm")),
        ("prod.sglang.eu", Some("sglang")),
        ("litellm-proxy", Some("litellm")),
        ("triton", Some("triton")),
        ("llm-d-inference-scheduler", Some("llm-d")),
        ("my_dynamo", Some("dynamo")),
        ("vllms", None),
        ("tritonize", None),
        ("shop-assistant", None),
        ("", None),
    ];
    for (service, framework) in services {
        assert_eq!(framework_of_service(service), framework, "{service}");
    }
    assert_eq!(framework_of_key("triton.model_name"), Some("triton"));
    assert_eq!(framework_of_key("gen_ai.request.model"), None);
}

/// Scenario: every row of the stage table, and names of other programs. Guarantee: the row's stage under its
/// framework; a common word under no framework is no stage.
#[test]
fn stages_are_known_by_span_names() {
    for row in STAGES {
        assert_eq!(stage_of(row.name, row.framework), Some(row.stage), "{}", row.name);
        assert!(may_name_a_stage(row.name));
        if row.framework.is_some() {
            assert_eq!(stage_of(row.name, Some("other")), None, "{}", row.name);
        }
    }
    assert_eq!(stage_of("decode", None), None);
    assert_eq!(stage_of("POST /v1/chat/completions", Some("vllm")), None);
    assert_eq!(stage_of("prefill Req 7f3a", Some("sglang")), Some("inference"));
    assert_eq!(request_id_of_name("prefill Req 7f3a"), Some("7f3a"));
    assert_eq!(request_id_of_name("Req 7f3a"), Some("7f3a"));
    assert_eq!(request_id_of_name("Bad Req uest of two"), None);
    assert_eq!(request_id_of_name("Request"), None);
    assert!(!may_name_a_stage("GET /"));
}
