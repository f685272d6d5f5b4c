//! Rows of the waterfall: which spans are visible, which of them are on screen, what a bar is made of.
//!
//! Invariant: every span that no collapsed ancestor hides is in exactly one row, in the order of the tree.

use std::collections::HashSet;
use std::ops::Range;

use crate::scale::{Bar, Viewport};
use crate::trace::{SpanIndex, TraceModel};

/// Visible spans, top to bottom.
pub fn visible_rows(model: &TraceModel, collapsed: &HashSet<SpanIndex>) -> Vec<SpanIndex> {
    if collapsed.is_empty() {
        return model.order.clone();
    }
    let mut rows = Vec::with_capacity(model.order.len());
    let mut position = 0;
    while let Some(index) = model.order.get(position).copied() {
        rows.push(index);
        position += if collapsed.contains(&index) { model.node(index).subtree as usize } else { 1 };
    }
    rows
}

/// Rows to render: those on screen and `overscan` more at each side.
pub fn row_window(
    scroll_top: f64,
    height: f64,
    row_height: f64,
    rows: usize,
    overscan: usize,
) -> Range<usize> {
    let first = (scroll_top.max(0.0) / row_height) as usize;
    let on_screen = (height.max(0.0) / row_height).ceil() as usize + 1;
    let start = first.saturating_sub(overscan).min(rows);
    let end = first.saturating_add(on_screen).saturating_add(overscan).min(rows);
    start..end.max(start)
}

/// Where to scroll so that a row is on screen with air around it; `None` when it is already.
pub fn scroll_to(row: usize, scroll_top: f64, height: f64, row_height: f64) -> Option<f64> {
    let top = row as f64 * row_height;
    let air = (row_height * 2.0).min((height - row_height).max(0.0) / 2.0);
    if top - air < scroll_top {
        Some((top - air).max(0.0)).filter(|target| *target < scroll_top)
    } else if top + row_height + air > scroll_top + height {
        Some(top + row_height + air - height)
    } else {
        None
    }
}

/// Collapsed spans such that only the given number of levels shows.
pub fn collapse_to_depth(model: &TraceModel, levels: u32) -> HashSet<SpanIndex> {
    (0..model.nodes.len() as SpanIndex)
        .filter(|index| {
            let node = model.node(*index);
            node.subtree > 1 && node.depth + 1 >= levels
        })
        .collect()
}

/// Removes what hides a span.
pub fn reveal(model: &TraceModel, collapsed: &mut HashSet<SpanIndex>, index: SpanIndex) -> bool {
    let before = collapsed.len();
    for ancestor in model.ancestors(index) {
        collapsed.remove(&ancestor);
    }
    collapsed.len() != before
}

/// A bar and what is drawn inside of it, in percent of the timeline's width.
#[derive(Clone, Debug, PartialEq)]
pub struct RowBars {
    /// The span.
    pub whole: Bar,
    /// Time of its own.
    pub own: Vec<Bar>,
    /// On the critical path.
    pub critical: Vec<Bar>,
    /// Events, by the left edge.
    pub events: Vec<f64>,
    /// Whether the label fits to the right of the bar; else it goes left.
    pub label_right: bool,
}

/// Pieces nearer to each other than this share of the width are drawn as one.
const MERGE: f64 = 1.0 / 1_500.0;

/// What to draw for a span; `None` when it is out of sight. A collapsed span shows its own time as if expanded.
pub fn row_bars(model: &TraceModel, index: SpanIndex, viewport: Viewport) -> Option<RowBars> {
    let node = model.node(index);
    let whole = viewport.bar(node.start, node.end)?;
    let own = if node.subtree == 1 {
        vec![whole]
    } else {
        merged(viewport, model.self_intervals(index).into_iter())
    };
    let critical =
        merged(viewport, model.critical_segments(index).iter().map(|segment| (segment.start, segment.end)));
    let mut events: Vec<f64> = Vec::new();
    for event in &model.span(index).events {
        let at = viewport.fraction((event.time_unix_nano.0 - model.start_unix_nano) as f64);
        if (0.0..=1.0).contains(&at)
            && events.last().is_none_or(|last| (at * 100.0 - last).abs() > MERGE * 200.0)
        {
            events.push(at * 100.0);
        }
    }
    events.truncate(200);
    Some(RowBars { whole, own, critical, events, label_right: whole.left + whole.width < 82.0 })
}

