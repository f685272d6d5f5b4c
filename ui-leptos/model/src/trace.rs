//! A trace, indexed for drawing: tree, order, depth, self time, critical path.
//!
//! Built once a trace arrives; views borrow it. Works on anything the API can answer: parents that are missing, ids
//! that repeat, cycles, children that outlive their parent.
//!
//! Invariants: `order` holds every span exactly once; in it a span's subtree is the `subtree` entries from the span on;
//! all times are relative to the earliest start.

use std::collections::HashMap;

use crate::api::{PathSegment, Span, TraceDetail};
use crate::critical::{self, Segment};

/// Index of a span in [`TraceModel::spans`].
pub type SpanIndex = u32;

/// What the layout knows of a span.
#[derive(Clone, Debug)]
pub struct Node {
    /// Parent, if it is in the trace.
    pub parent: Option<SpanIndex>,
    /// Children by start time, in [`TraceModel::children`].
    children: (u32, u32),
    /// 0 for roots.
    pub depth: u32,
    /// Spans in the subtree, itself included.
    pub subtree: u32,
    /// Place in [`TraceModel::order`].
    pub position: u32,
    /// Nanoseconds from the start of the trace.
    pub start: i64,
    /// Not before `start`.
    pub end: i64,
    /// Duration less what children cover.
    pub self_time: i64,
    /// Index into [`TraceModel::services`].
    pub service: u32,
    /// On the critical path.
    pub critical: bool,
    /// It names a parent that is not in the trace.
    pub orphan: bool,
    /// Failed spans below it, itself not included.
    pub errors_below: u32,
}

/// A service's part in a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePart {
    /// Name.
    pub name: String,
    /// Spans.
    pub spans: u32,
    /// Failed spans.
    pub errors: u32,
    /// Sum of self times, nanoseconds.
    pub self_time: i64,
}

/// A trace ready to draw.
#[derive(Debug)]
pub struct TraceModel {
    /// As the API answered, without its spans.
    pub detail: TraceDetail,
    /// In the API's order.
    pub spans: Vec<Span>,
    /// One a span.
    pub nodes: Vec<Node>,
    /// Depth-first, children by start time.
    pub order: Vec<SpanIndex>,
    /// By start time.
    pub roots: Vec<SpanIndex>,
    children: Vec<SpanIndex>,
    /// By first appearance in `order`.
    pub services: Vec<ServicePart>,
    /// Parts of spans that make up the critical path, by span in time order.
    pub segments: Vec<Segment>,
    /// First segment of each span in `segments`, one entry more than spans.
    segment_starts: Vec<u32>,
    /// Since 1970.
    pub start_unix_nano: i64,
    /// Last end less first start.
    pub duration: i64,
    /// Failed spans.
    pub errors: u32,
    by_id: HashMap<String, SpanIndex>,
}

impl TraceModel {
    /// Indexes a trace.
    pub fn build(mut detail: TraceDetail) -> Self {
        let spans = std::mem::take(&mut detail.spans);
        let start_unix_nano = spans.iter().map(|span| span.interval().0).min().unwrap_or(0);
        let duration =
            spans.iter().map(|span| span.interval().1.saturating_sub(start_unix_nano)).max().unwrap_or(0);
        let mut by_id = HashMap::with_capacity(spans.len());
        for (index, span) in spans.iter().enumerate() {
            by_id.entry(span.span_id.clone()).or_insert(index as SpanIndex);
        }
        let mut nodes: Vec<Node> = spans
            .iter()
            .enumerate()
            .map(|(index, span)| node_of(index, span, &by_id, start_unix_nano))
            .collect();
        let (mut roots, mut children) = link(&mut nodes);
        let order = depth_first(&mut nodes, &mut roots, &mut children);
        let mut model = Self {
            detail,
            spans,
            nodes,
            order,
            roots,
            children,
            services: Vec::new(),
            segments: Vec::new(),
            segment_starts: Vec::new(),
            start_unix_nano,
            duration,
            errors: 0,
            by_id,
        };
        model.sum_up();
        model.find_critical_path();
        model
    }

    /// The span with an id.
    pub fn find(&self, span_id: &str) -> Option<SpanIndex> {
        self.by_id.get(span_id).copied()
    }

