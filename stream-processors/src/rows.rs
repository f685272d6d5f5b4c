//! The columns that assembly reads, as typed slices.
//!
//! Strings are interned once per distinct dictionary value of a batch, not once per span.

use arrow::{
    array::{
        Array, ArrayRef, DictionaryArray, FixedSizeBinaryArray, Float64Array, Int32Array, Int64Array,
        RecordBatch, StringArray, TimestampNanosecondArray, UInt8Array, UInt64Array,
    },
    datatypes::Int32Type,
};
use infertrace_schemas::{
    columns::{index, name},
    reader::SpanReader,
    trace::{Inference, NONE, NameId, Names, SpanNode, request_key},
};

use crate::{assembly::SpanInput, rollup, stitch};

/// The attributes that the first stage looks at; all else that it needs has a column of its own.
const ATTRIBUTES: &[&str] = &[
    rollup::STATUS_KEYS[0],
    rollup::STATUS_KEYS[1],
    stitch::OPENINFERENCE_KIND,
    stitch::RESPONSE_ID,
    stitch::RESPONSE,
];

/// The first stage's reader, with room for `spans` spans of a usual size: a third of the whole reader's work was to
/// store attributes that nothing here looks at.
#[must_use]
pub fn reader(spans: usize) -> SpanReader {
    SpanReader::with_capacity(spans).keep_only(ATTRIBUTES)
}

/// A batch that does not have the span schema.
#[derive(Debug, thiserror::Error)]
#[error("column {0} is missing or has another type")]
pub struct BadColumn(&'static str);

impl From<infertrace_schemas::view::ViewError> for BadColumn {
    fn from(error: infertrace_schemas::view::ViewError) -> Self {
        Self(error.column)
    }
}

impl BadColumn {
    pub(crate) fn at(column: usize) -> Self {
        Self(name::ALL[column])
    }
}

/// Row access to the columns that assembly needs.
#[derive(Debug)]
pub struct Rows<'a> {
    trace_id: &'a FixedSizeBinaryArray,
    span_id: &'a FixedSizeBinaryArray,
    parent_span_id: &'a FixedSizeBinaryArray,
    start: &'a [i64],
    duration: &'a [i64],
    kind: &'a [u8],
    status: &'a [u8],
    partition: &'a [i32],
    offset: &'a [i64],
    service: Words<'a>,
    operation: Words<'a>,
    tenant: Words<'a>,
    stage: Words<'a>,
    model: Words<'a>,
    inference: Option<InferenceColumns<'a>>,
}

#[derive(Debug)]
struct InferenceColumns<'a> {
    request_id: &'a StringArray,
    input_tokens: &'a UInt64Array,
    output_tokens: &'a UInt64Array,
    cached_tokens: &'a UInt64Array,
    ttft_ns: &'a UInt64Array,
    queue_wait_ms: &'a Float64Array,
}

/// A dictionary column whose values are interned when first met.
#[derive(Debug)]
pub(crate) struct Words<'a> {
    column: &'a DictionaryArray<Int32Type>,
    keys: &'a [i32],
    values: &'a StringArray,
    has_nulls: bool,
    ids: Vec<u32>,
}

impl<'a> Words<'a> {
    pub(crate) fn new(batch: &'a RecordBatch, column: usize) -> Result<Self, BadColumn> {
        let column_ref: &DictionaryArray<Int32Type> = typed(batch, column)?;
        let values: &StringArray =
            column_ref.values().as_any().downcast_ref().ok_or(BadColumn(name::ALL[column]))?;
        Ok(Self {
            column: column_ref,
            keys: column_ref.keys().values(),
            values,
            has_nulls: column_ref.null_count() > 0,
            ids: vec![NONE; values.len()],
        })
    }

    /// Key of the row's value.
    #[inline]
    pub(crate) fn key(&self, row: usize) -> Option<usize> {
        if self.has_nulls && self.column.is_null(row) {
            return None;
        }
        Some(self.keys[row] as usize)
    }

    #[inline]
    pub(crate) fn get(&mut self, row: usize, names: &mut Names) -> NameId {
        let Some(key) = self.key(row) else { return NameId::EMPTY };
        let known = self.ids[key];
        if known != NONE {
            return NameId(known);
        }
        let id = names.intern(self.values.value(key));
        self.ids[key] = id.0;
        id
    }
}

