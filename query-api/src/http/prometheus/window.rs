//! Values of a series at one moment after another: sums of counters, merges of sketches.
//!
//! Sketches can be merged but not taken away again, so what slides is a queue of two stacks: each sketch is merged twice,
//! however many steps it is part of.

use infertrace_analytics::sketch::Sketch;

use super::source::Points;
use crate::insights::rollups::Packed;

/// The points of a series, and how far they were looked at.
pub(super) enum Window {
    Numbers(Numbers),
    Sketches(Sketches),
}

impl Window {
    pub(super) fn new(points: Points) -> Self {
        match points {
            Points::Numbers(points) => Self::Numbers(Numbers::new(points)),
            Points::Sketches(points) => Self::Sketches(Sketches::new(points)),
        }
    }
}

/// Sums of points, by the difference of two sums from the start.
pub(super) struct Numbers {
    ends_ns: Vec<i64>,
    /// Of all points before; one more than there are points.
    sums: Vec<f64>,
}

impl Numbers {
    fn new(points: Vec<(i64, f64)>) -> Self {
        let mut sums = Vec::with_capacity(points.len() + 1);
        let mut sum = 0.0;
        sums.push(sum);
        for (_, value) in &points {
            sum += value;
            sums.push(sum);
        }
        Self { ends_ns: points.into_iter().map(|(end_ns, _)| end_ns).collect(), sums }
    }

    /// Sum of the points after `from_ns` and not after `until_ns`; `None` where there is none.
    pub(super) fn sum(&self, from_ns: i64, until_ns: i64) -> Option<f64> {
        let first = self.ends_ns.partition_point(|end_ns| *end_ns <= from_ns);
        let last = self.ends_ns.partition_point(|end_ns| *end_ns <= until_ns);
        (first < last).then(|| self.sums[last] - self.sums[first])
    }
}

/// Merges of points; moments must not go back.
pub(super) struct Sketches {
    points: Vec<(i64, Packed)>,
    /// First point that was not merged yet.
    next: usize,
    /// Each with everything above it in the stack, that is later.
    front: Vec<(i64, Sketch)>,
    back: Sketch,
    /// Points that `back` is made of.
    in_back: std::ops::Range<usize>,
}

impl Sketches {
    fn new(points: Vec<(i64, Packed)>) -> Self {
        Self { points, next: 0, front: Vec::new(), back: Sketch::default(), in_back: 0..0 }
    }

    /// All points after `from_ns` and not after `until_ns` as one; `None` where there is none.
    pub(super) fn merged(&mut self, from_ns: i64, until_ns: i64) -> Option<Sketch> {
        while let Some((end_ns, packed)) = self.points.get(self.next)
            && *end_ns <= until_ns
        {
            self.back.merge(&packed.unpack());
            self.next += 1;
            self.in_back.end = self.next;
        }
        self.forget_until(from_ns);
        let mut merged = self.front.last().map(|(_, sketch)| sketch.clone()).unwrap_or_default();
        merged.merge(&self.back);
        (!self.front.is_empty() || !self.in_back.is_empty()).then_some(merged)
    }

    fn forget_until(&mut self, from_ns: i64) {
        while self.front.last().is_some_and(|(end_ns, _)| *end_ns <= from_ns) {
            self.front.pop();
        }
        let first = self.in_back.start;
        if !self.front.is_empty() || self.in_back.is_empty() || self.points[first].0 > from_ns {
            return;
        }
        let kept = self.points[self.in_back.clone()].partition_point(|(end_ns, _)| *end_ns <= from_ns);
        let mut later = Sketch::default();
        for (end_ns, packed) in self.points[first + kept..self.in_back.end].iter().rev() {
            later.merge(&packed.unpack());
            self.front.push((*end_ns, later.clone()));
        }
        self.back = Sketch::default();
        self.in_back = self.next..self.next;
    }

    /// The last point after `from_ns` and not after `until_ns`, with those of the same end.
    pub(super) fn newest(&self, from_ns: i64, until_ns: i64) -> Option<Sketch> {
        let last = self.points.partition_point(|(end_ns, _)| *end_ns <= until_ns);
        let newest =
            self.points[..last].last().map(|(end_ns, _)| *end_ns).filter(|end_ns| *end_ns > from_ns)?;
        let mut merged = Sketch::default();
        for (_, packed) in self.points[..last].iter().rev().take_while(|(end_ns, _)| *end_ns == newest) {
            merged.merge(&packed.unpack());
        }
        Some(merged)
    }
}
