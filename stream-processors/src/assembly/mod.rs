//! The pure core: records in, closed traces out. No I/O, no clock.
//!
//! A partition's watermark is the highest record timestamp seen. A trace closes when the watermark has moved
//! `idle_ms` past its last span; it is then reported, and remembered for `late_ms`: a late span opens it again and its next
//! closing reports everything once more under the next version. A trace that is active for too long or too large is
//! cut between two records; what follows is another assembly of the same trace id.
//!
//! Invariants:
//! - Closing is decided between records, so nothing depends on how records were batched.
//! - The summary is a function of the spans in its source range: redelivered spans change nothing.
//! - [`Assembly::committable`] is the first record of the oldest trace held, open or remembered: a restart from
//!   there sees every span of every trace that can still change.
//! - Memory is bounded: remembered traces are forgotten first, then open ones are closed early and say so.

mod resume;
mod trace;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use hashbrown::HashTable;
use infertrace_analytics::cost::Cost;
use infertrace_schemas::trace::{Analyzer, Inference, NONE, NameId, Names, SpanNode, TraceInput};

use crate::{
    rollup::TraceFacts,
    summary::{self, Closing},
};
pub use resume::{Reported, Resume};
use trace::{List, Phase, Trace, at, born, phased};

/// Spans of buffers kept for reuse.
const POOLED_SPANS: usize = 64;
const POOLED_BUFFERS: usize = 8_192;
/// Interned names are swept when they take more than this, and twice what the last sweep left.
const NAMES_BYTES: usize = 8 << 20;

/// Bounds of the state machine; [`crate::Config`] says what each means.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Limits {
    pub idle_ms: i64,
    pub late_ms: i64,
    pub max_age_ms: i64,
    pub max_spans: usize,
    pub max_traces: usize,
    pub max_bytes: usize,
    pub slow_ns: i64,
    pub costly_nano_usd: u64,
}

/// One span, its strings interned in [`Assembly::names`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SpanInput {
    /// Trace id.
    pub trace_id: [u8; 16],
    /// Tenant; traces of two tenants never mix.
    pub tenant: NameId,
    /// The span; its `inference` index is set by the assembly.
    pub node: SpanNode,
    /// Its inference numbers.
    pub inference: Option<Inference>,
    /// What the request cost that it reports, if it reports one and there are prices.
    pub cost: Option<Cost>,
}

impl SpanInput {
    const fn is_request(&self) -> bool {
        self.inference.is_some() || self.cost.is_some()
    }
}

/// Why a trace was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClosedBy {
    /// No span came for a while.
    Idle,
    /// It had been active for too long.
    MaxAge,
    /// It had too many spans.
    MaxSpans,
    /// State had reached its bound.
    Memory,
}

impl ClosedBy {
    /// The stable name in summaries and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::MaxAge => "max_age",
            Self::MaxSpans => "max_spans",
            Self::Memory => "memory",
        }
    }
}

/// A trace to report.
#[derive(Clone, Debug, PartialEq)]
pub struct Closed {
    /// Trace id, the key of the record.
    pub trace_id: [u8; 16],
    /// Partition its spans came from.
    pub partition: u32,
    /// Version, from 1.
    pub version: i32,
    /// Event time of the closing, milliseconds.
    pub watermark_ms: i64,
    /// Why.
    pub closed_by: ClosedBy,
    /// Spans in it.
    pub spans: u32,
    /// The encoded [`infertrace_schemas::avro::TraceSummary`].
    pub summary: Vec<u8>,
    /// What rollups count of it; its ids are valid until [`Assembly::sweep_names`].
    pub facts: TraceFacts,
}

/// What happened since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Counts {
    pub spans: u64,
    pub duplicate_spans: u64,
    pub late_spans: u64,
    pub already_reported_spans: u64,
    pub suppressed_summaries: u64,
    pub forgotten_early: u64,
    pub evicted_traces: u64,
}

/// One partition's share of the state.
#[derive(Debug)]
struct Partition {
    watermark_ms: i64,
    next_offset: u64,
    /// Every trace, by its first record.
    born: List,
    /// Open traces by last activity, remembered ones by closing.
    open: List,
    closed: List,
    resume: Resume,
}

