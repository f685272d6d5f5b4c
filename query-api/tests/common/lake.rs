//! Writes a lake as the sink lays it out, with the public `parquet` crate alone: what the query API must read.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{AsArray, RecordBatch, UInt32Array},
    compute::take_record_batch,
    datatypes::{Int32Type, TimestampNanosecondType},
};
use bytes::Bytes;
use infertrace_schemas::{
    columns::{index, name},
    lake::{DataFile, DataFileName, EventDate, FORMAT_VERSION, Id16, LakeRoot, Manifest, listed_names},
    reader::{Position, SpanReader},
    topics::SPANS,
};
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, Encoding, ZstdLevel},
    file::properties::{BloomFilterPosition, EnabledStatistics, WriterProperties},
    schema::types::ColumnPath,
};

/// Where the tests' lakes are in their store.
pub const ROOT: &str = "lake";

/// Sizes of row groups and pages, small for tests.
#[derive(Clone, Copy)]
pub struct Layout {
    pub row_group_rows: usize,
    pub page_rows: usize,
}

impl Default for Layout {
    fn default() -> Self {
        Self { row_group_rows: 40, page_rows: 8 }
    }
}

/// Writes the records of `[start, start + records)` of a partition as one range; returns its files.
pub async fn write_range(
    store: &Arc<dyn ObjectStore>,
    partition: u32,
    start: u64,
    records: &[Vec<u8>],
    layout: Layout,
) -> Vec<DataFile> {
    let mut reader = SpanReader::new();
    for (index, record) in records.iter().enumerate() {
        let position = Position { partition: partition as i32, offset: (start + index as u64) as i64 };
        reader.push(record, position).unwrap();
    }
    write_rows(store, partition, start, start + records.len() as u64, &reader.finish(), layout).await
}

/// Writes rows that were read from `[start, next)`.
pub async fn write_rows(
    store: &Arc<dyn ObjectStore>,
    partition: u32,
    start: u64,
    next: u64,
    rows: &RecordBatch,
    layout: Layout,
) -> Vec<DataFile> {
    let starts = rows.column(index::START_TIME).as_primitive::<TimestampNanosecondType>().clone();
    let ids = rows.column(index::TRACE_ID).as_fixed_size_binary().clone();
    let mut by_date: BTreeMap<EventDate, Vec<u32>> = BTreeMap::new();
    for row in 0..rows.num_rows() {
        by_date.entry(EventDate::of_nanos(starts.value(row))).or_default().push(row as u32);
    }
    let mut files = Vec::new();
    for (date, mut order) in by_date {
        order.sort_by_key(|&row| (ids.value(row as usize).to_vec(), starts.value(row as usize), row));
        let sorted = take_record_batch(rows, &UInt32Array::from(order.clone())).unwrap();
        let name = DataFileName { date, partition, start, merged: None };
        let id_at = |row: u32| Id16(ids.value(row as usize).try_into().unwrap());
        let (bytes, footer_bytes) = encode(&sorted, layout);
        let in_order = || order.iter().map(|&row| starts.value(row as usize));
        let entry = DataFile {
            path: name.path(),
            date,
            rows: order.len() as u64,
            bytes: bytes.len() as u64,
            footer_bytes,
            min_start_ns: in_order().min().unwrap(),
            max_start_ns: in_order().max().unwrap(),
            min_trace_id: id_at(order[0]),
            max_trace_id: id_at(order[order.len() - 1]),
            services: names(&sorted, index::SERVICE_NAME),
            models: names(&sorted, index::MODEL_NAME),
            tenants: names(&sorted, index::TENANT),
        };
        files.push((name, bytes, entry));
    }
    publish(store, partition, start, next, files).await
}

/// Stores the encoded files of `[start, next)` and their manifest.
pub async fn publish(
    store: &Arc<dyn ObjectStore>,
    partition: u32,
    start: u64,
    next: u64,
    encoded: Vec<(DataFileName, Bytes, DataFile)>,
) -> Vec<DataFile> {
    let root = LakeRoot::new(ROOT);
    let mut files = Vec::new();
    for (name, bytes, entry) in encoded {
        store.put(&Path::from(root.data_file(&name)), bytes.into()).await.unwrap();
        files.push(entry);
    }
    let manifest = Manifest {
        version: FORMAT_VERSION,
        topic: SPANS.to_owned(),
        partition,
        start,
        next,
        records: next - start,
        rows: files.iter().map(|file| file.rows).sum(),
        duplicate_records: 0,
        rejected_spans: 0,
        poison: Vec::new(),
        lost: Vec::new(),
        files: files.clone(),
        batch_ids: Vec::new(),
        created_by: "test".to_owned(),
    };
    let path = Path::from(root.manifest(partition, start));
    store.put(&path, manifest.to_json().into()).await.unwrap();
    files
}

fn names(rows: &RecordBatch, column: usize) -> Option<Vec<String>> {
    let column = rows.column(column).as_dictionary::<Int32Type>();
    let values = column.values().as_string::<i32>();
    listed_names(column.keys().iter().flatten().map(|key| values.value(key as usize)))
}

fn encode(rows: &RecordBatch, layout: Layout) -> (Bytes, u64) {
    let trace_id = ColumnPath::from(name::TRACE_ID);
    let mut builder = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3).unwrap()))
        .set_max_row_group_row_count(Some(layout.row_group_rows))
        .set_data_page_row_count_limit(layout.page_rows)
        .set_write_batch_size(layout.page_rows)
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_bloom_filter_position(BloomFilterPosition::End)
        .set_column_dictionary_enabled(trace_id.clone(), false)
        .set_column_bloom_filter_enabled(trace_id.clone(), true)
        .set_column_bloom_filter_max_ndv(trace_id, rows.num_rows().min(layout.row_group_rows) as u64);
    for column in [name::START_TIME, name::DURATION_NS] {
        let path = ColumnPath::from(column);
        builder = builder
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
    }
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(builder.build())).unwrap();
    writer.write(rows).unwrap();
    writer.flush().unwrap();
    let data_end = writer.bytes_written();
    let bytes = writer.into_inner().unwrap();
    let footer_bytes = (bytes.len() - data_end) as u64;
    (bytes.into(), footer_bytes)
}