pub(crate) fn typed<T: 'static>(batch: &RecordBatch, column: usize) -> Result<&T, BadColumn> {
    let found: Option<&ArrayRef> = batch.columns().get(column);
    found.and_then(|array| array.as_any().downcast_ref()).ok_or(BadColumn(name::ALL[column]))
}

impl<'a> Rows<'a> {
    /// Views a batch of the span schema.
    ///
    /// # Errors
    /// [`BadColumn`] when it has another schema.
    pub fn new(batch: &'a RecordBatch) -> Result<Self, BadColumn> {
        let inference = InferenceColumns {
            request_id: typed(batch, index::REQUEST_ID)?,
            input_tokens: typed(batch, index::INPUT_TOKENS)?,
            output_tokens: typed(batch, index::OUTPUT_TOKENS)?,
            cached_tokens: typed(batch, index::CACHED_TOKENS)?,
            ttft_ns: typed(batch, index::TTFT_NS)?,
            queue_wait_ms: typed(batch, index::QUEUE_WAIT_MS)?,
        };
        let numbers =
            [inference.input_tokens, inference.output_tokens, inference.cached_tokens, inference.ttft_ns];
        let rows = batch.num_rows();
        let any = numbers.iter().any(|column| column.null_count() < rows)
            || inference.queue_wait_ms.null_count() < rows;
        Ok(Self {
            trace_id: typed(batch, index::TRACE_ID)?,
            span_id: typed(batch, index::SPAN_ID)?,
            parent_span_id: typed(batch, index::PARENT_SPAN_ID)?,
            start: typed::<TimestampNanosecondArray>(batch, index::START_TIME)?.values(),
            duration: typed::<Int64Array>(batch, index::DURATION_NS)?.values(),
            kind: typed::<UInt8Array>(batch, index::KIND)?.values(),
            status: typed::<UInt8Array>(batch, index::STATUS_CODE)?.values(),
            partition: typed::<Int32Array>(batch, index::PARTITION)?.values(),
            offset: typed::<Int64Array>(batch, index::OFFSET)?.values(),
            service: Words::new(batch, index::SERVICE_NAME)?,
            operation: Words::new(batch, index::OPERATION_NAME)?,
            tenant: Words::new(batch, index::TENANT)?,
            stage: Words::new(batch, index::STAGE)?,
            model: Words::new(batch, index::MODEL_NAME)?,
            inference: any.then_some(inference),
        })
    }

    /// Number of spans.
    #[must_use]
    pub fn len(&self) -> usize {
        self.start.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start.is_empty()
    }

    /// The record that span `row` came from: partition and offset.
    #[must_use]
    pub fn position(&self, row: usize) -> (u32, u64) {
        (self.partition[row] as u32, self.offset[row] as u64)
    }

    /// Span `row` as assembly takes it.
    #[inline]
    pub fn span(&mut self, row: usize, names: &mut Names) -> SpanInput {
        let parent_id = if self.parent_span_id.is_null(row) { 0 } else { id(self.parent_span_id.value(row)) };
        let mut trace_id = [0; 16];
        trace_id.copy_from_slice(self.trace_id.value(row));
        SpanInput {
            trace_id,
            tenant: self.tenant.get(row, names),
            node: SpanNode {
                span_id: id(self.span_id.value(row)),
                parent_id,
                start_ns: self.start[row],
                duration_ns: self.duration[row],
                service: self.service.get(row, names),
                operation: self.operation.get(row, names),
                stage: self.stage.get(row, names),
                model: self.model.get(row, names),
                inference: NONE,
                kind: self.kind[row],
                status: self.status[row],
            },
            inference: self.inference.as_ref().and_then(|columns| columns.get(row)),
            cost: None,
        }
    }
}

fn id(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

impl InferenceColumns<'_> {
    fn get(&self, row: usize) -> Option<Inference> {
        let number = |column: &UInt64Array| column.is_valid(row).then(|| column.value(row));
        let queue_ms = self.queue_wait_ms.is_valid(row).then(|| self.queue_wait_ms.value(row));
        let found = Inference {
            request: 0,
            input_tokens: number(self.input_tokens),
            output_tokens: number(self.output_tokens),
            cached_tokens: number(self.cached_tokens),
            ttft_ns: number(self.ttft_ns),
            // A float's cast saturates, and NaN becomes 0.
            queue_ns: queue_ms.map(|milliseconds| (milliseconds * 1e6) as u64),
        };
        if found == Inference::default() {
            return None;
        }
        let request = if self.request_id.is_valid(row) { request_key(self.request_id.value(row)) } else { 0 };
        Some(Inference { request, ..found })
    }
}
