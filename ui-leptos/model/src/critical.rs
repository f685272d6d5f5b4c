//! The critical path: at every moment of a trace, the one span whose end everything after had to wait for.
//!
//! Walks back from the end. Inside a span, the child that ended last is what the span waited for, so the walk goes into
//! it at its end and comes back at its start; time that no child accounts for is the span's own. A child that outlives
//! the moment the walk is at is clipped to it, so parallel and asynchronous children are counted once.
//!
//! Invariant: segments never overlap in time and, with one root, add up to that root's duration.

use crate::trace::{SpanIndex, TraceModel};

/// A stretch of time in which a span is what the trace waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The span.
    pub span: SpanIndex,
    /// Nanoseconds from the start of the trace.
    pub start: i64,
    /// After `start`.
    pub end: i64,
}

/// A span that the walk is inside of.
struct Frame {
    span: SpanIndex,
    /// Children by end, the last one at the back.
    pending: Vec<SpanIndex>,
    /// Everything from here on is accounted for.
    cursor: i64,
}

/// All segments, latest first.
pub(crate) fn path(model: &TraceModel) -> Vec<Segment> {
    let mut out = Vec::new();
    let Some(root) = model.main_root() else {
        return out;
    };
    let mut stack = vec![frame(model, root, model.node(root).end)];
    while let Some(top) = stack.last_mut() {
        let start = model.node(top.span).start;
        let Some(child) = next_child(model, top) else {
            push(&mut out, top.span, start, top.cursor);
            stack.pop();
            if let Some(parent) = stack.last_mut() {
                parent.cursor = parent.cursor.min(start.max(model.node(parent.span).start));
            }
            continue;
        };
        let child_end = model.node(child).end.min(top.cursor);
        push(&mut out, top.span, child_end, top.cursor);
        top.cursor = child_end;
        stack.push(frame(model, child, child_end));
    }
    clip(&mut out);
    out
}

fn frame(model: &TraceModel, span: SpanIndex, cursor: i64) -> Frame {
    let mut pending = model.children(span).to_vec();
    pending.sort_by_key(|child| model.node(*child).end);
    Frame { span, pending, cursor }
}

/// The child that ended last before the cursor, or that is cut by it, with some time of its own inside the span.
fn next_child(model: &TraceModel, frame: &mut Frame) -> Option<SpanIndex> {
    let start = model.node(frame.span).start;
    while let Some(child) = frame.pending.pop() {
        let node = model.node(child);
        if node.start < frame.cursor && node.end > start && node.end > node.start {
            return Some(child);
        }
    }
    None
}

fn push(out: &mut Vec<Segment>, span: SpanIndex, start: i64, end: i64) {
    if start < end {
        out.push(Segment { span, start, end });
    }
}

/// Makes segments disjoint where skewed children reach before their parents.
fn clip(segments: &mut Vec<Segment>) {
    let mut cursor = i64::MAX;
    segments.retain_mut(|segment| {
        segment.end = segment.end.min(cursor);
        let kept = segment.start < segment.end;
        if kept {
            cursor = segment.start;
        }
        kept
    });
}

/// A share of the critical path.
#[derive(Clone, Debug, PartialEq)]
pub struct Share {
    /// Stage, or service where no span says its stage.
    pub name: String,
    /// Whether `name` is a stage and not a service.
    pub is_stage: bool,
    /// Nanoseconds on the critical path.
    pub time: i64,
    /// Of the whole path, 0–1.
    pub ratio: f64,
}

