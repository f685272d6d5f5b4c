//! From a bag of spans to a forest in pre-order: duplicates, parents, cycles, clocks, self time.
//!
//! "uid" is an index into the distinct spans sorted by span id, the only order that does not depend on arrival.

use std::cmp::{Ordering, Reverse};

use super::{Analysis, ClockShift, NONE, NameId, Node, SpanNode, TraceInput};

/// Kinds that matter here, OTLP's numbers.
const SERVER: u8 = 2;
const CLIENT: u8 = 3;

#[derive(Debug, Default)]
pub(super) struct Tree {
    /// By uid: (span id, index into the input).
    ids: Vec<(u64, u32)>,
    /// By uid: the parent's uid or [`NONE`].
    parent: Vec<u32>,
    /// By uid: start after clock adjustment.
    start: Vec<i64>,
    /// uids by (start, span id).
    order: Vec<u32>,
    /// Children of uid `u`: `children[offsets[u]..offsets[u + 1]]`, by start.
    offsets: Vec<u32>,
    children: Vec<u32>,
    fill: Vec<u32>,
    stack: Vec<u32>,
    /// uids in pre-order, and the inverse.
    preorder: Vec<u32>,
    position: Vec<u32>,
    /// By uid: clock shift.
    shift: Vec<i64>,
    /// By node: what its children cover, and up to where they were counted.
    covered: Vec<(u64, i64)>,
    /// By uid: the walk in which it was seen while looking for cycles; 0 is never.
    seen: Vec<u32>,
}

impl Tree {
    pub(super) fn build(&mut self, trace: &TraceInput<'_>, out: &mut Analysis) {
        self.collapse_duplicates(trace, out);
        self.find_parents(trace, out);
        self.cut_cycles(out);
        self.lay_out();
        if self.align_clocks(trace, out) {
            self.lay_out();
        }
        self.emit(trace, out);
        self.measure_self_time(out);
        choose_root(trace, out);
    }

    fn collapse_duplicates(&mut self, trace: &TraceInput<'_>, out: &mut Analysis) {
        self.ids.clear();
        self.ids.extend(trace.spans.iter().enumerate().map(|(index, span)| (span.span_id, index as u32)));
        self.ids.sort_unstable();
        let before = self.ids.len();
        self.ids.dedup_by(|next, kept| {
            if next.0 != kept.0 {
                return false;
            }
            if prefer(trace, next.1, kept.1) == Ordering::Greater {
                kept.1 = next.1;
            }
            true
        });
        out.duplicates = (before - self.ids.len()) as u32;
    }

    fn find_parents(&mut self, trace: &TraceInput<'_>, out: &mut Analysis) {
        self.parent.clear();
        self.start.clear();
        let mut roots = 0u32;
        for &(_, index) in &self.ids {
            let span = &trace.spans[index as usize];
            self.start.push(span.start_ns);
            if span.parent_id == 0 {
                roots += 1;
                self.parent.push(NONE);
                continue;
            }
            match self.ids.binary_search_by_key(&span.parent_id, |&(id, _)| id) {
                Ok(parent) => self.parent.push(parent as u32),
                Err(_) => {
                    out.completeness.orphans += 1;
                    self.parent.push(NONE);
                }
            }
        }
        out.completeness.missing_root = roots == 0;
    }

    /// Cuts every parent cycle above its earliest span.
    fn cut_cycles(&mut self, out: &mut Analysis) {
        let count = self.ids.len();
        reset(&mut self.seen, count, 0);
        for from in 0..count as u32 {
            let walk = from + 1;
            let mut at = from;
            while at != NONE && self.seen[at as usize] == 0 {
                self.seen[at as usize] = walk;
                at = self.parent[at as usize];
            }
            if at == NONE || self.seen[at as usize] != walk {
                continue;
            }
            let mut earliest = at;
            let mut member = self.parent[at as usize];
            while member != at {
                if (self.start[member as usize], member) < (self.start[earliest as usize], earliest) {
                    earliest = member;
                }
                member = self.parent[member as usize];
            }
            self.parent[earliest as usize] = NONE;
            out.completeness.cycles += 1;
        }
    }

