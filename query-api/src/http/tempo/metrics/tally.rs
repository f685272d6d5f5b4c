//! What TraceQL's metrics count: series, of numbers by interval of time. Pure.

use std::collections::BTreeMap;

use infertrace_query_language::{Function, Measure, Value};
use serde_json::{Value as Json, json};

use crate::{
    http::tempo::any_value,
    search::{Metrics, engine::Hit},
    trace::MissingColumn,
};

/// Series of one answer at most, as in Tempo.
pub(super) const MOST_SERIES: usize = 1_000;
/// Points of a series at most; Prometheus' limit.
pub(super) const MOST_INTERVALS: i64 = 11_000;
const SECOND_NS: i64 = 1_000_000_000;

/// Intervals of time of one length, one after another; each without its start and with its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Intervals {
    pub(super) start_ns: i64,
    pub(super) step_ns: i64,
    pub(super) count: i64,
}

impl Intervals {
    /// Those that cover a range, aligned to the step; `None` for too many.
    pub(super) fn aligned(start_ns: i64, end_ns: i64, step_ns: i64) -> Option<Self> {
        let aligned = start_ns - start_ns % step_ns;
        let count = (end_ns - aligned).checked_add(step_ns - 1)? / step_ns;
        (count <= MOST_INTERVALS).then_some(Self { start_ns: aligned, step_ns, count })
    }

    pub(super) fn end_ns(&self) -> i64 {
        self.start_ns.saturating_add(self.step_ns.saturating_mul(self.count))
    }

    fn of(&self, time_ns: i64) -> Option<i64> {
        let is_within = time_ns > self.start_ns && time_ns <= self.end_ns();
        is_within.then(|| (time_ns - self.start_ns - 1) / self.step_ns)
    }

    /// The time of an interval's sample.
    fn millis(&self, interval: i64) -> i64 {
        (self.start_ns + (interval + 1) * self.step_ns) / 1_000_000
    }

    fn seconds(&self) -> f64 {
        self.step_ns as f64 / SECOND_NS as f64
    }
}

/// What is counted of one series in one interval.
#[derive(Debug, Default)]
struct Cell {
    spans: u64,
    sum: f64,
    min: f64,
    max: f64,
    /// For quantiles alone.
    numbers: Vec<f64>,
}

#[derive(Debug, Default)]
struct Series {
    labels: Vec<Json>,
    cells: BTreeMap<i64, Cell>,
}

/// Counts of every series.
#[derive(Debug)]
pub(super) struct Tally {
    metrics: Metrics,
    intervals: Intervals,
    series: BTreeMap<String, Series>,
    /// Traces looked at.
    pub(super) traces: usize,
    /// Spans counted.
    pub(super) spans: usize,
    /// Spans of series beyond the limit.
    pub(super) left_out: usize,
}

impl Tally {
    pub(super) fn new(metrics: Metrics, intervals: Intervals) -> Self {
        let mut tally =
            Self { metrics, intervals, series: BTreeMap::new(), traces: 0, spans: 0, left_out: 0 };
        // Nothing found is a series of zeros, unless series are made by what is found.
        if tally.metrics.by.is_empty() && matches!(tally.metrics.measure, Measure::Rate | Measure::Count) {
            let labels = tally.labels(&[], None);
            tally.series.insert(key_of(&[], None), Series { labels, cells: BTreeMap::new() });
        }
        tally
    }

    pub(super) fn add_page(&mut self, hits: &[Hit]) -> Result<(), MissingColumn> {
        for hit in hits {
            self.traces += 1;
            for found in self.metrics.query.found(&hit.trace, &hit.parts)?.into_iter().flatten() {
                let span = &hit.trace.spans[hit.trace.analysis.nodes[found.node].input as usize];
                self.add(span.start_ns, &found.values);
            }
        }
        Ok(())
    }

    /// Counts a span with its values for the fields that series differ by, and behind them the measured one.
    fn add(&mut self, start_ns: i64, values: &[Option<Value>]) {
        let Some(interval) = self.intervals.of(start_ns) else { return };
        let (by, measured) = values.split_at(self.metrics.by.len().min(values.len()));
        let number = measured.first().and_then(Option::as_ref).and_then(number_of);
        if self.metrics.measure.field().is_some() && number.is_none() {
            return;
        }
        let bucket = match (&self.metrics.measure, number) {
            (Measure::Histogram(_), Some(number)) => Some(bucket_of(number, measured)),
            _ => None,
        };
        let key = key_of(by, bucket);
        if !self.series.contains_key(&key) {
            if self.series.len() >= MOST_SERIES {
                self.left_out += 1;
                return;
            }
            let labels = self.labels(by, bucket);
            self.series.insert(key.clone(), Series { labels, cells: BTreeMap::new() });
        }
        self.spans += 1;
        let keeps_numbers = matches!(self.metrics.measure, Measure::Quantile(..));
        let Some(series) = self.series.get_mut(&key) else { return };
        let number = number.unwrap_or_default();
        let cell = series.cells.entry(interval).or_insert_with(|| Cell {
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            ..Cell::default()
        });
        cell.spans += 1;
        cell.sum += number;
        cell.min = cell.min.min(number);
        cell.max = cell.max.max(number);
        if keeps_numbers {
            cell.numbers.push(number);
        }
    }

