//! ClickHouse's Arrow answers as columns of the span schema.
//!
//! Texts come as bytes and become texts here, so that attributes which are no text stay what they are. Invariant: a
//! column that cannot be what the schema says fails the answer; nothing becomes null on the way.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch, StructArray, UInt32Array},
    compute::{CastOptions, cast_with_options, concat_batches, take},
    datatypes::{DataType, Int32Type, Int64Type, Schema},
    error::ArrowError,
    ipc::reader::StreamReader,
};
use infertrace_schemas::columns::{name, span_schema, token_fields};

/// Columns of the table `tokens` by which a timeline finds its span.
pub(super) const TOKEN_KEY: [&str; 3] = [name::SPAN_ID, name::PARTITION, name::OFFSET];
const STRICT: CastOptions<'static> =
    CastOptions { safe: false, format_options: arrow::util::display::FormatOptions::new() };

/// The rows of an answer as one batch, columns in the order asked and of their own types; `None` without rows.
pub(super) fn read(answer: &[u8]) -> Result<Option<RecordBatch>, ArrowError> {
    if answer.is_empty() {
        return Ok(None);
    }
    let reader = StreamReader::try_new(answer, None)?;
    let schema = reader.schema();
    let batches = reader.collect::<Result<Vec<_>, _>>()?;
    let all = concat_batches(&schema, &batches)?;
    Ok((all.num_rows() > 0).then_some(all))
}

/// Columns of spans in the types of the span schema.
pub(super) fn of_spans(found: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let spans = span_schema();
    let mut fields = Vec::with_capacity(found.num_columns());
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(found.num_columns());
    for (field, column) in found.schema_ref().fields().iter().zip(found.columns()) {
        let wanted = spans.field_with_name(field.name())?;
        columns.push(as_type(field.name(), column, wanted.data_type())?);
        fields.push(wanted.clone());
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

fn as_type(column: &str, values: &ArrayRef, wanted: &DataType) -> Result<ArrayRef, ArrowError> {
    let named = |error: ArrowError| {
        ArrowError::CastError(format!("column {column} is {}, not {wanted}: {error}", values.data_type()))
    };
    match wanted {
        // Only texts become dictionaries.
        DataType::Dictionary(_, texts) => cast_with_options(values, texts, &STRICT)
            .and_then(|texts| cast_with_options(&texts, wanted, &STRICT)),
        _ => cast_with_options(values, wanted, &STRICT),
    }
    .map_err(named)
}

/// Where a span came from: its id, partition and offset.
type Key = ([u8; 8], i32, i64);

fn keys(batch: &RecordBatch) -> Result<Vec<Key>, ArrowError> {
    let wrong =
        |column: &str| ArrowError::SchemaError(format!("column {column} is missing or of another type"));
    let column = |name: &str| batch.column_by_name(name).ok_or_else(|| wrong(name));
    let ids = column(name::SPAN_ID)?.as_fixed_size_binary_opt().ok_or_else(|| wrong(name::SPAN_ID))?;
    let partitions =
        column(name::PARTITION)?.as_primitive_opt::<Int32Type>().ok_or_else(|| wrong(name::PARTITION))?;
    let offsets = column(name::OFFSET)?.as_primitive_opt::<Int64Type>().ok_or_else(|| wrong(name::OFFSET))?;
    let key = |row: usize| {
        let id = <[u8; 8]>::try_from(ids.value(row)).map_err(|_| wrong(name::SPAN_ID))?;
        Ok((id, partitions.value(row), offsets.value(row)))
    };
    (0..batch.num_rows()).map(key).collect()
}

/// Puts the timelines beside their spans, as the column `tokens`.
pub(super) fn with_tokens(
    spans: &RecordBatch,
    timelines: Option<&RecordBatch>,
) -> Result<RecordBatch, ArrowError> {
    let wanted = span_schema().field_with_name(name::TOKENS)?.clone();
    let tokens = match timelines {
        None => arrow::array::new_null_array(wanted.data_type(), spans.num_rows()),
        Some(timelines) => {
            let rows: HashMap<Key, u32> = keys(timelines)?.into_iter().zip(0..).collect();
            let of_spans: UInt32Array = keys(spans)?.iter().map(|key| rows.get(key).copied()).collect();
            take(&struct_of(timelines)?, &of_spans, None)?
        }
    };
    let fields: Vec<_> =
        spans.schema_ref().fields().iter().map(|field| field.as_ref().clone()).chain([wanted]).collect();
    let columns = spans.columns().iter().cloned().chain([tokens]).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

fn struct_of(timelines: &RecordBatch) -> Result<ArrayRef, ArrowError> {
    let fields = token_fields();
    let column = |field: &Arc<arrow::datatypes::Field>| {
        let values = timelines.column_by_name(field.name()).ok_or_else(|| {
            ArrowError::SchemaError(format!("column {} of tokens is missing", field.name()))
        })?;
        as_type(field.name(), values, field.data_type())
    };
    let columns = fields.iter().map(column).collect::<Result<Vec<_>, _>>()?;
    Ok(Arc::new(StructArray::try_new(fields, columns, None)?))
}

/// Columns to ask `tokens` for.
pub(super) fn token_columns() -> Vec<&'static str> {
    const TIMELINE: [&str; 6] =
        ["ids", "itl_micros", "attention_micros", "ffn_micros", "batch_sizes", "texts"];
    TOKEN_KEY.into_iter().chain(TIMELINE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: the columns asked of `tokens`. Guarantee: every part of a timeline is among them.
    #[test]
    fn whole_timelines_are_asked_for() {
        let asked = token_columns();
        assert!(token_fields().iter().all(|field| asked.contains(&field.name().as_str())));
        assert_eq!(asked.len(), TOKEN_KEY.len() + token_fields().len());
    }
}