/// How the critical path divides among stages, greatest first.
pub fn shares(model: &TraceModel) -> Vec<Share> {
    let mut sums: Vec<(String, bool, i64)> = Vec::new();
    for segment in &model.segments {
        let (name, is_stage) = match model.stage(segment.span) {
            Some(stage) => (stage, true),
            None => (model.span(segment.span).service.as_str(), false),
        };
        let time = segment.end - segment.start;
        match sums.iter_mut().find(|entry| entry.0 == name && entry.1 == is_stage) {
            Some(entry) => entry.2 += time,
            None => sums.push((name.to_owned(), is_stage, time)),
        }
    }
    let total: i64 = sums.iter().map(|entry| entry.2).sum();
    let mut out: Vec<Share> = sums
        .into_iter()
        .map(|(name, is_stage, time)| Share {
            name,
            is_stage,
            time,
            ratio: time as f64 / total.max(1) as f64,
        })
        .collect();
    out.sort_by(|a, b| b.time.cmp(&a.time).then_with(|| a.name.cmp(&b.name)));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{ClockShift, Nanos, PathSegment, TraceDetail};
    use crate::testing::{any_trace, large_trace, span, trace};
    use proptest::prelude::*;

    proptest! {
        /// Scenario: any trace. Guarantee: segments are disjoint, inside their span, and cover the main root from its
        /// start to its end (or more, when a skewed child starts earlier).
        #[test]
        fn segments_tile_the_root(model in any_trace()) {
            let mut segments = model.segments.clone();
            segments.sort_by_key(|segment| segment.start);
            for segment in &segments {
                let node = model.node(segment.span);
                prop_assert!(node.start <= segment.start && segment.end <= node.end && segment.start < segment.end);
                prop_assert!(node.critical);
            }
            prop_assert!(segments.windows(2).all(|pair| pair[0].end <= pair[1].start));
            if let Some(root) = model.main_root() {
                let root = model.node(root);
                let covered: i64 = segments.iter().map(|segment| segment.end - segment.start).sum();
                prop_assert!(covered >= root.end - root.start, "{} of {}", covered, root.end - root.start);
            }
            let total: f64 = shares(&model).iter().map(|share| share.ratio).sum();
            prop_assert!(model.segments.is_empty() || (total - 1.0).abs() < 1e-9);
        }
    }

    /// Scenario: two parallel children, then one after them. Guarantee: the longer parallel child and the later one are
    /// critical, the shorter is not, and gaps belong to the parent.
    #[test]
    fn parallel_children_count_once() {
        let model = trace(vec![span(1, 0, 0, 100), span(2, 1, 5, 20), span(3, 1, 5, 45), span(4, 1, 60, 30)]);
        let marked: Vec<bool> = model.nodes.iter().map(|node| node.critical).collect();
        assert_eq!(marked, [true, false, true, true]);
        let own: Vec<(i64, i64)> =
            model.critical_segments(0).iter().map(|segment| (segment.start, segment.end)).collect();
        assert_eq!(own, [(0, 5), (50, 60), (90, 100)]);
    }

    /// Scenario: the API names the path itself. Guarantee: only spans that it names are marked.
    #[test]
    fn the_servers_answer_wins() {
        let mut detail = crate::api::TraceDetail::default();
        detail.spans = vec![span(1, 0, 0, 100), span(2, 1, 10, 80)];
        detail.critical_path = vec![format!("{:016x}", 1)];
        let model = crate::trace::TraceModel::build(detail);
        assert!(model.node(0).critical && !model.node(1).critical);
        assert!(model.segments.iter().all(|segment| segment.span == 0));
    }

    /// Scenario: the API gives the path's parts too, one of them beyond its span; and once with adjusted clocks.
    /// Guarantee: they are drawn as given, clipped to the span; with adjusted clocks they are computed here.
    #[test]
    fn the_servers_segments_win() {
        let told = |clock_shifts| {
            let part = |id: u64, start: i64, duration| PathSegment {
                span_id: format!("{id:016x}"),
                start_unix_nano: Nanos(1_700_000_000_000_000_000 + start),
                duration_nano: Nanos(duration),
            };
            crate::trace::TraceModel::build(TraceDetail {
                spans: vec![span(1, 0, 0, 100), span(2, 1, 10, 80)],
                critical_path: vec![format!("{:016x}", 1)],
                critical_path_segments: vec![part(1, 0, 40), part(1, 60, 80)],
                clock_shifts,
                ..TraceDetail::default()
            })
        };
        let own = |model: &TraceModel| -> Vec<(i64, i64)> {
            model.critical_segments(0).iter().map(|segment| (segment.start, segment.end)).collect()
        };
        assert_eq!(own(&told(Vec::new())), [(0, 40), (60, 100)]);
        assert_eq!(own(&told(vec![ClockShift::default()])), [(0, 10), (90, 100)]);
    }

    /// Scenario: 10,000 spans. Guarantee: shares are found at once.
    #[test]
    fn large_trace_has_a_path() {
        assert!(!shares(&large_trace(10_000)).is_empty());
    }
}