    /// Tempo's labels: the fields by their names, or the function's where there are none.
    fn labels(&self, by: &[Option<Value>], bucket: Option<f64>) -> Vec<Json> {
        let nil = Value::Text("nil".to_owned());
        let mut labels: Vec<Json> = self
            .metrics
            .by
            .iter()
            .zip(by)
            .map(|(field, value)| label(&field.to_string(), value.as_ref().unwrap_or(&nil)))
            .collect();
        labels.extend(bucket.map(|bucket| label("__bucket", &Value::Float(bucket))));
        if labels.is_empty() && !matches!(self.metrics.measure, Measure::Quantile(..)) {
            labels.push(label("__name__", &Value::Text(self.metrics.measure.word().to_owned())));
        }
        labels
    }

    /// Each series' labels and its values by interval; intervals without spans are zero where spans are counted, absent
    /// otherwise.
    fn points(&self) -> Vec<(Vec<Json>, Vec<(i64, f64)>)> {
        let quantiles = match &self.metrics.measure {
            Measure::Quantile(_, quantiles) => quantiles.as_slice(),
            _ => &[],
        };
        let mut all = Vec::new();
        for series in self.series.values() {
            if quantiles.is_empty() {
                all.push((series.labels.clone(), self.measured(series)));
                continue;
            }
            let sorted = |(at, cell): (&i64, &Cell)| {
                let mut numbers = cell.numbers.clone();
                numbers.sort_by(f64::total_cmp);
                (*at, numbers)
            };
            let cells: Vec<(i64, Vec<f64>)> = series.cells.iter().map(sorted).collect();
            for &p in quantiles {
                let labels = series.labels.iter().cloned().chain([label("p", &Value::Float(p))]).collect();
                all.push((labels, cells.iter().map(|(at, numbers)| (*at, quantile(numbers, p))).collect()));
            }
        }
        all
    }

    fn measured(&self, series: &Series) -> Vec<(i64, f64)> {
        let spans = |at: i64| series.cells.get(&at).map_or(0.0, |cell| cell.spans as f64);
        let each =
            |value: fn(&Cell) -> f64| series.cells.iter().map(|(at, cell)| (*at, value(cell))).collect();
        match &self.metrics.measure {
            Measure::Rate => {
                (0..self.intervals.count).map(|at| (at, spans(at) / self.intervals.seconds())).collect()
            }
            Measure::Count => (0..self.intervals.count).map(|at| (at, spans(at))).collect(),
            Measure::Of(Function::Sum, _) => each(|cell| cell.sum),
            Measure::Of(Function::Avg, _) => each(|cell| cell.sum / cell.spans as f64),
            Measure::Of(Function::Min, _) => each(|cell| cell.min),
            Measure::Of(Function::Max, _) => each(|cell| cell.max),
            Measure::Of(Function::Count, _) | Measure::Histogram(_) | Measure::Quantile(..) => {
                each(|cell| cell.spans as f64)
            }
        }
    }

    /// `tempopb.TimeSeries`.
    pub(super) fn samples(&self) -> Vec<Json> {
        let series = self.points().into_iter().map(|(labels, points)| {
            let sample = |(at, value): (i64, f64)| {
                json!({"timestampMs": self.intervals.millis(at).to_string(), "value": value})
            };
            json!({"labels": labels, "samples": points.into_iter().map(sample).collect::<Vec<_>>()})
        });
        series.collect()
    }

    /// `tempopb.InstantSeries`.
    pub(super) fn values(&self) -> Vec<Json> {
        let series = self.points().into_iter();
        let series = series.filter_map(|(labels, points)| {
            points.first().map(|(_, value)| json!({"labels": labels, "value": value}))
        });
        series.collect()
    }
}

fn label(key: &str, value: &Value) -> Json {
    json!({"key": key, "value": any_value(value)})
}

fn key_of(by: &[Option<Value>], bucket: Option<f64>) -> String {
    format!("{by:?}{bucket:?}")
}

/// Durations in seconds.
fn number_of(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(number) => Some(*number as f64),
        Value::Float(number) => Some(*number),
        Value::Duration(nanos) => Some(*nanos as f64 / SECOND_NS as f64),
        _ => None,
    }
}

/// The least power of two that is no smaller; of durations in nanoseconds, told in seconds.
fn bucket_of(number: f64, measured: &[Option<Value>]) -> f64 {
    let is_duration = matches!(measured.first(), Some(Some(Value::Duration(_))));
    let unit = if is_duration { SECOND_NS as f64 } else { 1.0 };
    let scaled = number * unit;
    if scaled <= 0.0 { 0.0 } else { scaled.log2().ceil().exp2() / unit }
}

