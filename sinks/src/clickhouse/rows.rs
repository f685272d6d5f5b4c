//! Records of the Avro topics into rows: trace summaries, rollups and insights.
//!
//! A record becomes columns by the names of its Avro fields; [`Shape`] says which of them have another name here. A
//! record within a record becomes columns with its name before theirs. Invariant: a record that cannot be read is
//! poison, and changes nothing for the others of its range.

use std::{marker::PhantomData, sync::Arc};

use arrow::{
    array::{ArrayRef, AsArray as _, RecordBatch},
    datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit},
    error::ArrowError,
    json::ReaderBuilder,
};
use infertrace_runtime::log::Record;
use infertrace_schemas::{
    avro::{AvroRecord, Insight, Rollup, SchemaIds, TraceSummary},
    columns::name,
    lake::Id16,
};
use serde::Serialize;

use super::insert::Rows;
use crate::encode::PoisonRecord;

/// What a range of records became.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    /// In the order in which they are to be inserted.
    pub(super) rows: Vec<Rows>,
    pub(super) duplicate_records: u64,
    pub(super) rejected_spans: u64,
    pub(super) poison: Vec<PoisonRecord>,
    pub(super) batch_ids: Vec<Id16>,
}

impl Encoded {
    pub(super) fn poison(&mut self, record: Record, reason: String) {
        self.poison.push(PoisonRecord { reason, record: Arc::new(record) });
    }
}

/// A record with where it stood.
#[derive(Serialize)]
pub(super) struct Placed<T> {
    #[serde(flatten)]
    pub(super) value: T,
    #[serde(rename = "_partition")]
    pub(super) partition: i32,
    #[serde(rename = "_offset")]
    pub(super) offset: i64,
}

/// How a record's fields become columns of a table.
pub(super) struct Shape {
    pub(super) table: &'static str,
    pub(super) time_column: &'static str,
    /// Fields as Avro names them, with Arrow's types.
    fields: SchemaRef,
    /// Columns that are named otherwise here.
    renamed: &'static [(&'static str, &'static str)],
    /// Whether the table keeps one row of a key, so that rows written twice collapse and cannot be counted.
    is_replacing: bool,
}

impl Shape {
    pub(super) fn new(
        table: &'static str,
        time_column: &'static str,
        mut fields: Vec<Field>,
        renamed: &'static [(&'static str, &'static str)],
    ) -> Self {
        fields.push(Field::new(name::PARTITION, DataType::Int32, false));
        fields.push(Field::new(name::OFFSET, DataType::Int64, false));
        Self { table, time_column, fields: Arc::new(Schema::new(fields)), renamed, is_replacing: false }
    }

    /// For a ReplacingMergeTree.
    fn replacing(self) -> Self {
        Self { is_replacing: true, ..self }
    }

    /// The rows of `values`.
    pub(super) fn rows<T: Serialize>(&self, values: &[Placed<T>]) -> Result<Rows, ArrowError> {
        let builder = ReaderBuilder::new(Arc::clone(&self.fields)).with_batch_size(values.len().max(1));
        let mut decoder = builder.build_decoder()?;
        decoder.serialize(values)?;
        let batch = decoder.flush()?.unwrap_or_else(|| RecordBatch::new_empty(Arc::clone(&self.fields)));
        Ok(Rows {
            table: self.table,
            time_column: self.time_column,
            batch: self.flat(&batch)?,
            is_idempotent: self.is_replacing,
        })
    }

    fn flat(&self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let mut fields: Vec<Field> = Vec::new();
        let mut columns: Vec<ArrayRef> = Vec::new();
        for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
            let DataType::Struct(inner) = field.data_type() else {
                fields.push(field.as_ref().clone().with_name(self.name_of(field.name())));
                columns.push(Arc::clone(column));
                continue;
            };
            for (child, values) in inner.iter().zip(column.as_struct().columns()) {
                let full = format!("{}_{}", field.name(), child.name());
                fields.push(child.as_ref().clone().with_name(self.name_of(&full)));
                columns.push(Arc::clone(values));
            }
        }
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
    }

    fn name_of<'n>(&self, name: &'n str) -> &'n str {
        self.renamed.iter().find(|(from, _)| *from == name).map_or(name, |(_, to)| to)
    }
}