fn merged(viewport: Viewport, intervals: impl Iterator<Item = (i64, i64)>) -> Vec<Bar> {
    let mut out: Vec<Bar> = Vec::new();
    for (start, end) in intervals {
        let Some(bar) = viewport.bar(start, end) else {
            continue;
        };
        match out.last_mut() {
            Some(last) if bar.left - (last.left + last.width) < MERGE * 100.0 => {
                last.width = bar.left + bar.width - last.left
            }
            _ => out.push(bar),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{any_trace, large_trace};
    use proptest::prelude::*;

    proptest! {
        /// Scenario: any trace with any spans collapsed. Guarantee: a span is in one row, or in none and then an
        /// ancestor is collapsed; rows keep the tree's order; revealing a span brings it in.
        #[test]
        fn every_span_in_one_row(model in any_trace(), picks in proptest::collection::hash_set(0_u32..40, 0..10)) {
            let mut collapsed: HashSet<SpanIndex> = picks.into_iter().filter(|pick| (*pick as usize) < model.spans.len()).collect();
            let rows = visible_rows(&model, &collapsed);
            for index in 0..model.spans.len() as SpanIndex {
                let times = rows.iter().filter(|row| **row == index).count();
                let hidden = model.ancestors(index).any(|ancestor| collapsed.contains(&ancestor));
                prop_assert_eq!(times, usize::from(!hidden));
            }
            prop_assert!(rows.windows(2).all(|pair| model.node(pair[0]).position < model.node(pair[1]).position));
            if let Some(last) = model.order.last() {
                reveal(&model, &mut collapsed, *last);
                prop_assert!(visible_rows(&model, &collapsed).contains(last));
            }
        }

        /// Scenario: any scroll position, beyond the end too. Guarantee: the window is inside the rows, holds every row
        /// on screen, and its size does not grow with the trace.
        #[test]
        fn window_is_bounded(top in -100.0_f64..400_000.0, height in 0.0_f64..2_000.0, rows in 0_usize..12_000) {
            let window = row_window(top, height, 28.0, rows, 8);
            prop_assert!(window.start <= window.end && window.end <= rows);
            prop_assert!(window.len() <= (height / 28.0).ceil() as usize + 1 + 16);
            let first = (top.max(0.0) / 28.0) as usize;
            let last = ((top.max(0.0) + height) / 28.0) as usize;
            for row in first..=last {
                prop_assert!(row >= rows || window.contains(&row));
            }
        }

        /// Scenario: a row anywhere. Guarantee: after scrolling as told it is wholly on screen.
        #[test]
        fn scrolling_shows_the_row(row in 0_usize..1_000, top in 0.0_f64..28_000.0, height in 60.0_f64..900.0) {
            let target = scroll_to(row, top, height, 28.0).unwrap_or(top);
            prop_assert!(row as f64 * 28.0 >= target - 1e-6 && (row + 1) as f64 * 28.0 <= target + height + 1e-6);
        }

        /// Scenario: any span in any viewport. Guarantee: its own time lies within its bar, and pieces ascend.
        #[test]
        fn pieces_lie_in_the_bar(model in any_trace(), from in 0.0_f64..900.0, width in 100.0_f64..500.0) {
            let viewport = Viewport { start: from, end: from + width };
            for index in 0..model.spans.len() as SpanIndex {
                let Some(bars) = row_bars(&model, index, viewport) else { continue };
                for pieces in [&bars.own, &bars.critical] {
                    prop_assert!(pieces.iter().all(|piece| piece.left >= bars.whole.left - 1e-6
                        && piece.left + piece.width <= bars.whole.left + bars.whole.width + 1e-6));
                    prop_assert!(pieces.windows(2).all(|pair| pair[0].left + pair[0].width <= pair[1].left));
                }
            }
        }
    }

    /// Scenario: 10,000 spans laid out for a screen, as each scroll and zoom does. Guarantee: under 5 ms.
    #[test]
    fn layout_is_quick() {
        let model = large_trace(10_000);
        let collapsed = HashSet::from([3, 4]);
        let mut best = std::time::Duration::MAX;
        for _ in 0..20 {
            let started = std::time::Instant::now();
            let rows = visible_rows(&model, &collapsed);
            let window = row_window(50_000.0, 900.0, 28.0, rows.len(), 8);
            let drawn =
                window.filter_map(|row| row_bars(&model, rows[row], Viewport::full(model.duration))).count();
            best = best.min(started.elapsed());
            assert!(drawn > 0);
        }
        eprintln!("10,000 spans laid out in {best:?}");
        assert!(best.as_millis() < 5, "{best:?}");
    }
}
