//! Answers as Prometheus' JSON. Written as text: half a million points as a tree of values would be ten times their size.

use std::fmt::Write as _;

use hashbrown::HashMap;
use infertrace_analytics::sketch::ACCURACY;
use serde_json::{Map, Value as Json};

use super::{
    QueryError,
    value::{Histogram, Labels, Outcome, Sample, Value},
};

/// Points of an answer at most.
const MOST_POINTS: usize = 500_000;
/// Bytes of text after which an answer is refused.
const MOST_BYTES: usize = 64 << 20;

/// A number as Prometheus writes it.
fn number(value: f64) -> String {
    match value {
        value if value.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "+Inf".to_owned(),
        f64::NEG_INFINITY => "-Inf".to_owned(),
        value => value.to_string(),
    }
}

/// Seconds with milliseconds.
fn seconds(at_ns: i64) -> f64 {
    at_ns.div_euclid(1_000_000) as f64 / 1e3
}

fn metric(labels: &Labels) -> String {
    let labels: Map<String, Json> =
        labels.iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    Json::Object(labels).to_string()
}

/// Of a native histogram: bins are open to the left, zeros a bin of their own.
fn histogram(of: &Histogram) -> String {
    let gamma = (1.0 + ACCURACY) / (1.0 - ACCURACY);
    let (first, bins) = of.sketch.bins();
    let mut buckets = Vec::new();
    if of.sketch.zeros() > 0 {
        buckets.push(format!("[3,\"0\",\"0\",\"{}\"]", number(of.sketch.zeros() as f64 * of.weight)));
    }
    for (index, count) in bins.iter().enumerate().filter(|(_, count)| **count > 0) {
        let bin = first + index as i32;
        let bounds = [bin - 1, bin].map(|bin| number(gamma.powi(bin) * of.scale));
        let count = number(*count as f64 * of.weight);
        buckets.push(format!("[0,\"{}\",\"{}\",\"{count}\"]", bounds[0], bounds[1]));
    }
    let (count, sum) = (number(of.count()), number(of.sum()));
    format!("{{\"count\":\"{count}\",\"sum\":\"{sum}\",\"buckets\":[{}]}}", buckets.join(","))
}

fn point(at_ns: i64, value: &Value) -> String {
    match value {
        Value::Number(value) => format!("[{},\"{}\"]", seconds(at_ns), number(*value)),
        Value::Histogram(of) => format!("[{},{}]", seconds(at_ns), histogram(of)),
    }
}

fn envelope(kind: &str, result: &str, truncated: bool) -> Vec<u8> {
    let warnings = if truncated { ",\"warnings\":[\"results truncated due to limit\"]" } else { "" };
    let data = format!("{{\"resultType\":\"{kind}\",\"result\":{result}}}");
    format!("{{\"status\":\"success\",\"data\":{data}{warnings}}}").into_bytes()
}

fn too_large() -> QueryError {
    QueryError::execution(format!(
        "the answer has more than {MOST_POINTS} points or {} MiB; aggregate, or take a longer step",
        MOST_BYTES >> 20
    ))
}

fn twice(labels: &Labels) -> QueryError {
    QueryError::execution(format!(
        "vector cannot contain metrics with the same labelset: {} is there twice",
        labels.shown()
    ))
}

/// What a query is at one moment.
///
/// # Errors
/// When the answer would be too large, or a series would be there twice.
pub(super) fn instant(at_ns: i64, outcome: Outcome, most: Option<usize>) -> Result<Vec<u8>, QueryError> {
    let samples = match outcome {
        Outcome::Scalar(value) => {
            return Ok(envelope("scalar", &point(at_ns, &Value::Number(value)), false));
        }
        Outcome::Vector(samples) => samples,
    };
    let mut known = hashbrown::HashSet::new();
    if let Some(double) = samples.iter().find(|sample| !known.insert(&sample.labels)) {
        return Err(twice(&double.labels));
    }
    let shown = most.unwrap_or(usize::MAX).min(samples.len());
    let mut text = String::from("[");
    for (index, sample) in samples[..shown].iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let field = match sample.value {
            Value::Number(_) => "value",
            Value::Histogram(_) => "histogram",
        };
        let (metric, point) = (metric(&sample.labels), point(at_ns, &sample.value));
        let _ = write!(text, "{comma}{{\"metric\":{metric},\"{field}\":{point}}}");
        if text.len() > MOST_BYTES {
            return Err(too_large());
        }
    }
    text.push(']');
    Ok(envelope("vector", &text, shown < samples.len()))
}

/// One series of an answer, its points as text.
#[derive(Default)]
struct Line {
    last_ns: Option<i64>,
    values: String,
    histograms: String,
}

/// What a query is at many moments, in their order.
#[derive(Default)]
pub(super) struct Matrix {
    lines: HashMap<Labels, Line>,
    points: usize,
    bytes: usize,
}

impl Matrix {
    /// Adds what it is at a moment.
    ///
    /// # Errors
    /// As [`instant`].
    pub(super) fn add(&mut self, at_ns: i64, outcome: Outcome) -> Result<(), QueryError> {
        let samples = match outcome {
            Outcome::Scalar(value) => {
                vec![Sample { labels: Labels::default(), value: Value::Number(value) }]
            }
            Outcome::Vector(samples) => samples,
        };
        for Sample { labels, value } in samples {
            let text = point(at_ns, &value);
            self.points += 1;
            self.bytes += text.len();
            if self.points > MOST_POINTS || self.bytes > MOST_BYTES {
                return Err(too_large());
            }
            let line = self.lines.entry(labels.clone()).or_default();
            if line.last_ns.replace(at_ns) == Some(at_ns) {
                return Err(twice(&labels));
            }
            let list = match value {
                Value::Number(_) => &mut line.values,
                Value::Histogram(_) => &mut line.histograms,
            };
            if !list.is_empty() {
                list.push(',');
            }
            list.push_str(&text);
        }
        Ok(())
    }

    /// The answer, in the order of labels.
    pub(super) fn told(self, most: Option<usize>) -> Vec<u8> {
        let mut lines: Vec<(Labels, Line)> = self.lines.into_iter().collect();
        lines.sort_by(|one, other| one.0.cmp(&other.0));
        let shown = most.unwrap_or(usize::MAX).min(lines.len());
        let told = lines[..shown].iter().map(|(labels, line)| {
            let list = |name: &str, points: &str| {
                if points.is_empty() { String::new() } else { format!(",\"{name}\":[{points}]") }
            };
            let (values, histograms) = (list("values", &line.values), list("histograms", &line.histograms));
            format!("{{\"metric\":{}{values}{histograms}}}", metric(labels))
        });
        let told: Vec<String> = told.collect();
        envelope("matrix", &format!("[{}]", told.join(",")), shown < lines.len())
    }
}