/// A record type with a table.
pub(super) trait TableRecord: AvroRecord + Send + 'static {
    fn shape() -> Shape;
    /// Why it fits no row, if so.
    fn fault(&self) -> Option<String> {
        None
    }
}

/// Decodes ranges of one Avro topic.
pub(super) struct AvroTable<R> {
    ids: SchemaIds,
    shape: Shape,
    record: PhantomData<fn() -> R>,
}

impl<R: TableRecord> AvroTable<R> {
    pub(super) fn new() -> Self {
        Self { ids: SchemaIds::current::<R>(), shape: R::shape(), record: PhantomData }
    }

    /// Asks the registry, if one is used, for schemas whose ids came up after the start.
    pub(super) async fn learn_of(&self, records: &[Record]) {
        for payload in records.iter().filter_map(|record| record.payload.as_deref()) {
            if let Err(error) = self.ids.learn_of(payload).await {
                tracing::warn!(%error, "the schema of a record is not known");
            }
        }
    }

    pub(super) fn encode(&self, records: Vec<Record>, partition: i32) -> Result<Encoded, ArrowError> {
        let mut encoded = Encoded::default();
        let mut values: Vec<Placed<R>> = Vec::with_capacity(records.len());
        for record in records {
            let Some(payload) = &record.payload else { continue };
            let read = self.ids.decode::<R>(payload).map_err(|error| error.to_string());
            match read.and_then(|value| value.fault().map_or(Ok(value), Err)) {
                Ok(value) => values.push(Placed { value, partition, offset: record.offset.0.cast_signed() }),
                Err(reason) => encoded.poison(record, reason),
            }
        }
        if !values.is_empty() {
            encoded.rows.push(self.shape.rows(&values)?);
        }
        Ok(encoded)
    }
}

pub(super) fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, false)
}

pub(super) fn time(name: &str) -> Field {
    // Without a zone: Arrow's reader knows none by name, and the tables' columns are in UTC.
    Field::new(name, DataType::Timestamp(TimeUnit::Nanosecond, None), false)
}

pub(super) fn of(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, false)
}

pub(super) fn list(name: &str, item: DataType) -> Field {
    Field::new(name, DataType::List(Arc::new(Field::new("item", item, false))), false)
}

pub(super) fn map(name: &str, value: DataType) -> Field {
    let entry = Fields::from(vec![text("key"), of("value", value)]);
    Field::new(name, DataType::Map(Arc::new(of("entries", DataType::Struct(entry))), false), false)
}

fn records(name: &str, fields: Vec<Field>) -> Field {
    list(name, DataType::Struct(Fields::from(fields)))
}

fn maybe(field: Field) -> Field {
    field.with_nullable(true)
}

fn int(name: &str) -> Field {
    of(name, DataType::Int32)
}

fn long(name: &str) -> Field {
    of(name, DataType::Int64)
}

fn double(name: &str) -> Field {
    of(name, DataType::Float64)
}

fn source() -> Field {
    let fields = vec![int("partition"), long("first_offset"), long("last_offset")];
    of("source", DataType::Struct(Fields::from(fields)))
}

