//! How each column is written: encodings, statistics, bloom filter, pages. Chosen by measurement with
//! `examples/parquet_bench.rs`.

use std::sync::LazyLock;

use infertrace_schemas::columns::{name, span_schema};
use parquet::{
    arrow::ArrowSchemaConverter,
    basic::{Compression, Encoding, Type, ZstdLevel},
    file::{
        metadata::{KeyValue, SortingColumn},
        properties::{BloomFilterPosition, EnabledStatistics, WriterProperties, WriterVersion},
    },
    schema::types::{ColumnPath, SchemaDescriptor},
};

use super::{FileSettings, RANGE_KEY, SORTED_BY};

/// Rows of a data page: the least a look-up decodes of a column.
pub(super) const PAGE_ROWS: usize = 2_048;
/// The same of a map of texts, whose rows hold a dozen of them.
pub(super) const MAP_PAGE_ROWS: usize = 512;
/// A larger dictionary of numbers is hashed for little.
const NUMBER_DICTIONARY_BYTES: usize = 64 << 10;
/// False positives of the trace id's bloom filter.
const BLOOM_FPP: f64 = 0.01;
const CREATED_BY: &str = concat!("infertrace-sinks version ", env!("CARGO_PKG_VERSION"));

static LEAVES: LazyLock<SchemaDescriptor> = LazyLock::new(|| {
    ArrowSchemaConverter::new().convert(&span_schema()).expect("the span schema has a Parquet form")
});

/// The text under [`RANGE_KEY`].
pub(super) fn range_text(start: u64, end: u64) -> String {
    format!("{start}..{end}")
}

/// Properties of a file.
pub(super) fn of(settings: &FileSettings) -> WriterProperties {
    let zstd = ZstdLevel::try_new(settings.zstd_level).unwrap_or_default();
    let distinct_at_most = u64::from(settings.row_group_rows.max(1));
    let mut builder = WriterProperties::builder()
        .set_created_by(CREATED_BY.to_owned())
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_compression(Compression::ZSTD(zstd))
        .set_max_row_group_row_count(None)
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_write_batch_size(PAGE_ROWS / 2)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_statistics_truncate_length(Some(32))
        .set_column_index_truncate_length(Some(32))
        .set_bloom_filter_position(BloomFilterPosition::End)
        .set_sorting_columns(Some(sorting_columns()))
        .set_key_value_metadata(Some(vec![
            KeyValue::new(RANGE_KEY.to_owned(), range_text(settings.start, settings.end)),
            KeyValue::new("infertrace.topic".to_owned(), settings.topic.clone()),
            KeyValue::new("infertrace.partition".to_owned(), settings.partition.to_string()),
        ]));
    for leaf in LEAVES.columns() {
        let path = leaf.path().clone();
        let choice = Choice::of(&path, leaf.physical_type());
        if let Some(encoding) = choice.encoding {
            builder = builder.set_column_encoding(path.clone(), encoding);
        }
        builder = builder.set_column_dictionary_enabled(path.clone(), choice.dictionary);
        if !choice.compress {
            builder = builder.set_column_compression(path.clone(), Compression::UNCOMPRESSED);
        }
        if let Some(limit) = choice.dictionary_bytes {
            builder = builder.set_column_dictionary_page_size_limit(path.clone(), limit);
        }
        builder = builder.set_column_statistics_enabled(path, choice.statistics);
    }
    let trace_id = ColumnPath::from(name::TRACE_ID);
    builder
        .set_column_bloom_filter_enabled(trace_id.clone(), true)
        .set_column_bloom_filter_fpp(trace_id.clone(), BLOOM_FPP)
        .set_column_bloom_filter_max_ndv(trace_id, distinct_at_most)
        .build()
}

fn sorting_columns() -> Vec<SortingColumn> {
    let position = |wanted: &str| LEAVES.columns().iter().position(|leaf| leaf.path().string() == wanted);
    SORTED_BY
        .iter()
        .filter_map(|column| position(column))
        .map(|column| SortingColumn { column_idx: column as i32, descending: false, nulls_first: false })
        .collect()
}

struct Choice {
    dictionary: bool,
    /// Past it the column goes on in `encoding`.
    dictionary_bytes: Option<usize>,
    encoding: Option<Encoding>,
    compress: bool,
    statistics: EnabledStatistics,
}

impl Choice {
    fn of(path: &ColumnPath, physical: Type) -> Self {
        let parts = path.parts();
        let column = parts.first().map_or("", String::as_str);
        // Rows are sorted by trace id: a page of any other column holds all sorts of values, so ranges a page
        // prune nothing there, and ranges of text not even a row group.
        let statistics = match physical {
            _ if parts.len() > 1 => EnabledStatistics::None,
            Type::BYTE_ARRAY | Type::FIXED_LEN_BYTE_ARRAY => EnabledStatistics::None,
            _ => EnabledStatistics::Chunk,
        };
        let base =
            Self { dictionary: true, dictionary_bytes: None, encoding: None, compress: true, statistics };
        match column {
            name::TRACE_ID => Self { dictionary: false, statistics: EnabledStatistics::Page, ..base },
            // Random bytes: neither a dictionary nor zstd finds anything.
            name::SPAN_ID => Self { dictionary: false, compress: false, ..base },
            name::PARENT_SPAN_ID => Self { dictionary: false, ..base },
            // zstd takes nothing off packed differences.
            name::START_TIME | name::DURATION_NS => {
                let encoding = Some(Encoding::DELTA_BINARY_PACKED);
                Self { dictionary: false, compress: false, encoding, ..base }
            }
            _ if physical == Type::DOUBLE => {
                let encoding = Some(Encoding::BYTE_STREAM_SPLIT);
                Self { dictionary_bytes: Some(NUMBER_DICTIONARY_BYTES), encoding, ..base }
            }
            _ if matches!(physical, Type::INT32 | Type::INT64) => {
                Self { dictionary_bytes: Some(NUMBER_DICTIONARY_BYTES), ..base }
            }
            _ => base,
        }
    }
}
