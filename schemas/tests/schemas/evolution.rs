//! Fields that a version does not know: newer writers and older readers, and the other way round.

use infertrace_proto::v1;
use infertrace_schemas::{
    columns,
    reader::{Position, SpanReader},
    view::{AttributeValue, SpanView},
    wire::{put_bytes_field, put_fixed32_field, put_fixed64_field, put_varint_field},
};
use prost::Message;

use crate::support::{bare_span, check_arrays, read_spans, text};

/// The stable contract of a span, fields 1-10, as an old program knows it.
#[derive(Clone, PartialEq, Message)]
struct OldSpan {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "4")]
    service_name: String,
    #[prost(string, tag = "5")]
    operation_name: String,
    #[prost(int64, tag = "6")]
    start_time_unix_nano: i64,
    #[prost(int64, tag = "7")]
    duration_nanos: i64,
    #[prost(map = "string, string", tag = "10")]
    tags: std::collections::HashMap<String, String>,
}

fn unknown_fields(out: &mut Vec<u8>) {
    put_varint_field(out, 1_000, 7);
    put_fixed64_field(out, 1_001, 7);
    put_bytes_field(out, 1_002, b"from the future");
    put_fixed32_field(out, 536_870_911, 7);
}

fn current() -> v1::Span {
    v1::Span {
        attributes: vec![text("key", "value")],
        tags: [("tag".to_owned(), "value".to_owned())].into(),
        events: vec![v1::Event { name: "event".to_owned(), ..v1::Event::default() }],
        inference: Some(v1::InferenceContext {
            model_name: "model".to_owned(),
            ..v1::InferenceContext::default()
        }),
        ..bare_span()
    }
}

/// Scenario: a newer writer adds fields to the batch, the span, its messages, and a new kind of value.
/// Guarantee: the reader takes all it knows, and keeps the new value's bytes.
#[test]
fn fields_from_the_future_are_passed_over() {
    let expected = read_spans(vec![current()], v1::Origin::default());

    let mut span = current();
    span.events.clear();
    span.inference = None;
    let mut span = span.encode_to_vec();
    let mut event = current().events[0].encode_to_vec();
    unknown_fields(&mut event);
    put_bytes_field(&mut span, 12, &event);
    let mut inference = current().inference.expect("set above").encode_to_vec();
    unknown_fields(&mut inference);
    put_bytes_field(&mut span, 8, &inference);
    unknown_fields(&mut span);
    let mut record = Vec::new();
    unknown_fields(&mut record);
    put_bytes_field(&mut record, 1, &span);
    let mut origin = Vec::new();
    unknown_fields(&mut origin);
    put_bytes_field(&mut record, 4, &origin);

    let mut reader = SpanReader::new();
    let pushed = reader.push(&record, Position { partition: 3, offset: 0 }).expect("a record");
    assert_eq!((pushed.spans, pushed.rejected), (1, 0));
    assert_eq!(reader.finish(), expected);

    let mut value = Vec::new();
    put_varint_field(&mut value, 99, 7);
    let mut attribute = Vec::new();
    put_bytes_field(&mut attribute, 1, b"key");
    put_bytes_field(&mut attribute, 2, &value);
    let mut span = bare_span().encode_to_vec();
    put_bytes_field(&mut span, 11, &attribute);
    let mut record = Vec::new();
    put_bytes_field(&mut record, 1, &span);
    reader.push(&record, Position::default()).expect("a record");
    let batch = reader.finish();
    let view = SpanView::new(&batch).expect("span schema");
    assert_eq!(view.attribute(0, "key"), Some(AttributeValue::Other(&value)));
}

/// Scenario: a program that knows fields 1-10 only, as writer and as reader. Guarantee: both ways every such
/// field arrives.
#[test]
fn the_stable_fields_work_both_ways() {
    let bytes = current().encode_to_vec();
    let old = OldSpan::decode(bytes.as_slice()).expect("an old reader passes over what is new");
    assert_eq!(old.operation_name, current().operation_name);
    assert_eq!(old.tags, current().tags);

    let span = v1::Span::decode(old.encode_to_vec().as_slice()).expect("an old span is a span");
    let batch = read_spans(vec![span], v1::Origin::default());
    let view = SpanView::new(&batch).expect("span schema");
    assert_eq!(view.service(0), "service");
    assert_eq!(view.attribute(0, "tag"), Some(AttributeValue::String("value")));
    assert_eq!(view.attribute(0, "key"), None);
    assert_eq!(view.duration_ns(0), 2_000_000_000);
}

/// Scenario: a batch from a store that is older than a column, has one more, and another order.
/// Guarantee: it is brought to the schema; without a column that cannot be null it is refused.
#[test]
fn batches_are_brought_to_the_schema() {
    let batch = read_spans(vec![current()], v1::Origin::default());
    let without = |name: &str| {
        let mut keep: Vec<usize> =
            (0..batch.num_columns()).filter(|column| columns::name::ALL[*column] != name).collect();
        keep.reverse();
        batch.project(&keep).expect("columns that are there")
    };
    let young = columns::conform(&without(columns::name::KV_CACHE_USAGE_RATIO)).expect("a nullable column");
    check_arrays(&young);
    assert_eq!(young, batch);
    assert!(SpanView::new(&without(columns::name::TRACE_ID)).is_err());
    assert!(columns::conform(&without(columns::name::TRACE_ID)).is_err());
}

/// Scenario: fields that protobuf allows to repeat. Guarantee: the last one counts, messages merge, and
/// packed columns may come unpacked, as in every protobuf decoder.
#[test]
fn repeated_fields_merge_as_in_protobuf() {
    let mut span = current().encode_to_vec();
    let more = v1::Span {
        operation_name: "again".to_owned(),
        inference: Some(v1::InferenceContext { input_tokens: Some(7), ..v1::InferenceContext::default() }),
        ..v1::Span::default()
    };
    span.extend(more.encode_to_vec());
    let mut tokens = Vec::new();
    put_varint_field(&mut tokens, 1, 11);
    put_varint_field(&mut tokens, 1, 12);
    put_bytes_field(&mut span, 23, &tokens);
    let mut record = Vec::new();
    put_bytes_field(&mut record, 1, &span);

    let plain = v1::SpanBatch::decode(record.as_slice()).expect("a batch").spans.remove(0);
    let mut reader = SpanReader::new();
    reader.push(&record, Position::default()).expect("a record");
    let batch = reader.finish();
    let view = SpanView::new(&batch).expect("span schema");
    assert_eq!(view.operation(0), plain.operation_name);
    let inference = plain.inference.expect("merged");
    assert_eq!(view.model_name(0), Some(inference.model_name.as_str()));
    assert_eq!(view.input_tokens(0), inference.input_tokens);
    assert_eq!(view.tokens(0).expect("a timeline").ids, plain.tokens.expect("a timeline").ids);
}
