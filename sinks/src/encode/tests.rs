//! Tests of the encoder on rows alone.

use arrow::{
    array::UInt32Array,
    compute::{concat_batches, take_record_batch},
};
use infertrace_proto::v1::{AnyValue, Event, KeyValue, Span, SpanBatch, any_value::Value};
use infertrace_schemas::{
    reader::{Position, SpanReader},
    view::SpanView,
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use proptest::prelude::*;
use prost::Message as _;

use super::*;

use arrow::{
    array::{Array as _, ArrayRef},
    datatypes::DataType,
};

const START_NS: i64 = 1_750_000_000_000_000_000;

fn settings() -> FileSettings {
    FileSettings {
        topic: "infertrace.spans.v1".to_owned(),
        partition: 3,
        start: 40,
        end: 50,
        row_group_rows: 8,
        zstd_level: 1,
        merged: None,
    }
}

fn spans(numbers: std::ops::Range<u64>) -> SpanBatch {
    let span = |number: u64| Span {
        trace_id: [(number % 5 + 1).to_be_bytes(), number.to_be_bytes()].concat(),
        span_id: (number + 1).to_be_bytes().to_vec(),
        service_name: format!("service-{}", number % 3),
        operation_name: "op".to_owned(),
        start_time_unix_nano: START_NS + (number as i64 * 7_919) % 1_000,
        tags: [("number".to_owned(), number.to_string())].into(),
        ..Span::default()
    };
    SpanBatch { spans: numbers.map(span).collect(), ..SpanBatch::default() }
}

fn rows(numbers: std::ops::Range<u64>) -> RecordBatch {
    let mut reader = SpanReader::new();
    let position = Position { partition: 3, offset: numbers.start as i64 };
    reader.push(&spans(numbers).encode_to_vec(), position).expect("good record");
    reader.finish()
}

fn read(file: &EncodedFile) -> Vec<RecordBatch> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file.bytes.clone()).expect("footer").build();
    reader.expect("reader").collect::<Result<_, _>>().expect("rows")
}

/// Scenario: rows are written and read back. Guarantee: sorted, every column as it was, the schema unchanged.
#[test]
fn rows_come_back_as_they_were() {
    let original = rows(0..30);
    let files = encode_rows(std::slice::from_ref(&original), &settings()).expect("encode");
    assert_eq!(files.len(), 1);
    let before = SpanView::new(&original).expect("view");
    let mut expected: Vec<_> = (0..30).map(|row| (before.trace_id(row), before.start_ns(row), row)).collect();
    expected.sort_unstable();
    let mut expected = expected.into_iter();
    for batch in read(&files[0]) {
        assert_eq!(batch.schema().fields(), span_schema().fields());
        let after = SpanView::new(&batch).expect("view");
        for row in 0..batch.num_rows() {
            let (_, _, original_row) = expected.next().expect("no row too many");
            assert_eq!(after.to_json(row), before.to_json(original_row));
        }
    }
    assert!(expected.next().is_none(), "no row is missing");
}

/// Scenario: the same rows in one batch and in several, as long ranges bring them. Guarantee: the same rows, sorted
/// within each row group; the same names in the entry.
#[test]
fn several_batches_are_one_range() {
    let one = encode_rows(&[rows(0..30)], &settings()).expect("encode");
    let many = encode_rows(&[rows(0..11), rows(11..12), rows(12..30)], &settings()).expect("encode");
    let ids = |files: &[EncodedFile]| -> Vec<Vec<u8>> {
        let batches = read(&files[0]);
        let of_batch = |batch: &RecordBatch| {
            let ids = batch.column(index::SPAN_ID).as_fixed_size_binary().clone();
            (0..ids.len()).map(|row| ids.value(row).to_vec()).collect::<Vec<_>>()
        };
        let mut ids: Vec<_> = batches.iter().flat_map(of_batch).collect();
        ids.sort();
        ids
    };
    assert_eq!(ids(&one), ids(&many));
    assert_eq!(one[0].entry.rows, many[0].entry.rows);
    assert_eq!(one[0].entry.services, many[0].entry.services);
    assert_eq!(one[0].entry.min_trace_id, many[0].entry.min_trace_id);
    for file in one.iter().chain(&many) {
        let reader = ParquetRecordBatchReaderBuilder::try_new(file.bytes.clone()).expect("footer");
        for row_group in 0..reader.metadata().num_row_groups() {
            let reader = ParquetRecordBatchReaderBuilder::try_new(file.bytes.clone()).expect("footer");
            for batch in reader.with_row_groups(vec![row_group]).build().expect("reader") {
                let batch = batch.expect("rows");
                let ids = batch.column(index::TRACE_ID).as_fixed_size_binary();
                assert!(ids.iter().is_sorted(), "row group {row_group}");
            }
        }
    }
}

/// Scenario: an earlier run's file is found under our name. Guarantee: its entry is read from the file
/// itself; a file of another range is refused.
#[test]
fn a_stored_file_tells_its_entry() {
    let file = encode_rows(&[rows(0..30)], &settings()).expect("encode").remove(0);
    assert_eq!(entry_of_stored(&file.name, 50, &file.bytes).expect("own file"), file.entry);
    assert!(file.entry.footer_bytes > 0 && file.entry.footer_bytes < file.entry.bytes);
    assert!(matches!(entry_of_stored(&file.name, 51, &file.bytes), Err(EncodeError::Foreign { .. })));
    let torn = file.bytes.slice(..file.bytes.len() / 2);
    assert!(matches!(entry_of_stored(&file.name, 50, &torn), Err(EncodeError::Foreign { .. })));
}