/// The state machine over all partitions of one process.
#[derive(Debug)]
pub struct Assembly {
    limits: Limits,
    names: Names,
    names_after_sweep: usize,
    analyzer: Analyzer,
    slots: Vec<Option<Trace>>,
    free: Vec<u32>,
    table: HashTable<u32>,
    hasher: ahash::RandomState,
    partitions: BTreeMap<u32, Partition>,
    bytes: usize,
    open: usize,
    pool: Vec<Vec<SpanNode>>,
    /// The trace of the previous span, which is often the next one's too.
    latest: u32,
    counts: Counts,
    schema_id: u32,
    price_version: Arc<str>,
}

impl Assembly {
    /// An empty state; summaries are written under `schema_id`.
    #[must_use]
    pub fn new(limits: Limits, schema_id: u32) -> Self {
        Self {
            limits,
            names: Names::new(),
            names_after_sweep: 0,
            analyzer: Analyzer::new(),
            slots: Vec::new(),
            free: Vec::new(),
            table: HashTable::new(),
            hasher: ahash::RandomState::new(),
            partitions: BTreeMap::new(),
            bytes: 0,
            open: 0,
            pool: Vec::new(),
            latest: NONE,
            counts: Counts::default(),
            schema_id,
            price_version: Arc::from(""),
        }
    }

    /// Names the version of the prices that spans' costs were computed with.
    #[must_use]
    pub fn with_prices(self, version: &Arc<str>) -> Self {
        Self { price_version: Arc::clone(version), ..self }
    }

    /// The table in which a span's strings are interned. Ids are valid until [`Assembly::sweep_names`].
    pub const fn names(&mut self) -> &mut Names {
        &mut self.names
    }

    /// The same table, to look names up.
    #[must_use]
    pub const fn known_names(&self) -> &Names {
        &self.names
    }

    /// Takes over a partition, to be read from `resume`'s position on.
    pub fn assign(&mut self, partition: u32, resume: Resume) {
        self.revoke(partition);
        let state = Partition {
            watermark_ms: i64::MIN,
            next_offset: resume.from,
            born: List::EMPTY,
            open: List::EMPTY,
            closed: List::EMPTY,
            resume,
        };
        self.partitions.insert(partition, state);
    }

    /// Drops a partition's state.
    pub fn revoke(&mut self, partition: u32) {
        let Some(state) = self.partitions.get(&partition) else { return };
        let mut slot = state.born.head;
        while slot != NONE {
            let next = at(&mut self.slots, slot).born.next;
            self.remove(slot);
            slot = next;
        }
        self.partitions.remove(&partition);
    }

    /// One record: moves the watermark, closes what became idle, then takes the record's spans.
    pub fn record(
        &mut self,
        partition: u32,
        offset: u64,
        timestamp_ms: i64,
        spans: impl IntoIterator<Item = SpanInput>,
        out: &mut Vec<Closed>,
    ) {
        self.begin_record(partition, timestamp_ms, out);
        for span in spans {
            self.span(partition, offset, &span, out);
        }
        self.end_record(partition, offset, out);
    }

    /// First part of [`Assembly::record`], for callers whose spans need [`Assembly::names`].
    pub fn begin_record(&mut self, partition: u32, timestamp_ms: i64, out: &mut Vec<Closed>) {
        self.advance(partition, timestamp_ms, out);
    }

    /// One span of the record that was begun; says whether it was new: not there already, nor part of a trace that was
    /// reported before a restart.
    pub fn span(&mut self, partition: u32, offset: u64, span: &SpanInput, out: &mut Vec<Closed>) -> bool {
        self.counts.spans += 1;
        let Some(state) = self.partitions.get(&partition) else { return false };
        let now_ms = state.watermark_ms;
        let cut_here = if state.resume.is_done() {
            false
        } else {
            let tenant = self.names.get(span.tenant);
            if state.resume.was_reported(&span.trace_id, tenant, offset) {
                self.counts.already_reported_spans += 1;
                return false;
            }
            state.resume.starts_at(&span.trace_id, tenant, offset)
        };
        let slot = match self.find(partition, span) {
            Some(slot) if self.must_cut(slot, offset, now_ms, cut_here, out) => {
                self.open(partition, offset, span)
            }
            Some(slot) => slot,
            None => self.open(partition, offset, span),
        };
        self.latest = slot;
        self.add(slot, offset, now_ms, span)
    }

