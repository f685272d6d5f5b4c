//! One trace in memory, and the intrusive lists that order traces by age.

use hashbrown::HashTable;
use infertrace_analytics::cost::{Cost, TraceCost, trace_cost};
use infertrace_schemas::trace::{Analysis, Inference, NONE, NameId, SpanNode};

use super::SpanInput;

/// Up to here duplicates are found by looking at every span; beyond, by an index.
const SCAN_SPANS: usize = 32;
/// A trace's share of tables and lists.
const FIXED_BYTES: usize = size_of::<Trace>() + 24;

/// Which list a trace is in besides the one of all traces of its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Waits for spans; ordered by last activity.
    Open,
    /// Reported, and remembered for late spans; ordered by closing.
    Closed,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Links {
    pub(super) previous: u32,
    pub(super) next: u32,
}

pub(super) const UNLINKED: Links = Links { previous: NONE, next: NONE };

#[derive(Debug)]
pub(super) struct Trace {
    pub(super) trace_id: [u8; 16],
    pub(super) tenant: NameId,
    pub(super) partition: u32,
    /// Records that its spans came from, both inclusive.
    pub(super) first_offset: u64,
    pub(super) last_offset: u64,
    /// Watermark at its first span, and at its last one or, once closed, at its closing.
    pub(super) first_ms: i64,
    pub(super) last_ms: i64,
    /// Version reported last, 0 before the first.
    pub(super) version: i32,
    pub(super) phase: Phase,
    pub(super) born: Links,
    pub(super) phased: Links,
    pub(super) spans: Vec<SpanNode>,
    pub(super) inference: Vec<Inference>,
    /// What requests cost, by the position of their span, ascending.
    costs: Vec<(u32, Cost)>,
    /// Spans by id, once there are many.
    index: Option<Box<HashTable<u32>>>,
}

impl Trace {
    pub(super) fn new(
        partition: u32,
        offset: u64,
        now_ms: i64,
        span: &SpanInput,
        spans: Vec<SpanNode>,
    ) -> Self {
        Self {
            trace_id: span.trace_id,
            tenant: span.tenant,
            partition,
            first_offset: offset,
            last_offset: offset,
            first_ms: now_ms,
            last_ms: now_ms,
            version: 0,
            phase: Phase::Open,
            born: UNLINKED,
            phased: UNLINKED,
            spans,
            inference: Vec::new(),
            costs: Vec::new(),
            index: None,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let index = self.index.as_ref().map_or(0, |index| index.capacity() * 8);
        FIXED_BYTES
            + self.spans.capacity() * size_of::<SpanNode>()
            + self.inference.capacity() * size_of::<Inference>()
            + self.costs.capacity() * size_of::<(u32, Cost)>()
            + index
    }

    /// Adds a span unless the very same one is there; says whether it was new.
    pub(super) fn add(&mut self, span: &SpanInput) -> bool {
        if self.contains(span) {
            return false;
        }
        let inference = span.inference.map_or(NONE, |inference| {
            if self.inference.capacity() == 0 {
                // Mostly one span of a trace has such numbers.
                self.inference.reserve_exact(1);
            }
            self.inference.push(inference);
            self.inference.len() as u32 - 1
        });
        let position = self.spans.len() as u32;
        if let Some(cost) = span.cost {
            if self.costs.capacity() == 0 {
                self.costs.reserve_exact(1);
            }
            self.costs.push((position, cost));
        }
        self.spans.push(SpanNode { inference, ..span.node });
        if self.spans.len() > SCAN_SPANS {
            let spans = &self.spans;
            let hash = |&at: &u32| spread(spans[at as usize].span_id);
            match &mut self.index {
                Some(index) => {
                    index.insert_unique(hash(&position), position, hash);
                }
                None => {
                    let mut index = HashTable::with_capacity(2 * spans.len());
                    for at in 0..spans.len() as u32 {
                        index.insert_unique(hash(&at), at, hash);
                    }
                    self.index = Some(Box::new(index));
                }
            }
        }
        true
    }

    /// The cost of its requests, each piece of work once.
    pub(super) fn cost(&self, analysis: &Analysis) -> Option<TraceCost> {
        if self.costs.is_empty() {
            return None;
        }
        let cost_of = |span: u32| {
            let at = self.costs.binary_search_by_key(&span, |(position, _)| *position).ok()?;
            Some(self.costs[at].1)
        };
        let spans: Vec<_> = analysis.nodes.iter().map(|node| (node.parent, cost_of(node.input))).collect();
        trace_cost(&spans)
    }

    fn contains(&self, span: &SpanInput) -> bool {
        let same = |at: &SpanNode| {
            at.span_id == span.node.span_id
                && SpanNode { inference: NONE, ..*at } == span.node
                && self.inference.get(at.inference as usize) == span.inference.as_ref()
        };
        match &self.index {
            Some(index) => {
                index.find(spread(span.node.span_id), |&at| same(&self.spans[at as usize])).is_some()
            }
            None => self.spans.iter().any(same),
        }
    }
}

/// Span ids are mostly random, but need not be.
fn spread(span_id: u64) -> u64 {
    let mixed = (span_id ^ (span_id >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

/// Which pair of links a list uses.
pub(super) type Side = fn(&mut Trace) -> &mut Links;

pub(super) fn born(trace: &mut Trace) -> &mut Links {
    &mut trace.born
}

pub(super) fn phased(trace: &mut Trace) -> &mut Links {
    &mut trace.phased
}

/// A doubly linked list through the slots, oldest first.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    pub(super) head: u32,
    tail: u32,
}

impl List {
    pub(super) const EMPTY: Self = Self { head: NONE, tail: NONE };

    pub(super) fn push(&mut self, slots: &mut [Option<Trace>], slot: u32, side: Side) {
        *side(at(slots, slot)) = Links { previous: self.tail, next: NONE };
        match self.tail {
            NONE => self.head = slot,
            tail => side(at(slots, tail)).next = slot,
        }
        self.tail = slot;
    }

    pub(super) fn remove(&mut self, slots: &mut [Option<Trace>], slot: u32, side: Side) {
        let Links { previous, next } = std::mem::replace(side(at(slots, slot)), UNLINKED);
        match previous {
            NONE => self.head = next,
            previous => side(at(slots, previous)).next = next,
        }
        match next {
            NONE => self.tail = previous,
            next => side(at(slots, next)).previous = previous,
        }
    }

    pub(super) fn move_to_back(&mut self, slots: &mut [Option<Trace>], slot: u32, side: Side) {
        if self.tail != slot {
            self.remove(slots, slot, side);
            self.push(slots, slot, side);
        }
    }
}

pub(super) fn at(slots: &mut [Option<Trace>], slot: u32) -> &mut Trace {
    slots[slot as usize].as_mut().expect("lists and tables hold occupied slots only")
}
