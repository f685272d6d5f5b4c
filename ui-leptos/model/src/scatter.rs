//! Latency scatter of the listed traces: start time across, duration (logarithmic) upwards.

use crate::format;
use crate::scale::{LogAxis, Tick};
use crate::summary::TraceSummary;

/// A trace in the plot.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// 0 left, 1 right.
    pub x: f64,
    /// 0 bottom, 1 top.
    pub y: f64,
    /// Failed.
    pub error: bool,
    /// Index in the list.
    pub index: usize,
}

/// The plot.
#[derive(Clone, Debug, PartialEq)]
pub struct Scatter {
    /// In the list's order.
    pub points: Vec<Point>,
    /// Durations.
    pub axis: LogAxis,
    /// Milliseconds since 1970 at the left edge.
    pub start_ms: i64,
    /// At the right edge, after `start_ms`.
    pub end_ms: i64,
}

impl Scatter {
    /// Lays out a list.
    pub fn build(traces: &[TraceSummary]) -> Self {
        let millis = |trace: &TraceSummary| trace.start_unix_nano.0.div_euclid(1_000_000);
        let first = traces.iter().map(millis).min();
        let last = traces.iter().map(millis).max();
        let (mut start_ms, mut end_ms) = match (first, last) {
            (Some(first), Some(last)) => (first, last),
            _ => (0, 1_000),
        };
        let air = ((end_ms - start_ms) / 50).max(500);
        start_ms -= air;
        end_ms += air;
        let axis = LogAxis::covering(traces.iter().map(|trace| trace.duration_nano.0));
        let width = (end_ms - start_ms) as f64;
        let points = traces
            .iter()
            .enumerate()
            .map(|(index, trace)| Point {
                x: (millis(trace) - start_ms) as f64 / width,
                y: axis.fraction(trace.duration_nano.0),
                error: trace.is_error(),
                index,
            })
            .collect();
        Self { points, axis, start_ms, end_ms }
    }

    /// Marks of the time axis at round times of day.
    pub fn time_ticks(&self, most: i64, offset_minutes: i32) -> Vec<Tick> {
        const STEPS: [i64; 19] = [
            1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400,
            604_800,
        ];
        let width = (self.end_ms - self.start_ms).max(1);
        let rough = width / 1_000 / most.max(1);
        let step =
            STEPS.into_iter().find(|step| *step > rough).unwrap_or(rough / 86_400 * 86_400 + 86_400) * 1_000;
        let shift = i64::from(offset_minutes) * 60_000;
        let mut at = (self.start_ms + shift).div_euclid(step) * step + step - shift;
        let mut out = Vec::new();
        while at < self.end_ms {
            let date = format::civil(at, offset_minutes);
            let label = if step >= 86_400_000 || (width > 86_400_000 && date.second_of_day == 0) {
                format!("{:02}-{:02}", date.month, date.day)
            } else {
                format::clock(date.second_of_day, step < 60_000)
            };
            out.push(Tick { fraction: (at - self.start_ms) as f64 / width as f64, label });
            at += step;
        }
        out
    }

    /// The point nearest to a place in a plot of the given size, within `reach` pixels. Distances are in pixels from
    /// the left and the top.
    pub fn nearest(&self, x: f64, y: f64, width: f64, height: f64, reach: f64) -> Option<usize> {
        self.points
            .iter()
            .map(|point| ((point.x * width - x).hypot((1.0 - point.y) * height - y), point.index))
            .filter(|(distance, _)| *distance <= reach)
            .min_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, index)| index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Nanos;
    use proptest::prelude::*;

    proptest! {
        /// Scenario: any list. Guarantee: every trace is a point inside the plot, and marks of time ascend within it.
        #[test]
        fn points_are_inside(rows in proptest::collection::vec((0_i64..2_000_000_000, 0_i64..100_000_000_000), 0..50), offset in -720_i32..=720) {
            let traces: Vec<TraceSummary> = rows.iter().map(|(start_ms, duration)| TraceSummary {
                start_unix_nano: Nanos(start_ms * 1_000_000),
                duration_nano: Nanos(*duration),
                ..TraceSummary::default()
            }).collect();
            let scatter = Scatter::build(&traces);
            prop_assert_eq!(scatter.points.len(), traces.len());
            prop_assert!(scatter.points.iter().all(|point| (0.0..=1.0).contains(&point.x) && (0.0..=1.0).contains(&point.y)));
            let marks = scatter.time_ticks(6, offset);
            prop_assert!(marks.len() <= 9, "{} marks", marks.len());
            prop_assert!(marks.windows(2).all(|pair| pair[0].fraction < pair[1].fraction));
            prop_assert!(marks.iter().all(|mark| (0.0..=1.0).contains(&mark.fraction)));
        }
    }

    /// Scenario: a pointer near one of two points. Guarantee: that one, and none when far from both.
    #[test]
    fn nearest_point() {
        let traces: Vec<TraceSummary> = [(0, 1_000_000), (60_000, 900_000_000)]
            .into_iter()
            .map(|(start_ms, duration): (i64, i64)| TraceSummary {
                start_unix_nano: Nanos(start_ms * 1_000_000),
                duration_nano: Nanos(duration),
                ..TraceSummary::default()
            })
            .collect();
        let scatter = Scatter::build(&traces);
        let second = &scatter.points[1];
        let (x, y) = (second.x * 800.0 + 3.0, (1.0 - second.y) * 200.0 - 2.0);
        assert_eq!(scatter.nearest(x, y, 800.0, 200.0, 12.0), Some(1));
        assert_eq!(scatter.nearest(400.0, 100.0, 800.0, 200.0, 12.0), None);
    }
}