    /// Last part of [`Assembly::record`]: the position moves on, and bounds are enforced.
    pub fn end_record(&mut self, partition: u32, offset: u64, out: &mut Vec<Closed>) {
        if let Some(state) = self.partitions.get_mut(&partition) {
            state.next_offset = offset + 1;
        }
        while self.bytes > self.limits.max_bytes || self.table.len() > self.limits.max_traces {
            if !self.forget_oldest() && !self.evict_oldest(out) {
                break;
            }
        }
    }

    /// Moves a partition's watermark, never back, closes what became idle and forgets what is too old.
    pub fn advance(&mut self, partition: u32, to_ms: i64, out: &mut Vec<Closed>) {
        let Some(state) = self.partitions.get_mut(&partition) else { return };
        if to_ms <= state.watermark_ms {
            return;
        }
        state.watermark_ms = to_ms;
        while let Some(slot) = self.oldest(partition, Phase::Open) {
            if at(&mut self.slots, slot).last_ms.saturating_add(self.limits.idle_ms) > to_ms {
                break;
            }
            self.close(slot, ClosedBy::Idle, out);
        }
        while let Some(slot) = self.oldest(partition, Phase::Closed) {
            if at(&mut self.slots, slot).last_ms.saturating_add(self.limits.late_ms) > to_ms {
                break;
            }
            self.remove(slot);
        }
        let committable = self.committable(partition).unwrap_or(0);
        if let Some(state) = self.partitions.get_mut(&partition) {
            state.resume.forget_before(committable);
        }
    }

    /// The lowest record still needed, or the next one where nothing is held. `None` for a partition not assigned.
    #[must_use]
    pub fn committable(&self, partition: u32) -> Option<u64> {
        let state = self.partitions.get(&partition)?;
        let oldest = self.slots.get(state.born.head as usize).and_then(Option::as_ref);
        Some(oldest.map_or(state.next_offset, |trace| trace.first_offset))
    }

    /// The next record to read.
    #[must_use]
    pub fn next_offset(&self, partition: u32) -> Option<u64> {
        self.partitions.get(&partition).map(|state| state.next_offset)
    }

    /// The watermark, once a record was seen.
    #[must_use]
    pub fn watermark_ms(&self, partition: u32) -> Option<i64> {
        self.partitions.get(&partition).map(|state| state.watermark_ms).filter(|&at| at != i64::MIN)
    }

    /// Whether traces of the partition wait to be closed.
    #[must_use]
    pub fn has_open(&self, partition: u32) -> bool {
        self.partitions.get(&partition).is_some_and(|state| state.open.head != NONE)
    }