    /// The span at an index.
    pub fn span(&self, index: SpanIndex) -> &Span {
        &self.spans[index as usize]
    }

    /// The node at an index.
    pub fn node(&self, index: SpanIndex) -> &Node {
        &self.nodes[index as usize]
    }

    /// Children by start time.
    pub fn children(&self, index: SpanIndex) -> &[SpanIndex] {
        let (from, to) = self.nodes[index as usize].children;
        &self.children[from as usize..to as usize]
    }

    /// Parts of a span on the critical path, in time order.
    pub fn critical_segments(&self, index: SpanIndex) -> &[Segment] {
        let index = index as usize;
        &self.segments[self.segment_starts[index] as usize..self.segment_starts[index + 1] as usize]
    }

    /// The span that stands for the trace: the longest of the true roots, else of the orphans.
    pub fn main_root(&self) -> Option<SpanIndex> {
        self.roots.iter().copied().max_by_key(|index| {
            let node = self.node(*index);
            (!node.orphan, node.end - node.start, std::cmp::Reverse(node.start))
        })
    }

    /// Parents of a span, nearest first.
    pub fn ancestors(&self, index: SpanIndex) -> impl Iterator<Item = SpanIndex> + '_ {
        std::iter::successors(self.node(index).parent, |parent| self.node(*parent).parent)
    }

    /// The span's stage, or its nearest ancestor's.
    pub fn stage(&self, index: SpanIndex) -> Option<&str> {
        std::iter::once(index)
            .chain(self.ancestors(index))
            .find_map(|at| self.span(at).stage.as_deref().filter(|stage| !stage.is_empty()))
    }

    /// Intervals of a span that no child covers, ascending.
    pub fn self_intervals(&self, index: SpanIndex) -> Vec<(i64, i64)> {
        uncovered(&self.nodes, self.node(index), self.children(index))
    }

    /// How many spans name a parent that is not there.
    pub fn orphans(&self) -> usize {
        self.nodes.iter().filter(|node| node.orphan).count()
    }

    fn told_segments(&self) -> Option<Vec<Segment>> {
        let told = &self.detail.critical_path_segments;
        if told.is_empty() || !self.detail.clock_shifts.is_empty() {
            return None;
        }
        let to_segment = |part: &PathSegment| {
            let span = self.find(&part.span_id)?;
            let node = self.node(span);
            let start = part.start_unix_nano.0.saturating_sub(self.start_unix_nano);
            let end = start.saturating_add(part.duration_nano.0);
            let (start, end) = (start.max(node.start), end.min(node.end));
            (start < end).then_some(Segment { span, start, end })
        };
        Some(told.iter().filter_map(to_segment).collect())
    }

    fn sum_up(&mut self) {
        let mut indices: HashMap<&str, u32> = HashMap::new();
        let mut services: Vec<ServicePart> = Vec::new();
        for index in &self.order {
            let span = &self.spans[*index as usize];
            let slot = *indices.entry(&span.service).or_insert_with(|| {
                services.push(ServicePart { name: span.service.clone(), spans: 0, errors: 0, self_time: 0 });
                services.len() as u32 - 1
            });
            let from_children = {
                let node = &self.nodes[*index as usize];
                let (from, to) = node.children;
                uncovered(&self.nodes, node, &self.children[from as usize..to as usize])
                    .iter()
                    .map(|(a, b)| b - a)
                    .sum()
            };
            let node = &mut self.nodes[*index as usize];
            node.service = slot;
            node.self_time = span.self_time_nano.map_or(from_children, |nanos| nanos.0.max(0));
            let part = &mut services[slot as usize];
            part.spans += 1;
            part.errors += u32::from(span.is_error());
            part.self_time += node.self_time;
            self.errors += u32::from(span.is_error());
        }
        self.services = services;
        for position in (0..self.order.len()).rev() {
            let index = self.order[position] as usize;
            let below = self.nodes[index].errors_below + u32::from(self.spans[index].is_error());
            if let Some(parent) = self.nodes[index].parent {
                self.nodes[parent as usize].errors_below += below;
            }
        }
    }

    /// The server's path, where it can be drawn: with adjusted clocks its segments do not fit the reported times, and
    /// then they are computed here and only its choice of spans is kept. Without an answer all is computed here.
    fn find_critical_path(&mut self) {
        let mut segments = match self.told_segments() {
            Some(segments) => segments,
            None => critical::path(self),
        };
        let named: Vec<SpanIndex> = self.detail.critical_path.iter().filter_map(|id| self.find(id)).collect();
        if named.is_empty() {
            for segment in &segments {
                self.nodes[segment.span as usize].critical = true;
            }
        } else {
            for index in named {
                self.nodes[index as usize].critical = true;
            }
            segments.retain(|segment| self.nodes[segment.span as usize].critical);
        }
        segments.sort_unstable_by_key(|segment| (segment.span, segment.start));
        let mut starts = vec![0_u32; self.nodes.len() + 1];
        for segment in &segments {
            starts[segment.span as usize + 1] += 1;
        }
        for index in 1..starts.len() {
            starts[index] += starts[index - 1];
        }
        self.segment_starts = starts;
        self.segments = segments;
    }
}

