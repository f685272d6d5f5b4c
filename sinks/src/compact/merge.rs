//! Data files into one, by the writer's own encoder. No I/O, no clock.
//!
//! Files follow one another by offset and are not sorted through each other: a row group is a stretch of time, which
//! searches prune by, is sorted by trace id, which look-ups read by, and has the bloom filter of every row group. One
//! row group is in memory at a time. Old files are read as the present schema's columns (`columns::conform`).
//! Invariant: the bytes are a function of the plan, the inputs, the deletions that the plan names and its context.

use std::collections::{BTreeMap, BTreeSet};

use arrow::{
    array::{Array, ArrayRef, BooleanArray, RecordBatch},
    compute::{and, cast, concat, filter_record_batch, not},
    datatypes::{DataType, SchemaRef},
    error::ArrowError,
};
use bytes::Bytes;
use infertrace_schemas::{
    audit::{self, Sum},
    columns::{conform, span_schema},
    lake::{
        compaction::{CompactionPlan, Dropped},
        deletion::Deletions,
    },
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::classes::Classes;
use crate::encode::{EncodeError, EncodedFile, FileSettings, RangeWriter};

const READ_ROWS: usize = 8_192;
/// A row group is ended early when its rows, unpacked, take so much: Arrow's offsets reach 2 GiB a column.
const MOST_PENDING_BYTES: usize = 256 << 20;

/// What a merge made.
#[derive(Debug, Default)]
pub(super) struct Merged {
    /// The new file; none where every row was left out.
    pub(super) file: Option<EncodedFile>,
    /// What was left out.
    pub(super) dropped: Vec<Dropped>,
}

/// What the settings of the new file are.
pub(super) fn settings_of(plan: &CompactionPlan) -> FileSettings {
    FileSettings {
        topic: plan.topic.clone(),
        partition: plan.partition,
        start: plan.start,
        end: plan.next,
        row_group_rows: plan.row_group_rows,
        zstd_level: plan.zstd_level,
        merged: plan.output().merged,
    }
}

/// Merges files as they come in.
pub(super) struct Merger<'a> {
    writer: RangeWriter<'a>,
    deletions: &'a Deletions,
    classes: Option<&'a Classes>,
    /// Starts of the ranges of the partition.
    starts: &'a BTreeSet<u64>,
    group_rows: usize,
    pending: Vec<RecordBatch>,
    pending_rows: usize,
    pending_bytes: usize,
    dropped: BTreeMap<u64, Sum>,
    read_rows: u64,
}

impl<'a> Merger<'a> {
    /// A merge of files that hold `rows` rows together.
    pub(super) fn new(
        settings: &'a FileSettings,
        rows: u64,
        deletions: &'a Deletions,
        classes: Option<&'a Classes>,
        starts: &'a BTreeSet<u64>,
    ) -> Result<Self, EncodeError> {
        // Of about equal size, so that no few rows make a row group of their own.
        let rows = usize::try_from(rows).unwrap_or(usize::MAX).max(1);
        let row_groups = (rows / settings.row_group_rows.max(1) as usize).max(1);
        Ok(Self {
            writer: RangeWriter::new(settings)?,
            deletions,
            classes,
            starts,
            group_rows: rows.div_ceil(row_groups),
            pending: Vec::new(),
            pending_rows: 0,
            pending_bytes: 0,
            dropped: BTreeMap::new(),
            read_rows: 0,
        })
    }

    /// Adds the rows of a file.
    pub(super) fn add(&mut self, bytes: Bytes) -> Result<(), EncodeError> {
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)?.with_batch_size(READ_ROWS).build()?;
        for batch in reader {
            let batch = conform(&batch?)?;
            self.read_rows += batch.num_rows() as u64;
            let batch = self.kept(batch)?;
            let mut at = 0;
            while at < batch.num_rows() {
                let rows = (batch.num_rows() - at).min(self.group_rows - self.pending_rows);
                let part = batch.slice(at, rows);
                at += rows;
                self.pending_rows += rows;
                // A slice says the size of the whole; close enough for a bound.
                self.pending_bytes += part.get_array_memory_size();
                self.pending.push(part);
                if self.pending_rows == self.group_rows || self.pending_bytes >= MOST_PENDING_BYTES {
                    self.flush()?;
                }
            }
        }
        Ok(())
    }

    /// Ends the file.
    pub(super) fn finish(mut self) -> Result<Merged, EncodeError> {
        self.flush()?;
        let mut files = self.writer.finish()?;
        let file = files.pop();
        let left_out: u64 = self.dropped.values().map(|sum| sum.spans).sum();
        let kept = file.as_ref().map_or(0, |file| file.entry.rows);
        if !files.is_empty() || kept + left_out != self.read_rows {
            // No row is lost by a file that is not what its name says.
            let detail = format!("{} rows were read, {kept} are of its date", self.read_rows);
            let path = file.map(|file| file.name.path()).unwrap_or_default();
            return Err(EncodeError::Foreign { path, detail });
        }
        let dropped = self.dropped.into_iter();
        let dropped =
            dropped.map(|(start, sum)| Dropped { start, spans: sum.spans, hash: sum.hash }).collect();
        Ok(Merged { file, dropped })
    }

    /// The rows that stay; the others are summed.
    fn kept(&mut self, batch: RecordBatch) -> Result<RecordBatch, EncodeError> {
        let mut stays: Option<BooleanArray> = None;
        if !self.deletions.is_empty() {
            stays = Some(self.deletions.kept(&batch)?);
        }
        if let Some(classes) = self.classes {
            let by_class = classes.kept(&batch)?;
            stays = Some(match &stays {
                Some(stays) => and(stays, &by_class)?,
                None => by_class,
            });
        }
        let Some(stays) = stays.filter(|stays| stays.true_count() < batch.num_rows()) else {
            return Ok(batch);
        };
        let (starts, dropped) = (self.starts, &mut self.dropped);
        audit::rows(&filter_record_batch(&batch, &not(&stays)?)?, |row| {
            let offset = row.offset.cast_unsigned();
            let start = starts.range(..=offset).next_back().copied().unwrap_or(offset);
            dropped.entry(start).or_default().add(row.hash);
        })?;
        Ok(filter_record_batch(&batch, &stays)?)
    }

    fn flush(&mut self) -> Result<(), EncodeError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let batch = joined(&span_schema(), &self.pending)?;
        self.pending.clear();
        (self.pending_rows, self.pending_bytes) = (0, 0);
        self.writer.write(&batch)
    }
}

/// Batches as one. A term stands in a dictionary once, whatever batch it came from: a dictionary of the file holds no term
/// twice.
fn joined(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<RecordBatch, ArrowError> {
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
    for (index, field) in schema.fields().iter().enumerate() {
        let is_dictionary = matches!(field.data_type(), DataType::Dictionary(..));
        let parts = batches.iter().map(|batch| {
            let column = batch.column(index);
            if is_dictionary { cast(column, &DataType::Utf8) } else { Ok(ArrayRef::clone(column)) }
        });
        let parts: Vec<ArrayRef> = parts.collect::<Result<_, _>>()?;
        let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
        let column = concat(&parts)?;
        columns.push(if is_dictionary { cast(&column, field.data_type())? } else { column });
    }
    RecordBatch::try_new(SchemaRef::clone(schema), columns)
}
