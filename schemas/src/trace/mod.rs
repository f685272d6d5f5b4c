//! Pure analysis of one trace: tree, self time, critical path, stages, tokens, service edges.
//!
//! Callers turn their spans into light [`SpanNode`]s whose strings live in a [`Names`] table and hand them to an
//! [`Analyzer`], which keeps its buffers between traces. Processors write the result to the log, the query API
//! adds it to the spans it returns.
//!
//! Invariants:
//! - No I/O, no clock, no recursion, no panic on any input; cost is O(n log n) in the number of spans.
//! - The result depends on the *set* of spans: neither their order nor a span that is delivered twice changes it.
//! - Nothing is repaired silently: missing parents, cycles, duplicates, clock shifts and omissions are counted.
//! - The critical path is a gapless cover of the primary root's interval, so its segments sum to its duration.

mod breakdown;
mod critical;
mod names;
mod tokens;
mod tree;

#[cfg(test)]
mod tests;

pub use names::{NameId, Names};
pub use tokens::request_key;

/// "No such node" in the index fields of this module.
pub const NONE: u32 = u32::MAX;

/// Stages, services, edges and models of one trace that are kept apart; what exceeds it is counted as omitted.
pub const MAX_GROUPS: usize = 256;

/// What the analysis has to know of one span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanNode {
    /// The span id's 8 bytes, big-endian.
    pub span_id: u64,
    /// The parent's id, 0 for a root.
    pub parent_id: u64,
    /// Start, nanoseconds since 1970-01-01T00:00:00Z, as reported.
    pub start_ns: i64,
    /// Duration, nanoseconds; a negative one counts as 0.
    pub duration_ns: i64,
    /// Service name.
    pub service: NameId,
    /// Operation name.
    pub operation: NameId,
    /// Pipeline stage, [`NameId::EMPTY`] when the span names none.
    pub stage: NameId,
    /// Model name, [`NameId::EMPTY`] when unknown.
    pub model: NameId,
    /// Index into [`TraceInput::inference`], [`NONE`] for spans without such numbers.
    pub inference: u32,
    /// OTLP's span kind (1 internal, 2 server, 3 client, 4 producer, 5 consumer).
    pub kind: u8,
    /// OTLP's status code (0 unset, 1 ok, 2 error).
    pub status: u8,
}

/// The inference numbers of one span; absent is unknown, not zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inference {
    /// [`request_key`] of the request id, 0 when there is none. Spans with one request id share one prompt.
    pub request: u64,
    /// Prompt tokens.
    pub input_tokens: Option<u64>,
    /// Generated tokens.
    pub output_tokens: Option<u64>,
    /// Prompt tokens served from a cache.
    pub cached_tokens: Option<u64>,
    /// From the span's start to the first token.
    pub ttft_ns: Option<u64>,
    /// Time the request waited to be scheduled, from the span's start.
    pub queue_ns: Option<u64>,
}

/// The spans of one trace.
#[derive(Clone, Copy, Debug)]
pub struct TraceInput<'a> {
    /// Spans, in any order, duplicates allowed.
    pub spans: &'a [SpanNode],
    /// What [`SpanNode::inference`] indexes.
    pub inference: &'a [Inference],
    /// What the [`NameId`]s mean.
    pub names: &'a Names,
    /// Spans known to belong to the trace that were left out, because a bound was reached.
    pub dropped_spans: u64,
}

/// One span in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// Index into [`TraceInput::spans`].
    pub input: u32,
    /// The parent's index into [`Analysis::nodes`], [`NONE`] for a root.
    pub parent: u32,
    /// Distance from its root.
    pub depth: u32,
    /// Spans in its subtree, itself included: they are `nodes[i..i + subtree]`.
    pub subtree: u32,
    /// Start after clock adjustment; what was reported stays in the [`SpanNode`].
    pub start_ns: i64,
    /// End after clock adjustment.
    pub end_ns: i64,
    /// Duration minus what its children cover.
    pub self_ns: u64,
    /// Its share of the critical path.
    pub critical_ns: u64,
    /// Its stage, inherited from the nearest ancestor that names one.
    pub stage: NameId,
}

/// One piece of the critical path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Index into [`Analysis::nodes`].
    pub node: u32,
    /// From, nanoseconds, after clock adjustment.
    pub start_ns: i64,
    /// To.
    pub end_ns: i64,
}

/// Time by pipeline stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageTime {
    /// Stage; [`NameId::EMPTY`] gathers spans that neither have nor inherit one.
    pub stage: NameId,
    /// Spans in the stage.
    pub spans: u32,
    /// Sum of self times.
    pub self_ns: u64,
    /// Time on the critical path.
    pub critical_ns: u64,
}

/// What one service did in the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceUse {
    /// Service.
    pub service: NameId,
    /// Its spans.
    pub spans: u32,
    /// Those with status error.
    pub errors: u32,
    /// Sum of self times.
    pub self_ns: u64,
}

/// Calls from one service to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceEdge {
    /// Service of the parent span.
    pub caller: NameId,
    /// Service of the child span.
    pub callee: NameId,
    /// Calls.
    pub calls: u32,
    /// Calls whose child span has status error.
    pub errors: u32,
    /// Sum of the child spans' durations.
    pub total_ns: u64,
}