/// Of ascending numbers; interpolated between the two next to it.
fn quantile(sorted: &[f64], p: f64) -> f64 {
    let at = p * sorted.len().saturating_sub(1) as f64;
    let (below, above) = (sorted.get(at.floor() as usize), sorted.get(at.ceil() as usize));
    match (below, above) {
        (Some(below), Some(above)) => below + (above - below) * at.fract(),
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::TraceQuery;

    const SECONDS: Intervals = Intervals { start_ns: 10 * SECOND_NS, step_ns: 2 * SECOND_NS, count: 2 };

    fn tally(query: &str, spans: &[(i64, &[Option<Value>])]) -> Tally {
        let mut tally = Tally::new(TraceQuery::parse_metrics(query).expect("a query"), SECONDS);
        spans.iter().for_each(|(at, values)| tally.add(*at, values));
        tally
    }

    /// Scenario: a range that is not aligned, times at the edges. Guarantee: intervals are without their start and with
    /// their end; too many are refused.
    #[test]
    fn intervals_are_aligned() {
        assert_eq!(Intervals::aligned(11 * SECOND_NS, 13 * SECOND_NS, 2 * SECOND_NS), Some(SECONDS));
        let at = |seconds: i64| SECONDS.of(seconds * SECOND_NS);
        assert_eq!([at(10), at(12), at(14), at(15)], [None, Some(0), Some(1), None]);
        assert_eq!(SECONDS.of(12 * SECOND_NS + 1), Some(1));
        assert_eq!([SECONDS.millis(0), SECONDS.millis(1)], [12_000, 14_000]);
        assert_eq!(Intervals::aligned(0, 20_000 * SECOND_NS, SECOND_NS), None);
    }

    /// Scenario: no span, then three in one interval of two. Guarantee: rates are a second, an interval without spans
    /// is zero, the series is named by the function.
    #[test]
    fn spans_are_counted() {
        let none = tally("{ } | rate()", &[]).samples();
        assert_eq!(none[0]["samples"][1], json!({"timestampMs": "14000", "value": 0.0}));
        let at = 13 * SECOND_NS;
        let rate = tally("{ } | rate()", &[(at, &[]), (at, &[]), (at, &[])]);
        assert_eq!(
            rate.samples(),
            [json!({
                "labels": [{"key": "__name__", "value": {"stringValue": "rate"}}],
                "samples": [{"timestampMs": "12000", "value": 0.0}, {"timestampMs": "14000", "value": 1.5}],
            })]
        );
    }

    /// Scenario: durations of two services and of none, spans without a number. Guarantee: a series each, in seconds;
    /// spans without a number do not count.
    #[test]
    fn numbers_are_measured_by_field() {
        let text = |text: &str| Some(Value::Text(text.to_owned()));
        let millis = |millis: i64| Some(Value::Duration(millis * 1_000_000));
        let at = 11 * SECOND_NS;
        let rows = [
            [text("a"), millis(250)],
            [text("a"), millis(750)],
            [text("b"), millis(3_000)],
            [None, millis(5)],
            [text("c"), None],
        ];
        let spans: Vec<(i64, &[Option<Value>])> = rows.iter().map(|row| (at, row.as_slice())).collect();
        let values = |function: &str| -> Vec<(String, f64)> {
            let tally = tally(&format!("{{ }} | {function} by (resource.service.name)"), &spans);
            let one = |series: &Json| {
                let labels = series["labels"].as_array().expect("labels").iter();
                let labels = labels.map(|label| match &label["value"]["stringValue"] {
                    Json::String(text) => text.clone(),
                    _ => label["value"]["doubleValue"].to_string(),
                });
                (labels.collect::<Vec<_>>().join(" "), series["value"].as_f64().expect("a number"))
            };
            let mut all: Vec<_> = tally.values().iter().map(one).collect();
            all.sort_by(|a, b| a.0.cmp(&b.0));
            all
        };
        let pairs = |pairs: &[(&str, f64)]| -> Vec<(String, f64)> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
        };
        assert_eq!(values("max_over_time(duration)"), pairs(&[("a", 0.75), ("b", 3.0), ("nil", 0.005)]));
        assert_eq!(values("avg_over_time(duration)"), pairs(&[("a", 0.5), ("b", 3.0), ("nil", 0.005)]));
        assert_eq!(
            values("quantile_over_time(duration, 0.5)"),
            pairs(&[("a 0.5", 0.5), ("b 0.5", 3.0), ("nil 0.5", 0.005)])
        );
        let bucket = (1_u64 << 32) as f64 / SECOND_NS as f64;
        let histogram = values("histogram_over_time(duration)");
        assert!(histogram.contains(&(format!("b {bucket}"), 1.0)), "{histogram:?}");
    }

    /// Scenario: one series more than there may be. Guarantee: its spans are counted as left out.
    #[test]
    fn series_are_limited() {
        let mut tally = tally("{ } | rate() by (.user)", &[]);
        for user in 0..=MOST_SERIES {
            tally.add(11 * SECOND_NS, &[Some(Value::Integer(user as i64))]);
        }
        assert_eq!((tally.series.len(), tally.left_out), (MOST_SERIES, 1));
    }
}