fn node_of(index: usize, span: &Span, by_id: &HashMap<String, SpanIndex>, origin: i64) -> Node {
    let has_parent = !span.parent_span_id.bytes().all(|digit| digit == b'0');
    let parent =
        by_id.get(&span.parent_span_id).copied().filter(|parent| has_parent && *parent as usize != index);
    let (start, end) = span.interval();
    Node {
        parent,
        children: (0, 0),
        depth: 0,
        subtree: 1,
        position: u32::MAX,
        start: start.saturating_sub(origin),
        end: end.saturating_sub(origin),
        self_time: 0,
        service: 0,
        critical: false,
        orphan: has_parent && parent.is_none(),
        errors_below: 0,
    }
}

/// Groups children under their parents, both by start time; returns roots and the child list.
fn link(nodes: &mut [Node]) -> (Vec<SpanIndex>, Vec<SpanIndex>) {
    let mut by_start: Vec<SpanIndex> = (0..nodes.len() as SpanIndex).collect();
    by_start.sort_by_key(|index| {
        let node = &nodes[*index as usize];
        (node.start, std::cmp::Reverse(node.end))
    });
    let mut counts = vec![0_u32; nodes.len()];
    for node in nodes.iter() {
        if let Some(parent) = node.parent {
            counts[parent as usize] += 1;
        }
    }
    let mut next = 0;
    for (node, count) in nodes.iter_mut().zip(&counts) {
        node.children = (next, next);
        next += count;
    }
    let mut children = vec![0; next as usize];
    let mut roots = Vec::new();
    for index in by_start {
        match nodes[index as usize].parent {
            None => roots.push(index),
            Some(parent) => {
                let range = &mut nodes[parent as usize].children;
                children[range.1 as usize] = index;
                range.1 += 1;
            }
        }
    }
    (roots, children)
}

/// Visits every span once and fills in depth, position and subtree size. A cycle is entered at its earliest span, which
/// becomes a root; the edge that closes it is dropped.
fn depth_first(nodes: &mut [Node], roots: &mut Vec<SpanIndex>, children: &mut [SpanIndex]) -> Vec<SpanIndex> {
    let mut order = Vec::with_capacity(nodes.len());
    let visit_from = |root: SpanIndex,
                      nodes: &mut [Node],
                      children: &[SpanIndex],
                      order: &mut Vec<SpanIndex>| {
        let mut stack = vec![(root, 0_u32)];
        while let Some((index, depth)) = stack.pop() {
            let node = &mut nodes[index as usize];
            node.depth = depth;
            node.position = order.len() as u32;
            order.push(index);
            let (from, to) = node.children;
            stack.extend(children[from as usize..to as usize].iter().rev().map(|child| (*child, depth + 1)));
        }
    };
    for root in roots.iter() {
        visit_from(*root, nodes, children, &mut order);
    }
    if order.len() < nodes.len() {
        let mut rest: Vec<SpanIndex> = (0..nodes.len() as SpanIndex)
            .filter(|index| nodes[*index as usize].position == u32::MAX)
            .collect();
        rest.sort_by_key(|index| nodes[*index as usize].start);
        for index in rest {
            if nodes[index as usize].position == u32::MAX {
                cut_from_parent(index, nodes, children);
                roots.push(index);
                visit_from(index, nodes, children, &mut order);
            }
        }
    }
    for index in order.iter().rev() {
        let size = nodes[*index as usize].subtree;
        if let Some(parent) = nodes[*index as usize].parent {
            nodes[parent as usize].subtree += size;
        }
    }
    order
}

