//! An immutable batch of spans with its index by trace id.
//!
//! The index is a hash table of one row a trace (the trace's last in this batch) and a chain from each row
//! to the previous row of its trace: about five bytes a span. Invariants: a segment never changes; chains
//! end; `ranges` are the offsets that were read to make it, whatever they held.

use std::{ops::Range, sync::OnceLock};

use ahash::RandomState;
use arrow::{
    array::{Array, AsArray, BooleanArray},
    compute::{concat_batches, filter_record_batch},
    datatypes::{Int32Type, TimestampNanosecondType, UInt8Type},
    error::ArrowError,
    record_batch::RecordBatch,
};
use hashbrown::{HashMap, HashSet, HashTable};
use infertrace_schemas::columns::{index, span_schema, status};

use super::{NameCount, NameCounts, TraceId};

const END: u32 = u32::MAX;

/// The trace ids of a batch of spans.
pub(crate) fn trace_ids(batch: &RecordBatch) -> &[TraceId] {
    let column = batch.column(index::TRACE_ID).as_fixed_size_binary();
    column.value_data().as_chunks::<16>().0
}

/// Earliest and latest start in a batch; an empty range for an empty batch.
fn start_range(batch: &RecordBatch) -> (i64, i64) {
    let starts = batch.column(index::START_TIME).as_primitive::<TimestampNanosecondType>();
    starts.values().iter().fold((i64::MAX, i64::MIN), |(low, high), &start| (low.min(start), high.max(start)))
}

/// Rows of each trace.
#[derive(Debug)]
struct TraceIndex {
    last_row: HashTable<u32>,
    previous: Box<[u32]>,
}

impl TraceIndex {
    fn build(ids: &[TraceId], hasher: &RandomState) -> Self {
        let mut last_row: HashTable<u32> = HashTable::with_capacity(ids.len() / 4);
        let mut previous = vec![END; ids.len()].into_boxed_slice();
        let mut run: Option<(TraceId, u64)> = None;
        for (row, id) in ids.iter().enumerate() {
            let hash = match run {
                Some((same, hash)) if same == *id => hash,
                _ => hasher.hash_one(id),
            };
            run = Some((*id, hash));
            let row = row as u32;
            let entry = last_row.entry(
                hash,
                |&other| ids[other as usize] == *id,
                |&other| hasher.hash_one(ids[other as usize]),
            );
            match entry {
                hashbrown::hash_table::Entry::Occupied(mut entry) => {
                    previous[row as usize] = *entry.get();
                    *entry.get_mut() = row;
                }
                hashbrown::hash_table::Entry::Vacant(entry) => {
                    entry.insert(row);
                }
            }
        }
        last_row.shrink_to_fit(|&row| hasher.hash_one(ids[row as usize]));
        Self { last_row, previous }
    }

    fn rows(&self, ids: &[TraceId], id: &TraceId, hash: u64) -> Vec<u32> {
        let mut rows = Vec::new();
        let mut row = self.last_row.find(hash, |&row| ids[row as usize] == *id).copied().unwrap_or(END);
        while row != END {
            rows.push(row);
            row = self.previous[row as usize];
        }
        rows.reverse();
        rows
    }

    fn bytes(&self) -> usize {
        self.last_row.allocation_size() + size_of_val(&*self.previous)
    }
}

/// A batch of the hot tier.
#[derive(Debug)]
pub struct Segment {
    /// Its spans.
    pub batch: RecordBatch,
    index: TraceIndex,
    /// Offsets read for it, by partition.
    pub ranges: Vec<(i32, Range<i64>)>,
    /// Earliest start of a span.
    pub min_start_ns: i64,
    /// Latest start of a span.
    pub max_start_ns: i64,
    /// Time of its oldest record.
    pub oldest_ms: i64,
    /// Time of its newest record.
    pub newest_ms: i64,
    /// Memory.
    pub bytes: usize,
    /// Whether spans were taken out of it, so that it no longer holds all of its ranges.
    pub thinned: bool,
    /// Hashes of the traces that have a span with an error here.
    errors: Box<[u64]>,
    names: OnceLock<NameCounts>,
}

/// Where a segment's records come from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Offsets read, by partition.
    pub ranges: Vec<(i32, Range<i64>)>,
    /// Time of the oldest record.
    pub oldest_ms: i64,
    /// Time of the newest record.
    pub newest_ms: i64,
}

impl Segment {
    /// Indexes `batch`.
    #[must_use]
    pub fn new(batch: RecordBatch, origin: Origin, thinned: bool, hasher: &RandomState) -> Self {
        let ids = trace_ids(&batch);
        let trace_index = TraceIndex::build(ids, hasher);
        let statuses = batch.column(index::STATUS_CODE).as_primitive::<UInt8Type>().values();
        let failed: HashSet<u64> = statuses
            .iter()
            .zip(ids)
            .filter(|(status, _)| **status == status::ERROR)
            .map(|(_, id)| hasher.hash_one(id))
            .collect();
        let errors: Box<[u64]> = failed.into_iter().collect();
        let (min_start_ns, max_start_ns) = start_range(&batch);
        let bytes = batch.get_array_memory_size() + trace_index.bytes() + size_of_val(&*errors);
        Self {
            index: trace_index,
            ranges: origin.ranges,
            min_start_ns,
            max_start_ns,
            oldest_ms: origin.oldest_ms,
            newest_ms: origin.newest_ms,
            bytes,
            thinned,
            errors,
            names: OnceLock::new(),
            batch,
        }
    }