    /// Children by start, then the forest in pre-order.
    fn lay_out(&mut self) {
        let count = self.ids.len();
        self.order.clear();
        self.order.extend(0..count as u32);
        let start = &self.start;
        self.order.sort_unstable_by_key(|&uid| (start[uid as usize], uid));

        reset(&mut self.offsets, count + 1, 0);
        for &parent in &self.parent {
            if parent != NONE {
                self.offsets[parent as usize + 1] += 1;
            }
        }
        for index in 0..count {
            self.offsets[index + 1] += self.offsets[index];
        }
        self.fill.clear();
        self.fill.extend_from_slice(&self.offsets[..count]);
        reset(&mut self.children, self.offsets[count] as usize, 0);
        self.stack.clear();
        for &uid in &self.order {
            let parent = self.parent[uid as usize];
            if parent == NONE {
                self.stack.push(uid);
                continue;
            }
            let slot = &mut self.fill[parent as usize];
            self.children[*slot as usize] = uid;
            *slot += 1;
        }
        self.stack.reverse();

        reset(&mut self.position, count, 0);
        self.preorder.clear();
        while let Some(uid) = self.stack.pop() {
            self.position[uid as usize] = self.preorder.len() as u32;
            self.preorder.push(uid);
            let range = self.offsets[uid as usize] as usize..self.offsets[uid as usize + 1] as usize;
            self.stack.extend(self.children[range].iter().rev());
        }
    }

    /// Shifts the spans of a service that lie outside their caller's span, as Jaeger's adjuster does.
    /// Says whether anything moved.
    fn align_clocks(&mut self, trace: &TraceInput<'_>, out: &mut Analysis) -> bool {
        reset(&mut self.shift, self.ids.len(), 0);
        let mut moved = false;
        for &uid in &self.preorder {
            let parent = self.parent[uid as usize];
            if parent == NONE {
                continue;
            }
            let span = &trace.spans[self.ids[uid as usize].1 as usize];
            let caller = &trace.spans[self.ids[parent as usize].1 as usize];
            let shift = if span.service == caller.service {
                self.shift[parent as usize]
            } else {
                clock_shift(span, caller, self.start[parent as usize])
            };
            if shift != 0 {
                moved = true;
                self.shift[uid as usize] = shift;
                self.start[uid as usize] = span.start_ns.saturating_add(shift);
                note_shift(&mut out.clock_shifts, span.service, shift);
            }
        }
        moved
    }

    fn emit(&mut self, trace: &TraceInput<'_>, out: &mut Analysis) {
        out.nodes.reserve(self.preorder.len());
        for &uid in &self.preorder {
            let index = self.ids[uid as usize].1;
            let span = &trace.spans[index as usize];
            let start_ns = self.start[uid as usize];
            let parent = match self.parent[uid as usize] {
                NONE => NONE,
                parent => self.position[parent as usize],
            };
            let above = (parent != NONE).then(|| out.nodes[parent as usize]);
            if above.is_none() {
                out.roots.push(out.nodes.len() as u32);
            }
            let inherited = above.map_or(NameId::EMPTY, |above| above.stage);
            out.nodes.push(Node {
                input: index,
                parent,
                depth: above.map_or(0, |above| above.depth + 1),
                subtree: 1,
                start_ns,
                end_ns: start_ns.saturating_add(span.duration_ns.max(0)),
                self_ns: 0,
                critical_ns: 0,
                stage: if span.stage.is_empty() { inherited } else { span.stage },
            });
        }
        for index in (0..out.nodes.len()).rev() {
            let Node { parent, subtree, .. } = out.nodes[index];
            if parent != NONE {
                out.nodes[parent as usize].subtree += subtree;
            }
        }
        out.start_ns = out.nodes.iter().map(|node| node.start_ns).min().unwrap_or(0);
        out.end_ns = out.nodes.iter().map(|node| node.end_ns).max().unwrap_or(0);
    }

