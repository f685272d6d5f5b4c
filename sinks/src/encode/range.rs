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

use super::{EncodeError, EncodedFile, FileSettings, encode_rows};

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

/// The records of a range as columns.
#[derive(Debug, Default)]
pub struct ReadRange {
    /// Spans; more than one batch only where a column would pass the reach of 32-bit offsets.
    pub batches: Vec<RecordBatch>,
    /// Records dropped as retries.
    pub duplicate_records: u64,
    /// Spans that could not be decoded in good records.
    pub rejected_spans: u64,
    /// Records for the dead-letter topic.
    pub poison: Vec<PoisonRecord>,
    /// Ids of the batches that were new, in the order of their records.
    pub batch_ids: Vec<Id16>,
}

/// Decodes `records`, which ascend by offset. Each record is dropped as soon as it is decoded. `seen` holds the batches
/// before this range and learns those in it.
#[must_use]
pub fn read_range(records: Vec<Record>, seen: &mut Dedup, partition: i32) -> ReadRange {
    let mut range = ReadRange::default();
    let mut reader = SpanReader::new();
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
                range.batches.push(reader.finish());
                reader.push(payload, position)
            }
            pushed => pushed,
        };
        match pushed {
            Ok(pushed) => {
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
    }
    range.batches.push(reader.finish());
    range
}

/// Decodes `records` as [`read_range`] does, and encodes their spans.
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
    let count = records.len() as u64;
    let ReadRange { batches, duplicate_records, rejected_spans, poison, batch_ids } =
        read_range(records, seen, partition);
    Ok(EncodedRange {
        rows: batches.iter().map(|batch| batch.num_rows() as u64).sum(),
        files: encode_rows(&batches, settings)?,
        records: count,
        duplicate_records,
        rejected_spans,
        poison,
        batch_ids,
    })
}
