//! How important the traces of a partition and date are, told from their spans.
//!
//! The definitions are those of the processors' summaries: a span that failed makes a trace an error, a time from its first
//! start to its last end of `slow_trace_ms` or more makes it slow. All spans of a trace are in one partition, so the
//! files of a partition and date hold the whole of it but for spans beyond midnight. Invariant: a function of the files.

use ahash::AHashMap;
use arrow::{
    array::{Array, AsArray, BooleanArray, RecordBatch, StringArray},
    compute::cast,
    datatypes::{DataType, Int64Type, TimeUnit, TimestampNanosecondType, UInt8Type},
    error::ArrowError,
};
use bytes::Bytes;
use infertrace_schemas::{
    avro::Importance,
    columns::{name, status},
    lake::compaction::{Kept, PlannedRetention},
};
use parquet::{
    arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder},
    errors::ParquetError,
};

const COLUMNS: [&str; 4] = [name::TRACE_ID, name::STATUS_CODE, name::START_TIME, name::DURATION_NS];
const READ_ROWS: usize = 8_192;

#[derive(Clone, Copy, Debug)]
struct Extent {
    first_ns: i64,
    end_ns: i64,
    failed: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Classes {
    slow_ns: i64,
    kept: Vec<Kept>,
    traces: AHashMap<[u8; 16], Extent>,
}

impl Classes {
    /// Nothing is known yet.
    pub(super) fn new(retention: &PlannedRetention) -> Self {
        Self {
            slow_ns: retention.slow_trace_ms.saturating_mul(1_000_000),
            kept: retention.kept.clone(),
            traces: AHashMap::new(),
        }
    }

    /// Takes the spans of a file into account.
    pub(super) fn read(&mut self, bytes: Bytes) -> Result<(), ParquetError> {
        let builder = ParquetRecordBatchReaderBuilder::try_new(bytes)?;
        let mask = ProjectionMask::columns(builder.parquet_schema(), COLUMNS);
        for batch in builder.with_projection(mask).with_batch_size(READ_ROWS).build()? {
            self.add(&batch?)?;
        }
        Ok(())
    }

    fn add(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        let ids = ids_of(batch)?;
        let number = |name: &str, to: DataType| cast(column(batch, name)?, &to);
        let states = number(name::STATUS_CODE, DataType::UInt8)?;
        let states = states.as_primitive::<UInt8Type>();
        let starts = number(name::START_TIME, DataType::Timestamp(TimeUnit::Nanosecond, None))?;
        let starts = starts.as_primitive::<TimestampNanosecondType>();
        let durations = number(name::DURATION_NS, DataType::Int64)?;
        let durations = durations.as_primitive::<Int64Type>();
        for (row, id) in ids.iter().enumerate() {
            let (first_ns, failed) = (starts.value(row), states.value(row) == status::ERROR);
            let end_ns = first_ns.saturating_add(durations.value(row).max(0));
            let known = self.traces.entry(*id).or_insert(Extent { first_ns, end_ns, failed });
            known.first_ns = known.first_ns.min(first_ns);
            known.end_ns = known.end_ns.max(end_ns);
            known.failed |= failed;
        }
        Ok(())
    }

    fn importance(&self, id: &[u8; 16]) -> Importance {
        match self.traces.get(id) {
            Some(trace) if trace.failed => Importance::Error,
            Some(trace) if trace.end_ns.saturating_sub(trace.first_ns) >= self.slow_ns => Importance::Slow,
            _ => Importance::Plain,
        }
    }

    /// Which rows stay.
    pub(super) fn kept(&self, batch: &RecordBatch) -> Result<BooleanArray, ArrowError> {
        let ids = ids_of(batch)?;
        let tenants: StringArray =
            cast(column(batch, name::TENANT)?, &DataType::Utf8)?.as_string::<i32>().clone();
        let stays = |(row, id): (usize, &[u8; 16])| {
            let tenant = if tenants.is_null(row) { "" } else { tenants.value(row) };
            kept_of(&self.kept, tenant).contains(&self.importance(id))
        };
        Ok(ids.iter().enumerate().map(stays).collect::<Vec<bool>>().into())
    }
}

/// What is kept of a tenant's traces.
pub(super) fn kept_of<'a>(kept: &'a [Kept], tenant: &str) -> &'a [Importance] {
    let own = kept.iter().find(|one| one.tenant.as_deref() == Some(tenant));
    own.or_else(|| kept.iter().find(|one| one.tenant.is_none()))
        .map_or(&[Importance::Plain, Importance::Slow, Importance::Error], |one| &one.importance)
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a arrow::array::ArrayRef, ArrowError> {
    batch.column_by_name(name).ok_or_else(|| ArrowError::SchemaError(format!("there is no column {name}")))
}

fn ids_of(batch: &RecordBatch) -> Result<Vec<[u8; 16]>, ArrowError> {
    let wrong = || ArrowError::SchemaError("trace_id is not 16 bytes wide".to_owned());
    let ids = column(batch, name::TRACE_ID)?.as_fixed_size_binary_opt().ok_or_else(wrong)?;
    (0..ids.len()).map(|row| ids.value(row).try_into().map_err(|_| wrong())).collect()
}