    /// Children come by start, so one sweep per parent measures their union.
    fn measure_self_time(&mut self, out: &mut Analysis) {
        reset(&mut self.covered, out.nodes.len(), (0, i64::MIN));
        for index in 0..out.nodes.len() {
            let Node { parent, start_ns, end_ns, .. } = out.nodes[index];
            if parent == NONE {
                continue;
            }
            let above = out.nodes[parent as usize];
            let (sum, until) = &mut self.covered[parent as usize];
            let from = start_ns.max(above.start_ns).max(*until);
            let to = end_ns.min(above.end_ns);
            if to > from {
                *sum += to.abs_diff(from);
                *until = to;
            }
        }
        for (node, &(covered, _)) in out.nodes.iter_mut().zip(&self.covered) {
            node.self_ns = node.end_ns.abs_diff(node.start_ns) - covered;
        }
    }
}

/// Which of two spans with one id stays: the longer, then the earlier, then the one that says more.
fn prefer(trace: &TraceInput<'_>, left: u32, right: u32) -> Ordering {
    let (a, b) = (&trace.spans[left as usize], &trace.spans[right as usize]);
    let numbers =
        |span: &SpanNode| (span.duration_ns, Reverse(span.start_ns), span.status, span.parent_id, span.kind);
    let words = |span: &SpanNode| {
        [span.service, span.operation, span.stage, span.model].map(|id| trace.names.get(id))
    };
    let inference = |span: &SpanNode| {
        trace.inference.get(span.inference as usize).map(|found| {
            let tokens = (found.output_tokens, found.input_tokens, found.cached_tokens);
            (tokens, found.ttft_ns, found.queue_ns, found.request)
        })
    };
    numbers(a)
        .cmp(&numbers(b))
        .then_with(|| words(a).cmp(&words(b)))
        .then_with(|| inference(a).cmp(&inference(b)))
}

/// How far the callee's clock is off, by the only evidence a trace has: a callee runs inside its caller's span.
/// `caller_start` is already adjusted.
fn clock_shift(span: &SpanNode, caller: &SpanNode, caller_start: i64) -> i64 {
    let (duration, caller_duration) = (span.duration_ns.max(0), caller.duration_ns.max(0));
    let starts_early = span.start_ns < caller_start;
    let ends_late = span.start_ns.saturating_add(duration) > caller_start.saturating_add(caller_duration);
    if duration > caller_duration {
        // Asynchronous, or the caller gave up: all that is certain is that it did not start before its cause.
        return if starts_early { caller_start.saturating_sub(span.start_ns) } else { 0 };
    }
    // Only of a remote call is it known that the caller waited; other children may rightly end later.
    let waited_for = span.kind == SERVER && caller.kind == CLIENT;
    let is_off = starts_early || (ends_late && waited_for);
    if !is_off {
        return 0;
    }
    // The network's share is taken as equal on both ways.
    let latency = (caller_duration - duration) / 2;
    caller_start.saturating_add(latency).saturating_sub(span.start_ns)
}

fn note_shift(shifts: &mut Vec<ClockShift>, service: NameId, shift_ns: i64) {
    if let Some(known) = shifts.iter_mut().find(|known| known.service == service) {
        known.spans += 1;
        if (shift_ns.unsigned_abs(), shift_ns) > (known.shift_ns.unsigned_abs(), known.shift_ns) {
            known.shift_ns = shift_ns;
        }
    } else if shifts.len() < super::MAX_GROUPS {
        shifts.push(ClockShift { service, shift_ns, spans: 1 });
    }
}

/// A true root before an orphan, then the longest, then the earliest.
fn choose_root(trace: &TraceInput<'_>, out: &mut Analysis) {
    let mut best: Option<((bool, u64), u32)> = None;
    for &root in &out.roots {
        let node = &out.nodes[root as usize];
        let is_true_root = trace.spans[node.input as usize].parent_id == 0;
        let rank = (is_true_root, node.end_ns.abs_diff(node.start_ns));
        if best.is_none_or(|(known, _)| rank > known) {
            best = Some((rank, root));
        }
    }
    out.root = best.map_or(NONE, |(_, root)| root);
}

/// Makes `buffer` hold `count` times `value`.
pub(super) fn reset<T: Copy>(buffer: &mut Vec<T>, count: usize, value: T) {
    buffer.clear();
    buffer.resize(count, value);
}
