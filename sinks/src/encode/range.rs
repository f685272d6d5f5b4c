//! The records of one range: which are retries, which are poison, and the columns of the rest.
//!
//! Invariant: every record is counted once, as rows, as a duplicate or as poison.

use std::sync::Arc;

use arrow::array::RecordBatch;
use infertrace_runtime::log::Record;
use infertrace_schemas::{
    dedup::Dedup,
    lake::Id16,
    reader::{Position, SpanReader},
    record::{RecordError, batch_id_of},
};

use super::{EncodeError, EncodedFile, FileSettings, RangeWriter};

/// A record that could not be opened.
#[derive(Clone, Debug)]
pub struct PoisonRecord {
    /// As it was read.
    pub record: Arc<Record>,
    /// Why.
    pub reason: String,
}

/// What a range of records became.
#[derive(Clone, Debug, Default)]
pub struct EncodedRange {
    /// Data files, ascending by date.
    pub files: Vec<EncodedFile>,
    /// Records read.
    pub records: u64,
    /// Spans in the files.
    pub rows: u64,
    /// Records dropped as retries.
    pub duplicate_records: u64,
    /// Spans that could not be decoded in good records.
    pub rejected_spans: u64,
    /// Records for the dead-letter topic.
    pub poison: Vec<PoisonRecord>,
    /// Ids of the batches that were new, in the order of their records.
    pub batch_ids: Vec<Id16>,
}

/// What reading a range told, beside its spans.
#[derive(Clone, Debug, Default)]
pub struct ReadRange {
    /// Records dropped as retries.
    pub duplicate_records: u64,
    /// Spans that could not be decoded in good records.
    pub rejected_spans: u64,
    /// Records for the dead-letter topic.
    pub poison: Vec<PoisonRecord>,
    /// Ids of the batches that were new, in the order of their records.
    pub batch_ids: Vec<Id16>,
}

/// Decodes `records`, which ascend by offset, and hands their spans to `take` in batches that end with the record that
/// brings the `batch_rows`th row, or sooner where a column would pass the reach of 32-bit offsets. Each record is
/// dropped as soon as it is decoded. `seen` holds the batches before this range and learns those in it.
///
/// # Errors
/// That of `take`.
pub fn read_range<E>(
    records: Vec<Record>,
    seen: &mut Dedup,
    partition: i32,
    batch_rows: usize,
    mut take: impl FnMut(RecordBatch) -> Result<(), E>,
) -> Result<ReadRange, E> {
    let mut range = ReadRange::default();
    let mut reader = SpanReader::new();
    let mut waiting = 0;
    for record in records {
        // A tombstone says nothing about spans.
        let Some(payload) = &record.payload else { continue };
        let id = batch_id_of(payload);
        if id.is_some_and(|id| seen.contains(&id)) {
            range.duplicate_records += 1;
            continue;
        }
        let position = Position { partition, offset: record.offset.0.cast_signed() };
        let pushed = match reader.push(payload, position) {
            Err(RecordError::ReaderFull) => {
                take(reader.finish())?;
                waiting = 0;
                reader.push(payload, position)
            }
            pushed => pushed,
        };
        match pushed {
            Ok(pushed) => {
                waiting += pushed.spans;
                range.rejected_spans += pushed.rejected as u64;
                // Only a batch that was read counts as seen: a poison record may be sent back.
                if let Some(id) = id {
                    seen.insert(id);
                    range.batch_ids.push(Id16(id));
                }
            }
            Err(error) => {
                range.poison.push(PoisonRecord { reason: error.to_string(), record: Arc::new(record) });
            }
        }
        if waiting >= batch_rows {
            take(reader.finish())?;
            waiting = 0;
        }
    }
    take(reader.finish())?;
    Ok(range)
}

/// Decodes `records` as [`read_range`] does, and encodes their spans, a row group's worth at a time.
///
/// # Errors
/// [`EncodeError`] when the range cannot be written as a whole; nothing passing.
pub fn encode_range(
    records: Vec<Record>,
    seen: &mut Dedup,
    settings: &FileSettings,
) -> Result<EncodedRange, EncodeError> {
    let partition =
        i32::try_from(settings.partition).map_err(|_| EncodeError::Partition(settings.partition))?;
    let (count, mut rows) = (records.len() as u64, 0);
    let mut writer = RangeWriter::new(settings)?;
    let ReadRange { duplicate_records, rejected_spans, poison, batch_ids } =
        read_range(records, seen, partition, settings.row_group_rows as usize, |batch| {
            rows += batch.num_rows() as u64;
            writer.write(&batch)
        })?;
    Ok(EncodedRange {
        files: writer.finish()?,
        records: count,
        rows,
        duplicate_records,
        rejected_spans,
        poison,
        batch_ids,
    })
}
