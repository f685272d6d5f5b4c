//! From rows of any batch that has the columns of a summary to an analysed trace.

use arrow::{
    datatypes::{Float64Type, Int64Type, TimestampNanosecondType, UInt8Type, UInt64Type},
    record_batch::RecordBatch,
};
use infertrace_schemas::{
    columns::name,
    trace::{Analysis, Inference, NONE, NameId, Names, SpanNode, TraceInput, analyze, request_key},
    view::{Column, Id, Number, OptionalId, OptionalNumber, OptionalTerm, OptionalText, Term},
};

use crate::store::{Part, Tier};

/// Columns that [`assemble`] reads.
pub const SUMMARY_COLUMNS: [&str; 19] = [
    name::TRACE_ID,
    name::SPAN_ID,
    name::PARENT_SPAN_ID,
    name::START_TIME,
    name::DURATION_NS,
    name::SERVICE_NAME,
    name::OPERATION_NAME,
    name::KIND,
    name::STATUS_CODE,
    name::MODEL_NAME,
    name::INPUT_TOKENS,
    name::OUTPUT_TOKENS,
    name::CACHED_TOKENS,
    name::REQUEST_ID,
    name::TTFT_NS,
    name::STAGE,
    name::QUEUE_WAIT_MS,
    name::PARTITION,
    name::OFFSET,
];

/// Where a span's row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index into the parts.
    pub part: u32,
    /// Row in that part's batch.
    pub row: u32,
}

/// A trace with its analysis.
#[derive(Debug)]
pub struct Assembled {
    /// What was analysed, duplicates included.
    pub spans: Vec<SpanNode>,
    /// Where each of them is.
    pub places: Vec<Place>,
    /// What the names mean.
    pub names: Names,
    /// The result; its nodes are the distinct spans.
    pub analysis: Analysis,
    /// Spans left out because the trace is too large.
    pub dropped: u64,
}

impl Assembled {
    /// The place of a distinct span, by its index in the analysis.
    #[must_use]
    pub fn place(&self, node: usize) -> Place {
        self.places[self.analysis.nodes[node].input as usize]
    }

    /// Tiers that have a span of the answer, hot first.
    #[must_use]
    pub fn tiers(&self, parts: &[Part]) -> Vec<Tier> {
        let mut tiers: Vec<Tier> =
            (0..self.analysis.nodes.len()).map(|node| parts[self.place(node).part as usize].tier).collect();
        tiers.sort_unstable();
        tiers.dedup();
        tiers
    }
}

/// A batch that lacks a column or has it in another type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {0} is missing or has another type")]
pub struct MissingColumn(pub &'static str);

struct Columns<'a> {
    span_id: Id<'a, 8>,
    parent: OptionalId<'a, 8>,
    start: Number<'a, TimestampNanosecondType>,
    duration: Number<'a, Int64Type>,
    service: Term<'a>,
    operation: Term<'a>,
    kind: Number<'a, UInt8Type>,
    status: Number<'a, UInt8Type>,
    model: OptionalTerm<'a>,
    stage: OptionalTerm<'a>,
    input: OptionalNumber<'a, UInt64Type>,
    output: OptionalNumber<'a, UInt64Type>,
    cached: OptionalNumber<'a, UInt64Type>,
    request: OptionalText<'a>,
    ttft: OptionalNumber<'a, UInt64Type>,
    queue_wait: OptionalNumber<'a, Float64Type>,
}

impl<'a> Columns<'a> {
    fn open(batch: &'a RecordBatch) -> Result<Self, MissingColumn> {
        Ok(Self {
            span_id: open(batch, name::SPAN_ID)?,
            parent: open(batch, name::PARENT_SPAN_ID)?,
            start: open(batch, name::START_TIME)?,
            duration: open(batch, name::DURATION_NS)?,
            service: open(batch, name::SERVICE_NAME)?,
            operation: open(batch, name::OPERATION_NAME)?,
            kind: open(batch, name::KIND)?,
            status: open(batch, name::STATUS_CODE)?,
            model: open(batch, name::MODEL_NAME)?,
            stage: open(batch, name::STAGE)?,
            input: open(batch, name::INPUT_TOKENS)?,
            output: open(batch, name::OUTPUT_TOKENS)?,
            cached: open(batch, name::CACHED_TOKENS)?,
            request: open(batch, name::REQUEST_ID)?,
            ttft: open(batch, name::TTFT_NS)?,
            queue_wait: open(batch, name::QUEUE_WAIT_MS)?,
        })
    }

    fn inference(&self, row: usize) -> Option<Inference> {
        let queue = self.queue_wait.get(row).filter(|wait| wait.is_finite() && *wait >= 0.0);
        let inference = Inference {
            request: self.request.get(row).map_or(0, request_key),
            input_tokens: self.input.get(row),
            output_tokens: self.output.get(row),
            cached_tokens: self.cached.get(row),
            ttft_ns: self.ttft.get(row),
            queue_ns: queue.map(|wait| (wait * 1e6) as u64),
        };
        (inference != Inference::default()).then_some(inference)
    }
}

fn open<'a, C: Column<'a>>(batch: &'a RecordBatch, column: &'static str) -> Result<C, MissingColumn> {
    batch.column_by_name(column).and_then(|array| C::open(array)).ok_or(MissingColumn(column))
}

/// Puts the rows of one trace together; of more than `most_spans` the earliest by position are kept.
///
/// # Errors
/// [`MissingColumn`] for a batch that is none of spans.
pub fn assemble(parts: &[Part], most_spans: usize) -> Result<Assembled, MissingColumn> {
    let total: usize = parts.iter().map(|part| part.rows.rows.len()).sum();
    let kept = total.min(most_spans);
    let mut names = Names::new();
    let mut spans = Vec::with_capacity(kept);
    let mut places = Vec::with_capacity(kept);
    let mut inference = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        let columns = Columns::open(&part.rows.batch)?;
        for &row in &part.rows.rows {
            if spans.len() == most_spans {
                break;
            }
            let at = row as usize;
            let numbers = columns.inference(at).map(|numbers| {
                inference.push(numbers);
                (inference.len() - 1) as u32
            });
            let mut intern = |name: Option<&str>| name.map_or(NameId::EMPTY, |name| names.intern(name));
            spans.push(SpanNode {
                span_id: u64::from_be_bytes(*columns.span_id.get(at)),
                parent_id: columns.parent.get(at).map_or(0, |id| u64::from_be_bytes(*id)),
                start_ns: columns.start.get(at),
                duration_ns: columns.duration.get(at),
                service: intern(Some(columns.service.get(at))),
                operation: intern(Some(columns.operation.get(at))),
                stage: intern(columns.stage.get(at)),
                model: intern(columns.model.get(at)),
                inference: numbers.unwrap_or(NONE),
                kind: columns.kind.get(at),
                status: columns.status.get(at),
            });
            places.push(Place { part: index as u32, row });
        }
    }
    let dropped = (total - spans.len()) as u64;
    let input = TraceInput { spans: &spans, inference: &inference, names: &names, dropped_spans: dropped };
    let analysis = analyze(&input);
    Ok(Assembled { spans, places, names, analysis, dropped })
}
