//! What an expression is at a moment.
//!
//! A window of the rollups counts in the moment of its end, and ranges are rounded up to whole base windows, so that a
//! range holds the same number of windows wherever it begins. A rate divides by the part of its range for which windows
//! are closed; nothing is extrapolated.

mod aggregate;
mod binary;
mod functions;

use std::sync::Arc;

use infertrace_analytics::rollup::WINDOW_MS;

use super::{
    Kind, QueryError,
    promql::{Expr, Function, Query, Selector},
    source::{self, Budget, Series, Span},
    value::{Histogram, Labels, Outcome, Sample, Value},
    window::Window,
};
use crate::insights::rollups::Rollups;

/// Length of the shortest windows.
pub(super) const BASE_NS: i64 = WINDOW_MS * 1_000_000;
/// Lengths of the windows that processors write, the longest first.
const LENGTHS_NS: [i64; 3] = [3_600 * SECOND_NS, 60 * SECOND_NS, BASE_NS];
const SECOND_NS: i64 = 1_000_000_000;
/// How old the newest reading of a gauge may be; Prometheus' default.
const LOOKBACK_NS: i64 = 300 * SECOND_NS;
/// Merged sketches that sliding windows may hold at once.
const MOST_SLIDING: usize = 20_000;

/// The moments of a query, nanoseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steps {
    pub(super) start_ns: i64,
    pub(super) step_ns: i64,
    pub(super) count: usize,
}

impl Steps {
    pub(super) fn at(self, index: usize) -> i64 {
        self.start_ns.saturating_add(self.step_ns.saturating_mul(index as i64))
    }

    pub(super) fn end_ns(self) -> i64 {
        self.at(self.count.saturating_sub(1))
    }
}

/// A series and its points.
struct Loaded {
    labels: Labels,
    /// What is left of them after a function.
    unnamed: Labels,
    kind: Kind,
    scale: f64,
    window: Window,
}

/// A query with the data of its selectors; moments are asked in order.
pub(super) struct Evaluator {
    query: Query,
    series: Vec<Vec<Loaded>>,
    /// Windows are closed until then.
    closed_ns: i64,
}

fn range_of(selector: &Selector) -> Option<i64> {
    let range_ns = selector.range_ns?;
    Some(range_ns.saturating_add(BASE_NS - 1) / BASE_NS * BASE_NS)
}

impl Evaluator {
    /// Reads what `query` needs for `steps`.
    ///
    /// # Errors
    /// When that is too much, or its time is over.
    pub(super) fn read(
        query: Query,
        rollups: &Rollups,
        steps: Steps,
        budget: &mut Budget,
    ) -> Result<Self, QueryError> {
        let held = rollups.held();
        let mut series = Vec::with_capacity(query.selectors.len());
        for selector in &query.selectors {
            let found = match held {
                Some((oldest_ns, _)) => {
                    let span = span(selector, steps, oldest_ns);
                    let found = source::read(rollups, selector, span, budget)?;
                    slides(selector, &found, steps, span)?;
                    found
                }
                None => Vec::new(),
            };
            let loaded = |one: Series| Loaded {
                unnamed: one.labels.without_name(),
                labels: one.labels,
                kind: one.kind,
                scale: one.scale,
                window: Window::new(one.points),
            };
            series.push(found.into_iter().map(loaded).collect());
        }
        Ok(Self { query, series, closed_ns: held.map_or(i64::MIN, |held| held.1) })
    }

    /// The value at a moment.
    ///
    /// # Errors
    /// When the data do not allow what is asked.
    pub(super) fn at(&mut self, at_ns: i64) -> Result<Outcome, QueryError> {
        let Self { query, series, closed_ns } = self;
        Moment { selectors: &query.selectors, series, closed_ns: *closed_ns, at_ns }.eval(&query.expr)
    }
}

/// The windows that a selector needs.
fn span(selector: &Selector, steps: Steps, oldest_ns: i64) -> Span {
    let shifted = |at_ns: i64| at_ns.saturating_sub(selector.offset_ns);
    let range_ns = range_of(selector);
    // Counters without a range are told since the oldest window; gauges are found within it too.
    let from_ns = range_ns.map_or(oldest_ns, |range_ns| shifted(steps.start_ns).saturating_sub(range_ns));
    let fits = |length: i64| {
        let is_whole = |nanos: i64| nanos % length == 0;
        let is_whole_step = steps.count <= 1 || is_whole(steps.step_ns);
        is_whole(shifted(steps.start_ns)) && is_whole_step && range_ns.is_none_or(is_whole)
    };
    let length_ns = LENGTHS_NS.into_iter().find(|length| fits(*length)).unwrap_or(BASE_NS);
    Span { from_ns: from_ns.max(oldest_ns.saturating_sub(1)), until_ns: shifted(steps.end_ns()), length_ns }
}

/// Refuses what would hold too many merged sketches.
fn slides(selector: &Selector, found: &[Series], steps: Steps, span: Span) -> Result<(), QueryError> {
    let Some(range_ns) = range_of(selector).filter(|_| steps.count > 1) else { return Ok(()) };
    let sketches = found.iter().filter(|series| matches!(series.points, source::Points::Sketches(_))).count();
    let held = (span.until_ns.saturating_sub(span.from_ns)).min(range_ns) / span.length_ns;
    if sketches.saturating_mul(held.max(0) as usize) > MOST_SLIDING {
        return Err(QueryError::too_much());
    }
    Ok(())
}

