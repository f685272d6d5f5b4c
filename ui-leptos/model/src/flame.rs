//! Flame graph: self time by call path.
//!
//! Spans with the same path of (service, operation) from the root merge into one frame; a frame is as wide as the self
//! times beneath it add up to. Parallel work adds up too, so the whole can be longer than the trace took: the ratio of
//! the two is the trace's parallelism.

use std::collections::HashMap;

use crate::trace::{SpanIndex, TraceModel};

/// One frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// Index into [`TraceModel::services`].
    pub service: u32,
    /// Operation name.
    pub operation: String,
    /// 0 at the top.
    pub depth: u32,
    /// Frame above.
    pub parent: Option<usize>,
    /// Self time of the merged spans, nanoseconds.
    pub own: i64,
    /// Self time with everything beneath.
    pub total: i64,
    /// Merged spans.
    pub count: u32,
    /// Failed ones among them.
    pub errors: u32,
    /// The one with the most self time.
    pub example: SpanIndex,
    /// Offset of its left edge in nanoseconds of self time.
    pub left: i64,
}

/// All frames, parents before children.
#[derive(Clone, Debug, Default)]
pub struct Flame {
    /// Frames.
    pub frames: Vec<Frame>,
    /// Sum of all self times.
    pub total: i64,
    /// Greatest depth plus one.
    pub levels: u32,
}

impl Flame {
    /// Merges a trace.
    pub fn build(model: &TraceModel) -> Self {
        let mut frames: Vec<Frame> = Vec::new();
        let mut known: HashMap<(Option<usize>, u32, &str), usize> = HashMap::new();
        let mut frame_of = vec![0_usize; model.spans.len()];
        for index in &model.order {
            let node = model.node(*index);
            let span = model.span(*index);
            let parent = node.parent.map(|parent| frame_of[parent as usize]);
            let place = *known.entry((parent, node.service, &span.operation)).or_insert_with(|| {
                frames.push(Frame {
                    service: node.service,
                    operation: span.operation.clone(),
                    depth: node.depth,
                    parent,
                    own: 0,
                    total: 0,
                    count: 0,
                    errors: 0,
                    example: *index,
                    left: 0,
                });
                frames.len() - 1
            });
            frame_of[*index as usize] = place;
            let frame = &mut frames[place];
            frame.own += node.self_time;
            frame.total += node.self_time;
            frame.count += 1;
            frame.errors += u32::from(span.is_error());
            if node.self_time > model.node(frame.example).self_time {
                frame.example = *index;
            }
        }
        for place in (0..frames.len()).rev() {
            if let Some(parent) = frames[place].parent {
                frames[parent].total += frames[place].total;
            }
        }
        let total = frames.iter().filter(|frame| frame.parent.is_none()).map(|frame| frame.total).sum();
        let levels = frames.iter().map(|frame| frame.depth + 1).max().unwrap_or(0);
        place(&mut frames);
        Self { frames, total, levels }
    }

    /// Left edge and width of a frame as shares, when the graph is zoomed to `focus`; `None` when it is out of sight.
    /// Frames above the focus fill the width.
    pub fn extent(&self, frame: usize, focus: Option<usize>) -> Option<(f64, f64)> {
        let frame = &self.frames[frame];
        let (from, width) =
            focus.map_or((0, self.total), |focus| (self.frames[focus].left, self.frames[focus].total));
        let width = width.max(1) as f64;
        let left = ((frame.left - from) as f64 / width).max(0.0);
        let right = ((frame.left + frame.total - from) as f64 / width).min(1.0);
        (right > left).then_some((left, right - left))
    }

    /// Frames with the most self time, merged over paths: service, operation, self time, spans, example.
    pub fn hottest(&self, most: usize) -> Vec<Hot> {
        let mut sums: HashMap<(u32, &str), Hot> = HashMap::new();
        for frame in &self.frames {
            let hot = sums.entry((frame.service, &frame.operation)).or_insert_with(|| Hot {
                service: frame.service,
                operation: frame.operation.clone(),
                own: 0,
                count: 0,
                example: frame.example,
            });
            hot.own += frame.own;
            hot.count += frame.count;
        }
        let mut out: Vec<Hot> = sums.into_values().filter(|hot| hot.own > 0).collect();
        out.sort_by(|a, b| {
            b.own.cmp(&a.own).then_with(|| a.operation.cmp(&b.operation)).then(a.service.cmp(&b.service))
        });
        out.truncate(most);
        out
    }
}

