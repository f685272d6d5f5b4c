//! A whole query over the spans of one trace.

use std::collections::BTreeMap;

use super::{Scalar, SpanSource, any, compare, matches};
use crate::{
    ast::{Aggregate, Function, Query, Spanset, SpansetOperator, Stage},
    field::Field,
};

/// The spans of one trace.
#[derive(Debug)]
pub struct Trace<'a, S> {
    spans: &'a [S],
    /// The position of each span's parent.
    parents: Vec<Option<usize>>,
}

/// Which spans of a trace, by position.
type Marks = Vec<bool>;

impl<'a, S: SpanSource> Trace<'a, S> {
    /// `parent(i)` is the position of the parent of `spans[i]`, `None` for a root and where the parent is missing.
    /// Parents may go round in circles, as those of broken senders do.
    #[must_use]
    pub fn new(spans: &'a [S], parent: impl Fn(usize) -> Option<usize>) -> Self {
        let parents = (0..spans.len()).map(|span| parent(span).filter(|&at| at < spans.len())).collect();
        Self { spans, parents }
    }

    /// The groups of spans that a query finds, as positions in ascending order: one group unless the query has
    /// `by`, none when the trace does not match.
    #[must_use]
    pub fn find(&self, query: &Query) -> Vec<Vec<usize>> {
        let marks = self.spanset(&query.spanset);
        let found: Vec<usize> = (0..marks.len()).filter(|&span| marks[span]).collect();
        let mut groups = if found.is_empty() { Vec::new() } else { vec![found] };
        for stage in &query.stages {
            match stage {
                Stage::Aggregate(aggregate) => groups.retain(|group| self.aggregate(aggregate, group)),
                Stage::By(field) => {
                    groups = groups.iter().flat_map(|group| self.split(field, group)).collect()
                }
                Stage::Select(_) => {}
            }
        }
        groups
    }

    fn spanset(&self, spanset: &Spanset) -> Marks {
        let (operator, left, right) = match spanset {
            Spanset::Filter(expression) => {
                return self.spans.iter().map(|span| matches(expression, span)).collect();
            }
            Spanset::Binary { operator, left, right } => (*operator, self.spanset(left), self.spanset(right)),
        };
        let parent_in = |marks: &Marks, span: usize| self.parents[span].is_some_and(|parent| marks[parent]);
        let keep = |is_kept: &dyn Fn(usize) -> bool| -> Marks {
            right.iter().enumerate().map(|(span, is_right)| *is_right && is_kept(span)).collect()
        };
        match operator {
            SpansetOperator::And if !left.contains(&true) || !right.contains(&true) => {
                vec![false; self.spans.len()]
            }
            SpansetOperator::And | SpansetOperator::Or => {
                left.iter().zip(&right).map(|(left, right)| *left || *right).collect()
            }
            SpansetOperator::Child => keep(&|span| parent_in(&left, span)),
            SpansetOperator::Descendant => {
                let below = self.below(&left);
                keep(&|span| below[span])
            }
            SpansetOperator::Parent => {
                let mut is_parent = vec![false; self.spans.len()];
                self.of(&left)
                    .filter_map(|span| self.parents[span])
                    .for_each(|parent| is_parent[parent] = true);
                keep(&|span| is_parent[span])
            }
            SpansetOperator::Ancestor => {
                let above = self.above(&left);
                keep(&|span| above[span])
            }
            SpansetOperator::Sibling => {
                let mut children = vec![0_usize; self.spans.len()];
                self.of(&left).filter_map(|span| self.parents[span]).for_each(|parent| children[parent] += 1);
                keep(&|span| {
                    self.parents[span].is_some_and(|parent| children[parent] > usize::from(left[span]))
                })
            }
        }
    }

    fn of<'m>(&self, marks: &'m Marks) -> impl Iterator<Item = usize> + 'm {
        marks.iter().enumerate().filter(|(_, is_marked)| **is_marked).map(|(span, _)| span)
    }

    /// Spans with an ancestor among those marked.
    fn below(&self, marks: &Marks) -> Marks {
        let mut known: Vec<Option<bool>> = vec![None; marks.len()];
        let mut path = Vec::new();
        for span in 0..marks.len() {
            let mut at = span;
            // The spans on the way up get the answer of where it ends; coming round again means there is none.
            let answer = loop {
                if let Some(answer) = known[at] {
                    break answer;
                }
                known[at] = Some(false);
                path.push(at);
                match self.parents[at] {
                    Some(parent) if marks[parent] => break true,
                    Some(parent) => at = parent,
                    None => break false,
                }
            };
            path.drain(..).for_each(|passed| known[passed] = Some(answer));
        }
        known.into_iter().map(|answer| answer == Some(true)).collect()
    }

    /// Spans that are an ancestor of one of those marked.
    fn above(&self, marks: &Marks) -> Marks {
        let mut above = vec![false; marks.len()];
        for span in self.of(marks) {
            let mut at = span;
            while let Some(parent) = self.parents[at] {
                if std::mem::replace(&mut above[parent], true) {
                    break;
                }
                at = parent;
            }
        }
        above
    }

    fn split(&self, field: &Field, group: &[usize]) -> Vec<Vec<usize>> {
        let mut groups: BTreeMap<Option<String>, Vec<usize>> = BTreeMap::new();
        for &span in group {
            let mut value = None;
            any(&self.spans[span], field, &mut |found| {
                value = Some(format!("{found:?}"));
                true
            });
            groups.entry(value).or_default().push(span);
        }
        groups.into_values().collect()
    }

    /// Numbers are taken as 64-bit floats; spans without one are left out, and without any nothing holds.
    fn aggregate(&self, aggregate: &Aggregate, group: &[usize]) -> bool {
        let Some(field) = aggregate.field() else {
            let count = Scalar::Integer(i64::try_from(group.len()).unwrap_or(i64::MAX));
            return compare(count, aggregate.operator(), aggregate.value());
        };
        let mut numbers: Vec<f64> = Vec::with_capacity(group.len());
        for &span in group {
            any(&self.spans[span], field, &mut |value| {
                match value {
                    Scalar::Integer(number) | Scalar::Duration(number) => numbers.push(number as f64),
                    Scalar::Float(number) => numbers.push(number),
                    _ => return false,
                }
                true
            });
        }
        let sum = || numbers.iter().sum::<f64>();
        let result = match aggregate.function() {
            _ if numbers.is_empty() => return false,
            Function::Count => numbers.len() as f64,
            Function::Sum => sum(),
            Function::Avg => sum() / numbers.len() as f64,
            Function::Min => numbers.iter().copied().fold(f64::INFINITY, f64::min),
            Function::Max => numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        };
        compare(Scalar::Float(result), aggregate.operator(), aggregate.value())
    }
}