/// Makes a root of a span that is on a cycle.
fn cut_from_parent(index: SpanIndex, nodes: &mut [Node], children: &mut [SpanIndex]) {
    nodes[index as usize].orphan = true;
    let Some(parent) = nodes[index as usize].parent.take() else {
        return;
    };
    let range = &mut nodes[parent as usize].children;
    let siblings = &mut children[range.0 as usize..range.1 as usize];
    if let Some(place) = siblings.iter().position(|sibling| *sibling == index) {
        siblings[place..].rotate_left(1);
        range.1 -= 1;
    }
}

/// What of a span its children leave uncovered. Children come by start time.
fn uncovered(nodes: &[Node], node: &Node, children: &[SpanIndex]) -> Vec<(i64, i64)> {
    let mut out = Vec::new();
    let mut cursor = node.start;
    for child in children {
        let child = &nodes[*child as usize];
        if child.start >= node.end {
            break;
        }
        if child.start > cursor {
            out.push((cursor, child.start));
        }
        cursor = cursor.max(child.end);
    }
    if cursor < node.end {
        out.push((cursor, node.end));
    }
    out
}

#[cfg(test)]
mod tests {
    use crate::testing::{any_trace, large_trace, span, trace};
    use proptest::prelude::*;

    proptest! {
        /// Scenario: any answer, with missing parents, repeated ids and cycles. Guarantee: every span is in `order`
        /// once, right after its parent's position and inside its subtree; depths and sizes agree; self time lies
        /// between nothing and the duration.
        #[test]
        fn order_is_a_forest(model in any_trace()) {
            let mut seen = vec![false; model.spans.len()];
            for (position, index) in model.order.iter().enumerate() {
                let node = model.node(*index);
                prop_assert!(!std::mem::replace(&mut seen[*index as usize], true));
                prop_assert_eq!(node.position as usize, position);
                match node.parent {
                    None => prop_assert_eq!(node.depth, 0),
                    Some(parent) => {
                        let parent = model.node(parent);
                        prop_assert_eq!(node.depth, parent.depth + 1);
                        prop_assert!(parent.position < node.position);
                        prop_assert!(node.position + node.subtree <= parent.position + parent.subtree);
                    }
                }
                prop_assert!(node.self_time >= 0 && node.self_time <= node.end - node.start);
                prop_assert!(node.start >= 0 && node.end <= model.duration);
            }
            prop_assert!(seen.into_iter().all(|seen| seen));
            let in_roots: u32 = model.roots.iter().map(|root| model.node(*root).subtree).sum();
            prop_assert_eq!(in_roots as usize, model.spans.len());
            prop_assert_eq!(model.services.iter().map(|part| part.spans as usize).sum::<usize>(), model.spans.len());
        }
    }

    /// Scenario: two overlapping children and one that outlives its parent. Guarantee: overlap is counted once, and
    /// nothing beyond the parent's end.
    #[test]
    fn self_time_is_overlap_aware() {
        let model =
            trace(vec![span(1, 0, 0, 100), span(2, 1, 10, 30), span(3, 1, 20, 40), span(4, 1, 90, 50)]);
        assert_eq!(model.node(0).self_time, 10 + 30);
        assert_eq!(model.self_intervals(0), [(0, 10), (60, 90)]);
        assert_eq!(model.duration, 140);
    }

    /// Scenario: 10,000 spans. Guarantee: indexed, with self times and critical path, fast enough to be invisible; and
    /// a chain of 100,000 does not overflow the stack.
    #[test]
    fn large_traces() {
        large_trace(10_000);
        let started = std::time::Instant::now();
        let model = large_trace(10_000);
        let elapsed = started.elapsed();
        assert_eq!(model.order.len(), 10_000);
        eprintln!("10,000 spans built and indexed in {elapsed:?}");
        let chain = trace((1..=100_000).map(|id| span(id, id - 1, id as i64, 200_000)).collect());
        assert_eq!(chain.node(99_999).depth, 99_999);
    }
}