/// An operation and its self time in a whole trace.
#[derive(Clone, Debug, PartialEq)]
pub struct Hot {
    /// Index into [`TraceModel::services`].
    pub service: u32,
    /// Operation name.
    pub operation: String,
    /// Self time, nanoseconds.
    pub own: i64,
    /// Spans.
    pub count: u32,
    /// A span to look at.
    pub example: SpanIndex,
}

/// Gives each frame its left edge: siblings side by side, widest first.
fn place(frames: &mut [Frame]) {
    let mut by_width: Vec<usize> = (0..frames.len()).collect();
    by_width.sort_by_key(|place| (frames[*place].depth, std::cmp::Reverse(frames[*place].total), *place));
    let mut used = vec![0_i64; frames.len()];
    let mut roots = 0;
    for place in by_width {
        let total = frames[place].total;
        match frames[place].parent {
            None => {
                frames[place].left = roots;
                roots += total;
            }
            Some(parent) => {
                frames[place].left = frames[parent].left + used[parent];
                used[parent] += total;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{any_trace, large_trace, span, trace};
    use proptest::prelude::*;

    proptest! {
        /// Scenario: any trace. Guarantee: every span is counted once, children fit inside their parent without
        /// overlap, and the total is the sum of self times.
        #[test]
        fn frames_nest(model in any_trace()) {
            let flame = Flame::build(&model);
            prop_assert_eq!(flame.frames.iter().map(|frame| frame.count as usize).sum::<usize>(), model.spans.len());
            prop_assert_eq!(flame.total, model.nodes.iter().map(|node| node.self_time).sum::<i64>());
            for (place, frame) in flame.frames.iter().enumerate() {
                let mut children: Vec<&Frame> = flame.frames.iter().filter(|child| child.parent == Some(place)).collect();
                children.sort_by_key(|child| (child.left, child.total));
                prop_assert_eq!(children.iter().map(|child| child.total).sum::<i64>() + frame.own, frame.total);
                prop_assert!(children.windows(2).all(|pair| pair[0].left + pair[0].total <= pair[1].left));
                prop_assert!(children.iter().all(|child| child.left >= frame.left && child.left + child.total <= frame.left + frame.total));
                if let Some((left, width)) = flame.extent(place, None) {
                    prop_assert!(left >= 0.0 && left + width <= 1.0 + 1e-9);
                }
            }
        }
    }

    /// Scenario: the same operation called three times under one parent. Guarantee: one frame with the sum; focus on it
    /// fills the width and hides siblings.
    #[test]
    fn same_paths_merge() {
        let mut spans = vec![span(1, 0, 0, 100)];
        for (id, start) in [(7, 10), (14, 30), (21, 50)] {
            let mut child = span(id, 1, start, 10);
            child.service = "engine".into();
            child.operation = "decode".into();
            spans.push(child);
        }
        spans.push(span(3, 1, 80, 10));
        let flame = Flame::build(&trace(spans));
        let decode = flame.frames.iter().position(|frame| frame.operation == "decode").expect("frame");
        assert_eq!((flame.frames[decode].count, flame.frames[decode].own), (3, 30));
        assert_eq!(flame.extent(decode, Some(decode)), Some((0.0, 1.0)));
        assert_eq!(flame.extent(0, Some(decode)), Some((0.0, 1.0)));
        let other = flame.frames.iter().position(|frame| frame.operation == "operation-3").expect("frame");
        assert_eq!(flame.extent(other, Some(decode)), None);
        assert_eq!(flame.hottest(1)[0].own, 60);
        assert!(Flame::build(&large_trace(10_000)).levels > 1);
    }
}
