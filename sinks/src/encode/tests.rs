//! Tests of the encoder on rows alone.

use infertrace_proto::v1::{Span, SpanBatch};
use infertrace_schemas::{
    reader::{Position, SpanReader},
    view::SpanView,
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use prost::Message as _;

use super::*;

const START_NS: i64 = 1_750_000_000_000_000_000;

fn settings() -> FileSettings {
    FileSettings {
        topic: "infertrace.spans.v1".to_owned(),
        partition: 3,
        start: 40,
        end: 50,
        row_group_rows: 8,
        zstd_level: 1,
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

/// Scenario: the same rows in one batch and in several, as very large ranges need them. Guarantee: the same
/// rows in the same order.
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
        batches.iter().flat_map(of_batch).collect()
    };
    assert_eq!(ids(&one), ids(&many));
    assert_eq!(one[0].entry.services, many[0].entry.services);
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