impl TableRecord for TraceSummary<'static> {
    fn shape() -> Shape {
        let fields = vec![
            of("trace_id", DataType::FixedSizeBinary(16)),
            int("version"),
            text("tenant"),
            text("root_service"),
            text("root_operation"),
            text("root_span_id"),
            text("status"),
            time("start_unix_nanos"),
            time("end_unix_nanos"),
            long("duration_nanos"),
            long("root_duration_nanos"),
            int("span_count"),
            int("error_count"),
            int("duplicate_spans"),
            long("dropped_spans"),
            of("complete", DataType::Boolean),
            list("incomplete_reasons", DataType::Utf8),
            text("closed_by"),
            text("importance"),
            records("services", vec![text("service"), int("spans"), int("errors"), long("self_nanos")]),
            list("models", DataType::Utf8),
            records("stages", vec![text("stage"), int("spans"), long("self_nanos"), long("critical_nanos")]),
            records("critical_path", vec![text("span_id"), long("offset_nanos"), long("duration_nanos")]),
            int("critical_path_omitted"),
            double("parallelism"),
            maybe(long("input_tokens")),
            maybe(long("output_tokens")),
            maybe(long("cached_tokens")),
            maybe(long("ttft_nanos")),
            maybe(long("ttft_queue_nanos")),
            maybe(long("ttft_prefill_nanos")),
            of("ttft_measured", DataType::Boolean),
            records(
                "edges",
                vec![text("caller"), text("callee"), int("calls"), int("errors"), long("total_nanos")],
            ),
            int("omitted_groups"),
            maybe(long("cost_nano_usd")),
            maybe(long("gpu_micros")),
            text("cost_kind"),
            text("price_version"),
            records("clock_shifts", vec![text("service"), long("shift_nanos"), int("spans")]),
            source(),
        ];
        const RENAMED: &[(&str, &str)] = &[
            ("start_unix_nanos", "start_time"),
            ("end_unix_nanos", "end_time"),
            ("duration_nanos", "duration_ns"),
            ("root_duration_nanos", "root_duration_ns"),
            ("ttft_nanos", "ttft_ns"),
            ("ttft_queue_nanos", "ttft_queue_ns"),
            ("ttft_prefill_nanos", "ttft_prefill_ns"),
        ];
        Shape::new("traces", "start_time", fields, RENAMED).replacing()
    }

    fn fault(&self) -> Option<String> {
        let is_id = self.trace_id.len() == 32 && self.trace_id.bytes().all(|byte| byte.is_ascii_hexdigit());
        (!is_id).then(|| format!("trace_id {:?} is not 32 hexadecimal digits", self.trace_id))
    }
}

impl TableRecord for Rollup {
    fn shape() -> Shape {
        let sketch = vec![
            text("metric"),
            double("relative_accuracy"),
            long("count"),
            long("zero_count"),
            double("sum"),
            double("min"),
            double("max"),
            int("first_bin"),
            list("bin_counts", DataType::Int64),
        ];
        let exemplar = vec![text("trace_id"), long("duration_micros"), of("is_error", DataType::Boolean)];
        let fields = vec![
            time("window_start_unix_nanos"),
            long("window_nanos"),
            text("tenant"),
            text("model"),
            text("model_version"),
            text("stage"),
            text("service"),
            text("device"),
            int("revision"),
            source(),
            map("counters", DataType::Int64),
            map("sums", DataType::Float64),
            records("sketches", sketch),
            records("exemplars", exemplar),
        ];
        const RENAMED: &[(&str, &str)] =
            &[("window_start_unix_nanos", "window_start"), ("window_nanos", "window_ns")];
        Shape::new("rollups", "window_start", fields, RENAMED).replacing()
    }
}

impl TableRecord for Insight {
    fn shape() -> Shape {
        let evidence = vec![
            text("metric"),
            text("unit"),
            double("observed"),
            maybe(double("baseline")),
            long("samples"),
        ];
        let recommendation =
            vec![maybe(text("text")), maybe(text("expected_gain")), maybe(double("confidence"))];
        let fields = vec![
            text("id"),
            int("revision"),
            text("state"),
            text("kind"),
            text("severity"),
            text("tenant"),
            text("model"),
            text("model_version"),
            text("service"),
            text("stage"),
            text("device"),
            time("window_start_unix_nanos"),
            time("window_end_unix_nanos"),
            time("opened_unix_nanos"),
            maybe(time("resolved_unix_nanos")),
            text("title"),
            text("detector"),
            text("detector_version"),
            records("evidence", evidence),
            records("causes", vec![text("cause"), double("share"), text("explanation")]),
            maybe(of("recommendation", DataType::Struct(Fields::from(recommendation)))),
            list("example_traces", DataType::Utf8),
            list("normal_traces", DataType::Utf8),
        ];
        const RENAMED: &[(&str, &str)] = &[
            ("window_start_unix_nanos", "window_start"),
            ("window_end_unix_nanos", "window_end"),
            ("opened_unix_nanos", "opened"),
            ("resolved_unix_nanos", "resolved"),
            ("recommendation_expected_gain", "recommendation_gain"),
        ];
        Shape::new("insights", "opened", fields, RENAMED).replacing()
    }
}