/// A shift of one service's spans that lay outside their parent in another service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockShift {
    /// Service whose clock is off.
    pub service: NameId,
    /// Added to the reported times; the largest by magnitude where subtrees differ.
    pub shift_ns: i64,
    /// Spans shifted.
    pub spans: u32,
}

/// Tokens of the trace: per request counted once, where client, proxy and engine each report them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Prompt tokens.
    pub input: Option<u64>,
    /// Generated tokens.
    pub output: Option<u64>,
    /// Prompt tokens served from a cache.
    pub cached: Option<u64>,
}

/// Time to first token of the trace's first request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ttft {
    /// Index into [`Analysis::nodes`] of the span it was read from.
    pub node: u32,
    /// From that span's start to the first token.
    pub ttft_ns: u64,
    /// Its part before the request was scheduled, where known.
    pub queue_ns: Option<u64>,
    /// The rest: prefill, and the front end's share where the engine does not report it apart.
    pub prefill_ns: Option<u64>,
    /// False when it was derived from queue and prefill spans.
    pub measured: bool,
}

/// What is known to be missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Completeness {
    /// No span is without a parent.
    pub missing_root: bool,
    /// Spans whose parent is not in the trace.
    pub orphans: u32,
    /// Parent cycles that were cut at their earliest span.
    pub cycles: u32,
    /// Spans left out because a bound was reached.
    pub dropped_spans: u64,
}

impl Completeness {
    /// Whether nothing is known to be missing.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        !self.missing_root && self.orphans == 0 && self.cycles == 0 && self.dropped_spans == 0
    }

    /// Stable snake_case names of what is wrong, most basic first.
    pub fn reasons(&self) -> impl Iterator<Item = &'static str> {
        [
            (self.missing_root, "missing_root"),
            (self.orphans > 0, "missing_parents"),
            (self.cycles > 0, "cycle"),
            (self.dropped_spans > 0, "truncated"),
        ]
        .into_iter()
        .filter_map(|(applies, reason)| applies.then_some(reason))
    }
}

/// What the analysis found. Lists are in tree order: by first appearance in [`Analysis::nodes`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Analysis {
    /// Every distinct span in pre-order: a parent before its children, children by start.
    pub nodes: Vec<Node>,
    /// Indices of nodes without a parent: roots, orphans and where cycles were cut.
    pub roots: Vec<u32>,
    /// The primary root (a true root if there is one, then the longest, then the earliest); [`NONE`] if empty.
    pub root: u32,
    /// Earliest start after clock adjustment.
    pub start_ns: i64,
    /// Latest end after clock adjustment.
    pub end_ns: i64,
    /// Spans with status error.
    pub errors: u32,
    /// Copies of a span id that were collapsed.
    pub duplicates: u32,
    /// What is missing.
    pub completeness: Completeness,
    /// Critical path of the primary root, earliest first.
    pub critical_path: Vec<Segment>,
    /// Sum of self times over the wall time from `start_ns` to `end_ns`; 1 for one sequential trace.
    pub parallelism: f64,
    /// Time by stage.
    pub stages: Vec<StageTime>,
    /// Services.
    pub services: Vec<ServiceUse>,
    /// Calls between services.
    pub edges: Vec<ServiceEdge>,
    /// Models.
    pub models: Vec<NameId>,
    /// Distinct services, edges and models beyond [`MAX_GROUPS`] that were left out of their lists.
    pub omitted_groups: u32,
    /// Clock shifts by service.
    pub clock_shifts: Vec<ClockShift>,
    /// Tokens.
    pub tokens: Tokens,
    /// Time to first token.
    pub ttft: Option<Ttft>,
    /// Calls of models below which no other service reports the request.
    pub unreported_calls: u32,
}

impl Analysis {
    /// Wall time of the trace.
    #[must_use]
    pub fn duration_ns(&self) -> u64 {
        self.end_ns.saturating_sub(self.start_ns).max(0) as u64
    }

    fn clear(&mut self) {
        self.nodes.clear();
        self.roots.clear();
        self.critical_path.clear();
        self.stages.clear();
        self.services.clear();
        self.edges.clear();
        self.models.clear();
        self.clock_shifts.clear();
        self.root = NONE;
        (self.start_ns, self.end_ns) = (0, 0);
        (self.errors, self.duplicates, self.omitted_groups, self.unreported_calls) = (0, 0, 0, 0);
        self.completeness = Completeness::default();
        self.parallelism = 1.0;
        self.tokens = Tokens::default();
        self.ttft = None;
    }
}

/// Analyses one trace after another, reusing its buffers.
#[derive(Debug, Default)]
pub struct Analyzer {
    tree: tree::Tree,
    critical: critical::Walk,
    breakdown: breakdown::Scratch,
    out: Analysis,
}

impl Analyzer {
    /// An analyzer with empty buffers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Analyses one trace; the result is valid until the next call.
    pub fn analyze(&mut self, trace: &TraceInput<'_>) -> &Analysis {
        self.out.clear();
        self.out.completeness.dropped_spans = trace.dropped_spans;
        if trace.spans.is_empty() {
            self.out.completeness.missing_root = true;
            return &self.out;
        }
        self.tree.build(trace, &mut self.out);
        self.critical.run(&mut self.out);
        self.breakdown.run(trace, &mut self.out);
        &self.out
    }
}

/// Analyses one trace.
#[must_use]
pub fn analyze(trace: &TraceInput<'_>) -> Analysis {
    let mut analyzer = Analyzer::new();
    analyzer.analyze(trace);
    analyzer.out
}