/// A moment of a query.
struct Moment<'a> {
    selectors: &'a [Selector],
    series: &'a mut [Vec<Loaded>],
    closed_ns: i64,
    at_ns: i64,
}

impl Moment<'_> {
    fn eval(&mut self, expr: &Expr) -> Result<Outcome, QueryError> {
        match expr {
            Expr::Number(number) => Ok(Outcome::Scalar(*number)),
            Expr::Selector(selector) => Ok(Outcome::Vector(self.now(*selector))),
            Expr::Over(function, selector, number) => {
                let number = number.as_deref().map(|number| self.scalar(number)).transpose()?;
                self.over(*function, *selector, number).map(Outcome::Vector)
            }
            Expr::Call(function, arguments) => self.call(*function, arguments),
            Expr::Aggregate(aggregate) => {
                let number = aggregate.number.as_ref().map(|number| self.scalar(number)).transpose()?;
                let samples = self.vector(&aggregate.of)?;
                aggregate::aggregate(aggregate, number, samples).map(Outcome::Vector)
            }
            Expr::Binary(binary) => {
                let (left, right) = (self.eval(&binary.left)?, self.eval(&binary.right)?);
                binary::binary(binary, left, right)
            }
            Expr::Negate(of) => Ok(match self.eval(of)? {
                Outcome::Scalar(number) => Outcome::Scalar(-number),
                Outcome::Vector(samples) => Outcome::Vector(functions::mapped(samples, |number| -number)),
            }),
        }
    }

    fn scalar(&mut self, expr: &Expr) -> Result<f64, QueryError> {
        Ok(match self.eval(expr)? {
            Outcome::Scalar(number) => number,
            // The parser lets none through.
            Outcome::Vector(_) => f64::NAN,
        })
    }

    fn vector(&mut self, expr: &Expr) -> Result<Vec<Sample>, QueryError> {
        Ok(match self.eval(expr)? {
            Outcome::Vector(samples) => samples,
            Outcome::Scalar(_) => Vec::new(),
        })
    }

    /// Counters and histograms since the oldest window that is held, the newest readings of gauges.
    fn now(&mut self, selector: usize) -> Vec<Sample> {
        let at_ns = self.at_ns.saturating_sub(self.selectors[selector].offset_ns);
        let mut samples = Vec::new();
        for series in &mut self.series[selector] {
            let value = match &mut series.window {
                Window::Numbers(numbers) => numbers.sum(i64::MIN, at_ns).map(Value::Number),
                Window::Sketches(sketches) if series.kind == Kind::Gauge => {
                    let newest = sketches.newest(at_ns.saturating_sub(LOOKBACK_NS), at_ns);
                    newest.and_then(|sketch| sketch.mean()).map(|mean| Value::Number(mean * series.scale))
                }
                Window::Sketches(sketches) => sketches.merged(i64::MIN, at_ns).map(|sketch| {
                    Value::Histogram(Histogram { sketch: Arc::new(sketch), scale: series.scale, weight: 1.0 })
                }),
            };
            samples.extend(value.map(|value| Sample { labels: series.labels.clone(), value }));
        }
        samples
    }

    fn over(
        &mut self,
        function: Function,
        selector: usize,
        number: Option<f64>,
    ) -> Result<Vec<Sample>, QueryError> {
        let asked = &self.selectors[selector];
        let until_ns = self.at_ns.saturating_sub(asked.offset_ns);
        let from_ns = until_ns.saturating_sub(range_of(asked).unwrap_or(BASE_NS));
        // Whole windows: those whose end lies in the range.
        let windows = until_ns.min(self.closed_ns).div_euclid(BASE_NS) - from_ns.div_euclid(BASE_NS);
        let closed_s = (windows * BASE_NS) as f64 / 1e9;
        let mut samples = Vec::new();
        for series in &mut self.series[selector] {
            let is_rate = matches!(function, Function::Rate | Function::Increase);
            if is_rate == (series.kind == Kind::Gauge) {
                return Err(QueryError::wrong_kind(function.name(), &series.labels, series.kind));
            }
            let weight = if function == Function::Rate { 1.0 / closed_s } else { 1.0 };
            let value = match &mut series.window {
                Window::Numbers(numbers) => {
                    numbers.sum(from_ns, until_ns).map(|sum| Value::Number(sum * weight))
                }
                Window::Sketches(sketches) => {
                    let merged = match function {
                        Function::LastOverTime => sketches.newest(from_ns, until_ns),
                        _ => sketches.merged(from_ns, until_ns),
                    };
                    merged.map(|sketch| {
                        let histogram = Histogram { sketch: Arc::new(sketch), scale: series.scale, weight };
                        if is_rate {
                            Value::Histogram(histogram)
                        } else {
                            Value::Number(functions::of_readings(function, &histogram, number))
                        }
                    })
                }
            };
            let keeps_name = function == Function::LastOverTime;
            let labels = if keeps_name { &series.labels } else { &series.unnamed };
            samples.extend(value.map(|value| Sample { labels: labels.clone(), value }));
        }
        Ok(samples)
    }
}

#[cfg(test)]
mod tests;
