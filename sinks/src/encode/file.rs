//! One data file while it grows, and what the manifest will say of it.

use std::collections::BTreeSet;

use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::Int32Type,
};
use infertrace_schemas::{
    columns::{index, span_schema},
    lake::{DataFile, DataFileName, EventDate, Id16, MAX_LISTED_NAMES, listed_names},
};
use parquet::{
    arrow::{
        ArrowWriter,
        arrow_writer::{ArrowRowGroupWriterFactory, ArrowWriterOptions},
    },
    file::{metadata::KeyValue, writer::SerializedFileWriter},
};

use super::{
    ENTRY_KEY, EncodeError, EncodedFile, FileSettings, SortKey, chunk::PageCompressor, properties, row_group,
};

/// A file of one event date.
pub(super) struct OpenFile {
    name: DataFileName,
    parquet: SerializedFileWriter<Vec<u8>>,
    general: ArrowRowGroupWriterFactory,
    row_groups: usize,
    rows: u64,
    starts: Option<(i64, i64)>,
    trace_ids: Option<(u128, u128)>,
    services: Names,
    models: Names,
    tenants: Names,
}

impl OpenFile {
    pub(super) fn create(date: EventDate, settings: &FileSettings) -> Result<Self, EncodeError> {
        let options = ArrowWriterOptions::new().with_properties(properties::of(settings));
        let (parquet, general) = ArrowWriter::try_new_with_options(Vec::new(), span_schema(), options)?
            .into_serialized_writer()?;
        Ok(Self {
            name: DataFileName {
                date,
                partition: settings.partition,
                start: settings.start,
                merged: settings.merged,
            },
            parquet,
            general,
            row_groups: 0,
            rows: 0,
            starts: None,
            trace_ids: None,
            services: Names::of(index::SERVICE_NAME),
            models: Names::of(index::MODEL_NAME),
            tenants: Names::of(index::TENANT),
        })
    }

    /// Appends the rows of `batch` at `order`, which is sorted, as one row group.
    pub(super) fn append(
        &mut self,
        batch: &RecordBatch,
        order: &[SortKey],
        compressor: &mut PageCompressor,
    ) -> Result<(), EncodeError> {
        row_group::write(&mut self.parquet, &self.general, self.row_groups, batch, order, compressor)?;
        self.row_groups += 1;
        self.rows += order.len() as u64;
        for &(trace_id, start, _) in order {
            self.starts = widened(self.starts, start);
            self.trace_ids = widened(self.trace_ids, trace_id);
        }
        for names in [&mut self.services, &mut self.models, &mut self.tenants] {
            names.add(batch, order);
        }
        Ok(())
    }

    /// Writes the footer, with the manifest's entry in it.
    pub(super) fn finish(mut self) -> Result<EncodedFile, EncodeError> {
        let (min_start_ns, max_start_ns) = self.starts.unwrap_or_default();
        let (min_trace_id, max_trace_id) = self.trace_ids.unwrap_or_default();
        let mut entry = DataFile {
            path: self.name.path(),
            date: self.name.date,
            rows: self.rows,
            bytes: 0,
            footer_bytes: 0,
            min_start_ns,
            max_start_ns,
            min_trace_id: Id16(min_trace_id.to_be_bytes()),
            max_trace_id: Id16(max_trace_id.to_be_bytes()),
            services: self.services.listed(),
            models: self.models.listed(),
            tenants: self.tenants.listed(),
        };
        let text = serde_json::to_string(&entry).ok();
        self.parquet.append_key_value_metadata(KeyValue::new(ENTRY_KEY.to_owned(), text));
        let data_end = self.parquet.bytes_written();
        let bytes = self.parquet.into_inner()?;
        entry.bytes = bytes.len() as u64;
        entry.footer_bytes = (bytes.len() - data_end) as u64;
        Ok(EncodedFile { name: self.name, bytes: bytes.into(), entry })
    }
}

fn widened<T: Ord + Copy>(range: Option<(T, T)>, value: T) -> Option<(T, T)> {
    Some(range.map_or((value, value), |(least, most)| (least.min(value), most.max(value))))
}

/// The distinct names in one column, or one more than an entry lists.
struct Names {
    column: usize,
    names: BTreeSet<String>,
}

impl Names {
    const fn of(column: usize) -> Self {
        Self { column, names: BTreeSet::new() }
    }

    fn add(&mut self, batch: &RecordBatch, order: &[SortKey]) {
        if self.names.len() > MAX_LISTED_NAMES {
            return;
        }
        let column = batch.column(self.column).as_dictionary::<Int32Type>();
        let mut used = vec![false; column.values().len()];
        for &(_, _, row) in order {
            if column.is_valid(row as usize) {
                used[column.keys().value(row as usize) as usize] = true;
            }
        }
        let values = column.values().as_string::<i32>();
        for (key, _) in used.iter().enumerate().filter(|(_, used)| **used) {
            let name = values.value(key);
            if self.names.len() <= MAX_LISTED_NAMES && !self.names.contains(name) {
                self.names.insert(name.to_owned());
            }
        }
    }

    fn listed(&self) -> Option<Vec<String>> {
        listed_names(self.names.iter().map(String::as_str))
    }
}
