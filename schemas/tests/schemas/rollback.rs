//! Bad spans between good ones: each is counted by its reason, and leaves nothing behind.

use infertrace_proto::v1::{self, any_value::Value};
use infertrace_schemas::{
    reader::{Position, SpanError, SpanReader},
    record::encode_share,
    value::MAX_DEPTH,
    view::SpanView,
    wire::{put_bytes_field, put_fixed64_field, put_varint_field},
};
use prost::Message;

use crate::support::{attribute, bare_span, check_arrays, text};

const NOT_UTF8: &[u8] = b"\xff\xfe";

/// A span with something in every nested column, so that each has something to roll back.
fn rich_span(number: u8) -> v1::Span {
    v1::Span {
        span_id: vec![number; 8],
        service_name: format!("service-{}", number % 3),
        operation_name: format!("operation-{}", number % 5),
        attributes: vec![
            text("text", "value"),
            attribute("int", Value::IntValue(number.into())),
            attribute("double", Value::DoubleValue(0.5)),
            attribute("bool", Value::BoolValue(number.is_multiple_of(2))),
            attribute("bytes", Value::BytesValue(vec![number])),
            text("gen_ai.request.model", "model"),
        ],
        tags: [("tag".to_owned(), "value".to_owned())].into(),
        events: vec![v1::Event {
            name: "event".to_owned(),
            attributes: vec![text("a", "b")],
            ..v1::Event::default()
        }],
        links: vec![v1::Link { trace_id: vec![1; 16], span_id: vec![2; 8], ..v1::Link::default() }],
        tokens: Some(v1::TokenTimeline {
            ids: vec![1, 2, 3],
            generation_micros_delta: vec![900, 100, 10],
            texts: vec!["a".to_owned()],
            ..v1::TokenTimeline::default()
        }),
        inference: Some(v1::InferenceContext { input_tokens: Some(7), ..v1::InferenceContext::default() }),
        ..bare_span()
    }
}

