//! The whole trace in a strip of a few dozen pixel rows: one SVG path a service, so 10,000 spans are a dozen elements.

use std::fmt::Write;

use crate::trace::TraceModel;

/// What to draw for one service.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Index into [`TraceModel::services`]; `None` for failed spans, drawn on top.
    pub service: Option<u32>,
    /// Path data of horizontal strokes in a box of `width` × `rows`.
    pub path: String,
}

/// Paths for a box `width` units wide and `rows` high, each stroke in the middle of its row.
pub fn layers(model: &TraceModel, width: u32, rows: u32) -> Vec<Layer> {
    let services = model.services.len();
    let mut strokes: Vec<Vec<(u32, u32)>> = vec![Vec::new(); services + 1];
    let mut paths: Vec<String> = vec![String::new(); services + 1];
    let used_rows = rows.min(model.order.len() as u32).max(1);
    let scale = f64::from(width) / (model.duration as f64).max(1.0);
    let row_of =
        |position: usize| (position as u64 * u64::from(used_rows) / (model.order.len() as u64).max(1)) as u32;
    let row_height = f64::from(rows) / f64::from(used_rows);
    let flush = |row: u32, strokes: &mut Vec<Vec<(u32, u32)>>, paths: &mut Vec<String>| {
        let y = (f64::from(row) + 0.5) * row_height.min(4.0);
        for (strokes, path) in strokes.iter_mut().zip(paths.iter_mut()) {
            strokes.sort_unstable();
            let mut open: Option<(u32, u32)> = None;
            for (from, to) in strokes.drain(..) {
                match &mut open {
                    Some(stroke) if from <= stroke.1 + 1 => stroke.1 = stroke.1.max(to),
                    _ => {
                        if let Some((from, to)) = open.replace((from, to)) {
                            let _ = write!(path, "M{from} {y:.1}H{to}");
                        }
                    }
                }
            }
            if let Some((from, to)) = open {
                let _ = write!(path, "M{from} {y:.1}H{to}");
            }
        }
    };
    let mut row = 0;
    for (position, index) in model.order.iter().enumerate() {
        if row_of(position) != row {
            flush(row, &mut strokes, &mut paths);
            row = row_of(position);
        }
        let node = model.node(*index);
        let from = (node.start as f64 * scale) as u32;
        let to = ((node.end as f64 * scale).ceil() as u32).max(from + 1).min(width.max(from + 1));
        strokes[node.service as usize].push((from, to));
        if model.span(*index).is_error() {
            strokes[services].push((from, to));
        }
    }
    flush(row, &mut strokes, &mut paths);
    paths
        .into_iter()
        .enumerate()
        .filter(|(_, path)| !path.is_empty())
        .map(|(slot, path)| Layer { service: (slot < services).then_some(slot as u32), path })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{any_trace, large_trace, span, trace};
    use proptest::prelude::*;

    proptest! {
        /// Scenario: any trace. Guarantee: a layer a service at most, and one for errors.
        #[test]
        fn a_layer_a_service(model in any_trace()) {
            let layers = layers(&model, 1_000, 48);
            prop_assert!(layers.len() <= model.services.len() + 1);
            prop_assert_eq!(layers.iter().any(|layer| layer.service.is_none()), model.errors > 0);
        }
    }

    /// Scenario: 10,000 spans. Guarantee: the drawing does not grow with them.
    #[test]
    fn size_is_bounded() {
        let bytes: usize = layers(&large_trace(10_000), 1_000, 48).iter().map(|layer| layer.path.len()).sum();
        assert!(bytes < 200_000, "{bytes}");
    }

    /// Scenario: one span. Guarantee: one stroke over the whole width.
    #[test]
    fn one_span_fills_the_width() {
        let model = trace(vec![span(1, 0, 0, 100)]);
        assert_eq!(layers(&model, 200, 48)[0].path, "M0 2.0H200");
    }
}
