//! Series of what a selector takes, made of the rollups that are held.
//!
//! A window is a point at its end. Invariants: a moment of a series is in one point; a point of a counter is what was
//! counted in its window, not since the start; sketches stay packed until they are merged.

use std::{collections::BTreeSet, time::Instant};

use hashbrown::HashMap;

use super::{
    Kind, QueryError,
    metrics::{self, Metric, Source},
    promql::Selector,
    value::{Labels, NAME},
};
use crate::insights::rollups::{CellView, Packed, Rollups};

/// Series of one selector at most.
const MOST_SERIES: usize = 10_000;
/// Windows times series that a query reads at most.
pub(super) const MOST_POINTS: usize = 1_000_000;
/// Cells between two looks at the clock.
const CELLS_A_LOOK: usize = 4_096;

/// Which windows are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// Windows that end after, nanoseconds since 1970.
    pub(super) from_ns: i64,
    /// And not after.
    pub(super) until_ns: i64,
    /// Length of the windows that are preferred.
    pub(super) length_ns: i64,
}

/// Points by the end of their window, in order.
#[derive(Clone, Debug)]
pub(super) enum Points {
    /// In the metric's unit.
    Numbers(Vec<(i64, f64)>),
    Sketches(Vec<(i64, Packed)>),
}

#[derive(Debug)]
pub(super) struct Series {
    pub(super) labels: Labels,
    pub(super) kind: Kind,
    pub(super) scale: f64,
    pub(super) points: Points,
}

/// What a query may still read.
pub(super) struct Budget {
    pub(super) points: usize,
    pub(super) deadline: Instant,
}

impl Budget {
    pub(super) fn in_time(&self) -> Result<(), QueryError> {
        if Instant::now() < self.deadline { Ok(()) } else { Err(QueryError::timeout()) }
    }
}

/// Cells with equal ones belong to the same series.
type Identity<'a> = [&'a str; 6];

fn identity<'a>(cell: &CellView<'a>) -> Identity<'a> {
    [cell.model, cell.tenant(), cell.version(), cell.stage(), cell.service(), cell.device()]
}

/// The labels of a cell. A stage that only names the cell's shape is in the metric's name already.
fn pairs<'a>(metric: &'a Metric, cell: Identity<'a>) -> [(&'static str, &'a str); 7] {
    use infertrace_analytics::rollup::Shape;
    let [model, tenant, version, stage, service, device] = cell;
    let stage = if matches!(metric.shape, Shape::Spans | Shape::Stage) { stage } else { "" };
    [
        (NAME, &metric.name),
        ("device", device),
        ("model", model),
        ("service", service),
        ("stage", stage),
        ("tenant", tenant),
        ("version", version),
    ]
}

fn takes(selector: &Selector, pairs: &[(&'static str, &str); 7]) -> bool {
    let known = pairs.iter().all(|(name, value)| selector.takes(name, value));
    let is_known = |label: &str| pairs.iter().any(|(name, _)| *name == label);
    known && selector.matchers.iter().filter(|one| !is_known(&one.label)).all(|one| one.takes(""))
}

enum Point<'a> {
    Number(f64),
    Sketch(&'a Packed),
}

fn point<'a>(metric: &Metric, cell: &CellView<'a>) -> Option<Point<'a>> {
    match metric.source {
        Source::Counter(counter) => {
            let value = cell.counter(counter.name()).or(metric.is_told_as_zero.then_some(0))?;
            Some(Point::Number(value as f64 * metric.scale))
        }
        Source::Measure(measure) => cell.sketch(measure.name()).map(Point::Sketch),
        Source::CountOf(measure) => {
            cell.sketch(measure.name()).map(|packed| Point::Number(packed.count() as f64))
        }
        Source::SumOf(measure) => {
            cell.sketch(measure.name()).map(|packed| Point::Number(packed.sum() as f64 * metric.scale))
        }
    }
}

/// Calls `visit` with each point of the series that `selector` takes: the place of its series, and what makes one where it
/// is new.
fn points<'a>(
    rollups: &'a Rollups,
    selector: &Selector,
    span: Span,
    budget: &mut Budget,
    mut visit: impl FnMut(usize, Option<(&'static Metric, Labels)>, i64, Point<'a>),
) -> Result<(), QueryError> {
    let wanted: Vec<(usize, &'static Metric)> =
        metrics::ALL.iter().enumerate().filter(|(_, metric)| selector.takes(NAME, &metric.name)).collect();
    let mut places: HashMap<(usize, Identity<'a>), Option<usize>> = HashMap::new();
    let mut series = 0;
    let mut cells = 0usize;
    let mut refused = Ok(());
    let takes_model = |model: &str| selector.takes("model", model);
    rollups.cells(span.from_ns, span.until_ns, span.length_ns, takes_model, |cell| {
        cells += 1;
        if cells.is_multiple_of(CELLS_A_LOOK) {
            refused = budget.in_time();
        }
        let (shape, identity) = (cell.shape(), identity(&cell));
        for &(index, metric) in wanted.iter().filter(|(_, metric)| metric.shape == shape) {
            let Some(point) = point(metric, &cell) else { continue };
            let mut new = None;
            let place = *places.entry((index, identity)).or_insert_with(|| {
                let pairs = pairs(metric, identity);
                takes(selector, &pairs).then(|| {
                    new = Some((metric, Labels::new(pairs)));
                    series += 1;
                    series - 1
                })
            });
            let Some(place) = place else { continue };
            if series > MOST_SERIES || budget.points == 0 {
                refused = Err(QueryError::too_much());
                break;
            }
            budget.points -= 1;
            visit(place, new, cell.end_ns, point);
        }
        refused.is_ok()
    });
    refused
}

/// The series that `selector` takes, in the order of their labels.
///
/// # Errors
/// When there is more than a query may read, or its time is over.
pub(super) fn read(
    rollups: &Rollups,
    selector: &Selector,
    span: Span,
    budget: &mut Budget,
) -> Result<Vec<Series>, QueryError> {
    let mut all: Vec<Series> = Vec::new();
    points(rollups, selector, span, budget, |place, new, end_ns, point| {
        if let Some((metric, labels)) = new {
            let points = match metric.source {
                Source::Measure(_) => Points::Sketches(Vec::new()),
                _ => Points::Numbers(Vec::new()),
            };
            all.push(Series { labels, kind: metric.kind, scale: metric.scale, points });
        }
        match (&mut all[place].points, point) {
            (Points::Numbers(points), Point::Number(value)) => points.push((end_ns, value)),
            (Points::Sketches(points), Point::Sketch(packed)) => points.push((end_ns, packed.clone())),
            // A metric has one source.
            _ => {}
        }
    })?;
    for series in &mut all {
        match &mut series.points {
            Points::Numbers(points) => points.sort_by_key(|(end_ns, _)| *end_ns),
            Points::Sketches(points) => points.sort_by_key(|(end_ns, _)| *end_ns),
        }
    }
    all.sort_by(|one, other| one.labels.cmp(&other.labels));
    Ok(all)
}

/// The labels of the series that `selector` takes.
///
/// # Errors
/// As [`read`].
pub(super) fn labels(
    rollups: &Rollups,
    selector: &Selector,
    span: Span,
    budget: &mut Budget,
) -> Result<BTreeSet<Labels>, QueryError> {
    let mut all = BTreeSet::new();
    points(rollups, selector, span, budget, |_, new, _, _| {
        all.extend(new.map(|(_, labels)| labels));
    })?;
    Ok(all)
}