/// Scenario: no rows. Guarantee: no file.
#[test]
fn nothing_gives_no_file() {
    assert!(encode_rows(&[rows(0..0)], &settings()).expect("encode").is_empty());
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => (0..6u8).prop_map(|number| Value::StringValue(format!("value-{number}"))),
        2 => "\\PC{0,12}".prop_map(Value::StringValue),
        2 => (-3..3i64).prop_map(Value::IntValue),
        1 => any::<i64>().prop_map(Value::IntValue),
        1 => any::<f64>().prop_map(Value::DoubleValue),
        1 => any::<bool>().prop_map(Value::BoolValue),
        1 => prop::collection::vec(any::<u8>(), 0..4).prop_map(Value::BytesValue),
    ]
}

fn attributes(most: usize) -> impl Strategy<Value = Vec<KeyValue>> {
    let key = prop_oneof![
        (0..5u8).prop_map(|number| format!("key.{number}")),
        Just("gen_ai.request.model".to_owned()),
        Just("gen_ai.usage.output_tokens".to_owned()),
    ];
    let pair = (key, value())
        .prop_map(|(key, value)| KeyValue { key, value: Some(AnyValue { value: Some(value) }) });
    prop::collection::vec(pair, 0..most)
}

fn any_span() -> impl Strategy<Value = Span> {
    let event = (attributes(3), "[a-c]{0,2}").prop_map(|(attributes, name)| Event {
        time_unix_nano: START_NS as u64,
        name,
        attributes,
        ..Event::default()
    });
    let ids = (0..20u64, any::<u64>(), prop::option::of(1..9u64));
    (ids, "[ab]{1,2}", "\\PC{0,8}", attributes(6), prop::collection::vec(event, 0..2)).prop_map(
        |((trace, id, parent), service_name, operation_name, attributes, events)| Span {
            trace_id: [0x0101_0101_0101_0101 * (trace + 1), trace].map(u64::to_be_bytes).concat(),
            span_id: (id | 1).to_be_bytes().to_vec(),
            parent_span_id: parent.map(|id| id.to_be_bytes().to_vec()).unwrap_or_default(),
            service_name,
            operation_name,
            start_time_unix_nano: START_NS + (id % 1_000) as i64,
            duration_nanos: (id % 77) as i64,
            attributes,
            events,
            ..Span::default()
        },
    )
}

/// The rows of `file` equal those of `original`, sorted, column by column.
fn assert_same_rows(original: &RecordBatch, file: &EncodedFile) {
    let before = SpanView::new(original).expect("view");
    let mut order: Vec<_> =
        (0..original.num_rows()).map(|row| (before.trace_id(row), before.start_ns(row), row)).collect();
    order.sort_unstable();
    let order: UInt32Array = order.into_iter().map(|(_, _, row)| row as u32).collect();
    let expected = take_record_batch(original, &order).expect("sorted rows");
    let read = read(file);
    let found = concat_batches(&read[0].schema(), &read).expect("one batch");
    assert_eq!(found.num_rows(), expected.num_rows());
    for (number, field) in span_schema().fields().iter().enumerate() {
        let (found, expected) = (found.column(number), expected.column(number));
        // Dictionaries may be numbered anew: what counts are the values.
        let plain = |column: &ArrayRef| match column.data_type() {
            DataType::Dictionary(_, values) => arrow::compute::cast(column, values).expect("values"),
            _ => column.clone(),
        };
        assert_eq!(plain(found).as_ref(), plain(expected).as_ref(), "column {}", field.name());
    }
}

fn encode_and_compare(spans: Vec<Span>, row_group_rows: u32) {
    let mut reader = SpanReader::new();
    let batch = SpanBatch { spans, ..SpanBatch::default() };
    reader.push(&batch.encode_to_vec(), Position { partition: 3, offset: 40 }).expect("good record");
    let original = reader.finish();
    let settings = FileSettings { row_group_rows, ..settings() };
    let files = encode_rows(std::slice::from_ref(&original), &settings).expect("encode");
    assert_eq!(files.len(), 1);
    assert_same_rows(&original, &files[0]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Scenario: random spans, few or many distinct texts, columns empty, sparse or full, in row groups of any
    /// size. Guarantee: the Parquet crate's reader sees every column as it was.
    #[test]
    fn any_rows_come_back(spans in prop::collection::vec(any_span(), 1..120), row_group_rows in 1..200u32) {
        encode_and_compare(spans, row_group_rows);
    }
}

/// Scenario: row groups of several pages, with texts that repeat, that all differ, and that begin to differ
/// after the trial of the dictionary. Guarantee: as above.
#[test]
fn many_pages_come_back() {
    let span = |number: u64| Span {
        trace_id: [number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, number].map(u64::to_be_bytes).concat(),
        span_id: (number + 1).to_be_bytes().to_vec(),
        service_name: format!("service-{}", number % 3),
        operation_name: if number % 7 == 0 { format!("op {number}") } else { "op".to_owned() },
        start_time_unix_nano: START_NS,
        attributes: ["same", "differs", "later"]
            .into_iter()
            .take(number as usize % 4)
            .map(|key| {
                let text = match key {
                    "same" => "text".to_owned(),
                    "later" if number < 9_000 => "early".to_owned(),
                    _ => format!("{number:032}"),
                };
                let value = Some(AnyValue { value: Some(Value::StringValue(text)) });
                KeyValue { key: key.to_owned(), value }
            })
            .collect(),
        ..Span::default()
    };
    encode_and_compare((0..20_000).map(span).collect(), 12_000);
}
