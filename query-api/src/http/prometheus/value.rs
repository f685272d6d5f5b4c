//! Series and their values.

use std::{fmt::Write as _, sync::Arc};

use infertrace_analytics::sketch::Sketch;

/// Label of a metric's name.
pub(super) const NAME: &str = "__name__";

/// Names and values in the order of names; none is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Labels(Arc<[(Arc<str>, Arc<str>)]>);

impl Labels {
    /// Labels of these pairs; empty values count as absent.
    pub(super) fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let pairs = pairs.into_iter().filter(|(_, value)| !value.is_empty());
        let mut pairs: Vec<_> = pairs.map(|(name, value)| (name.into(), value.into())).collect();
        pairs.sort_unstable();
        Self(pairs.into())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Those whose name `wanted` takes.
    pub(super) fn filtered(&self, wanted: impl Fn(&str) -> bool) -> Self {
        Self(self.0.iter().filter(|(name, _)| wanted(name)).cloned().collect())
    }

    pub(super) fn without_name(&self) -> Self {
        self.filtered(|name| name != NAME)
    }

    /// As PromQL writes them.
    pub(super) fn shown(&self) -> String {
        let mut text = String::from("{");
        for (index, (name, value)) in self.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            let _ = write!(text, "{comma}{name}={value:?}");
        }
        text.push('}');
        text
    }
}

/// Many values as one: a merged sketch.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Histogram {
    pub(super) sketch: Arc<Sketch>,
    /// What a whole number of the sketch is in the metric's unit.
    pub(super) scale: f64,
    /// What one value counts: 1, or a part of it in a rate.
    pub(super) weight: f64,
}

impl Histogram {
    pub(super) fn count(&self) -> f64 {
        self.sketch.count() as f64 * self.weight
    }

    pub(super) fn sum(&self) -> f64 {
        self.sketch.sum() as f64 * self.scale * self.weight
    }

    pub(super) fn mean(&self) -> f64 {
        self.sketch.mean().map_or(f64::NAN, |mean| mean * self.scale)
    }

    /// As Prometheus': outside of 0 to 1 an infinity, of nothing NaN.
    pub(super) fn quantile(&self, quantile: f64) -> f64 {
        match quantile {
            quantile if quantile.is_nan() => f64::NAN,
            quantile if quantile < 0.0 => f64::NEG_INFINITY,
            quantile if quantile > 1.0 => f64::INFINITY,
            quantile => self.sketch.quantile(quantile).map_or(f64::NAN, |value| value * self.scale),
        }
    }

    /// Share of values above `lower` and not above `upper`, to the accuracy of a bin.
    pub(super) fn fraction(&self, lower: f64, upper: f64) -> f64 {
        if self.sketch.count() == 0 || lower.is_nan() || upper.is_nan() {
            return f64::NAN;
        }
        // A value below 0 there is none; the cast of what is too large saturates.
        let above = |limit: f64| match limit {
            limit if limit < 0.0 => 1.0,
            limit => self.sketch.share_above((limit / self.scale).round() as u64),
        };
        (above(lower) - above(upper)).max(0.0)
    }

    /// Both as one; `None` where their values do not count the same.
    pub(super) fn plus(&self, other: &Self) -> Option<Self> {
        if self.scale != other.scale || self.weight != other.weight {
            return None;
        }
        let mut sketch = Sketch::clone(&self.sketch);
        sketch.merge(&other.sketch);
        Some(Self { sketch: Arc::new(sketch), ..*self })
    }

    pub(super) fn times(&self, factor: f64) -> Self {
        Self { sketch: Arc::clone(&self.sketch), weight: self.weight * factor, ..*self }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Number(f64),
    Histogram(Histogram),
}

/// A value of a series at the moment that is looked at.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    pub(super) labels: Labels,
    pub(super) value: Value,
}

/// What an expression is at a moment.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Outcome {
    Scalar(f64),
    Vector(Vec<Sample>),
}