    /// Partitions held.
    pub fn partitions(&self) -> impl Iterator<Item = u32> + '_ {
        self.partitions.keys().copied()
    }

    /// Traces that wait for spans.
    #[must_use]
    pub const fn open_traces(&self) -> usize {
        self.open
    }

    /// Traces held, open and remembered.
    #[must_use]
    pub fn traces(&self) -> usize {
        self.table.len()
    }

    /// About the memory that traces and names take.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes + self.names.bytes()
    }

    /// What happened since the last call.
    pub fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }

    /// Drops names that no trace uses any more, once they take much memory. Between batches only: it changes ids.
    pub fn sweep_names(&mut self) {
        if self.names.bytes() < NAMES_BYTES.max(2 * self.names_after_sweep) {
            return;
        }
        let old = std::mem::take(&mut self.names);
        let names = &mut self.names;
        let mut moved = vec![NONE; old.len()];
        let mut keep = |id: &mut NameId| {
            let slot = &mut moved[id.0 as usize];
            if *slot == NONE {
                *slot = names.intern(old.get(*id)).0;
            }
            *id = NameId(*slot);
        };
        for trace in self.slots.iter_mut().flatten() {
            keep(&mut trace.tenant);
            for span in &mut trace.spans {
                keep(&mut span.service);
                keep(&mut span.operation);
                keep(&mut span.stage);
                keep(&mut span.model);
            }
        }
        self.names_after_sweep = self.names.bytes();
    }

    fn hash(&self, trace_id: &[u8; 16]) -> u64 {
        self.hasher.hash_one(trace_id)
    }

    fn find(&self, partition: u32, span: &SpanInput) -> Option<u32> {
        let is_it = |slot: u32| {
            let trace = self.slots.get(slot as usize).and_then(Option::as_ref);
            trace.is_some_and(|trace| {
                trace.trace_id == span.trace_id && trace.tenant == span.tenant && trace.partition == partition
            })
        };
        if is_it(self.latest) {
            return Some(self.latest);
        }
        self.table.find(self.hash(&span.trace_id), |&slot| is_it(slot)).copied()
    }

    /// Cuts a trace in front of a record when it is too old, too large, or was cut here before a restart.
    fn must_cut(
        &mut self,
        slot: u32,
        offset: u64,
        now_ms: i64,
        cut_here: bool,
        out: &mut Vec<Closed>,
    ) -> bool {
        let trace = at(&mut self.slots, slot);
        if trace.last_offset >= offset {
            return false;
        }
        let reason = if trace.spans.len() >= self.limits.max_spans {
            ClosedBy::MaxSpans
        } else if now_ms.saturating_sub(trace.first_ms) >= self.limits.max_age_ms {
            ClosedBy::MaxAge
        } else if cut_here {
            ClosedBy::Memory
        } else {
            return false;
        };
        if trace.phase == Phase::Open {
            self.close(slot, reason, out);
        }
        self.remove(slot);
        true
    }

    fn open(&mut self, partition: u32, offset: u64, span: &SpanInput) -> u32 {
        let hash = self.hash(&span.trace_id);
        let state = self.partitions.get_mut(&partition).expect("a span of an assigned partition");
        let buffer = self.pool.pop().unwrap_or_default();
        let trace = Trace::new(partition, offset, state.watermark_ms, span, buffer);
        self.bytes += trace.bytes();
        self.open += 1;
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(trace);
                slot
            }
            None => {
                self.slots.push(Some(trace));
                self.slots.len() as u32 - 1
            }
        };
        state.born.push(&mut self.slots, slot, born);
        state.open.push(&mut self.slots, slot, phased);
        let (slots, hasher) = (&self.slots, &self.hasher);
        let rehash =
            |&slot: &u32| slots[slot as usize].as_ref().map_or(0, |trace| hasher.hash_one(trace.trace_id));
        self.table.insert_unique(hash, slot, rehash);
        slot
    }

    fn add(&mut self, slot: u32, offset: u64, now_ms: i64, span: &SpanInput) -> bool {
        let trace = self.slots[slot as usize].as_mut().expect("the slot is occupied");
        let grows =
            trace.spans.len() == trace.spans.capacity() || span.is_request() || trace.spans.len() > 32;
        let before = if grows { trace.bytes() } else { 0 };
        if !trace.add(span) {
            self.counts.duplicate_spans += 1;
            return false;
        }
        if grows {
            self.bytes = self.bytes + trace.bytes() - before;
        }
        trace.last_offset = offset;
        let state = self.partitions.get_mut(&trace.partition).expect("a trace's partition is assigned");
        if trace.phase == Phase::Closed {
            self.counts.late_spans += 1;
            self.open += 1;
            trace.phase = Phase::Open;
            trace.last_ms = now_ms;
            state.closed.remove(&mut self.slots, slot, phased);
            state.open.push(&mut self.slots, slot, phased);
        } else if trace.last_ms != now_ms {
            trace.last_ms = now_ms;
            state.open.move_to_back(&mut self.slots, slot, phased);
        }
        true
    }

    /// Reports an open trace and remembers it.
    fn close(&mut self, slot: u32, closed_by: ClosedBy, out: &mut Vec<Closed>) {
        let trace = self.slots[slot as usize].as_mut().expect("the slot is occupied");
        let state = self.partitions.get_mut(&trace.partition).expect("a trace's partition is assigned");
        trace.phase = Phase::Closed;
        trace.last_ms = state.watermark_ms;
        self.open -= 1;
        trace.version += 1;
        let tenant = self.names.get(trace.tenant);
        let is_reported = !state.resume.is_done()
            && state.resume.take_version(
                &trace.trace_id,
                tenant,
                (trace.first_offset, trace.last_offset),
                &mut trace.version,
            );
        if is_reported {
            self.counts.suppressed_summaries += 1;
        } else {
            let analysis = self.analyzer.analyze(&TraceInput {
                spans: &trace.spans,
                inference: &trace.inference,
                names: &self.names,
                dropped_spans: 0,
            });
            let closing = Closing {
                trace_id: &trace.trace_id,
                tenant,
                version: trace.version,
                closed_by,
                partition: trace.partition,
                first_offset: trace.first_offset,
                last_offset: trace.last_offset,
                slow_ns: self.limits.slow_ns,
                costly_nano_usd: self.limits.costly_nano_usd,
                cost: trace.cost(analysis),
                price_version: &self.price_version,
            };
            out.push(Closed {
                trace_id: trace.trace_id,
                partition: trace.partition,
                version: trace.version,
                watermark_ms: state.watermark_ms,
                closed_by,
                spans: analysis.nodes.len() as u32,
                summary: summary::encode(self.schema_id, &closing, analysis, &trace.spans, &self.names),
                facts: TraceFacts {
                    tenant: trace.tenant,
                    model: analysis.models.first().copied().unwrap_or_default(),
                    duration_ns: analysis.duration_ns(),
                    ttft_ns: analysis.ttft.map(|ttft| ttft.ttft_ns),
                    ttft_queue_ns: analysis.ttft.and_then(|ttft| ttft.queue_ns),
                    stages: analysis.stages.clone(),
                    is_error: analysis.errors > 0,
                    is_complete: closed_by == ClosedBy::Idle && analysis.completeness.is_complete(),
                    unreported_calls: analysis.unreported_calls,
                },
            });
        }
        state.open.remove(&mut self.slots, slot, phased);
        state.closed.push(&mut self.slots, slot, phased);
    }

    /// Frees a trace's slot.
    fn remove(&mut self, slot: u32) {
        let trace = at(&mut self.slots, slot);
        let (partition, phase, hash) = (trace.partition, trace.phase, self.hasher.hash_one(trace.trace_id));
        let state = self.partitions.get_mut(&partition).expect("a trace's partition is assigned");
        state.born.remove(&mut self.slots, slot, born);
        match phase {
            Phase::Open => {
                self.open -= 1;
                state.open.remove(&mut self.slots, slot, phased);
            }
            Phase::Closed => state.closed.remove(&mut self.slots, slot, phased),
        }
        if let Ok(entry) = self.table.find_entry(hash, |&entry| entry == slot) {
            entry.remove();
        }
        let trace = self.slots[slot as usize].take().expect("the slot is occupied");
        self.bytes -= trace.bytes();
        self.free.push(slot);
        let mut spans = trace.spans;
        if spans.capacity() <= POOLED_SPANS && self.pool.len() < POOLED_BUFFERS {
            spans.clear();
            self.pool.push(spans);
        }
    }

    fn oldest(&self, partition: u32, phase: Phase) -> Option<u32> {
        let state = self.partitions.get(&partition)?;
        let head = if phase == Phase::Open { state.open.head } else { state.closed.head };
        (head != NONE).then_some(head)
    }

    /// Over all partitions, the trace that has waited longest in `phase`.
    fn oldest_of_all(&mut self, phase: Phase) -> Option<u32> {
        let heads = self.partitions.values().map(|state| match phase {
            Phase::Open => state.open.head,
            Phase::Closed => state.closed.head,
        });
        let slots = &self.slots;
        heads
            .filter_map(|slot| slots.get(slot as usize)?.as_ref().map(|trace| (trace.last_ms, slot)))
            .min()
            .map(|(_, slot)| slot)
    }

    fn forget_oldest(&mut self) -> bool {
        let Some(slot) = self.oldest_of_all(Phase::Closed) else { return false };
        self.counts.forgotten_early += 1;
        self.remove(slot);
        true
    }

    fn evict_oldest(&mut self, out: &mut Vec<Closed>) -> bool {
        let Some(slot) = self.oldest_of_all(Phase::Open) else { return false };
        self.counts.evicted_traces += 1;
        self.close(slot, ClosedBy::Memory, out);
        self.remove(slot);
        true
    }
}
