//! Records of one range into sorted Parquet files, one an event date. No I/O, no clock, no randomness.
//!
//! [`range`] decides which records count and decodes them; this module sorts the rows and writes the
//! files; [`properties`] holds what was tuned. Invariant: the bytes are a function of the rows, the range
//! and the settings, so that whoever repeats a plan writes the same files.

pub mod properties;
mod range;

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array},
    compute::{interleave, take},
    datatypes::{DataType, Int32Type, TimestampNanosecondType},
    error::ArrowError,
};
use bytes::Bytes;
use infertrace_schemas::{
    columns::{index, name, span_schema},
    lake::{DataFile, DataFileName, EventDate, Id16, listed_names},
};
use parquet::{
    arrow::{
        ArrowWriter,
        arrow_writer::{ArrowWriterOptions, compute_leaves},
    },
    errors::ParquetError,
    file::{
        metadata::{KeyValue, ParquetMetaDataReader},
        page_index::column_index::ColumnIndexMetaData,
    },
};

pub use range::{EncodedRange, PoisonRecord, ReadRange, encode_range, read_range};

/// Key of the file's own entry (without sizes) in its metadata.
pub const ENTRY_KEY: &str = "infertrace.file";
/// Key of the range of offsets in a file's metadata.
pub const RANGE_KEY: &str = "infertrace.range";

/// Where rows come from and how they are written: a plan, as far as bytes depend on it.
#[derive(Clone, Debug)]
pub struct FileSettings {
    /// Topic of the records.
    pub topic: String,
    /// Partition of the records.
    pub partition: u32,
    /// First offset of the range.
    pub start: u64,
    /// One past its last offset.
    pub end: u64,
    /// Rows of a row group.
    pub row_group_rows: u32,
    /// Level of zstd.
    pub zstd_level: i32,
}

/// A data file, ready to be stored.
#[derive(Clone, Debug)]
pub struct EncodedFile {
    /// Its name.
    pub name: DataFileName,
    /// Its content.
    pub bytes: Bytes,
    /// Its entry in the manifest.
    pub entry: DataFile,
}

/// Why rows could not be encoded. None of these passes by itself.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The rows are not of the span schema, or too many for one array.
    #[error("columns: {0}")]
    Arrow(#[from] ArrowError),
    /// The Parquet writer or reader refused.
    #[error("parquet: {0}")]
    Parquet(#[from] ParquetError),
    /// A partition number beyond what the columns hold.
    #[error("partition {0} is beyond the columns' reach")]
    Partition(u32),
    /// A data file of another origin lies where one of ours belongs.
    #[error("{path} is not a file of this range: {detail}")]
    Foreign {
        /// The file.
        path: String,
        /// What differs.
        detail: String,
    },
}

/// Sorts `batches`, which are one range, by (date, trace id, start) and writes one file a date, ascending
/// by date. More than one batch is needed only where a column would pass the reach of 32-bit offsets.
///
/// # Errors
/// [`EncodeError`] when a batch is not of the span schema.
pub fn encode_rows(
    batches: &[RecordBatch],
    settings: &FileSettings,
) -> Result<Vec<EncodedFile>, EncodeError> {
    if batches.iter().any(|batch| batch.schema_ref() != &span_schema()) {
        return Err(ArrowError::SchemaError("rows are not of the span schema".to_owned()).into());
    }
    sorted_by_date(batches).into_iter().map(|group| write_file(batches, &group, settings)).collect()
}

/// The rows of one date in their order in the file.
struct DateGroup {
    date: EventDate,
    order: Vec<SortKey>,
}

/// Ordered by trace id, start and, to be unambiguous, position in the log.
type SortKey = (u128, i64, RowId);

/// A row of one of the batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RowId {
    batch: u32,
    row: u32,
}

