//! Scales: the visible part of a trace, tick marks with nice units, logarithmic duration axes.

use crate::format;

/// The part of a trace that is on screen, in nanoseconds from its start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Viewport {
    /// Left edge.
    pub start: f64,
    /// Right edge, above `start`.
    pub end: f64,
}

/// Where a bar lies, in percent of the viewport's width, clipped just outside of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bar {
    /// Left edge.
    pub left: f64,
    /// Width; the style sheet gives a least width in pixels.
    pub width: f64,
}

impl Bar {
    /// As a style attribute.
    pub fn style(self) -> String {
        format!("left:{:.4}%;width:{:.4}%", self.left, self.width)
    }
}

/// The narrowest range that can be zoomed to: 100 ns.
const NARROWEST: f64 = 100.0;

impl Viewport {
    /// A whole trace.
    pub fn full(duration: i64) -> Self {
        Self { start: 0.0, end: (duration as f64).max(1.0) }
    }

    /// A range inside a trace of the given duration, in either order, not narrower than 100 ns.
    pub fn within(duration: i64, from: f64, to: f64) -> Self {
        let full = Self::full(duration);
        let (from, to) = if from <= to { (from, to) } else { (to, from) };
        let width = (to - from).max(NARROWEST).min(full.end);
        let start = from.clamp(0.0, full.end - width);
        Self { start, end: start + width }
    }

    /// Width in nanoseconds.
    pub fn width(self) -> f64 {
        self.end - self.start
    }

    /// Time at a share of the width.
    pub fn time_at(self, fraction: f64) -> f64 {
        self.start + fraction * self.width()
    }

    /// Share of the width at a time.
    pub fn fraction(self, time: f64) -> f64 {
        (time - self.start) / self.width()
    }

    /// Scaled about a time; `factor` below 1 goes nearer.
    pub fn scaled(self, duration: i64, about: f64, factor: f64) -> Self {
        let width = (self.width() * factor).clamp(NARROWEST, (duration as f64).max(1.0).max(NARROWEST));
        let start = about - self.fraction(about) * width;
        Self::within(duration, start, start + width)
    }

    /// Moved by a share of its width, stopping at the trace's ends.
    pub fn panned(self, duration: i64, fraction: f64) -> Self {
        let width = self.width();
        let start = self.start + fraction * width;
        Self::within(duration, start, start + width)
    }

    /// Where a span is drawn; `None` when it is out of sight.
    pub fn bar(self, start: i64, end: i64) -> Option<Bar> {
        let left = self.fraction(start as f64);
        let right = self.fraction(end as f64);
        if right < 0.0 || left > 1.0 {
            return None;
        }
        let (left, right) = (left.max(-0.01), right.min(1.01));
        Some(Bar { left: left * 100.0, width: ((right - left) * 100.0).max(0.0) })
    }
}

/// A mark on an axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Tick {
    /// 0 at the start of the axis, 1 at its end.
    pub fraction: f64,
    /// Text.
    pub label: String,
}

/// The steps 1, 2, 5 × 10ⁿ nanoseconds, then seconds and minutes as clocks have them.
pub fn nice_step(rough: f64) -> f64 {
    let clock = [60.0, 120.0, 300.0, 600.0, 900.0, 1_800.0, 3_600.0, 7_200.0, 21_600.0, 43_200.0, 86_400.0]
        .map(|s| s * 1e9);
    if rough > 30e9
        && let Some(step) = clock.into_iter().find(|step| *step >= rough)
    {
        return step;
    }
    let power = 10_f64.powf(rough.max(1.0).log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|factor| factor * power)
        .into_iter()
        .find(|step| *step >= rough)
        .unwrap_or(10.0 * power)
}

/// Marks of a viewport, `most` at most, ascending, at round offsets from the start of the trace.
pub fn ticks(viewport: Viewport, most: usize) -> Vec<Tick> {
    let step = nice_step(viewport.width() / most.max(1) as f64);
    let first = (viewport.start / step).ceil();
    (0..=most)
        .map(|index| (first + index as f64) * step)
        .take_while(|time| *time <= viewport.end)
        .map(|time| Tick { fraction: viewport.fraction(time), label: tick_label(time, step) })
        .collect()
}

/// An offset with as many digits as the step between marks needs.
fn tick_label(time: f64, step: f64) -> String {
    let (unit, name) = match time {
        t if t >= 60e9
            && (step >= 3_600e9 || (step >= 60e9 && t < 86_400e9) || (step >= 1e9 && t < 3_600e9)) =>
        {
            return format::duration(t as i64);
        }
        t if t >= 1e9 => (1e9, "s"),
        t if t >= 1e6 => (1e6, "ms"),
        t if t >= 1e3 => (1e3, "µs"),
        0.0 => return "0".to_owned(),
        _ => (1.0, "ns"),
    };
    let digits = (unit / step).log10().ceil().clamp(0.0, 9.0) as usize;
    let text = format!("{:.digits$}", time / unit);
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}\u{a0}{name}")
}

/// A logarithmic axis over durations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogAxis {
    low: f64,
    high: f64,
}

