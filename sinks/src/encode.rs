//! Records of one range into sorted Parquet files, one an event date. No I/O, no clock, no randomness.
//!
//! [`range`] decides which records count and decodes them, a row group's worth at a time; this module sorts those rows
//! and adds them to the [`file`] of their date as a [`row_group`]: text and maps through [`chunk`], whose pages follow
//! [`layout`] and [`hybrid`], the rest through the Parquet crate's own writer. [`properties`] holds what was tuned.
//! Invariant: the bytes are a function of the rows, the range and the settings, so that whoever repeats a plan
//! writes the same files.

mod chunk;
mod file;
mod hybrid;
mod layout;
mod properties;
mod range;
mod row_group;

use std::collections::{BTreeMap, btree_map::Entry};

use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::TimestampNanosecondType,
    error::ArrowError,
};
use bytes::Bytes;
use infertrace_schemas::{
    columns::{index, name, span_schema},
    lake::{DataFile, DataFileName, EventDate, Merged},
};
use parquet::{errors::ParquetError, file::metadata::ParquetMetaDataReader};

use chunk::PageCompressor;
use file::OpenFile;
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
    /// What names the files besides, where they are made of others.
    pub merged: Option<Merged>,
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

/// Writes `batches`, which are one range, as one file a date, ascending by date.
///
/// # Errors
/// [`EncodeError`] when a batch is not of the span schema.
pub fn encode_rows(
    batches: &[RecordBatch],
    settings: &FileSettings,
) -> Result<Vec<EncodedFile>, EncodeError> {
    let mut writer = RangeWriter::new(settings)?;
    for batch in batches {
        writer.write(batch)?;
    }
    writer.finish()
}

/// The files of one range while its rows come in, one an event date.
pub struct RangeWriter<'a> {
    settings: &'a FileSettings,
    compressor: PageCompressor,
    files: BTreeMap<EventDate, OpenFile>,
}

/// Ordered by trace id, start and, to be unambiguous, row.
type SortKey = (u128, i64, u32);

impl<'a> RangeWriter<'a> {
    /// No rows yet, so no files.
    ///
    /// # Errors
    /// [`EncodeError::Parquet`] for a level that zstd does not know.
    pub fn new(settings: &'a FileSettings) -> Result<Self, EncodeError> {
        let compressor = PageCompressor::new(settings.zstd_level)?;
        Ok(Self { settings, compressor, files: BTreeMap::new() })
    }

    /// Sorts `batch` by (date, trace id, start) and appends it: each date's rows as a row group of its file, or as
    /// several where they are more than a row group holds. Rows are sorted within a row group only: a trace's spans
    /// arrive together, each row group has a bloom filter of its own, and no range is ever in memory as a whole.
    ///
    /// # Errors
    /// [`EncodeError`] when it is not of the span schema.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), EncodeError> {
        if batch.schema_ref() != &span_schema() {
            return Err(ArrowError::SchemaError("rows are not of the span schema".to_owned()).into());
        }
        for (date, order) in sorted_by_date(batch) {
            let file = match self.files.entry(date) {
                Entry::Occupied(file) => file.into_mut(),
                Entry::Vacant(vacant) => vacant.insert(OpenFile::create(date, self.settings)?),
            };
            // Of about equal size, so that no few rows make a row group of their own.
            let row_groups = (order.len() / self.settings.row_group_rows.max(1) as usize).max(1);
            for rows in order.chunks(order.len().div_ceil(row_groups)) {
                file.append(batch, rows, &mut self.compressor)?;
            }
        }
        Ok(())
    }

    /// Ends the files; ascending by date.
    ///
    /// # Errors
    /// [`EncodeError::Parquet`] when a footer cannot be written.
    pub fn finish(self) -> Result<Vec<EncodedFile>, EncodeError> {
        self.files.into_values().map(OpenFile::finish).collect()
    }
}

fn sorted_by_date(batch: &RecordBatch) -> BTreeMap<EventDate, Vec<SortKey>> {
    let trace_ids = batch.column(index::TRACE_ID).as_fixed_size_binary();
    let starts = batch.column(index::START_TIME).as_primitive::<TimestampNanosecondType>().values();
    let mut dates: BTreeMap<EventDate, Vec<SortKey>> = BTreeMap::new();
    for (row, &start) in starts.iter().enumerate() {
        let id: [u8; 16] = trace_ids.value(row).try_into().expect("trace_id is 16 bytes wide");
        let rows = dates.entry(EventDate::of_nanos(start)).or_default();
        rows.push((u128::from_be_bytes(id), start, row as u32));
    }
    dates.values_mut().for_each(|rows| rows.sort_unstable());
    dates
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

/// Names of the columns a row group is sorted by, in order.
pub const SORTED_BY: [&str; 2] = [name::TRACE_ID, name::START_TIME];

#[cfg(test)]
mod tests;