fn sorted_by_date(batches: &[RecordBatch]) -> Vec<DateGroup> {
    let mut groups: Vec<DateGroup> = Vec::with_capacity(2);
    let mut current = 0;
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    for (number, batch) in batches.iter().enumerate() {
        let trace_ids = batch.column(index::TRACE_ID).as_fixed_size_binary();
        let starts = batch.column(index::START_TIME).as_primitive::<TimestampNanosecondType>().values();
        for (row, &start) in starts.iter().enumerate() {
            let date = EventDate::of_nanos(start);
            if groups.get(current).is_none_or(|group| group.date != date) {
                current = groups.iter().position(|group| group.date == date).unwrap_or_else(|| {
                    let capacity = if groups.is_empty() { rows } else { 16 };
                    groups.push(DateGroup { date, order: Vec::with_capacity(capacity) });
                    groups.len() - 1
                });
            }
            let id: [u8; 16] = trace_ids.value(row).try_into().expect("trace_id is 16 bytes wide");
            let at = RowId { batch: number as u32, row: row as u32 };
            groups[current].order.push((u128::from_be_bytes(id), start, at));
        }
    }
    groups.sort_unstable_by_key(|group| group.date);
    for group in &mut groups {
        group.order.sort_unstable();
    }
    groups
}

fn write_file(
    batches: &[RecordBatch],
    group: &DateGroup,
    settings: &FileSettings,
) -> Result<EncodedFile, EncodeError> {
    let name = DataFileName { date: group.date, partition: settings.partition, start: settings.start };
    let mut entry = describe(batches, group, &name);
    let options = ArrowWriterOptions::new().with_properties(properties::of(settings, group.order.len()));
    let out = Vec::with_capacity(group.order.len() * 96 + (64 << 10));
    let (mut file, row_groups) =
        ArrowWriter::try_new_with_options(out, span_schema(), options)?.into_serialized_writer()?;
    // A row group of several batches must stay within 32-bit offsets as well.
    let row_group_rows = (settings.row_group_rows as usize / batches.len().max(1)).max(1);
    for (number, rows) in group.order.chunks(row_group_rows).enumerate() {
        let picks = Picks::of(batches, rows);
        let mut writers = row_groups.create_column_writers(number)?.into_iter();
        let mut row_group = file.next_row_group()?;
        for (column, field) in span_schema().fields().iter().enumerate() {
            // One sorted column at a time: a sorted copy of the whole row group never exists.
            for leaf in compute_leaves(field, &picks.column(column)?)? {
                let mut writer =
                    writers.next().ok_or_else(|| ParquetError::General("a leaf without writer".into()))?;
                writer.write(&leaf)?;
                let mut chunk = writer.close()?;
                drop_empty_index(chunk.close_mut());
                chunk.append_to_row_group(&mut row_group)?;
            }
        }
        row_group.close()?;
    }
    file.append_key_value_metadata(KeyValue::new(ENTRY_KEY.to_owned(), serde_json::to_string(&entry).ok()));
    let data_end = file.bytes_written();
    let bytes = file.into_inner()?;
    entry.bytes = bytes.len() as u64;
    entry.footer_bytes = (bytes.len() - data_end) as u64;
    Ok(EncodedFile { name, bytes: bytes.into(), entry })
}