impl LogAxis {
    /// Covers all values with a little air, one decade at least.
    pub fn covering(values: impl Iterator<Item = i64>) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values {
            let log = (value.max(1_000) as f64).log10();
            low = low.min(log);
            high = high.max(log);
        }
        if !low.is_finite() {
            (low, high) = (6.0, 9.0);
        }
        let air = ((high - low) * 0.06).max(0.08);
        (low, high) = (low - air, high + air);
        if high - low < 1.0 {
            let middle = (low + high) / 2.0;
            (low, high) = (middle - 0.5, middle + 0.5);
        }
        Self { low, high }
    }

    /// 0 at the low end, 1 at the high end.
    pub fn fraction(self, value: i64) -> f64 {
        (((value.max(1) as f64).log10() - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }

    /// The value at a fraction.
    pub fn value_at(self, fraction: f64) -> i64 {
        10_f64.powf(self.low + fraction * (self.high - self.low)) as i64
    }

    /// Marks at 1, 2, 5 of each decade, at 1, 3 or only at 1 where that would crowd, ascending.
    pub fn ticks(self, most: usize) -> Vec<Tick> {
        let decades = self.high - self.low;
        let factors: &[f64] = match most as f64 / decades {
            room if room >= 3.0 => &[1.0, 2.0, 5.0],
            room if room >= 2.0 => &[1.0, 3.0],
            _ => &[1.0],
        };
        let mut out = Vec::new();
        let mut decade = self.low.floor();
        while decade <= self.high {
            for factor in factors {
                let value = factor * 10_f64.powf(decade);
                let fraction = (value.log10() - self.low) / (self.high - self.low);
                if (0.0..=1.0).contains(&fraction) {
                    out.push(Tick { fraction, label: format::duration(value.round() as i64) });
                }
            }
            decade += 1.0;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Scenario: any visible range of any trace. Guarantee: marks ascend, lie inside, are few, and have distinct
        /// labels.
        #[test]
        fn ticks_ascend(duration in 1_i64..10_000_000_000_000, a in 0.0_f64..1.0, b in 0.0_f64..1.0, most in 2_usize..12) {
            let viewport = Viewport::within(duration, a * duration as f64, b * duration as f64);
            let marks = ticks(viewport, most);
            prop_assert!(marks.len() <= most + 1);
            for pair in marks.windows(2) {
                prop_assert!(pair[0].fraction < pair[1].fraction);
                prop_assert_ne!(&pair[0].label, &pair[1].label);
            }
            prop_assert!(marks.iter().all(|mark| (-1e-9..=1.0 + 1e-9).contains(&mark.fraction)));
        }

        /// Scenario: any sequence of zooming and moving. Guarantee: the viewport stays inside the trace and never
        /// empties.
        #[test]
        fn viewport_stays_inside(duration in 1_i64..1_000_000_000_000,
            steps in proptest::collection::vec((0.0_f64..1.0, 0.1_f64..8.0, -2.0_f64..2.0), 0..20)) {
            let mut viewport = Viewport::full(duration);
            for (at, factor, shift) in steps {
                viewport = viewport.scaled(duration, viewport.time_at(at), factor).panned(duration, shift);
                let full = Viewport::full(duration);
                prop_assert!(viewport.start >= 0.0 && viewport.end <= full.end * (1.0 + 1e-9), "{viewport:?}");
                prop_assert!(viewport.width() > 0.0);
            }
        }

        /// Scenario: any spans in any viewport. Guarantee: a bar is drawn exactly when span and viewport meet, and
        /// styles stay small.
        #[test]
        fn bars_are_clipped(start in 0_i64..1_000_000, length in 0_i64..1_000_000, from in 0.0_f64..900_000.0, width in 100.0_f64..100_000.0) {
            let viewport = Viewport { start: from, end: from + width };
            let bar = viewport.bar(start, start + length);
            let meets = (start + length) as f64 >= viewport.start && start as f64 <= viewport.end;
            prop_assert_eq!(bar.is_some(), meets);
            if let Some(bar) = bar {
                prop_assert!(bar.left >= -1.01 && bar.left + bar.width <= 101.01 && bar.width >= 0.0);
            }
        }

        /// Scenario: any durations. Guarantee: each lies on the axis, and the axis' marks ascend.
        #[test]
        fn log_axis(values in proptest::collection::vec(0_i64..1_000_000_000_000, 0..20)) {
            let axis = LogAxis::covering(values.iter().copied());
            prop_assert!(values.iter().all(|value| (0.0..=1.0).contains(&axis.fraction(*value))));
            let marks = axis.ticks(6);
            prop_assert!(marks.windows(2).all(|pair| pair[0].fraction < pair[1].fraction));
            prop_assert!(!marks.is_empty());
        }
    }

    /// Scenario: a zoomed range of a long trace. Guarantee: labels keep the digits that tell neighbours apart.
    #[test]
    fn labels_keep_their_digits() {
        let labels: Vec<String> = ticks(Viewport { start: 1_200_000_000.0, end: 1_200_900_000.0 }, 4)
            .into_iter()
            .map(|tick| tick.label.replace('\u{a0}', " "))
            .collect();
        assert_eq!(labels, ["1.2 s", "1.2005 s"]);
    }
}