    /// Spans.
    #[must_use]
    pub fn len(&self) -> usize {
        self.batch.num_rows()
    }

    /// Whether it holds no span.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rows of a trace, ascending.
    #[must_use]
    pub fn rows(&self, id: &TraceId, hasher: &RandomState) -> Vec<u32> {
        self.index.rows(trace_ids(&self.batch), id, hasher.hash_one(id))
    }

    /// Distinct traces in the order of their last span, the newest `limit` of them, and how many more there are.
    #[must_use]
    pub fn newest_traces(&self, limit: usize) -> (Vec<TraceId>, usize) {
        let mut rows: Vec<u32> = self.index.last_row.iter().copied().collect();
        rows.sort_unstable();
        let skipped = rows.len().saturating_sub(limit);
        let ids = trace_ids(&self.batch);
        (rows[skipped..].iter().map(|&row| ids[row as usize]).collect(), skipped)
    }

    /// Hashes of traces with an error here.
    pub(crate) fn errors(&self) -> &[u64] {
        &self.errors
    }

    /// The spans of traces that `keep` names by hash, as a segment of their own.
    ///
    /// # Errors
    /// Only when the batch is not one of spans.
    pub(crate) fn thin(&self, keep: &HashSet<u64>, hasher: &RandomState) -> Result<Self, ArrowError> {
        let mask: BooleanArray =
            trace_ids(&self.batch).iter().map(|id| Some(keep.contains(&hasher.hash_one(id)))).collect();
        let batch = filter_record_batch(&self.batch, &mask)?;
        let origin =
            Origin { ranges: self.ranges.clone(), oldest_ms: self.oldest_ms, newest_ms: self.newest_ms };
        Ok(Self::new(batch, origin, true, hasher))
    }

    /// One segment of several neighbours.
    ///
    /// # Errors
    /// Only when the batches are not of one schema.
    pub(crate) fn merge(parts: &[std::sync::Arc<Self>], hasher: &RandomState) -> Result<Self, ArrowError> {
        let batch = concat_batches(&span_schema(), parts.iter().map(|part| &part.batch))?;
        let mut ranges: Vec<(i32, Range<i64>)> = Vec::new();
        for (partition, range) in parts.iter().flat_map(|part| part.ranges.iter()) {
            match ranges.iter_mut().find(|(known, _)| known == partition) {
                Some((_, known)) => known.end = range.end,
                None => ranges.push((*partition, range.clone())),
            }
        }
        let origin = Origin {
            ranges,
            oldest_ms: parts.iter().map(|part| part.oldest_ms).min().unwrap_or(0),
            newest_ms: parts.iter().map(|part| part.newest_ms).max().unwrap_or(0),
        };
        Ok(Self::new(batch, origin, false, hasher))
    }

    /// Names in this segment, counted once.
    pub(crate) fn names(&self) -> &NameCounts {
        self.names.get_or_init(|| count_names(&self.batch))
    }
}

fn count_names(batch: &RecordBatch) -> NameCounts {
    let services = batch.column(index::SERVICE_NAME).as_dictionary::<Int32Type>();
    let operations = batch.column(index::OPERATION_NAME).as_dictionary::<Int32Type>();
    let models = batch.column(index::MODEL_NAME).as_dictionary::<Int32Type>();
    let statuses = batch.column(index::STATUS_CODE).as_primitive::<UInt8Type>().values();
    let starts = batch.column(index::START_TIME).as_primitive::<TimestampNanosecondType>().values();
    let mut by_operation: HashMap<(i32, i32), NameCount, RandomState> = HashMap::default();
    let mut by_model: HashMap<i32, NameCount, RandomState> = HashMap::default();
    for row in 0..batch.num_rows() {
        let one = NameCount {
            spans: 1,
            errors: u64::from(statuses[row] == status::ERROR),
            last_seen_ns: starts[row],
        };
        let key = (services.keys().value(row), operations.keys().value(row));
        by_operation.entry(key).or_default().merge(&one);
        if models.is_valid(row) {
            by_model.entry(models.keys().value(row)).or_default().merge(&one);
        }
    }
    let mut counts = NameCounts::default();
    let text = |values: &dyn Array, key: i32| values.as_string::<i32>().value(key as usize).to_owned();
    for ((service, operation), count) in by_operation {
        let service = text(services.values().as_ref(), service);
        let operation = text(operations.values().as_ref(), operation);
        counts.services.entry(service).or_default().entry(operation).or_default().merge(&count);
    }
    for (model, count) in by_model {
        counts.models.entry(text(models.values().as_ref(), model)).or_default().merge(&count);
    }
    counts
}