/// The rows of one row group, in order.
enum Picks<'a> {
    OfOne(&'a RecordBatch, UInt32Array),
    OfMany(&'a [RecordBatch], Vec<(usize, usize)>),
}

impl<'a> Picks<'a> {
    fn of(batches: &'a [RecordBatch], rows: &[SortKey]) -> Self {
        match batches {
            [batch] => Self::OfOne(batch, rows.iter().map(|(_, _, at)| at.row).collect::<Vec<_>>().into()),
            _ => Self::OfMany(
                batches,
                rows.iter().map(|(_, _, at)| (at.batch as usize, at.row as usize)).collect(),
            ),
        }
    }

    fn column(&self, index: usize) -> Result<ArrayRef, ArrowError> {
        match self {
            Self::OfOne(batch, picks) => {
                let column = batch.column(index);
                if is_blank(column) { Ok(column.slice(0, picks.len())) } else { take(column, picks, None) }
            }
            Self::OfMany(batches, picks) => {
                let columns: Vec<&dyn Array> =
                    batches.iter().map(|batch| batch.column(index).as_ref()).collect();
                interleave(&columns, picks)
            }
        }
    }
}

/// Whether every row is alike: null, or an empty list or map. Then there is nothing to pick.
fn is_blank(column: &ArrayRef) -> bool {
    match column.data_type() {
        DataType::Map(..) => {
            let offsets = column.as_map().offsets();
            offsets.first() == offsets.last() && column.null_count() == 0
        }
        DataType::List(_) => {
            let offsets = column.as_list::<i32>().offsets();
            offsets.first() == offsets.last() && column.null_count() == 0
        }
        _ => column.null_count() == column.len(),
    }
}

/// A column index of pages with nothing in them tells a reader no more than the chunk's null count.
fn drop_empty_index(close: &mut parquet::column::writer::ColumnCloseResult) {
    let values = close.metadata.num_values();
    let nulls = close.metadata.statistics().and_then(|statistics| statistics.null_count_opt());
    if nulls == u64::try_from(values).ok() {
        close.column_index = None::<ColumnIndexMetaData>;
    }
}

fn describe(batches: &[RecordBatch], group: &DateGroup, name: &DataFileName) -> DataFile {
    let starts = || group.order.iter().map(|&(_, start, _)| start);
    let id_at = |key: Option<&SortKey>| Id16(key.map_or(0, |key| key.0).to_be_bytes());
    DataFile {
        path: name.path(),
        date: name.date,
        rows: group.order.len() as u64,
        bytes: 0,
        footer_bytes: 0,
        min_start_ns: starts().min().unwrap_or_default(),
        max_start_ns: starts().max().unwrap_or_default(),
        min_trace_id: id_at(group.order.first()),
        max_trace_id: id_at(group.order.last()),
        services: names_of(batches, index::SERVICE_NAME, &group.order),
        models: names_of(batches, index::MODEL_NAME, &group.order),
        tenants: names_of(batches, index::TENANT, &group.order),
    }
}

fn names_of(batches: &[RecordBatch], column: usize, order: &[SortKey]) -> Option<Vec<String>> {
    let columns: Vec<_> =
        batches.iter().map(|batch| batch.column(column).as_dictionary::<Int32Type>()).collect();
    let mut used: Vec<Vec<bool>> = columns.iter().map(|column| vec![false; column.values().len()]).collect();
    for (_, _, at) in order {
        let keys = columns[at.batch as usize].keys();
        if keys.is_valid(at.row as usize) {
            used[at.batch as usize][keys.value(at.row as usize) as usize] = true;
        }
    }
    let names = columns.iter().zip(&used).flat_map(|(column, used)| {
        let values = column.values().as_string::<i32>();
        used.iter().enumerate().filter(|(_, used)| **used).map(|(index, _)| values.value(index))
    });
    listed_names(names)
}

/// The manifest's entry for a file that an earlier run or another release stored under `name`.
///
/// # Errors
/// [`EncodeError::Foreign`] when it is not a data file of exactly this range.
pub fn entry_of_stored(name: &DataFileName, end: u64, bytes: &Bytes) -> Result<DataFile, EncodeError> {
    let foreign = |detail: String| EncodeError::Foreign { path: name.path(), detail };
    let metadata =
        ParquetMetaDataReader::new().parse_and_finish(bytes).map_err(|error| foreign(error.to_string()))?;
    let file = metadata.file_metadata();
    let value_of = |key: &str| {
        file.key_value_metadata()?.iter().find(|pair| pair.key == key).and_then(|pair| pair.value.as_deref())
    };
    let range = value_of(RANGE_KEY).unwrap_or_default();
    if range != properties::range_text(name.start, end) {
        return Err(foreign(format!("it holds the offsets {range:?}, expected {}..{end}", name.start)));
    }
    let entry = value_of(ENTRY_KEY).ok_or_else(|| foreign(format!("it has no {ENTRY_KEY}")))?;
    let mut entry: DataFile = serde_json::from_str(entry).map_err(|error| foreign(error.to_string()))?;
    let stored_rows = u64::try_from(file.num_rows()).unwrap_or_default();
    if entry.path != name.path() || entry.rows != stored_rows {
        return Err(foreign(format!("its entry names {} with {} rows", entry.path, entry.rows)));
    }
    let data_end = metadata
        .row_groups()
        .iter()
        .flat_map(|group| group.columns())
        .map(|column| {
            let (start, length) = column.byte_range();
            start + length
        })
        .max()
        .unwrap_or_default();
    entry.bytes = bytes.len() as u64;
    entry.footer_bytes = entry.bytes - data_end;
    Ok(entry)
}

/// Names of the columns a file is sorted by, in order.
pub const SORTED_BY: [&str; 2] = [name::TRACE_ID, name::START_TIME];

#[cfg(test)]
mod tests;