fn message(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

/// A good span with `field` appended, encoded.
fn spoilt(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut span = rich_span(200).encode_to_vec();
    write(&mut span);
    span
}

fn with_field(number: u32, bytes: &[u8]) -> Vec<u8> {
    spoilt(|span| put_bytes_field(span, number, bytes))
}

fn key_value(key: &[u8], value: &[u8]) -> Vec<u8> {
    message(|out| {
        put_bytes_field(out, 1, key);
        put_bytes_field(out, 2, value);
    })
}

fn nested_arrays(levels: usize) -> Vec<u8> {
    (0..levels).fold(Vec::new(), |inner, _| {
        let array = message(|out| put_bytes_field(out, 1, &inner));
        message(|out| put_bytes_field(out, 5, &array))
    })
}

/// Every way to be bad, with the reason it is counted under.
fn bad_spans() -> Vec<(&'static str, Vec<u8>, SpanError)> {
    use SpanError::*;
    let bad_text = message(|out| put_bytes_field(out, 1, NOT_UTF8));
    let truncated = {
        let mut span = rich_span(201).encode_to_vec();
        span.truncate(span.len() - 1);
        span
    };
    vec![
        ("no ids", Vec::new(), BadTraceId),
        ("short trace id", with_field(1, &[1; 15]), BadTraceId),
        ("trace id of zeros", with_field(1, &[0; 16]), EmptyId),
        ("long span id", with_field(2, &[1; 9]), BadSpanId),
        ("span id of zeros", with_field(2, &[0; 8]), EmptyId),
        ("short parent", with_field(3, &[1; 7]), BadParentSpanId),
        ("service", with_field(4, NOT_UTF8), BadUtf8),
        ("operation", with_field(5, NOT_UTF8), BadUtf8),
        ("start of another type", spoilt(|span| put_fixed64_field(span, 6, 1)), Malformed),
        ("negative duration", spoilt(|span| put_varint_field(span, 7, -1i64 as u64)), NegativeDuration),
        ("end past 2262", spoilt(|span| put_varint_field(span, 7, i64::MAX as u64)), NegativeDuration),
        ("model name", with_field(8, &bad_text), BadUtf8),
        (
            "token count of another type",
            with_field(8, &message(|out| put_bytes_field(out, 7, b"7"))),
            Malformed,
        ),
        ("gpu name", with_field(9, &message(|out| put_bytes_field(out, 1, &bad_text))), BadUtf8),
        ("tag", with_field(10, &key_value(b"key", NOT_UTF8)), BadUtf8),
        ("attribute key", with_field(11, &key_value(NOT_UTF8, b"")), BadUtf8),
        ("attribute value", with_field(11, &key_value(b"key", &bad_text)), BadUtf8),
        (
            "attribute of another type",
            with_field(11, &key_value(b"key", &message(|out| put_varint_field(out, 1, 1)))),
            Malformed,
        ),
        ("cut attribute", with_field(11, &[0x0a, 9, b'k']), Malformed),
        (
            "text in an array",
            with_field(
                11,
                &key_value(
                    b"key",
                    &message(|out| {
                        put_bytes_field(out, 5, &message(|out| put_bytes_field(out, 1, &bad_text)));
                    }),
                ),
            ),
            BadUtf8,
        ),
        ("nested too deep", with_field(11, &key_value(b"key", &nested_arrays(MAX_DEPTH + 1))), TooDeep),
        ("event name", with_field(12, &message(|out| put_bytes_field(out, 2, NOT_UTF8))), BadUtf8),
        (
            "event attribute",
            with_field(12, &message(|out| put_bytes_field(out, 3, &key_value(NOT_UTF8, b"")))),
            BadUtf8,
        ),
        (
            "event time of another type",
            with_field(12, &message(|out| put_varint_field(out, 1, 1))),
            Malformed,
        ),
        ("link state", with_field(13, &message(|out| put_bytes_field(out, 3, NOT_UTF8))), BadUtf8),
        ("status message", with_field(15, &message(|out| put_bytes_field(out, 2, NOT_UTF8))), BadUtf8),
        ("trace state", with_field(19, NOT_UTF8), BadUtf8),
        ("broken origin", spoilt(|span| put_varint_field(span, 21, 1)), BadOrigin),
        ("stage", with_field(22, &bad_text), BadUtf8),
        ("token text", with_field(23, &message(|out| put_bytes_field(out, 6, NOT_UTF8))), BadUtf8),
        ("cut token column", with_field(23, &message(|out| put_bytes_field(out, 1, &[0x80]))), Malformed),
        ("group", spoilt(|span| span.push(0x0b)), Malformed),
        ("field number 0", spoilt(|span| span.extend([0x02, 0])), Malformed),
        ("truncated", truncated, Malformed),
    ]
}

/// An origin whose scope name is not text, beside a good one.
fn origins() -> Vec<Vec<u8>> {
    let scope = message(|out| put_bytes_field(out, 1, NOT_UTF8));
    vec![v1::Origin::default().encode_to_vec(), message(|out| put_bytes_field(out, 2, &scope))]
}

fn share(spans: &[Vec<u8>]) -> Vec<u8> {
    let origins = origins();
    let origins: Vec<&[u8]> = origins.iter().map(Vec::as_slice).collect();
    encode_share("", b"", spans.iter().map(Vec::as_slice), &origins)
}

/// Scenario: each kind of bad span between two good ones. Guarantee: its reason and index are reported, and
/// the columns equal those of the good spans alone, dictionaries included.
#[test]
fn a_bad_span_leaves_nothing_behind() {
    let good = [rich_span(1).encode_to_vec(), rich_span(2).encode_to_vec()];
    let mut reader = SpanReader::new();
    let clean = reader.push(&share(&good), Position::default()).expect("a record");
    assert_eq!((clean.spans, clean.rejected, clean.rejections().count()), (2, 0, 0));
    let expected = reader.finish();
    for (name, bad, reason) in bad_spans() {
        let spans = [good[0].clone(), bad, good[1].clone()];
        let pushed = reader.push(&share(&spans), Position::default()).expect("a record");
        assert_eq!((pushed.spans, pushed.rejected), (2, 1), "{name}");
        assert_eq!(pushed.rejections().collect::<Vec<_>>(), [(reason, 1, 1)], "{name}");
        let batch = reader.finish();
        check_arrays(&batch);
        assert_eq!(batch, expected, "{name}");
        let (found, wanted) =
            (SpanView::new(&batch).expect("span schema"), SpanView::new(&expected).expect("span schema"));
        let sizes = |view: &SpanView<'_>| {
            (view.service_column().values().len(), view.operation_column().values().len())
        };
        use arrow::array::Array;
        assert_eq!(sizes(&found), sizes(&wanted), "{name}");
    }
}

/// Scenario: all bad spans in one record, then a record of only bad ones. Guarantee: counts and first indices
/// a reason are exact, and a batch without rows is a batch.
#[test]
fn rejections_are_counted_by_reason() {
    let bad = bad_spans();
    let spans: Vec<Vec<u8>> = bad.iter().map(|(_, span, _)| span.clone()).collect();
    let mut reader = SpanReader::new();
    let pushed = reader.push(&share(&spans), Position::default()).expect("a record");
    assert_eq!((pushed.spans, pushed.rejected), (0, bad.len()));
    for (reason, count, first) in pushed.rejections() {
        let of_reason = || bad.iter().filter(|(_, _, known)| *known == reason);
        assert_eq!(count as usize, of_reason().count(), "{reason:?}");
        assert_eq!(bad[first as usize].2, reason);
        assert!(bad[..first as usize].iter().all(|(_, _, known)| *known != reason));
    }
    let batch = reader.finish();
    check_arrays(&batch);
    assert_eq!(batch.num_rows(), 0);
}

/// Scenario: values nested to the limit, and ids at the edge of validity. Guarantee: they are read.
#[test]
fn the_limits_are_inclusive() {
    let deepest = with_field(11, &key_value(b"key", &nested_arrays(MAX_DEPTH)));
    let zero_parent = with_field(3, &[0; 8]);
    let unknown_origin = spoilt(|span| put_varint_field(span, 21, 77));
    let mut reader = SpanReader::new();
    let record = share(&[deepest, zero_parent, unknown_origin]);
    let pushed = reader.push(&record, Position::default()).expect("a record");
    assert_eq!((pushed.spans, pushed.rejected), (3, 0));
    let batch = reader.finish();
    let view = SpanView::new(&batch).expect("span schema");
    assert_eq!(view.parent_span_id(1), None);
    assert_eq!(view.resource(2), "{}");
}
