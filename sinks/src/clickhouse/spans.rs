//! Records of the spans topic into rows of `spans`, `tokens` and `trace_times`.

use std::sync::Arc;

use arrow::{
    array::{Array as _, ArrayRef, AsArray as _, RecordBatch, TimestampSecondArray, UInt64Array},
    compute::{filter_record_batch, is_not_null},
    datatypes::{DataType, Field, Schema, TimeUnit, TimestampNanosecondType},
    error::ArrowError,
};
use infertrace_runtime::log::Record;
use infertrace_schemas::{
    columns::{UTC, index, name},
    dedup::Dedup,
};

use super::{insert::Rows, rows::Encoded};
use crate::encode::{ReadRange, read_range};

const MINUTE_NS: i64 = 60_000_000_000;
/// Columns of `tokens` that are those of `spans`.
const OF_SPAN: [usize; 6] =
    [index::TRACE_ID, index::SPAN_ID, index::TENANT, index::START_TIME, index::PARTITION, index::OFFSET];

/// Decodes a range. Look-up rows come first and spans last: a span that is there is found.
pub(super) fn encode(records: Vec<Record>, seen: &mut Dedup, partition: i32) -> Result<Encoded, ArrowError> {
    let (mut times, mut tokens, mut spans) = (Vec::new(), Vec::new(), Vec::new());
    let add = |batch: RecordBatch| {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        times.push(trace_times(&batch)?);
        tokens.push(token_rows(&batch)?);
        let kept: Vec<usize> = (0..batch.num_columns()).filter(|column| *column != index::TOKENS).collect();
        spans.push(Rows {
            table: "spans",
            time_column: name::START_TIME,
            batch: batch.project(&kept)?,
            is_idempotent: false,
        });
        Ok::<_, ArrowError>(())
    };
    let ReadRange { duplicate_records, rejected_spans, poison, batch_ids } =
        read_range(records, seen, partition, usize::MAX, add)?;
    let rows = times.into_iter().chain(tokens).chain(spans).collect();
    Ok(Encoded { rows, duplicate_records, rejected_spans, poison, batch_ids })
}

/// The last 8 bytes of a trace id, by which `trace_times` finds it.
fn trace_low(id: &[u8]) -> u64 {
    id.last_chunk::<8>().map_or(0, |low| u64::from_be_bytes(*low))
}

/// Each (trace, minute) once, in order.
fn trace_times(batch: &RecordBatch) -> Result<Rows, ArrowError> {
    let ids = batch.column(index::TRACE_ID).as_fixed_size_binary();
    let starts = batch.column(index::START_TIME).as_primitive::<TimestampNanosecondType>().values();
    let mut times: Vec<(u64, u32)> = Vec::with_capacity(batch.num_rows() / 4);
    for (row, start) in starts.iter().enumerate() {
        // What ClickHouse's DateTime holds.
        let minute = (start.div_euclid(MINUTE_NS) * 60).clamp(0, i64::from(u32::MAX - 59)) as u32;
        let time = (trace_low(ids.value(row)), minute);
        // Spans of one trace mostly come together.
        if times.last() != Some(&time) {
            times.push(time);
        }
    }
    times.sort_unstable();
    times.dedup();
    let low = UInt64Array::from_iter_values(times.iter().map(|(low, _)| *low));
    let minute = TimestampSecondArray::from_iter_values(times.iter().map(|(_, minute)| i64::from(*minute)));
    let schema = Schema::new(vec![
        Field::new("trace_low", DataType::UInt64, false),
        Field::new("minute", DataType::Timestamp(TimeUnit::Second, Some(UTC.into())), false),
    ]);
    let columns: Vec<ArrayRef> = vec![Arc::new(low), Arc::new(minute.with_timezone(UTC))];
    let batch = RecordBatch::try_new(Arc::new(schema), columns)?;
    Ok(Rows { table: "trace_times", time_column: "minute", batch, is_idempotent: true })
}

/// The timelines of the spans that have one, a column an array.
fn token_rows(batch: &RecordBatch) -> Result<Rows, ArrowError> {
    let tokens = batch.column(index::TOKENS);
    let of_span = batch.project(&OF_SPAN)?;
    // Rows without a timeline have empty arrays here, and are filtered out below.
    let (of_tokens, timelines, _) = tokens.as_struct().clone().into_parts();
    let fields: Vec<_> = of_span.schema_ref().fields().iter().chain(&of_tokens).cloned().collect();
    let columns = of_span.columns().iter().chain(&timelines).cloned().collect();
    let all = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?;
    let with_timeline =
        if tokens.null_count() == 0 { all } else { filter_record_batch(&all, &is_not_null(tokens)?)? };
    Ok(Rows { table: "tokens", time_column: name::START_TIME, batch: with_timeline, is_idempotent: false })
}
